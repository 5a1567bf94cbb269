"""How good the engine is: what boxes around a photo's regions find, and what they should find.

world = World(seed=0, places=200)
for row in engine_table(world, world.photos("test-seen", 150)):
    print(row)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from reverse_lib.photos import crop
from reverse_lib.world.atlas import World, WorldPhoto
from reverse_lib.world.gazetteer import stream
from reverse_lib.world.pages import Page, names_in
from reverse_lib.world.scene import Mark

WHOLE = (0, 0, 1000, 1000)
FIRST = 5  # results that are looked at
LOOSE, SLOPPY = (-0.1, 0.1), (0.15, 0.5)  # how far a side lies outside the region, in its widths or heights


def engine_table(world: World, photos: Iterable[WorldPhoto]) -> list[dict[str, object]]:
    """What image search finds, by kind of region and of box.

    A loose box is off by up to 10 % a side, a sloppy one reaches 15 to 50 % too far on each. "right" is the share of
    boxes with a page about the photo's place among the first five, "useful" that with one which states a position
    too, "shown" the share with a page about what the box really shows: a place of the name that is written there, the
    place whose landmark it is, a shirt or restaurant of that country.

    Args:
        world: The world of the photos.
        photos: Photos of any split.

    Returns:
        A row for each kind of region and box, and one for whole photos: region, informative, box, photos, right,
        useful, shown (None for whole photos).
    """
    counts: Counter[tuple] = Counter()
    for photo in photos:
        picture = photo.load()
        rng = stream("quality", photo.photo_id)
        boxes: list[tuple[str, tuple[float, float], Mark | None]] = [("whole", (0, 0), None)]
        boxes += [(name, reach, mark) for mark in photo.marks for name, reach in (("loose", LOOSE), ("sloppy", SLOPPY))]
        for name, reach, mark in boxes:
            box = _reach(mark.bbox_2d, rng.uniform(*reach, 4)) if mark else WHOLE
            found = [hit.page for hit in world.engine.search_image(crop(picture, box), FIRST)]
            key = (mark.kind, mark.informative, name) if mark else ("photo", False, name)
            counts[*key, "photos"] += 1
            counts[*key, "right"] += any(page.place_id == photo.place.place_id for page in found)
            counts[*key, "useful"] += any(page.useful_for(photo.place) for page in found)
            counts[*key, "shown"] += mark is not None and shows(mark, photo, found)
    rows = []
    for region, informative, name in sorted({key[:3] for key in counts}, key=lambda key: (not key[1], *key[::2])):
        key = (region, informative, name)
        shares = {part: counts[*key, part] / counts[*key, "photos"] for part in ("right", "useful", "shown")}
        row = {"region": region, "informative": informative, "box": name, "photos": counts[*key, "photos"]}
        rows.append(row | shares | ({"shown": None} if region == "photo" else {}))
    return rows


def shows(mark: Mark, photo: WorldPhoto, pages: Sequence[Page]) -> bool:
    """Whether one of the pages is about what a region shows."""
    if mark.kind in ("jersey", "restaurant"):
        return any(page.kind == mark.kind and page.country == mark.country for page in pages)
    if mark.text:
        return any(mark.text in names_in(page.title) for page in pages)
    shown = photo.place.place_id if mark.informative else getattr(mark, "place_id", None)
    return any(page.place_id == shown for page in pages)


def _reach(bbox_2d: Sequence[float], reach: np.ndarray) -> list[float]:
    """A box with each side moved outwards by shares of its width or height, within the photo."""
    x1, y1, x2, y2 = bbox_2d
    width, height = x2 - x1, y2 - y1
    moved = (x1 - reach[0] * width, y1 - reach[1] * height, x2 + reach[2] * width, y2 + reach[3] * height)
    return [min(max(value, 0.0), 1000.0) for value in moved]
