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
    BOLD,
    COLOURS,
    FOCAL,
    HEIGHT,
    WIDTH,
    Box,
    Camera,
    Canvas,
    Colour,
    Light,
    lit,
    mix,
    overlap,
    shifted,
    text_width,
)
from reverse_lib.world.dice import Dice, pick
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
ROOFS: dict[str, Colour] = {
    "terracotta": (196, 104, 66),
    "redtile": (158, 58, 44),
    "slate": (84, 92, 108),
    "shingle": (112, 104, 98),
    "metal": (176, 184, 190),
    "bluetile": (72, 96, 128),
    "flat": (170, 164, 154),
}
WALLS: dict[str, tuple[Colour, ...]] = {
    "brick": ((158, 84, 64), (172, 98, 76), (146, 74, 60)),
    "white": ((240, 238, 230), (232, 226, 212), (246, 244, 240)),
    "falured": ((142, 42, 34), (150, 50, 40), (226, 196, 110)),
    "wood": ((206, 220, 220), (226, 218, 190), (190, 206, 190)),
    "": ((214, 200, 176), (196, 186, 178), (226, 206, 170), (186, 176, 160), (210, 190, 190), (222, 190, 150)),
}
SHOP_COLOURS: tuple[Colour, ...] = ((36, 74, 120), (140, 40, 40), (60, 60, 66), (190, 120, 40), (98, 52, 92))
PHARMACY_GREEN: Colour = (0, 140, 76)
GREEN_CROSS = ("FR", "GB", "IE", "IT", "ES", "PT")  # codes of countries where pharmacies show one
GLASS: tuple[Colour, ...] = ((64, 74, 88), (92, 110, 128), (50, 52, 60))
LAMPLIGHT: Colour = (255, 214, 132)
FLOOR_M = 2.9


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


@dataclass(frozen=True)
class House:
    """One building."""

    x_m: float  # where its wall along the street stands, to the right of the centre line
    side: int  # 1 on the right of the road, -1 on the left
    near_m: float  # distance of its near end
    far_m: float  # distance of its far end
    height_m: float  # of its walls
    depth_m: float  # extent away from the street
    wall: Colour  # colour
    salt: int  # decides details that mean nothing
    shop: str = ""  # word on the shop's sign, "" without a shop
    green_cross: bool = False  # whether the shop is a pharmacy
    sign: Box | None = None  # pixels of the shop's sign, None where there is none
    label_px: int = 0  # height of its letters, 0 where they could not be read


def plan_houses(country: Country, camera: Camera, dice: Dice) -> list[House]:
    """Buildings on both sides, near ones first on each side; some have a shop whose sign sticks out."""
    houses, density, low = [], dice.uniform(0.3, 0.95), dice.random() < 0.65
    for side in (-1, 1):
        z = dice.uniform(5.5, 10)
        row = dice.uniform(0.2, 1.6)  # how far back this side is built
        while z < 64:
            length = dice.uniform(5, 11)
            if dice.random() < density:
                back = row if dice.random() < 0.7 else row + dice.uniform(0.5, 3)
                floors = 1 + dice.integers(2) if low else 2 + dice.integers(3)
                house = House(
                    x_m=side * (5.7 + back),
                    side=side,
                    near_m=z,
                    far_m=z + length,
                    height_m=floors * FLOOR_M + dice.uniform(0.1, 0.7),
                    depth_m=dice.uniform(6, 10),
                    wall=shifted(pick(dice, WALLS[country.wall]), dice, 9),
                    salt=dice.integers(1 << 30),
                )
                houses.append(_with_shop(house, country, camera, dice) if dice.random() < 0.4 else house)
            z += length + (dice.uniform(0.1, 0.4) if dice.random() < 0.5 else dice.uniform(1, 6))
    return houses


