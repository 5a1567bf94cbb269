"""The pages of the miniature web: what they are called, what they state, and how they share it out.

A page is useful for a place if it is about it and states a position. Everything else about a page is drawn without
looking at that: its host and the shape of its address, how long its title is, which kind it is, and, where it states
no position, a snippet of the length that its position would have had. Shops, streets and events that only bear a
place's name stand in another country and are titled like those of the place itself; pages about cities whose names
begin alike, posters, blogs and shops for shirts share their words with all others. So neither wording nor address
tells what a page is worth: name, country and position must be compared.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil

import numpy as np

from reverse_lib.geo import haversine_km
from reverse_lib.search import SearchResult
from reverse_lib.world.dice import pick, stream
from reverse_lib.world.panels import decoy_style, poster_style
from reverse_lib.world.places import Country, Place, country_table, fold, load_cities, offset

_TITLES = {
    "place": "{n}|Visit {n}|{n} and around|All about the town of {n}",
    "station": "{n} station|Trains to {n}|Trains and buses from {n} station",
    "office": "{n} town hall|Office {n}|Opening hours of {n} town hall",
    "map": "Map of {n}|{n} map|Street map of {n} and around",
    "museum": "{n} museum|Museum of {n}|Football museum of {n}|Museum hours in {n}",
    "landmark": "{n} sights|Landmark of {n}|Pictures of the sights of {n}",
    "street": "{n} street|Streets of {n}|A street in {n} by night",
    "shop": "Hotel {n}|{n} bakery|Restaurant {e} in {n}|Football shirt shop in {n}",
    "list": "Hotels in {n}|Restaurants of {n}|Shops and restaurants in {n}",
    "news": "{n} news|News from {n}|Football news from {n}|News of restaurant {e} in {n}",
    "event": "{n} market|{n} football|Football night in {n}|Market day in the town of {n}",
    "poster": "{n} poster|Pictures of {n}|Poster shop {n}|{n} pictures and posters",
    "blog": "{n} and {m}|{n} or {m}|{n} to {m}|From {n} to {m}",
    "jersey": (
        "Football shirt|Football shirt shop|All about football|Pictures of the football shirt|"
        "Football news from the street|Opening hours of the football shop|"
        "Museum of football in the town hall|Street football by day and night"
    ),
    "restaurant": (
        "Restaurant {e}|Visit {e}|Pictures of {e}|{e} in the station|Opening hours of {e}|"
        "News from restaurant {e}|Map of {e} and around|{e} market by the museum"
    ),
}
TITLES = {kind: tuple(templates.split("|")) for kind, templates in _TITLES.items()}
"""Titles by kind, before the country: {n} the name, {m} another name, {e} a word for a restaurant."""

ABOUT = tuple(kind for kind in TITLES if kind not in ("blog", "jersey", "restaurant"))
SHOPS = ("shop", "office", "list", "news")
"""Titles of these kinds make "abroad" of what only bears a place's name in another country, others "namesake"."""

NEAR_MIN_KM = 50.0  # from a place to a city whose name begins alike
MAX_OFF_KM = 4.0  # of a stated position from the centre
SPARSE_SHARE = 0.12  # places with three pages of which one or two state a position
LETTERED_SHARE = 0.85  # cities whose signs and boards are on pages
STREETS = 70  # pictures of streets in all: they take longest to draw
BLOG_SHARE = 0.3  # places that a blog names together with another one
STATED_SHARE = 0.65  # of the pages about any other place
HOSTS = "atlas bulletin compass daybook gazette journal lantern notebook outlook postcard signal wayfarer".split()
_SECTIONS = ("a", "en", "page", "read", "items", "archive", "pages")
_POSITION = re.compile(r"-?\d{1,2}\.\d{2}, -?\d{1,3}\.\d{2}")
FILLERS = (
    "{h} to {h}|{h} and {h}|{h}, {h}, {h}|from {h}|to {h}|by {h}|about {h}|from {d} to {d}|"
    "{d} to {d}, {h}|{d}, {d}, {h}|{d} or {d} by {h}|{d} pictures|{d} of {d} hotels|{d} opening hours|"
    "{h} news|{d} trains, {h}|{d} shops, {d}|page {d} of {d}"
).split("|")  # {h} an hour, {d} a number
_SHORTEST, _LONGEST = 10, 15  # characters of a position


