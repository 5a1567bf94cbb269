"""Flat things of a scene: lettering, signs, boards, posters, restaurant boards, and shirts.

Signs, boards, posters and restaurant boards are built alike (a ground, a rim, one ornament, one line of text), in
colours that the caller chooses. Only what the ornament shows tells them apart. Lettering uses the DejaVu fonts that
matplotlib ships, so that no system font changes a picture.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from reverse_lib.world.bodies import ACCENTS, STONES
from reverse_lib.world.canvas import Canvas, Colour, mix
from reverse_lib.world.flags import COLOURS, draw_flag, flag_colours

__all__ = ["COLOURS", "Colour", "draw_flag", "flag_colours", "mix", "text_width"]

Colours = tuple[Colour, Colour, Colour]  # ground, ink, rim
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


@lru_cache(maxsize=64)
def _font(face: str, size_px: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / face
    return ImageFont.truetype(str(path), size_px, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=65536)
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


def write(canvas: Canvas, text: str, face: str, size_px: int, box: tuple[int, int, int, int], colour: Colour) -> None:
    """Writes one centred line into `box` (l, t, r, b), squeezed when it is too wide."""
    left, top, right, bottom = box
    mask = text_mask(text, face, size_px, max(min(text_width(text, face, size_px), right - left), 1))
    canvas.stain(mask, (left + right - mask.width) // 2, (top + bottom - mask.height) // 2, colour)


def _panel(size: tuple[int, int], colours: Colours) -> Canvas:
    """A ground with a rim."""
    width, height = size
    ground, _, rim_colour = colours
    canvas = Canvas(width, height, rim_colour)
    rim = max(height // 14, 2)
    canvas.rect(rim, rim, width - rim, height - rim, ground)
    return canvas


def _shield(canvas: Canvas, x: float, y: float, unit: float, arms: tuple[Colour, ...]) -> None:
    """A small coat of arms in bands."""
    a, b = 0.95 * unit, unit
    for index, colour in enumerate(arms):
        top, bottom = (y - b + 2 * b * share / len(arms) for share in (index, index + 1))
        low = min(bottom, y + 0.3 * b)
        canvas.fill(((x - a, top), (x + a, top), (x + a, low), (x - a, low)), colour)
        if bottom > low:
            canvas.fill(((x - a, max(top, low)), (x + a, max(top, low)), (x, y + 1.25 * b)), colour)


def draw_sign(
    size: tuple[int, int],
    text: str,
    colours: Colours,
    face: str,
    text_px: int,
    arrow: int,
    arms: tuple[Colour, ...] = (),
) -> Image.Image:
    """A town or direction sign: `arrow` is -1, 0 or 1; `arms` are the colours of a coat of arms."""
    width, height = size
    canvas, ink, middle = _panel(size, colours), colours[1], height / 2
    rim = max(height // 14, 2)
    left, right, room = rim + 3, width - rim - 3, round(0.62 * height)
    if arrow:
        x = right - room / 2 if arrow > 0 else left + room / 2
        tip, tail, a = x + arrow * room * 0.42, x - arrow * room * 0.42, height / 5
        canvas.fill(((tip, middle), (x, middle - a), (x, middle + a)), ink)
        canvas.box(min(x, tail), middle - 1.5, max(x, tail), middle + 1.5, ink)
        left, right = (left, right - room) if arrow > 0 else (left + room, right)
    if arms:
        x = left + room / 2 if arrow >= 0 else right - room / 2
        _shield(canvas, x, middle, 0.26 * height, arms)
        left, right = (left + room, right) if arrow >= 0 else (left, right - room)
    write(canvas, text, face, text_px, (left, 0, right, height), ink)
    return canvas.image()


def draw_board(
    size: tuple[int, int],
    text: str,
    style: int,
    icon: int,
    face: str,
    text_px: int,
    colours: Colours | None = None,
    arms: tuple[Colour, ...] = (),
) -> Image.Image:
    """A station or shop board: a pictogram in a square on the left, the name.

    Args:
        size: Width and height, px.
        text: The name.
        style: Chooses from `BOARD_STYLES` where no colours are given.
        icon: 0 train, 1 house, 2 cup.
        face: File name of the font.
        text_px: Size of the letters.
        colours: Ground, ink and rim.
        arms: Colours of which the square has the first, the ink's where there are none.
    """
    width, height = size
    ground, ink = colours[:2] if colours else BOARD_STYLES[style % len(BOARD_STYLES)]
    canvas = _panel(size, colours or (ground, ink, mix(ground, ink, 0.35)))
    square = arms[0] if arms else ink
    mark = ground if not arms else (COLOURS["white"] if sum(square) < 400 else COLOURS["black"])
    canvas.rect(6, 6, height - 6, height - 6, square)
    c, u = height / 2, (height - 12) / 8
    if icon == 0:  # train
        canvas.box(c - 2 * u, c - 3 * u, c + 2 * u, c + 2 * u, mark)
        canvas.box(c - 1.3 * u, c - 2 * u, c + 1.3 * u, c - 0.5 * u, square)
        canvas.box(c - 2.4 * u, c + 2.7 * u, c + 2.4 * u, c + 3.3 * u, mark)
    elif icon == 1:  # house
        canvas.fill(((c - 3 * u, c), (c, c - 3 * u), (c + 3 * u, c)), mark)
        canvas.box(c - 2 * u, c, c + 2 * u, c + 3 * u, mark)
    else:  # cup
        canvas.disc(c + 1.6 * u, c + 0.5 * u, 1.5 * u, 1.5 * u, mark)
        canvas.disc(c + 1.6 * u, c + 0.5 * u, 0.8 * u, 0.8 * u, square)
        canvas.box(c - 2 * u, c - u, c + 1.2 * u, c + 2.5 * u, mark)
    write(canvas, text, face, text_px, (height, 0, width - 5, height), ink)
    return canvas.image()


def draw_poster(
    size: tuple[int, int], text: str, style: int, face: str, text_px: int, colours: Colours | None = None
) -> Image.Image:
    """A travel poster of a city far away: a band with sun, sea, hills or towers on the left, its name."""
    width, height = size
    ground, ink, rim = colours or ((250, 250, 246), (40, 60, 90), (210, 206, 196))
    canvas = _panel(size, (ground, ink, rim))
    right, low = round(1.05 * height), height - 4
    accent = ACCENTS[style // 16 % len(ACCENTS)]
    sky, sea = mix(ground, accent, 0.4), mix(ink, accent, 0.4)
    canvas.rect(4, 4, right, low, sky)
    x, r = right * (0.35 + 0.1 * (style // 4 % 4)), height * 0.15
    canvas.disc(x, height * 0.32, r, r, mix(ink, ground, 0.25))
    motif = style // 64 % 3
    if motif == 0:
        canvas.fill(
            ((4, low), (4, height * 0.7), (right * 0.35, height * 0.4), (right, height * 0.8), (right, low)), sea
        )
    elif motif == 1:
        for at in (0.2, 0.45, 0.7):
            top = height * (0.35 + (style >> round(at * 10)) % 4 * 0.09)
            canvas.box(right * at, top, right * (at + 0.16), low, sea)
    else:
        canvas.shape(
            (
                (4, low),
                (right * 0.3, height * 0.45),
                (right * 0.5, height * 0.65),
                (right * 0.72, height * 0.38),
                (right, low),
            ),
            sea,
        )
    canvas.rect(4, round(height * 0.78), right, low, mix(sea, sky, 0.35))
    canvas.rect(right, 4, right + 2, low, rim)
    write(canvas, text, face, text_px, (right + 4, 0, width - 5, height), ink)
    return canvas.image()


def draw_restaurant(
    size: tuple[int, int],
    text: str,
    flag: str,
    style: int,
    face: str,
    text_px: int,
    colours: Colours | None = None,
) -> Image.Image:
    """A restaurant's board: the flag of its kitchen on the left, a word of that language, stripes below."""
    width, height = size
    ground, ink, rim = colours or ((74, 52, 38), (250, 232, 190), (190, 40, 40))
    canvas = _panel(size, (ground, ink, rim))
    tall = round(height * (0.44 + 0.04 * (style % 3)))
    wide = round(1.35 * tall)
    top = (height - tall) // 2
    canvas.rect(6, top - 1, 8 + wide, top + tall + 1, rim)
    canvas.paste(draw_flag(flag, wide, tall), 7, top)
    write(canvas, text, face, text_px, (wide + 11, 0, width - 5, height), ink)
    return canvas.image()


