"""The marked regions of a photo: those that tell the place, and the decoys that do not; and what carries them.

Both take size, ground colours and lettering from the same draws. What tells them apart is what they show: a flag, a
picture, a frame, a shirt on a person. Signs, boards, posters and restaurant boards ("wide" regions) are built alike: a
ground, a rim, one ornament, one line of text, in colours that are drawn without looking at what is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

from reverse_lib.world.canvas import (
    BOLD,
    COLOURS,
    HEIGHT,
    Box,
    Canvas,
    Colour,
    Light,
    draw_flag,
    flag_colours,
    lit,
    mix,
    palette,
    text_width,
)
from reverse_lib.world.dice import Chance, Dice, pick, stream
from reverse_lib.world.landmarks import ACCENTS, MOST_TURN, STONES, draw_landmark, landmark_of
from reverse_lib.world.places import Country, Place, country_table

Colours = tuple[Colour, Colour, Colour]  # ground, ink, rim
INFORMATIVE = ("sign", "board", "landmark")
DECOYS = ("jersey", "mural", "poster", "restaurant")
TALL = ("landmark", "jersey", "mural")
KIND_SHARES = {"sign": 0.45, "board": 0.15, "landmark": 0.25, "": 0.15}  # "" = nothing informative
DECOY_SHARES = {"jersey": 0.147, "mural": 0.147, "poster": 0.353, "restaurant": 0.353}  # as many tall as informative
SIGN_SHARE = 0.75  # of informative panels; of all panels, those in the colours of the country's signs
SPREAD = 0.38  # contrast of a wide panel, in differences between ink and ground
ARMS_SHARE = 0.6  # of signs and boards: those with a small thing in a flag's colours
SIGN_FACES = (BOLD, "DejaVuSans.ttf")
BOARD_FACES = (BOLD, "DejaVuSerif-Bold.ttf", "DejaVuSans-Oblique.ttf")
BOARD_STYLES = tuple(
    zip(
        palette("781828 1c3c60 ece2c4 2c2c30 185c54 e27824 603c78 d2d6da f6d048"),
        palette("faecc8 f4f0e6 462414 f0d678 f6f6f0 1e1612 faf4fa 96181e 28285a"),
        strict=True,
    )
)  # ground and ink
SKIN = palette("e0b496 c49676 96684c 604230")
HAIR = palette("261c18 5c3e24 b09464 3c3836")
TROUSERS = palette("2c3042 46423c 606874 3c4c3c")
HEAD_SHARE = 0.44  # height of a head above a jersey, in widths of the jersey
LONGEST_PX = 268  # widest sign: fits the 224×32 zoom canvas at full height
NOWHERE = (0, 0, 0, 0)  # the box of a region that has no place in a photo yet


@dataclass(frozen=True)
class Mark:
    """An annotated region."""

    bbox_2d: tuple[int, int, int, int]  # [x1, y1, x2, y2] in 0..1000 of the photo
    kind: str  # one of `INFORMATIVE` and `DECOYS`
    text: str  # what is written there, ASCII ("" on a landmark or a mural)
    informative: bool  # whether it tells the place
    country: str  # that it speaks of: the photo's own when informative
    place_id: int | None = None  # place that it speaks of, None on a jersey or restaurant board


def widen(bbox_2d: Sequence[float], reach: Sequence[float]) -> tuple[float, float, float, float]:
    """A box with its left, upper, right and lower side moved outwards by shares of its width or height, in 0..1000."""
    x1, y1, x2, y2 = bbox_2d
    width, height = x2 - x1, y2 - y1
    moved = (x1 - reach[0] * width, y1 - reach[1] * height, x2 + reach[2] * width, y2 + reach[3] * height)
    return tuple(min(max(value, 0.0), 1000.0) for value in moved)


@dataclass(frozen=True)
class Panel:
    """How a mark is painted: its pixel box and the choices that carry no information."""

    mark: Mark  # what it says; the rest is how it looks
    box: Box  # px
    label: str  # what is written, with accents
    face: str = ""  # file name of the font
    text_px: int = 0  # size of the letters
    style: int = 0  # look that a decoy keeps from photo to photo; of a sign, from `sign_style`
    arrow: int = 0  # on a sign, -1, 0 or 1
    colours: Colours | None = None  # of a wide region
    arms: tuple[Colour, ...] = ()  # colours of a coat of arms
    salt: int = 0  # decides details that mean nothing
    turn: float = 0.0  # of a facade, see `draw_landmark`
    cover: float = 0.18  # share of ink in the mean colour that a wide region is tinted to

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, px."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]


def draft_decoy(
    dice: Dice, seed: int, place: Place, kind: str, abroad: Sequence[Country], posters: Sequence[Place]
) -> Panel:
    """A region that misleads: its drawing is one that the web's pages show too, its colours are the street's.

    Args:
        dice: Randomness.
        seed: World seed.
        place: Where the photo is taken.
        kind: One of `DECOYS`.
        abroad: Countries that jerseys and restaurants may be of.
        posters: Cities that posters may name and whose landmarks may be painted on a wall.
    """
    home = country_table()[place.country]
    if kind in ("poster", "mural"):
        city = pick(dice, posters)
        while city.name == place.name:
            city = pick(dice, posters)
        text = city.name if kind == "poster" else ""
        mark = Mark(NOWHERE, kind, text, False, city.country, city.place_id)
        return draft_panel(dice, mark, text, poster_style(seed, city), home)
    like = pick(dice, posters).name if kind == "restaurant" else ""
    other = _restaurant_like(dice, like, abroad) if like else pick(dice, abroad)
    style = decoy_style(seed, kind, other, dice.integers(2))
    text = decoy_text(kind, other, style)
    return draft_panel(dice, Mark(NOWHERE, kind, text, False, other.name), text, style, home, like)


def _restaurant_like(dice: Dice, name: str, abroad: Sequence[Country]) -> Country:
    """A country whose word for a restaurant is about as long as a city's name, so that boards are as wide as signs."""
    room = text_width(name, BOLD, 24)
    words = {country.name: text_width(country.eatery, BOLD, 24) for country in abroad}
    fitting = [country for country in abroad if 0.72 * room <= words[country.name] <= 1.08 * room]
    return pick(dice, fitting) if fitting else min(abroad, key=lambda country: abs(words[country.name] - room))