@dataclass(frozen=True)
class Page:
    """A page of the miniature web."""

    title: str  # headline; ends with ", Country"
    url: str  # address, unique
    source: str  # host
    snippet: str  # "39.47, -0.38" (latitude, longitude), or a few words without a position
    place_id: int | None  # city it is about or whose poster it shows; None on what only bears a city's name
    kind: str  # a key of `TITLES`, "near" (a city whose name begins alike), "abroad" or "namesake" (see `SHOPS`)
    country: str  # that it speaks of
    name: str = ""  # the first that it speaks of, "" on shirts and restaurants

    @property
    def has_position(self) -> bool:
        """Whether it states coordinates."""
        return states_position(self.snippet)

    def useful_for(self, place: Place) -> bool:
        """Whether it locates that place."""
        return self.place_id == place.place_id and self.has_position

    def result(self, useful: bool | None = None) -> SearchResult:
        """The page as a search result."""
        return SearchResult(self.title, self.url, self.source, self.snippet, useful)


@dataclass(frozen=True)
class Picture:
    """A picture on a page; `gallery.draw_picture` makes it."""

    page: int  # position of the page in the list of pages
    kind: str  # "landmark", "sign", "board", "poster", "jersey", "restaurant" or "street"
    place_id: int | None  # city it shows, None on shirts and restaurants
    view: int  # another number is another picture of the same thing
    style: int = 0  # look of a shirt, poster or restaurant board
    country: str = ""  # that it speaks of


def states_position(snippet: str) -> bool:
    """Whether a snippet is "latitude, longitude" with two decimals."""
    return _POSITION.fullmatch(snippet) is not None


def names_in(title: str) -> list[str]:
    """The place names a title speaks of, template words and country removed; [] on shirts and restaurants.

    The template that explains most letters of the title is believed; a title of no template is a name as a whole.
    """
    subject = title.rpartition(", ")[0] or title
    for pattern in _patterns():
        match = pattern.fullmatch(subject)
        if match:
            names = match.groupdict()
            return [names[key] for key in ("n", "m") if names.get(key)]
    return [subject]


@lru_cache(maxsize=1)
def _patterns() -> tuple[re.Pattern[str], ...]:
    """One pattern for each distinct template, those with most letters first."""
    subjects = {template for templates in TITLES.values() for template in templates}
    eateries = "|".join(re.escape(country.eatery) for country in country_table().values())
    holes = {"{n}": "(?P<n>.+)", "{m}": "(?P<m>.+)", "{e}": f"(?:{eateries})"}
    patterns = []
    for subject in sorted(subjects, key=lambda text: (-len(re.sub(r"\{[nm]\}", "", text)), text)):
        pieces = re.split(r"(\{[nme]\})", subject)
        patterns.append(re.compile("".join(holes.get(piece) or re.escape(piece) for piece in pieces)))
    return tuple(patterns)


def filler(rng: np.random.Generator, length: int | None = None) -> str:
    """A snippet that states no position, worded in one of many ways.

    Args:
        rng: Where every choice comes from.
        length: Characters, 10 to 15; None for any length that a position has.
    """
    length = int(rng.integers(_SHORTEST, _LONGEST + 1)) if length is None else min(max(length, _SHORTEST), _LONGEST)
    while True:
        pieces = re.split(r"(\{[hd]\})", pick(rng, FILLERS))
        for position, piece in enumerate(pieces):
            if piece == "{h}":
                pieces[position] = f"{int(rng.integers(1, 24))}.{5 * int(rng.integers(12)):02d}"
            elif piece == "{d}":
                pieces[position] = str(int(rng.integers(2, 60)))
        text = "".join(pieces)
        if len(text) == length and not states_position(text):
            return text


