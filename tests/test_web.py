"""The pages of the miniature web and what its search engine returns."""

import re
from collections import Counter

import numpy as np
import pytest

from reverse_lib.geo import haversine_km
from reverse_lib.photos import crop
from reverse_lib.world import SPLITS, engine_table
from reverse_lib.world.dice import stream
from reverse_lib.world.engine import MAX_PER_PLACE, Engine
from reverse_lib.world.pages import ABOUT, TITLES, filler, names_in, states_position
from reverse_lib.world.places import country_table, load_cities


def test_titles_come_from_many_templates_made_of_few_words_and_each_kind_has_short_and_long_ones():
    assert len(TITLES) >= 12 and len({title for some in TITLES.values() for title in some}) >= 40
    words = {word for some in TITLES.values() for title in some for word in re.sub(r"\{\w\}|,", " ", title).split()}
    assert len(words) <= 80
    for kind in ABOUT:
        lengths = sorted(map(len, TITLES[kind]))
        assert len(lengths) >= 3 and lengths[-1] >= lengths[0] + 4, kind


def test_the_names_in_a_title_are_read_back_whatever_the_name_and_the_template():
    names = [city.name for city in load_cities()[::19]]
    for kind, templates in TITLES.items():
        for template in templates:
            for name, other in zip(names, reversed(names), strict=True):
                title = template.format(n=name, m=other, c="South Africa", e="Fish and Chips")
                expected = [] if kind in ("jersey", "restaurant") else [name, other] if kind == "blog" else [name]
                assert names_in(title) == expected, title


def test_a_snippet_without_position_has_the_length_of_one_and_never_its_form():
    texts = [filler(stream("test", number)) for number in range(400)]
    assert {len(text) for text in texts} == set(range(10, 16)) and len(set(texts)) > 350
    assert not any(map(states_position, texts))
    assert states_position("-33.46, -70.65") and not states_position("9.30, 18.00 to") and not states_position("")


def test_thousands_of_pages_of_at_least_ten_kinds_end_with_their_country(world):
    engine = world.engine
    assert 2500 <= len(engine.pages) <= 4000 and len({page.url for page in engine.pages}) == len(engine.pages)
    kinds = Counter(page.kind for page in engine.pages)
    assert len(kinds) >= 10 and {"near", "abroad", "namesake", "blog", "jersey", "restaurant", "poster"} <= set(kinds)
    for page in engine.pages:
        assert page.title.endswith(f", {page.country}") and page.title.isascii()
        assert page.url.startswith(f"https://{page.source}/") and page.source.endswith(".example")
        assert names_in(page.title)[:1] == [page.name] * bool(page.name)


def test_positions_are_within_five_km_of_the_city_and_every_place_has_at_least_one(world):
    cities = {city.place_id: city for city in load_cities()}
    for page in world.engine.pages:
        if page.place_id is not None and page.has_position:
            city = cities[page.place_id]
            lat, lon = map(float, page.snippet.split(", "))
            assert page.snippet == f"{lat:.2f}, {lon:.2f}" and page.country == city.country
            assert haversine_km(lat, lon, city.lat, city.lon) < 5
    counts = [sum(page.useful_for(place) for page in world.engine.pages_about(place)) for place in world.places]
    assert min(counts) >= 1 and 0.05 < np.mean(np.array(counts) <= 2) < 0.25
    stated = Counter(page.kind for page in world.engine.pages if page.has_position)
    kinds = Counter(page.kind for page in world.engine.pages)
    shares = {kind: stated[kind] / kinds[kind] for kind in ABOUT if kinds[kind] > 60}
    assert max(shares.values()) - min(shares.values()) < 0.25, shares


def test_a_shop_elsewhere_never_stands_in_a_country_that_has_a_city_of_that_name(world):
    bearers = {(city.name, city.country) for city in load_cities()}
    strangers = [page for page in world.engine.pages if page.kind in ("abroad", "namesake")]
    assert len(strangers) > 300 and all(page.place_id is None for page in strangers)
    assert not any((page.name, page.country) in bearers for page in strangers)


def test_no_picture_of_the_photo_itself_is_in_the_web(world):
    own = {photo.view for split in SPLITS for photo in world.photos(split, 400)}
    streets = [picture.view for picture in world.engine.pictures if picture.kind == "street"]
    assert streets and max(streets) < 0 <= min(own)


