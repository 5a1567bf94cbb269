"""What photos of the miniature world contain and how they are drawn."""

import re
from collections import Counter
from itertools import combinations, islice

import numpy as np
import pytest

from reverse_lib.photos import crop
from reverse_lib.photos.photo import to_pixels
from reverse_lib.world import canvas as drawing
from reverse_lib.world import scene
from reverse_lib.world.canvas import Canvas
from reverse_lib.world.dice import stream
from reverse_lib.world.landmarks import draw_landmark, landmark_of
from reverse_lib.world.panels import DECOYS, INFORMATIVE, TALL
from reverse_lib.world.pictures import describe
from reverse_lib.world.places import choose_places, country_table
from reverse_lib.world.plants import tree_sprite
from reverse_lib.world.street import GROUNDS, ROOFS, WALLS


@pytest.fixture(scope="module")
def photos(world):
    return world.photos("train", 400) + world.photos("test-new", 200)


def test_every_word_of_the_country_table_can_be_drawn():
    for country in country_table().values():
        assert country.driving in ("left", "right") and country.climate in GROUNDS, country.name
        assert country.roof in {"", *ROOFS} and country.wall in WALLS, country.name
        assert country.eatery.isascii() and len(country.words) >= 3 and "".join(country.words).isascii(), country.name
        assert tree_sprite(country.trees, 0, 64).shape == (64, 64, 4)
        assert drawing.draw_flag(country.flag, 30, 20).size == (30, 20)
        colours = (country.centre_line, country.edge_line, country.sign_background, country.sign_text)
        colours += (country.plate_front, country.plate_rear, country.plate_text, country.postbox, country.taxi_body)
        assert all(colour in drawing.COLOURS for colour in colours if colour), country.name


def test_flags_show_their_stripes_and_discs():
    france = np.asarray(drawing.draw_flag(country_table()["France"].flag, 30, 20), int)
    assert [tuple(france[10, x]) for x in (4, 15, 26)] == [
        drawing.COLOURS[name] for name in ("flagblue", "white", "flagred")
    ]
    japan = np.asarray(drawing.draw_flag(country_table()["Japan"].flag, 30, 20), int)
    assert tuple(japan[10, 15]) == drawing.COLOURS["flagred"] and tuple(japan[1, 1]) == drawing.COLOURS["white"]
    with pytest.raises(ValueError, match="unknown kind 'z'"):
        drawing.draw_flag("z white", 30, 20)


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
            elif mark.kind in ("poster", "mural"):
                assert mark.text != photo.place.name and mark.place_id not in (None, photo.place.place_id)
            else:
                assert mark.country != photo.country
            assert (mark.text == "") == (mark.kind in ("landmark", "mural"))


def test_half_of_the_tall_decoys_are_murals_and_tall_regions_are_as_common_among_decoys(world):
    marks = [mark for photo in world.photos("train", 2000) for mark in photo.marks]
    tall = [np.mean([mark.kind in TALL for mark in marks if mark.informative == flag]) for flag in (False, True)]
    assert abs(tall[0] - tall[1]) < 0.03
    counts = Counter(mark.kind for mark in marks)
    assert 0.8 < counts["mural"] / counts["jersey"] < 1.25 and set(counts) == {*INFORMATIVE, *DECOYS}


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
    assert {photo.cues["hour"] for photo in photos} == {"noon", "morning", "evening", "night"}
    weather = Counter(photo.cues["weather"] for photo in photos)
    assert set(weather) == {"clear", "overcast", "rain", "fog", "snow"}
    snowy = {photo.cues["climate"] for photo in photos if photo.cues["weather"] == "snow"}
    assert snowy <= {"boreal", "temperate"}


def test_nights_are_dark_and_their_windows_are_lit(photos):
    pictures = {hour: [] for hour in ("noon", "night")}
    for photo in photos:
        hour = photo.cues["hour"]
        if photo.cues["weather"] == "clear" and hour in pictures and len(pictures[hour]) < 8:
            pictures[hour].append(np.asarray(photo.load()).astype(int))
    noon, night = (np.stack(pictures[hour]) for hour in ("noon", "night"))
    assert night.mean() < 0.5 * noon.mean()
    glow = (night[..., 0] > 190) & (night[..., 0] - night[..., 2] > 60)
    assert np.median(glow.mean(axis=(1, 2))) > 0.002


