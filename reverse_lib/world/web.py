"""The miniature web and its search engine: pages about places, twins, shops, blogs and products; BM25 and pictures.

Text search is BM25 (`bm25s`) over titles. Image search compares a descriptor of the crop's pixels with
descriptors of the pages' own pictures, so a box around the wrong thing brings pages about the wrong thing. Every page
states its own position, up to 4 km off the centre, or none: coordinates can't be learned by heart.

Differs from the web in one way on purpose: at most four pages about one place are listed, as real engines do with
pages of one site, so that a name's twins stay visible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, lru_cache

import numpy as np
from PIL import Image

from reverse_lib.search import SearchResult, normalise_query
from reverse_lib.world import scene
from reverse_lib.world.descriptor import describe
from reverse_lib.world.gazetteer import Country, Place, country_table, fold, load_cities, offset, pick, stream
from reverse_lib.world.landmark import landmark_picture

NO_POSITION = "no position"
USEFUL_KINDS = ("place", "landmark")
MAX_PER_PLACE = 4
PLACE_TITLES = ("{n} station, {c}", "Town hall of {n}, {c}", "Map of {n}, {c}", "Visit {n}, {c}", "Museum of {n}, {c}")
LANDMARK_TITLES = ("Landmark of {n}, {c}", "Sights of {n}, {c}")
SHOP_TITLES = ("Hotel {n}, {c}", "{n} Bakery, {c}", "Cafe {n}, {c}", "{n} Cinema, {c}")


@dataclass(frozen=True)
class Page:
    """A page of the miniature web.

    Attributes:
        title: Headline; on pages about a place it ends with ", Country".
        url: Address, unique.
        source: Host.
        snippet: "39.47, -0.38" (latitude, longitude) or "no position".
        place_id: GeoNames id of the place it is about; None on shops, blogs, jerseys and restaurants.
        kind: "place", "landmark", "street", "shop", "blog", "near" or "product".
        country: Country it speaks of.
        name: Name it speaks of, "" on jerseys and restaurants.
    """

    title: str
    url: str
    source: str
    snippet: str
    place_id: int | None
    kind: str
    country: str
    name: str = ""

    @property
    def has_position(self) -> bool:
        """Whether it states coordinates."""
        return self.snippet != NO_POSITION

    def useful_for(self, place: Place) -> bool:
        """Whether it locates that place."""
        return self.place_id == place.place_id and self.has_position and self.kind in USEFUL_KINDS

    def result(self, useful: bool | None = None) -> SearchResult:
        """The page as a search result."""
        return SearchResult(self.title, self.url, self.source, self.snippet, useful)


@dataclass(frozen=True)
class SearchHit:
    """A page found, with its score: BM25 (0 and up) or cosine similarity (-1..1)."""

    page: Page
    score: float

    @property
    def result(self) -> SearchResult:
        """The page as an unlabelled search result."""
        return self.page.result()


@dataclass(frozen=True)
class Picture:
    """A picture on a page: `page` is its position in the list of pages, `draw` makes it."""

    page: int
    kind: str  # "landmark" | "jersey" | "poster" | "restaurant" | "street"
    place: Place | None
    view: int
    style: int = 0
    label: str = ""
    country: str = ""


class WebBuilder:
    """Writes the pages of a world. Deterministic in (seed, places, poster cities)."""

    def __init__(self, seed: int, places: Sequence[Place], spare: Sequence[Place]) -> None:
        """Args are the world's seed, its places, and further cities that posters name."""
        self.seed, self.places, self.spare = seed, places, spare
        self.pages: list[Page] = []
        self.pictures: list[Picture] = []
        self.near = _near_names(places)

    def build(self) -> tuple[list[Page], list[Picture]]:
        """Returns all pages and the pictures on them."""
        names = [place.name for place in self.places]
        for place in self.places:
            rng = stream("pages", self.seed, place.place_id)
            self._about(place, rng, landmarks=1 + int(rng.integers(2)))
            self._around(place, rng, names)
        for city in self.spare:
            self._about(city, stream("pages", self.seed, city.place_id), landmarks=0)
        self._posters([*self.places, *self.spare])
        for country in country_table().values():
            self._products(country)
        return self.pages, self.pictures

    def _add(self, title: str, kind: str, country: str, name: str, position: str, place_id: int | None = None) -> int:
        number = len(self.pages)
        host = f"{SITES[kind][number % len(SITES[kind])]}.example"
        slug = "-".join(fold(title).lower().replace(",", "").split())
        url = f"https://{host}/{slug}-{number}"
        self.pages.append(Page(title, url, host, position, place_id, kind, country, name))
        return number

    def _position(self, rng: np.random.Generator, lat: float, lon: float, share: float = 1.0) -> str:
        near_lat, near_lon = offset(rng, lat, lon, 4.0)
        return f"{near_lat:.2f}, {near_lon:.2f}" if rng.random() < share else NO_POSITION

    def _about(self, place: Place, rng: np.random.Generator, landmarks: int) -> None:
        n, c = place.name, place.country
        spots = [self._position(rng, place.lat, place.lon, share) for share in (1.0, 0.75, 0.5, 1.0, 0.6)]
        self._add(f"{n}, {c}", "place", c, n, spots[0], place.place_id)
        titles = [PLACE_TITLES[position] for position in rng.permutation(len(PLACE_TITLES))]
        for title, spot in zip(titles[: 1 + int(rng.integers(2))], spots[1:3], strict=False):
            self._add(title.format(n=n, c=c), "place", c, n, spot, place.place_id)
        first = int(rng.integers(2))
        for number in range(landmarks):
            title = LANDMARK_TITLES[(first + number) % 2].format(n=n, c=c)
            page = self._add(title, "landmark", c, n, spots[3 + number], place.place_id)
            for view in (0, 1):
                self.pictures.append(Picture(page, "landmark", place, 2 * number + view))

    def _around(self, place: Place, rng: np.random.Generator, names: list[str]) -> None:
        n, c, abroad = place.name, place.country, [x for x in country_table().values() if x.name != place.country]
        if rng.random() < 0.6:
            other = pick(rng, abroad)
            title = pick(rng, SHOP_TITLES).format(n=n, c=other.name)
            self._add(title, "shop", other.name, n, self._position(rng, other.lat, other.lon, 0.7))
        if rng.random() < 0.35:
            blog = pick(rng, (c, pick(rng, abroad).name))
            self._add(
                f"{n} or {pick(rng, [name for name in names if name != n])}, {blog}", "blog", blog, n, NO_POSITION
            )
        if rng.random() < 0.35:
            page = self._add(f"Street in {n}, {c}", "street", c, n, NO_POSITION, place.place_id)
            self.pictures.append(Picture(page, "street", place, -1 - int(rng.integers(1000))))
        for near in self.near.get(place.place_id, ())[:2]:
            spot = self._position(rng, near.lat, near.lon, 0.8)
            self._add(f"{near.name}, {near.country}", "near", near.country, near.name, spot, near.place_id)

    def _posters(self, cities: Sequence[Place]) -> None:
        for city in cities:
            title = f"Poster {city.name}, {city.country}"
            page = self._add(title, "product", city.country, city.name, NO_POSITION, city.place_id)
            style = scene.poster_style(self.seed, city)
            for view in (0, 1):
                self.pictures.append(Picture(page, "poster", city, view, style, city.name, city.country))

    def _products(self, country: Country) -> None:
        for kind, title in (("jersey", "Football shirt, {c}"), ("restaurant", "Restaurant {e}, {c}")):
            for variant in (0, 1):
                heading = title.format(c=country.name, e=country.eatery)
                page = self._add(heading, "product", country.name, "", NO_POSITION)
                style = scene.decoy_style(self.seed, kind, country, variant)
                label = scene.decoy_text(kind, country, style)
                for view in (0, 1):
                    self.pictures.append(Picture(page, kind, None, view, style, label, country.name))


