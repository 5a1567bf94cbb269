"""What is written on a wide picture, as a shape: blind to colours, tolerant of loose boxes and of other faces.

The commonest colour of the middle is taken for the panel's ground, what differs from it inside the panel for ink. The
ink is cut into segments at wide gaps; pictograms and arrows at either end are left out. What remains is squeezed onto
one grid: where ink is, where its upper and lower contours run, and how long it is for its height. No letter is read.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

MIN_ASPECT = 1.5  # width / height from which on a picture can hold a line of words
HEIGHT_PX = 40  # to which the picture is scaled
MAX_ASPECT = 14
MIN_MARK_PX = 3  # smaller spots of ink are grain
COLUMNS, ROWS = 48, 8  # of the grid onto which a reading is squeezed
SOLID = 0.58  # share of ink from which on a segment is no word
SYMMETRIC = 0.35  # share of ink that moves when an arrow is turned upside down, at most
ASPECTS = np.linspace(0.2, 2.8, 9)  # log(width / height) of a reading, where it is sampled
SIZE = COLUMNS * (ROWS + 2) + len(ASPECTS)


def lettering(image: Image.Image) -> np.ndarray | None:
    """The shape of the words on a picture.

    Args:
        image: RGB, any size.

    Returns:
        Unit vector, float64, (SIZE,); None for a tall picture, or one without words on a plain ground.
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


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / (np.linalg.norm(vector) + 1e-9)
