"""The file of a reviewer: what one person decided about each trajectory, on disk at once.

Each decision is a line of JSON, appended and synced before anything else happens, and taking one back is a further
line, so nothing that was ever decided is lost (`reverse_lib.journal`). A decision names its trajectory by photo and by
a digest of what the reviewer saw: one that was rolled out anew is undecided again. Import these names from
`reverse_lib.review`, which applies and merges decisions.

    log = ReviewLog("outputs/review_ann.jsonl", "ann")
    log.decide(trajectory, "accept", [SearchLabels(turn=2, shown=6, useful=(3,))], {"region 1": [100, 200, 300, 400]})
"""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reverse_lib.geo import BoxError, as_box
from reverse_lib.trajectory import SEARCH_TOOLS, Journal, Observation, Trajectory

VERDICTS = ("accept", "reject", "skip")
_UNDO = "undo"
_IDENTITY = ("title", "url", "source", "snippet")  # of a result; its label is not what it is
Key = tuple[str, str]  # photo_id, digest


@dataclass(frozen=True)
class SearchLabels:
    """Which results of one search are useful: the turn that searched (from 1), how many were shown, 1-based places."""

    turn: int
    shown: int
    useful: tuple[int, ...] = ()


@dataclass(frozen=True)
class Decision:
    """What one reviewer said about one trajectory.

    Attributes:
        photo_id: Of the trajectory.
        digest: Of the trajectory, see `digest`.
        reviewer: Who.
        time: When, ISO 8601 in UTC.
        verdict: One of VERDICTS.
        labels: Of every search with results.
        boxes: Regions that tell the place, bbox_2d by name ("region 1", "turn 2").
        note: Free text.
    """

    photo_id: str
    digest: str
    reviewer: str
    time: str
    verdict: str
    labels: tuple[SearchLabels, ...] = ()
    boxes: dict[str, list[int]] = field(default_factory=dict)
    note: str = ""

    @property
    def key(self) -> Key:
        """Names the trajectory."""
        return self.photo_id, self.digest


def digest(trajectory: Trajectory) -> str:
    """Sixteen hex digits of what a reviewer judges: the truth, what was written, what came back; not the labels."""
    seen = [trajectory.photo_id, trajectory.lat, trajectory.lon, trajectory.country, trajectory.city]
    for step in trajectory.steps:
        seen.append(step.text)
        if (observation := step.observation) is not None:
            results = [[result.get(name) for name in _IDENTITY] for result in observation.results]
            seen.append([observation.tool, observation.arguments, observation.status, observation.text, results])
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:16]


def review_key(trajectory: Trajectory) -> Key:
    """What a decision names a trajectory by."""
    return trajectory.photo_id, digest(trajectory)


def searches(trajectory: Trajectory) -> dict[int, list[dict[str, Any]]]:
    """The results of each search that brought any, by the turn (from 1) that made it."""
    steps = enumerate(trajectory.steps, start=1)
    return {i: s.observation.results for i, s in steps if s.observation and _brought_results(s.observation)}


def known_labels(trajectory: Trajectory) -> list[SearchLabels]:
    """The labels that the results of a trajectory already carry; a result that nobody labelled is not useful yet."""
    useful = {turn: trajectory.steps[turn - 1].observation.useful for turn in searches(trajectory)}
    return [SearchLabels(turn, len(found), tuple(sorted(useful[turn]))) for turn, found in searches(trajectory).items()]


def check_labels(trajectory: Trajectory, labels: Iterable[SearchLabels]) -> None:
    """Makes sure that labels fit the searches of a trajectory.

    Raises:
        ValueError: A turn did not search, or brought another number of results; names it.
    """
    found = {turn: len(results) for turn, results in searches(trajectory).items()}
    for one in labels:
        if found.get(one.turn) != one.shown:
            raise ValueError(
                f"photo {trajectory.photo_id}: labels of {one.shown} results for turn {one.turn}, which brought "
                f"{found.get(one.turn, 0)}; label each search as it was shown"
            )


