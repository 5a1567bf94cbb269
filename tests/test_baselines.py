"""Ways of answering that never compare a result with the photo: each clearly worse than reading the cues.

All of them may use what the honest reader uses, the searches included; they differ in how they choose.
"""

from collections import Counter

import numpy as np
import pytest

from reverse_lib.geo import haversine_km
from reverse_lib.world import SPLITS
from reverse_lib.world.pages import names_in, states_position
from reverse_lib.world.places import country_table, load_cities
from reverse_lib.world.teacher import Row, judge

NEAR_KM = 25.0
PHOTOS = 150  # a split


@pytest.fixture(scope="module", params=SPLITS)
def photos(request, world):
    """Photos of a split whose place is written in them."""
    return [photo for photo in world.photos(request.param, PHOTOS) if name_in(photo)]


@pytest.fixture(scope="module")
def people():
    """Population of the largest city of a name in a country."""
    largest = Counter()
    for city in load_cities():
        largest[city.name, city.country] = max(city.population, largest[city.name, city.country])
    return largest


@pytest.fixture(scope="module")
def reader(world, photos):
    """How far off an honest reader of the cues is, (photos,) in km."""
    return errors(photos, lambda photo: read_cues(world, photo))


def name_in(photo) -> str:
    return next((mark.text for mark in photo.marks if mark.informative), "")


def capital_of_sorts(country: str) -> tuple[float, float]:
    """Where the country's largest city is."""
    row = next(row for row in country_table().values() if row.name == country)
    return row.lat, row.lon


def rows_of(answer) -> list[Row]:
    """The results of a search that state a position."""
    rows = enumerate(answer.results if answer else (), 1)
    return [Row(i, result.title, result.snippet) for i, result in rows if states_position(result.snippet)]


def at(row: Row) -> tuple[float, float]:
    lat, lon = map(float, row.position.split(", "))
    return lat, lon


def read_cues(world, photo) -> tuple[float, float]:
    """Reads name and country, searches for both and then for the name, and takes a result that matches both."""
    name, country = name_in(photo), photo.country
    for query in (f"{name} {country}", name):
        for row in rows_of(world.live.text(photo.photo_id, query)):
            if judge(row, country, name).trusted:
                return at(row)
    return capital_of_sorts(country)


def first_shown(world, photo, query) -> tuple[float, float]:
    """The first result shown that states a position."""
    rows = rows_of(world.live.text(photo.photo_id, query))
    return at(rows[0]) if rows else capital_of_sorts(photo.country)


def twin_with_more_people(world, photo, people) -> tuple[float, float]:
    """Of the results that bear the name read, whichever country they are in, one about the largest city."""
    name = name_in(photo)
    rows = [row for row in rows_of(world.live.text(photo.photo_id, name)) if name in names_in(row.title)]
    return at(max(rows, key=lambda row: people[name, row.country])) if rows else capital_of_sorts(photo.country)


def errors(photos, answer) -> np.ndarray:
    """Distances in km, (photos,)."""
    return np.array([haversine_km(photo.place.lat, photo.place.lon, *answer(photo)) for photo in photos])


def gain(better: np.ndarray, worse: np.ndarray) -> tuple[float, float]:
    """By how much the share within 25 km is higher, and the lower end of its paired 95 % bootstrap interval.

    Args:
        better: Errors in km, (photos,).
        worse: Errors on the same photos.
    """
    differences = (better <= NEAR_KM).astype(float) - (worse <= NEAR_KM)
    picks = np.random.default_rng(0).integers(len(differences), size=(4000, len(differences)))
    return differences.mean(), np.percentile(differences[picks].mean(1), 2.5)


def test_reading_name_and_country_finds_nearly_every_place(photos, reader):
    assert len(photos) > 50
    assert np.mean(reader <= NEAR_KM) > 0.9


@pytest.mark.parametrize("with_country", [False, True])
def test_the_first_result_of_a_name_search_is_clearly_worse(world, photos, reader, with_country):
    def query(photo):
        return f"{name_in(photo)} {photo.country}" if with_country else name_in(photo)

    difference, low = gain(reader, errors(photos, lambda photo: first_shown(world, photo, query(photo))))
    assert low > (0.05 if with_country else 0.2), (difference, low)


def test_the_largest_city_of_the_country_is_clearly_worse(photos, reader):
    difference, low = gain(reader, errors(photos, lambda photo: capital_of_sorts(photo.country)))
    assert low > 0.4, (difference, low)


def test_the_place_seen_most_often_in_the_country_is_clearly_worse(world, photos, reader):
    seen = Counter(photo.place for photo in world.photos("train", 450))
    usual = {}
    for place in seen:
        best = usual.setdefault(place.country, place)
        usual[place.country] = max(best, place, key=lambda one: (seen[one], one.population))

    def answer(photo):
        place = usual.get(photo.country)
        return (place.lat, place.lon) if place else capital_of_sorts(photo.country)

    difference, low = gain(reader, errors(photos, answer))
    assert low > 0.4, (difference, low)


def test_the_twin_with_more_people_is_clearly_worse(world, photos, reader, people):
    difference, low = gain(reader, errors(photos, lambda photo: twin_with_more_people(world, photo, people)))
    assert low > 0.05, (difference, low)
