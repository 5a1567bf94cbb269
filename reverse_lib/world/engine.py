"""The search engine of the miniature web: BM25 over titles, and pictures that look alike; and how good it is.

Text search is BM25 (`bm25s`); image search compares a descriptor of the crop's pixels with those of the pages' own
pictures (`pictures`), so a box around the wrong thing brings pages about the wrong thing. What is written on pages is
in `pages`. The index of pictures is flat and exact: one float32 matrix of unit vectors, whose product with the vector
of the crop gives all similarities. Tens of thousands of pictures take a few milliseconds that way, the result is the
same on every machine, and there is nothing to tune; approximate structures pay from millions on.

Differs from the web in three ways on purpose. At most three pages about one place are listed, as real engines do with
pages of one site, so that a name's twins stay visible. A country's name is one word, so that "United States" weighs no
more than "Spain". Length of a title is not scored, and pages of equal score come in an order that is drawn for each
query: else short titles would be the useful ones.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from difflib import get_close_matches
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from reverse_lib.photos import Photo, crop
from reverse_lib.search import normalise_query
from reverse_lib.world.dice import stream
from reverse_lib.world.pages import Page, Picture, names_in
from reverse_lib.world.panels import Mark, widen
from reverse_lib.world.pictures import describe, draw_picture
from reverse_lib.world.places import Place, country_table, fold

MAX_PER_PLACE = 3
MAX_WORDS = 16  # of a query that are looked at
WHOLE = (0, 0, 1000, 1000)
FIRST = 5  # results that `engine_table` looks at
LOOSE, SLOPPY = (-0.1, 0.1), (0.15, 0.5)  # how far a side lies outside the region, in its widths or heights


@dataclass(frozen=True)
class SearchHit:
    """A page found, with its score: BM25 (0 and up) or cosine similarity (-1..1)."""

    page: Page
    score: float


_LISTS = {"pages": Page, "pictures": Picture}


class Engine:
    """Search over the miniature web.

    Attributes:
        seed: The world's seed.
        cities: Places and further cities whose pictures the web shows, by id.
        pages: All pages.
        pictures: The pictures on them.
        vocabulary: The words of all titles, as keys, sorted.
    """

    def __init__(self, seed: int, cities: Sequence[Place], pages: Sequence[Page], pictures: Sequence[Picture]) -> None:
        """Indexes the pages' words; pictures are drawn and described at the first image search.

        Args:
            seed: The world's seed.
            cities: The world's places, and further cities that posters and murals show.
            pages: From `pages.write_web`.
            pictures: The pictures on them.
        """
        import bm25s

        self.seed, self.pages, self.pictures = seed, pages, pictures
        self._owners = np.array([picture.page for picture in pictures], np.int64)  # of each picture, its page
        self.cities = {city.place_id: city for city in cities}
        self._by_place: dict[int | None, list[Page]] = defaultdict(list)
        for page in pages:
            self._by_place[page.place_id].append(page)
        corpus = [_words(page.title) for page in pages]
        self.vocabulary = dict.fromkeys(sorted({word for words in corpus for word in words}))
        self._bm25 = bm25s.BM25(method="lucene", k1=1.2, b=0.0)
        self._bm25.index(corpus, show_progress=False)
        self._repair = lru_cache(maxsize=4096)(self._closest)

    def save(self, folder: Path) -> None:
        """Writes everything into a folder that is there; draws the pictures if no search has needed them yet."""
        np.save(folder / "vectors.npy", self._vectors)
        lists = {"pages": self.pages, "pictures": self.pictures}
        text = {name: [astuple(row) for row in rows] for name, rows in lists.items()}
        (folder / "web.json").write_text(json.dumps(text), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, seed: int, cities: Sequence[Place]) -> Engine:
        """Opens what `save` wrote; no picture is drawn.

        Raises:
            FileNotFoundError: If a file is missing.
        """
        text = json.loads((folder / "web.json").read_text(encoding="utf-8"))
        pages, pictures = ([kind(*row) for row in text[name]] for name, kind in _LISTS.items())
        engine = cls(seed, cities, pages, pictures)
        engine._vectors = np.load(folder / "vectors.npy", mmap_mode="r")  # stays on disk until it is used
        return engine

    def pages_about(self, place: Place) -> list[Page]:
        """All pages about a place, with and without position."""
        return self._by_place.get(place.place_id, [])

    def search_text(self, query: str, k: int = 10, exclude: frozenset[str] = frozenset()) -> list[SearchHit]:
        """Pages that match the words of a query, best first.

        A word that no page has is replaced by the closest one that some page has, as engines do with misspellings.

        Args:
            query: Any text.
            k: At most so many.
            exclude: Addresses of pages that are left out.
        """
        words = [self._repair(word) for word in _words(query)[:MAX_WORDS]]
        words = [word for word in dict.fromkeys(words) if word]
        if not words:
            return []
        scores = self._bm25.get_scores(words)
        turned = int(stream("ties", *words).integers(len(self.pages)))
        return self._best(scores, np.nonzero(scores > 0)[0], k, exclude, turned)

    def search_image(self, crop: Image.Image, k: int = 10, exclude: frozenset[str] = frozenset()) -> list[SearchHit]:
        """Pages whose pictures look most like a crop, best first; arguments as in `search_text`."""
        scores = np.full(len(self.pages), -2.0)
        np.maximum.at(scores, self._owners, (self._vectors @ describe(crop)).astype(np.float64))
        return self._best(scores, np.nonzero(scores > -2)[0], k, exclude)

    def picture(self, picture: Picture) -> Image.Image:
        """Draws a page's picture, RGB."""
        return draw_picture(self.seed, picture, self.cities)

    def _best(
        self, scores: np.ndarray, matches: np.ndarray, k: int, exclude: frozenset[str], turned: int = 0
    ) -> list[SearchHit]:
        """The best pages, equal ones by their number on a wheel that is turned so far."""
        order = matches[np.lexsort(((matches + turned) % len(self.pages), -np.round(scores[matches], 5)))]
        hits: list[SearchHit] = []
        listed: Counter = Counter()
        for number in order.tolist():
            page = self.pages[number]
            if page.url in exclude:
                continue
            about = page.place_id if page.place_id is not None else page.url
            listed[about] += 1
            if listed[about] <= MAX_PER_PLACE:
                hits.append(SearchHit(page, float(scores[number])))
            if len(hits) == k:
                break
        return hits

    def _closest(self, word: str) -> str:
        if word in self.vocabulary:
            return word
        return next(iter(get_close_matches(word, self.vocabulary, n=1, cutoff=0.75)), "") if len(word) > 3 else ""

    @cached_property
    def _vectors(self) -> np.ndarray:
        """Descriptors of all pictures, (n, d) float32, unit vectors."""
        return np.stack([describe(self.picture(picture)) for picture in self.pictures])


