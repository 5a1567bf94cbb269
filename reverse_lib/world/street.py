"""The street a scene stands in: sky, hills, road, buildings and trees.

One pinhole camera on the driver's side of a straight road. World coordinates are metres: X to the right of the
centre line, height above the road, z ahead of the camera. Everything is drawn far to near with Pillow; nothing is
supersampled, since photos are drawn by the ten thousand.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from reverse_lib.world.gazetteer import Country, pick, stream
from reverse_lib.world.items import FOCAL, HEIGHT, WIDTH, Camera, Item, paint_item
from reverse_lib.world.parts import COLOURS, Colour, mix
from reverse_lib.world.plants import tree_sprite

GROUNDS: dict[str, Colour] = {
    "mediterranean": (172, 158, 100),
    "oceanic": (92, 146, 70),
    "temperate": (124, 148, 80),
    "tropical": (64, 126, 54),
    "arid": (202, 168, 120),
    "savanna": (190, 166, 94),
    "boreal": (100, 122, 88),
}
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
    "": ((214, 200, 176), (196, 186, 178), (226, 206, 170), (186, 176, 160), (210, 190, 190)),
}
HOURS: dict[str, tuple[Colour, Colour, tuple[float, float, float]]] = {  # zenith, horizon, light
    "noon": ((88, 148, 220), (190, 216, 238), (1.0, 1.0, 1.0)),
    "morning": ((126, 170, 222), (240, 222, 196), (1.03, 0.98, 0.92)),
    "evening": ((96, 104, 168), (246, 178, 120), (1.02, 0.88, 0.76)),
    "overcast": ((168, 174, 182), (206, 210, 214), (0.88, 0.90, 0.93)),
}


def paint_street(
    country: Country, camera: Camera, hour: str, snow: bool, items: list[Item], rng: np.random.Generator
) -> Image.Image:
    """Draws everything but the marked regions.

    Args:
        country: Whose facts to draw.
        camera: From where.
        hour: Key of `HOURS`.
        snow: Whether the ground is white.
        items: Small things already placed by `place_items`.
        rng: Source of everything that carries no information.

    Returns:
        RGB image, 640×480, not yet tinted (see `finish`).
    """
    image = _sky(camera, hour, rng)
    draw = ImageDraw.Draw(image)
    ground = (232, 234, 238) if snow else GROUNDS[country.climate]
    _hills(draw, camera, ground, rng)
    draw.rectangle((0, camera.horizon_px, WIDTH, HEIGHT), fill=ground)
    _road(draw, camera, country, rng)
    things = _buildings(camera, country, rng) + _trees(camera, country, rng)
    for _, paint in sorted(things, key=lambda thing: -thing[0]):
        paint(image, draw)
    for item in sorted(items, key=lambda item: -item.z_m):
        paint_item(image, draw, country, item)
    return image


def finish(image: Image.Image, hour: str, rng: np.random.Generator) -> Image.Image:
    """Light of the hour, exposure and grain over the whole picture."""
    exposure = rng.uniform(0.88, 1.08)
    light = [factor * exposure for factor in HOURS[hour][2]]
    table = [min(round(value * factor), 255) for factor in light for value in range(256)]
    grain = _grain(int(rng.integers(4)))
    shift_x, shift_y = int(rng.integers(WIDTH)), int(rng.integers(HEIGHT))
    return ImageChops.add(image.point(table), ImageChops.offset(grain, shift_x, shift_y), 1.0, -12)


@lru_cache(maxsize=4)
def _grain(index: int) -> Image.Image:
    noise = stream("grain", index).normal(12, 4.5, (HEIGHT, WIDTH, 3))
    return Image.fromarray(np.clip(np.round(noise), 0, 24).astype(np.uint8))


@lru_cache(maxsize=8)
def _clouds(index: int) -> Image.Image:
    """Coverage (mode L, 640×300) of one of eight cloud fields."""
    rng, field = stream("clouds", index), np.zeros((300, 640), np.float64)
    for octave, weight in ((4, 1.0), (8, 0.5), (16, 0.3)):
        grid = np.pad(rng.random((octave, 2 * octave)), ((0, 0), (octave, octave)), mode="wrap")  # no seam
        coarse = Image.fromarray((grid * 255).astype(np.uint8)).resize((1280, 300), Image.Resampling.BICUBIC)
        field += weight * np.asarray(coarse, np.float64)[:, 320:960]
    cover = np.clip((field / 1.8 - 128) * 3.2, 0, 200)
    return Image.fromarray(np.round(cover).astype(np.uint8))


def _sky(camera: Camera, hour: str, rng: np.random.Generator) -> Image.Image:
    zenith, horizon, _ = HOURS[hour]
    rows = int(camera.horizon_px) + 1
    share = (np.arange(rows) / rows)[:, None]  # (rows, 1)
    ramp = np.round(np.array(zenith) * (1 - share) + np.array(horizon) * share).astype(np.uint8)
    image = Image.new("RGB", (WIDTH, HEIGHT))
    image.paste(Image.fromarray(ramp[:, None, :]).resize((WIDTH, rows), Image.Resampling.NEAREST), (0, 0))
    clouds = _clouds(int(rng.integers(8)))
    shift = int(rng.integers(WIDTH))
    cover = ImageChops.offset(clouds, shift, 0).crop((0, 0, WIDTH, rows))
    image.paste(mix(horizon, (255, 255, 255), 0.6 if hour != "overcast" else 0.2), (0, 0), cover)
    return image


def _hills(draw: ImageDraw.ImageDraw, camera: Camera, ground: Colour, rng: np.random.Generator) -> None:
    for layer in range(int(rng.integers(1, 4))):
        height = rng.uniform(8, 58) / (1 + layer)
        xs = np.linspace(-20, WIDTH + 20, 12)
        ys = camera.horizon_px - height * rng.uniform(0.25, 1.0, 12)
        outline = [
            *zip(xs.tolist(), ys.tolist(), strict=True),
            (WIDTH + 20, camera.horizon_px + 4),
            (-20, camera.horizon_px + 4),
        ]
        draw.polygon(outline, fill=mix(ground, (150, 172, 200), 0.62 - 0.2 * layer))


def _road(draw: ImageDraw.ImageDraw, camera: Camera, country: Country, rng: np.random.Generator) -> None:
    near, far = 1.0, 200.0
    tone = int(rng.integers(84, 118))

    def strip(x_a: float, x_b: float, z_a: float, z_b: float, colour: Colour) -> None:
        points = [(x_a, z_a), (x_b, z_a), (x_b, z_b), (x_a, z_b)]
        draw.polygon([camera.at(x, 0, z) for x, z in points], fill=colour)

    pavement = int(rng.integers(150, 186))
    strip(-5.4, 5.4, near, far, (pavement, pavement - 4, pavement - 10))
    strip(-3.6, 3.6, near, far, (tone, tone, tone + 4))
    edge = COLOURS[country.edge_line or "white"]
    if rng.random() < 0.75:
        for x in (-3.2, 3.2):
            strip(x - 0.08, x + 0.08, near, far, edge)
    centre = COLOURS[country.centre_line] if country.centre_line else (200, 198, 190)
    if rng.random() < 0.25:
        for x in (-0.14, 0.14):
            strip(x - 0.07, x + 0.07, near, far, centre)
    else:
        phase = rng.uniform(0, 4)
        for z in np.arange(near + phase, 60, 5.0):
            strip(-0.09, 0.09, z, z + 3.0, centre)


def _buildings(camera: Camera, country: Country, rng: np.random.Generator) -> list:
    things, density, low = [], rng.uniform(0.3, 0.95), rng.random() < 0.7
    for side in (-1, 1):
        z = rng.uniform(6, 10)
        while z < 70:
            length = rng.uniform(5, 11)
            if rng.random() < density:
                x = side * (5.6 + rng.uniform(0.2, 3.5))
                height = rng.uniform(2.8, 5.2) if low else rng.uniform(5, 13)
                style = (pick(rng, WALLS[country.wall]), int(rng.integers(1 << 30)))
                things.append((z, _building(camera, country, (x, side, z, z + length, height), style)))
            z += length + rng.uniform(0.2, 5)
    return things


def _building(camera: Camera, country: Country, shape: tuple, style: tuple[Colour, int]):
    x, side, z_near, z_far, height = shape
    wall, salt = style
    depth = 6 + salt % 5
    lit = 0.0 if (side > 0) == bool(salt % 2) else 0.18
    roof = mix(ROOFS[country.roof] if country.roof else (140, 130, 124), (60, 60, 60), (salt // 7 % 5) * 0.05)

    def paint(image: Image.Image, draw: ImageDraw.ImageDraw) -> None:
        at = camera.at
        far_x = x + side * depth
        draw.polygon(
            [at(x, 0, z_near), at(far_x, 0, z_near), at(far_x, height, z_near), at(x, height, z_near)],
            fill=mix(wall, (0, 0, 0), lit),
        )
        draw.polygon(
            [at(x, 0, z_near), at(x, 0, z_far), at(x, height, z_far), at(x, height, z_near)],
            fill=mix(wall, (0, 0, 0), 0.18 - lit),
        )
        glass = ((64, 74, 88), (92, 110, 128), (50, 52, 60))[salt // 11 % 3]
        columns, floors = max(int((z_far - z_near) / 2.2), 1), max(int(height / 2.8), 1)
        for floor in range(floors):
            low_m, high_m = 0.9 + floor * 2.8, min(2.1 + floor * 2.8, height - 0.2)
            for column in range(columns):
                a = z_near + (column + 0.3) * (z_far - z_near) / columns
                b = a + 0.45 * (z_far - z_near) / columns
                draw.polygon([at(x, low_m, a), at(x, low_m, b), at(x, high_m, b), at(x, high_m, a)], fill=glass)
            for offset in (0.2, 0.6):
                a, b = x + side * depth * offset, x + side * depth * (offset + 0.2)
                (left, bottom), (right, top) = at(a, low_m, z_near), at(b, high_m, z_near)
                draw.rectangle((min(left, right), top, max(left, right), bottom), fill=glass)
        _roof(draw, camera, shape, depth, roof, country.roof == "flat")

    return paint


def _roof(draw: ImageDraw.ImageDraw, camera: Camera, shape: tuple, depth: float, roof: Colour, flat: bool) -> None:
    x, side, z_near, z_far, height = shape
    at, far_x = camera.at, x + side * depth
    if flat:
        rim = height + 0.5
        draw.polygon(
            [at(x, height, z_near), at(far_x, height, z_near), at(far_x, rim, z_near), at(x, rim, z_near)],
            fill=mix(roof, (0, 0, 0), 0.2),
        )
        draw.polygon([at(x, height, z_near), at(x, height, z_far), at(x, rim, z_far), at(x, rim, z_near)], fill=roof)
        return
    ridge_x, ridge = x + side * depth / 2, height + 0.42 * depth
    eave, out = height - 0.25, x - side * 0.4
    front, back = z_near + 0.8, z_far - 0.8
    draw.polygon(
        [at(out, eave, z_near - 0.3), at(far_x, eave, z_near - 0.3), at(ridge_x, ridge, front)],
        fill=mix(roof, (0, 0, 0), 0.22),
    )
    draw.polygon(
        [at(out, eave, z_near - 0.3), at(out, eave, z_far), at(ridge_x, ridge, back), at(ridge_x, ridge, front)],
        fill=roof,
    )


def _trees(camera: Camera, country: Country, rng: np.random.Generator) -> list:
    things = []
    for _ in range(int(rng.integers(3, 10))):
        side, z = pick(rng, (-1, 1)), rng.uniform(7, 45)
        x, height = side * rng.uniform(5.4, 15), rng.uniform(3.4, 7.5)
        kind = country.trees if rng.random() < 0.85 else "broadleaf"
        variant = int(rng.integers(3))
        things.append((z, _tree(camera, x, z, height, kind, variant)))
    return things


def _tree(camera: Camera, x: float, z: float, height: float, kind: str, variant: int):
    def paint(image: Image.Image, draw: ImageDraw.ImageDraw) -> None:
        foot_x, foot_y = camera.at(x, 0, z)
        size = min(max(round(height * FOCAL / z), 8), 380) // 8 * 8 or 8
        sprite = tree_sprite(kind, variant, size)
        image.paste(sprite, (round(foot_x - sprite.width / 2), round(foot_y - sprite.height)), sprite)

    return paint
