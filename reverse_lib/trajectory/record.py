"""The record of one rollout: what the model wrote, what each tool returned, and the truth about the photo.

Facts only; scores are computed from them by pure functions (`reverse_lib.reward`), so that a changed reward needs no
new rollout.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from reverse_lib.geo import Answer, haversine_km
from reverse_lib.trajectory.grammar import SEARCH_TOOLS, Turn, parse_turn

_CLOSED = {"extra": "forbid"}  # pydantic's settings: an unknown field is an error


@dataclass
class Observation:
    """The facts about one tool call, as the environment logged it."""

    __pydantic_config__ = _CLOSED
    tool: str
    arguments: dict[str, Any]  # as the model wrote them, valid or not; JSON types
    status: Literal["ok", "miss", "model_error", "service_error"]  # "miss": a search without results
    text: str = ""  # what the model was shown
    results: list[dict[str, Any]] = field(default_factory=list)  # as shown: title, url, source, snippet, useful
    labelled: bool = False  # True: results[i]["useful"] are labels; False: nobody knows
    match: float | None = None  # 0..1, box IoU or query similarity to the cached call
    repeated: bool = False  # the same tool with the same arguments earlier in this rollout
    label_method: str = ""  # how the labels were made: "declared", "cited", "judge", "world", "review"; "" if unsaid

    @property
    def useful(self) -> set[int]:
        """1-based positions of the results labelled useful."""
        return {position for position, result in enumerate(self.results, 1) if result.get("useful") == 1}

    @property
    def owes_labels(self) -> bool:
        """True for a search that reached its service: the next turn has to label its results, also when none came."""
        return self.tool in SEARCH_TOOLS and self.status in ("ok", "miss")


@dataclass
class Step:
    """What the model wrote in one turn, and what came back if it called a tool."""

    __pydantic_config__ = _CLOSED
    text: str
    observation: Observation | None = None


@dataclass
class Trajectory:
    """One rollout on one photo. Further facts, of JSON types, go into `extra` (`n_nudges`: reminders to a teacher)."""

    __pydantic_config__ = _CLOSED
    photo_id: str
    steps: list[Step] = field(default_factory=list)
    lat: float | None = None  # the truth, degrees; None when unknown, as for a user's own photo
    lon: float | None = None
    country: str = ""
    city: str = ""
    regions: list[list[int]] = field(default_factory=list)  # annotated informative regions, bbox_2d
    evidence: list[str] = field(default_factory=list)  # URLs known to be useful for the photo's text searches
    agent: str = ""  # who wrote it: "scripted-teacher" or a model's name
    end: str = ""  # "answered" | "format" (its last turn neither calls nor answers) | "budget" | "service_error"
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Turns tuples and arrays into lists, and an unknown coordinate into None, so that rows compare and save."""
        self.regions = [np.asarray(box).tolist() for box in self.regions]
        self.evidence = list(self.evidence)
        if self.lat is None or self.lon is None or not (math.isfinite(self.lat) and math.isfinite(self.lon)):
            self.lat = self.lon = None
        else:
            self.lat, self.lon = float(self.lat), float(self.lon)

    def turns(self) -> list[Turn]:
        """Reads every step's text; labels are owed in the turn that follows a search, and nowhere else."""
        before = [None, *(step.observation for step in self.steps)]
        return [
            parse_turn(step.text, after_search=observation is not None and observation.owes_labels)
            for step, observation in zip(self.steps, before, strict=False)
        ]

    @property
    def observations(self) -> list[Observation]:
        """What came back from the tool calls, in order."""
        return [step.observation for step in self.steps if step.observation is not None]

    @property
    def answer(self) -> Answer | None:
        """The last turn's answer; None when there is none, or when an earlier turn answered too."""
        answers = [turn.answer for turn in self.turns()]
        return None if not answers or any(answers[:-1]) else answers[-1]

    @property
    def km(self) -> float | None:
        """Kilometres from the answer to the truth; None when either is missing."""
        answer = self.answer
        if answer is None or self.lat is None or self.lon is None:
            return None
        return float(haversine_km(answer.lat, answer.lon, self.lat, self.lon))

    @property
    def service_failed(self) -> bool:
        """True where nothing can be said of the agent, since a service it needed failed."""
        return self.end == "service_error" or any(call.status == "service_error" for call in self.observations)

    @property
    def place(self) -> str:
        """What the true place is called, as far as that is known; else "the truth"."""
        return ", ".join(filter(None, (self.city, self.country))) or "the truth"

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as nested dictionaries and lists, a copy."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Trajectory:
        """Builds a trajectory from `to_dict`'s form.

        Raises:
            ValueError: if a field is missing, unknown, of the wrong type or out of range; names it and the value.
        """
        try:
            trajectory = _READER.validate_python(row)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the row"
            raise ValueError(f"{where}: {first['msg']}, not {first['input']!r:.80}") from error
        if trajectory.lat is not None and not (abs(trajectory.lat) <= 90 and abs(trajectory.lon) <= 180):
            raise ValueError(f"lat {trajectory.lat}, lon {trajectory.lon}: not degrees within ±90 and ±180")
        return trajectory


_READER = TypeAdapter(Trajectory)
