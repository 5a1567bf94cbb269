"""The search engine of the miniature web: BM25 over titles, and pictures that look alike.

Text search is BM25 (`bm25s`); image search compares a descriptor of the crop's pixels with those of the pages' own
pictures (`gallery`), so a box around the wrong thing brings pages about the wrong thing. What is written on pages is in
`pages`. Every page states its own position, up to 4 km off the centre, or none: coordinates can't be learned by heart.

Differs from the web in three ways on purpose. At most three pages about one place are listed, as real engines do with
pages of one site, so that a name's twins stay visible. A country's name is one word, so that "United States" weighs no
more than "Spain". Length of a title is not scored, and pages of equal score come in an order that is drawn for each
query: else short titles would be the useful ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from reverse_lib.search import SearchResult, normalise_query
from reverse_lib.world.gallery import Gallery, draw_picture
from reverse_lib.world.gazetteer import Place, country_table, fold, stream
from reverse_lib.world.pages import Page, Picture, WebBuilder

MAX_PER_PLACE = 3
MAX_WORDS = 16  # of a query that are looked at


@dataclass(frozen=True)
class SearchHit:
    """A page found, with its score: BM25 (0 and up) or cosine similarity (-1..1)."""

    page: Page
    score: float

    @property
    def result(self) -> SearchResult:
        """The page as an unlabelled search result."""
        return self.page.result()


class Engine:
    """Search over the miniature web.

    Attributes:
        seed: The world's seed.
        cities: Places and further cities whose pictures the web shows, by id.
        pages: All pages.
        pictures: The pictures on them.
        by_url: Page at an address.
    """

    def __init__(self, seed: int, places: Sequence[Place], spare: Sequence[Place]) -> None:
        """Writes the pages and indexes their words; pictures are drawn and described at the first image search.

        Args:
            seed: The world's seed.
            places: The world's places.
            spare: Further cities that posters and murals show.
        """
        pages, pictures = WebBuilder(seed, places, spare).build()
        self._take(seed, [*places, *spare], pages, pictures)

    def _take(self, seed: int, cities: Sequence[Place], pages: list[Page], pictures: list[Picture]) -> None:
        import bm25s

        self.seed, self.pages, self.pictures = seed, pages, pictures
        self.cities = {city.place_id: city for city in cities}
        self.by_url = {page.url: page for page in pages}
        self._by_place: dict[int | None, list[Page]] = {}
        for page in pages:
            self._by_place.setdefault(page.place_id, []).append(page)
        corpus = [_words(page.title) for page in pages]
        self._vocabulary = sorted({word for words in corpus for word in words})
        self._known = frozenset(self._vocabulary)
        self._bm25 = bm25s.BM25(method="lucene", k1=1.2, b=0.0)
        self._bm25.index(corpus, show_progress=False)
        self._repair = lru_cache(maxsize=4096)(self._closest)

    def save(self, folder: str | Path) -> None:
        """Writes everything into a folder, which is made; draws the pictures if no search has needed them yet."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._gallery.save(folder)
        lists = {"cities": list(self.cities.values()), "pages": self.pages, "pictures": self.pictures}
        text = {name: [list(asdict(row).values()) for row in rows] for name, rows in lists.items()}
        (folder / "web.json").write_text(json.dumps({"seed": self.seed} | text), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Engine:
        """Opens what `save` wrote; no picture is drawn.

        Raises:
            FileNotFoundError: If a file is missing.
        """
        folder = Path(folder)
        text = json.loads((folder / "web.json").read_text(encoding="utf-8"))
        engine = cls.__new__(cls)
        kinds = {"cities": Place, "pages": Page, "pictures": Picture}
        engine._take(text["seed"], *([kind(*row) for row in text[name]] for name, kind in kinds.items()))
        engine._gallery = Gallery.load(folder)
        return engine

    def page(self, url: str) -> Page:
        """The page at an address.

        Raises:
            KeyError: If there is none.
        """
        return self.by_url[url]

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
        return self._list(scores, np.nonzero(scores > 0)[0], k, exclude, turned)

    def search_image(self, crop: Image.Image, k: int = 10, exclude: frozenset[str] = frozenset()) -> list[SearchHit]:
        """Pages whose pictures look most like a crop, best first; arguments as in `search_text`."""
        scores = self._gallery.similarities(crop, len(self.pages))
        return self._list(scores, np.nonzero(scores > -2)[0], k, exclude)

    def picture(self, picture: Picture) -> Image.Image:
        """Draws a page's picture, RGB."""
        return draw_picture(self.seed, picture, self.cities)

    def _list(
        self, scores: np.ndarray, found: np.ndarray, k: int, exclude: frozenset[str], turned: int = 0
    ) -> list[SearchHit]:
        """The best pages, equal ones by their number on a wheel that is turned so far."""
        order = found[np.lexsort(((found + turned) % len(self.pages), -np.round(scores[found], 5)))]
        hits: list[SearchHit] = []
        shown: dict[object, int] = {}
        for number in order.tolist():
            page = self.pages[number]
            if page.url in exclude:
                continue
            about = page.place_id if page.place_id is not None else page.url
            shown[about] = shown.get(about, 0) + 1
            if shown[about] <= MAX_PER_PLACE:
                hits.append(SearchHit(page, float(scores[number])))
            if len(hits) == k:
                break
        return hits

    def _closest(self, word: str) -> str:
        if word in self._known:
            return word
        return next(iter(get_close_matches(word, self._vocabulary, n=1, cutoff=0.75)), "") if len(word) > 3 else ""

    @cached_property
    def _gallery(self) -> Gallery:
        return Gallery.draw(self.seed, self.pictures, self.cities)


def _words(text: str) -> list[str]:
    """The words of a text as they are indexed; the name of a country is one word."""
    text = normalise_query(fold(text))
    return _countries().sub(lambda match: match[0].replace(" ", ""), text).split()


@lru_cache(maxsize=1)
def _countries() -> re.Pattern[str]:
    """Names of countries that are several words."""
    names = [name.lower() for name in country_table() if " " in name]
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b")
