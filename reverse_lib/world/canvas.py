"""The camera, and anti-aliased drawing into an array of pixels: shapes, lettering, flags, light and haze, grain.

Shapes are rounded to a sixteenth of a pixel before OpenCV fills them in integer arithmetic, and lettering uses the
DejaVu fonts that matplotlib ships, so that a picture has the same bytes on every machine. Flags and the colour words
are those of `data/countries.csv`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from reverse_lib.world.dice import Dice, stream

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]] | np.ndarray  # (n, 2) px, x before y
SUBPIXEL_BITS = 4
BOLD = "DejaVuSans-Bold.ttf"
Box = tuple[int, int, int, int]  # left, top, right, bottom, px
WIDTH, HEIGHT = 640, 480  # of a photo, px
FOCAL = 430.0  # px
# Sixteen directions of a circle, in 1/1024: no trigonometry at run time, so no rounding that differs by machine.
_CIRCLE = ((1024, 0), (946, 392), (724, 724), (392, 946), (0, 1024), (-392, 946), (-724, 724), (-946, 392))
CIRCLE = np.array([*_CIRCLE, *((-x, -y) for x, y in _CIRCLE)]) / 1024  # (16, 2)

COLOURS: dict[str, Colour] = {
    "white": (240, 240, 236),
    "black": (26, 26, 28),
    "yellow": (244, 200, 32),
    "gold": (250, 204, 30),
    "green": (0, 104, 66),
    "blue": (16, 72, 160),
    "red": (200, 28, 36),
    "ivory": (226, 214, 176),
    "turquoise": (60, 178, 164),
    "pink": (228, 40, 132),
    "orange": (240, 128, 30),
    "saffron": (248, 150, 50),
    "skyblue": (116, 172, 222),
    "navy": (10, 36, 110),
    "flagblue": (20, 82, 160),
    "flagred": (206, 26, 44),
    "flaggreen": (0, 128, 70),
    "brown": (130, 84, 40),
    "grey": (128, 130, 132),
}


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Colour `a` with a `share` (0..1) of colour `b`."""
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )


@lru_cache(maxsize=64)
def palette(hexadecimal: str) -> tuple[Colour, ...]:
    """Colours written as on the web, without the hash: "dec8a8 b06c54"."""
    return tuple(ImageColor.getrgb(f"#{word}") for word in hexadecimal.split())


def lit(colour: Colour, factors: Sequence[float]) -> Colour:
    """A colour in some light: each channel times its factor."""
    (r, g, b), (red, green, blue) = colour, factors  # in full, since it is called most
    return min(round(r * red), 255), min(round(g * green), 255), min(round(b * blue), 255)


def shifted(colour: Colour, dice: Dice, by: int, low: int = 0, high: int = 255) -> Colour:
    """A colour whose channels are moved by up to `by` levels each, within `low`..`high`."""
    return tuple(min(max(value + dice.integers(-by, by + 1), low), high) for value in colour)