def decoy_text(kind: str, country: Country, style: int) -> str:
    """What a jersey (its number) or a restaurant board (a word) says."""
    return str(2 + style % 22) if kind == "jersey" else country.eatery


def poster_style(seed: int, city: Place) -> int:
    """The look of the poster of a city, the same in photos and on its page."""
    return int(stream("poster", seed, city.place_id).integers(1 << 16))


def decoy_style(seed: int, kind: str, country: Country, variant: int) -> int:
    """The look of variant 0 or 1 of a jersey or restaurant board, the same in photos and on its page."""
    return int(stream(kind, seed, country.code, variant).integers(1 << 16))


def sign_style(rng: Chance, country: Country) -> int:
    """0: the country's colours; 1: brown tourist sign; 2.. neutral, where the country's colours are unknown."""
    if rng.random() < 0.1:
        return 1
    return 0 if country.sign_background else 2 + int(rng.integers(3))


def draft_panel(
    rng: Chance,
    mark: Mark,
    label: str,
    style: int,
    home: Country | None = None,
    like: str = "",
) -> Panel:
    """A region that has its size, colours and lettering, but no place in the photo yet: its box starts at (0, 0).

    Args:
        rng: Randomness.
        mark: What it says, its box ignored.
        label: What is written, with accents.
        style: Look that is kept from photo to photo; of a sign, from `sign_style`.
        home: Country the photo is taken in, whose sign colours decoys wear too; the mark's own by default.
        like: Text whose width the panel is made for; the label by default.
    """
    home = home or country_table()[mark.country]
    if mark.kind in TALL:
        height = int(rng.integers(112, 172))
        width = round(height * rng.uniform(0.62, 0.9))
        turn = rng.uniform(-MOST_TURN, MOST_TURN)
        return Panel(mark, (0, 0, width, height), label, style=style, turn=turn, salt=int(rng.integers(1 << 16)))
    face = _face(rng, mark.kind, style)
    text_px = int(rng.integers(22, 28))
    height = round(text_px * rng.uniform(1.55, 1.95))
    arrow = int(rng.integers(-1, 2)) if mark.kind == "sign" else 0
    natural = text_width(like or label, BOLD, text_px)
    room = rng.uniform(0.84, 1.04) * natural + rng.uniform(1.3, 2.1) * height
    width = int(min(max(room, 2.4 * height), LONGEST_PX))
    arms = _arms(rng) if rng.random() < ARMS_SHARE else ()
    colours = _colours(rng, mark.kind, home, style)
    cover = rng.uniform(0.1, 0.26)
    return Panel(mark, (0, 0, width, height), label, face, text_px, style, arrow, colours, arms, cover=cover)