class ReviewLog:
    """One reviewer's decisions and the file that holds them.

    Args:
        path: A `.jsonl` file; made, with its folder, by the first decision.
        reviewer: Who decides.

    Attributes:
        path: The file.
        reviewer: Who decides.
        set_aside: What was done about a last line that a crash cut short; "" if there was none.

    Raises:
        ValueError: There is no reviewer, the file is another's or no `.jsonl`, or a line can't be read.
    """

    def __init__(self, path: str | os.PathLike[str], reviewer: str):
        if not reviewer.strip():
            raise ValueError("ReviewLog: reviewer is empty; say who decides, so that files can be merged")
        self._journal = Journal(path)
        self.path, self.reviewer, self.set_aside = self._journal.path, reviewer, self._journal.set_aside
        records = _records(self._journal)
        if others := {record.reviewer for record in records} - {reviewer}:
            raise ValueError(
                f"{path}: holds decisions of {min(others)!r}, not {reviewer!r}; give each a file of their own"
            )
        self._standing = _replay(records)

    @property
    def decisions(self) -> dict[Key, Decision]:
        """What stands, by trajectory, in the order it was decided."""
        return {decision.key: decision for decision in self._standing}

    def decide(
        self,
        trajectory: Trajectory,
        verdict: str,
        labels: Sequence[SearchLabels] = (),
        boxes: dict[str, Sequence[int]] | None = None,
        note: str = "",
    ) -> Decision:
        """Records a decision; when this returns it is on disk.

        Raises:
            ValueError: The verdict is unknown, or a label or box is impossible for this trajectory.
            OSError: It could not be written; nothing was recorded.
        """
        if verdict not in VERDICTS:
            raise ValueError(f"verdict {verdict!r}; choose one of {', '.join(VERDICTS)}")
        row = dict(zip(("photo_id", "digest"), review_key(trajectory), strict=True)) | {"verdict": verdict}
        row |= {"labels": [dataclasses.asdict(one) for one in labels], "boxes": dict(boxes or {}), "note": note}
        decision = self._checked(row)
        check_labels(trajectory, decision.labels)
        self._journal.append(dataclasses.asdict(decision))
        self._standing.append(decision)
        return decision

    def undo(self) -> Decision | None:
        """Takes back the last decision that stands, also one of an earlier session; returns it, None if there is none.

        Raises:
            OSError: It could not be written; the decision stands.
        """
        if not self._standing:
            return None
        last = self._standing[-1]
        taken_back = self._checked({"photo_id": last.photo_id, "digest": last.digest, "verdict": _UNDO})
        self._journal.append(dataclasses.asdict(taken_back))
        return self._standing.pop()

    def progress(self, keys: Iterable[Key]) -> Counter[str]:
        """How many trajectories, named by `review_key`, have each verdict, and how many are "undecided"."""
        standing = self.decisions
        found = (standing.get(key) for key in keys)
        return Counter(decision.verdict if decision else "undecided" for decision in found)

    def _checked(self, row: dict[str, Any]) -> Decision:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return _decision(row | {"reviewer": self.reviewer, "time": now})


def read_review(path: str | os.PathLike[str]) -> list[Decision]:
    """What stands in a reviewer's file, one decision a trajectory; a last line that was cut short is set aside.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line can't be read; names it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file of decisions; check the name, or decide something first")
    return list({decision.key: decision for decision in _replay(_records(Journal(path)))}.values())


def _brought_results(observation: Observation) -> bool:
    return observation.tool in SEARCH_TOOLS and observation.status == "ok" and bool(observation.results)


def _replay(records: Iterable[Decision]) -> list[Decision]:
    """The decisions that nobody took back, in order; an undo takes back the last one on its trajectory."""
    standing: list[Decision] = []
    for record in records:
        if record.verdict != _UNDO:
            standing.append(record)
            continue
        place = next((i for i in reversed(range(len(standing))) if standing[i].key == record.key), None)
        if place is not None:
            del standing[place]
    return standing


def _records(journal: Journal) -> list[Decision]:
    """Every row as a decision or an undo."""
    records = []
    for number, row in enumerate(journal.rows, start=1):
        try:
            records.append(_decision(row))
        except ValueError as error:
            raise ValueError(f"{journal.path}, row {number}: no decision ({error}); repair or delete it") from error
    return records


def _decision(row: dict[str, Any]) -> Decision:
    """Builds a decision from its JSON form, every field checked."""
    names = {item.name for item in dataclasses.fields(Decision)}
    if unknown := sorted(set(row) - names):
        raise ValueError(f"unknown field {unknown[0]!r}")
    for name in ("photo_id", "digest", "reviewer", "time", "verdict", "note"):
        if not isinstance(row.get(name, "" if name == "note" else None), str):
            raise ValueError(f"{name} is {row.get(name)!r:.80}, expected text")
    if row["verdict"] not in (*VERDICTS, _UNDO):
        raise ValueError(f"verdict {row['verdict']!r}, expected one of {', '.join((*VERDICTS, _UNDO))}")
    labels, boxes = row.get("labels", []), row.get("boxes", {})
    if not isinstance(labels, list | tuple) or not isinstance(boxes, dict):
        raise ValueError("labels must be a list and boxes an object")
    try:
        checked = {name: as_box(box) for name, box in boxes.items()}
    except BoxError as error:
        raise ValueError(f"boxes {boxes}: {error}") from error
    return Decision(**{**row, "labels": tuple(_search_labels(one) for one in labels), "boxes": checked})


def _search_labels(row: Any) -> SearchLabels:
    try:
        turn, shown, useful = row["turn"], row["shown"], list(row["useful"])
        numbers = [turn, shown, *useful]
        good = all(type(n) is int and n >= 1 for n in numbers) and useful == sorted({*useful} & {*range(1, shown + 1)})
    except (TypeError, KeyError):
        good = False
    if not good:
        raise ValueError(f"labels {row!r:.80}; give turn, shown and useful, positions in order from 1 to shown")
    return SearchLabels(turn, shown, tuple(useful))
