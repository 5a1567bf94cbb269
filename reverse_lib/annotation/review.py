"""Human review: the file of a reviewer, and what becomes of the decisions of one reviewer, or of two.

Each decision is a line of JSON, appended and synced before anything else happens, and taking one back is a further
line, so nothing that was ever decided is lost (`trajectory.Journal`). A decision names its trajectory by photo and by a
digest of what the reviewer saw: one that was rolled out anew is undecided again. `show.ReviewPanel` is where people
decide, in a notebook.

    log = ReviewLog("outputs/review_ann.jsonl", "ann")
    log.decide(trajectory, "accept", {2: (False, True)}, {"region 1": [100, 200, 300, 400]})
    reviewed = apply_review(trajectories, read_review("outputs/review_ann.jsonl"))
    merged = merge_reviews("outputs/review_ann.jsonl", "outputs/review_bob.jsonl")
"""

import copy
import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from reverse_lib.annotation.labels import Flags, agreement, as_flags, searches, set_labels
from reverse_lib.geo import BoxError, as_box, box_iou
from reverse_lib.profiles import SAME_REGION_IOU
from reverse_lib.search import TEXT
from reverse_lib.trajectory import Journal, Trajectory

METHOD = "review"  # `label_method` of a search whose results a person ticked
VERDICTS = ("accept", "reject", "skip")
_UNDO = "undo"
_IDENTITY = ("title", "url", "source", "snippet")  # of a result; its label is not what it is
Key = tuple[str, str]  # photo_id, digest


@dataclass(frozen=True)
class Decision:
    """What one reviewer said about one trajectory.

    Attributes:
        photo_id: Of the trajectory.
        digest: Of the trajectory, see `review_key`.
        reviewer: Who.
        time: When, ISO 8601 in UTC.
        verdict: One of VERDICTS.
        labels: For each search with results, by its turn (from 1), which are useful.
        boxes: Regions that tell the place, bbox_2d by name ("region 1", "turn 2").
        note: Free text.
    """

    photo_id: str
    digest: str
    reviewer: str
    time: str
    verdict: str
    labels: dict[int, Flags] = field(default_factory=dict)
    boxes: dict[str, list[int]] = field(default_factory=dict)
    note: str = ""

    @property
    def key(self) -> Key:
        """Names the trajectory."""
        return self.photo_id, self.digest

    def to_dict(self) -> dict[str, Any]:
        """The line of the file: of a search its turn, how many results it showed, and 1-based places of useful ones."""
        labels = [
            {"turn": turn, "shown": len(flags), "useful": [i for i, useful in enumerate(flags, start=1) if useful]}
            for turn, flags in self.labels.items()
        ]
        return dataclasses.asdict(self) | {"labels": labels}


def review_key(trajectory: Trajectory) -> Key:
    """What a decision names a trajectory by: the photo, and sixteen hex digits of what a reviewer judges.

    That is the truth, what was written and what came back; not the labels.
    """
    judged = [trajectory.photo_id, trajectory.lat, trajectory.lon, trajectory.country, trajectory.city]
    for step in trajectory.steps:
        judged.append(step.text)
        if (observation := step.observation) is not None:
            results = [[result.get(name) for name in _IDENTITY] for result in observation.results]
            judged.append([observation.tool, observation.arguments, observation.status, observation.text, results])
    return trajectory.photo_id, hashlib.sha256(json.dumps(judged, sort_keys=True).encode()).hexdigest()[:16]


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
        self._standing = _standing(self._journal)
        if others := {row["reviewer"] for row in self._journal.rows} - {reviewer}:
            raise ValueError(
                f"{path}: holds decisions of {min(others)!r}, not {reviewer!r}; give each a file of their own"
            )

    @property
    def decisions(self) -> dict[Key, Decision]:
        """What stands, by trajectory, in the order it was decided."""
        return {decision.key: decision for decision in self._standing}

    def decide(
        self,
        trajectory: Trajectory,
        verdict: str,
        labels: Mapping[int, Flags] | None = None,
        boxes: dict[str, Sequence[int]] | None = None,
        note: str = "",
    ) -> Decision:
        """Records a decision; when this returns it is on disk. `Decision` tells what the arguments mean.

        Raises:
            ValueError: The verdict is unknown, or a label or box is impossible for this trajectory.
            OSError: It could not be written; nothing was recorded.
        """
        if verdict not in VERDICTS:
            raise ValueError(f"verdict {verdict!r}; choose one of {', '.join(VERDICTS)}")
        decision = Decision(
            *review_key(trajectory), self.reviewer, _now(), verdict, dict(labels or {}), _boxes(boxes or {}), note
        )
        _check_labels(trajectory, decision)
        self._journal.append(decision.to_dict())
        self._standing.append(decision)
        return decision

    def undo(self) -> Decision | None:
        """Takes back the last decision that stands, also one of an earlier session; returns it, None if there is none.

        Raises:
            OSError: It could not be written; the decision stands.
        """
        if not self._standing:
            return None
        self._journal.append(Decision(*self._standing[-1].key, self.reviewer, _now(), _UNDO).to_dict())
        return self._standing.pop()

    def progress(self, keys: Iterable[Key]) -> Counter[str]:
        """How many trajectories, named by `review_key`, have each verdict, and how many are "undecided"."""
        decisions = self.decisions
        return Counter(decisions[key].verdict if key in decisions else "undecided" for key in keys)


