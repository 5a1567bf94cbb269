"""Landmarks: facades and towers composed from shapes and colours that belong to one place alone.

A landmark is a function of (world seed, place) and carries no text. It is kept as coloured polygons in a unit square
(y down) and drawn anew each time, a little turned, at any size and in any light: photos and web pictures show the same
building and share no pixels. That is what image search can work on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from reverse_lib.world.canvas import CIRCLE, SUBPIXEL_BITS, Canvas, Colour, mix, palette, shifted
from reverse_lib.world.dice import Dice, pick, stream

MOST_TURN = 0.2  # how much taller the near edge of a facade seems than the far one, at most
STONES = palette("decea8 b06c54 eeece4 969ca6 d69e60 e8bec4 aac4aa 805c4c c4d6e6 f4d870 6e7c8a cee0c8")
ACCENTS = palette("286054 962824 243c78 cca034 464248 6ea08c 783c6e e27a2c 3c8cbe cec4b4")
Top = tuple[float, float, float]  # where a body's crown sits: centre x, y, half width
ASPECT = 0.75  # usual width of a landmark over its height: turns an ellipse into a circle


@dataclass(frozen=True)
class Landmark:
    """Polygons in a unit square, back to front."""

    corners: np.ndarray  # all corners, (n, 2), x to the right and y down, filling 0..1 both ways
    ends: tuple[int, ...]  # where each polygon ends in `corners`
    colours: np.ndarray  # one for each polygon, (m, 3)


@lru_cache(maxsize=4096)
def landmark_of(seed: int, place_id: int) -> Landmark:
    """The landmark of a place; do not modify it."""
    dice = Dice(stream("landmark", seed, place_id))
    stone, accent, second = (shifted(pick(dice, colours), dice, 22, 8, 250) for colours in (STONES, ACCENTS, ACCENTS))
    builder = Builder(dice, stone, accent, second)
    crown(builder, BODIES[dice.integers(len(BODIES))](builder))
    corners = np.concatenate(builder.polygons)
    low, high = corners.min(axis=0), corners.max(axis=0)
    ends = np.cumsum([len(polygon) for polygon in builder.polygons])
    return Landmark((corners - low) / (high - low), tuple(ends.tolist()), np.array(builder.colours))


def draw_landmark(
    canvas: Canvas,
    box: tuple[float, float, float, float],
    landmark: Landmark,
    turn: float,
    light: tuple[float, float, float],
) -> None:
    """Draws a landmark that fills a box.

    Args:
        canvas: What to draw on.
        box: Left, top, right, bottom, px.
        landmark: From `landmark_of`.
        turn: From -`MOST_TURN` (the left edge is nearer) to `MOST_TURN`.
        light: What red, green and blue are multiplied by.
    """
    left, top, right, bottom = box
    x, y = landmark.corners[:, 0], landmark.corners[:, 1]
    scale = 1 + turn * (x - 0.5)
    eye = 0.85  # height of the eye in units from the top
    points = np.empty_like(landmark.corners)
    points[:, 0] = x - 0.5 * turn * x * (1 - x)
    points[:, 1] = eye + (y - eye) * scale
    low, high = points.min(axis=0), points.max(axis=0)
    points = (points - low) / (high - low) * (right - left - 1, bottom - top - 1) + (left, top)
    fixed = np.floor(points * 16 + 0.5).astype(np.int32)
    colours = np.minimum(np.floor(landmark.colours * np.array(light) + 0.5), 255).astype(int).tolist()
    start = 0
    for end, colour in zip(landmark.ends, colours, strict=True):
        cv2.fillConvexPoly(canvas.pixels, fixed[start:end], colour, cv2.LINE_AA, SUBPIXEL_BITS)
        start = end


class Builder:
    """Collects polygons; knows the colours and the window style of one landmark."""

    def __init__(self, dice: Dice, stone: Colour, accent: Colour, second: Colour) -> None:
        """Colours are of walls, of ornaments, and of windows and doors."""
        self.dice, self.stone, self.accent, self.second = dice, stone, accent, second
        self.polygons: list[np.ndarray] = []
        self.colours: list[Colour] = []
        self.window = dice.integers(4)  # square, arched, pointed, round
        self.glass = mix(second, (20, 20, 30), dice.uniform(0.25, 0.6))
        self.slim = dice.uniform(0.4, 0.72)

    def poly(self, points: list[tuple[float, float]], colour: Colour) -> None:
        """A convex polygon."""
        self.polygons.append(np.array(points, float))
        self.colours.append(colour)

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """An upright rectangle."""
        self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """A circle; the radius is a share of the width."""
        self.polygons.append(CIRCLE * (radius, radius * ASPECT) + (x, y))
        self.colours.append(colour)

    def arch(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, pointed: bool = False) -> None:
        """A door or window with a round or pointed top."""
        middle, half = (x0 + x1) / 2, (x1 - x0) / 2
        rise = min(half * ASPECT * (1.5 if pointed else 1.0), (y1 - y0) * 0.6)
        if pointed:
            top = [(x1, y0 + rise), (middle, y0), (x0, y0 + rise)]
        else:
            top = [(middle + half * x, y0 + rise - rise * y) for x, y in CIRCLE[:9]]
        self.poly([(x0, y1), (x1, y1), *top], colour)

    def windows(self, x0: float, y0: float, x1: float, y1: float, count: int) -> None:
        """A row of windows in this landmark's own style."""
        pitch = (x1 - x0) / count
        for index in range(count):
            a = x0 + (index + (1 - self.slim) / 2) * pitch
            b = a + self.slim * pitch
            if self.window == 3:
                self.disc((a + b) / 2, (y0 + y1) / 2, min((b - a) / 2, (y1 - y0) / 2 / ASPECT), self.glass)
            elif self.window:
                self.arch(a, y0, b, y1, self.glass, self.window == 2)
            else:
                self.rect(a, y0, b, y1, self.glass)

    def mosaic(self, x: float, y: float, width: float, height: float) -> None:
        """An ornament of three by six fields, mirrored, that hardly two landmarks share."""
        bits = self.dice.integers(1 << 9)
        self.rect(x - width / 2, y, x + width / 2, y + height, mix(self.stone, self.accent, 0.35))
        for field in range(9):
            if bits >> field & 1:
                row, column = divmod(field, 3)
                top = y + height * row / 3
                for sign in (-1, 1):
                    edge = x + sign * width / 6 * column
                    a, b = sorted((edge, edge + sign * width / 6))
                    self.rect(a, top, b, top + height / 3, self.accent if row % 2 else self.second)

    def dark(self, share: float) -> Colour:
        """The wall's colour in the shade."""
        return mix(self.stone, (0, 0, 0), share)

    def pale(self, share: float) -> Colour:
        """The wall's colour in the light."""
        return mix(self.stone, (255, 255, 255), share)


