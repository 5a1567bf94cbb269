"""The miniature world under attack: no shortcut leads past looking, querying and judging; see `probes.py`."""

from collections import Counter

import numpy as np
import probes
import pytest
from probes import ALPHA, FAMILIES, Gallery, auc, separation, share
from scipy.stats import binom

from reverse_lib.environment import rollout
from reverse_lib.world import SPLITS, ScriptedTeacher
from reverse_lib.world.places import country_table

TOLD_APART = 0.55  # an AUC above this, by more than its interval, is a leak


@pytest.fixture(scope="module")
def everything(world):
    """Small versions of eight views of each training place, two more of it, and eight of each held-out place."""
    views = {"train": 8, "test-seen": 2, "test-new": 8}
    return probes.gallery(
        [p for split, n in views.items() for p in world.photos(split, n * len(world.places_of(split)))]
    )


@pytest.fixture(scope="module")
def parts(everything):
    """The same by split."""
    splits = np.array([photo.split for photo in everything.photos])
    return {split: everything.where(splits == split) for split in ("train", "test-seen", "test-new")}


@pytest.fixture(scope="module")
def scenery(everything):
    """All of them but those with a landmark, which may well tell the place."""
    kinds = [{mark.kind for mark in photo.marks if mark.informative} for photo in everything.photos]
    return everything.where(np.array(["landmark" not in some for some in kinds]))


@pytest.fixture(scope="module")
def taught(world):
    """The scripted teacher's trajectories on validation photos and on held-out places."""
    teacher = ScriptedTeacher(world)
    return {
        split: rollout(teacher, world.photos(split, n), world.live) for split, n in (("val", 400), ("test-new", 200))
    }


def told_apart(rows, truth, groups=None):
    """The attackers whose AUC is above what is tolerated, by more than its interval."""
    return {
        name: str(found)
        for name, found in separation(rows, truth, groups).items()
        if found.value - found.margin > TOLD_APART
    }


def test_a_bag_of_pixels_tells_the_country_at_least_eight_times_as_often_as_chance(parts):
    found = probes.country_reader(parts["train"], {split: parts[split] for split in ("test-seen", "test-new")})
    for split, right in found.items():
        assert right.value >= 8 / len(country_table()), (split, str(right))


def test_the_position_of_a_held_out_place_is_not_guessed_from_pixels_better_than_from_the_country(parts):
    test = parts["test-new"]
    table = country_table()
    capitals = [table[photo.country].largest_city for photo in test.photos]
    fall_back = share(probes.is_near([(city.lat, city.lon) for city in capitals], test.photos))
    memoriser = probes.position_reader(parts["train"], test)
    assert memoriser.low <= fall_back.high, (str(memoriser), str(fall_back))
    assert memoriser.value < 0.08, str(memoriser)


@pytest.mark.parametrize("family", FAMILIES)
def test_scenery_tells_no_place_of_the_right_country_even_to_who_has_other_views_of_it(scenery, family):
    attacks = [probes.place_within_country(scenery, family), probes.neighbour_within_country(scenery, family)]
    if family in ("colours", "grain"):
        attacks.append(probes.place_by_trees(scenery.features[family], scenery))
    for found, chance in attacks:
        assert found.low <= chance, (family, str(found), chance)


@pytest.mark.parametrize("target", ["lat", "lon", "population"])
def test_scenery_tells_neither_latitude_nor_longitude_nor_size_of_a_place_beyond_its_country(scenery, target):
    found = {family: probes.trend_across_places(scenery, family, target) for family in FAMILIES}
    assert all(correlation <= highest for correlation, highest in found.values()), found


def test_the_attackers_find_a_shade_that_is_planted_for_them(scenery):
    rng = np.random.default_rng(0)
    ids = sorted(set(scenery.places))
    shade = dict(zip(ids, rng.normal(0, 20 / 255, size=(len(ids), 30)), strict=True))
    planted = {name: rows.copy() for name, rows in scenery.features.items()}
    planted["layout"][:, -30:] += np.array([shade[place] for place in scenery.places], np.float32)
    table = country_table()
    north = [photo.place.lat > table[photo.country].largest_city.lat for photo in scenery.photos]
    planted["colours"][:, 0] += 0.3 * np.array(north, np.float32)
    marked = Gallery(scenery.photos, planted, scenery.colours, scenery.regions)
    found, chance = probes.place_within_country(marked, "layout")
    assert found.low > chance, (str(found), chance)
    correlation, highest = probes.trend_across_places(marked, "colours", "lat")
    assert correlation > highest
    truth = rng.random(3000) < 0.5
    assert told_apart(rng.normal(size=(3000, 4)) + 0.6 * truth[:, None], truth)


def test_place_size_and_colours_of_a_region_do_not_tell_that_it_informs(world, everything):
    rows, truth, owners = probes.region_table(world.photos("train", 4000))
    assert not told_apart(rows, truth, owners)
    rows, truth, owners = probes.region_table(everything.photos, everything.regions)
    tall = rows[:, 3] > 0.75 * rows[:, 2]
    for group in (np.ones(len(rows), bool), tall, ~tall):
        assert not told_apart(rows[group], truth[group], owners[group])


