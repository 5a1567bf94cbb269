"""Anti-aliased drawing into an array of pixels, light and haze, and dice that are cheap to throw.

Shapes are rounded to a sixteenth of a pixel before OpenCV fills them in integer arithmetic, so that a picture has the
same bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]] | np.ndarray  # (n, 2) px, x before y
SUBPIXEL_BITS = 4
# Sixteen directions of a circle, in 1/1024: no trigonometry at run time, so no rounding that differs by machine.
_CIRCLE = ((1024, 0), (946, 392), (724, 724), (392, 946), (0, 1024), (-392, 946), (-724, 724), (-946, 392))
CIRCLE = np.array([*_CIRCLE, *((-x, -y) for x, y in _CIRCLE)]) / 1024  # (16, 2)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Colour `a` with a `share` (0..1) of colour `b`."""
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )


class Dice:
    """The three draws of a NumPy generator that drawing needs, ten times as fast: it draws in blocks."""

    def __init__(self, rng: np.random.Generator) -> None:
        """`rng` is where every number comes from."""
        self._rng = rng
        self._pool: list[float] = []

    def random(self) -> float:
        """A number in 0..1."""
        if not self._pool:
            self._pool = self._rng.random(256).tolist()
        return self._pool.pop()

    def uniform(self, low: float, high: float) -> float:
        """A number between two others."""
        return low + (high - low) * self.random()

    def integers(self, low: int, high: int | None = None) -> int:
        """An integer from `low` to `high` - 1, or from 0 to `low` - 1."""
        if high is None:
            low, high = 0, low
        return low + int((high - low) * self.random())

    def permutation(self, n: int) -> list[int]:
        """The numbers 0..n-1 in some order."""
        return self._rng.permutation(n).tolist()


@dataclass(frozen=True)
class Light:
    """How the hour and the weather colour things.

    Attributes:
        factors: What red, green and blue are multiplied by.
        haze: Colour of what is far away, as it appears.
        sight_m: Distance at which half of a thing's own colour is lost.
        panel: Like `factors`, for what people light up or paint bright: boards, posters, clothes, facades.
        lit: Share of windows with light in them.
        dark: Whether lamps are on.
    """

    factors: tuple[float, float, float]
    haze: Colour
    sight_m: float
    panel: tuple[float, float, float]
    lit: float = 0.0
    dark: bool = False

    def tone(self, colour: Colour, z_m: float = 0.0) -> Colour:
        """A colour as it looks in this light from `z_m` metres away."""
        r, g, b = self.factors
        lit = (min(round(colour[0] * r), 255), min(round(colour[1] * g), 255), min(round(colour[2] * b), 255))
        return mix(lit, self.haze, z_m / (z_m + self.sight_m)) if z_m else lit

    def glow(self, colour: Colour, z_m: float = 0.0) -> Colour:
        """The colour of a lamp or a lit window: only haze dims it."""
        return mix(colour, self.haze, z_m / (z_m + self.sight_m))

    def panel_table(self) -> np.ndarray:
        """Look-up table of the panels' light, uint8, (1, 256, 3)."""
        values = np.arange(256)[:, None] * np.array(self.panel)  # (256, 3)
        return np.minimum(np.floor(values + 0.5), 255).astype(np.uint8)[None]

    def sprite_table(self, z_m: float, towards: int = 255, share: float = 0.0) -> np.ndarray:
        """Look-up table for a distant RGBA picture: whitened, lit, hazy, opacity kept; uint8, (1, 256, 4)."""
        far = z_m / (z_m + self.sight_m)
        keep = np.array([(1 - share) * factor * (1 - far) for factor in self.factors] + [1.0])
        zips = zip(self.factors, self.haze, strict=True)
        start = np.array([towards * share * factor * (1 - far) + haze * far for factor, haze in zips] + [0.0])
        return np.minimum(np.floor(_LEVELS * keep + (start + 0.5)), 255).astype(np.uint8)[None]


_LEVELS = np.arange(256.0)[:, None]