def _tower(b: Builder) -> Top:
    half, top, base = b.dice.uniform(0.17, 0.3), b.dice.uniform(0.24, 0.34), b.dice.uniform(0.36, 0.5)
    b.rect(0.5 - half, top, 0.5 + half, 1, b.stone)
    b.rect(0.5 + half * 0.55, top, 0.5 + half, 1, b.dark(0.12))
    b.rect(0.5 - base, b.dice.uniform(0.74, 0.84), 0.5 + base, 1, b.dark(0.16))
    step, count = b.dice.uniform(0.09, 0.16), 2 + b.dice.integers(3)
    y = top + 0.17
    while y < 0.74:
        b.rect(0.5 - half - 0.03, y, 0.5 + half + 0.03, y + 0.02, b.accent)
        b.windows(0.5 - half + 0.03, y + 0.035, 0.5 + half - 0.03, y + 0.08, count)
        y += step
    b.disc(0.5, top + 0.09, 0.1, b.accent)
    b.disc(0.5, top + 0.09, 0.075, (244, 240, 226))
    b.arch(0.42, 0.85, 0.58, 1, b.second)
    return 0.5, top, half


def _hall(b: Builder) -> Top:
    top, half = b.dice.uniform(0.4, 0.52), b.dice.uniform(0.4, 0.5)
    b.rect(0.5 - half, top, 0.5 + half, 1, b.stone)
    rows, columns = 2 + b.dice.integers(2), 4 + b.dice.integers(4)
    for row in range(rows):
        y = top + 0.06 + row * (0.46 / rows)
        b.windows(0.5 - half + 0.04, y, 0.5 + half - 0.04, y + 0.24 / rows, columns)
    b.rect(0.5 - half, top - 0.03, 0.5 + half, top + 0.02, b.second)
    wing = b.dice.uniform(0.1, 0.22)
    b.rect(0.5 - wing, top - 0.14, 0.5 + wing, 1, b.pale(0.25))
    b.mosaic(0.5, top + 0.02, 1.6 * wing, 0.16)
    b.arch(0.42, 0.8, 0.58, 1, b.second)
    return 0.5, top - 0.14, wing


