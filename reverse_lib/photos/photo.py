"""A photo and what is known about it, and cutting regions out of it; whole folders are in `benchmarks`.

`load_photo` comes from `decoding`: RGB, upright, without metadata, or a `PhotoError`.

    image = load_photo("holiday.heic")
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from reverse_lib.photos.decoding import PhotoError, load_photo

__all__ = ["Photo", "PhotoError", "crop", "load_photo", "to_pixels"]


@dataclass(frozen=True)
class Photo:
    """A photo and what is known about it.

    Attributes:
        photo_id: Name in caches and trajectories; never an absolute path.
        source: File, or the file's content; `None` where a subclass makes the picture.
        lat: True latitude in degrees, `None` when unknown.
        lon: True longitude in degrees, `None` when unknown.
        country: True country, "" when unknown.
        city: True city, "" when unknown.
        regions: Boxes [x1, y1, x2, y2] in 0..1000 of the parts that tell the place.
    """

    photo_id: str
    source: Path | bytes | None
    lat: float | None = None
    lon: float | None = None
    country: str = ""
    city: str = ""
    regions: tuple[tuple[int, int, int, int], ...] = ()

    def load(self) -> Image.Image:
        """Returns the picture: RGB, upright, without metadata.

        Raises:
            PhotoError: If there is no source or `load_photo` refuses it.
        """
        if self.source is None:
            raise PhotoError(f"photo {self.photo_id!r}: has no source; give it a file or bytes")
        return load_photo(self.source)


def to_pixels(bbox_2d: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """Turns a box in 0..1000 into the pixels it covers.

    Args:
        bbox_2d: [x1, y1, x2, y2] in 0..1000; corners may come in either order and are clipped to the picture.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.

    Returns:
        (left, top, right, bottom) with right and bottom exclusive, inside the picture and at least one pixel each way.

    Raises:
        ValueError: If the box isn't four finite numbers, or the picture has no pixels.
    """
    if width < 1 or height < 1:
        raise ValueError(f"picture of {width} x {height} pixels: has no pixels; give its real size")
    x1, y1, x2, y2 = _corners(bbox_2d)
    left, right = _span(x1, x2, width)
    top, bottom = _span(y1, y2, height)
    return left, top, right, bottom


def crop(image: Image.Image, bbox_2d: Sequence[float]) -> Image.Image:
    """Cuts a box out of a picture, at the picture's own resolution; arguments and errors as in `to_pixels`."""
    return image.crop(to_pixels(bbox_2d, *image.size))


def _corners(bbox_2d: Sequence[float]) -> list[float]:
    try:
        corners = [min(max(float(value), 0.0), 1000.0) if math.isfinite(value) else math.nan for value in bbox_2d]
    except (TypeError, ValueError, OverflowError):
        corners = []
    if len(corners) != 4 or any(map(math.isnan, corners)):
        raise ValueError(f"box {bbox_2d!r:.80}: not four finite numbers; give [x1, y1, x2, y2] in 0..1000")
    return corners


def _span(a: float, b: float, size_px: int) -> tuple[int, int]:
    first = min(math.floor(min(a, b) * size_px / 1000), size_px - 1)
    return first, max(math.ceil(max(a, b) * size_px / 1000), first + 1)
