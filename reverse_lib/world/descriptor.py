"""What a picture looks like, as numbers: its look, and the shape of the words on it.

The look is a coarse layout of colours, a histogram of colours and the directions of edges: tolerant of size, light and
a few percent of misplacement, enough to find the same landmark again. On a wide picture with words on a plain ground
the shape of the words counts more (`inkshape`), so that a sign finds pictures of signs of that name in any colour.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from reverse_lib.world import inkshape

GRID = 8  # cells a side of the colour layout
EDGE_PX = 32  # side of the grey picture whose edges are counted
_WINDOW_1D = np.exp(-(((np.arange(GRID) + 0.5) / GRID - 0.5) ** 2) / (2 * 0.30**2))
_WINDOW = np.outer(_WINDOW_1D, _WINDOW_1D)[:, :, None]  # (GRID, GRID, 1): the middle counts more than the rim
_OPPONENT = np.array([[0.33, 0.5, 0.25], [0.33, -0.5, 0.25], [0.33, 0.0, -0.5]])  # RGB to light, red-green, blue-yellow


LETTERING = 0.78  # weight of the words in a picture that has some; their square and the look's make 1
LOOK_SIZE = GRID * GRID * 3 + 128 + 64 + 2


def describe(image: Image.Image) -> np.ndarray:
    """The descriptor of a picture of any size.

    Args:
        image: RGB.

    Returns:
        Unit vector, float32, shape (LOOK_SIZE + inkshape.SIZE,); the second part is 0 where there are no words.
    """
    vector = np.zeros(LOOK_SIZE + inkshape.SIZE)
    words = inkshape.lettering(image)
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
