"""Distances, the accuracy curve, written answers, towns and countries, against figures known from elsewhere."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reverse_lib import geo
from reverse_lib.geo import Answer, accuracy_reward, geoguessr_score, haversine_km, parse_answer, where_is, within

PARIS, LONDON = (48.8566, 2.3522), (51.5074, -0.1278)


@pytest.mark.parametrize(
    ("start", "end", "km"),
    [
        (PARIS, LONDON, 343.6),
        ((40.7128, -74.0060), (51.5074, -0.1278), 5570.2),  # New York
        ((35.6762, 139.6503), (-33.8688, 151.2093), 7825.8),  # Tokyo, Sydney
        ((0.0, 0.0), (0.0, 180.0), 20015.1),
        ((90.0, 0.0), (-90.0, 0.0), 20015.1),
        ((0.0, 179.5), (0.0, -179.5), 111.2),
        ((90.0, -120.0), (90.0, 75.0), 0.0),
        ((89.0, 0.0), (89.0, 180.0), 222.4),
        ((12.3, 45.6), (12.3, 45.6), 0.0),
    ],
    ids=["Paris", "New York", "Tokyo", "antipodes", "poles", "date line", "one pole", "over the pole", "same point"],
)
def test_known_distances_are_met(start, end, km):
    assert haversine_km(*start, *end) == pytest.approx(km, abs=0.06)
    assert haversine_km(*end, *start) == haversine_km(*start, *end)


def test_scalars_give_a_float_and_arrays_broadcast():
    assert type(haversine_km(0, 0, 0, 1)) is float
    km = haversine_km(np.zeros((3, 1)), 0.0, 0.0, np.array([0.0, 90.0, 180.0, 360.0]))
    assert km.shape == (3, 4)
    assert km[1] == pytest.approx([0.0, 10007.56, 20015.11, 0.0], abs=0.01)


def test_whole_numbers_and_single_precision_are_computed_in_double_precision():
    km = haversine_km(np.float32([45]), np.int16([7]), [45], [7.00001])
    assert km.dtype == np.float64
    assert km[0] == pytest.approx(6371008.8 * math.radians(0.00001) * math.cos(math.radians(45)) / 1000, rel=1e-6)


@pytest.mark.filterwarnings("error")
def test_coordinates_that_are_no_numbers_give_nan_without_a_warning():
    assert np.isnan(haversine_km([math.nan, math.inf, 0], 0, 0, [0, 0, -math.inf])).all()


@settings(deadline=None)
@given(st.tuples(*[st.floats(-90, 90), st.floats(-180, 180)] * 2))
def test_no_two_points_are_further_apart_than_half_the_globe(pair):
    assert 0 <= haversine_km(*pair) <= 20015.12


@pytest.mark.parametrize(
    ("km", "reward"),
    [(0, 1.0), (0.5, 1.0), (1, 1.0), (25, 0.8), (200, 0.6), (750, 0.4), (2500, 0.2), (20015, 0.0)]
    + [(13, 0.9), (112.5, 0.7), (475, 0.5), (1625, 0.3), (2500.001, 0.0), (math.inf, 0.0)],
)
def test_accuracy_is_linear_between_the_papers_knots(km, reward):
    assert accuracy_reward(km) == pytest.approx(reward, abs=1e-9)
    assert type(accuracy_reward(km)) is float


def test_what_is_not_a_distance_earns_nothing():
    assert accuracy_reward(None) == accuracy_reward(math.nan) == accuracy_reward(-1.0) == 0.0
    assert geoguessr_score(None) == geoguessr_score(math.nan) == geoguessr_score(-1.0) == 0.0
    assert accuracy_reward([None, math.nan, 13.0]) == pytest.approx([0.0, 0.0, 0.9])
    assert not within([None, math.nan, -1.0]).any()


def test_geoguessr_points_fall_by_e_in_1492_km():
    assert geoguessr_score(0) == 5000.0
    assert geoguessr_score(1492.7) == pytest.approx(5000 / math.e)
    assert type(geoguessr_score(0)) is float
    assert geoguessr_score(np.array([[0.0, 2985.4]])) == pytest.approx(np.array([[5000.0, 5000 / math.e**2]]))


def test_thresholds_include_their_limit_and_add_one_dimension():
    assert within(25.0).tolist() == [False, True, True, True, True]
    assert within(25.001).tolist() == [False, False, True, True, True]
    assert within(np.zeros((2, 3))).shape == (2, 3, 5)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("France, Paris, 48.85, 2.35", Answer("France", "Paris", 48.85, 2.35)),
        ("France, Paris 12, 48.85, 2.35", Answer("France", "Paris 12", 48.85, 2.35)),
        ("France, Paris, 12, 48.85, 2.35", Answer("France", "Paris, 12", 48.85, 2.35)),
        ("United States, Washington, D.C., 38.9, -77.04", Answer("United States", "Washington, D.C.", 38.9, -77.04)),
        ("<think>48.0, 2.0</think><answer>\n Spain, Madrid, 40, -3.7\n</answer>", Answer("Spain", "Madrid", 40, -3.7)),
        ("Ocean, , 0, 0", Answer("Ocean", "", 0, 0)),
        ("Ocean, 0.0, 0.0", Answer("Ocean", "", 0, 0)),
        ("  Peru,Lima,-12.05,-77.04\n", Answer("Peru", "Lima", -12.05, -77.04)),
        ("Pole, North, 90, -180", Answer("Pole", "North", 90, -180)),
        ("Peru, Lima, 12.05° S, 77.04° W", Answer("Peru", "Lima", -12.05, -77.04)),
        ("Peru, Lima, S12.05°, W 77.04", Answer("Peru", "Lima", -12.05, -77.04)),
        ("France, Paris, 48.85°N, 2.35°E", Answer("France", "Paris", 48.85, 2.35)),
        ("France, Paris, N48.85, E2.35", Answer("France", "Paris", 48.85, 2.35)),
        ("Peru, Lima, \u221212.05, \u221277.04°", Answer("Peru", "Lima", -12.05, -77.04)),
        ("A, B, +1., .5", Answer("A", "B", 1.0, 0.5)),
        ("A, B, 1e-05, 1.5E1", Answer("A", "B", 1e-5, 15.0)),
        ("日本, 東京, 35.68, 139.69", Answer("日本", "東京", 35.68, 139.69)),
    ],
)
def test_answers_are_read(text, answer):
    assert parse_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    ["", " ", ",", ",,,", "Paris", "48.85, 2.35", "France, Paris", ", Paris, 48.85, 2.35", "France, Paris, 48.85"]
    + [f"France, Paris, {lat}, 2.35" for lat in ["90.01", "-90.01", "1e400", "1e2", "nan", "NaN", "inf", "-Infinity"]]
    + [f"France, Paris, 48.85, {lon}" for lon in ["180.01", "-181", "1" * 5000, "-1e999", "0x10", "1_0", "", "--1"]]
    + [f"France, Paris, {lat}, 2.35" for lat in ["4 8", "48.85.1", "48°51'24\"N", "٤٨", "４８", "4²", "48 degrees"]]
    + [f"France, Paris, 48.85, {lon}" for lon in ["2.35 N", "S 2.35", "-2.35 W", "W 2.35 W", "2.35 n", "°", "E"]]
    + [f"France, Paris, {lat}, 2.35" for lat in ["48.85 E", "W48", "+48 N", "N 48 S", "\u201348", "(48.85", "lat 48"]],
)
def test_what_is_no_answer_is_none(text):
    assert parse_answer(text) is None
    assert parse_answer(f"<answer>{text}</answer>") is None


NO_ANSWERS = ["<answer>A, B, 1, 2</answer>" * 2, "<answer>A, B, 1, 2</answer><answer>C, D, 3, 4</answer>"]
NO_ANSWERS += ["<answer>A, B, 1, 2", "A, B, 1, 2</answer>", "</answer>A, B, 1, 2<answer>", "<answer></answer>"]
NO_ANSWERS += ["<answer><answer>A, B, 1, 2</answer></answer>", "<answer>A, B, 1, 2</answer></answer>"]
NO_ANSWERS += ["<Answer>A, B, 1, 2</Answer>", "<answer >A, B, 1, 2</answer>", "<answer><b>A</b>, B, 1, 2</answer>"]
NO_ANSWERS += ["<answer>A, B, 1, 2\nC, D, 3, 4</answer>", "A, B, 1, 2\u2028C, D, 3, 4"]


@pytest.mark.parametrize("value", NO_ANSWERS)
def test_several_unclosed_nested_or_misspelt_answers_are_none(value):
    assert parse_answer(value) is None


@settings(deadline=None)
@given(st.text() | st.text("<>/answer NSEW°+-\u2212.,0123456789eE_\n"))
def test_no_text_raises_and_every_answer_is_in_range(text):
    for written in (text, f"A, B, {text}", f"<answer>A, B, 1, {text}</answer>"):
        answer = parse_answer(written)
        assert answer is None or (answer.country and abs(answer.lat) <= 90 and abs(answer.lon) <= 180)


@settings(deadline=None)
@given(st.floats(-90, 90), st.floats(-180, 180))
def test_every_legal_coordinate_that_python_writes_is_read_exactly(lat, lon):
    assert parse_answer(f"A, B, {lat}, {lon}") == Answer("A", "B", lat, lon)


@pytest.mark.parametrize("unit", [",", "<answer>", "1", " ", "A, B, 1, 2\n", "<answer>A, B, 1, 2</answer>", "N", "1e"])
def test_a_megabyte_of_anything_is_refused_at_once(unit):
    text = unit * (1_000_000 // len(unit))
    start = time.process_time()
    assert parse_answer(text) is None
    assert parse_answer(f"<answer>A, B, 1, {text}</answer>") is None
    assert time.process_time() - start < 20, "0.1 s of an idle core"


def test_text_writes_two_decimals_and_no_negative_zero():
    assert Answer("Spain", "Madrid", 40.4168, -3.7038).text() == "Spain, Madrid, 40.42, -3.70"
    assert Answer("Gabon", "", -0.001, 9.0).text() == "Gabon, , 0.00, 9.00"
    assert parse_answer(Answer("Gabon", "", -0.001, 9.0).text()) == Answer("Gabon", "", 0.0, 9.0)


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
    assert where_is([lat], [lon])[["code", "continent"]].values.tolist() == [[code, continent]]


def test_the_country_is_named_and_a_whole_country_is_on_one_continent():
    places = where_is([43.1155, 41.0082], [131.8855, 28.9784])  # Vladivostok, Istanbul
    assert places[["country", "continent"]].values.tolist() == [["Russia", "EU"], ["Turkey", "AS"]]


def test_no_country_owns_the_open_sea_the_pole_or_an_unknown_position():
    assert where_is([0.0, -90.0, np.nan, 48.9], [0.0, 0.0, 2.3, np.nan]).values.tolist() == [["", "", ""]] * 4
    assert len(where_is([], [])) == 0


def test_the_nearest_town_is_the_one_that_a_search_through_all_of_them_finds():
    lat, lon, codes = (geo.towns()[name].to_numpy() for name in ("lat", "lon", "code"))
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


def test_unit_vectors_are_on_the_axes_where_they_should():
    assert geo.unit_vectors([0, 0, 90], [0, 90, 0]) == pytest.approx(np.eye(3), abs=1e-12)