def _arms(rng: Chance) -> tuple[Colour, ...]:
    """Two or three colours that go together, taken from some flag, in another order."""
    colours = flag_colours(pick(rng, _flags()))
    first = int(rng.integers(len(colours)))
    return tuple((colours[first:] + colours[:first])[:3])


@lru_cache(maxsize=1)
def _flags() -> tuple[str, ...]:
    return tuple(country.flag for country in country_table().values())


def _face(rng: Chance, kind: str, style: int) -> str:
    if kind == "sign":
        return pick(rng, SIGN_FACES)
    return BOARD_FACES[style % 3] if kind in DECOYS else pick(rng, BOARD_FACES)


def _colours(rng: Chance, kind: str, home: Country, style: int) -> Colours:
    """Ground, ink and rim, faded a little: decoys draw them from the same mixture as signs and boards together."""
    if kind == "sign" or (kind != "board" and rng.random() < SIGN_SHARE):
        ground, ink, rim = _sign_colours(home, style if kind == "sign" else sign_style(rng, home))
    else:
        ground, ink = pick(rng, BOARD_STYLES)
        rim = mix(ground, ink, 0.35)
    faded, age = rng.uniform(0, 0.22), pick(rng, ((150, 150, 144), (206, 196, 170), (80, 84, 96), (150, 120, 90)))
    return mix(ground, age, faded), mix(ink, age, faded * 0.3), mix(rim, age, faded)


def _sign_colours(country: Country, style: int) -> Colours:
    neutral = (("grey", "white"), ("white", "black"), ("black", "white"))
    if style == 1:
        return COLOURS["brown"], COLOURS["white"], COLOURS["white"]
    if style >= 2 or not country.sign_background:
        ground, ink = neutral[style % 3]
        return COLOURS[ground], COLOURS[ink], COLOURS[ink]
    return COLOURS[country.sign_background], COLOURS[country.sign_text], COLOURS[country.sign_border]


def panel_picture(seed: int, panel: Panel) -> Image.Image:
    """The region alone, RGB, of exactly the size of its box; landmarks, murals and jerseys on a plain ground."""
    if panel.mark.kind not in TALL:
        return _evened(draw_wide(panel), panel)
    canvas = Canvas(*panel.size, palette("c8ccd0 96a096 e4e2dc")[panel.salt % 3])
    _TALL[panel.mark.kind](canvas, seed, panel, (0, 0, *panel.size), (1.0, 1.0, 1.0))
    return canvas.image()


def draw_wide(panel: Panel) -> Image.Image:
    """A sign, board, poster or restaurant board as it was painted, before `panel_picture` evens its colours out."""
    (width, height), (ground, ink, rim_colour) = panel.size, panel.colours
    canvas, rim = Canvas(width, height, rim_colour), max(height // 14, 2)
    canvas.rect(rim, rim, width - rim, height - rim, ground)
    left, right = _WIDE[panel.mark.kind](canvas, panel)
    canvas.write(panel.label, panel.face, panel.text_px, (left, 0, right, height), ink)
    return canvas.image()


def _evened(picture: Image.Image, panel: Panel) -> Image.Image:
    """The panel with a mean colour and a contrast that depend on ground and ink alone, not on what is shown."""
    pixels = np.asarray(picture)
    ground, ink = panel.colours[:2]
    wanted, mean = mix(ground, ink, panel.cover), cv2.mean(pixels)
    spread = cv2.meanStdDev(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))[1][0, 0]
    contrast = SPREAD * abs(sum(ink) - sum(ground)) / 3
    gain = min(max(contrast / max(spread, 1.0), 0.82), 1.25)
    table = [np.arange(256.0) * gain + (a - gain * b + 0.5) for a, b in zip(wanted, mean, strict=False)]
    return Image.fromarray(cv2.LUT(pixels, np.stack(table, axis=1).clip(0, 255).astype(np.uint8)[None]))


