"""Which trajectories are learned from, and which photo is drawn when: quality filters and the curriculum.

Differs from the paper's public code: filters count what they drop instead of dropping silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reverse_lib.geo import BoxError, as_box
from reverse_lib.trajectory.record import Observation, Trajectory

EASY_KM, MEDIUM_KM = 25.0, 200.0  # limits of the curriculum, facts of the paper's data pipeline


@dataclass(frozen=True)
class FilterRules:
    """What a teacher's trajectory must keep to be learned from. None switches a rule off."""

    max_km: float | None = 200.0  # error of the answer
    min_calls: int = 1  # tool calls
    max_nudges: int | None = 5  # reminders to follow the format, extra["n_nudges"]
    allow_errors: bool = False  # tool calls that failed, by the model's or the service's fault
    max_full_image_share: float | None = 0.9  # 0..1, area of an image search's box over the photo's


def filter_trajectories(
    rows: Iterable[Trajectory], rules: FilterRules | None = None
) -> tuple[list[Trajectory], dict[str, int]]:
    """Keeps the trajectories that pass every rule (paper: data pipeline).

    Args:
        rows: trajectories.
        rules: limits; the paper's when None.

    Returns:
        The kept ones in their order, and the funnel: how many were left after each rule, in the order applied,
        beginning with `all`.
    """
    kept = list(rows)
    counts = {"all": len(kept)}
    for name, passes in _stages(rules or FilterRules()):
        kept = [row for row in kept if passes(row)]
        counts[name] = len(kept)
    return kept, counts


def curriculum(trajectory: Trajectory) -> str:
    """Names how hard the photo was for who answered: `easy` (≤ 25 km), `medium` (≤ 200 km), `hard`, or `unknown`."""
    km = trajectory.km
    if km is None:
        return "unknown"
    return "easy" if km <= EASY_KM else "medium" if km <= MEDIUM_KM else "hard"


def curriculum_order(levels: Sequence[str], draws: int, easy_share: float, seed: int) -> list[int]:
    """Says which photo is drawn when: first the easy ones alone, then all of them.

    Args:
        levels: How hard each photo is, in the words of `curriculum`.
        draws: Photos to draw.
        easy_share: Of the draws that are made from the easy photos, where there are any.
        seed: Of the order.

    Returns:
        Indices into `levels`; within a phase no photo comes again before every other had its turn.
    """
    generator = np.random.default_rng(seed)
    easy = [i for i, level in enumerate(levels) if level == "easy"]
    order: list[int] = []
    first = round(draws * easy_share) if easy else 0
    for pool, until in ((easy, first), (range(len(levels)), draws)):
        while len(order) < until:
            order += generator.permutation(pool).tolist()[: until - len(order)]
    return order


def _stages(rules: FilterRules) -> Iterator[tuple[str, Callable[[Trajectory], bool]]]:
    """Yields the name and the test of each rule that is switched on."""
    yield "answered", lambda row: row.answer is not None
    if rules.max_km is not None:
        yield f"within {rules.max_km:g} km", lambda row: row.km is not None and row.km <= rules.max_km
    if rules.min_calls > 0:
        name = f"at least {rules.min_calls} call" + "s" * (rules.min_calls > 1)
        yield name, lambda row: len(row.observations) >= rules.min_calls
    if rules.max_nudges is not None:
        yield f"at most {rules.max_nudges} nudges", lambda row: row.extra.get("n_nudges", 0) <= rules.max_nudges
    if not rules.allow_errors:
        yield "no errors", lambda row: all(call.status in ("ok", "miss") for call in row.observations)
    if rules.max_full_image_share is not None:
        yield (
            "no full-image search",
            lambda row: all(_box_share(call) <= rules.max_full_image_share for call in row.observations),
        )


def _box_share(observation: Observation) -> float:
    """Returns the share of the photo that an image search's box covers, 0 for another tool or what is no box."""
    try:
        left, top, right, bottom = as_box(observation.arguments.get("bbox_2d"))
    except BoxError:
        return 0.0
    return (right - left) * (bottom - top) / 1e6 if observation.tool == "image_search_tool" else 0.0
