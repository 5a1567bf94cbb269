"""Where it pays to look: the regions of a photo whose searches brought useful evidence.

The paper supervises "where to look" by annotated regions (IoU); this is where they come from when nobody draws them: a
box is credited with the evidence of the image search made with it, or of the text searches that followed a zoom into
it. Boxes that overlap are one region, and each region says how often it was tried and how often it paid.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from reverse_lib.geo import BoxError, as_box, box_iou
from reverse_lib.profiles import SAME_REGION_IOU
from reverse_lib.search import IMAGE, TEXT
from reverse_lib.trajectory import Trajectory

Tries = list[tuple[list[int], bool]]  # boxes that were searched with, and whether a useful result came


@dataclass(frozen=True)
class Region:
    """A part of a photo.

    Attributes:
        bbox_2d: [x1, y1, x2, y2] in 0..1000, the mean of the boxes that were merged.
        tried: Boxes that were followed by a search.
        paid: Of these, how many brought a useful result.
    """

    bbox_2d: tuple[int, int, int, int]
    tried: int
    paid: int


def useful_regions(trajectories: Iterable[Trajectory]) -> dict[str, list[Region]]:
    """Regions of each photo that paid off at least once, the most often paying first.

    Args:
        trajectories: Of any photos, with labelled searches.

    Returns:
        By photo id; a photo where nothing paid has none.

    Raises:
        ValueError: A search is not labelled, so nobody knows what was useful.
    """
    tries: dict[str, Tries] = defaultdict(list)
    for trajectory in trajectories:
        tries[trajectory.photo_id] += searched_boxes(trajectory)
    return {photo_id: _merged(boxes) for photo_id, boxes in tries.items()}


def searched_boxes(trajectory: Trajectory) -> Tries:
    """The boxes that a trajectory searched with; one searched several ways counts once."""
    tries: Tries = []
    looked_at: list[int] | None = None  # the box of the last zoom or image search
    is_new = True  # whether nothing was searched with that box yet
    for step in trajectory.steps:
        observation = step.observation
        if observation is None or observation.status not in ("ok", "miss"):
            continue
        searched = observation.tool in (IMAGE, TEXT)
        if searched and observation.status == "ok" and not observation.labelled:
            raise ValueError(f"photo {trajectory.photo_id}: a search without labels; label its results first")
        if observation.tool != TEXT:
            try:
                looked_at, is_new = as_box(observation.arguments.get("bbox_2d")), True
            except BoxError:
                continue
        if searched and looked_at is not None:
            paid = False if is_new else tries.pop()[1]
            tries.append((looked_at, paid or bool(observation.useful)))
            is_new = False
    return tries


def _merged(tries: Tries) -> list[Region]:
    """Each box joins the region whose mean box it overlaps most, if enough, else begins one."""
    groups: list[Tries] = []
    for box, paid in tries:
        overlaps = [box_iou(_mean(group), box) for group in groups]
        if overlaps and max(overlaps) >= SAME_REGION_IOU:
            groups[overlaps.index(max(overlaps))].append((box, paid))
        else:
            groups.append([(box, paid)])
    regions = [Region(_mean(group), len(group), sum(paid for _, paid in group)) for group in groups]
    return sorted((region for region in regions if region.paid), key=lambda region: -region.paid)


def _mean(group: Tries) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = (round(sum(edges) / len(group)) for edges in zip(*(box for box, _ in group), strict=True))
    return x1, y1, x2, y2
