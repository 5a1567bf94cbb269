"""The marked regions of a photo: those that tell the place, and the decoys that do not.

Both take size, ground colours and lettering from the same draws. What tells them apart is what they show: a flag, a
picture, a frame, a shirt on a person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

from reverse_lib.world import parts
from reverse_lib.world.canvas import Canvas, Colour, Dice, Light, mix
from reverse_lib.world.flags import COLOURS, flag_colours
from reverse_lib.world.gazetteer import Country, Place, country_table, pick, stream
from reverse_lib.world.items import Box
from reverse_lib.world.landmark import MOST_TURN, draw_landmark, landmark_of, tinted

INFORMATIVE = ("sign", "board", "landmark")
DECOYS = ("jersey", "mural", "poster", "restaurant")
TALL = ("landmark", "jersey", "mural")
KIND_SHARES = {"sign": 0.45, "board": 0.15, "landmark": 0.25, "": 0.15}  # "" = nothing informative
DECOY_SHARES = {"jersey": 0.147, "mural": 0.147, "poster": 0.353, "restaurant": 0.353}  # as many tall as informative
SIGN_SHARE = 0.75  # of informative panels; of all panels, those in the colours of the country's signs
SPREAD = 0.38  # contrast of a wide panel, in differences between ink and ground
ARMS_SHARE = 0.6  # of signs and boards: those with a small thing in a flag's colours
WIDEST_FACE = "DejaVuSans-Bold.ttf"
HEAD_SHARE = 0.44  # height of a head above a jersey, in widths of the jersey
LONGEST_PX = 268  # widest sign: fits the 224×32 zoom canvas at full height


@dataclass(frozen=True)
class Mark:
    """An annotated region.

    Attributes:
        bbox_2d: [x1, y1, x2, y2] in 0..1000 of the photo.
        kind: "sign", "board", "landmark", "jersey", "poster", "restaurant" or "mural".
        text: What is written there, ASCII ("" on a landmark or a mural).
        informative: Whether it tells the place.
        country: Country it speaks of: the photo's own when informative.
        place_id: Place it speaks of, None on a jersey or restaurant board.
    """

    bbox_2d: tuple[int, int, int, int]
    kind: str
    text: str
    informative: bool
    country: str
    place_id: int | None = None


@dataclass(frozen=True)
class Panel:
    """How a mark is painted: its pixel box and the choices that carry no information.

    Attributes:
        mark: What it says; the rest is how it looks.
        box: Left, top, right, bottom, px.
        label: What is written, with accents.
        face: File name of the font.
        text_px: Size of the letters.
        style: Look that a decoy keeps from photo to photo; of a sign, from `sign_style`.
        arrow: On a sign, -1, 0 or 1.
        colours: Ground, ink and rim.
        arms: Colours of a coat of arms.
        salt: Decides details that mean nothing.
        turn: How a facade is turned.
        cover: Share of ink in the mean colour that a wide panel is tinted to.
    """

    mark: Mark
    box: Box
    label: str
    face: str = ""
    text_px: int = 0
    style: int = 0
    arrow: int = 0
    colours: parts.Colours | None = None
    arms: tuple[Colour, ...] = ()
    salt: int = 0
    turn: float = 0.0
    cover: float = 0.18


def draft_decoy(
    rng: np.random.Generator | Dice,
    seed: int,
    place: Place,
    kind: str,
    abroad: Sequence[Country],
    posters: Sequence[Place],
    murals: Sequence[Place] = (),
) -> Panel:
    """A region that misleads: its drawing is one that the web's pages show too, its colours are the street's.

    Args:
        rng: Randomness.
        seed: World seed.
        place: Where the photo is taken.
        kind: One of `DECOYS`.
        abroad: Countries that jerseys and restaurants may be of.
        posters: Cities that posters may name.
        murals: Places whose landmarks may be painted on a wall; `posters` when empty.
    """
    home = country_table()[place.country]
    if kind in ("poster", "mural"):
        pool = posters if kind == "poster" else murals or posters
        city = pick(rng, pool)
        while city.name == place.name:
            city = pick(rng, pool)
        text = city.name if kind == "poster" else ""
        mark = Mark((0, 0, 0, 0), kind, text, False, city.country, city.place_id)
        return draft_panel(rng, mark, text, poster_style(seed, city), home)
    like = ""
    if kind == "restaurant":
        like = pick(rng, posters).name
        other = _restaurant_like(rng, like, abroad)
    else:
        other = pick(rng, abroad)
    style = decoy_style(seed, kind, other, rng.integers(2))
    text = decoy_text(kind, other, style)
    return draft_panel(rng, Mark((0, 0, 0, 0), kind, text, False, other.name), text, style, home, like)


def _restaurant_like(rng: np.random.Generator | Dice, name: str, abroad: Sequence[Country]) -> Country:
    """A country whose word for a restaurant is about as long as a city's name, so that boards are as wide as signs."""
    room = parts.text_width(name, WIDEST_FACE, 24)
    words = {country.name: parts.text_width(country.eatery, WIDEST_FACE, 24) for country in abroad}
    fitting = [country for country in abroad if 0.72 * room <= words[country.name] <= 1.08 * room]
    return pick(rng, fitting) if fitting else min(abroad, key=lambda country: abs(words[country.name] - room))