class Canvas:
    """An RGB picture to draw on; `pixels` is (height, width, 3) uint8."""

    def __init__(self, width: int, height: int, colour: Colour = (0, 0, 0)) -> None:
        """A canvas of one colour."""
        self.pixels = np.zeros((height, width, 3), np.uint8)
        if any(colour):
            self.rect(0, 0, width, height, colour)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, px."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def fill(self, points: Points, colour: Colour) -> None:
        """Fills one convex polygon."""
        fixed = np.array([(int(x * 16), int(y * 16)) for x, y in points], np.int32)
        cv2.fillConvexPoly(self.pixels, fixed, colour, cv2.LINE_AA, SUBPIXEL_BITS)

    def shape(self, points: Points, colour: Colour) -> None:
        """Fills one polygon of any form."""
        fixed = np.array([(int(x * 16), int(y * 16)) for x, y in points], np.int32)
        cv2.fillPoly(self.pixels, [fixed], colour, cv2.LINE_AA, SUBPIXEL_BITS)

    def quads(self, corners: np.ndarray, colour: Colour) -> None:
        """Fills many polygons of one colour, none over another: (n, corners, 2) px."""
        if len(corners):
            fixed = np.floor(corners * 16).astype(np.int32)
            cv2.fillPoly(self.pixels, list(fixed), colour, cv2.LINE_AA, SUBPIXEL_BITS)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fills an upright rectangle, with soft edges."""
        self.fill(((left, top), (right, top), (right, bottom), (left, bottom)), colour)

    def rect(self, left: int, top: int, right: int, bottom: int, colour: Colour) -> None:
        """Fills whole pixels: columns `left`..`right`-1, rows `top`..`bottom`-1."""
        if right > left and bottom > top:
            cv2.rectangle(self.pixels, (left, top), (right - 1, bottom - 1), colour, cv2.FILLED)

    def disc(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        """Fills an ellipse."""
        self.fill(ellipse(x, y, rx, ry), colour)

    def line(self, points: Points, width: float, colour: Colour) -> None:
        """A line of a given width, each piece with square ends."""
        for (xa, ya), (xb, yb) in zip(points, points[1:], strict=False):
            dx, dy = xb - xa, yb - ya
            length = max(abs(dx), abs(dy)) or 1.0
            nx, ny = -dy / length * width / 2, dx / length * width / 2
            self.fill(((xa + nx, ya + ny), (xb + nx, yb + ny), (xb - nx, yb - ny), (xa - nx, ya - ny)), colour)

    def wire(self, points: Points, colour: Colour) -> None:
        """A hair line."""
        fixed = np.array([(int(x * 16), int(y * 16)) for x, y in points], np.int32)
        cv2.polylines(self.pixels, [fixed], False, colour, 1, cv2.LINE_AA, SUBPIXEL_BITS)

    def paste(self, picture: Image.Image, left: int, top: int) -> None:
        """Pastes RGB, or blends RGBA, at whole pixels; what lies outside is cut off."""
        width, height = self.size
        a, b = max(-left, 0), max(-top, 0)
        right, bottom = min(picture.width, width - left), min(picture.height, height - top)
        if right <= a or bottom <= b:
            return
        if (a, b, right, bottom) != (0, 0, picture.width, picture.height):
            picture = picture.crop((a, b, right, bottom))
        area = (slice(top + b, top + bottom), slice(left + a, left + right))
        if picture.mode == "RGB":
            self.pixels[area] = np.asarray(picture)
            return
        under = Image.fromarray(self.pixels[area])
        under.paste(picture, (0, 0), picture)
        self.pixels[area] = np.asarray(under)

    def stain(self, mask: Image.Image, left: int, top: int, colour: Colour) -> None:
        """Colours what a mask (mode L) covers: lettering."""
        width, height = self.size
        area = (max(left, 0), max(top, 0), min(left + mask.width, width), min(top + mask.height, height))
        if area[0] >= area[2] or area[1] >= area[3]:
            return
        cut = (slice(area[1], area[3]), slice(area[0], area[2]))
        under = Image.fromarray(self.pixels[cut])
        under.paste(colour, (left - area[0], top - area[1]), mask)
        self.pixels[cut] = np.asarray(under)

    def image(self) -> Image.Image:
        """The picture as a Pillow image."""
        return Image.fromarray(self.pixels)


def ellipse(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    """Corners of an ellipse, (16, 2) px."""
    return CIRCLE * (rx, ry) + (x, y)


@lru_cache(maxsize=2)
def _noise(key: str) -> np.ndarray:
    """Grain of one layer, uint8 0..12 with mean 6, (1024, 1280, 3): number of set bits of random bytes, by 1.5."""
    from reverse_lib.world.gazetteer import stream

    bits = np.array([bin(value).count("1") * 3 // 2 for value in range(256)], np.uint8)
    return bits[np.frombuffer(stream("grain", key).bytes(1024 * 1280 * 3), np.uint8)].reshape(1024, 1280, 3)


def add_grain(pixels: np.ndarray, dice: Dice) -> None:
    """Adds grain in place: one layer less another, each shifted on its own, so that no two pictures share it."""
    height, width = pixels.shape[:2]
    for key, change in (("light", cv2.add), ("dark", cv2.subtract)):
        y, x = dice.integers(1024 - height), dice.integers(1280 - width)
        change(pixels, _noise(key)[y : y + height, x : x + width], dst=pixels)


def add_mottle(pixels: np.ndarray, rng: np.random.Generator, strength: int = 7) -> None:
    """Adds a slow unevenness of light in place, up to `strength` levels, one of its own for every picture."""
    height, width = pixels.shape[:2]
    coarse = rng.integers(0, strength + 1, (height // 16, width // 16), dtype=np.uint8)
    slow = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    cv2.add(pixels, cv2.merge((slow, slow, slow)), dst=pixels)
