"""Crops of signs, boards and posters with any name on them, drawn without a photo around: food for a model's eyes.

A few thousand photos hold too few different names to learn letters from. Here every crop has another name, drawn by
the same code as the photos' own panels, and it is known where each letter stands.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageChops

from reverse_lib.environment import TINY, show_zoom
from reverse_lib.world.gazetteer import Country
from reverse_lib.world.panels import Mark, draft_panel, draw_wide, panel_picture, sign_style
from reverse_lib.world.parts import text_width

KINDS = ("sign", "board", "poster")
SHARES = (0.45, 0.3, 0.25)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass
class CropSample:
    """One zoom as the model sees it, with the text on it."""

    image: np.ndarray  # (H, W, 3) uint8
    text: str
    centres_px: np.ndarray | None = None  # (characters,) where each letter's middle is, from the left


def loosen(box: Sequence[float], rng: np.random.Generator) -> list[int]:
    """A box as a model would draw it, in 0..1000: each side up to 15 % (one box in four: 35 %) out or 4 % in."""
    x1, y1, x2, y2 = box
    out = rng.uniform(-0.04, 0.35 if rng.random() < 0.25 else 0.15, 4) * (x2 - x1, y2 - y1, x2 - x1, y2 - y1)
    moved = (x1 - out[0], y1 - out[1], x2 + out[2], y2 + out[3])
    return [min(max(round(value), 0), 1000) for value in moved]


def misspell(rng: np.random.Generator, name: str, letters: int = 1) -> str:
    """The name with so many of its letters, or all it has, taken for others."""
    for at in rng.permutation(len(name))[:letters]:
        letter = LETTERS[int(rng.integers(len(LETTERS)))]
        name = name[:at] + (letter.upper() if name[at].isupper() else letter) + name[at + 1 :]
    return name


def draw_crop(
    rng: np.random.Generator, names: Sequence[str], countries: Sequence[Country], backdrop: np.ndarray
) -> CropSample:
    """A panel with a random name (one in five: random letters) on a piece of a photo, seen through a loose box.

    Args:
        rng: Where every choice comes from.
        names: Names to write.
        countries: Whose sign colours are used.
        backdrop: (H, W, 3) uint8, what is around the panel.
    """
    text = names[rng.integers(len(names))]
    if rng.random() < 0.2:
        text = "".join(LETTERS[i] for i in rng.integers(26, size=rng.integers(3, 12))).capitalize()
    country = countries[rng.integers(len(countries))]
    kind = KINDS[rng.choice(len(KINDS), p=SHARES)]
    style = sign_style(rng, country) if kind == "sign" else int(rng.integers(1 << 16))
    panel = draft_panel(rng, Mark((0, 0, 0, 0), kind, text, True, country.name), text, style)
    picture = panel_picture(0, None, panel).convert("RGB")
    with_text, without = (draw_wide(one, picture.size).convert("RGB") for one in (panel, replace(panel, label=" ")))
    difference = ImageChops.difference(with_text, without)
    left, _, right, _ = difference.getbbox() or (0, 0, *picture.size)
    ends = np.array([text_width(text[:n], panel.face, 64) for n in range(len(text) + 1)], float)
    centres = left + (right - left) * (ends[:-1] + ends[1:]) / 2 / ends[-1]  # px of the panel

    width, height = picture.size
    beside, above = round(0.4 * width) + 12, round(0.4 * height) + 12  # px of the photo around the panel
    size = width + 2 * beside, height + 2 * above
    scene = Image.fromarray(backdrop).resize(size, Image.Resampling.BILINEAR)
    scene.paste(picture, (beside, above))
    scene = Image.fromarray(_weathered(np.asarray(scene), rng))
    scale = 1000 / np.array([scene.width, scene.height] * 2)  # px -> 0..1000
    box = loosen((beside, above, beside + width, above + height) * scale, rng)
    crop_left, crop_top, crop_right, crop_bottom = np.array(box) / scale
    stretch = TINY.zoom_stretch
    zoom = min(TINY.zoom_px[0] / stretch / (crop_right - crop_left), TINY.zoom_px[1] / (crop_bottom - crop_top))
    return CropSample(np.asarray(show_zoom(scene, box, TINY)), text, (centres + beside - crop_left) * zoom * stretch)


def _weathered(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light, tint and grain, as the hour gives them to a photo; (H, W, 3) uint8."""
    light = rng.uniform(0.55, 1.08) * rng.uniform(0.9, 1.05, 3)
    grain = rng.normal(0, rng.uniform(0, 5), pixels.shape[:2])[..., None]
    return np.clip(pixels * light + grain, 0, 255).astype(np.uint8)
