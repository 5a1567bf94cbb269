"""Landmarks: facades and towers composed from shapes and colours that belong to one place alone.

A landmark is a function of (world seed, place) and carries no text. Photos and web pictures show the same sprite at
other scales, hours and cuts, which is what makes reverse image search work on it and on nothing else.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from reverse_lib.world.gazetteer import pick, stream
from reverse_lib.world.parts import Colour, mix

SIZE = (144, 192)  # px, width and height of a sprite
STONES: tuple[Colour, ...] = (
    (222, 206, 168),
    (176, 108, 84),
    (238, 236, 228),
    (150, 156, 166),
    (214, 158, 96),
    (232, 190, 196),
    (170, 196, 170),
    (128, 92, 76),
    (196, 214, 230),
    (244, 216, 112),
)
ACCENTS: tuple[Colour, ...] = (
    (40, 96, 84),
    (150, 40, 36),
    (36, 60, 120),
    (204, 160, 52),
    (70, 66, 72),
    (110, 160, 140),
    (120, 60, 110),
    (226, 122, 44),
    (60, 140, 190),
)


@lru_cache(maxsize=1024)
def landmark_sprite(seed: int, place_id: int) -> Image.Image:
    """The landmark of a place, RGBA 144×192, transparent around the building; do not modify it."""
    rng = stream("landmark", seed, place_id)
    sprite = Image.new("RGBA", SIZE)
    draw = ImageDraw.Draw(sprite)
    stone, accent, second = pick(rng, STONES), pick(rng, ACCENTS), pick(rng, ACCENTS)
    body = pick(rng, (_tower, _hall, _temple, _twin_towers, _gate, _stack))
    top = body(draw, rng, stone, accent, second)
    _crown(draw, rng, top, accent, second)
    return sprite


Top = tuple[float, float, float]  # centre x, y of the top edge, half width: where the crown sits


def _tower(draw: ImageDraw.ImageDraw, rng: np.random.Generator, stone: Colour, accent: Colour, second: Colour) -> Top:
    half, top = rng.uniform(24, 40), rng.uniform(44, 62)
    draw.rectangle((72 - half, top, 72 + half, 191), fill=stone)
    base = rng.uniform(half, 70)
    draw.rectangle((72 - base, 150, 72 + base, 191), fill=mix(stone, (0, 0, 0), 0.12))
    for y in range(int(top) + 30, 148, int(rng.integers(18, 34))):
        draw.rectangle((72 - half - 4, y, 72 + half + 4, y + 5), fill=accent)
        _windows(draw, (72 - half + 5, y + 8, 72 + half - 5, y + 17), int(rng.integers(2, 5)), second)
    draw.ellipse((72 - 15, top + 5, 72 + 15, top + 31), fill=(244, 240, 226), outline=accent, width=4)
    draw.rectangle((62, 166, 82, 191), fill=second)
    return 72, top, half


def _hall(draw: ImageDraw.ImageDraw, rng: np.random.Generator, stone: Colour, accent: Colour, second: Colour) -> Top:
    top, half = rng.uniform(80, 100), rng.uniform(56, 70)
    draw.rectangle((72 - half, top, 72 + half, 191), fill=stone)
    rows, columns = int(rng.integers(2, 4)), int(rng.integers(4, 8))
    for row in range(rows):
        y = top + 10 + row * (96 / rows)
        _windows(draw, (72 - half + 6, y, 72 + half - 6, y + 48 / rows), columns, accent)
    draw.rectangle((72 - half, top - 6, 72 + half, top + 4), fill=second)
    draw.pieslice((57, 156, 87, 220), 180, 360, fill=second)
    wing = rng.uniform(14, 30)
    draw.rectangle((72 - wing, top - 26, 72 + wing, top), fill=mix(stone, (255, 255, 255), 0.25))
    return 72, top - 26, wing


def _temple(draw: ImageDraw.ImageDraw, rng: np.random.Generator, stone: Colour, accent: Colour, second: Colour) -> Top:
    top, columns = rng.uniform(88, 106), int(rng.integers(4, 8))
    draw.rectangle((8, top, 136, 191), fill=mix(stone, accent, 0.55))
    for column in range(columns):
        x = 10 + column * (116 / (columns - 1))
        draw.rectangle((x - 1, top, x + 9, 184), fill=stone)
    for step in range(3):
        draw.rectangle(
            (2 * (2 - step), 176 + 5 * step, 143 - 2 * (2 - step), 191), fill=mix(stone, (0, 0, 0), 0.1 * step)
        )
    rise = rng.uniform(26, 48)
    draw.polygon([(2, top), (72, top - rise), (142, top)], fill=second)
    draw.polygon([(22, top - 4), (72, top - rise + 8), (122, top - 4)], fill=stone)
    return 72, top - rise + 8, 12


def _twin_towers(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, stone: Colour, accent: Colour, second: Colour
) -> Top:
    top, half = rng.uniform(56, 76), rng.uniform(15, 21)
    draw.rectangle((20, 96, 124, 191), fill=stone)
    draw.ellipse((54, 104, 90, 140), fill=second, outline=accent, width=4)
    draw.pieslice((54, 152, 90, 230), 180, 360, fill=accent)
    for x in (12 + half, 132 - half):
        draw.rectangle((x - half, top, x + half, 191), fill=mix(stone, (255, 255, 255), 0.15))
        draw.polygon([(x - half - 2, top), (x, top - 34), (x + half + 2, top)], fill=accent)
        for y in range(int(top) + 10, 176, int(rng.integers(24, 40))):
            _windows(draw, (x - half + 5, y, x + half - 5, y + 14), 2, second)
    return 72, 96, 26


def _gate(draw: ImageDraw.ImageDraw, rng: np.random.Generator, stone: Colour, accent: Colour, second: Colour) -> Top:
    top, arch = rng.uniform(60, 84), rng.uniform(20, 34)
    draw.rectangle((12, top, 132, 191), fill=stone)
    draw.rectangle((12, top + 12, 132, top + 26), fill=accent)
    draw.pieslice((72 - arch, 104, 72 + arch, 104 + 2 * arch), 180, 360, fill=mix(second, (0, 0, 0), 0.3))
    draw.rectangle((72 - arch, 104 + arch, 72 + arch, 191), fill=mix(second, (0, 0, 0), 0.3))
    for x in (18, 112):
        draw.rectangle((x, top + 34, x + 14, 186), fill=second)
    for x in range(12, 132, int(rng.integers(14, 30))):
        draw.rectangle((x, top - 10, x + 7, top), fill=stone)
    return 72, top, 30


def _stack(draw: ImageDraw.ImageDraw, rng: np.random.Generator, stone: Colour, accent: Colour, second: Colour) -> Top:
    tiers = int(rng.integers(3, 6))
    height = 126 / tiers
    for tier in range(tiers):
        half = 58 - tier * (38 / tiers)
        y = 191 - tier * height
        draw.rectangle((72 - half + 8, y - height, 72 + half - 8, y), fill=mix(stone, second, 0.5 * (tier % 2)))
        _windows(draw, (72 - half + 14, y - height + 12, 72 + half - 14, y - 4), int(rng.integers(2, 5)), second)
        draw.polygon(
            [
                (72 - half - 8, y - height + 10),
                (72 - half + 10, y - height),
                (72 + half - 10, y - height),
                (72 + half + 8, y - height + 10),
            ],
            fill=accent,
        )
    return 72, 191 - tiers * height, 20


def _windows(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], count: int, colour: Colour) -> None:
    left, top, right, bottom = box
    pitch = (right - left) / count
    for index in range(count):
        x = left + (index + 0.2) * pitch
        draw.rectangle((x, top, x + 0.6 * pitch, bottom), fill=mix(colour, (20, 20, 30), 0.35))


def _crown(draw: ImageDraw.ImageDraw, rng: np.random.Generator, top: Top, accent: Colour, second: Colour) -> None:
    x, y, half = top
    height = float(rng.uniform(0.55, 0.95) * y)
    kind = int(rng.integers(5))
    if kind == 0:  # spire
        draw.polygon([(x - half, y), (x, y - height), (x + half, y)], fill=accent)
    elif kind == 1:  # dome
        reach = min(half, height)
        draw.pieslice((x - half, y - reach, x + half, y + reach), 180, 360, fill=accent)
        draw.rectangle((x - 3, y - reach - 12, x + 3, y - reach), fill=second)
    elif kind == 2:  # pagoda caps
        for level in range(3):
            w = half + 8 - 9 * level
            base = y - level * height / 3
            draw.polygon(
                [(x - w, base), (x - w / 2, base - height / 3), (x + w / 2, base - height / 3), (x + w, base)],
                fill=accent,
            )
    elif kind == 3:  # battlements and a banner
        draw.rectangle((x - 2, y - height, x + 2, y), fill=(70, 66, 60))
        draw.polygon([(x + 2, y - height), (x + 28, y - height + 9), (x + 2, y - height + 18)], fill=second)
        for left in np.arange(x - half, x + half - 4, 11):
            draw.rectangle((left, y - 8, left + 5, y), fill=accent)
    else:  # onion
        w = min(half, 22)
        draw.ellipse((x - w, y - 1.6 * w, x + w, y + 0.2 * w), fill=accent)
        draw.polygon([(x - 0.6 * w, y - 1.35 * w), (x, y - height), (x + 0.6 * w, y - 1.35 * w)], fill=accent)


def tinted(picture: Image.Image, tint: tuple[float, float, float]) -> Image.Image:
    """The picture in another light: its colours multiplied by `tint`."""
    factors = (*tint, 1.0) if picture.mode == "RGBA" else tint
    return picture.point([min(round(value * factor), 255) for factor in factors for value in range(256)])


def landmark_picture(seed: int, place_id: int, rng: np.random.Generator) -> Image.Image:
    """A web picture of a landmark: the sprite under some sky, in some light, cut a little differently. RGB."""
    height = int(rng.integers(112, 172))
    width = round(height * rng.uniform(0.62, 0.9))
    sky = pick(rng, ((150, 190, 230), (206, 210, 214), (240, 214, 186), (170, 170, 180), (190, 186, 172)))
    ground = pick(rng, ((110, 134, 84), (150, 146, 138), (176, 156, 110)))
    picture = Image.new("RGB", (width, height), sky)
    picture.paste(ground, (0, round(height * rng.uniform(0.5, 0.85)), width, height))
    sprite = landmark_sprite(seed, place_id).resize((width, height), Image.Resampling.BILINEAR)
    picture.paste(sprite, (0, 0), sprite)
    light = rng.uniform(0.85, 1.05)
    picture = tinted(picture, (light * rng.uniform(0.95, 1.04), light, light * rng.uniform(0.82, 1.02)))
    margin = [int(value) for value in rng.uniform(-0.05, 0.05, 4) * height]
    return picture.crop((margin[0], margin[1], width + margin[2], height + margin[3]))