def read_review(path: str | os.PathLike[str]) -> list[Decision]:
    """What stands in a reviewer's file, one decision a trajectory; a last line that was cut short is set aside.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line can't be read; names it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file of decisions; check the name, or decide something first")
    return list({decision.key: decision for decision in _standing(Journal(path))}.values())


def _standing(journal: Journal) -> list[Decision]:
    """The decisions that nobody took back, in order; an undo takes back the last one on its trajectory."""
    standing: list[Decision] = []
    for number, row in enumerate(journal.rows, start=1):
        try:
            decision = _decision(row)
        except ValueError as error:
            raise ValueError(f"{journal.path}, row {number}: no decision ({error}); repair or delete it") from error
        if decision.verdict != _UNDO:
            standing.append(decision)
        elif places := [place for place, earlier in enumerate(standing) if earlier.key == decision.key]:
            del standing[places[-1]]
    return standing


def _decision(row: dict[str, Any]) -> Decision:
    """Builds a decision from its JSON form, every field checked."""
    row = {"labels": [], "boxes": {}, "note": ""} | row
    names = [item.name for item in dataclasses.fields(Decision)]
    types = dict.fromkeys(names, (str, "text")) | {"labels": (list, "a list"), "boxes": (dict, "an object")}
    for name in types | row:
        if name not in types:
            raise ValueError(f"unknown field {name!r}")
        if not isinstance(row.get(name), types[name][0]):
            raise ValueError(f"{name} is {row.get(name)!r:.80}, expected {types[name][1]}")
    if row["verdict"] not in (*VERDICTS, _UNDO):
        raise ValueError(f"verdict {row['verdict']!r}, expected one of {', '.join((*VERDICTS, _UNDO))}")
    return Decision(**row | {"labels": dict(map(_flags, row["labels"])), "boxes": _boxes(row["boxes"])})


def _flags(row: Any) -> tuple[int, Flags]:
    """The turn of a search, and which of its results are useful, from the JSON form."""
    try:
        turn, shown, useful = row["turn"], row["shown"], list(row["useful"])
        good = all(type(n) is int and n >= 1 for n in (turn, shown, *useful))
        good = good and useful == sorted({*useful} & {*range(1, shown + 1)})
    except (TypeError, KeyError):
        good = False
    if not good:
        raise ValueError(f"labels {row!r:.80}; give turn, shown and useful, positions in order from 1 to shown")
    return turn, as_flags(useful, shown)


def _boxes(boxes: Mapping[str, object]) -> dict[str, list[int]]:
    try:
        return {name: as_box(box) for name, box in boxes.items()}
    except BoxError as error:
        raise ValueError(f"boxes {boxes}: {error}") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _check_labels(trajectory: Trajectory, decision: Decision) -> None:
    """Makes sure that labels fit the searches of a trajectory; names the turn if they don't."""
    counts = {turn: len(search.results) for turn, search in searches(trajectory).items()}
    for turn, flags in decision.labels.items():
        if counts.get(turn) != len(flags):
            raise ValueError(
                f"photo {trajectory.photo_id}: labels of {len(flags)} results for turn {turn}, which brought "
                f"{counts.get(turn, 0)}; label each search as it was shown"
            )