def _with_shop(house: House, country: Country, camera: Camera, dice: Dice) -> House:
    """The house with a shop on its ground floor; its sign faces the camera, as wide as the word needs."""
    shops = country.words[1:]
    if not shops:
        return house
    word = pick(dice, shops)
    cross = word == country.words[1] and country.code in GREEN_CROSS
    z, high = house.near_m + 0.3, dice.uniform(2.9, 3.4)
    scale = min(FOCAL / z, 42)  # px a metre; signs on near walls are smaller
    tall_px = round(0.62 * scale)
    text_px = round(0.46 * scale)
    wide_px = text_width(word, BOLD, text_px) + round(0.3 * scale) + (tall_px if cross else 0)
    x, y = camera.at(house.x_m, high, z)
    left = round(x) if house.side < 0 else round(x) - wide_px
    box = (left, round(y) - tall_px, left + wide_px, round(y))
    inside = box[0] >= 4 and box[2] <= WIDTH - 4 and box[1] >= 4 and box[3] < HEIGHT
    readable = text_px if inside and text_px >= 9 else 0
    return replace(house, shop=word, green_cross=cross, sign=box if inside else None, label_px=readable)


def house_extent(camera: Camera, house: House) -> Box:
    """Pixel box around a building and its roof."""
    ends = [
        camera.at(x, h, house.near_m)
        for x in (house.x_m, house.x_m + house.side * house.depth_m)
        for h in (0, house.height_m + 0.45 * house.depth_m)
    ]
    ends += [camera.at(house.x_m, h, house.far_m) for h in (0, house.height_m)]
    xs, ys = [x for x, _ in ends], [y for _, y in ends]
    return int(min(xs)) - 4, int(min(ys)), int(max(xs)) + 4, int(max(ys))


def paint_house(canvas: Canvas, camera: Camera, country: Country, house: House, light: Light, snow: bool) -> None:
    """Paints one building; what is far away has fewer details."""
    left, _, right, _ = house_extent(camera, house)
    if right < 0 or left > WIDTH:
        return
    at, x, near, far = camera.at, house.x_m, house.near_m, house.far_m
    outer, height, salt = x + house.side * house.depth_m, house.height_m, house.salt
    shade = (0.0, 0.2) if (house.side > 0) == (salt % 2 == 0) else (0.2, 0.0)
    front = light.tone(mix(house.wall, (40, 40, 60), shade[0]), near)
    along = light.tone(mix(house.wall, (40, 40, 60), shade[1]), near)
    canvas.fill((at(x, 0, near), at(outer, 0, near), at(outer, height, near), at(x, height, near)), front)
    canvas.fill((at(x, 0, near), at(x, 0, far), at(x, height, far), at(x, height, near)), along)
    if near < 40:
        plinth = mix(along, (50, 48, 46), 0.35)
        canvas.fill((at(x, 0, near), at(x, 0, far), at(x, 0.5, far), at(x, 0.5, near)), plinth)
    _windows(canvas, camera, house, light)
    if near < 45:
        _ground_floor(canvas, camera, house, light)
    _roof(canvas, camera, country, house, light, snow)
    if house.sign and near < 45:
        _shop_sign(canvas, house, light)