def _words(text: str) -> list[str]:
    """The words of a text as they are indexed; the name of a country is one word."""
    text = normalise_query(fold(text))
    return _countries().sub(lambda match: match[0].replace(" ", ""), text).split()


@lru_cache(maxsize=1)
def _countries() -> re.Pattern[str]:
    """Names of countries that are several words."""
    names = [name.lower() for name in country_table() if " " in name]
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b")


def engine_table(world, photos: Iterable[Photo]) -> list[dict[str, object]]:
    """What image search finds, by kind of region and of box.

    A loose box is off by up to 10 % a side, a sloppy one reaches 15 to 50 % too far on each. "right" is the share of
    boxes with a page about the photo's place among the first five, "useful" that with one which states a position
    too, "shown" the share with a page about what the box really shows: a place of the name that is written there, the
    place whose landmark it is, a shirt or restaurant of that country.

    Args:
        world: The `World` of the photos.
        photos: Photos of any split.

    Returns:
        A row for each kind of region and box, and one for whole photos: region, informative, box, photos, right,
        useful, shown (None for whole photos).
    """
    counts: Counter[tuple] = Counter()
    for photo in photos:
        picture, rng = photo.load(), stream("quality", photo.photo_id)
        boxes: list[tuple[str, tuple[float, float], Mark | None]] = [("whole", (0, 0), None)]
        boxes += [(name, reach, mark) for mark in photo.marks for name, reach in (("loose", LOOSE), ("sloppy", SLOPPY))]
        for name, reach, mark in boxes:
            box = widen(mark.bbox_2d, rng.uniform(*reach, 4)) if mark else WHOLE
            pages = [hit.page for hit in world.engine.search_image(crop(picture, box), FIRST)]
            key = (mark.kind, mark.informative, name) if mark else ("photo", False, name)
            counts[*key, "photos"] += 1
            counts[*key, "right"] += any(page.place_id == photo.place.place_id for page in pages)
            counts[*key, "useful"] += any(page.useful_for(photo.place) for page in pages)
            counts[*key, "shown"] += mark is not None and shows(mark, pages)
    rows = []
    for region, informative, name in sorted({key[:3] for key in counts}, key=lambda key: (not key[1], *key[::2])):
        key = (region, informative, name)
        shares = {part: counts[*key, part] / counts[*key, "photos"] for part in ("right", "useful", "shown")}
        row = {"region": region, "informative": informative, "box": name, "photos": counts[*key, "photos"]}
        rows.append(row | shares | ({"shown": None} if region == "photo" else {}))
    return rows


def shows(mark: Mark, pages: Sequence[Page]) -> bool:
    """Whether one of the pages is about what a region shows."""
    if mark.kind in ("jersey", "restaurant"):
        return any(page.kind == mark.kind and page.country == mark.country for page in pages)
    if mark.text:
        return any(mark.text in names_in(page.title) for page in pages)
    return any(page.place_id == mark.place_id for page in pages)
