"""Landmarks: facades and towers composed from shapes and colours that belong to one place alone.

A landmark is a function of (world seed, place) and carries no text. It is kept as coloured polygons in a unit square
and drawn anew each time, a little turned, at any size and in any light: photos and web pictures show the same
building and share no pixels. That is what image search can work on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

from reverse_lib.world.bodies import ACCENTS, BODIES, STONES, Builder, crown
from reverse_lib.world.canvas import SUBPIXEL_BITS, Canvas, Colour, Dice, add_grain
from reverse_lib.world.gazetteer import pick, stream

MOST_TURN = 0.2  # how much taller the near edge of a facade seems than the far one, at most


@dataclass(frozen=True)
class Landmark:
    """Polygons in a unit square, back to front.

    Attributes:
        corners: All corners, (n, 2), x to the right and y down, filling 0..1 both ways.
        ends: Where each polygon ends in `corners`.
        colours: One for each polygon, (m, 3).
    """

    corners: np.ndarray
    ends: tuple[int, ...]
    colours: np.ndarray


@lru_cache(maxsize=4096)
def landmark_of(seed: int, place_id: int) -> Landmark:
    """The landmark of a place; do not modify it."""
    dice = Dice(stream("landmark", seed, place_id))
    stone, accent, second = (_shifted(pick(dice, palette), dice) for palette in (STONES, ACCENTS, ACCENTS))
    builder = Builder(dice, stone, accent, second)
    crown(builder, BODIES[dice.integers(len(BODIES))](builder))
    corners = np.concatenate(builder.polygons)
    low, high = corners.min(axis=0), corners.max(axis=0)
    ends = np.cumsum([len(polygon) for polygon in builder.polygons])
    return Landmark((corners - low) / (high - low), tuple(ends.tolist()), np.array(builder.colours))


def _shifted(colour: Colour, dice: Dice) -> Colour:
    return tuple(min(max(value + dice.integers(-22, 23), 8), 250) for value in colour)


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


def landmark_picture(seed: int, place_id: int, rng: np.random.Generator) -> Image.Image:
    """A web picture of a landmark: turned a little, under some sky, in some light, cut a little differently. RGB."""
    dice = Dice(rng)
    height = dice.integers(112, 172)
    width = round(height * dice.uniform(0.62, 0.9))
    margin = [round(dice.uniform(-0.03, 0.07) * height) for _ in range(4)]
    sky = pick(dice, ((150, 190, 230), (206, 210, 214), (240, 214, 186), (170, 170, 180), (190, 186, 172)))
    ground = pick(dice, ((110, 134, 84), (150, 146, 138), (176, 156, 110)))
    canvas = Canvas(width + margin[0] + margin[2], height + margin[1] + margin[3], sky)
    canvas.rect(0, round(canvas.size[1] * dice.uniform(0.6, 0.9)), *canvas.size, ground)
    bright = dice.uniform(0.85, 1.05)
    light = (bright * dice.uniform(0.95, 1.04), bright, bright * dice.uniform(0.82, 1.02))
    box = (margin[0], margin[1], margin[0] + width, margin[1] + height)
    draw_landmark(canvas, box, landmark_of(seed, place_id), dice.uniform(-MOST_TURN, MOST_TURN), light)
    add_grain(canvas.pixels, dice)
    return canvas.image()


def tinted(picture: Image.Image, tint: tuple[float, float, float]) -> Image.Image:
    """The picture in another light: its colours multiplied by `tint`."""
    factors = (*tint, 1.0) if picture.mode == "RGBA" else tint
    return picture.point([min(round(value * factor), 255) for factor in factors for value in range(256)])
