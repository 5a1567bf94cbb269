"""The miniature world: facts of places, what photos contain, what its web returns."""

import hashlib
from collections import Counter
from itertools import combinations, islice

import numpy as np
import pytest
from PIL import Image

from reverse_lib.geo import haversine_km
from reverse_lib.photos import crop, to_pixels
from reverse_lib.search import SearchBackend
from reverse_lib.world import SPLITS, World
from reverse_lib.world import parts as drawing
from reverse_lib.world.gazetteer import country_table, fold, load_cities, twin_share
from reverse_lib.world.plants import tree_sprite
from reverse_lib.world.street import GROUNDS, ROOFS, WALLS


@pytest.fixture(scope="module")
def world():
    return World(seed=0, places=200)


@pytest.fixture(scope="module")
def photos(world):
    return world.photos("train", 400) + world.photos("test-new", 200)


def picture_hash(photo):
    return hashlib.sha256(photo.load().tobytes()).hexdigest()


def test_places_are_real_cities_where_geonames_puts_them(world):
    known = {city.place_id: city for city in load_cities()}
    assert all(known[place.place_id] == place for place in world.places)
    madrid = next(city for city in load_cities() if (city.name, city.country) == ("Madrid", "Spain"))
    assert haversine_km(madrid.lat, madrid.lon, 40.4168, -3.7038) < 5
    assert madrid.continent == "Europe" and madrid.population > 2_000_000


def test_all_24_countries_on_six_continents_have_about_equally_many_places(world):
    counts = Counter(place.country for place in world.places)
    assert set(counts) == set(country_table()) and len(counts) == 24
    assert max(counts.values()) - min(counts.values()) <= 3
    assert len({place.continent for place in world.places}) == 6


def test_at_least_15_percent_of_places_share_their_name_with_a_place_in_another_country(world):
    assert twin_share(world.places) >= 0.15
    assert len({(place.name, place.country) for place in world.places}) == len(world.places) == 200


def test_drill_names_are_thousands_ascii_and_never_a_place(world):
    assert len(world.names) > 5000 and len(set(world.names)) == len(world.names)
    assert all(name.isascii() and 3 <= len(name) <= 16 for name in world.names)
    assert not {place.name for place in world.places} & set(world.names)


def test_accents_are_folded_and_letters_without_decomposition_spelt_out():
    assert [fold(name) for name in ("Córdoba", "Malmö", "Tromsø", "Gießen", "Şırnak")] == [
        "Cordoba",
        "Malmo",
        "Tromso",
        "Giessen",
        "Sirnak",
    ]


def test_every_word_of_the_country_table_can_be_drawn():
    for country in country_table().values():
        assert country.driving in ("left", "right") and country.climate in GROUNDS, country.name
        assert country.roof in {"", *ROOFS} and country.wall in WALLS, country.name
        assert country.eatery.isascii() and country.words, country.name
        assert tree_sprite(country.trees, 0, 64).size == (64, 64)
        assert drawing.draw_flag(country.flag, 30, 20).size == (30, 20)
        colours = (country.centre_line, country.edge_line, country.sign_background, country.sign_text)
        colours += (country.plate_front, country.plate_rear, country.plate_text, country.postbox, country.taxi_body)
        assert all(colour in drawing.COLOURS for colour in colours if colour), country.name


def test_known_facts_are_in_the_country_table():
    table = country_table()
    left = {name for name, country in table.items() if country.driving == "left"}
    assert left == {
        "Australia",
        "India",
        "Ireland",
        "Japan",
        "Kenya",
        "New Zealand",
        "South Africa",
        "United Kingdom",
    }
    assert (table["United Kingdom"].plate_front, table["United Kingdom"].plate_rear) == ("white", "yellow")
    assert (table["Germany"].sign_background, table["Sweden"].sign_background) == ("yellow", "blue")
    assert table["Spain"].city == "Madrid" and table["United Kingdom"].city == "London"


def test_flags_show_their_stripes_and_discs():
    france = np.asarray(drawing.draw_flag(country_table()["France"].flag, 30, 20), int)
    assert [tuple(france[10, x]) for x in (4, 15, 26)] == [
        drawing.COLOURS[name] for name in ("flagblue", "white", "flagred")
    ]
    japan = np.asarray(drawing.draw_flag(country_table()["Japan"].flag, 30, 20), int)
    assert tuple(japan[10, 15]) == drawing.COLOURS["flagred"] and tuple(japan[1, 1]) == drawing.COLOURS["white"]
    with pytest.raises(ValueError, match="unknown kind 'z'"):
        drawing.draw_flag("z white", 30, 20)


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
@pytest.mark.parametrize("places", [24, 31, 40, 60, 96, 130, 191, 192, 200, 300])
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