SITES = {
    "place": ("citywiki", "townguide", "gazette"),
    "landmark": ("landmarks", "monuments", "travelpics"),
    "street": ("streetpics", "roadlog"),
    "shop": ("yellowlist", "shopfinder"),
    "blog": ("wanderblog", "notesfromroad"),
    "near": ("citywiki", "townguide"),
    "product": ("fanshop", "marketplace"),
}


def _near_names(places: Sequence[Place]) -> dict[int, list[Place]]:
    """For each place, cities of the world's countries that begin alike but are not called the same."""
    known = {place.place_id for place in places}
    by_start: dict[str, list[Place]] = {}
    for city in load_cities():
        if city.country in country_table() and city.place_id not in known:
            by_start.setdefault(city.name[:4], []).append(city)
    return {
        place.place_id: [city for city in by_start.get(place.name[:4], ()) if city.name != place.name]
        for place in places
    }


class Engine:
    """Search over the miniature web.

    Attributes:
        pages: All pages.
        pictures: The pictures on them.
        by_url: Page at an address.
    """

    def __init__(self, seed: int, places: Sequence[Place], spare: Sequence[Place]) -> None:
        """Builds the index of texts; pictures are drawn and described at the first image search."""
        import bm25s

        self.seed = seed
        self.pages, self.pictures = WebBuilder(seed, places, spare).build()
        self.by_url = {page.url: page for page in self.pages}
        self._by_place: dict[int | None, list[Page]] = {}
        for page in self.pages:
            self._by_place.setdefault(page.place_id, []).append(page)
        corpus = [_words(page.title) for page in self.pages]
        self._vocabulary = sorted({word for words in corpus for word in words})
        self._known = frozenset(self._vocabulary)
        self._bm25 = bm25s.BM25(method="lucene", k1=1.2, b=0.5)
        self._bm25.index(corpus, show_progress=False)
        self._repair = lru_cache(maxsize=4096)(self._closest)

    def page(self, url: str) -> Page:
        """The page at an address.

        Raises:
            KeyError: If there is none.
        """
        return self.by_url[url]

    def pages_about(self, place: Place) -> list[Page]:
        """All pages about a place, with and without position."""
        return self._by_place.get(place.place_id, [])

    def search_text(self, query: str, k: int = 6, exclude: frozenset[str] = frozenset()) -> list[SearchHit]:
        """Pages that match the words of a query, best first.

        A word that no page has is replaced by the closest one that some page has, as engines do with misspellings.

        Args:
            query: Any text.
            k: At most so many.
            exclude: Addresses of pages that are left out.
        """
        words = [self._repair(word) for word in _words(query)[:16]]
        words = [word for word in dict.fromkeys(words) if word]
        if not words:
            return []
        scores = self._bm25.get_scores(words)
        return self._list(scores, np.nonzero(scores > 0)[0], k, exclude)

    def search_image(self, crop: Image.Image, k: int = 6, exclude: frozenset[str] = frozenset()) -> list[SearchHit]:
        """Pages whose pictures look most like a crop, best first; arguments as in `search_text`."""
        owners, descriptors = self._gallery
        scores = np.full(len(self.pages), -2.0)
        np.maximum.at(scores, owners, descriptors @ describe(crop))
        return self._list(scores, np.nonzero(scores > -2)[0], k, exclude)

    def _list(self, scores: np.ndarray, found: np.ndarray, k: int, exclude: frozenset[str]) -> list[SearchHit]:
        order = found[np.lexsort((found, -np.round(scores[found], 5)))]
        hits: list[SearchHit] = []
        shown: dict[object, int] = {}
        for number in order[: 8 * k + 40]:
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
    def _gallery(self) -> tuple[np.ndarray, np.ndarray]:
        """Page number of each picture, (n,), and its descriptor, (n, d)."""
        owners = np.array([picture.page for picture in self.pictures])
        return owners, np.stack([describe(self.picture(picture)) for picture in self.pictures])

    def picture(self, picture: Picture) -> Image.Image:
        """Draws a page's picture, RGB."""
        rng = stream("picture", self.seed, picture.page, picture.view)
        if picture.kind == "landmark":
            return landmark_picture(self.seed, picture.place.place_id, rng)
        if picture.kind == "street":
            return scene.render(scene.plan_scene(self.seed, picture.place, picture.view, self._poster_pool))
        return scene.decoy_picture(rng, self.seed, picture.kind, picture.label, picture.country, picture.style)

    @property
    def _poster_pool(self) -> list[Place]:
        return [picture.place for picture in self.pictures if picture.kind == "poster"]


def _words(text: str) -> list[str]:
    return normalise_query(fold(text)).split()