_BODY = ((28, 6), (46, 0), (74, 0), (92, 6), (93, 60), (96, 150), (24, 150), (27, 60))
_SLEEVES = (((28, 6), (0, 36), (17, 64), (29, 50)), ((92, 6), (120, 36), (103, 64), (91, 50)))


def draw_shirt(
    canvas: Canvas,
    box: tuple[int, int, int, int],
    flag: str,
    number: str,
    style: int,
    light: tuple[float, float, float],
) -> None:
    """A football shirt that fills a box: a club's colours, the flag of its country on the chest, a number below."""
    left, top, right, bottom = box
    sx, sy = (right - left - 1) / 120, (bottom - top - 1) / 150

    def lit(colour: Colour) -> Colour:
        return tuple(min(round(value * factor), 255) for value, factor in zip(colour, light, strict=True))

    def at(points: tuple) -> list[tuple[float, float]]:
        return [(left + x * sx, top + y * sy) for x, y in points]

    main, second = lit(STONES[style % len(STONES)]), lit(ACCENTS[style // 16 % len(ACCENTS)])
    for sleeve in _SLEEVES:
        canvas.fill(at(sleeve), second)
    canvas.shape(at(_BODY), main)
    pattern = style // 256 % 4
    if pattern == 1:
        for x in (34, 54, 74):
            canvas.fill(at(((x, 8), (x + 9, 8), (x + 9, 150), (x, 150))), second)
    elif pattern == 2:
        canvas.fill(at(((27, 66), (93, 66), (94, 86), (26, 86))), second)
    elif pattern == 3:
        canvas.fill(at(((60, 0), (92, 6), (93, 60), (96, 150), (60, 150))), second)
    canvas.fill(at(((80, 30), (92, 30), (95, 150), (84, 150))), mix(main, (0, 0, 0), 0.14))
    canvas.fill(at(((46, 0), (60, 13), (74, 0))), mix(second, (0, 0, 0), 0.3))
    wide, tall = max(round(40 * sx), 4), max(round(27 * sx), 3)
    patch = draw_flag(flag, wide, tall).point([min(round(v * f), 255) for f in light for v in range(256)])
    canvas.paste(patch, round(left + 60 * sx - wide / 2), round(top + 30 * sy))
    ink = lit(COLOURS["white"] if sum(STONES[style % len(STONES)]) < 500 else COLOURS["black"])
    text_px = max(round(40 * sy), 8)
    spot = (round(left + 28 * sx), round(top + 88 * sy), round(left + 92 * sx), round(top + 140 * sy))
    write(canvas, number, "DejaVuSans-Bold.ttf", text_px, spot, ink)
