"""Worlds as others use them: splits, photo ids, searches that label themselves."""

import hashlib
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from reverse_lib.geo import haversine_km
from reverse_lib.photos import crop
from reverse_lib.search import SearchBackend
from reverse_lib.world import SPLITS, World
from reverse_lib.world.atlas import MAX_VIEWS, PhotoIds
from reverse_lib.world.gazetteer import country_table


@pytest.fixture(scope="module")
def photos(world):
    return world.photos("train", 400) + world.photos("test-new", 200)


def picture_hash(photo):
    return hashlib.sha256(photo.load().tobytes()).hexdigest()


def test_same_seed_gives_the_same_photos_and_another_seed_others():
    first, again, other = World(0, 48), World(0, 48), World(1, 48)
    one, two, three = (world.photos("val", 3) for world in (first, again, other))
    assert one == two and [picture_hash(photo) for photo in one] == [picture_hash(photo) for photo in two]
    assert not {photo.photo_id for photo in one} & {photo.photo_id for photo in three}
    assert {place.place_id for place in first.places} != {place.place_id for place in other.places}


def test_asking_for_more_photos_keeps_the_first_ones(world):
    assert world.photos("val", 40) == world.photos("val", 90)[:40]
    assert len(world.photos("val")) == len(world.places_of("val"))


def test_splits_share_no_photo_and_test_new_no_place_with_the_others(world):
    sets = {split: world.photos(split, 300) for split in SPLITS}
    for a, b in combinations(SPLITS, 2):
        assert not {p.photo_id for p in sets[a]} & {p.photo_id for p in sets[b]}, (a, b)
    views = {split: {(p.place.place_id, p.view) for p in sets[split]} for split in SPLITS}
    assert all(not views[a] & views[b] for a, b in combinations(SPLITS, 2))
    seen, new = world.places_of("train"), world.places_of("test-new")
    assert world.places_of("val") == world.places_of("test-seen") == seen
    assert not {p.place_id for p in seen} & {p.place_id for p in new} and len(seen) + len(new) == 200
    assert 0.2 <= len(new) / 200 <= 0.3
    assert {p.country for p in seen} == {p.country for p in new} == set(country_table())


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("places", [24, 31, 40, 60, 96, 130, 191, 192, 200, 300, 1000])
def test_a_quarter_of_the_places_is_held_out_whatever_the_size_of_the_world(seed, places):
    world = World(seed, places)
    seen, new = world.places_of("train"), world.places_of("test-new")
    assert 0.22 <= len(new) / places <= 0.28
    assert {*seen, *new} == set(world.places) and len(seen) + len(new) == places
    assert len(world.photos("test-new", 3)) == 3
    if places >= 60:
        assert {place.country for place in seen} == set(country_table())
        assert len({place.country for place in new}) >= min(15, len(new))


def test_no_training_photo_names_a_held_out_place(world):
    held = {place.name for place in world.places_of("test-new")} - {place.name for place in world.places_of("train")}
    texts = {mark.text for photo in world.photos("train", 900) for mark in photo.marks}
    assert held and not texts & held


def test_posters_and_murals_of_a_split_show_no_place_held_out_from_it_nor_the_photos_own(world):
    held = {place.place_id: place.name for place in world.places_of("test-new")}
    spare = {city.place_id for city in world.spare_cities}
    shown = Counter()
    for split in SPLITS:
        for photo in world.photos(split, 500):
            names = {place.place_id: place.name for place in [*world.places, *world.spare_cities]}
            for mark in photo.marks:
                if mark.kind in ("poster", "mural"):
                    assert names[mark.place_id] != photo.place.name
                    assert mark.place_id in spare or (mark.place_id in held) == (split == "test-new")
                    shown[mark.kind, mark.place_id in spare] += 1
    assert min(shown.values()) > 20 and len(shown) == 4


@pytest.mark.parametrize("places", [24, 1000, 5000])
def test_no_writing_in_training_photos_names_a_place_held_out_whatever_the_size(places):
    world = World(0, places)
    held = {place.name for place in world.places_of("test-new")} - {place.name for place in world.places_of("train")}
    texts = {writing.text for photo in world.photos("train", 300) for writing in photo.writings}
    assert len(held) > places / 8 and texts and not texts & held


def test_writings_hold_all_that_the_marks_say_and_more(photos):
    for photo in photos:
        said = {(mark.bbox_2d, mark.text) for mark in photo.marks if mark.text}
        written = {(writing.bbox_2d, writing.text) for writing in photo.writings}
        assert said <= written
        assert all(0 <= value <= 1000 for box, _ in written for value in box) and all(text for _, text in written)
    assert np.mean([len(photo.writings) > sum(bool(mark.text) for mark in photo.marks) for photo in photos]) > 0.15


