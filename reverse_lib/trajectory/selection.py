"""Which trajectories are learned from, and which photo is drawn when: quality filters and the curriculum.

Differs from the paper's public code: filters count what they drop instead of dropping silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from reverse_lib.geo import BoxError, as_box
from reverse_lib.trajectory.record import Observation, Trajectory

EASY_KM, MEDIUM_KM = 25.0, 200.0  # limits of the curriculum, facts of the paper's data pipeline


MAX_NUDGES = 5  # reminders to follow the format, extra["n_nudges"], of a trajectory that is learned from
MAX_BOX_SHARE = 0.9  # 0..1, area of an image search's box over the photo's, of one that is learned from


def filter_trajectories(
    rows: Iterable[Trajectory], max_km: float = MEDIUM_KM
) -> tuple[list[Trajectory], dict[str, int]]:
    """Keeps the trajectories that pass every rule (paper: data pipeline).

    Args:
        rows: trajectories.
        max_km: largest error of the answer.

    Returns:
        The kept ones in their order, and the funnel: how many were left after each rule, in the order applied,
        beginning with `all`.
    """
    rules = {
        "all": lambda row: True,
        "answered": lambda row: row.answer is not None,
        f"within {max_km:g} km": lambda row: row.km is not None and row.km <= max_km,
        "at least 1 call": lambda row: row.observations,
        f"at most {MAX_NUDGES} nudges": lambda row: row.extra.get("n_nudges", 0) <= MAX_NUDGES,
        "no errors": lambda row: all(call.status in ("ok", "miss") for call in row.observations),
        "no full-image search": lambda row: all(_box_share(call) <= MAX_BOX_SHARE for call in row.observations),
    }
    kept, counts = list(rows), {}
    for name, passes in rules.items():
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


def _box_share(observation: Observation) -> float:
    """Returns the share of the photo that an image search's box covers, 0 for another tool or what is no box."""
    try:
        left, top, right, bottom = as_box(observation.arguments.get("bbox_2d"))
    except BoxError:
        return 0.0
    return (right - left) * (bottom - top) / 1e6 if observation.tool == "image_search_tool" else 0.0
