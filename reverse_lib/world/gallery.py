"""The pictures on the pages of the miniature web, and the index that finds the most alike.

The index is flat and exact: one float32 matrix of unit vectors, and one product with the vector of the crop gives all
similarities. Tens of thousands of pictures take a few milliseconds that way, the result is the same on every machine,
and there is nothing to tune; approximate structures pay from millions on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from reverse_lib.world import scene
from reverse_lib.world.descriptor import describe
from reverse_lib.world.gazetteer import Place, country_table, pick, stream
from reverse_lib.world.landmark import landmark_picture, tinted
from reverse_lib.world.pages import Picture

GROUNDS = ((200, 204, 208), (150, 160, 150), (228, 226, 220), (96, 100, 108))  # what stands behind a thing on a page


class Gallery:
    """Descriptors of pictures and the pages that show them.

    Attributes:
        owners: (n,) int64, the page of each picture.
        vectors: (n, d) float32, unit vectors.
    """

    def __init__(self, owners: np.ndarray, vectors: np.ndarray) -> None:
        """Takes the arrays as they are."""
        self.owners, self.vectors = owners, vectors

    @classmethod
    def draw(cls, seed: int, pictures: Sequence[Picture], cities: dict[int, Place]) -> Gallery:
        """Draws and describes every picture; `cities` are those that pictures show, by id."""
        owners = np.array([picture.page for picture in pictures], np.int64)
        return cls(owners, np.stack([describe(draw_picture(seed, picture, cities)) for picture in pictures]))

    @classmethod
    def load(cls, folder: Path) -> Gallery:
        """Reads what `save` wrote; the matrix stays on disk until it is used."""
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        return cls(np.load(folder / "owners.npy"), vectors)

    def save(self, folder: Path) -> None:
        """Writes two .npy files into a folder."""
        np.save(folder / "owners.npy", self.owners)
        np.save(folder / "vectors.npy", self.vectors)

    def similarities(self, crop: Image.Image, pages: int) -> np.ndarray:
        """For each of so many pages the cosine of its most alike picture, (pages,) float64; -2 without a picture."""
        scores = np.full(pages, -2.0)
        np.maximum.at(scores, self.owners, (self.vectors @ describe(crop)).astype(np.float64))
        return scores


def draw_picture(seed: int, picture: Picture, cities: dict[int, Place]) -> Image.Image:
    """A page's picture, RGB: the thing itself in another light, face or cut than in any photo.

    Args:
        seed: World seed.
        picture: What to draw.
        cities: Cities by id; the one that the picture shows must be there.
    """
    rng = stream("picture", seed, picture.kind, picture.place_id, picture.country, picture.style, picture.view)
    if picture.kind == "landmark":
        return landmark_picture(seed, picture.place_id, rng)
    city = cities.get(picture.place_id)
    if picture.kind == "street":
        return scene.render(scene.plan_scene(seed, city, picture.view, list(cities.values())))
    country = country_table()[picture.country]
    if picture.kind in ("jersey", "restaurant"):
        text = label = scene.decoy_text(picture.kind, country, picture.style)
        style = picture.style
    else:
        text, label = city.name, city.name if picture.kind == "poster" else city.local_name or city.name
        style = picture.style if picture.kind == "poster" else int(rng.integers(1 << 16))
    if picture.kind == "sign":
        style = scene.sign_style(rng, country)
    mark = scene.Mark((0, 0, 0, 0), picture.kind, text, picture.kind in scene.INFORMATIVE, country.name)
    return _on_a_page(rng, seed, city, scene.draft_panel(rng, mark, label, style))


def _on_a_page(rng: np.random.Generator, seed: int, city: Place | None, panel: scene.Panel) -> Image.Image:
    """A panel without its arrow, on a plain ground, a little loosely cut, in some light."""
    thing = scene.panel_picture(seed, city, replace(panel, arrow=0))
    width, height = thing.size
    left, top, right, bottom = (int(value * height) for value in rng.uniform(0.0, 0.06, 4))
    page = Image.new("RGB", (width + left + right, height + top + bottom), pick(rng, GROUNDS))
    page.paste(thing, (left, top), thing if thing.mode == "RGBA" else None)
    light = float(rng.uniform(0.85, 1.05))
    return tinted(page, (light, light * float(rng.uniform(0.94, 1.0)), light * float(rng.uniform(0.88, 1.0))))
