"""The pictures on the pages of the miniature web, and what a picture looks like as numbers.

A picture shows the thing itself in another light, face or cut than any photo. Its descriptor is its look and the shape
of the words on it. The look is a coarse layout of colours, a histogram of colours and the directions of edges: tolerant
of size, light and a few percent of misplacement, enough to find the same landmark again. On a wide picture with words
on a plain ground the shape of the words counts more, so that a sign finds pictures of signs of that name in any colour.

That shape is blind to colours and tolerant of loose boxes and of other faces. The commonest colour of the middle is
taken for the panel's ground, what differs from it inside the panel for ink. The ink is cut into segments at wide gaps;
pictograms and arrows at either end are left out. What remains is squeezed onto one grid: where ink is, where its upper
and lower contours run, and how long it is for its height. No letter is read.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image
from scipy import ndimage

from reverse_lib.world.canvas import Canvas, add_grain, palette
from reverse_lib.world.dice import Dice, pick, stream
from reverse_lib.world.landmarks import MOST_TURN, draw_landmark, landmark_of
from reverse_lib.world.pages import Picture
from reverse_lib.world.panels import (
    INFORMATIVE,
    NOWHERE,
    Mark,
    Panel,
    decoy_text,
    draft_panel,
    panel_picture,
    sign_style,
    tinted,
)
from reverse_lib.world.places import Place, country_table
from reverse_lib.world.scene import plan_scene, render

GROUNDS = palette("c8ccd0 96a096 e4e2dc 60646c")  # what stands behind a thing on a page
GRID = 8  # cells a side of the colour layout
EDGE_PX = 32  # side of the grey picture whose edges are counted
_WINDOW_1D = np.exp(-(((np.arange(GRID) + 0.5) / GRID - 0.5) ** 2) / (2 * 0.30**2))
_WINDOW = np.outer(_WINDOW_1D, _WINDOW_1D)[:, :, None]  # (GRID, GRID, 1): the middle counts more than the rim
_OPPONENT = np.array([[0.33, 0.5, 0.25], [0.33, -0.5, 0.25], [0.33, 0.0, -0.5]])  # RGB to light, red-green, blue-yellow
LETTERING = 0.78  # weight of the words in a picture that has some; their square and the look's make 1
LOOK_SIZE = GRID * GRID * 3 + 128 + 64 + 2
MIN_ASPECT = 1.5  # width / height from which on a picture can hold a line of words
HEIGHT_PX = 40  # to which the picture is scaled
MAX_ASPECT = 14
MIN_MARK_PX = 3  # smaller spots of ink are grain
COLUMNS, ROWS = 48, 8  # of the grid onto which a reading is squeezed
SOLID = 0.58  # share of ink from which on a segment is no word
SYMMETRIC = 0.35  # share of ink that moves when an arrow is turned upside down, at most
ASPECTS = np.linspace(0.2, 2.8, 9)  # log(width / height) of a reading, where it is sampled
WORDS_SIZE = COLUMNS * (ROWS + 2) + len(ASPECTS)


def draw_picture(seed: int, picture: Picture, cities: dict[int, Place]) -> Image.Image:
    """A page's picture, RGB.

    Args:
        seed: World seed.
        picture: What to draw.
        cities: Cities by id; the one that the picture shows must be there.
    """
    rng = stream("picture", seed, picture.kind, picture.place_id, picture.country, picture.style, picture.view)
    if picture.kind == "landmark":
        return _landmark(seed, picture.place_id, Dice(rng))
    city = cities.get(picture.place_id)
    if picture.kind == "street":
        return render(plan_scene(seed, city, picture.view, list(cities.values())))
    country, style = country_table()[picture.country], picture.style
    if picture.kind in ("jersey", "restaurant"):
        text = label = decoy_text(picture.kind, country, style)
    else:
        text, label = city.name, city.name if picture.kind == "poster" else city.local_name or city.name
        style = style if picture.kind == "poster" else int(rng.integers(1 << 16))
    if picture.kind == "sign":
        style = sign_style(rng, country)
    mark = Mark(NOWHERE, picture.kind, text, picture.kind in INFORMATIVE, country.name)
    return _on_a_page(rng, seed, draft_panel(rng, mark, label, style))


def _landmark(seed: int, place_id: int, dice: Dice) -> Image.Image:
    """A landmark turned a little, under some sky, in some light, cut a little differently."""
    height = dice.integers(112, 172)
    width = round(height * dice.uniform(0.62, 0.9))
    margin = [round(dice.uniform(-0.03, 0.07) * height) for _ in range(4)]
    sky = pick(dice, palette("96bee6 ced2d6 f0d6ba aaaab4 bebaac"))
    ground = pick(dice, palette("6e8654 96928a b09c6e"))
    canvas = Canvas(width + margin[0] + margin[2], height + margin[1] + margin[3], sky)
    canvas.rect(0, round(canvas.size[1] * dice.uniform(0.6, 0.9)), *canvas.size, ground)
    bright = dice.uniform(0.85, 1.05)
    light = (bright * dice.uniform(0.95, 1.04), bright, bright * dice.uniform(0.82, 1.02))
    box = (margin[0], margin[1], margin[0] + width, margin[1] + height)
    draw_landmark(canvas, box, landmark_of(seed, place_id), dice.uniform(-MOST_TURN, MOST_TURN), light)
    add_grain(canvas.pixels, dice)
    return canvas.image()


def _on_a_page(rng: np.random.Generator, seed: int, panel: Panel) -> Image.Image:
    """A panel without its arrow, on a plain ground, a little loosely cut, in some light."""
    thing = panel_picture(seed, replace(panel, arrow=0))
    width, height = thing.size
    left, top, right, bottom = (int(value * height) for value in rng.uniform(0.0, 0.06, 4))
    page = Image.new("RGB", (width + left + right, height + top + bottom), pick(rng, GROUNDS))
    page.paste(thing, (left, top))
    light = float(rng.uniform(0.85, 1.05))
    return tinted(page, (light, light * float(rng.uniform(0.94, 1.0)), light * float(rng.uniform(0.88, 1.0))))


def describe(image: Image.Image) -> np.ndarray:
    """The descriptor of a picture of any size.

    Args:
        image: RGB.

    Returns:
        Unit vector, float32, shape (LOOK_SIZE + WORDS_SIZE,); the second part is 0 where there are no words.
    """
    vector = np.zeros(LOOK_SIZE + WORDS_SIZE)
    words = _lettering(image)
    vector[:LOOK_SIZE] = _look(image)
    if words is not None:
        vector[:LOOK_SIZE] *= np.sqrt(1 - LETTERING**2)
        vector[LOOK_SIZE:] = LETTERING * words
    return vector.astype(np.float32)


def _look(image: Image.Image) -> np.ndarray:
    """Layout and histogram of colours, directions of edges and width for height: unit vector, (LOOK_SIZE,)."""
    image = image.convert("RGB")
    small = image.resize((EDGE_PX, EDGE_PX), Image.Resampling.BOX, reducing_gap=2.0)
    pixels = np.asarray(small, np.float64) / 255  # (32, 32, 3)
    cells = pixels.reshape(GRID, 4, GRID, 4, 3).mean(axis=(1, 3))  # (8, 8, 3)
    layout = cells @ _OPPONENT
    layout[:, :, 0] = (layout[:, :, 0] - layout[:, :, 0].mean()) / (layout[:, :, 0].std() + 0.08) * 0.3
    layout[:, :, 1:] = layout[:, :, 1:] * 2.5 / (pixels.mean() + 0.3)
    layout -= layout.mean(axis=(0, 1))  # the tint of the hour
    parts = [
        _unit((layout * _WINDOW).ravel()),
        0.9 * _unit(_edges(pixels.mean(axis=2))),
        0.6 * _unit(_histogram(pixels)),
        0.2 * _unit(np.array([1.0, 4 * np.log(image.width / image.height)])),
    ]
    return _unit(np.concatenate(parts))


def _edges(grey: np.ndarray) -> np.ndarray:
    """Histogram of edge directions, 4×4 cells × 8 directions, flat."""
    dy, dx = np.gradient(grey)
    strength = np.hypot(dx, dy)
    direction = np.floor((np.arctan2(dy, dx) % np.pi) / np.pi * 8).astype(int) % 8
    rows, columns = np.indices(grey.shape) * 4 // EDGE_PX
    counts = np.bincount((rows * 4 + columns).ravel() * 8 + direction.ravel(), strength.ravel(), 128)
    return np.sqrt(counts)


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """Colour histogram of the middle, 4×4×4 bins of relative colour, flat."""
    middle = pixels[4:-4, 4:-4].reshape(-1, 3)
    scaled = middle / (pixels.max() + 1e-6)
    bins = np.minimum((scaled * 4).astype(int), 3)
    return np.sqrt(np.bincount(bins @ np.array([16, 4, 1]), minlength=64).astype(np.float64))


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / (np.linalg.norm(vector) + 1e-9)


def _lettering(image: Image.Image) -> np.ndarray | None:
    """The shape of the words on a picture.

    Args:
        image: RGB, any size.

    Returns:
        Unit vector, float64, (WORDS_SIZE,); None for a tall picture, or one without words on a plain ground.
    """
    if image.width < MIN_ASPECT * image.height:
        return None
    ink = _ink(image)
    if ink is None:
        return None
    spans = _segments(ink)
    while len(spans) > 1 and _is_pictogram(ink[:, slice(*spans[0])]):
        spans = spans[1:]
    while len(spans) > 1 and _is_pictogram(ink[:, slice(*spans[-1])]):
        spans = spans[:-1]
    return _shape(ink[:, spans[0][0] : spans[-1][1]]) if spans else None


def _is_pictogram(ink: np.ndarray) -> bool:
    """Whether a segment is rather a pictogram or an arrow than a word: solid, or the same upside down, or a speck."""
    rows = np.nonzero(ink.max(axis=1) > 0.5)[0]
    if len(rows) < 6:
        return True
    ink = ink[rows[0] : rows[-1] + 1]
    solid = ink.mean() > SOLID and ink.shape[1] < 2 * len(ink)
    return bool(solid or np.abs(ink - ink[::-1]).sum() < SYMMETRIC * ink.sum())


def _ink(image: Image.Image) -> np.ndarray | None:
    """Ink of the panel in a picture, 0..1, (rows, columns); None where no plain ground is found."""
    width = round(HEIGHT_PX * min(image.width / image.height, MAX_ASPECT))
    pixels = np.asarray(image.resize((width, HEIGHT_PX), Image.Resampling.BOX, reducing_gap=None), np.float64)
    middle = pixels[HEIGHT_PX // 5 : -HEIGHT_PX // 5, width // 8 : -width // 8].reshape(-1, 3)
    bins = (middle // 24).astype(np.int64) @ np.array([121, 11, 1])
    ground = np.median(middle[bins == np.argmax(np.bincount(bins))], axis=0)
    distance = np.abs(pixels - ground).max(axis=2)  # (40, width)
    contrast = np.quantile(np.abs(middle - ground).max(axis=1), 0.93)
    if contrast < 24:
        return None
    ink = np.clip(distance / contrast * 1.6 - 0.4, 0, 1)
    return _without_rims(ink)


def _without_rims(ink: np.ndarray) -> np.ndarray:
    """Ink without what reaches the upper or lower edge, or stands at a side over most of the height: surroundings."""
    height, width = ink.shape
    marked, _ = ndimage.label(ink > 0.35, np.ones((3, 3)))
    for number, (rows, columns) in enumerate(ndimage.find_objects(marked), 1):
        tall = rows.stop - rows.start > 0.7 * height and (columns.start == 0 or columns.stop == width)
        speck = rows.stop - rows.start < MIN_MARK_PX and columns.stop - columns.start < MIN_MARK_PX
        if rows.start == 0 or rows.stop == height or tall or speck:
            ink[rows, columns] *= marked[rows, columns] != number
    return np.where(marked > 0, ink, 0.0)


def _segments(ink: np.ndarray) -> list[tuple[int, int]]:
    """Column spans that hold ink, apart by more than an eighth of the height."""
    filled = np.nonzero(ink.sum(axis=0) > 0.6)[0]
    if not len(filled):
        return []
    gaps = np.nonzero(np.diff(filled) > max(len(ink) / 8, 2))[0]
    starts, ends = np.r_[filled[0], filled[gaps + 1]], np.r_[filled[gaps], filled[-1]]
    return [(int(start), int(end) + 1) for start, end in zip(starts, ends, strict=True)]


def _shape(ink: np.ndarray) -> np.ndarray | None:
    """A reading as a unit vector, (d,); None for a speck."""
    rows = np.nonzero(ink.max(axis=1) > 0.5)[0]
    if len(rows) < 6 or ink.shape[1] < 8:
        return None
    ink = ink[rows[0] : rows[-1] + 1]
    height, width = ink.shape
    grid = np.asarray(
        Image.fromarray((ink * 255).astype(np.uint8)).resize((COLUMNS, ROWS), Image.Resampling.BOX), np.float64
    )
    grid = _smooth(grid / 255)
    grid -= grid.mean(axis=1, keepdims=True) * 0.8
    solid = ink > 0.5
    any_ink = solid.any(axis=0)
    upper = np.where(any_ink, solid.argmax(axis=0), height) / height
    lower = np.where(any_ink, solid[::-1].argmax(axis=0), height) / height
    contours = np.stack([_stretch(upper), _stretch(lower)])
    contours -= contours.mean(axis=1, keepdims=True)
    aspect = np.exp(-((np.log(width / height) - ASPECTS) ** 2) / (2 * 0.22**2))
    return _unit(np.r_[_unit(grid.ravel()), 0.7 * _unit(contours.ravel()), 0.6 * _unit(aspect)])


def _stretch(line: np.ndarray) -> np.ndarray:
    """A line of any length sampled at `COLUMNS` positions and smoothed, (48,)."""
    at = (np.arange(COLUMNS) + 0.5) / COLUMNS * len(line) - 0.5
    return _smooth(np.interp(at, np.arange(len(line)), line)[None])[0]


def _smooth(rows: np.ndarray) -> np.ndarray:
    """Rows averaged with their neighbours to the left and right, weights 1 2 1."""
    padded = np.pad(rows, ((0, 0), (1, 1)), mode="edge")
    return (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
