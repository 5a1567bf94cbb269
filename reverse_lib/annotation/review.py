"""Human review: what becomes of the decisions of one reviewer, or of two.

`reverse_lib.review_log` keeps what each reviewer decided and is re-exported here; `reverse_lib.review_panel` is where
they decide it, in a notebook.

    accepted = apply_review(trajectories, read_review("outputs/review_ann.jsonl"))
    merged = merge_reviews("outputs/review_ann.jsonl", "outputs/review_bob.jsonl")
    accepted = apply_review(trajectories, merged.decisions)
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from reverse_lib.annotation.labels import agreement
from reverse_lib.annotation.review_log import (
    VERDICTS,
    Decision,
    Key,
    ReviewLog,
    SearchLabels,
    check_labels,
    digest,
    known_labels,
    read_review,
    review_key,
    searches,
)
from reverse_lib.geo import box_iou
from reverse_lib.trajectory import TOOLS, Trajectory

__all__ = [
    "METHOD",
    "VERDICTS",
    "Decision",
    "Merged",
    "ReviewLog",
    "SearchLabels",
    "apply_review",
    "changed_photos",
    "digest",
    "review_key",
    "known_labels",
    "merge_reviews",
    "read_review",
    "searches",
]

METHOD = "review"  # `label_method` of a search whose results a person ticked
_COLUMNS = ("photo_id", "digest", "what", "where")


@dataclass(frozen=True)
class Merged:
    """What two reviewers make of the same trajectories.

    Attributes:
        decisions: Those they agree on; boxes are the means of the two.
        disagreements: A row a disagreement: photo_id, digest, what ("verdict", "result" or "box"), where ("turn 2,
            result 3", or the box), and under each reviewer's name what that one said.
        kappa: Cohen's kappa of the ticks of trajectories that both accepted; NaN where both always said one thing.
        ticks: Results that it is computed from.
    """

    decisions: list[Decision]
    disagreements: pd.DataFrame
    kappa: float
    ticks: int


def changed_photos(trajectories: Iterable[Trajectory], decisions: Iterable[Decision]) -> list[str]:
    """Photos decided on another trajectory than the one given now, which nobody has decided on yet; sorted."""
    given = {review_key(trajectory) for trajectory in trajectories}
    decided = {decision.key for decision in decisions}
    return sorted({photo_id for photo_id, _ in decided - given} & {photo_id for photo_id, _ in given - decided})


def apply_review(trajectories: Iterable[Trajectory], decisions: Iterable[Decision]) -> list[Trajectory]:
    """Accepted trajectories, labelled as reviewed.

    Args:
        trajectories: Those that were reviewed, or some of them; they stay as they are.
        decisions: Of `read_review` or `merge_reviews`.

    Returns:
        A copy of each accepted one: every reviewed result says whether it is useful, `label_method` is METHOD, regions
        are the boxes that were kept, evidence is what was ticked in text searches, `extra["review"]` says who and when.

    Raises:
        ValueError: A photo was decided on another trajectory than the one given, or labels are of no search of it.
    """
    rows, standing = list(trajectories), {decision.key: decision for decision in decisions}
    if changed := changed_photos(rows, standing.values()):
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ValueError(
            f"photo {', '.join(changed[:3])}{more}: the trajectory has changed since it was reviewed; review it again, "
            "or give the trajectories that were reviewed"
        )
    pairs = ((row, standing.get(review_key(row))) for row in rows)
    return [_reviewed(row, decision) for row, decision in pairs if decision and decision.verdict == "accept"]


def _reviewed(trajectory: Trajectory, decision: Decision) -> Trajectory:
    """A copy of a trajectory with the labels and boxes of a decision on it."""
    copy = Trajectory.from_dict(trajectory.to_dict())
    shown, trusted = set(), set()
    check_labels(copy, decision.labels)
    for labels in decision.labels:
        observation = copy.steps[labels.turn - 1].observation
        observation.labelled, observation.label_method = True, METHOD
        for position, result in enumerate(observation.results, start=1):
            result["useful"] = position in labels.useful
        if observation.tool == TOOLS[2]:
            shown |= {result.get("url") for result in observation.results}
            trusted |= {result.get("url") for result in observation.results if result["useful"]}
    copy.evidence = sorted((set(copy.evidence) - shown) | {url for url in trusted if url})
    copy.regions = [list(box) for box in decision.boxes.values()]
    copy.extra["review"] = {"reviewer": decision.reviewer, "time": decision.time, "note": decision.note}
    return copy


def merge_reviews(file_a: str | os.PathLike[str], file_b: str | os.PathLike[str], min_iou: float = 0.5) -> Merged:
    """Compares two reviewers' files.

    Results and boxes are compared where both accepted. Where one skipped or has not decided yet and the other has, the
    verdict is a disagreement; where neither has decided, there is nothing to list.

    Args:
        file_a: The first reviewer's.
        file_b: The second's.
        min_iou: Boxes that overlap this much are one.

    Raises:
        FileNotFoundError: One is missing.
        ValueError: One can't be read or holds no decision, or both are by the same reviewer.
    """
    both = [_one_reviewer(path) for path in (file_a, file_b)]
    (name_a, of_a), (name_b, of_b) = both
    if name_a == name_b:
        raise ValueError(f"{file_a} and {file_b} are both by {name_a!r}; compare two reviewers, or rename one")
    agreed, rows, ticks = [], [], ({}, {})
    for number, key in enumerate({**of_a, **of_b}):
        a, b = of_a.get(key), of_b.get(key)
        found, joint = _compare(a, b, min_iou)
        rows += [(*key, *row) for row in found]
        agreed += [joint] if joint else []
        if a and b and a.verdict == b.verdict == "accept":
            for flags, one in zip(ticks, (a, b), strict=True):
                flags |= {(number, labels.turn): _flags(labels) for labels in one.labels}
    quality = agreement(*ticks)
    return Merged(agreed, pd.DataFrame(rows, columns=[*_COLUMNS, name_a, name_b]), quality.kappa, quality.n)


def _compare(a: Decision | None, b: Decision | None, min_iou: float) -> tuple[list[tuple[str, ...]], Decision | None]:
    """How two decisions on one trajectory differ (what, where, what either says), and what they agree on."""
    said = [one.verdict if one else "undecided" for one in (a, b)]
    if said[0] != said[1]:
        return [] if {*said} == {"skip", "undecided"} else [("verdict", "", *said)], None
    if said[0] != "accept":
        return [], _joint(a, b, (), {}) if said[0] == "reject" else None
    means, alone = _match_boxes(list(a.boxes.values()), list(b.boxes.values()), min_iou)
    found = [("result", *row) for row in _other_ticks(a, b)] + [("box", *row) for row in alone]
    boxes = {f"region {i}": box for i, box in enumerate(means, start=1)}
    return found, None if found else _joint(a, b, a.labels, boxes)


def _one_reviewer(path: str | os.PathLike[str]) -> tuple[str, dict[Key, Decision]]:
    decisions = {decision.key: decision for decision in read_review(path)}
    names = sorted({decision.reviewer for decision in decisions.values()})
    if len(names) != 1:
        raise ValueError(f"{path}: decisions by {', '.join(names) or 'nobody'}; give a file with those of one reviewer")
    return names[0], decisions


def _flags(labels: SearchLabels) -> tuple[bool, ...]:
    """Whether each result of a search is ticked."""
    return tuple(i in labels.useful for i in range(1, labels.shown + 1))


def _other_ticks(a: Decision, b: Decision) -> list[tuple[str, str, str]]:
    """Each result that one ticked and the other did not: where it stands, and what either says of it."""
    other = {labels.turn: _flags(labels) for labels in b.labels}
    words = {True: "useful", False: "not useful"}
    return [
        (f"turn {labels.turn}, result {i}", words[x], words[y])
        for labels in a.labels
        for i, (x, y) in enumerate(zip(_flags(labels), other.get(labels.turn, _flags(labels)), strict=True), start=1)
        if x != y
    ]


def _match_boxes(
    a: Sequence[list[int]], b: Sequence[list[int]], min_iou: float
) -> tuple[list[list[int]], list[tuple[str, str, str]]]:
    """The means of boxes that pair up, and for each that does not: the box, and what either says of it."""
    overlaps = np.array([[box_iou(x, y) for y in b] for x in a]).reshape(len(a), len(b))  # (a, b)
    chosen = zip(*linear_sum_assignment(overlaps, maximize=True), strict=True)
    pairs = [(int(i), int(j)) for i, j in chosen if overlaps[i, j] >= min_iou]
    means = [[round((p + q) / 2) for p, q in zip(a[i], b[j], strict=True)] for i, j in pairs]
    only_a = [i for i in range(len(a)) if i not in {i for i, _ in pairs}]
    only_b = [j for j in range(len(b)) if j not in {j for _, j in pairs}]
    lone = [(str(a[i]), "this box", _nearest(overlaps[i])) for i in only_a]
    return means, lone + [(str(b[j]), _nearest(overlaps[:, j]), "this box") for j in only_b]


def _nearest(overlaps: np.ndarray) -> str:
    """What a reviewer without such a box has instead, by its IoU with each of theirs."""
    best = overlaps.max(initial=0.0)
    return f"none; nearest has IoU {best:.2f}" if best else "none"


def _joint(a: Decision, b: Decision, labels: Sequence[SearchLabels], boxes: dict[str, list[int]]) -> Decision:
    return dataclasses.replace(
        a,
        reviewer=f"{a.reviewer} + {b.reviewer}",
        time=max(a.time, b.time),
        labels=tuple(labels),
        boxes=boxes,
        note="; ".join(filter(None, (a.note, b.note))),
    )