def write_web(seed: int, places: Sequence[Place], spare: Sequence[Place]) -> tuple[list[Page], list[Picture]]:
    """All pages of a world, in an order that says nothing about them, and the pictures on them.

    Args:
        seed: The world's seed.
        places: Its places.
        spare: Further cities that posters and murals show.
    """
    return _Writer(seed, places, spare).write()


class _Writer:
    """The pages of a world while they are being written."""

    def __init__(self, seed: int, places: Sequence[Place], spare: Sequence[Place]) -> None:
        self.seed, self.places, self.spare = seed, places, spare
        self.pages: list[Page] = []
        self.pictures: list[Picture] = []
        self.cities = _cities_by_country()
        self.bearers = _bearers(places)
        self.near = _near_names(places)
        self._urls: set[str] = set()

    def write(self) -> tuple[list[Page], list[Picture]]:
        names = [place.name for place in self.places]
        for place in self.places:
            rng = stream("pages", self.seed, place.place_id)
            self._about(place, rng)
            self._around(place, rng, names)
        for city in self.spare:
            self._about(city, stream("pages", self.seed, city.place_id))
        for country in country_table().values():
            self._products(country)
        order = stream("standing", self.seed).permutation(len(self.pages))
        number = np.argsort(order)
        pictures = [replace(picture, page=int(number[picture.page])) for picture in self.pictures]
        return [self.pages[position] for position in order], pictures

    def _add(
        self,
        rng: np.random.Generator,
        kind: str,
        template: str,
        spot: Place,
        name: str = "",
        about: bool = False,
        stated: bool = True,
        **words: str,
    ) -> int:
        """Appends a page that is near `spot`; `about` says whether it is about that city."""
        eatery = pick(rng, list(country_table().values())).eatery
        title = template.format(**{"n": name, "e": eatery} | words) + f", {spot.country}"
        lat, lon = offset(rng, spot.lat, spot.lon, MAX_OFF_KM)
        snippet = f"{lat:.2f}, {lon:.2f}"
        if not stated:
            snippet = filler(rng, len(snippet))
        host = f"{pick(rng, HOSTS)}.example"
        place_id = spot.place_id if about else None
        self.pages.append(Page(title, self._url(rng, host, title), host, snippet, place_id, kind, spot.country, name))
        return len(self.pages) - 1

    def _url(self, rng: np.random.Generator, host: str, title: str) -> str:
        """An address of a shape that is drawn without looking at the page's kind."""
        slug = "-".join(fold(title).lower().replace(",", "").split())
        while True:
            number, shape = int(rng.integers(10 ** int(rng.integers(2, 7)))), int(rng.integers(6))
            path = (slug, f"{slug}-{number}", f"{pick(rng, _SECTIONS)}/{slug}", f"{number}", f"{number}/{slug}")
            path = (*path, f"{pick(rng, _SECTIONS)}/{pick(rng, _SECTIONS)}/{number}")[shape]
            url = f"https://{host}/{path}"
            if url not in self._urls:
                self._urls.add(url)
                return url

    def _about(self, city: Place, rng: np.random.Generator) -> None:
        """The pages about one city and the pictures on them; kind has no part in which of them state a position."""
        sparse = rng.random() < SPARSE_SHARE
        count = 3 if sparse else int(rng.integers(6, 11))
        stated = 1 + int(rng.integers(2)) if sparse else ceil(STATED_SHARE * count)
        others = [ABOUT[position] for position in 1 + rng.permutation(len(ABOUT) - 1)[: count - 1]]
        titles = sorted((pick(rng, TITLES[kind]), kind) for kind in ("place", *others))
        titles = sorted(titles, key=lambda title: len(title[0]))
        first = rng.random()  # evenly spread over short and long titles
        tells = {int((first + number) * count / stated) % count for number in range(stated)}
        pages = [
            self._add(rng, kind, template, city, city.name, about=True, stated=position in tells)
            for position, (template, kind) in enumerate(titles)
        ]
        self._illustrate(city, rng, pages)

    def _illustrate(self, city: Place, rng: np.random.Generator, pages: list[int]) -> None:
        """Spreads pictures over a city's pages, whatever their kind."""
        style = poster_style(self.seed, city)
        lettered = rng.random() < LETTERED_SHARE
        for kind, count in (("landmark", 6), ("sign", 2 * lettered), ("board", 2 * lettered), ("poster", 3)):
            for view, position in enumerate(rng.permutation(len(pages))[:count]):
                self.pictures.append(
                    Picture(pages[position], kind, city.place_id, view, style if kind == "poster" else 0, city.country)
                )
        if rng.random() < STREETS / (len(self.places) + len(self.spare)):
            view = -1 - int(rng.integers(1000))
            self.pictures.append(Picture(pick(rng, pages), "street", city.place_id, view, 0, city.country))

    def _around(self, place: Place, rng: np.random.Generator, names: list[str]) -> None:
        """What a search for a place's name brings besides: namesakes elsewhere, blogs, cities that begin alike."""
        strangers = [name for name in self.cities if name not in self.bearers[place.name]]
        for _ in range(int(rng.integers(1, 3))):
            spot = pick(rng, self.cities[pick(rng, strangers)])
            for _ in range(int(rng.integers(1, 4))):
                borrowed = _any_kind(rng)
                kind = "abroad" if borrowed in SHOPS else "namesake"
                stated = rng.random() < STATED_SHARE
                self._add(rng, kind, pick(rng, TITLES[borrowed]), spot, place.name, stated=stated)
        if rng.random() < BLOG_SHARE:
            other = pick(rng, [name for name in names if name != place.name])
            spot = pick(rng, self.cities[pick(rng, list(self.cities))])
            pair = (place.name, other) if rng.random() < 0.5 else (other, place.name)
            self._add(rng, "blog", pick(rng, TITLES["blog"]), spot, pair[0], stated=False, m=pair[1])
        for near in self.near.get(place.place_id, ())[: 1 + int(rng.integers(2))]:
            for _ in range(1 + int(rng.integers(2))):
                stated = rng.random() < STATED_SHARE
                template = pick(rng, TITLES[_any_kind(rng)])
                self._add(rng, "near", template, near, near.name, about=True, stated=stated)

    def _products(self, country: Country) -> None:
        """Shirts and restaurants of a country: two looks each, three pages a look; positions are those of shops."""
        for kind in ("jersey", "restaurant"):
            rng = stream("products", self.seed, kind, country.code)
            for variant in (0, 1):
                style = decoy_style(self.seed, kind, country, variant)
                for view in range(3):
                    spot = pick(rng, self.cities[country.name])
                    stated = rng.random() < STATED_SHARE
                    template = pick(rng, TITLES[kind])
                    page = self._add(rng, kind, template, spot, stated=stated, e=country.eatery)
                    self.pictures.append(Picture(page, kind, None, view, style, country.name))


