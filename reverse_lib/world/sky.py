"""Hour and weather: the light they give, the sky, and what stands on the horizon."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

from reverse_lib.world.canvas import Canvas, Colour, Light, lit, mix
from reverse_lib.world.dice import Dice, stream

HOURS: dict[str, tuple[Colour, Colour, tuple[float, float, float]]] = {  # zenith, horizon, light
    "noon": ((78, 140, 218), (188, 214, 238), (1.0, 1.0, 1.0)),
    "morning": ((120, 164, 220), (244, 222, 190), (1.03, 0.97, 0.89)),
    "evening": ((84, 96, 164), (248, 172, 112), (0.97, 0.80, 0.67)),
    "night": ((10, 14, 34), (46, 50, 80), (0.36, 0.39, 0.52)),
}
HOUR_SHARES = {"morning": 0.3, "noon": 0.32, "evening": 0.2, "night": 0.18}
WEATHER: dict[str, tuple[Colour, float, float, float]] = {  # sky towards, share of it, light, metres of sight
    "clear": ((255, 255, 255), 0.0, 1.0, 420.0),
    "overcast": ((178, 184, 190), 0.8, 0.86, 260.0),
    "rain": ((134, 142, 152), 0.85, 0.72, 90.0),
    "fog": ((206, 208, 208), 0.95, 0.88, 26.0),
    "snow": ((214, 218, 224), 0.9, 0.9, 70.0),
}
WEATHER_SHARES: dict[str, dict[str, float]] = {
    "mediterranean": {"clear": 0.62, "overcast": 0.18, "rain": 0.13, "fog": 0.07},
    "oceanic": {"clear": 0.36, "overcast": 0.30, "rain": 0.24, "fog": 0.10},
    "temperate": {"clear": 0.50, "overcast": 0.22, "rain": 0.14, "fog": 0.08, "snow": 0.06},
    "tropical": {"clear": 0.52, "overcast": 0.20, "rain": 0.24, "fog": 0.04},
    "arid": {"clear": 0.80, "overcast": 0.12, "rain": 0.04, "fog": 0.04},
    "savanna": {"clear": 0.66, "overcast": 0.20, "rain": 0.11, "fog": 0.03},
    "boreal": {"clear": 0.42, "overcast": 0.20, "rain": 0.10, "fog": 0.06, "snow": 0.22},
}
SKY_ROWS = 300


def sky_colours(hour: str, weather: str) -> tuple[Colour, Colour]:
    """Zenith and horizon."""
    zenith, horizon, light = HOURS[hour]
    towards, share, _, _ = WEATHER[weather]
    veil = lit(towards, (0.3,) * 3 if hour == "night" else light)
    return mix(zenith, veil, share), mix(horizon, veil, share * 0.9)


def make_light(hour: str, weather: str, exposure: float, tint: tuple[float, float]) -> Light:
    """The light of an hour and a weather.

    Args:
        hour: Key of `HOURS`.
        weather: Key of `WEATHER`.
        exposure: Of the camera, about 1.
        tint: Its errors in red and in blue, about (1, 1).
    """
    _, _, strength, sight = WEATHER[weather]
    balance = (exposure * tint[0], exposure, exposure * tint[1])
    factors = tuple(a * strength * b for a, b in zip(HOURS[hour][2], balance, strict=True))
    bright = tuple(max(a * strength, 0.7 * strength + 0.03) * b for a, b in zip(HOURS[hour][2], balance, strict=True))
    haze = lit(sky_colours(hour, weather)[1], balance)
    windows = {"noon": 0.0, "morning": 0.04, "evening": 0.3, "night": 0.55}[hour]
    return Light(factors, haze, sight, bright, windows, hour == "night")


@lru_cache(maxsize=8)
def _clouds(index: int) -> np.ndarray:
    """Coverage 0..255 of one of eight cloud fields, uint8 (300, 2560): seamless, twice the same field side by side.

    Whole numbers throughout: noise of four sizes, enlarged and summed, then a threshold.
    """
    rng, field = stream("clouds", index), np.zeros((SKY_ROWS, 1280), np.int64)
    for cells, weight in ((4, 8), (8, 4), (16, 3), (40, 2)):
        grid = rng.integers(0, 256, (2 * cells, cells), dtype=np.uint8)
        wide = np.concatenate([grid, grid, grid], axis=1)  # the middle third meets itself at both ends
        large = Image.fromarray(wide).resize((3 * 1280, SKY_ROWS), Image.Resampling.BICUBIC)
        field += weight * np.asarray(large, np.int64)[:, 1280:2560]
    cover = np.clip((field // 17 - 122) * 5, 0, 215).astype(np.uint8)
    return np.concatenate([cover, cover], axis=1)


def paint_sky(canvas: Canvas, horizon_px: float, hour: str, weather: str, light: Light, dice: Dice) -> None:
    """Sky with clouds, stars at night, down to the horizon."""
    rows = min(int(horizon_px) + 2, SKY_ROWS)
    zenith, horizon = sky_colours(hour, weather)
    top = lit(zenith, [light.haze[i] / max(horizon[i], 1) for i in range(3)])
    steps = np.arange(rows)[:, None]  # (rows, 1)
    ramp = (np.array(top) * (rows - steps) + np.array(light.haze) * steps) // rows  # (rows, 3)
    sky = canvas.pixels[:rows]
    cv2.resize(ramp.astype(np.uint8)[:, None], (canvas.size[0], rows), sky, interpolation=cv2.INTER_NEAREST)
    if hour == "night" and weather == "clear":
        for _ in range(40):
            y, x = dice.integers(rows), dice.integers(canvas.size[0])
            sky[y, x] = (150, 154, 168)
    if weather == "fog":
        return
    shift, raised = dice.integers(1280), dice.integers(SKY_ROWS - rows + 1)
    index, flip = dice.integers(8), dice.random() < 0.5
    cover = _clouds(index)[raised : raised + rows, shift : shift + canvas.size[0]]
    white = mix(light.haze, (255, 255, 255), 0.6) if hour in ("noon", "morning") else mix(light.haze, top, 0.3)
    if weather != "clear":
        white = mix(light.haze, top, 0.8)
    if flip:
        cover = cv2.flip(cover, 1)
    middle = mix(top, light.haze, 0.5)
    gain = [value - below for value, below in zip(white, middle, strict=True)]
    for sign, change in ((1, cv2.add), (-1, cv2.subtract)):
        tables = [(np.arange(256) * max(sign * value, 0) // 255).astype(np.uint8) for value in gain]
        change(sky, cv2.merge([cv2.LUT(cover, table) for table in tables]), dst=sky)


def paint_horizon(canvas: Canvas, horizon_px: float, climate: str, ground: Colour, light: Light, dice: Dice) -> None:
    """Hills, and a line of trees or bare land before them."""
    width = canvas.size[0]

    def ridge(xs: list[float], tops: list[float], colour: Colour) -> None:
        outline = [(xs[0], horizon_px + 4), *zip(xs, tops, strict=True), (xs[-1], horizon_px + 4)]
        canvas.shape(outline, colour)

    for layer in range(1 + dice.integers(3)):
        height = dice.uniform(8, 62) / (1 + layer)
        xs = [width * (i - 1) / 11 for i in range(14)]
        tops = [horizon_px - height * dice.uniform(0.25, 1.0) for _ in xs]
        ridge(xs, tops, light.tone(mix(ground, (96, 116, 120), 0.4), 520 - 170 * layer))
    if climate not in ("arid", "savanna"):
        xs = [i * 16 - 8 for i in range(width // 16 + 3)]
        ridge(xs, [horizon_px - dice.uniform(2, 12) for _ in xs], light.tone(mix(ground, (30, 60, 34), 0.6), 150))


def paint_weather(canvas: Canvas, weather: str, light: Light, dice: Dice) -> None:
    """What falls: streaks of rain, flakes of snow."""
    width, height = canvas.size
    if weather == "rain":
        colour = mix(light.haze, (255, 255, 255), 0.25)
        streaks = []
        for _ in range(70):
            x, y, length = dice.integers(width * 16), dice.integers(height * 16), 100 + dice.integers(160)
            streaks.append([[x, y], [x + length // 6, y + length]])
        cv2.polylines(canvas.pixels, list(np.array(streaks, np.int32)), False, colour, 1, cv2.LINE_AA, 4)
    elif weather == "snow":
        colour = mix(light.haze, (255, 255, 255), 0.7)
        for _ in range(140):
            x, y = dice.integers(width), dice.integers(height)
            side = 1 + dice.integers(3)
            canvas.pixels[y : y + side, x : x + side] = colour