def test_name_and_country_find_the_place_and_the_bare_name_its_twins_too(world):
    named = {}
    for place in world.places:
        named.setdefault(place.name, []).append(place)
    right, both, twins = 0, 0, 0
    for place in world.places:
        hits = world.engine.search_text(f"{place.name} {place.country}", 6)
        assert len(hits) == 6 and len({hit.page.url for hit in hits}) == 6
        assert sum(hit.page.place_id == place.place_id for hit in hits) <= MAX_PER_PLACE
        right += any(hit.page.useful_for(place) for hit in hits)
        others = {other.place_id for other in named[place.name] if other is not place}
        if others:
            twins += 1
            both += bool(others & {hit.page.place_id for hit in world.engine.search_text(place.name, 6)})
    assert right / len(world.places) >= 0.98
    assert twins >= 30 and both / twins >= 0.8


def test_a_vague_query_brings_pages_of_the_country_but_rarely_the_place(world):
    found = [
        any(hit.page.place_id == place.place_id for hit in world.engine.search_text(f"town {place.country}", 6))
        for place in world.places
    ]
    assert np.mean(found) < 0.4  # eight places a country: a page of one in three by luck


def test_results_have_falling_scores_up_to_ten_and_excluded_pages_are_left_out(world):
    hits = world.engine.search_text(world.places[0].name)
    assert len(hits) == 10 and all(a.score >= b.score > 0 for a, b in zip(hits, hits[1:], strict=False))
    gone = frozenset(hit.page.url for hit in hits[:4])
    left = world.engine.search_text(world.places[0].name, 10, gone)
    assert [hit.page.url for hit in left][:3] != [hit.page.url for hit in hits][:3]
    assert not gone & {hit.page.url for hit in left}


def test_misspelt_names_are_corrected_and_nonsense_finds_nothing(world):
    place = max(world.places, key=lambda place: len(place.name))
    typo = place.name[:3] + place.name[4:]
    assert any(hit.page.place_id == place.place_id for hit in world.engine.search_text(f"{typo} {place.country}"))
    assert world.engine.search_text("qqzx") == [] and world.engine.search_text("") == []
    assert world.live.text(world.photos("val", 1)[0].photo_id, "qqzx") is None


def test_a_saved_engine_answers_the_same(world, tmp_path):
    world.engine.save(tmp_path)
    engine = Engine.load(tmp_path, world.seed, [*world.places, *world.spare_cities])
    photo = world.photos("val", 1)[0]
    box = crop(photo.load(), photo.marks[0].bbox_2d)
    queries = [f"{place.name} {place.country}" for place in world.places[:50]]
    assert [engine.search_text(query) for query in queries] == [world.engine.search_text(query) for query in queries]
    assert engine.search_image(box) == world.engine.search_image(box)


@pytest.fixture(scope="module")
def table(world):
    """Rows of the engine's table, by region, whether it informs, and box."""
    rows = engine_table(world, world.photos("test-seen", 150) + world.photos("test-new", 50))
    return {(row["region"], row["box"]): row for row in rows}


def test_an_informative_box_finds_a_page_about_the_place_among_the_first_five(table):
    informative = [row for (_, box), row in table.items() if row["informative"] and box == "loose"]
    overall = sum(row["right"] * row["photos"] for row in informative) / sum(row["photos"] for row in informative)
    assert 0.7 <= overall <= 0.95, informative
    assert table["landmark", "loose"]["right"] >= 0.8
    assert 0.55 <= table["sign", "loose"]["shown"] <= 0.9


def test_a_decoy_box_brings_the_decoys_pages_and_the_whole_photo_noise(table):
    for region, least in (("jersey", 0.8), ("poster", 0.6), ("restaurant", 0.8), ("mural", 0.8)):
        row = table[region, "loose"]
        assert row["shown"] >= least and row["right"] < 0.1, row
    assert table["photo", "whole"]["right"] < 0.1


@pytest.mark.parametrize("kind", ["landmark", "sign", "jersey", "mural"])
def test_a_sloppy_box_finds_less_than_a_loose_one(table, kind):
    assert table[kind, "sloppy"]["shown"] < table[kind, "loose"]["shown"]


def test_countries_of_several_words_weigh_as_one(world):
    assert all(" " not in word for word in world.engine.vocabulary)
    for name in country_table():
        assert name.lower().replace(" ", "") in world.engine.vocabulary
