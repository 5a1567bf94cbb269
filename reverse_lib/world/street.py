"""The street a scene stands in: ground, road, buildings, trees, lamps and wires.

One pinhole camera on the driver's side of a straight road. World coordinates are metres: X to the right of the
centre line, height above the road, z ahead of the camera. What can be written or can hide writing is planned;
the rest is thrown while painting. Everything is drawn far to near.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image

from reverse_lib.world.canvas import (
    COLOURS,
    FOCAL,
    HEIGHT,
    WIDTH,
    Box,
    Camera,
    Canvas,
    Colour,
    Light,
    mix,
    overlap,
)
from reverse_lib.world.dice import Dice, pick
from reverse_lib.world.houses import House, house_extent, paint_house, plan_houses
from reverse_lib.world.items import Item, paint_item
from reverse_lib.world.places import Country
from reverse_lib.world.plants import tree_sprite
from reverse_lib.world.sky import paint_horizon, paint_sky, paint_weather

GROUNDS: dict[str, Colour] = {
    "mediterranean": (172, 158, 100),
    "oceanic": (92, 146, 70),
    "temperate": (124, 148, 80),
    "tropical": (64, 126, 54),
    "arid": (202, 168, 120),
    "savanna": (190, 166, 94),
    "boreal": (100, 122, 88),
}
SNOW: Colour = (226, 229, 234)
NEAR_M = 1.0  # where the road begins
ROAD_M, PAVED_M = 3.6, 5.4  # half widths of the carriageway, and of it with the pavements


@dataclass(frozen=True)
class Tree:
    """A tree: position in metres, and which drawing."""

    x_m: float
    z_m: float
    height_m: float
    kind: str
    variant: int

    def extent(self, camera: Camera) -> Box:
        """Pixel box of the tree: a square."""
        x, y = camera.at(self.x_m, 0, self.z_m)
        size = self.size_px
        return round(x - size / 2), round(y - size), round(x + size / 2), round(y)

    @property
    def size_px(self) -> int:
        """Height on the picture, px."""
        return min(max(round(self.height_m * FOCAL / self.z_m), 8), 320)


@dataclass(frozen=True)
class Street:
    """What stands along the street, far to near."""

    houses: tuple[House, ...]
    trees: tuple[Tree, ...]


def plan_street(country: Country, camera: Camera, items: list[Item], taken: list[Box], dice: Dice) -> Street:
    """Decides buildings and trees, and which shop signs can be read.

    Args:
        country: Whose words, walls and trees to use.
        camera: From where.
        items: Small things, already placed.
        taken: Pixel boxes of the marked regions, which hide what is behind them.
        dice: Randomness.
    """
    houses = plan_houses(country, camera, dice)
    trees = []
    for _ in range(3 + dice.integers(7)):
        side, z = pick(dice, (-1, 1)), dice.uniform(8, 45)
        kind = country.trees if dice.random() < 0.85 else "broadleaf"
        trees.append(Tree(side * dice.uniform(5.6, 15), z, dice.uniform(3.4, 7.5), kind, dice.integers(3)))
    hiders = [(item.z_m, item.box) for item in items] + [(tree.z_m, tree.extent(camera)) for tree in trees]
    hiders += [(house.near_m, house_extent(camera, house)) for house in houses]
    hiders += [(house.near_m, house.sign) for house in houses if house.sign]
    hiders += [(0.0, box) for box in taken]

    def as_read(house: House) -> House:
        hidden = house.label_px and any(z < house.near_m and overlap(house.sign, box, 1) for z, box in hiders)
        return replace(house, label_px=0) if hidden else house

    far_first = sorted(map(as_read, houses), key=lambda house: -house.near_m)
    return Street(tuple(far_first), tuple(sorted(trees, key=lambda tree: -tree.z_m)))


def paint_street(
    canvas: Canvas,
    country: Country,
    camera: Camera,
    hour: str,
    weather: str,
    light: Light,
    street: Street,
    items: Sequence[Item],
    dice: Dice,
) -> None:
    """Draws everything but the marked regions.

    Args:
        canvas: 640×480.
        country: Whose facts to draw.
        camera: From where.
        hour: Key of `sky.HOURS`.
        weather: Key of `sky.WEATHER`.
        light: Of that hour and weather.
        street: From `plan_street`.
        items: Small things already placed by `place_items`.
        dice: Source of everything that carries no information.
    """
    snow = weather == "snow"
    paint_sky(canvas, camera.horizon_px, hour, weather, light, dice)
    ground = SNOW if snow else _shifted(GROUNDS[country.climate], dice)
    paint_horizon(canvas, camera.horizon_px, country.climate, ground, light, dice)
    _ground(canvas, camera, ground, light, dice)
    _road(canvas, camera, country, weather, light, dice)
    things = [(house.near_m + 2, "house", house) for house in street.houses]
    things += [(tree.z_m, "tree", tree) for tree in street.trees]
    things += [(item.z_m, "item", item) for item in items]
    things += _lamps(light, dice)
    for z, kind, thing in sorted(things, key=lambda each: -each[0]):
        if kind == "house":
            paint_house(canvas, camera, country, thing, light, snow)
        elif kind == "tree":
            left, top, right, _ = thing.extent(camera)
            if right <= 0 or left >= WIDTH:
                continue
            sprite = tree_sprite(thing.kind, thing.variant, thing.size_px)
            table = light.sprite_table(z, 0.45 if snow else 0.0)
            canvas.paste(Image.fromarray(cv2.LUT(sprite, table)), left, top)
        elif kind == "item":
            paint_item(canvas, country, thing, light)
        else:
            _lamp(canvas, camera, thing, light)
    paint_weather(canvas, weather, light, dice)


def _shifted(colour: Colour, dice: Dice) -> Colour:
    step = dice.integers(-12, 13)
    return tuple(min(max(value + step + dice.integers(-6, 7), 0), 255) for value in colour)


def _ground(canvas: Canvas, camera: Camera, ground: Colour, light: Light, dice: Dice) -> None:
    """Open ground in bands that darken and gain colour towards the camera, with darker patches."""
    row, shade = int(camera.horizon_px), 1.0
    while row < HEIGHT:
        deep = 3 + (row - int(camera.horizon_px)) // 5
        z = FOCAL * camera.height_m / max(row + deep / 2 - camera.horizon_px, 1)
        shade = 0.5 * shade + 0.5 * dice.uniform(0.93, 1.05)
        colour = tuple(min(round(value * shade), 255) for value in ground)
        canvas.rect(0, row, WIDTH, row + deep, light.tone(colour, z))
        row += deep
    for _ in range(6):
        z = dice.uniform(3, 30)
        x, y = camera.at(dice.uniform(-1, 1) * (6 + z), 0, z)
        wide = dice.uniform(0.4, 1.6) * FOCAL / z
        canvas.disc(x, y, wide, wide * 0.16, light.tone(mix(ground, (60, 56, 34), dice.uniform(0.08, 0.25)), z))


def _road(canvas: Canvas, camera: Camera, country: Country, weather: str, light: Light, dice: Dice) -> None:
    far, middle = 200.0, 9.0
    wet = 0.72 if weather == "rain" else 1.0
    tone = round((84 + dice.integers(34)) * wet)

    def strip(x_a: float, x_b: float, z_a: float, z_b: float, colour: Colour) -> None:
        for a, b in ((z_a, min(z_b, middle)), (max(z_a, middle), z_b)):  # two pieces: haze grows with distance
            if a < b:
                corners = [camera.at(x, 0, z) for x, z in ((x_a, a), (x_b, a), (x_b, b), (x_a, b))]
                canvas.fill(corners, light.tone(colour, math.sqrt(a * b)))

    def stripes(x_a: float, x_b: float, zs: np.ndarray, colour: Colour) -> None:
        scale = FOCAL / zs  # (n, 2)
        px = [camera.vanish_px + (x - camera.x_m) * scale for x in (x_a, x_b)]
        py = camera.horizon_px + camera.height_m * scale
        across = np.stack([px[0][:, 0], px[1][:, 0], px[1][:, 1], px[0][:, 1]], 1)  # (n, 4)
        canvas.quads(np.stack([across, py[:, [0, 0, 1, 1]]], 2), light.tone(colour, 9.0))

    paved = 148 + dice.integers(36)
    if weather == "snow":
        paved += 40
    pavement = (paved, paved - 4, paved - 10)
    for side in (-1, 1):
        strip(*sorted((side * ROAD_M, side * PAVED_M)), NEAR_M, far, pavement)
    joints = np.arange(3.0, 22.0, 1.6) + dice.uniform(0, 1.6)
    for a, b in ((-PAVED_M, -ROAD_M), (ROAD_M, PAVED_M)):
        stripes(a, b, np.stack([joints, joints + 0.06], 1), mix(pavement, (70, 70, 70), 0.3))
    strip(-ROAD_M, ROAD_M, NEAR_M, far, (tone, tone, tone + 4))
    for x in (-1.9, 1.9):  # worn lanes
        strip(x - 0.8, x + 0.8, NEAR_M, 60.0, (tone - 5, tone - 5, tone - 1))
    for _ in range(dice.integers(4)):  # mended places
        x, z, deep = dice.uniform(-3, 2), dice.uniform(4, 20), dice.uniform(0.8, 3)
        strip(x, x + dice.uniform(0.5, 1.6), z, z + deep, (tone - 14, tone - 14, tone - 12))
    kerb = mix(pavement, (245, 245, 240), 0.45)
    for x in (-ROAD_M, ROAD_M - 0.16):
        strip(x, x + 0.16, NEAR_M, 70.0, kerb)
    edge = COLOURS[country.edge_line or "white"]
    if dice.random() < 0.75:
        for x in (-3.2, 3.2):
            strip(x - 0.08, x + 0.08, NEAR_M, 90.0, edge)
    _markings(country, strip, stripes, dice)


def _markings(country: Country, strip, stripes, dice: Dice) -> None:
    """The centre line, and sometimes a zebra crossing."""
    centre = COLOURS[country.centre_line] if country.centre_line else (200, 198, 190)
    zebra = dice.uniform(8, 15) if dice.random() < 0.3 else 0.0
    if dice.random() < 0.25:
        for x in (-0.14, 0.14):
            strip(x - 0.07, x + 0.07, NEAR_M, 90.0, centre)
    else:
        starts = np.arange(NEAR_M + dice.uniform(0, 4), 60, 5.0)
        if zebra:
            starts = starts[(starts + 3 < zebra) | (starts > zebra + 3.2)]
        stripes(-0.09, 0.09, np.stack([starts, starts + 3.0], 1), centre)
    if zebra:
        band = np.array([[zebra, zebra + 3.0]])
        for x in np.arange(-3.1, 3.0, 0.9).tolist():
            stripes(x, x + 0.45, band, (232, 232, 228))


def _lamps(light: Light, dice: Dice) -> list:
    """Lamp posts along one side and, in some streets, poles with wires along the other; near ones hide far ones."""
    things = []
    side = pick(dice, (-1, 1))
    if dice.random() < 0.75 or light.dark:
        z, step = dice.uniform(7, 14), dice.uniform(15, 24)
        while z < 60:
            things.append((z, "lamp", (side, z, "lamp", ())))
            z += step
    if dice.random() < 0.5:
        z, step, sag = dice.uniform(6, 12), dice.uniform(13, 19), dice.uniform(0.4, 0.9)
        while z < 60:
            things.append((z, "lamp", (-side, z, "pole", (step, sag))))
            z += step
    return things


def _lamp(canvas: Canvas, camera: Camera, lamp: tuple, light: Light) -> None:
    side, z, kind, wires = lamp
    x, thick = side * 5.2, 0.12 if kind == "lamp" else 0.2
    high = 6.2 if kind == "lamp" else 7.4
    colour = light.tone((86, 90, 94) if kind == "lamp" else (96, 78, 60), z)
    (xa, low), (xb, top) = camera.at(x - thick / 2, 0, z), camera.at(x + thick / 2, high, z)
    canvas.box(xa, top, max(xb, xa + 1.2), low, colour)
    if kind == "pole":
        bar = [camera.at(x + u, high - 0.4, z) for u in (-0.9, 0.9)]
        canvas.line(bar, max(0.12 * FOCAL / z, 1), colour)
        step, sag = wires
        for u in (-0.8, 0.0, 0.8) if z < 30 else (0.0,):
            curve = [
                camera.at(x + u, high - 0.35 - 4 * sag * t * (1 - t), z + t * step) for t in (0, 0.2, 0.4, 0.6, 0.8, 1)
            ]
            canvas.wire(curve, light.tone((46, 46, 50), z))
        return
    reach = camera.at(x - side * 1.3, high, z)
    canvas.line([((xa + xb) / 2, top), reach], max(0.1 * FOCAL / z, 1), colour)
    size = 0.34 * FOCAL / z
    bulb = light.glow((255, 232, 170), z) if light.dark else light.tone((226, 226, 216), z)
    if light.dark and z > 9:
        canvas.disc(*reach, size * 1.5, size * 1.1, mix(bulb, light.haze, 0.6))
    canvas.disc(reach[0], reach[1] + size * 0.15, size * 0.7, max(size * 0.3, 0.8), bulb)
