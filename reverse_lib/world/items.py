"""The camera, and the small things on a street that tell a country: cars, letter boxes, warning signs, flags."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from reverse_lib.world.gazetteer import Country, pick
from reverse_lib.world.parts import COLOURS, Colour, draw_flag, mix

WIDTH, HEIGHT = 640, 480  # px
FOCAL = 430.0  # px
TRIES = 12  # attempts to find room for a small thing
Box = tuple[int, int, int, int]
CAR_COLOURS: dict[str, Colour] = {
    "grey": (140, 144, 150),
    "navy": (40, 54, 92),
    "maroon": (104, 28, 34),
    "white": (232, 232, 230),
}


@dataclass(frozen=True)
class Camera:
    """Where the picture is taken from.

    Attributes:
        horizon_px: Row of the horizon.
        vanish_px: Column of the vanishing point.
        x_m: Distance to the right of the centre line (negative: left), metres.
        height_m: Metres above the road.
    """

    horizon_px: float
    vanish_px: float
    x_m: float
    height_m: float

    def at(self, x_m: float, height_m: float, z_m: float) -> tuple[float, float]:
        """Pixel of a point in the street."""
        scale = FOCAL / z_m
        return self.vanish_px + (x_m - self.x_m) * scale, self.horizon_px + (self.height_m - height_m) * scale


@dataclass(frozen=True)
class Item:
    """A small thing that carries a country cue: kind, position in metres, the box it covers in pixels.

    The post of a flag or warning sign, down to row `foot_px`, may be hidden and is not part of the box.
    """

    kind: str  # "taxi" | "car" | "postbox" | "warning" | "flag"
    x_m: float
    z_m: float
    box: Box
    foot_px: int
    note: str = ""  # flag instructions, or the colour of a private car


def place_items(
    kinds: list[tuple[str, str]], camera: Camera, right: bool, taken: list[Box], rng: np.random.Generator
) -> list[Item]:
    """Finds room for small things outside the marked regions; what finds none is left out.

    Args:
        kinds: (kind, note) of each thing wanted.
        camera: The camera.
        right: Whether the country drives on the right.
        taken: Boxes of the marked regions, px.
        rng: Randomness.
    """
    items: list[Item] = []
    for kind, note in kinds:
        for _ in range(TRIES):
            item = _candidate(kind, note, camera, right, rng)
            left, top, right_px, bottom = item.box
            inside = left >= 2 and top >= 2 and right_px <= WIDTH - 2 and bottom <= HEIGHT - 2
            if inside and not any(overlap(item.box, box, 4) for box in taken + [other.box for other in items]):
                items.append(item)
                break
    return items


def _candidate(kind: str, note: str, camera: Camera, right: bool, rng: np.random.Generator) -> Item:
    if kind in ("taxi", "car"):
        ahead = rng.random() < 0.5
        lane = 1.8 if right == ahead else -1.8
        x, z, width, low, high = lane, rng.uniform(8, 20), 1.9, 0.0, 1.6
        note = f"{'rear' if ahead else 'front'} {note}".strip()
    else:
        x, z = pick(rng, (-1, 1)) * rng.uniform(4.2, 5.2), rng.uniform(7, 18)
        width, low, high = {"postbox": (0.7, 0, 1.6), "warning": (1.0, 2.0, 3.0), "flag": (2.4, 2.8, 4.4)}[kind]
    left, top = camera.at(x - width / 2, high, z)
    right_px, bottom = camera.at(x + width / 2, low, z)
    foot = int(camera.at(x, 0, z)[1])
    return Item(kind, x, z, (int(left), int(top), int(right_px), int(bottom)), foot, note)


def overlap(a: Box, b: Box, gap: int) -> bool:
    """Whether two pixel boxes come closer than `gap` pixels."""
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap


def paint_item(image: Image.Image, draw: ImageDraw.ImageDraw, country: Country, item: Item) -> None:
    """Paints one placed thing in the country's colours."""
    if item.kind in ("taxi", "car"):
        _paint_car(draw, country, item)
    elif item.kind == "postbox":
        _paint_postbox(draw, COLOURS[country.postbox], item.box)
    else:
        left, top, right, _ = item.box
        middle = (left + right) // 2
        draw.rectangle((middle - 1, top, middle + 1, item.foot_px), fill=(120, 120, 124))
        if item.kind == "flag":
            width = right - left
            image.paste(draw_flag(item.note, width, max(round(width / 1.5), 4)), (left, top))
        else:
            _paint_warning(draw, country.warning, item.box)