def decoy_text(kind: str, country: Country, style: int) -> str:
    """What a jersey (its number) or a restaurant board (a word) says."""
    return str(2 + style % 22) if kind == "jersey" else country.eatery


def decoy_picture(rng: np.random.Generator, seed: int, kind: str, label: str, country: str, style: int) -> Image.Image:
    """A product page's picture of a jersey, poster or restaurant board: RGB, jerseys on a plain ground."""
    home = pick(rng, list(country_table().values()))
    panel = draft_panel(rng, Mark((0, 0, 0, 0), kind, label, False, country), label, style, home)
    light = float(rng.uniform(0.88, 1.05))
    tint = (light, light * float(rng.uniform(0.94, 1.0)), light * float(rng.uniform(0.88, 1.0)))
    return tinted(panel_picture(seed, None, panel), tint)


def poster_style(seed: int, city: Place) -> int:
    """The look of the poster of a city, the same in photos and on its page."""
    return int(stream("poster", seed, city.place_id).integers(1 << 16))


def decoy_style(seed: int, kind: str, country: Country, variant: int) -> int:
    """The look of variant 0 or 1 of a jersey or restaurant board, the same in photos and on its page."""
    return int(stream(kind, seed, country.code, variant).integers(1 << 16))


def sign_style(rng: np.random.Generator | Dice, country: Country) -> int:
    """0: the country's colours; 1: brown tourist sign; 2.. neutral, where the country's colours are unknown."""
    if rng.random() < 0.1:
        return 1
    return 0 if country.sign_background else 2 + int(rng.integers(3))


def draft_panel(
    rng: np.random.Generator | Dice,
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
    natural = parts.text_width(like or label, WIDEST_FACE, text_px)
    room = rng.uniform(0.84, 1.04) * natural + rng.uniform(1.3, 2.1) * height
    width = int(min(max(room, 2.4 * height), LONGEST_PX))
    arms = _arms(rng) if rng.random() < ARMS_SHARE else ()
    colours = _colours(rng, mark.kind, home, style)
    cover = rng.uniform(0.1, 0.26)
    return Panel(mark, (0, 0, width, height), label, face, text_px, style, arrow, colours, arms, cover=cover)


def _arms(rng: np.random.Generator | Dice) -> tuple[Colour, ...]:
    """Two or three colours that go together, taken from some flag, in another order."""
    colours = flag_colours(pick(rng, _flags()))
    first = int(rng.integers(len(colours)))
    return tuple((colours[first:] + colours[:first])[:3])


@lru_cache(maxsize=1)
def _flags() -> tuple[str, ...]:
    return tuple(country.flag for country in country_table().values())


def _face(rng: np.random.Generator | Dice, kind: str, style: int) -> str:
    if kind == "sign":
        return pick(rng, parts.SIGN_FACES)
    return parts.BOARD_FACES[style % 3] if kind in DECOYS else pick(rng, parts.BOARD_FACES)


def _colours(rng: np.random.Generator | Dice, kind: str, home: Country, style: int) -> parts.Colours:
    """Ground, ink and rim, faded a little: decoys draw them from the same mixture as signs and boards together."""
    if kind == "sign" or (kind != "board" and rng.random() < SIGN_SHARE):
        ground, ink, rim = _sign_colours(home, style if kind == "sign" else sign_style(rng, home))
    else:
        ground, ink = pick(rng, parts.BOARD_STYLES)
        rim = mix(ground, ink, 0.35)
    faded, age = rng.uniform(0, 0.22), pick(rng, ((150, 150, 144), (206, 196, 170), (80, 84, 96), (150, 120, 90)))
    return mix(ground, age, faded), mix(ink, age, faded * 0.3), mix(rim, age, faded)


def _sign_colours(country: Country, style: int) -> parts.Colours:
    neutral = (("grey", "white"), ("white", "black"), ("black", "white"))
    if style == 1:
        return COLOURS["brown"], COLOURS["white"], COLOURS["white"]
    if style >= 2 or not country.sign_background:
        ground, ink = neutral[style % 3]
        return COLOURS[ground], COLOURS[ink], COLOURS[ink]
    return COLOURS[country.sign_background], COLOURS[country.sign_text], COLOURS[country.sign_border]


def panel_picture(seed: int, place: Place | None, panel: Panel) -> Image.Image:
    """The region alone, RGB, of exactly the size of its box; landmarks and jerseys on a plain ground."""
    left, top, right, bottom = panel.box
    size = (right - left, bottom - top)
    if panel.mark.kind in TALL:
        grounds = ((200, 204, 208), (150, 160, 150), (228, 226, 220))
        canvas = Canvas(*size, grounds[panel.salt % 3])
        _paint_tall(canvas, seed, panel, (0, 0, *size), (1.0, 1.0, 1.0))
        return canvas.image()
    return _evened(draw_wide(panel, size), panel)


def draw_wide(panel: Panel, size: tuple[int, int]) -> Image.Image:
    """A sign, board, poster or restaurant board as it was painted, before `panel_picture` evens its colours out."""
    mark, colours, face, text_px = panel.mark, panel.colours, panel.face, panel.text_px
    if mark.kind == "sign":
        return parts.draw_sign(size, panel.label, colours, face, text_px, panel.arrow, panel.arms)
    if mark.kind == "board":
        icon = panel.style // 16 % 3
        return parts.draw_board(size, panel.label, panel.style, icon, face, text_px, colours, panel.arms)
    if mark.kind == "poster":
        return parts.draw_poster(size, panel.label, panel.style, face, text_px, colours)
    flag = country_table()[mark.country].flag
    return parts.draw_restaurant(size, panel.label, flag, panel.style, face, text_px, colours)


def _evened(picture: Image.Image, panel: Panel) -> Image.Image:
    """The panel with a mean colour and a contrast that depend on ground and ink alone, not on what is shown."""
    pixels = np.asarray(picture)
    ground, ink = panel.colours[:2]
    wanted, found = mix(ground, ink, panel.cover), cv2.mean(pixels)
    spread = cv2.meanStdDev(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))[1][0, 0]
    contrast = SPREAD * abs(sum(ink) - sum(ground)) / 3
    gain = min(max(contrast / max(spread, 1.0), 0.82), 1.25)
    table = [_LEVELS * gain + (a - gain * b + 0.5) for a, b in zip(wanted, found, strict=False)]
    return Image.fromarray(cv2.LUT(pixels, np.stack(table, axis=1).clip(0, 255).astype(np.uint8)[None]))


