"""Where it pays to look: the regions of a photo whose searches brought useful evidence.

The paper supervises "where to look" by annotated regions (IoU); this is where they come from when nobody draws them: a
box is credited with the evidence of the image search made with it, or of the text searches that followed a zoom into
it. Boxes that overlap are one region, and each region says how often it was tried and how often it paid.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from reverse_lib.geo import BoxError, as_box, box_iou
from reverse_lib.trajectory import TOOLS, Trajectory

ZOOM, IMAGE, TEXT = TOOLS


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


def searched_boxes(trajectory: Trajectory) -> list[tuple[list[int], bool]]:
    """Each box that was searched with, and whether a useful result came; one searched several ways counts once.

    Raises:
        ValueError: A search of the trajectory is not labelled, so nobody knows what was useful.
    """
    found: list[tuple[list[int], bool]] = []
    looking_at: int | None = None  # place in `found` of the zoom whose text searches come
    zoomed: list[int] | None = None
    for step in trajectory.steps:
        seen = step.observation
        if seen is None or seen.status not in ("ok", "miss"):
            continue
        if seen.tool in (IMAGE, TEXT) and seen.status == "ok" and not seen.labelled:
            raise ValueError(f"photo {trajectory.photo_id}: a search without labels; label its results first")
        if seen.tool == TEXT:
            if zoomed is None:
                continue
            if looking_at is None:
                looking_at = len(found)
                found.append((zoomed, False))
            found[looking_at] = (zoomed, found[looking_at][1] or bool(seen.useful))
            continue
        try:
            box = as_box(seen.arguments.get("bbox_2d"))
        except BoxError:
            continue
        zoomed, looking_at = box, None
        if seen.tool == IMAGE:
            looking_at = len(found)
            found.append((box, bool(seen.useful)))
    return found


def useful_regions(trajectories: Iterable[Trajectory], min_iou: float = 0.5) -> dict[str, list[Region]]:
    """Regions of each photo that paid off at least once, the most often paying first.

    Args:
        trajectories: Of any photos, with labelled searches.
        min_iou: Boxes that overlap a region's mean box this much belong to it.

    Returns:
        By photo id; a photo where nothing paid has none.

    Raises:
        ValueError: A search is not labelled.
    """
    boxes: dict[str, list[tuple[list[int], bool]]] = {}
    for trajectory in trajectories:
        boxes.setdefault(trajectory.photo_id, []).extend(searched_boxes(trajectory))
    return {photo_id: _merged(found, min_iou) for photo_id, found in boxes.items()}


def _merged(found: list[tuple[list[int], bool]], min_iou: float) -> list[Region]:
    groups: list[list[tuple[list[int], bool]]] = []
    for box, paid in found:
        overlaps = [box_iou(_mean(group), box) for group in groups]
        best = max(range(len(groups)), key=overlaps.__getitem__, default=None)
        if best is not None and overlaps[best] >= min_iou:
            groups[best].append((box, paid))
        else:
            groups.append([(box, paid)])
    regions = [Region(_mean(group), len(group), sum(paid for _, paid in group)) for group in groups]
    return sorted((region for region in regions if region.paid), key=lambda region: -region.paid)


def _mean(group: list[tuple[list[int], bool]]) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = (round(sum(edges) / len(group)) for edges in zip(*(box for box, _ in group), strict=True))
    return x1, y1, x2, y2
