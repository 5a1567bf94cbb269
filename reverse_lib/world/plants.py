"""Trees as sprites: one drawing per kind and variant, reduced to a few sizes and kept."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw

from reverse_lib.world.canvas import Colour
from reverse_lib.world.dice import stream

SIZES = (16, 32, 64, 128, 256)  # px, heights that are drawn once and kept
TRUNK: Colour = (92, 68, 48)


def tree_sprite(kind: str, variant: int, height_px: int) -> np.ndarray:
    """A tree as RGBA pixels, (height_px, height_px, 4) uint8; do not modify it.

    Raises:
        KeyError: If the kind has no drawing.
    """
    level = next(size for size in SIZES if size >= height_px or size == SIZES[-1])
    drawn = _drawn(kind, variant, level)
    if level == height_px:
        return drawn
    return cv2.resize(drawn, (height_px, height_px), interpolation=cv2.INTER_LINEAR_EXACT)


@lru_cache(maxsize=256)
def _drawn(kind: str, variant: int, size_px: int) -> np.ndarray:
    """A drawing in one of `SIZES`; what is transparent has the colour of the leaves, so that edges stay clean."""
    image = Image.new("RGBA", (256, 256))
    _KINDS[kind](ImageDraw.Draw(image), stream("tree", kind, variant))
    drawn = np.array(image)
    drawn[drawn[..., 3] == 0, :3] = drawn[drawn[..., 3] > 0, :3].mean(axis=0).astype(np.uint8)
    bands = [Image.fromarray(np.ascontiguousarray(drawn[..., band])) for band in range(4)]
    small = [np.asarray(band.resize((size_px, size_px), Image.Resampling.BOX)) for band in bands]
    return np.stack(small, axis=2)


def _blobs(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, centre: tuple, spread: tuple, colour: Colour, n: int
) -> None:
    for index in range(n):
        x = centre[0] + spread[0] * rng.uniform(-1, 1)
        y = centre[1] + spread[1] * rng.uniform(-1, 1)
        r = rng.uniform(16, 34)
        shade = 0.78 + 0.34 * index / n
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(min(int(c * shade), 255) for c in colour))


def _trunk(draw: ImageDraw.ImageDraw, width: int, top: int, colour: Colour = TRUNK) -> None:
    draw.polygon(
        [(128 - width, 255), (128 + width, 255), (128 + width // 2, top), (128 - width // 2, top)], fill=colour
    )


def _broadleaf(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    _trunk(draw, 10, 130)
    _blobs(draw, rng, (128, 96), (62, 58), (74, 122, 48), 26)


def _plane(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    _trunk(draw, 11, 110, (190, 180, 152))
    _blobs(draw, rng, (128, 86), (70, 46), (112, 148, 62), 24)


def _olive(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    _trunk(draw, 14, 150, (104, 92, 74))
    _blobs(draw, rng, (128, 140), (66, 36), (132, 144, 104), 22)


def _eucalyptus(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    _trunk(draw, 8, 70, (206, 192, 172))
    for x, y in ((84, 84), (150, 60), (168, 116), (108, 44)):
        draw.line([(128, 170), (x, y)], fill=(206, 192, 172), width=6)
        _blobs(draw, rng, (x, y), (24, 16), (106, 132, 100), 7)


def _conifer(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    _trunk(draw, 7, 180)
    for level in range(6):
        half, y = 22 + 11 * level, 14 + 36 * level
        shade = int(rng.integers(-8, 9))
        draw.polygon(
            [(128, y - 12), (128 - half, y + 46), (128 + half, y + 46)], fill=(34 + shade, 74 + shade, 52 + shade)
        )


def _cypress(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    _trunk(draw, 5, 220)
    half = rng.uniform(18, 26)
    draw.ellipse((128 - half, 4, 128 + half, 246), fill=(40, 78, 46))
    draw.ellipse((128 - half * 0.6, 20, 128 + half * 0.2, 220), fill=(52, 92, 54))


def _palm(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.line([(128, 255), (122, 170), (130, 70)], fill=(140, 116, 86), width=11)
    for angle in np.linspace(-math.pi * 0.1, math.pi * 1.1, 11):
        reach = rng.uniform(70, 98)
        x, y = 130 + reach * math.cos(angle), 70 - reach * 0.62 * math.sin(angle)
        draw.line(
            [(130, 70), ((130 + x) / 2, (70 + y) / 2 - 14), (x, y + 22)], fill=(66, 136, 52), width=9, joint="curve"
        )


def _acacia(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.line([(128, 255), (128, 170), (80, 104)], fill=TRUNK, width=9)
    draw.line([(128, 180), (176, 104)], fill=TRUNK, width=7)
    for _ in range(16):
        x, y = 128 + rng.uniform(-84, 84), 92 + rng.uniform(-12, 12)
        draw.ellipse((x - 38, y - 13, x + 38, y + 13), fill=(116 + int(rng.integers(-10, 10)), 132, 60))


def _cactus(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    green: Colour = (86, 128, 80)
    draw.rounded_rectangle((112, 60, 144, 255), radius=16, fill=green)
    for x, top in ((66, rng.uniform(100, 140)), (168, rng.uniform(80, 130))):
        draw.rounded_rectangle((x, top, x + 22, top + 84), radius=11, fill=green)
        draw.rectangle((min(x, 128), top + 64, max(x + 22, 128), top + 84), fill=green)


def _hedge(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    _blobs(draw, rng, (128, 216), (104, 14), (58, 106, 44), 26)
    _trunk(draw, 7, 120)
    _blobs(draw, rng, (128, 96), (44, 44), (84, 132, 60), 14)


def _fern(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    _trunk(draw, 9, 110, (70, 50, 38))
    for angle in np.linspace(0, math.pi, 13):
        reach = rng.uniform(80, 110)
        x, y = 128 + reach * math.cos(angle), 104 - reach * 0.5 * math.sin(angle)
        draw.polygon(
            [(128, 98), (x, y + 14), (x * 0.5 + 64, y * 0.5 + 70)], fill=(44, 116 + int(rng.integers(-12, 12)), 62)
        )


_TREES = (_broadleaf, _plane, _olive, _eucalyptus, _conifer, _cypress, _palm, _acacia, _cactus, _hedge, _fern)
_KINDS = {draw.__name__.strip("_"): draw for draw in _TREES}