def test_shop_words_and_plates_are_listed_only_where_nothing_hides_them(photos):
    words = 0
    for photo in photos:
        shops = country_table()[photo.country].words[1:]
        marks = [mark.bbox_2d for mark in photo.marks]
        for writing in photo.writings:
            if writing.bbox_2d in marks:
                continue
            assert writing.text in shops or re.fullmatch("[A-Z]{2} [0-9]{3}", writing.text), writing
            words += writing.text in shops
            x1, y1, x2, y2 = writing.bbox_2d
            assert 0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 1000
            for a, b, c, d in marks:
                assert x2 <= a or c <= x1 or y2 <= b or d <= y1, (photo.photo_id, writing)
    assert words > 50


def test_cars_keep_to_the_side_of_their_country(photos):
    rear = [
        (photo.country, item.x_m)
        for photo in photos
        for item in photo.scene.items
        if item.kind in ("car", "taxi") and item.note.startswith("rear")
    ]
    assert len(rear) > 50
    assert all((x > 0) == (country_table()[country].driving == "right") for country, x in rear)


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
    cuts = {}
    for photo in world.photos("train", 1500):
        for mark in photo.marks:
            if mark.kind == "landmark" and len(cuts.setdefault(photo.place.place_id, [])) < 2:
                cuts[photo.place.place_id].append(crop(photo.load(), mark.bbox_2d))
    twice = list(islice((pair for pair in cuts.values() if len(pair) == 2), 40))
    assert all(np.asarray(a).tobytes() != np.asarray(b.resize(a.size)).tobytes() for a, b in twice)
    pairs = [(describe(a), describe(b)) for a, b in twice]
    same = [float(a @ b) for a, b in pairs]
    other = [float(a[0] @ b[0]) for a, b in zip(pairs, pairs[1:], strict=False)]
    assert len(pairs) == 40 and np.median(same) > np.percentile(other, 90)


def facade(place_id):
    canvas = Canvas(60, 80, (160, 190, 220))
    draw_landmark(canvas, (2, 2, 58, 78), landmark_of(0, place_id), 0.0, (1.0, 1.0, 1.0))
    return canvas.pixels.astype(np.int16)


@pytest.mark.parametrize("places", [200, 5000])
def test_no_two_places_have_the_same_landmark(places):
    """Mean difference of two facades' pixels, in levels: every pair of 200, of 5,000 every 250th with all."""
    drawn = np.stack([facade(place.place_id)[::2, ::2].ravel() for place in choose_places(0, places)])
    for number in range(0, places, 1 if places == 200 else 250):
        distances = np.abs(drawn - drawn[number]).mean(axis=1)
        distances[number] = 999
        assert distances.min() > 4, number


def windows(pixels, side=24):
    """A number for each square of so many pixels a side: equal squares have equal numbers."""
    codes = pixels.astype(np.uint64) @ np.array([1, 1 << 8, 1 << 16], np.uint64)
    for axis, factor in ((1, 0x9E3779B97F4A7C15), (0, 0xC2B2AE3D27D4EB4F)):
        parts, power, width = {1: codes}, factor, 1
        while width < side:
            shifted = np.take(parts[width], range(width, parts[width].shape[axis]), axis)
            kept = np.take(parts[width], range(shifted.shape[axis]), axis)
            parts[2 * width] = kept * np.uint64(power) + shifted
            power, width = power * power % (1 << 64), 2 * width
            if width == 16:
                break
        tail = np.take(parts[8], range(16, parts[8].shape[axis]), axis)
        codes = np.take(parts[16], range(tail.shape[axis]), axis) * np.uint64(pow(factor, 8, 1 << 64)) + tail
    return codes.ravel()


def test_equal_squares_have_equal_numbers_wherever_they_are():
    rng = stream("squares")
    one, two = (rng.integers(0, 256, (60, 70, 3), dtype=np.uint8) for _ in range(2))
    assert not np.intersect1d(windows(one), windows(two)).size
    two[30:54, 7:31] = one[3:27, 40:64]
    assert np.intersect1d(windows(one), windows(two)).size == 1


@pytest.mark.parametrize("grain", [True, False], ids=["as taken", "before the camera's noise"])
def test_two_photos_of_a_place_share_no_square_of_24_pixels_anywhere(world, grain, monkeypatch):
    if not grain:
        monkeypatch.setattr(scene, "add_grain", lambda pixels, dice: None)
    for place in range(3):
        photos = [world.photos("train")[place], *world.photos("val")[place : place + 1]]
        photos.append(world.photos("train", len(world.places_of("train")) + place + 1)[-1])
        assert len({photo.city for photo in photos}) == 1
        squares = [windows(np.asarray(scene.render(photo.scene))) for photo in photos]
        for a, b in combinations(squares, 2):
            assert not np.intersect1d(a, b).size, photos[0].place