def _windows(canvas: Canvas, camera: Camera, house: House, light: Light) -> None:
    x, near, far, salt = house.x_m, house.near_m, house.far_m, house.salt
    floors = max(int(house.height_m / FLOOR_M), 1)
    columns = max(int((far - near) / (1.9 + salt % 3 * 0.4)), 1)
    first = 1 if house.shop else 0
    pitch = (far - near) / columns
    starts = near + (np.arange(columns) + 0.28) * pitch
    zs = np.stack([starts, starts + pitch * 0.44], axis=1)  # (columns, 2)
    lows = 0.95 + FLOOR_M * np.arange(first, floors)
    hs = np.stack([lows, lows + 1.4], axis=1)  # (floors, 2)
    glass = light.tone(mix(GLASS[salt // 11 % 3], house.wall, 0.12), near)
    if not len(hs):
        return
    if near > 42 and not light.lit:  # far away a floor of windows is a line
        grid = _wall_quads(camera, x, np.array([[near + 0.4, far - 0.4]]), hs)
        canvas.quads(grid, mix(glass, light.tone(house.wall, near), 0.5))
        return
    grid = _wall_quads(camera, x, zs, hs)  # (floors * columns, 4, 2)
    if near < 20:
        rim = _wall_quads(camera, x, zs + (-0.12, 0.12), hs + (-0.14, 0.1))
        canvas.quads(rim, light.tone(mix(house.wall, (250, 248, 240), 0.6), near))
    lit = [i for i in range(len(grid)) if light.lit and (salt >> i % 23) % 97 < 97 * light.lit]
    canvas.quads(grid, glass)
    if lit:
        canvas.quads(grid[lit], light.glow(LAMPLIGHT, near))
    outer = x + house.side * house.depth_m
    a, b = camera.at(x, 0, near)[0], camera.at(outer, 0, near)[0]
    if min(a, b) > WIDTH or max(a, b) < 0 or near > 45:
        return
    across = x + house.side * (np.array([[0.16, 0.34], [0.6, 0.78]]) * house.depth_m)
    scale = FOCAL / near
    xs = camera.vanish_px + (across - camera.x_m) * scale
    lows = 0.95 + FLOOR_M * np.arange(floors)
    for index, low in enumerate(lows):
        top, bottom = (camera.horizon_px + (camera.height_m - h) * scale for h in (low + 1.4, low))
        for side, (xa, xb) in enumerate(xs):
            bright = light.lit and (salt >> (index * 2 + side + 3)) % 89 < 89 * light.lit
            canvas.box(min(xa, xb), top, max(xa, xb), bottom, light.glow(LAMPLIGHT, near) if bright else glass)


def _wall_quads(camera: Camera, x_m: float, zs: np.ndarray, hs: np.ndarray) -> np.ndarray:
    """Pixels of rectangles on a wall along the street: z intervals (n, 2) by height intervals (m, 2) -> (m n, 4, 2)."""
    scale = FOCAL / zs  # (n, 2)
    px = camera.vanish_px + (x_m - camera.x_m) * scale
    low, high = (camera.horizon_px + (camera.height_m - hs[:, i, None, None]) * scale[None] for i in (0, 1))
    corners = np.empty((len(hs), len(zs), 4, 2))
    corners[..., 0] = px[:, [0, 1, 1, 0]]
    corners[..., :2, 1], corners[..., 2:, 1] = low, high[..., ::-1]
    return corners.reshape(-1, 4, 2)


def _ground_floor(canvas: Canvas, camera: Camera, house: House, light: Light) -> None:
    """A door; in a shop also a wide window and an awning."""
    at, x, near, length = camera.at, house.x_m, house.near_m, house.far_m - house.near_m

    def strip(a: float, b: float, low: float, high: float, colour: Colour, out: float = 0.0) -> None:
        za, zb, xo = near + a * length, near + b * length, x - house.side * out
        canvas.fill((at(xo, low, za), at(xo, low, zb), at(x, high, zb), at(x, high, za)), colour)

    door = ((96, 60, 40), (44, 70, 60), (60, 62, 84), (130, 50, 44))[house.salt // 5 % 4]
    if house.shop:
        glass = light.glow((255, 226, 160), near) if light.lit > 0.2 else light.tone((120, 142, 152), near)
        strip(0.06, 0.6, 0.5, 2.3, glass)
        strip(0.68, 0.88, 0.0, 2.2, light.tone(door, near))
        awning = SHOP_COLOURS[house.salt // 17 % len(SHOP_COLOURS)]
        strip(0.03, 0.94, 2.35, 2.85, light.tone(awning, near), 0.9)
    else:
        strip(0.44, 0.56, 0.0, 2.15, light.tone(mix(door, (240, 236, 226), 0.5), near))
        strip(0.455, 0.545, 0.0, 2.05, light.tone(door, near))


def _roof(canvas: Canvas, camera: Camera, country: Country, house: House, light: Light, snow: bool) -> None:
    at, x, near, far, height = camera.at, house.x_m, house.near_m, house.far_m, house.height_m
    outer = x + house.side * house.depth_m
    base = ROOFS[country.roof] if country.roof else (140, 130, 124)
    base = mix(base, (60, 60, 60), house.salt // 7 % 5 * 0.05)
    roof = (236, 238, 242) if snow else base
    if country.roof == "flat":
        rim = height + 0.5
        front = (at(x, height, near), at(outer, height, near), at(outer, rim, near), at(x, rim, near))
        canvas.fill(front, light.tone(mix(roof, (0, 0, 0), 0.2), near))
        side = (at(x, height, near), at(x, height, far), at(x, rim, far), at(x, rim, near))
        canvas.fill(side, light.tone(roof, near))
        return
    ridge_x, ridge = x + house.side * house.depth_m / 2, height + (0.3 + house.salt % 4 * 0.05) * house.depth_m
    eave, out = height - 0.25, x - house.side * 0.4
    gable = light.tone(mix(house.wall, (40, 40, 60), 0.12), near)
    canvas.fill((at(x, height, near), at(outer, height, near), at(ridge_x, ridge, near)), gable)
    edge = light.tone(mix(roof, (0, 0, 0), 0.3), near)
    tip = at(ridge_x, ridge + 0.15, near - 0.3)
    canvas.line([at(out, eave, near - 0.3), tip], max(60 / near, 1.2), edge)
    canvas.line([tip, at(outer + house.side * 0.4, eave, near - 0.3)], max(60 / near, 1.2), edge)
    slope = (at(out, eave, near - 0.3), at(out, eave, far), at(ridge_x, ridge, far), tip)
    canvas.fill(slope, light.tone(roof, near))
    if near < 40:
        low = eave - 0.14
        gutter = (at(out, eave, near - 0.3), at(out, eave, far), at(out, low, far), at(out, low, near - 0.3))
        canvas.fill(gutter, light.tone(mix(base, (0, 0, 0), 0.45), near))
        if house.salt % 3 == 0:
            z, top = near + (far - near) * 0.3, ridge + 0.7
            (xa, ya), (xb, yb) = at(ridge_x - 0.3, ridge - 0.3, z), at(ridge_x + 0.3, top, z)
            canvas.box(xa, yb, xb, ya, light.tone((134, 92, 78), near))


def _shop_sign(canvas: Canvas, house: House, light: Light) -> None:
    left, top, right, bottom = house.sign
    tall = bottom - top
    ground = PHARMACY_GREEN if house.green_cross else SHOP_COLOURS[house.salt // 17 % len(SHOP_COLOURS)]

    def bright(colour: Colour) -> Colour:
        return light.glow(lit(colour, light.panel), house.near_m)

    canvas.rect(left, top, right, bottom, bright(mix(ground, (255, 255, 255), 0.35)))
    canvas.rect(left + 1, top + 1, right - 1, bottom - 1, bright((244, 246, 242) if house.green_cross else ground))
    if house.green_cross:
        arm, middle = tall * 0.13, (left + tall / 2, top + tall / 2)
        canvas.box(middle[0] - arm, middle[1] - 3 * arm, middle[0] + arm, middle[1] + 3 * arm, bright(ground))
        canvas.box(middle[0] - 3 * arm, middle[1] - arm, middle[0] + 3 * arm, middle[1] + arm, bright(ground))
        left += tall
    if house.label_px:
        ink = bright((0, 96, 52) if house.green_cross else (246, 242, 230))
        canvas.write(house.shop, BOLD, house.label_px, (left, top, right, bottom), ink)