def changed_photos(trajectories: Iterable[Trajectory], decisions: Iterable[Decision]) -> list[str]:
    """Photos decided on another trajectory than the one given now, which nobody has decided on yet; sorted."""
    given = {review_key(trajectory) for trajectory in trajectories}
    decided = {decision.key for decision in decisions}
    return sorted({photo_id for photo_id, _ in decided - given} & {photo_id for photo_id, _ in given - decided})


def apply_review(trajectories: Iterable[Trajectory], decisions: Iterable[Decision]) -> list[Trajectory]:
    """Trajectories as a review leaves them: accepted ones labelled as reviewed, rejected ones gone, others as they are.

    Args:
        trajectories: Those that were reviewed, or some of them; they are not changed.
        decisions: Of `read_review` or `merge_reviews`.

    Returns:
        Accepted ones are copies: every reviewed result says whether it is useful, `label_method` is METHOD, regions are
        the boxes that were kept, evidence is what was ticked in text searches, `extra["review"]` says who and when.

    Raises:
        ValueError: A photo was decided on another trajectory than the one given, or labels are of no search of it.
    """
    trajectories, by_key = list(trajectories), {decision.key: decision for decision in decisions}
    if changed := changed_photos(trajectories, by_key.values()):
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ValueError(
            f"photo {', '.join(changed[:3])}{more}: the trajectory has changed since it was reviewed; review it again, "
            "or give the trajectories that were reviewed"
        )
    rows = []
    for trajectory in trajectories:
        decision = by_key.get(review_key(trajectory))
        verdict = decision.verdict if decision else "skip"
        if verdict != "reject":
            rows.append(_reviewed(trajectory, decision) if verdict == "accept" else trajectory)
    return rows


def _reviewed(trajectory: Trajectory, decision: Decision) -> Trajectory:
    """A copy of a trajectory with the labels and boxes of a decision on it."""
    _check_labels(trajectory, decision)
    trajectory = copy.deepcopy(trajectory)
    reviewed = [trajectory.steps[turn - 1].observation for turn in decision.labels]
    shown = {result.get("url") for search in reviewed if search.tool == TEXT for result in search.results}
    trajectory.evidence = [url for url in trajectory.evidence if url not in shown]
    for turn, flags in decision.labels.items():
        set_labels(trajectory, turn, METHOD, flags)
    trajectory.regions = list(decision.boxes.values())
    trajectory.extra["review"] = {"reviewer": decision.reviewer, "time": decision.time, "note": decision.note}
    return trajectory


@dataclass(frozen=True)
class Merged:
    """What two reviewers make of the same trajectories.

    Attributes:
        decisions: Those they agree on; boxes are the means of the two.
        disagreements: A row a disagreement: photo_id, digest, what ("verdict", "result" or "box"), where ("turn 2,
            result 3", or the box), and under each reviewer's name what that one said.
        kappa: Cohen's kappa of the ticks of trajectories that both accepted; NaN where both always said one thing.
    """

    decisions: list[Decision]
    disagreements: pd.DataFrame
    kappa: float