def test_the_boxes_of_a_photo_do_not_tell_whether_one_of_them_informs(world):
    photos = world.photos("train", 4000)
    assert not told_apart(*probes.photo_table(photos))
    for count, first in probes.leftmost(photos).items():
        assert first.low <= 1 / count <= first.high, (count, str(first))


def test_the_size_of_a_sign_says_little_about_which_place_of_the_country_it_names(world):
    """Longer names need wider signs, which is true to life; it may double the odds of a guess, no more."""
    photos = [p for split in ("train", "test-new") for p in world.photos(split, 16 * len(world.places_of(split)))]
    named, tables = probes.box_tables(photos)
    found, chance = probes.place_by_trees(tables["size"], Gallery(named))
    assert found.value <= 2 * chance, (str(found), chance)
    found, chance = probes.place_by_trees(tables["position"], Gallery(named))
    assert found.low <= chance, (str(found), chance)


def test_order_host_address_length_and_wording_do_not_tell_a_useful_result(taught):
    families, useful, owners = probes.result_table(taught["val"])
    leaks = {name: told_apart(rows, useful, owners) for name, rows in families.items()}
    leaks["together"] = told_apart(np.hstack(list(families.values())), useful, owners)
    assert not any(leaks.values()), leaks


@pytest.mark.parametrize("split", ["val", "test-new"])
def test_trusting_by_rule_of_thumb_is_clearly_worse_than_comparing_with_the_photo(taught, split):
    scores = probes.rule_scores(probes.searches(taught[split]))
    reader = probes.reader_score(taught[split])
    assert reader > 0.9
    assert all(abs(scores[f"result {i}"]) < 0.12 for i in range(1, 7)) and scores["first position"] < 0.3, scores
    assert max(scores.values()) < 0.7 * reader, scores


@pytest.mark.parametrize("split", SPLITS)
def test_answers_without_looking_are_far_below_those_of_a_reader(world, split):
    photos = world.photos(split, 400)
    answers, told = probes.blind_answers(world, photos), np.array([bool(photo.regions) for photo in photos])
    reader = answers.pop("reader")
    assert reader.mean() > 0.75 and reader[told].mean() > 0.9
    for name in ("commonest place", "largest city", "capital of country", "usual place"):
        assert share(answers[name]).high < 0.4 * reader.mean(), (name, answers[name].mean())
    assert answers["name alone"][told].mean() < reader[told].mean() - 0.2
    for name, right in answers.items():
        won = share(reader[right != reader])  # of the photos that one of the two places rightly
        assert won.low > 0.6 and right.mean() < reader.mean() - 0.08, (name, str(won), right.mean())
    names = Counter(place.name for place in world.places)
    twins = np.array([names[photo.city] > 1 and bool(photo.regions) for photo in photos])
    assert answers["largest twin"][twins].mean() < 0.7 * reader[twins].mean(), answers["largest twin"][twins].mean()


def test_a_box_that_is_the_same_in_every_photo_finds_next_to_nothing(world):
    found = probes.blind_boxes(world, world.photos("val", 120))
    informative = found.pop("informative")
    for name, useful in found.items():
        assert useful.value < 0.25 * informative.value and useful.high < informative.low, (name, str(useful))


def test_photo_ids_tell_neither_split_nor_country_nor_position_nor_usefulness(world):
    photos = [photo for split in ("train", "val", "test-seen", "test-new") for photo in world.photos(split, 600)]
    names = sorted(country_table())
    for truth in (
        [photo.split == "test-new" for photo in photos],
        [photo.split == "train" for photo in photos],
        [photo.lat > 20 for photo in photos],
        [photo.lon > 0 for photo in photos],
        [names.index(photo.country) % 2 for photo in photos],
        [bool(photo.regions) for photo in photos],
    ):
        assert not told_apart(probes.id_bits(photos), np.array(truth, bool))


def test_order_of_photos_and_number_of_calls_tell_nothing(world):
    position, first, useful = probes.call_orders(world, world.photos("val", 150))
    assert abs(position.value - 0.5) <= position.margin
    assert first.low <= useful <= first.high, (str(first), useful)
    together, chance = probes.country_runs(world.photos("train"))
    assert together.low <= chance <= together.high, (str(together), chance)


def test_the_teacher_writes_no_name_before_it_can_have_read_it(taught):
    assert probes.unseen_names(taught["val"]) == []


def test_intervals_are_exact_and_an_attacker_at_chance_stays_inside():
    half = share([True] * 5 + [False] * 5)
    assert half.value == 0.5 and binom.sf(4, 10, half.low) == pytest.approx(ALPHA / 2)
    assert binom.cdf(5, 10, half.high) == pytest.approx(ALPHA / 2)
    assert (share([False] * 9).low, share([True] * 9).high) == (0.0, 1.0)
    rng = np.random.default_rng(0)
    found = auc(rng.random(2000) < 0.3, rng.random(2000))
    assert abs(found.value - 0.5) < found.margin < 0.06
