"""The laboratory: a miniature world of real cities, drawn photos and a small web, where every truth is known.

World             places, photos of four splits, a search engine (`live`), all functions of a seed
SPLITS            their names: train, val, test-seen, test-new
twin_share        share of places whose name another country's place bears too
engine_table      what image search finds, by kind of region and of box
ScriptedTeacher   an agent that knows the truth and errs on purpose
ScriptedJudge     labels results, erring on purpose
in_words          the teacher's shorthand written out for people
open_source       a notebook's photos, teacher and searches: the world's, or a user's own

How the tiny base model is made lies in `world.base`, which needs torch and has a door of its own.
"""

from reverse_lib.world.atlas import SPLITS, World
from reverse_lib.world.engine import engine_table
from reverse_lib.world.places import twin_share
from reverse_lib.world.source import open_source
from reverse_lib.world.teacher import ScriptedJudge, ScriptedTeacher, in_words