def _any_kind(rng: np.random.Generator) -> str:
    """A kind of page, as often as among the pages about a city: its own page stands twice as often as any other."""
    return pick(rng, ("place", *ABOUT))


@lru_cache(maxsize=1)
def _cities_by_country() -> dict[str, list[Place]]:
    """All cities of each country of the table."""
    cities: dict[str, list[Place]] = {name: [] for name in country_table()}
    for city in load_cities():
        if city.country in cities:
            cities[city.country].append(city)
    return cities


def _bearers(places: Sequence[Place]) -> dict[str, set[str]]:
    """For each city name the countries that have a city of it, small places of the world included."""
    bearers: dict[str, set[str]] = defaultdict(set)
    for city in (*load_cities(), *places):
        bearers[city.name].add(city.country)
    return bearers


def _near_names(places: Sequence[Place]) -> dict[int, list[Place]]:
    """For each place, cities of the world's countries that begin alike, but are called otherwise and lie elsewhere."""
    own = {place.place_id for place in places}
    by_start: dict[str, list[Place]] = defaultdict(list)
    for city in load_cities():
        if city.country in country_table() and city.place_id not in own:
            by_start[city.name[:4]].append(city)
    return {
        place.place_id: [
            city
            for city in by_start.get(place.name[:4], ())
            if city.name != place.name and haversine_km(city.lat, city.lon, place.lat, place.lon) > NEAR_MIN_KM
        ]
        for place in places
    }