def _temple(b: Builder) -> Top:
    top, columns = b.dice.uniform(0.45, 0.56), 4 + b.dice.integers(5)
    b.rect(0.06, top, 0.94, 1, mix(b.stone, b.accent, 0.55))
    b.arch(0.42, top + 0.14, 0.58, 1, b.glass)
    for column in range(columns):
        x = 0.07 + column * (0.8 / (columns - 1))
        b.rect(x, top, x + 0.06, 0.95, b.stone)
        b.rect(x + 0.04, top, x + 0.06, 0.95, b.dark(0.15))
        b.rect(x - 0.01, top, x + 0.07, top + 0.03, b.pale(0.3))
    for step in range(3):
        b.rect(0.02 * (2 - step), 0.92 + 0.027 * step, 1 - 0.02 * (2 - step), 1, b.dark(0.1 * step))
    rise = b.dice.uniform(0.14, 0.26)
    b.poly([(0, top), (0.5, top - rise), (1, top)], b.second)
    b.poly([(0.14, top - 0.02), (0.5, top - rise + 0.04), (0.86, top - 0.02)], b.stone)
    b.disc(0.5, top - 0.07, 0.07, b.accent)
    return 0.5, top - rise + 0.04, 0.1


def _twin_towers(b: Builder) -> Top:
    top, half = b.dice.uniform(0.26, 0.4), b.dice.uniform(0.1, 0.16)
    b.rect(0.13, 0.5, 0.87, 1, b.stone)
    b.disc(0.5, 0.63, 0.13, b.accent)
    b.disc(0.5, 0.63, 0.1, b.second)
    b.arch(0.38, 0.78, 0.62, 1, b.accent)
    step = b.dice.uniform(0.11, 0.2)
    for x in (0.06 + half, 0.94 - half):
        b.rect(x - half, top, x + half, 1, b.pale(0.15))
        b.rect(x + half * 0.5, top, x + half, 1, b.dark(0.08))
        b.poly([(x - half - 0.02, top), (x, top - 0.18), (x + half + 0.02, top)], b.accent)
        y = top + 0.05
        while y < 0.9:
            b.windows(x - half + 0.03, y, x + half - 0.03, y + 0.07, 2)
            y += step
    return 0.5, 0.5, 0.18


def _gate(b: Builder) -> Top:
    top, arch = b.dice.uniform(0.32, 0.44), b.dice.uniform(0.14, 0.24)
    b.rect(0.06, top, 0.94, 1, b.stone)
    b.rect(0.06, top + 0.06, 0.94, top + 0.13, b.accent)
    b.arch(0.5 - arch - 0.04, 0.52, 0.5 + arch + 0.04, 1, b.pale(0.35))
    b.arch(0.5 - arch, 0.56, 0.5 + arch, 1, mix(b.second, (0, 0, 0), 0.3), b.window == 2)
    for x in (0.11, 0.79):
        b.rect(x, top + 0.18, x + 0.1, 0.97, b.second)
        b.windows(x, top + 0.2, x + 0.1, top + 0.3, 1)
    step = b.dice.uniform(0.1, 0.2)
    x = 0.06
    while x < 0.9:
        b.rect(x, top - 0.05, x + 0.05, top + 0.01, b.stone)
        x += step
    return 0.5, top, 0.2


def _stack(b: Builder) -> Top:
    tiers, count = 3 + b.dice.integers(3), 2 + b.dice.integers(3)
    height, shrink = 0.66 / tiers, b.dice.uniform(0.2, 0.3)
    for tier in range(tiers):
        half, y = 0.4 - tier * (shrink / tiers), 1 - tier * height
        b.rect(0.5 - half + 0.05, y - height, 0.5 + half - 0.05, y, mix(b.stone, b.second, 0.5 * (tier % 2)))
        b.windows(0.5 - half + 0.1, y - height + 0.08, 0.5 + half - 0.1, y - 0.02, count)
        low, high = y - height + 0.06, y - height
        b.poly([(0.4 - half, low), (0.6 - half, high), (0.4 + half, high), (0.6 + half, low)], b.accent)
    return 0.5, 1 - tiers * height, 0.14


