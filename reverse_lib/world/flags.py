"""Flags, drawn from the instructions in `data/countries.csv`, and the colour words of that table."""

from __future__ import annotations

import math
from functools import lru_cache

from PIL import Image, ImageDraw

from reverse_lib.world.canvas import Colour

COLOURS: dict[str, Colour] = {
    "white": (240, 240, 236),
    "black": (26, 26, 28),
    "yellow": (244, 200, 32),
    "gold": (250, 204, 30),
    "green": (0, 104, 66),
    "blue": (16, 72, 160),
    "red": (200, 28, 36),
    "ivory": (226, 214, 176),
    "turquoise": (60, 178, 164),
    "pink": (228, 40, 132),
    "orange": (240, 128, 30),
    "saffron": (248, 150, 50),
    "skyblue": (116, 172, 222),
    "navy": (10, 36, 110),
    "flagblue": (20, 82, 160),
    "flagred": (206, 26, 44),
    "flaggreen": (0, 128, 70),
    "brown": (130, 84, 40),
    "grey": (128, 130, 132),
}


@lru_cache(maxsize=512)
def draw_flag(spec: str, width: int, height: int) -> Image.Image:
    """A flag from its drawing instructions (`data/README.md` explains them).

    Args:
        spec: `kind colour[:weight]…` with kind h, v or solid, then `|shape …` overlays in units of the flag.
        width: Pixels.
        height: Pixels.

    Raises:
        ValueError: Unknown kind, shape or colour.
    """
    scale = 4
    flag = Image.new("RGB", (width * scale, height * scale))
    draw = ImageDraw.Draw(flag)
    base, *overlays = spec.split("|")
    _stripes(draw, base.split(), flag.size)
    for overlay in overlays:
        _shape(flag, draw, overlay.split())
    return flag.resize((width, height), Image.Resampling.BOX)


def _stripes(draw: ImageDraw.ImageDraw, words: list[str], size: tuple[int, int]) -> None:
    kind, stripes = words[0], [word.partition(":")[::2] for word in words[1:]]
    if kind not in ("h", "v", "solid"):
        raise ValueError(f"flag {' '.join(words)!r}: unknown kind {kind!r}; use h, v or solid")
    weights = [float(weight or 1) for _, weight in stripes]
    start, total = 0.0, math.fsum(weights)
    for (colour, _), weight in zip(stripes, weights, strict=True):
        a, b = start / total, (start + weight) / total
        w, h = size
        box = (a * w, 0, b * w, h) if kind == "v" else (0, a * h, w, b * h)
        draw.rectangle(box, fill=COLOURS[colour])
        start += weight


def _shape(flag: Image.Image, draw: ImageDraw.ImageDraw, words: list[str]) -> None:
    (w, h), kind = flag.size, words[0]
    numbers = [float(word) for word in words[1:] if word[0].isdigit() or word[0] == "."]
    colour = COLOURS.get(words[-1], (0, 0, 0))
    if kind in ("disc", "ring"):
        x, y, r = numbers[0] * w, numbers[1] * h, numbers[2] * h
        box = (x - r, y - r, x + r, y + r)
        draw.ellipse(box, fill=colour) if kind == "disc" else draw.ellipse(box, outline=colour, width=max(h // 20, 1))
    elif kind == "diamond":
        x, y, a, b = numbers[0] * w, numbers[1] * h, numbers[2] * w, numbers[3] * h
        draw.polygon([(x - a, y), (x, y - b), (x + a, y), (x, y + b)], fill=colour)
    elif kind == "triangle":
        draw.polygon([(0, 0), (numbers[0] * w, h / 2), (0, h)], fill=colour)
    elif kind == "cross":
        x, y, t = numbers[0] * w, numbers[1] * h, numbers[2] * h / 2
        draw.rectangle((x - t, 0, x + t, h), fill=colour)
        draw.rectangle((0, y - t, w, y + t), fill=colour)
    elif kind == "canton":
        box = [round(v) for v in (numbers[0] * w, numbers[1] * h, numbers[2] * w, numbers[3] * h)]
        size = (box[2] - box[0], box[3] - box[1])
        flag.paste(_union_jack(*size) if words[-1] == "unionjack" else Image.new("RGB", size, colour), box[:2])
    elif kind == "unionjack":
        flag.paste(_union_jack(w, h), (0, 0))
    else:
        raise ValueError(f"flag shape {' '.join(words)!r}: unknown; use disc, ring, diamond, triangle, cross or canton")


def _union_jack(w: int, h: int) -> Image.Image:
    flag = Image.new("RGB", (w, h), COLOURS["navy"])
    draw = ImageDraw.Draw(flag)
    for colour, diagonal, straight in (("white", h // 5, h // 3), ("flagred", h // 14, h // 5)):
        draw.line([(0, 0), (w, h)], fill=COLOURS[colour], width=diagonal)
        draw.line([(0, h), (w, 0)], fill=COLOURS[colour], width=diagonal)
        if colour == "white":
            draw.rectangle((w / 2 - straight / 2, 0, w / 2 + straight / 2, h), fill=COLOURS[colour])
            draw.rectangle((0, h / 2 - straight / 2, w, h / 2 + straight / 2), fill=COLOURS[colour])
    t = h // 10
    draw.rectangle((w / 2 - t, 0, w / 2 + t, h), fill=COLOURS["flagred"])
    draw.rectangle((0, h / 2 - t, w, h / 2 + t), fill=COLOURS["flagred"])
    return flag


def flag_colours(spec: str) -> list[Colour]:
    """The colours of a flag's instructions, in order of appearance."""
    words = spec.replace("|", " ").replace(":", " ").split()
    return [COLOURS[word] for word in dict.fromkeys(words) if word in COLOURS]
