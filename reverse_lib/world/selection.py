"""Which cities make up a world: even over continents and sizes of city, far enough apart, rich in name twins.

Continents have equal shares, and so have the countries of a continent, until one has no city left. Within a continent
cities of four bands of population are drawn in turn. Before that, groups of name twins are drawn.

No place lies near another or near a country's largest city, so that an answer with the wrong one of two cities, or with
the largest city as a guess, is never right by accident.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from numbers import Integral

import numpy as np

from reverse_lib.world.gazetteer import SMALLEST, Place, country_table, largest_cities, load_cities, stream

MAX_PLACES = 20_000
SPACING_KM = 30.0  # between two places of a world of up to 1,000, and around a country's largest city in every world
BANDS = (50_000, 200_000, 1_000_000)  # inhabitants at which the next band begins
TWIN_SHARE = 0.3  # of the places, drawn as groups of name twins where there are enough
TWIN_COUNTRY_SHARE = 0.7  # of a country's places, at most, drawn as twins
_POOLS = {250: SMALLEST[0], 2_000: SMALLEST[1], MAX_PLACES: SMALLEST[2]}  # up to so many places: which extract
_EARTH_M = 6_371_009


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
    names = {place.name for place in places}
    room = _Room(spacing_km(len(places)))
    for place in places:
        room.add(place)
    pool = [city for city in load_cities() if city.country in country_table() and city.name not in names]
    order = stream("spare", seed).permutation(len(pool))
    spare: list[Place] = []
    for city in (pool[position] for position in order):
        if len(spare) == n:
            break
        if room.free(city) and city.name not in names:
            names.add(city.name)
            spare.append(city)
    return spare


class _Room:
    """Points on the globe that keep a distance: a hash of cubes as wide as the distance, metres as integers."""

    def __init__(self, km: float) -> None:
        self.metres = round(km * 1000)
        self._cubes: dict[tuple[int, ...], list[tuple[int, ...]]] = defaultdict(list)

    def add(self, city: Place) -> None:
        point = _point(city)
        self._cubes[self._cube(point)].append(point)

    def free(self, city: Place) -> bool:
        point = _point(city)
        x, y, z = self._cube(point)
        near = (self._cubes.get((x + i, y + j, z + k), ()) for i in _STEPS for j in _STEPS for k in _STEPS)
        least = self.metres**2
        return all(
            sum((a - b) ** 2 for a, b in zip(point, other, strict=True)) >= least for cube in near for other in cube
        )

    def _cube(self, point: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(value // self.metres for value in point)


_STEPS = (-1, 0, 1)


def _point(city: Place) -> tuple[int, int, int]:
    """Cartesian position in whole metres."""
    lat, lon = np.radians(city.lat), np.radians(city.lon)
    across = _EARTH_M * np.cos(lat)
    return round(across * np.cos(lon)), round(across * np.sin(lon)), round(_EARTH_M * np.sin(lat))


class _Draw:
    """A world while its places are being drawn."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.chosen: list[Place] = []
        self.taken: set[int] = set()
        self.load: Counter[str] = Counter()  # places a country has
        self.continent_load: Counter[str] = Counter()
        self.continents = {name: country.continent for name, country in country_table().items()}
        self._room = _Room(spacing_km(places))
        self._centres = _Room(SPACING_KM)
        for city in largest_cities().values():
            self._centres.add(city)
        self._largest = {city.place_id for city in largest_cities().values()}

    def free(self, city: Place) -> bool:
        """Whether a city is far enough from all places and from the largest cities (or is one of them)."""
        return self._room.free(city) and (city.place_id in self._largest or self._centres.free(city))

    def take(self, city: Place) -> None:
        self.chosen.append(city)
        self.taken.add(city.place_id)
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
            if len(fit) > 1 and _apart(fit[:2], self._room.metres):
                for city in fit[:3]:
                    if self.free(city):
                        self.take(city)

    def fill(self, pool: Iterable[Place]) -> None:
        """Takes places of the continent and country that have fewest, and of each band of population in turn."""
        left: dict[str, list[list[Place]]] = {name: [[], [], [], []] for name in sorted(self.continents)}
        for city in pool:
            if city.place_id not in self.taken:
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


def _apart(pair: Sequence[Place], metres: int) -> bool:
    return _squared(*map(_point, pair)) >= metres**2


def _squared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return sum((i - j) ** 2 for i, j in zip(a, b, strict=True))