def _rotunda(b: Builder) -> Top:
    top, half, columns = b.dice.uniform(0.42, 0.52), b.dice.uniform(0.4, 0.48), 5 + b.dice.integers(5)
    b.rect(0.5 - half, top, 0.5 + half, 1, b.stone)
    for column in range(columns):  # columns crowd towards the edges of a round wall
        u = (column + 0.5) / columns * 2 - 1
        x, w = 0.5 + half * u * (1.35 - 0.35 * abs(u)), half / columns * (1.05 - 0.6 * abs(u))
        b.rect(x - w / 2, top + 0.08, x + w / 2, 0.94, b.glass if column % 2 else b.pale(0.3))
    b.rect(0.5 - half, top, 0.5 + half, top + 0.05, b.accent)
    b.rect(0.48 - half, 0.94, 0.52 + half, 1, b.dark(0.2))
    inner = b.dice.uniform(0.22, 0.34)
    b.rect(0.5 - inner, top - 0.12, 0.5 + inner, top, b.pale(0.12))
    b.windows(0.5 - inner + 0.02, top - 0.1, 0.5 + inner - 0.02, top - 0.02, columns)
    return 0.5, top - 0.12, inner


def _castle(b: Builder) -> Top:
    wall, half = b.dice.uniform(0.55, 0.66), b.dice.uniform(0.16, 0.22)
    b.rect(0.1, wall, 0.9, 1, b.stone)
    for x in (0.13, 0.87):
        reach, top = b.dice.uniform(0.09, 0.13), b.dice.uniform(0.36, 0.5)
        b.rect(x - reach, top, x + reach, 1, b.dark(0.1))
        b.poly([(x - reach - 0.03, top), (x, top - b.dice.uniform(0.12, 0.22)), (x + reach + 0.03, top)], b.accent)
        b.windows(x - reach, top + 0.08, x + reach, top + 0.16, 1)
    keep = b.dice.uniform(0.3, 0.42)
    b.rect(0.5 - half, keep, 0.5 + half, 1, b.pale(0.18))
    for row in range(2 + b.dice.integers(2)):
        b.windows(0.5 - half + 0.02, keep + 0.08 + 0.13 * row, 0.5 + half - 0.02, keep + 0.16 + 0.13 * row, 3)
    b.arch(0.41, 0.82, 0.59, 1, b.second, b.window == 2)
    return 0.5, keep, half


def _slab(b: Builder) -> Top:
    half, top, rows = b.dice.uniform(0.28, 0.42), b.dice.uniform(0.14, 0.26), 6 + b.dice.integers(6)
    b.rect(0.5 - half, top, 0.5 + half, 1, b.stone)
    split = b.dice.uniform(-0.5, 0.5) * half
    b.rect(0.5 + split, top + 0.04, 0.5 + half, 1, mix(b.stone, b.accent, 0.6))
    for row in range(rows):
        y = top + 0.05 + row * (0.78 - top) / rows
        b.windows(0.5 - half + 0.02, y, 0.5 + half - 0.02, y + 0.45 * (0.78 - top) / rows, 3 + b.window)
    b.mosaic(0.5 + split / 2, 0.8, half, 0.09)
    b.rect(0.46 - half, 0.92, 0.54 + half, 1, b.second)
    return 0.5 - split / 2, top, half / 3


def _pyramid(b: Builder) -> Top:
    steps, top, half = 4 + b.dice.integers(5), b.dice.uniform(0.3, 0.46), b.dice.uniform(0.1, 0.18)
    for step in range(steps):
        share = step / steps
        width = 0.5 - share * (0.5 - half - 0.06)
        y = 1 - share * (1 - top)
        tone = b.dark(0.06) if step % 2 else b.stone
        b.rect(0.5 - width, y - (1 - top) / steps, 0.5 + width, y, tone)
        b.rect(0.5 - width, y - (1 - top) / steps, 0.5 + width, y - (1 - top) / steps + 0.012, b.accent)
    b.poly([(0.4, 1), (0.6, 1), (0.5 + half * 0.5, top), (0.5 - half * 0.5, top)], mix(b.stone, b.second, 0.6))
    b.rect(0.5 - half, top - 0.12, 0.5 + half, top, b.pale(0.2))
    b.windows(0.5 - half, top - 0.1, 0.5 + half, top - 0.01, 1 + b.dice.integers(3))
    return 0.5, top - 0.12, half


def _arcade(b: Builder) -> Top:
    rows, columns, top = 2 + b.dice.integers(2), 3 + b.dice.integers(4), b.dice.uniform(0.34, 0.46)
    b.rect(0.02, top, 0.98, 1, b.stone)
    each = (1 - top) / rows
    for row in range(rows):
        y = top + row * each
        b.rect(0.0, y, 1.0, y + 0.022, b.accent if row else b.second)
        pitch = 0.94 / columns
        for column in range(columns):
            x = 0.03 + column * pitch
            b.arch(x + 0.12 * pitch, y + 0.2 * each, x + 0.88 * pitch, y + each, b.glass, b.window == 2)
    half = b.dice.uniform(0.1, 0.2)
    b.rect(0.5 - half, top - 0.1, 0.5 + half, top, b.dark(0.1))
    return 0.5, top - 0.1, half


