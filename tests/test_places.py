"""Places and country facts of the miniature world."""

import subprocess
import sys
from collections import Counter
from functools import cache

import numpy as np
import pytest

from reverse_lib.geo import haversine_km, towns
from reverse_lib.world import places, twin_share
from reverse_lib.world.places import (
    SMALLEST,
    band,
    choose_places,
    choose_spare,
    country_table,
    fold,
    largest_cities,
    load_cities,
    spacing_km,
)

chosen = cache(choose_places)  # a world of 20,000 is drawn once for all tests


def nearest_km(cities, others):
    """Distance of each city to the nearest of the others that is not itself."""
    lat, lon = (np.array([getattr(other, name) for other in others]) for name in ("lat", "lon"))
    ids = np.array([other.place_id for other in others])
    return np.array([haversine_km(p.lat, p.lon, lat, lon)[ids != p.place_id].min() for p in cities])


def test_places_are_real_cities_where_geonames_puts_them(world):
    cities = {city.place_id: city for city in load_cities()}
    assert all(cities[place.place_id] == place for place in world.places)
    madrid = country_table()["Spain"].largest_city
    assert madrid.name == "Madrid" and haversine_km(madrid.lat, madrid.lon, 40.4168, -3.7038) < 5
    assert madrid.continent == "Europe" and madrid.population > 2_000_000
    names = {country.name: country.largest_city.name for country in country_table().values()}
    assert names["United Kingdom"] == "London" and names["Kenya"] == "Nairobi"
    for code, city in largest_cities().items():
        assert city.population == max(c.population for c in load_cities() if c.country_code == code)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [48, 97, 200, 250, 251, 400])
def test_continents_have_equally_many_places_and_so_have_the_countries_of_a_continent(seed, n):
    continents = Counter(place.continent for place in chosen(seed, n))
    assert sum(continents.values()) == n and len(continents) == 6
    assert max(continents.values()) - min(continents.values()) <= 1
    counts = Counter(place.country for place in chosen(seed, n))
    assert set(counts) == set(country_table()) and len(counts) == 24
    for continent in continents:
        shares = [counts[name] for name, row in country_table().items() if row.largest_city.continent == continent]
        assert max(shares) - min(shares) <= max(2, 0.15 * max(shares)), continent


@pytest.mark.parametrize("n", [1000, 5000, 20_000])
def test_in_large_worlds_a_continent_has_fewer_places_only_when_its_cities_run_out(n):
    continents = Counter(place.continent for place in chosen(0, n))
    most = max(continents.values())
    short = {name for name, count in continents.items() if count < most - 1}
    assert short <= {"Africa", "Oceania"} and len(chosen(0, n)) == n and (short == set() or n > 1000)
    assert set(country_table()) == {place.country for place in chosen(0, n)}
    for name in short:  # no city that is left over could have been a place
        taken = {place.place_id for place in chosen(0, n)}
        rest = [city for city in load_cities(SMALLEST[2]) if city.continent == name and city.place_id not in taken]
        near = nearest_km(rest, chosen(0, n)) < spacing_km(n) + 0.01
        assert (near | (nearest_km(rest, largest_cities().values()) < places.SPACING_KM + 0.01)).all()


@pytest.mark.parametrize("seed", range(3))
def test_each_band_of_population_has_a_good_share_of_the_places(seed):
    bands = Counter(band(place.population) for place in chosen(seed, 200))
    assert [band(n) for n in (0, 49_999, 50_000, 200_000, 1_000_000)] == [0, 0, 1, 2, 3]
    assert min(bands[i] for i in range(4)) >= 0.15 * 200 and max(bands.values()) <= 0.4 * 200


@pytest.mark.parametrize("n", [48, 60, 96, 200, 250, 251, 1000, 2001, 5000, 20_000])
def test_at_least_15_percent_of_places_share_their_name_with_a_place_in_another_country(n):
    for seed in range(3 if n <= 1000 else 1):
        assert twin_share(chosen(seed, n)) >= 0.15, seed
        assert len({(place.name, place.country) for place in chosen(seed, n)}) == len(chosen(seed, n)) == n
        assert all(place.name.isascii() and 3 <= len(place.name) <= 16 for place in chosen(seed, n))


@pytest.mark.parametrize(("n", "km"), [(24, 30), (200, 30), (1000, 30), (5000, 6)])
def test_places_lie_apart_and_away_from_a_countrys_largest_city(n, km):
    centres = list(largest_cities().values())
    assert spacing_km(n) == km and nearest_km(chosen(0, n), chosen(0, n)).min() >= km - 0.01
    outside = [place for place in chosen(0, n) if place not in centres]
    assert nearest_km(outside, centres).min() >= 29.99
    assert len(outside) < n  # the largest city itself may be a place


def test_places_depend_on_the_seed_alone_in_every_process():
    code = "from reverse_lib.world.places import *; print([p.place_id for p in choose_places(3, 200)])"
    other = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    assert other.stdout == f"{[place.place_id for place in choose_places(3, 200)]}\n"
    assert set(chosen(3, 200)) != set(chosen(4, 200))


def test_a_small_world_reads_only_the_small_extract_of_geonames(monkeypatch):
    asked = []
    monkeypatch.setattr(places, "towns", lambda smallest: asked.append(smallest) or towns(smallest))
    monkeypatch.setattr(places, "load_cities", load_cities.__wrapped__)
    for n, extracts in ((200, {15000}), (1000, {15000, 5000})):
        choose_places(0, n)
        assert set(asked) == extracts


def test_sizes_that_no_world_has_are_refused_by_name():
    for n in (23, 20_001, 0, -5, 200.0, True, "200"):
        with pytest.raises(ValueError, match=r"places=.*: choose a whole number from 24 to 20,000"):
            choose_places(0, n)


def test_spare_cities_are_no_places_bear_other_names_and_lie_apart_from_all_places(world):
    spare = choose_spare(0, world.places, 60)
    assert spare == world.spare_cities and len({city.name for city in spare}) == 60
    assert not {city.name for city in spare} & {place.name for place in world.places}
    assert nearest_km(spare, world.places).min() >= 29.99
    assert len(choose_spare(0, chosen(0, 5000), 60)) == 60


def test_drill_names_are_thousands_ascii_and_never_a_place(world):
    assert len(world.names) > 5000 and len(set(world.names)) == len(world.names)
    assert all(name.isascii() and 3 <= len(name) <= 16 for name in world.names)
    assert not {place.name for place in world.places} & set(world.names)


def test_accents_are_folded_and_letters_without_decomposition_spelt_out():
    names = {"Córdoba": "Cordoba", "Malmö": "Malmo", "Tromsø": "Tromso", "Gießen": "Giessen", "Şırnak": "Sirnak"}
    assert [fold(name) for name in names] == list(names.values())


def test_known_facts_are_in_the_country_table():
    table = country_table()
    left = {name for name, country in table.items() if country.driving == "left"}
    assert left == {"Australia", "India", "Ireland", "Japan", "Kenya", "New Zealand"} | {
        "South Africa",
        "United Kingdom",
    }
    assert (table["United Kingdom"].plate_front, table["United Kingdom"].plate_rear) == ("white", "yellow")
    assert (table["Germany"].sign_background, table["Sweden"].sign_background) == ("yellow", "blue")