def test_ids_of_the_largest_world_are_read_again():
    ids = PhotoIds("0 20000")
    for place, number in ((0, 0), (19_999, 0), (19_999, 4 * MAX_VIEWS - 1), (12_345, 678)):
        assert ids.decode(ids.encode(place, number)) == (place, number)
    assert PhotoIds("1 20000").decode(ids.encode(5, 5)) is None


def test_a_photo_is_found_again_by_its_id_in_a_fresh_world(world, photos):
    fresh = World(seed=0, places=200)
    for photo in photos[:5] + photos[-5:]:
        assert fresh.photo(photo.photo_id) == photo
    with pytest.raises(KeyError, match="not of the world with seed 0"):
        fresh.photo("nobody")


def test_ids_do_not_reveal_the_place_and_positions_are_within_3_km(photos):
    for photo in photos:
        assert len(photo.photo_id) == 16 and int(photo.photo_id, 16) >= 0
        assert str(photo.place.place_id) not in photo.photo_id
        assert haversine_km(photo.lat, photo.lon, photo.place.lat, photo.place.lon) <= 3.05
    assert np.mean([(p.lat, p.lon) == (p.place.lat, p.place.lon) for p in photos]) == 0


def test_live_search_is_a_backend_that_labels_and_shuffles_the_same_way_every_time(world):
    live, again = world.live, World(seed=0, places=200).live
    assert isinstance(live, SearchBackend)
    photo = next(photo for photo in world.photos("val", 20) if photo.regions)
    query = f"{photo.city} {photo.country}"
    answer = live.text(photo.photo_id, query)
    assert (
        answer == again.text(photo.photo_id, f" {query.upper()}!") and answer.labelled and 1 <= len(answer.results) <= 6
    )
    assert answer.useful == {i for i, result in enumerate(answer.results, 1) if result.useful}
    for result in answer.results:
        assert result.useful == world.engine.page(result.url).useful_for(photo.place)
    assert answer.useful and set(live.evidence(photo.photo_id)) >= {
        result.url for result in answer.results if result.useful
    }
    orders = {live.text(photo.photo_id, query, call=call).results for call in range(6)}
    assert len(orders) > 1 and len({frozenset(order) for order in orders}) == 1


def test_the_order_shown_does_not_tell_what_is_useful(world):
    positions = Counter()
    for photo in world.photos("train", 400):
        if photo.regions:
            positions.update(world.live.text(photo.photo_id, f"{photo.city} {photo.country}").useful)
    counts = np.array([positions[i] for i in range(1, 7)])
    assert counts.min() > 0.75 * counts.mean() and counts.max() < 1.25 * counts.mean()


def test_photos_without_an_informative_region_have_no_useful_evidence(world):
    photo = next(photo for photo in world.photos("train", 60) if not photo.regions)
    answer = world.live.text(photo.photo_id, f"{photo.city} {photo.country}")
    assert answer.labelled and answer.useful == frozenset() and world.live.evidence(photo.photo_id) == []
    assert all(result.useful is False for result in answer.results)


def test_image_search_cuts_the_box_itself_when_no_crop_is_given(world):
    photo = next(p for p in world.photos("val", 60) if any(m.kind == "landmark" for m in p.marks))
    box = photo.regions[0]
    given = world.live.image(photo.photo_id, box, crop=crop(photo.load(), box))
    assert given == world.live.image(photo.photo_id, list(box)) and given.labelled


def test_unknown_photos_are_searched_without_labels(world):
    answer = world.live.text("someone's own photo", "Madrid Spain")
    assert not answer.labelled and answer.useful == frozenset() and {r.useful for r in answer.results} == {None}
    assert world.live.image("someone's own photo", [0, 0, 500, 500]) is None
    grey = world.live.image("someone's own photo", [0, 0, 500, 500], crop=Image.new("RGB", (60, 40), "grey"))
    assert grey is not None and not grey.labelled
    assert world.live.evidence("someone's own photo") == []


def test_searches_of_training_photos_never_show_a_held_out_place(world):
    held = {place.place_id for place in world.places_of("test-new")}
    names = {place.name for place in world.places_of("test-new")} - {place.name for place in world.places_of("train")}
    train, test = (world.photos(split, 1)[0].photo_id for split in ("train", "test-new"))
    for place in world.places_of("test-new"):
        query = f"{place.name} {place.country}"
        shown = [world.engine.page(result.url) for result in world.live.text(test, query).results]
        hidden = [world.engine.page(result.url) for result in world.live.text(train, query).results]
        assert any(page.place_id == place.place_id for page in shown)
        assert not held & {page.place_id for page in hidden} and not names & {page.name for page in hidden}


def test_impossible_requests_name_the_value_and_the_remedy(world):
    with pytest.raises(ValueError, match="split 'dev': unknown; use one of train"):
        world.photos("dev", 1)
    with pytest.raises(ValueError, match="n=-1: choose a number from 0"):
        world.photos("val", -1)
    with pytest.raises(ValueError, match="places=3: choose a whole number from 24 to 20,000"):
        World(seed=0, places=3)