def _paint_postbox(draw: ImageDraw.ImageDraw, colour: Colour, box: Box) -> None:
    left, top, right, bottom = box
    unit = right - left
    draw.rounded_rectangle(box, radius=unit // 3, fill=colour)
    draw.rectangle((left + unit // 4, top + unit // 2, right - unit // 4, top + unit // 2 + 2), fill=(20, 20, 20))
    draw.rectangle((left, bottom - unit // 4, right, bottom), fill=mix(colour, (0, 0, 0), 0.5))


def _paint_warning(draw: ImageDraw.ImageDraw, warning: str, box: Box) -> None:
    left, top, right, _ = box
    shape, _, ground = warning.partition("-")
    unit, middle = right - left, (left + right) // 2
    fill, centre, low = COLOURS[ground], top + unit // 2, top + unit
    if shape == "diamond":
        draw.polygon([(middle, top), (right, centre), (middle, low), (left, centre)], fill=fill, outline=(30, 30, 30))
    else:
        draw.polygon([(middle, top), (right, low), (left, low)], fill=COLOURS["red"])
        rim = unit // 5
        inner = [(middle, top + rim + 2), (right - rim - 2, low - rim), (left + rim + 2, low - rim)]
        draw.polygon(inner, fill=fill)
    draw.rectangle((middle - 1, centre, middle + 1, top + unit * 3 // 4), fill=(20, 20, 20))


def _paint_car(draw: ImageDraw.ImageDraw, country: Country, item: Item) -> None:
    facing, _, paint = item.note.partition(" ")
    left, top, right, bottom = item.box
    w, h = right - left, bottom - top
    taxi = item.kind == "taxi"
    body = COLOURS[country.taxi_body] if taxi and country.taxi_body else CAR_COLOURS[paint]
    roof = COLOURS.get(country.taxi_roof, body) if taxi else body

    def at(x: float, y: float) -> tuple[float, float]:
        return left + w * x, top + h * y

    draw.ellipse((*at(-0.08, 0.88), *at(1.08, 1.08)), fill=(58, 58, 60))
    draw.polygon([at(0.18, 0), at(0.82, 0), at(0.96, 0.48), at(0.04, 0.48)], fill=roof)
    draw.polygon([at(0.22, 0.1), at(0.78, 0.1), at(0.9, 0.42), at(0.1, 0.42)], fill=(70, 84, 98))
    draw.rounded_rectangle((*at(0, 0.42), *at(1, 0.9)), radius=max(w // 14, 1), fill=body)
    if taxi:
        draw.rectangle((*at(0.38, -0.1), *at(0.62, 0)), fill=COLOURS["yellow"])
        if country.taxi_roof.endswith("stripe"):
            draw.rectangle((*at(0, 0.56), *at(1, 0.66)), fill=COLOURS[country.taxi_roof.removesuffix("stripe")])
    lamp = (250, 246, 220) if facing == "front" else (180, 24, 30)
    for x in (0.06, 0.76):
        draw.rectangle((*at(x, 0.5), *at(x + 0.18, 0.6)), fill=lamp)
        draw.rectangle((*at(x, 0.88), *at(x + 0.18, 1)), fill=(24, 24, 26))
    ground = country.plate_front if facing == "front" else country.plate_rear
    draw.rectangle((*at(0.33, 0.68), *at(0.67, 0.82)), fill=COLOURS[ground or "grey"])
    if ground:
        draw.line([at(0.37, 0.75), at(0.63, 0.75)], fill=COLOURS[country.plate_text], width=max(int(h * 0.05), 1))