_LEVELS = np.arange(256.0)


def _paint_tall(canvas: Canvas, seed: int, panel: Panel, box: Box, light: tuple[float, float, float]) -> None:
    if panel.mark.kind == "jersey":
        flag = country_table()[panel.mark.country].flag
        parts.draw_shirt(canvas, box, flag, panel.mark.text, panel.style, light)
    elif panel.mark.kind == "landmark":
        draw_landmark(canvas, box, landmark_of(seed, panel.mark.place_id), panel.turn, light)
    else:
        _paint_mural(canvas, seed, panel, box, light)


def _paint_mural(canvas: Canvas, seed: int, panel: Panel, box: Box, light: tuple[float, float, float]) -> None:
    """Another place's landmark in a frame, under a painted sky."""
    left, top, right, bottom = box
    rim = max((right - left) // 22, 4)

    def lit(colour: Colour) -> Colour:
        return tuple(min(round(value * factor), 255) for value, factor in zip(colour, light, strict=True))

    frame = ((232, 228, 216), (92, 64, 42), (60, 62, 66), (196, 168, 90))[panel.salt % 4]
    sky = ((140, 176, 212), (184, 190, 196), (238, 196, 150), (120, 134, 164))[panel.salt // 4 % 4]
    ground = ((110, 134, 84), (150, 146, 138), (176, 156, 110))[panel.salt // 16 % 3]
    canvas.rect(left, top, right, bottom, lit(frame))
    canvas.rect(left + rim, top + rim, right - rim, bottom - rim, lit(sky))
    canvas.rect(left + rim, bottom - rim - (bottom - top) // 5, right - rim, bottom - rim, lit(ground))
    inner = (left + rim + 3, top + rim + 4, right - rim - 3, bottom - rim - 2)
    draw_landmark(canvas, inner, landmark_of(seed, panel.mark.place_id), panel.turn, light)


def paint_panel(canvas: Canvas, seed: int, panel: Panel, light: Light, dice: Dice) -> None:
    """Paints one region into a photo; now and then a bush or a post stands before a tall one."""
    if panel.mark.kind not in TALL:
        picture = np.asarray(panel_picture(seed, None, panel))
        left, top, right, bottom = panel.box
        canvas.pixels[top:bottom, left:right] = cv2.LUT(picture, light.panel_table())
        return
    _paint_tall(canvas, seed, panel, panel.box, light.panel)
    left, top, right, bottom = panel.box
    if dice.random() < 0.3:
        x, radius = dice.uniform(left, right), dice.uniform(9, 20)
        leaf = light.tone((66, 104, 50))
        for step in (-0.8, 0.0, 0.8):
            canvas.disc(x + step * radius, bottom - radius * 0.1, radius * 0.7, radius * 0.6, leaf)
    if dice.random() < 0.15:
        x = dice.uniform(left, right)
        canvas.box(x - 1.6, top - 12, x + 1.6, bottom + 12, light.tone((70, 72, 76)))
