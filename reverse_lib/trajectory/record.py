"""The record of one rollout: what the model wrote, what each tool returned, and the truth about the photo.

Facts only; scores are computed from them by pure functions (`reverse_lib.reward`), so that a changed reward needs no
new rollout.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from reverse_lib.geo import Answer, haversine_km
from reverse_lib.trajectory.grammar import SEARCH_TOOLS, Turn, parse_turn

STATUSES = ("ok", "miss", "model_error", "service_error")
_NUMBER = (int, float, type(None))
_TYPES: dict[str, tuple[type, ...]] = {  # of a field, by its annotation
    "str": (str,),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
    "float | None": _NUMBER,
    "Observation | None": (dict, type(None)),
}


@dataclass
class Observation:
    """The facts about one tool call, as the environment logged it."""

    tool: str
    arguments: dict[str, Any]  # as the model wrote them, valid or not; JSON types
    status: str  # one of STATUSES; "miss": a search without results
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

    text: str
    observation: Observation | None = None


@dataclass
class Trajectory:
    """One rollout on one photo. Further facts, of JSON types, go into `extra` (`n_nudges`: reminders to a teacher)."""

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
        self.regions = [list(box) for box in self.regions]
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
            ValueError: if a field is missing, unknown or of the wrong type; names the field and the value.
        """
        row = _fields(cls, row, "trajectory")
        for name, limit in (("lat", 90), ("lon", 180)):
            value = row.get(name)
            if value is not None and abs(value) > limit:
                raise ValueError(f"trajectory has {name} {value}, expected degrees within ±{limit}")
        for name, wanted in (("regions", list), ("evidence", str)):
            odd = [value for value in row.get(name, ()) if not isinstance(value, wanted)]
            if odd:
                raise ValueError(f"trajectory has {odd[0]!r:.80} among its {name}, expected {wanted.__name__}")
        steps = []
        for number, step in enumerate(row.get("steps", ()), 1):
            step = _fields(Step, step, f"step {number}")
            observation = step.get("observation")
            if observation is not None:
                observation = _observation(observation, f"the observation of step {number}")
            steps.append(Step(step["text"], observation))
        return cls(**{**row, "steps": steps})


def _observation(row: Any, name: str) -> Observation:
    """Builds an observation from its dictionary, with what the annotations can't say checked as well."""
    observation = Observation(**_fields(Observation, row, name))
    if observation.status not in STATUSES:
        raise ValueError(f"{name} has the status {observation.status!r}, expected one of {', '.join(STATUSES)}")
    for position, result in enumerate(observation.results, 1):
        if not isinstance(result, dict):
            raise ValueError(f"{name} has {type(result).__name__} as result {position}, expected an object")
    return observation


def _fields(cls: type, row: Any, name: str) -> dict[str, Any]:
    """Checks a record's keys and types against a dataclass and returns a copy."""
    if not isinstance(row, dict):
        raise ValueError(f"{name} is {type(row).__name__}, expected an object")
    fields = {item.name: item for item in dataclasses.fields(cls)}
    for key, value in row.items():
        if key not in fields:
            raise ValueError(f"{name} has the unknown field {key!r}")
        wanted = _TYPES[fields[key].type.split("[")[0]]
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise ValueError(f"{name} has {type(value).__name__} as {key!r}, expected {fields[key].type}")
    for key, item in fields.items():
        if key not in row and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ValueError(f"{name} has no {key!r}")
    return dict(row)