@lru_cache(maxsize=64)
def _font(face: str, size_px: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / face
    return ImageFont.truetype(str(path), size_px, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=65536)
def text_width(text: str, face: str, size_px: int) -> int:
    """Advance width of `text` in pixels."""
    return math.ceil(_font(face, size_px).getlength(text))


@lru_cache(maxsize=4096)
def text_mask(text: str, face: str, size_px: int, width_px: int) -> Image.Image:
    """Coverage (mode L) of one line of text, squeezed or stretched to `width_px`, height 1.25 em."""
    natural = max(text_width(text, face, size_px), 1)
    mask = Image.new("L", (natural, round(1.25 * size_px)))
    ImageDraw.Draw(mask).text((0, round(0.08 * size_px)), text, fill=255, font=_font(face, size_px))
    return mask if natural == width_px else mask.resize((width_px, mask.height), Image.Resampling.BILINEAR)


@dataclass(frozen=True)
class Light:
    """How the hour and the weather colour things."""

    factors: tuple[float, float, float]  # what red, green and blue are multiplied by
    haze: Colour  # colour of what is far away, as it appears
    sight_m: float  # distance at which half of a thing's own colour is lost
    panel: tuple[
        float, float, float
    ]  # like `factors`, for what people light up or paint bright: boards, posters, clothes
    lit: float = 0.0  # share of windows with light in them
    dark: bool = False  # whether lamps are on

    def tone(self, colour: Colour, z_m: float = 0.0) -> Colour:
        """A colour as it looks in this light from `z_m` metres away."""
        return self.glow(lit(colour, self.factors), z_m)

    def glow(self, colour: Colour, z_m: float = 0.0) -> Colour:
        """The colour of a lamp or a lit window: only haze dims it."""
        return mix(colour, self.haze, z_m / (z_m + self.sight_m)) if z_m else colour

    def panel_table(self) -> np.ndarray:
        """Look-up table of the panels' light, uint8, (1, 256, 3)."""
        values = np.arange(256)[:, None] * np.array(self.panel)  # (256, 3)
        return np.minimum(np.floor(values + 0.5), 255).astype(np.uint8)[None]

    def sprite_table(self, z_m: float, white: float = 0.0) -> np.ndarray:
        """Look-up table for a distant RGBA picture: whitened, lit, hazy, opacity kept; uint8, (1, 256, 4)."""
        far = z_m / (z_m + self.sight_m)
        keep = np.array([(1 - white) * factor * (1 - far) for factor in self.factors] + [1.0])
        channels = zip(self.factors, self.haze, strict=True)
        start = np.array([255 * white * factor * (1 - far) + haze * far for factor, haze in channels] + [0.0])
        return np.minimum(np.floor(_LEVELS * keep + (start + 0.5)), 255).astype(np.uint8)[None]


_LEVELS = np.arange(256.0)[:, None]


@dataclass(frozen=True)
class Camera:
    """Where the picture is taken from."""

    horizon_px: float  # row of the horizon
    vanish_px: float  # column of the vanishing point
    x_m: float  # distance to the right of the centre line (negative: left)
    height_m: float  # above the road

    def at(self, x_m: float, height_m: float, z_m: float) -> tuple[float, float]:
        """Pixel of a point in the street."""
        scale = FOCAL / z_m
        return self.vanish_px + (x_m - self.x_m) * scale, self.horizon_px + (self.height_m - height_m) * scale


def overlap(a: Box, b: Box, gap: int) -> bool:
    """Whether two pixel boxes come closer than `gap` pixels."""
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap


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
        cv2.fillConvexPoly(self.pixels, _fixed(points), colour, cv2.LINE_AA, SUBPIXEL_BITS)

    def shape(self, points: Points, colour: Colour) -> None:
        """Fills one polygon of any form."""
        cv2.fillPoly(self.pixels, [_fixed(points)], colour, cv2.LINE_AA, SUBPIXEL_BITS)

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
        self.fill(CIRCLE * (rx, ry) + (x, y), colour)

    def line(self, points: Points, width: float, colour: Colour) -> None:
        """A line of a given width, each piece with square ends."""
        for (xa, ya), (xb, yb) in zip(points, points[1:], strict=False):
            dx, dy = xb - xa, yb - ya
            length = max(abs(dx), abs(dy)) or 1.0
            nx, ny = -dy / length * width / 2, dx / length * width / 2
            self.fill(((xa + nx, ya + ny), (xb + nx, yb + ny), (xb - nx, yb - ny), (xa - nx, ya - ny)), colour)

    def wire(self, points: Points, colour: Colour) -> None:
        """A hair line."""
        cv2.polylines(self.pixels, [_fixed(points)], False, colour, 1, cv2.LINE_AA, SUBPIXEL_BITS)

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

    def write(self, text: str, face: str, size_px: int, box: tuple[int, int, int, int], colour: Colour) -> None:
        """Writes one centred line into `box` (l, t, r, b), squeezed when it is too wide."""
        left, top, right, bottom = box
        mask = text_mask(text, face, size_px, max(min(text_width(text, face, size_px), right - left), 1))
        self.stain(mask, (left + right - mask.width) // 2, (top + bottom - mask.height) // 2, colour)

    def image(self) -> Image.Image:
        """The picture as a Pillow image."""
        return Image.fromarray(self.pixels)


def _fixed(points: Points) -> np.ndarray:
    """Points as OpenCV takes them: sixteenths of a pixel, (n, 2) int32."""
    return np.array([(int(x * 16), int(y * 16)) for x, y in points], np.int32)


@lru_cache(maxsize=512)
def draw_flag(spec: str, width: int, height: int) -> Image.Image:
    """A flag from its drawing instructions (`data/README.md` explains them).

    Args:
        spec: `kind colour[:weight]…` with kind h, v or solid, then `|shape …` overlays in units of the flag.
        width: Pixels.
        height: Pixels.

    Raises:
        ValueError: Unknown kind, shape or colour.
    """
    scale = 4
    flag = Image.new("RGB", (width * scale, height * scale))
    draw = ImageDraw.Draw(flag)
    base, *overlays = spec.split("|")
    _stripes(draw, base.split(), flag.size)
    for overlay in overlays:
        _shape(flag, draw, overlay.split())
    return flag.resize((width, height), Image.Resampling.BOX)


def _stripes(draw: ImageDraw.ImageDraw, words: list[str], size: tuple[int, int]) -> None:
    kind, stripes = words[0], [word.partition(":")[::2] for word in words[1:]]
    if kind not in ("h", "v", "solid"):
        raise ValueError(f"flag {' '.join(words)!r}: unknown kind {kind!r}; use h, v or solid")
    weights = [float(weight or 1) for _, weight in stripes]
    start, total = 0.0, math.fsum(weights)
    for (colour, _), weight in zip(stripes, weights, strict=True):
        a, b = start / total, (start + weight) / total
        w, h = size
        box = (a * w, 0, b * w, h) if kind == "v" else (0, a * h, w, b * h)
        draw.rectangle(box, fill=COLOURS[colour])
        start += weight


def _shape(flag: Image.Image, draw: ImageDraw.ImageDraw, words: list[str]) -> None:
    (w, h), kind = flag.size, words[0]
    numbers = [float(word) for word in words[1:] if word[0].isdigit() or word[0] == "."]
    colour = COLOURS.get(words[-1], (0, 0, 0))
    if kind in ("disc", "ring"):
        x, y, r = numbers[0] * w, numbers[1] * h, numbers[2] * h
        box = (x - r, y - r, x + r, y + r)
        draw.ellipse(box, fill=colour) if kind == "disc" else draw.ellipse(box, outline=colour, width=max(h // 20, 1))
    elif kind == "diamond":
        x, y, a, b = numbers[0] * w, numbers[1] * h, numbers[2] * w, numbers[3] * h
        draw.polygon([(x - a, y), (x, y - b), (x + a, y), (x, y + b)], fill=colour)
    elif kind == "triangle":
        draw.polygon([(0, 0), (numbers[0] * w, h / 2), (0, h)], fill=colour)
    elif kind == "cross":
        x, y, t = numbers[0] * w, numbers[1] * h, numbers[2] * h / 2
        draw.rectangle((x - t, 0, x + t, h), fill=colour)
        draw.rectangle((0, y - t, w, y + t), fill=colour)
    elif kind == "canton":
        box = [round(v) for v in (numbers[0] * w, numbers[1] * h, numbers[2] * w, numbers[3] * h)]
        size = (box[2] - box[0], box[3] - box[1])
        flag.paste(_union_jack(*size) if words[-1] == "unionjack" else Image.new("RGB", size, colour), box[:2])
    elif kind == "unionjack":
        flag.paste(_union_jack(w, h), (0, 0))
    else:
        raise ValueError(f"flag shape {' '.join(words)!r}: unknown; use disc, ring, diamond, triangle, cross or canton")


def _union_jack(w: int, h: int) -> Image.Image:
    flag = Image.new("RGB", (w, h), COLOURS["navy"])
    draw = ImageDraw.Draw(flag)
    for colour, diagonal, half in (("white", h // 5, h // 3 / 2), ("flagred", h // 14, h // 10)):
        draw.line([(0, 0), (w, h)], fill=COLOURS[colour], width=diagonal)
        draw.line([(0, h), (w, 0)], fill=COLOURS[colour], width=diagonal)
        draw.rectangle((w / 2 - half, 0, w / 2 + half, h), fill=COLOURS[colour])
        draw.rectangle((0, h / 2 - half, w, h / 2 + half), fill=COLOURS[colour])
    return flag


def flag_colours(spec: str) -> list[Colour]:
    """The colours of a flag's instructions, in order of appearance."""
    words = spec.replace("|", " ").replace(":", " ").split()
    return [COLOURS[word] for word in dict.fromkeys(words) if word in COLOURS]


@lru_cache(maxsize=2)
def _noise(key: str) -> np.ndarray:
    """Grain of one layer, uint8 0..12 with mean 6, (1024, 1280, 3): number of set bits of random bytes, by 1.5."""
    bits = np.array([bin(value).count("1") * 3 // 2 for value in range(256)], np.uint8)
    return bits[np.frombuffer(stream("grain", key).bytes(1024 * 1280 * 3), np.uint8)].reshape(1024, 1280, 3)


def add_grain(pixels: np.ndarray, dice: Dice) -> None:
    """Adds grain in place: one layer less another, each shifted on its own, so that no two pictures share it."""
    height, width = pixels.shape[:2]
    for key, change in (("light", cv2.add), ("dark", cv2.subtract)):
        y, x = dice.integers(1024 - height), dice.integers(1280 - width)
        change(pixels, _noise(key)[y : y + height, x : x + width], dst=pixels)


def add_mottle(pixels: np.ndarray, rng: np.random.Generator) -> None:
    """Adds a slow unevenness of light in place, up to 7 levels, one of its own for every picture."""
    height, width = pixels.shape[:2]
    coarse = rng.integers(0, 8, (height // 16, width // 16), dtype=np.uint8)
    slow = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    cv2.add(pixels, cv2.merge((slow, slow, slow)), dst=pixels)