def test_marks_lie_inside_the_photo_and_never_overlap(photos):
    for photo in photos:
        boxes = [to_pixels(mark.bbox_2d, 640, 480) for mark in photo.marks]
        for left, top, right, bottom in boxes:
            assert 0 <= left < right <= 640 and 0 <= top < bottom <= 480
            assert right - left >= 50 and bottom - top >= 30
        for a, b in combinations(boxes, 2):
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], photo.photo_id


def test_85_percent_of_photos_have_exactly_one_informative_region_in_the_stated_shares(world):
    photos = world.photos("train", 2000)
    informative = [[mark.kind for mark in photo.marks if mark.informative] for photo in photos]
    assert max(map(len, informative)) == 1
    shares = Counter(kinds[0] if kinds else "" for kinds in informative)
    for kind, share in {"sign": 0.45, "board": 0.15, "landmark": 0.25, "": 0.15}.items():
        assert abs(shares[kind] / 2000 - share) < 0.035, kind
    decoys = [sum(not mark.informative for mark in photo.marks) for photo in photos]
    assert min(decoys) >= 0 and max(decoys) == 3 and np.mean(np.array(decoys) == 0) < 0.01


def test_signs_carry_the_places_ascii_name_and_decoys_speak_of_elsewhere(photos):
    for photo in photos:
        assert photo.regions == tuple(mark.bbox_2d for mark in photo.marks if mark.informative)
        for mark in photo.marks:
            if mark.kind in ("sign", "board"):
                assert mark.text == photo.place.name == photo.city and mark.text.isascii()
            if mark.informative:
                assert mark.country == photo.country
            elif mark.kind == "poster":
                assert mark.text != photo.place.name
            else:
                assert mark.country != photo.country
            assert (mark.text == "") == (mark.kind == "landmark")


def test_place_and_size_of_a_region_do_not_tell_whether_it_informs(world):
    """Kolmogorov-Smirnov distance between informative and misleading regions of the same shape, position and size."""
    marks = [mark for photo in world.photos("train", 3000) for mark in photo.marks]
    for shape in (("landmark", "jersey"), ("sign", "board", "poster", "restaurant")):
        for side in range(4):
            groups = [
                np.sort([m.bbox_2d[side] for m in marks if m.kind in shape and m.informative == flag])
                for flag in (0, 1)
            ]
            grid = np.arange(0, 1001, 10)
            cdfs = [np.searchsorted(group, grid) / len(group) for group in groups]
            assert np.abs(cdfs[0] - cdfs[1]).max() < 0.12, (shape, side)


def test_names_on_signs_are_at_least_16_px_tall_and_four_px_in_the_small_photo(world):
    signs = [panel for photo in world.photos("train", 300) for panel in photo.scene.panels if panel.text_px]
    for panel in signs:
        mask = np.asarray(drawing.text_mask("H", panel.face, panel.text_px, panel.text_px))
        tall = np.ptp(np.nonzero(mask.max(axis=1) > 128)[0]) + 1
        assert 15 <= tall <= 21 and tall * 128 / 480 < 6, panel


def test_photos_are_rgb_640_by_480_and_differ_in_light(photos):
    pictures = [photo.load() for photo in photos[:12]]
    assert {(picture.mode, picture.size) for picture in pictures} == {("RGB", (640, 480))}
    assert all(not picture.info for picture in pictures)
    assert np.std([np.asarray(picture).mean() for picture in pictures]) > 4
    assert {photo.cues["hour"] for photo in photos} == {"noon", "morning", "evening", "overcast"}


def test_cues_are_facts_of_the_country_and_flags_are_rare(photos):
    table = country_table()
    for photo in photos:
        country = table[photo.country]
        assert photo.cues["driving"] == country.driving
        assert photo.cues["flag"] in (None, country.name)
        assert photo.cues["postbox"] in (None, country.postbox)
        assert photo.cues["plate"] in (None, country.plate_front, country.plate_rear)
    assert 0.1 < np.mean([photo.cues["flag"] is not None for photo in photos]) < 0.35


def test_a_landmark_looks_alike_in_two_photos_of_a_place_and_unlike_another(world):
    from reverse_lib.world.descriptor import describe

    seen = {}
    for photo in world.photos("train", 1500):
        for mark in photo.marks:
            if mark.kind == "landmark" and len(seen.setdefault(photo.place.place_id, [])) < 2:
                seen[photo.place.place_id].append(describe(crop(photo.load(), mark.bbox_2d)))
    pairs = list(islice((pair for pair in seen.values() if len(pair) == 2), 40))
    same = [float(a @ b) for a, b in pairs]
    other = [float(a[0] @ b[0]) for a, b in zip(pairs, pairs[1:], strict=False)]
    assert len(pairs) == 40 and np.median(same) > np.percentile(other, 90)