def merge_reviews(file_a: str | os.PathLike[str], file_b: str | os.PathLike[str]) -> Merged:
    """Compares two reviewers' files.

    Results and boxes are compared where both accepted; boxes that overlap enough (`profiles.SAME_REGION_IOU`) are one.
    Where one skipped or has not decided yet and the other has, the verdict is a disagreement; where neither has
    decided, there is nothing to list.

    Args:
        file_a: The first reviewer's.
        file_b: The second's.

    Raises:
        FileNotFoundError: One is missing.
        ValueError: One can't be read or holds no decision, or both are by the same reviewer.
    """
    (name_a, of_a), (name_b, of_b) = (_one_reviewer(path) for path in (file_a, file_b))
    if name_a == name_b:
        raise ValueError(f"{file_a} and {file_b} are both by {name_a!r}; compare two reviewers, or rename one")
    agreed, rows, ticks_a, ticks_b = [], [], {}, {}
    for place, key in enumerate({**of_a, **of_b}):
        a, b = of_a.get(key), of_b.get(key)
        differences, joint = _compare(a, b)
        rows += [(*key, *difference) for difference in differences]
        agreed += [joint] if joint else []
        if a and b and a.verdict == b.verdict == "accept":
            ticks_a |= {(place, turn): flags for turn, flags in a.labels.items()}
            ticks_b |= {(place, turn): flags for turn, flags in b.labels.items()}
    disagreements = pd.DataFrame(rows, columns=["photo_id", "digest", "what", "where", name_a, name_b])
    return Merged(agreed, disagreements, agreement(ticks_a, ticks_b)["kappa"])


def _one_reviewer(path: str | os.PathLike[str]) -> tuple[str, dict[Key, Decision]]:
    decisions = {decision.key: decision for decision in read_review(path)}
    names = sorted({decision.reviewer for decision in decisions.values()})
    if len(names) != 1:
        raise ValueError(f"{path}: decisions by {', '.join(names) or 'nobody'}; give a file with those of one reviewer")
    return names[0], decisions


def _compare(a: Decision | None, b: Decision | None) -> tuple[list[tuple[str, ...]], Decision | None]:
    """How two decisions on one trajectory differ (what, where, what either says), and what they agree on."""
    verdict_a, verdict_b = (decision.verdict if decision else "undecided" for decision in (a, b))
    if verdict_a != verdict_b:
        is_open = {verdict_a, verdict_b} == {"skip", "undecided"}
        return [] if is_open else [("verdict", "", verdict_a, verdict_b)], None
    if verdict_a == "skip":
        return [], None
    joint = dataclasses.replace(
        a,
        reviewer=f"{a.reviewer} + {b.reviewer}",
        time=max(a.time, b.time),
        note="; ".join(filter(None, (a.note, b.note))),
    )
    if verdict_a == "reject":
        return [], dataclasses.replace(joint, labels={}, boxes={})
    words = {True: "useful", False: "not useful"}
    differences = [
        ("result", f"turn {turn}, result {i}", words[x], words[y])
        for turn, flags in a.labels.items()
        for i, (x, y) in enumerate(zip(flags, b.labels.get(turn, flags), strict=True), start=1)
        if x != y
    ]
    means, lone = _match_boxes(list(a.boxes.values()), list(b.boxes.values()))
    differences += [("box", *row) for row in lone]
    boxes = {f"region {i}": box for i, box in enumerate(means, start=1)}
    return differences, None if differences else dataclasses.replace(joint, boxes=boxes)


def _match_boxes(a: Sequence[list[int]], b: Sequence[list[int]]) -> tuple[list[list[int]], list[tuple[str, str, str]]]:
    """The means of boxes that pair up, and for each that does not: the box, and what either says of it."""
    overlaps = np.array([[box_iou(x, y) for y in b] for x in a]).reshape(len(a), len(b))  # (a, b)
    matched = zip(*linear_sum_assignment(overlaps, maximize=True), strict=True)
    pairs = {i: j for i, j in matched if overlaps[i, j] >= SAME_REGION_IOU}
    means = [[round((p + q) / 2) for p, q in zip(a[i], b[j], strict=True)] for i, j in pairs.items()]
    lone = [(str(box), "this box", _nearest(overlaps[i])) for i, box in enumerate(a) if i not in pairs]
    lone += [(str(box), _nearest(overlaps[:, j]), "this box") for j, box in enumerate(b) if j not in pairs.values()]
    return means, lone


def _nearest(overlaps: np.ndarray) -> str:
    """What a reviewer without such a box has instead, by its IoU with each of theirs."""
    best = overlaps.max(initial=0.0)
    return f"none; nearest has IoU {best:.2f}" if best else "none"
