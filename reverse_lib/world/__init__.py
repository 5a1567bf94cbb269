"""world"""

from reverse_lib.world.atlas import SPLITS, World
from reverse_lib.world.gazetteer import twin_share
from reverse_lib.world.quality import engine_table
from reverse_lib.world.source import open_source
from reverse_lib.world.teacher import ScriptedJudge, ScriptedTeacher, in_words
