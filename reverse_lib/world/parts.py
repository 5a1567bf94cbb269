"""Flat things of a scene: colours, lettering, flags, signs, boards, posters, restaurant boards and jerseys.

Every function returns a Pillow image of exactly the asked size; the street they stand in is `street.py`.
Lettering uses the DejaVu fonts that matplotlib ships, so that no system font changes a picture.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
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
SIGN_FACES = ("DejaVuSans-Bold.ttf", "DejaVuSans.ttf")
BOARD_FACES = ("DejaVuSans-Bold.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSans-Oblique.ttf")
BOARD_STYLES: tuple[tuple[Colour, Colour], ...] = (
    ((120, 24, 40), (250, 236, 200)),
    ((28, 60, 96), (244, 240, 230)),
    ((236, 226, 196), (70, 36, 20)),
    ((44, 44, 48), (240, 214, 120)),
    ((24, 92, 84), (246, 246, 240)),
    ((226, 120, 36), (30, 22, 18)),
    ((96, 60, 120), (250, 244, 250)),
    ((210, 214, 218), (150, 24, 30)),
    ((246, 208, 72), (40, 40, 90)),
)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Colour `a` with a `share` (0..1) of colour `b`."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))


@lru_cache(maxsize=64)
def _font(face: str, size_px: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / face
    return ImageFont.truetype(str(path), size_px, layout_engine=ImageFont.Layout.BASIC)


def text_width(text: str, face: str, size_px: int) -> int:
    """Advance width of `text` in pixels."""
    return math.ceil(_font(face, size_px).getlength(text))


@lru_cache(maxsize=4096)
def text_mask(text: str, face: str, size_px: int, width_px: int) -> Image.Image:
    """Coverage (mode L) of one line of text, squeezed or stretched to `width_px`, height 1.25 em."""
    natural = max(text_width(text, face, size_px), 1)
    mask = Image.new("L", (natural, round(1.25 * size_px)))
    ImageDraw.Draw(mask).text((0, round(0.08 * size_px)), text, fill=255, font=_font(face, size_px))
    return mask if natural == width_px else mask.resize((width_px, mask.height), Image.Resampling.BILINEAR)


def write(
    image: Image.Image, text: str, face: str, size_px: int, box: tuple[int, int, int, int], colour: Colour
) -> None:
    """Writes one centred line into `box` (l, t, r, b), squeezed when it is too wide."""
    left, top, right, bottom = box
    mask = text_mask(text, face, size_px, max(min(text_width(text, face, size_px), right - left), 1))
    position = ((left + right - mask.width) // 2, (top + bottom - mask.height) // 2)
    image.paste(colour, position, mask)


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
    start, total = 0.0, sum(weights)
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


def draw_sign(
    size: tuple[int, int], text: str, colours: tuple[Colour, Colour, Colour], face: str, text_px: int, arrow: int
) -> Image.Image:
    """A town or direction sign; `colours` are background, text and border; `arrow` is -1, 0 or 1."""
    width, height = size
    background, ink, border = colours
    panel = Image.new("RGB", size, border)
    draw = ImageDraw.Draw(panel)
    rim = max(height // 14, 2)
    draw.rounded_rectangle((rim, rim, width - 1 - rim, height - 1 - rim), radius=rim, fill=background)
    left, right = rim + 3, width - rim - 3
    if arrow:
        x = right - height // 2 if arrow > 0 else left
        tip, tail = (x + height // 2 - 4, x) if arrow > 0 else (x + 2, x + height // 2 - 2)
        middle, a = height // 2, height // 5
        draw.polygon([(tip, middle), ((tip + tail) // 2, middle - a), ((tip + tail) // 2, middle + a)], fill=ink)
        draw.line([(tail, middle), ((tip + tail) // 2, middle)], fill=ink, width=3)
        left, right = (left, x) if arrow > 0 else (x + height // 2, right)
    write(panel, text, face, text_px, (left, 0, right, height), ink)
    return panel


def draw_board(size: tuple[int, int], text: str, style: int, icon: int, face: str, text_px: int) -> Image.Image:
    """A station or shop board: one flat colour, a pictogram in a square on the left, the name."""
    width, height = size
    background, ink = BOARD_STYLES[style % len(BOARD_STYLES)]
    panel = Image.new("RGB", size, mix(background, ink, 0.35))
    draw = ImageDraw.Draw(panel)
    draw.rectangle((2, 2, width - 3, height - 3), fill=background)
    draw.rectangle((5, 5, height - 6, height - 6), fill=ink)
    c, u = height / 2, (height - 10) / 8
    if icon == 0:  # train
        draw.rounded_rectangle((c - 2 * u, c - 3 * u, c + 2 * u, c + 2 * u), radius=u, fill=background)
        draw.rectangle((c - 1.3 * u, c - 2 * u, c + 1.3 * u, c - 0.5 * u), fill=ink)
        draw.line([(c - 2 * u, c + 3 * u), (c + 2 * u, c + 3 * u)], fill=background, width=2)
    elif icon == 1:  # house
        draw.polygon([(c - 3 * u, c), (c, c - 3 * u), (c + 3 * u, c)], fill=background)
        draw.rectangle((c - 2 * u, c, c + 2 * u, c + 3 * u), fill=background)
    else:  # cup
        draw.rectangle((c - 2 * u, c - 1 * u, c + 1.2 * u, c + 2.5 * u), fill=background)
        draw.ellipse((c + 0.6 * u, c - 0.5 * u, c + 2.8 * u, c + 1.7 * u), outline=background, width=2)
    write(panel, text, face, text_px, (height, 0, width - 5, height), ink)
    return panel


def draw_poster(size: tuple[int, int], text: str, style: int, face: str, text_px: int) -> Image.Image:
    """A travel poster of a city far away: sky, sun, sea or hills on one side, its name on paper."""
    width, height = size
    sky = ((250, 190, 120), (120, 196, 236), (240, 150, 170), (160, 220, 200))[style % 4]
    sea = ((30, 110, 170), (230, 200, 140), (60, 70, 130), (30, 120, 90))[style // 4 % 4]
    panel = Image.new("RGB", size, (250, 250, 246))
    draw = ImageDraw.Draw(panel)
    picture = round(1.2 * height)
    draw.rectangle((3, 3, picture, height - 4), fill=sky)
    x, r = picture * 0.65, height * 0.16
    draw.ellipse((x - r, height * 0.3 - r, x + r, height * 0.3 + r), fill=(255, 244, 180))
    draw.polygon(
        [(3, height - 4), (3, height * 0.7), (picture * 0.35, height * 0.42), (picture, height * 0.8)], fill=sea
    )
    draw.rectangle((3, height * 0.74, picture, height - 4), fill=mix(sea, (255, 255, 255), 0.25))
    write(panel, text, face, text_px, (picture + 2, 0, width - 4, height), mix(sea, (0, 0, 0), 0.6))
    return panel


def draw_restaurant(size: tuple[int, int], text: str, flag: str, style: int, face: str, text_px: int) -> Image.Image:
    """A restaurant's board: striped awning on top, the flag of its kitchen, a word of that language."""
    width, height = size
    stripe = ((190, 40, 40), (30, 110, 70), (40, 70, 140), (200, 130, 30))[style % 4]
    panel = Image.new("RGB", size, (74, 52, 38))
    draw = ImageDraw.Draw(panel)
    depth = max(height // 5, 6)
    for index, x in enumerate(range(0, width, 10)):
        draw.rectangle((x, 0, x + 9, depth), fill=stripe if index % 2 else (244, 240, 230))
    flag_height = height - depth - 10
    flag_width = round(1.4 * flag_height)
    panel.paste(draw_flag(flag, flag_width, flag_height), (6, depth + 5))
    write(panel, text, face, text_px, (flag_width + 10, depth, width - 5, height), (250, 232, 190))
    return panel


def flag_colours(spec: str) -> list[Colour]:
    """The colours of a flag's instructions, in order of appearance."""
    words = spec.replace("|", " ").replace(":", " ").split()
    return [COLOURS[word] for word in dict.fromkeys(words) if word in COLOURS]


@lru_cache(maxsize=256)
def jersey_sprite(flag: str, number: int, cut: int) -> Image.Image:
    """A football shirt in the colours of a flag, RGBA 120×150, that fills the whole box."""
    colours = flag_colours(flag) + [COLOURS["white"]]
    main, second = colours[cut % 2 if len(colours) > 2 else 0], colours[1 - cut % 2 if len(colours) > 2 else 1]
    sprite = Image.new("RGBA", (120, 150))
    draw = ImageDraw.Draw(sprite)
    body = [
        (28, 6),
        (46, 0),
        (74, 0),
        (92, 6),
        (119, 34),
        (103, 62),
        (92, 52),
        (96, 149),
        (24, 149),
        (28, 52),
        (17, 62),
        (0, 34),
    ]
    draw.polygon(body, fill=main)
    draw.polygon([(28, 6), (0, 34), (17, 62), (28, 52)], fill=second)
    draw.polygon([(92, 6), (119, 34), (103, 62), (92, 52)], fill=second)
    if cut // 2 % 3 == 1:
        for x in (34, 54, 74):
            draw.rectangle((x, 10, x + 9, 149), fill=second)
    elif cut // 2 % 3 == 2:
        draw.rectangle((26, 64, 94, 84), fill=second)
    draw.polygon([(46, 0), (60, 14), (74, 0)], fill=colours[-2])
    ink = COLOURS["white"] if sum(main) < 380 else COLOURS["black"]
    label = Image.new("RGBA", sprite.size)
    write(label, str(number), "DejaVuSans-Bold.ttf", 46, (26, 84, 94, 140), ink)
    mask = Image.new("L", sprite.size)
    write(mask, str(number), "DejaVuSans-Bold.ttf", 46, (26, 84, 94, 140), 255)
    sprite.paste(ink, (0, 0), mask)
    return sprite