def test_no_picture_of_the_photo_itself_is_in_the_web(world):
    own = {photo.view for split in SPLITS for photo in world.photos(split, 400)}
    streets = [picture.view for picture in world.engine.pictures if picture.kind == "street"]
    assert streets and max(streets) < 0 <= min(own)


def test_pages_about_places_end_with_the_country_and_state_their_own_position(world):
    engine = world.engine
    assert len({page.url for page in engine.pages}) == len(engine.pages)
    by_id = {place.place_id: place for place in world.places}
    for page in engine.pages:
        assert page.title.endswith(f", {page.country}") and page.title.isascii()
        assert page.url.startswith(f"https://{page.source}/") and page.source.endswith(".example")
        if page.place_id in by_id and page.has_position:
            lat, lon = map(float, page.snippet.split(", "))
            assert page.snippet == f"{lat:.2f}, {lon:.2f}"
            place = by_id[page.place_id]
            assert haversine_km(lat, lon, place.lat, place.lon) < 4.9 and page.country == place.country
    for place in world.places:
        useful = [page for page in engine.pages_about(place) if page.useful_for(place)]
        assert 1 <= len(useful) <= 5 and {page.kind for page in useful} <= {"place", "landmark"}
    spots = [page.snippet for place in world.places for page in engine.pages_about(place) if page.has_position]
    assert len(set(spots)) > 0.95 * len(spots)


def test_name_and_country_find_the_place_and_usually_its_twin_too(world):
    named = {}
    for place in world.places:
        named.setdefault(place.name, []).append(place)
    right, twin, both, twins = 0, 0, 0, 0
    for place in world.places:
        hits = world.engine.search_text(f"{place.name} {place.country}")
        assert len(hits) <= 6 and len({hit.page.url for hit in hits}) == len(hits)
        right += any(hit.page.useful_for(place) for hit in hits)
        others = [other.place_id for other in named[place.name] if other is not place]
        if others:
            twins += 1
            twin += any(hit.page.place_id in others for hit in hits)
            alone = {hit.page.place_id for hit in world.engine.search_text(place.name)}
            both += {place.place_id, *others} <= alone
    assert right / len(world.places) >= 0.99
    assert twins >= 30 and twin / twins >= 0.7 and both / twins >= 0.8


def test_misspelt_names_are_corrected_and_nonsense_finds_nothing(world):
    place = max(world.places, key=lambda place: len(place.name))
    typo = place.name[:3] + place.name[4:]
    assert any(hit.page.place_id == place.place_id for hit in world.engine.search_text(f"{typo} {place.country}"))
    assert world.engine.search_text("qqzx") == [] and world.engine.search_text("") == []
    assert world.live.text(world.photos("val", 1)[0].photo_id, "qqzx") is None


def image_hits(world, photos):
    """Share of boxes whose own pages are among the first five results, and how many boxes, by kind of region."""
    hits, counts = Counter(), Counter()
    for photo in photos:
        picture = photo.load()
        for mark in photo.marks:
            found = [hit.page for hit in world.engine.search_image(crop(picture, mark.bbox_2d))[:5]]
            counts[mark.kind] += 1
            if mark.informative:
                hits[mark.kind] += any(page.place_id == photo.place.place_id for page in found)
            else:
                word = (
                    mark.text if mark.kind == "poster" else {"jersey": "shirt", "restaurant": "Restaurant"}[mark.kind]
                )
                hits[mark.kind] += any(word in page.title and page.country == mark.country for page in found)
        counts["photo"] += 1
        found = [hit.page for hit in world.engine.search_image(picture)[:5]]
        hits["photo"] += any(page.place_id == photo.place.place_id for page in found)
    return {kind: hits[kind] / counts[kind] for kind in counts}, counts


def test_image_search_finds_what_the_box_shows_and_nothing_for_the_whole_photo(world):
    shares, counts = image_hits(world, world.photos("test-seen", 154) + world.photos("test-new", 46))
    for kind in sorted(shares):
        print(f"{kind:<12}{shares[kind]:6.2f}  of {counts[kind]}")
    assert shares["landmark"] >= 0.7
    assert min(shares["jersey"], shares["restaurant"]) >= 0.8 and shares["poster"] >= 0.6
    assert max(shares["sign"], shares["board"], shares["photo"]) <= 0.15


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
    with pytest.raises(ValueError, match="places=3: choose a number from 24"):
        World(seed=0, places=3)
