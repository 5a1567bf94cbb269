"""The small things on a street that tell a country: cars, letter boxes, warning signs, flags."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image

from reverse_lib.world.canvas import (
    BOLD,
    COLOURS,
    HEIGHT,
    WIDTH,
    Box,
    Camera,
    Canvas,
    Colour,
    Light,
    draw_flag,
    mix,
    overlap,
)
from reverse_lib.world.dice import Dice, pick
from reverse_lib.world.places import Country

TRIES = 12  # attempts to find room for a small thing
CAR_COLOURS: dict[str, Colour] = {
    "grey": (140, 144, 150),
    "navy": (40, 54, 92),
    "maroon": (104, 28, 34),
    "white": (232, 232, 230),
    "silver": (186, 190, 194),
    "petrol": (38, 92, 104),
    "ochre": (190, 140, 60),
}


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
    note: str = ""  # flag instructions, or which end of a car is seen and the colour of a private car
    text: str = ""  # a number plate's, where it is large enough to be read


def place_items(kinds: list[tuple[str, str]], camera: Camera, right: bool, taken: list[Box], rng: Dice) -> list[Item]:
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


def _candidate(kind: str, note: str, camera: Camera, right: bool, rng: Dice) -> Item:
    if kind in ("taxi", "car"):
        ahead = rng.random() < 0.5
        lane = 1.8 if right == ahead else -1.8
        x, z, width, low, high = lane, rng.uniform(6.5, 20), 1.9, 0.0, 1.55
        note = f"{'rear' if ahead else 'front'} {note}".strip()
    else:
        x, z = pick(rng, (-1, 1)) * rng.uniform(4.2, 5.2), rng.uniform(7, 18)
        width, low, high = {"postbox": (0.7, 0, 1.6), "warning": (1.0, 2.0, 3.0), "flag": (2.4, 2.8, 4.4)}[kind]
    left, top = camera.at(x - width / 2, high, z)
    right_px, bottom = camera.at(x + width / 2, low, z)
    foot = int(camera.at(x, 0, z)[1])
    item = Item(kind, x, z, (int(left), int(top), int(right_px), int(bottom)), foot, note)
    return replace(item, text=_plate_text(rng)) if note.startswith(("rear", "front")) and z < 11.5 else item


def _plate_text(rng: Dice) -> str:
    letters = "".join("ABCDEFGHJKLMNPRSTUVWXYZ"[rng.integers(23)] for _ in range(2))
    return f"{letters} {100 + rng.integers(900)}"


def paint_item(canvas: Canvas, country: Country, item: Item, light: Light) -> None:
    """Paints one placed thing in the country's colours."""
    if item.kind in ("taxi", "car"):
        _paint_car(canvas, country, item, light)
    elif item.kind == "postbox":
        _paint_postbox(canvas, COLOURS[country.postbox], item, light)
    else:
        left, top, right, _ = item.box
        middle = (left + right) / 2
        canvas.box(middle - 1.3, top, middle + 1.3, item.foot_px, light.tone((120, 120, 124), item.z_m))
        if item.kind == "flag":
            width = right - left
            flag = draw_flag(item.note, width, max(round(width / 1.5), 4))
            table = np.ascontiguousarray(light.sprite_table(item.z_m)[..., :3])
            canvas.paste(Image.fromarray(cv2.LUT(np.asarray(flag), table)), left, top)
        else:
            _paint_warning(canvas, country.warning, item, light)


def _paint_postbox(canvas: Canvas, colour: Colour, item: Item, light: Light) -> None:
    left, top, right, bottom = item.box
    unit, z = right - left, item.z_m
    canvas.disc((left + right) / 2, bottom, unit * 0.6, unit * 0.12, light.tone((70, 70, 66), z))
    canvas.box(left, top + unit * 0.3, right, bottom, light.tone(colour, z))
    canvas.disc((left + right) / 2, top + unit * 0.32, unit / 2, unit * 0.32, light.tone(colour, z))
    canvas.box(left + unit * 0.66, top + unit * 0.3, right, bottom, light.tone(mix(colour, (0, 0, 0), 0.22), z))
    slot = light.tone((20, 20, 20), z)
    canvas.box(left + unit * 0.2, top + unit * 0.52, right - unit * 0.2, top + unit * 0.52 + max(unit * 0.08, 1), slot)
    canvas.box(left + unit * 0.25, top + unit * 0.75, right - unit * 0.25, top + unit, light.tone((236, 234, 226), z))
    canvas.box(left, bottom - unit * 0.25, right, bottom, light.tone(mix(colour, (0, 0, 0), 0.5), z))