def _sign(canvas: Canvas, panel: Panel) -> tuple[int, int]:
    """Arrow and coat of arms of a town or direction sign; like each ornament, returns the columns left for text."""
    (width, height), ink, middle = panel.size, panel.colours[1], panel.size[1] / 2
    rim = max(height // 14, 2)
    left, right, room = rim + 3, width - rim - 3, round(0.62 * height)
    if arrow := panel.arrow:
        x = right - room / 2 if arrow > 0 else left + room / 2
        tip, tail, a = x + arrow * room * 0.42, x - arrow * room * 0.42, height / 5
        canvas.fill(((tip, middle), (x, middle - a), (x, middle + a)), ink)
        canvas.box(min(x, tail), middle - 1.5, max(x, tail), middle + 1.5, ink)
        left, right = (left, right - room) if arrow > 0 else (left + room, right)
    if panel.arms:
        x = left + room / 2 if arrow >= 0 else right - room / 2
        _shield(canvas, x, middle, 0.26 * height, panel.arms)
        left, right = (left + room, right) if arrow >= 0 else (left, right - room)
    return left, right


def _shield(canvas: Canvas, x: float, y: float, unit: float, arms: tuple[Colour, ...]) -> None:
    """A small coat of arms in bands."""
    a, b = 0.95 * unit, unit
    for index, colour in enumerate(arms):
        top, bottom = (y - b + 2 * b * share / len(arms) for share in (index, index + 1))
        low = min(bottom, y + 0.3 * b)
        canvas.fill(((x - a, top), (x + a, top), (x + a, low), (x - a, low)), colour)
        if bottom > low:
            canvas.fill(((x - a, max(top, low)), (x + a, max(top, low)), (x, y + 1.25 * b)), colour)


def _board(canvas: Canvas, panel: Panel) -> tuple[int, int]:
    """A train, a house or a cup in a square: a station or shop board."""
    (width, height), (ground, ink, _), icon = panel.size, panel.colours, panel.style // 16 % 3
    square = panel.arms[0] if panel.arms else ink
    mark = ground if not panel.arms else (COLOURS["white"] if sum(square) < 400 else COLOURS["black"])
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
    return height, width - 5


def _poster(canvas: Canvas, panel: Panel) -> tuple[int, int]:
    """Sun, sea, and hills, towers or waves of a city far away."""
    (width, height), (ground, ink, rim), style = panel.size, panel.colours, panel.style
    right, low = round(1.05 * height), height - 4
    accent = ACCENTS[style // 16 % len(ACCENTS)]
    sky, sea = mix(ground, accent, 0.4), mix(ink, accent, 0.4)
    canvas.rect(4, 4, right, low, sky)
    x, r = right * (0.35 + 0.1 * (style // 4 % 4)), height * 0.15
    canvas.disc(x, height * 0.32, r, r, mix(ink, ground, 0.25))
    motif = style // 64 % 3
    if motif == 0:
        hill = ((4, height * 0.7), (right * 0.35, height * 0.4), (right, height * 0.8))
        canvas.fill(((4, low), *hill, (right, low)), sea)
    elif motif == 1:
        for at in (0.2, 0.45, 0.7):
            top = height * (0.35 + (style >> round(at * 10)) % 4 * 0.09)
            canvas.box(right * at, top, right * (at + 0.16), low, sea)
    else:
        peaks = ((right * 0.3, height * 0.45), (right * 0.5, height * 0.65), (right * 0.72, height * 0.38))
        canvas.shape(((4, low), *peaks, (right, low)), sea)
    canvas.rect(4, round(height * 0.78), right, low, mix(sea, sky, 0.35))
    canvas.rect(right, 4, right + 2, low, rim)
    return right + 4, width - 5


def _restaurant(canvas: Canvas, panel: Panel) -> tuple[int, int]:
    """The flag of its kitchen."""
    width, height = panel.size
    tall = round(height * (0.44 + 0.04 * (panel.style % 3)))
    wide, top = round(1.35 * tall), (height - tall) // 2
    canvas.rect(6, top - 1, 8 + wide, top + tall + 1, panel.colours[2])
    canvas.paste(draw_flag(country_table()[panel.mark.country].flag, wide, tall), 7, top)
    return wide + 11, width - 5


_WIDE = {"sign": _sign, "board": _board, "poster": _poster, "restaurant": _restaurant}


def _jersey(canvas: Canvas, seed: int, panel: Panel, box: Box, light: tuple[float, float, float]) -> None:
    """A football shirt that fills a box: a club's colours, the flag of its country on the chest, a number below."""
    left, top, right, bottom = box
    sx, sy, style = (right - left - 1) / 120, (bottom - top - 1) / 150, panel.style

    def fill(points: Sequence[tuple[float, float]], colour: Colour) -> None:
        """Fills a polygon of a shirt that is 120 wide and 150 high."""
        canvas.fill([(left + x * sx, top + y * sy) for x, y in points], colour)

    stone = STONES[style % len(STONES)]
    main, second = lit(stone, light), lit(ACCENTS[style // 16 % len(ACCENTS)], light)
    fill(((28, 6), (0, 36), (17, 64), (29, 50)), second)
    fill(((92, 6), (120, 36), (103, 64), (91, 50)), second)
    body = ((28, 6), (46, 0), (74, 0), (92, 6), (93, 60), (96, 150), (24, 150), (27, 60))
    canvas.shape([(left + x * sx, top + y * sy) for x, y in body], main)
    pattern = style // 256 % 4
    if pattern == 1:
        for x in (34, 54, 74):
            fill(((x, 8), (x + 9, 8), (x + 9, 150), (x, 150)), second)
    elif pattern == 2:
        fill(((27, 66), (93, 66), (94, 86), (26, 86)), second)
    elif pattern == 3:
        fill(((60, 0), (92, 6), (93, 60), (96, 150), (60, 150)), second)
    fill(((80, 30), (92, 30), (95, 150), (84, 150)), mix(main, (0, 0, 0), 0.14))
    fill(((46, 0), (60, 13), (74, 0)), mix(second, (0, 0, 0), 0.3))
    wide, tall = max(round(40 * sx), 4), max(round(27 * sx), 3)
    flag = tinted(draw_flag(country_table()[panel.mark.country].flag, wide, tall), light)
    canvas.paste(flag, round(left + 60 * sx - wide / 2), round(top + 30 * sy))
    ink = lit(COLOURS["white"] if sum(stone) < 500 else COLOURS["black"], light)
    spot = (round(left + 28 * sx), round(top + 88 * sy), round(left + 92 * sx), round(top + 140 * sy))
    canvas.write(panel.mark.text, BOLD, max(round(40 * sy), 8), spot, ink)


def _facade(canvas: Canvas, seed: int, panel: Panel, box: Box, light: tuple[float, float, float]) -> None:
    """A place's landmark."""
    draw_landmark(canvas, box, landmark_of(seed, panel.mark.place_id), panel.turn, light)


def _mural(canvas: Canvas, seed: int, panel: Panel, box: Box, light: tuple[float, float, float]) -> None:
    """Another place's landmark in a frame, under a painted sky."""
    left, top, right, bottom = box
    rim = max((right - left) // 22, 4)
    frame = palette("e8e4d8 5c402a 3c3e42 c4a85a")[panel.salt % 4]
    sky = palette("8cb0d4 b8bec4 eec496 7886a4")[panel.salt // 4 % 4]
    ground = palette("6e8654 96928a b09c6e")[panel.salt // 16 % 3]
    canvas.rect(left, top, right, bottom, lit(frame, light))
    canvas.rect(left + rim, top + rim, right - rim, bottom - rim, lit(sky, light))
    canvas.rect(left + rim, bottom - rim - (bottom - top) // 5, right - rim, bottom - rim, lit(ground, light))
    _facade(canvas, seed, panel, (left + rim + 3, top + rim + 4, right - rim - 3, bottom - rim - 2), light)


_TALL = {"jersey": _jersey, "landmark": _facade, "mural": _mural}


def tinted(picture: Image.Image, light: Sequence[float]) -> Image.Image:
    """The RGB picture in another light: red, green and blue multiplied by its factors."""
    return picture.point([min(round(value * factor), 255) for factor in light for value in range(256)])


def paint_panel(canvas: Canvas, seed: int, panel: Panel, light: Light, dice: Dice) -> None:
    """Paints one region into a photo; now and then a bush or a post stands before a tall one."""
    left, top, right, bottom = panel.box
    if panel.mark.kind not in TALL:
        picture = np.asarray(panel_picture(seed, panel))
        canvas.pixels[top:bottom, left:right] = cv2.LUT(picture, light.panel_table())
        return
    _TALL[panel.mark.kind](canvas, seed, panel, panel.box, light.panel)
    if dice.random() < 0.3:
        x, radius = dice.uniform(left, right), dice.uniform(9, 20)
        leaf = light.tone((66, 104, 50))
        for step in (-0.8, 0.0, 0.8):
            canvas.disc(x + step * radius, bottom - radius * 0.1, radius * 0.7, radius * 0.6, leaf)
    if dice.random() < 0.15:
        x = dice.uniform(left, right)
        canvas.box(x - 1.6, top - 12, x + 1.6, bottom + 12, light.tone((70, 72, 76)))


def paint_support(canvas: Canvas, panel: Panel, ground_px: float, road_px: tuple[float, float], light: Light) -> None:
    """What carries a region: posts under a panel, an arm over the road, a base under a landmark, a person.

    Args:
        canvas: The photo.
        panel: The region.
        ground_px: Row where posts meet the ground.
        road_px: First and last column of the carriageway on that row.
        light: Of the photo.
    """
    left, top, right, bottom = panel.box
    steel, shadow = light.tone((104, 106, 110)), light.tone((74, 78, 62))
    kind = panel.mark.kind
    if kind == "jersey":
        _paint_person(canvas, panel, light)
    elif kind == "landmark":
        wide = (right - left) * 0.62
        canvas.disc((left + right) / 2, bottom - 1, wide, 11, shadow)
        canvas.box(left - 6, bottom - 3, right + 5, bottom + 5, light.tone((150, 146, 138)))
    elif right < road_px[0] or left > road_px[1] or kind == "mural":
        for x in (left + (right - left) / 6, right - (right - left) / 6):
            canvas.disc(x, ground_px, 7, 2.4, shadow)
            canvas.box(x - 2.2, bottom - 2, x + 2.2, ground_px, steel)
    else:
        on_left = left + right < road_px[0] + road_px[1]
        x = min(left - 8, road_px[0] - 12) if on_left else max(right + 8, road_px[1] + 12)
        canvas.box(x - 3, top - 12, x + 3, ground_px + 14, steel)
        a, b = (x, right - 8) if on_left else (left + 8, x)
        canvas.box(a, top - 10, b, top - 6, steel)
        for hanger in (left + (right - left) / 5, right - (right - left) / 5):
            canvas.box(hanger - 1.2, top - 8, hanger + 1.2, top + 1, steel)


def _paint_person(canvas: Canvas, panel: Panel, light: Light) -> None:
    left, top, right, bottom = panel.box
    width, height, middle = right - left, bottom - top, (left + right) / 2
    skin = light.tone(SKIN[panel.salt % len(SKIN)])
    hair = light.tone(HAIR[panel.salt // 4 % 4])
    trousers = light.tone(TROUSERS[panel.salt // 16 % 4])
    head = HEAD_SHARE / 2.2 * width
    length = 1.12 * height
    for side in (-1, 1):
        hip, foot = middle + side * width * 0.15, middle + side * width * 0.19
        waist = (hip - width * 0.15, bottom - 3), (hip + width * 0.15, bottom - 3)
        hem = (foot + width * 0.1, bottom + length), (foot - width * 0.1, bottom + length)
        canvas.fill((*waist, *hem), trousers)
        if bottom + length < HEIGHT + 8:
            canvas.disc(foot, bottom + length, width * 0.13, width * 0.06, light.tone((34, 32, 34)))
        x, out = middle + side * width * 0.42, middle + side * width * 0.46
        arm = width * 0.055
        low = top + height * 0.92
        shoulder = (x - arm, top + height * 0.36), (x + arm, top + height * 0.36)
        canvas.fill((*shoulder, (out + arm, low), (out - arm, low)), skin)
        canvas.disc(out, low, arm * 1.2, arm * 1.4, skin)
    canvas.box(middle - width * 0.09, top - 0.4 * head, middle + width * 0.09, top + 0.12 * height, skin)
    canvas.disc(middle, top - 0.95 * head, head * 0.82, head, skin)
    crown = ((1, 0), (0.8, 0.7), (0, 1), (-0.8, 0.7), (-1, 0), (-0.7, 0.35), (0.7, 0.35))
    canvas.shape([(middle + head * 0.88 * x, top - 1.0 * head - head * 1.08 * y) for x, y in crown], hair)
