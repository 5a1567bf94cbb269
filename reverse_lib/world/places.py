"""Where the miniature world lies: countries with their visible facts, and which cities make up a world.

Cities are those of `geo.towns` (GeoNames, CC BY 4.0), country facts from `data/countries.csv`
(sources in `data/README.md`). An empty cell there means that nothing is known or that the country has no single
custom; the renderer then draws something neutral.

Continents have equal shares of a world's places, and so have the countries of a continent, until one has no city left.
Within a continent cities of four bands of population are drawn in turn. Before that, groups of name twins (one name,
several countries) are drawn: they are what makes reading a name insufficient. No place lies near another or near a
country's largest city, so that an answer with the wrong one of two cities, or with the largest city as a guess, is
never right by accident.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral
from pathlib import Path

import numpy as np

from reverse_lib.geo import towns
from reverse_lib.world.dice import stream

DATA_DIR = Path(__file__).resolve().parents[2] / "data"
CONTINENTS = dict(
    AF="Africa", AS="Asia", EU="Europe", NA="North America", OC="Oceania", SA="South America"
)  # by GeoNames code
SMALLEST = (15000, 5000, 1000)  # inhabitants: the sizes from which GeoNames extracts start
MAX_NAME = 16  # characters of a place name: what fits on a sign and on the 224 px zoom canvas
MAX_PLACES = 20_000
SPACING_KM = 30.0  # between two places of a world of up to 1,000, and around a country's largest city in every world
BANDS = (50_000, 200_000, 1_000_000)  # inhabitants at which the next band begins
TWIN_SHARE = 0.3  # of the places, drawn as groups of name twins where there are enough
TWIN_COUNTRY_SHARE = 0.7  # of a country's places, at most, drawn as twins
_POOLS = {250: SMALLEST[0], 2_000: SMALLEST[1], MAX_PLACES: SMALLEST[2]}  # up to so many places: which extract
_EARTH_M = 6_371_009
_PLAIN = re.compile(r"[A-Z][A-Za-z]+(?:[ -][A-Za-z]+)*")
_SPELT = str.maketrans({"ß": "ss", "ø": "o", "Ø": "O", "æ": "ae", "ı": "i", "ł": "l", "Ł": "L", "đ": "d", "ð": "d"})


@dataclass(frozen=True)
class Place:
    """A city of the miniature world."""

    place_id: int  # of GeoNames
    name: str  # ASCII, used in titles, queries and answers
    country: str  # as in `data/countries.csv`
    country_code: str  # ISO 3166-1 alpha-2
    continent: str  # name
    lat: float  # of the centre, degrees
    lon: float  # degrees
    population: int  # inhabitants according to GeoNames
    local_name: str = ""  # the name with its accents, as written on signs


@dataclass(frozen=True)
class Country:
    """One row of `data/countries.csv`. Empty strings mean "unknown, or no single custom"."""

    name: str
    code: str
    driving: str  # "left" | "right"
    centre_line: str  # colour word
    edge_line: str  # colour word
    sign_background: str  # colour word, place-name or direction sign on ordinary roads
    sign_text: str
    sign_border: str
    warning: str  # "diamond-yellow" | "triangle-white" | "triangle-yellow"
    plate_front: str
    plate_rear: str
    plate_text: str
    postbox: str
    taxi_body: str
    taxi_roof: str
    climate: str  # "mediterranean" | "oceanic" | "temperate" | "tropical" | "arid" | "savanna" | "boreal"
    trees: str
    roof: str
    wall: str
    flag: str  # drawing instructions, see `canvas.draw_flag`
    words: tuple[str, ...]  # words of the language seen on streets
    eatery: str  # what a restaurant of this country's kitchen calls itself

    @property
    def largest_city(self) -> Place:
        """The largest city; GeoNames is read when it is first asked for."""
        return largest_cities()[self.code]


def fold(name: str) -> str:
    """ASCII form of a Latin name: accents dropped, a few letters without decomposition spelt out."""
    letters = (c for c in unicodedata.normalize("NFKD", name.translate(_SPELT)) if not unicodedata.combining(c))
    return "".join(letters).replace("’", "'").strip()


@lru_cache(maxsize=3)
def load_cities(smallest: int = SMALLEST[0]) -> tuple[Place, ...]:
    """All GeoNames cities from a size on whose ASCII name is plain, largest first.

    A city of a country without a row in `data/countries.csv` has its GeoNames country name. A name that occurs
    twice in one country is kept once, for the larger city, so that (name, country) identifies a place.

    Args:
        smallest: Inhabitants of the smallest cities, one of `SMALLEST`. Below 15,000 only cities of the countries of
            `data/countries.csv` are read.
    """
    own = {country.code: country.name for country in country_table().values()}
    cities: dict[tuple[str, str], Place] = {}
    for town in towns(smallest).sort_values(["population", "id"], ascending=[False, True]).itertuples():
        code, name = town.code, fold(town.name)
        if smallest < SMALLEST[0] and code not in own:
            continue
        if (name, code) not in cities and 3 <= len(name) <= MAX_NAME and _PLAIN.fullmatch(name):
            cities[name, code] = Place(
                place_id=town.id,
                name=name,
                country=own.get(code, town.country),
                country_code=code,
                continent=CONTINENTS.get(town.continent, ""),
                lat=town.lat,
                lon=town.lon,
                population=town.population,
                local_name=town.name,
            )
    return tuple(cities.values())


@lru_cache(maxsize=1)
def largest_cities() -> dict[str, Place]:
    """The largest city of each country of `data/countries.csv`, by country code."""
    codes = {country.code for country in country_table().values()}
    return {city.country_code: city for city in reversed(load_cities()) if city.country_code in codes}


@lru_cache(maxsize=1)
def country_table() -> dict[str, Country]:
    """Country name to its row of `data/countries.csv`, by name."""
    path = DATA_DIR / "countries.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path.name}: missing from {path.parent}; restore the repository's data folder")
    with path.open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["name"])
    words = [tuple(word for word in row.pop("words").split(";") if word) for row in rows]
    return {row["name"]: Country(**row, words=some) for row, some in zip(rows, words, strict=True)}


def spare_names(places: list[Place]) -> list[str]:
    """City names of the gazetteer that no place bears, largest city first: material for reading drills."""
    taken = {place.name for place in places}
    return list(dict.fromkeys(city.name for city in load_cities() if city.name not in taken))


def twin_share(places: list[Place]) -> float:
    """Share of the places whose name another place in another country bears too."""
    bearers = defaultdict(set)
    for place in places:
        bearers[place.name].add(place.country)
    return sum(len(bearers[place.name]) > 1 for place in places) / len(places)


def offset(rng: np.random.Generator, lat: float, lon: float, max_km: float) -> tuple[float, float]:
    """A position up to `max_km` away, uniform over the disc, (lat, lon) in degrees."""
    radius, angle = max_km * np.sqrt(rng.random()), 2 * np.pi * rng.random()
    north, east = radius * np.sin(angle) / 111.2, radius * np.cos(angle) / 111.2
    return float(lat + north), float((lon + east / max(np.cos(np.radians(lat)), 0.05) + 180) % 360 - 180)


def spacing_km(places: int) -> float:
    """Least distance between two places of a world: 30 km up to 1,000 places, above in inverse proportion."""
    return SPACING_KM * min(1.0, 1000 / places)


def band(population: int) -> int:
    """Number of the population band, 0 to 3."""
    return bisect_right(BANDS, population)


def checked_size(places: int) -> int:
    """The number of places of a world, as an int.

    Raises:
        ValueError: If no world can have that many.
    """
    fewest = len(country_table())
    if isinstance(places, bool) or not isinstance(places, Integral) or not fewest <= places <= MAX_PLACES:
        raise ValueError(f"places={places!r}: choose a whole number from {fewest} to {MAX_PLACES:,}")
    return int(places)


def choose_places(seed: int, places: int) -> list[Place]:
    """Draws the cities of a world.

    Args:
        seed: World seed.
        places: How many cities, from 24 (one a country) to 20,000.

    Returns:
        Distinct places in a seeded order. Every country is there.

    Raises:
        ValueError: If `places` is out of range.
    """
    places = checked_size(places)
    smallest = next(least for most, least in _POOLS.items() if places <= most)
    pool = [city for city in load_cities(smallest) if city.country in country_table()]
    rng = stream("places", seed)
    draw = _Draw(places)
    pool = [pool[position] for position in rng.permutation(len(pool))]
    draw.take_twins(pool)
    draw.fill(pool)
    return [draw.chosen[position] for position in rng.permutation(len(draw.chosen))]


def choose_spare(seed: int, places: Sequence[Place], n: int) -> list[Place]:
    """`n` further cities of the same countries and of other names, none near a place: what posters may name."""
    names, room, spare = {place.name for place in places}, _Room(spacing_km(len(places)), places), []
    pool = [city for city in load_cities() if city.country in country_table() and city.name not in names]
    for position in stream("spare", seed).permutation(len(pool)):
        city = pool[position]
        if len(spare) < n and room.free(city) and city.name not in names:
            names.add(city.name)
            spare.append(city)
    return spare


class _Room:
    """Points on the globe that keep a distance: a hash of cubes as wide as the distance, metres as integers."""

    def __init__(self, km: float, cities: Iterable[Place] = ()) -> None:
        self.metres = round(km * 1000)
        self._cubes: dict[tuple[int, ...], list[tuple[int, ...]]] = defaultdict(list)
        for city in cities:
            self.add(city)

    def add(self, city: Place) -> None:
        point = _point(city)
        self._cubes[self._cube(point)].append(point)

    def free(self, city: Place) -> bool:
        point, steps = _point(city), (-1, 0, 1)
        x, y, z = self._cube(point)
        near = (self._cubes.get((x + i, y + j, z + k), ()) for i in steps for j in steps for k in steps)
        return all(_squared(point, other) >= self.metres**2 for cube in near for other in cube)

    def _cube(self, point: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(value // self.metres for value in point)


def _point(city: Place) -> tuple[int, int, int]:
    """Cartesian position in whole metres."""
    lat, lon = np.radians(city.lat), np.radians(city.lon)
    across = _EARTH_M * np.cos(lat)
    return round(across * np.cos(lon)), round(across * np.sin(lon)), round(_EARTH_M * np.sin(lat))


def _squared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return sum((i - j) ** 2 for i, j in zip(a, b, strict=True))


class _Draw:
    """A world while its places are being drawn."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.chosen: list[Place] = []
        self.load: Counter[str] = Counter()  # places a country has
        self.continent_load: Counter[str] = Counter()
        self.continents = {name: country.largest_city.continent for name, country in country_table().items()}
        self._room, self._centres = _Room(spacing_km(places)), _Room(SPACING_KM, largest_cities().values())
        self._largest = {city.place_id for city in largest_cities().values()}

    def free(self, city: Place) -> bool:
        """Whether a city is far enough from all places and from the largest cities (or is one of them)."""
        return self._room.free(city) and (city.place_id in self._largest or self._centres.free(city))

    def take(self, city: Place) -> None:
        self.chosen.append(city)
        self.load[city.country] += 1
        self.continent_load[city.continent] += 1
        self._room.add(city)

    def take_twins(self, pool: Iterable[Place]) -> None:
        """Takes groups of two or three places of one name until they are `TWIN_SHARE` of the world."""
        groups: dict[str, list[Place]] = defaultdict(list)
        for city in pool:
            groups[city.name].append(city)
        sizes = Counter(self.continents.values())
        most = {
            name: max(1, int(TWIN_COUNTRY_SHARE * self.places / len(sizes) / sizes[continent]))
            for name, continent in self.continents.items()
        }
        for group in groups.values():
            if len(self.chosen) >= TWIN_SHARE * self.places:
                break
            fit = [city for city in group if self.load[city.country] < most[city.country] and self.free(city)]
            fit.sort(key=lambda city: self.load[city.country] / most[city.country])
            if len(fit) > 1 and _squared(*map(_point, fit[:2])) >= self._room.metres**2:
                for city in fit[:3]:
                    if self.free(city):
                        self.take(city)

    def fill(self, pool: Iterable[Place]) -> None:
        """Takes places of the continent and country that have fewest, and of each band of population in turn."""
        left: dict[str, list[list[Place]]] = {name: [[], [], [], []] for name in sorted(self.continents)}
        taken = {city.place_id for city in self.chosen}
        for city in pool:
            if city.place_id not in taken:
                left[city.country][band(city.population)].append(city)
        drawn: Counter[tuple[str, int]] = Counter()
        while len(self.chosen) < self.places:
            name = min((name for name in left if any(left[name])), key=self._turn)
            continent = self.continents[name]
            number = min((i for i in range(4) if left[name][i]), key=lambda i: (drawn[continent, i], -i))
            city = left[name][number].pop()
            if self.free(city):
                self.take(city)
                drawn[continent, number] += 1

    def _turn(self, country: str) -> tuple:
        """What comes first: a country without a place, then the emptiest continent, there the emptiest country."""
        continent_load = self.continent_load[self.continents[country]]
        return self.load[country] > 0, continent_load, self.load[country], country
