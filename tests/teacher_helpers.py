"""A teacher without errors, searches that find nothing or fail, and patterns for what the teacher says."""

import dataclasses
import re

from reverse_lib.trajectory import TOOLS
from reverse_lib.world import ScriptedTeacher
from reverse_lib.world.teacher import WORDINGS

ZOOM, IMAGE, TEXT = TOOLS
FAULTLESS = {field.name: 0.0 for field in dataclasses.fields(ScriptedTeacher) if isinstance(field.default, float)}


class Searches:
    """Finds nothing, or fails with the error it is given."""

    def __init__(self, error=None):
        self.error = error

    def text(self, *_, **__):
        if self.error:
            raise self.error

    image = text

    def evidence(self, photo_id):
        return []


def informative(photo):
    """The region that tells the place, None where there is none."""
    return next((mark for mark in photo.marks if mark.informative), None)


def calls_of(trajectory):
    """Its tool calls, in order."""
    return [turn.tool_call for turn in trajectory.turns() if turn.tool_call]


def one_of(phrase, **parts):
    """A pattern for a phrase in any wording; its parts are patterns themselves."""
    patterns = []
    for wording in WORDINGS[phrase]:
        pattern = re.escape(wording.format(**{key: f"@{key}@" for key in "cknipt"}))
        for key, part in parts.items():
            pattern = pattern.replace(f"@{key}@", part)
        patterns.append(pattern)
    return f"(?:{'|'.join(patterns)})"