def _lighthouse(b: Builder) -> Top:
    top, low, high, bands = b.dice.uniform(0.22, 0.32), b.dice.uniform(0.24, 0.34), b.dice.uniform(0.12, 0.18), 5
    bands += b.dice.integers(5)
    for band in range(bands):
        ya, yb = (1 - (1 - top) * share / bands for share in (band, band + 1))
        wa, wb = (low + (high - low) * share / bands for share in (band, band + 1))
        tone = b.accent if band % 2 else b.stone
        b.poly([(0.5 - wa, ya), (0.5 + wa, ya), (0.5 + wb, yb), (0.5 - wb, yb)], tone)
    for y in (0.42, 0.58, 0.72):
        b.windows(0.44, y, 0.56, y + 0.06, 1)
    b.rect(0.46 - high, top - 0.03, 0.54 + high, top + 0.01, b.second)
    wing = b.dice.uniform(0.34, 0.5)
    b.rect(0.5, 0.84, 0.5 + wing, 1, b.pale(0.3))
    b.poly([(0.48, 0.84), (0.52 + wing, 0.84), (0.5 + wing * 0.8, 0.77), (0.52, 0.77)], b.second)
    b.arch(0.44, 0.88, 0.56, 1, b.second)
    return 0.5, top - 0.03, high


BODIES = (_tower, _hall, _temple, _twin_towers, _gate, _stack, _rotunda, _castle, _slab, _pyramid, _arcade, _lighthouse)


def crown(b: Builder, top: Top) -> None:
    """What stands on top of a body."""
    x, y, half = top
    height = b.dice.uniform(0.55, 0.95) * min(y, 0.4)
    kind = b.dice.integers(7)
    if kind == 0:  # spire
        b.poly([(x - half, y), (x, y - height), (x + half, y)], b.accent)
        b.poly([(x, y), (x, y - height), (x + half, y)], mix(b.accent, (0, 0, 0), 0.2))
    elif kind == 1:  # dome
        _dome(b, x, y, half, min(half * ASPECT, height))
    elif kind == 2:  # caps on caps
        for level in range(3):
            w, base = half * (1.25 - 0.36 * level), y - level * height / 3
            up = base - height / 3
            b.poly(
                [(x - w, base), (x - w / 2, up), (x + w / 2, up), (x + w, base)], b.accent if level % 2 else b.second
            )
    elif kind == 3:  # battlements and a banner
        b.rect(x - 0.012, y - height, x + 0.012, y, (70, 66, 60))
        b.poly([(x + 0.012, y - height), (x + 0.2, y - height + 0.05), (x + 0.012, y - height + 0.1)], b.second)
        for index in range(5):
            left = x - half + index * half * 0.42
            b.rect(left, y - 0.045, left + half * 0.24, y, b.accent)
    elif kind == 4:  # onion
        w = min(half, 0.16)
        b.disc(x, y - 0.6 * w, w, b.accent)
        b.poly([(x - 0.7 * w, y - 0.9 * w), (x, y - max(height, 1.8 * w)), (x + 0.7 * w, y - 0.9 * w)], b.accent)
    elif kind == 5:  # a lantern under a small dome
        b.rect(x - half * 0.6, y - height * 0.5, x + half * 0.6, y, b.pale(0.25))
        b.windows(x - half * 0.55, y - height * 0.45, x + half * 0.55, y - height * 0.08, 3)
        _dome(b, x, y - height * 0.5, half * 0.7, min(half * 0.5, height * 0.5))
    else:  # flat roof and a figure
        b.rect(x - half * 1.1, y - 0.03, x + half * 1.1, y, b.second)
        b.poly([(x - 0.05, y - 0.03), (x + 0.05, y - 0.03), (x + 0.02, y - height), (x - 0.02, y - height)], b.accent)
        b.disc(x, y - height, 0.04, b.second)


def _dome(b: Builder, x: float, y: float, half: float, rise: float) -> None:
    b.poly([(x + half * u, y - rise * v) for u, v in CIRCLE[:9]], b.accent)
    b.poly([(x + half * u * 0.4, y - rise * v) for u, v in CIRCLE[:9]], mix(b.accent, (255, 255, 255), 0.18))
    b.rect(x - 0.02, y - rise - 0.06, x + 0.02, y - rise, b.second)