def _paint_warning(canvas: Canvas, warning: str, item: Item, light: Light) -> None:
    left, top, right, _ = item.box
    shape, _, ground = warning.partition("-")
    unit, middle, z = right - left, (left + right) / 2, item.z_m
    fill, centre, low, ink = light.tone(COLOURS[ground], z), top + unit / 2, top + unit, light.tone((20, 20, 20), z)
    if shape == "diamond":
        canvas.fill(((middle, top), (right, centre), (middle, low), (left, centre)), ink)
        rim = max(unit * 0.07, 1)
        canvas.fill(((middle, top + rim), (right - rim, centre), (middle, low - rim), (left + rim, centre)), fill)
    else:
        canvas.fill(((middle, top), (right, low), (left, low)), light.tone(COLOURS["red"], z))
        rim = unit / 5
        inner = ((middle, top + rim * 1.6), (right - rim * 1.3, low - rim * 0.7), (left + rim * 1.3, low - rim * 0.7))
        canvas.fill(inner, fill)
    bar = max(unit * 0.06, 0.8)
    canvas.box(middle - bar, centre - unit * 0.05, middle + bar, top + unit * 0.68, ink)
    canvas.disc(middle, top + unit * 0.75, bar * 1.2, bar * 1.2, ink)


def _paint_car(canvas: Canvas, country: Country, item: Item, light: Light) -> None:
    facing, _, paint = item.note.partition(" ")
    left, top, right, bottom = item.box
    w, h, z = right - left, bottom - top, item.z_m
    taxi, front = item.kind == "taxi", facing == "front"
    body = COLOURS[country.taxi_body] if taxi and country.taxi_body else CAR_COLOURS[paint]
    roof = COLOURS.get(country.taxi_roof, body) if taxi else body

    def quad(points: tuple, colour: Colour) -> None:
        canvas.fill([(left + w * x, top + h * y) for x, y in points], colour)

    def block(x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        quad(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), colour)

    canvas.disc(left + w / 2, bottom, w * 0.6, h * 0.1, light.tone((52, 52, 54), z))
    for x in (0.05, 0.77):
        block(x, 0.78, x + 0.18, 1, light.tone((22, 22, 24), z))
    quad(((0.19, 0.02), (0.81, 0.02), (0.86, 0.1), (0.97, 0.47), (0.03, 0.47), (0.14, 0.1)), light.tone(roof, z))
    quad(((0.23, 0.1), (0.77, 0.1), (0.89, 0.43), (0.11, 0.43)), light.tone((66, 80, 94), z))
    quad(((0.3, 0.1), (0.46, 0.1), (0.36, 0.43), (0.18, 0.43)), light.tone((104, 122, 138), z))
    shape = ((0.05, 0.42), (0.95, 0.42), (1, 0.52), (1, 0.82), (0.96, 0.9), (0.04, 0.9), (0, 0.82), (0, 0.52))
    quad(shape, light.tone(body, z))
    block(0.01, 0.78, 0.99, 0.88, light.tone(mix(body, (30, 30, 34), 0.45), z))
    if taxi:
        block(0.38, -0.08, 0.62, 0.03, (light.glow if light.dark else light.tone)(COLOURS["yellow"], z))
        if country.taxi_roof.endswith("stripe"):
            stripe = COLOURS[country.taxi_roof.removesuffix("stripe")]
            block(0, 0.55, 1, 0.64, light.tone(stripe, z))
    lamp = (252, 248, 224) if front else (200, 26, 32)
    for x in (0.04, 0.78):
        block(x, 0.5, x + 0.18, 0.61, light.glow(lamp, z) if light.lit > 0.1 else light.tone(lamp, z))
    if front:
        block(0.3, 0.52, 0.7, 0.62, light.tone((34, 36, 40), z))
    ground = country.plate_front if front else country.plate_rear
    plate = plate_box(item)
    canvas.rect(*plate, light.tone(COLOURS[ground or "grey"], z))
    if ground:
        ink, tall = light.tone(COLOURS[country.plate_text], z), plate[3] - plate[1]
        if item.text:
            canvas.write(item.text, BOLD, max(tall - 1, 5), plate, ink)
        else:
            middle = (plate[1] + plate[3]) // 2
            canvas.rect(plate[0] + 2, middle, plate[2] - 2, middle + max(tall // 4, 1), ink)


def plate_box(item: Item) -> Box:
    """Pixel box of a car's number plate."""
    left, top, right, bottom = item.box
    w, h = right - left, bottom - top
    return round(left + 0.31 * w), round(top + 0.65 * h), round(left + 0.69 * w), round(top + 0.79 * h)
