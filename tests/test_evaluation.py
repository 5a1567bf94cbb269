"""Evaluation: figures computed by hand, intervals against an independent bootstrap, and what counts as wrong."""

import dataclasses
import io
import math
import statistics

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from reverse_lib.environment import TINY
from reverse_lib.evaluation import METRICS, compare, evaluate, summarize, to_frame, to_json
from reverse_lib.evaluation.metrics import same_country
from reverse_lib.photos import Photo
from reverse_lib.search import SearchAnswer, SearchResult, ServiceError
from reverse_lib.show.story import narrate

SYDNEY = (-33.8688, 151.2093)


def table(km, **columns):
    """An evaluation frame with the errors given, in km; NaN for an answer that could not be read."""
    km = np.array(km, float)
    rows = {
        "km": km,
        "parsed": ~np.isnan(km),
        "country": "France",
        "pred_country": np.where(np.isnan(km), "", "France"),
        "format": 1.0,
        "box_iou": 0.5,
        "query_hit": 1.0,
        "evidence_mcc": 1.0,
        "calls_zoom": 1,
        "calls_image": 0,
        "calls_text": 2,
        "reward": 0.8,
        "end": "answered",
    }
    return pd.DataFrame({"photo_id": [f"p{i}" for i in range(len(km))], **rows, **columns})


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(buffer, "png")
    return buffer.getvalue()


class Scripted:
    """An agent that searches once, trusts the first result and answers Paris."""

    name = "scripted"

    def __call__(self, conversations):
        search = '<tool_call>{"name": "text_search_tool", "arguments": {"query": "Paris"}}</tool_call>'
        answer = "<useful>[1]</useful><answer>France, Paris, 48.8566, 2.3522</answer>"
        searched = [any(message["role"] == "tool" for message in talk) for talk in conversations]
        return [f"<think>Hm.</think>{answer if seen else search}" for seen in searched]


class OnePage:
    """A search backend that knows one page, which is useful; it can be told to fail for one photo."""

    def __init__(self, broken=""):
        self.broken = broken

    def text(self, photo_id, query, call=0):
        if photo_id == self.broken:
            raise ServiceError("search service: 503")
        page = SearchResult("Paris, France", "https://b.example", snippet="48.86, 2.35", useful=True)
        return SearchAnswer((page,), frozenset({1}))

    def image(self, photo_id, bbox_2d, call=0, crop=None):
        return None

    def evidence(self, photo_id):
        return ["https://b.example"]


def test_shares_median_and_score_equal_numbers_computed_by_hand():
    summary = summarize(table([0.5, 13, 100, 500, 2000, 5000, math.nan, 25]))
    value = summary["value"]
    assert value["within_1km"] == 1 / 8
    assert value["within_25km"] == 3 / 8  # exactly 25 km is within 25 km
    assert value["within_200km"] == 4 / 8
    assert value["within_750km"] == 5 / 8
    assert value["within_2500km"] == 6 / 8
    assert value["median_km"] == (100 + 500) / 2
    by_hand = sum(5000 * math.exp(-km / 1492.7) for km in (0.5, 13, 100, 500, 2000, 5000, 25)) / 8
    assert value["geoguessr_score"] == pytest.approx(by_hand)
    assert value["country"] == 7 / 8
    assert value["parsed"] == 7 / 8


def test_the_metrics_are_exactly_those_promised_to_readers_of_the_json():
    promised = """within_1km within_25km within_200km within_750km within_2500km median_km mean_km geoguessr_score
    country country_of_position continent parsed format box_iou query_hit evidence_precision evidence_recall
    evidence_mcc calls_zoom calls_image calls_text tokens seconds reward""".split()
    assert list(summarize(table([1.0])).index) == list(METRICS) == promised


def test_an_unparsed_answer_counts_as_half_the_globe_in_the_median():
    summary = summarize(table([10, math.nan, math.nan]))
    assert summary.loc["median_km", "value"] == pytest.approx(math.pi * 6371.0088, abs=0.1)
    assert summary.loc["median_km", "n"] == 3


def test_the_interval_agrees_with_an_independent_bootstrap():
    km = np.random.default_rng(7).lognormal(4, 2, 60)
    summary = summarize(table(km), seed=1, samples=4000)
    import random

    draw = random.Random(99)
    for metric, of_sample in {
        "within_25km": lambda sample: sum(x <= 25 for x in sample) / len(sample),
        "median_km": statistics.median,
    }.items():
        values = sorted(of_sample(draw.choices(list(km), k=60)) for _ in range(4000))
        low, high = values[100], values[3899]
        width = high - low
        assert summary.loc[metric, "low"] == pytest.approx(low, abs=0.12 * width)
        assert summary.loc[metric, "high"] == pytest.approx(high, abs=0.12 * width)


def test_the_interval_of_a_share_has_the_width_that_theory_gives():
    summary = summarize(table([10] * 48 + [100] * 52), samples=4000)
    row = summary.loc["within_25km"]
    expected = 1.96 * math.sqrt(0.48 * 0.52 / 100)
    assert row["value"] - row["low"] == pytest.approx(expected, abs=0.015)
    assert row["high"] - row["value"] == pytest.approx(expected, abs=0.015)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    frame = table(np.random.default_rng(0).lognormal(4, 2, 50))
    assert summarize(frame, seed=3).equals(summarize(frame, seed=3))
    assert (
        summarize(frame, seed=3).loc["geoguessr_score", "low"] != summarize(frame, seed=4).loc["geoguessr_score", "low"]
    )


def test_photos_without_labels_or_region_are_left_out_of_those_two_metrics_only():
    summary = summarize(table([1, 1, 1, 1], evidence_mcc=[1.0, 0.5, math.nan, math.nan], box_iou=math.nan))
    assert summary.loc["evidence_mcc", "value"] == 0.75
    assert summary.loc["evidence_mcc", "n"] == 2
    assert math.isnan(summary.loc["box_iou", "value"]) and summary.loc["box_iou", "n"] == 0
    assert summary.loc["reward", "n"] == 4


def test_photos_whose_service_failed_are_left_out_and_the_rest_says_how_many_remain():
    frame = table([1, 1, math.nan], end=["answered", "answered", "service_error"])
    summary = summarize(frame)
    assert summary.loc["within_1km", "value"] == 1.0
    assert summary.loc["parsed", "n"] == 2
    assert to_json(summary)["n"] == 2


def test_nothing_to_summarize_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="none of 1 photos can be scored"):
        summarize(table([math.nan], end="service_error"))


def test_json_has_null_where_a_metric_is_unknown():
    answer = to_json(summarize(table([1.0], box_iou=math.nan)))
    assert answer["metrics"]["box_iou"] == {"value": None, "low": None, "high": None}
    assert answer["metrics"]["within_1km"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_countries_are_compared_without_case_and_an_empty_answer_is_never_right():
    assert same_country(" FRANCE", "France")
    assert same_country("Co\u0302te d'Ivoire", "C\u00f4te d'Ivoire")
    assert not same_country("", "")
    assert not same_country("Niger", "Nigeria")


def test_a_trajectory_becomes_a_row_with_its_calls_error_and_reward(make_trajectory):
    row = to_frame([make_trajectory(answer="United Kingdom, London, 51.5074, -0.1278")]).iloc[0]
    assert row["km"] == pytest.approx(343.6, abs=0.2)
    assert (row["calls_zoom"], row["calls_image"], row["calls_text"]) == (1, 0, 1)
    assert row["evidence_mcc"] == 1.0
    assert row["box_iou"] == 1.0
    accuracy = 0.6 + (343.56 - 200) / (750 - 200) * (0.4 - 0.6)
    assert row["accuracy"] == pytest.approx(accuracy, abs=1e-3)
    assert row["reward"] == pytest.approx(0.6 * accuracy + 0.1 + 0.3 * (0.2 + 0.1 + 0.3), abs=1e-3)


def test_a_query_hits_where_a_text_search_brought_evidence_and_is_unknown_without_one(make_trajectory):
    hit, missed, unknown, silent, empty = (make_trajectory() for _ in range(5))
    for result in missed.steps[1].observation.results:
        result["useful"] = False
    unknown.steps[1].observation.labelled = False
    silent.steps[1].observation = dataclasses.replace(silent.steps[1].observation, tool="image_search_tool")
    empty.steps[1].observation = dataclasses.replace(
        hit.steps[1].observation, status="miss", results=[], labelled=False
    )
    frame = to_frame([hit, missed, unknown, silent, empty])
    assert frame["query_hit"].fillna(-1).tolist() == [1.0, 0.0, -1.0, -1.0, 0.0]
    assert (summarize(frame).loc["query_hit", ["value", "n"]] == [1 / 3, 3]).all()


def test_a_trajectory_without_answer_has_no_error_and_no_place(make_trajectory):
    row = to_frame([make_trajectory(answer=None)]).iloc[0]
    assert math.isnan(row["km"]) and math.isnan(row["pred_lat"])
    assert not row["parsed"] and row["pred_country"] == ""


def test_evaluate_runs_an_agent_over_photos_in_order():
    photos = [
        Photo("near", png(), 48.8566, 2.3522, "France", "Paris"),
        Photo("far", png(), *SYDNEY, "Australia", "Sydney"),
    ]
    frame = evaluate(Scripted(), photos, OnePage(), TINY)
    assert list(frame["photo_id"]) == ["near", "far"]
    assert frame["km"].tolist() == pytest.approx([0.0, 16_960], abs=15)
    assert frame["calls_text"].tolist() == [1, 1]
    assert frame["evidence_mcc"].tolist() == [1.0, 1.0]
    assert summarize(frame).loc["country", "value"] == 0.5


def test_a_failing_service_is_counted_and_never_scored():
    photos = [Photo(name, png(), 48.8566, 2.3522, "France", "Paris") for name in ("good", "bad")]
    frame = evaluate(Scripted(), photos, OnePage(broken="bad"), TINY).set_index("photo_id")
    assert frame.loc["bad", "end"] == "service_error"
    assert math.isnan(frame.loc["bad", "reward"])
    assert summarize(frame)["n"]["parsed"] == 1


def test_a_photo_without_known_place_is_refused_by_name():
    with pytest.raises(ValueError, match="mine: photo without known latitude"):
        evaluate(Scripted(), [Photo("mine", png())], OnePage())


def test_a_photo_given_twice_and_no_photo_at_all_are_refused():
    photo = Photo("p", png(), 1.0, 2.0)
    with pytest.raises(ValueError, match="occurs twice"):
        evaluate(Scripted(), [photo, photo], OnePage())
    with pytest.raises(ValueError, match="no photos"):
        evaluate(Scripted(), [], OnePage())


def test_the_story_names_what_was_searched_shown_trusted_and_answered(make_trajectory):
    story = narrate(make_trajectory(), in_words=str.upper)
    assert story[0] == "1. thinks: FRANCE? A SIGN."
    assert "   zooms into region [100, 200, 300, 400]" in story
    assert "   searches for “Paris France”" in story
    assert "     [1] Paris, Texas: 33.66, -95.56" in story
    assert "   trusts: [2] Paris, France" in story
    assert story[-1] == "   answers: France, Paris, 48.85, 2.35"


def test_a_thought_of_several_lines_stands_below_its_turn(make_trajectory):
    story = narrate(make_trajectory(), in_words=lambda think: think.replace(" ", "\n"))
    assert [line.strip() for line in story[:4]] == ["1. thinks:", "France?", "A", "sign."]


def test_the_largest_benchmark_is_summarized_in_seconds():
    import time

    start = time.process_time()
    summarize(table(np.random.default_rng(0).lognormal(4, 2, 4536)))
    assert time.process_time() - start < 20


def test_a_comparison_is_paired_by_photo_whatever_the_order():
    before = table([10, 100, 1000, np.nan], reward=[0.9, 0.5, 0.2, 0.0])
    after = table([10, 20, 1000, 10], reward=[0.9, 0.7, 0.2, 0.8])[::-1]
    found = compare(before, after)
    assert found.loc["reward", "value"] == pytest.approx((0 + 0.2 + 0 + 0.8) / 4)
    assert found.loc["within_25km", "value"] == 0.5 and found.loc["calls_text", "value"] == 0
    assert found.loc["parsed", "value"] == 0.25 and not found.loc["calls_text", "shown"]


def test_the_interval_of_a_comparison_is_scipys_paired_bootstrap():
    rng = np.random.default_rng(0)
    before = table(np.full(200, 10.0), reward=rng.random(200))
    after = table(np.full(200, 10.0), reward=before["reward"] + rng.normal(0.03, 0.1, 200))
    found = compare(before, after, ["reward"], samples=20_000).loc["reward"]
    difference = (after["reward"] - before["reward"]).to_numpy()
    other = stats.bootstrap((difference,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert (found["low"], found["high"]) == pytest.approx((other.low, other.high), abs=0.001)
    assert found["shown"] == (other.low > 0)


def test_seeds_are_averaged_photo_by_photo_before_photos_are_drawn():
    noisy = np.random.default_rng(1).normal(0, 1, 100)
    before = [table(np.full(100, 10.0), reward=np.zeros(100))] * 2
    after = [table(np.full(100, 10.0), reward=0.1 + sign * noisy) for sign in (1, -1)]
    found = compare(before, after, ["reward"]).loc["reward"]
    assert found["low"] == pytest.approx(0.1) and found["high"] == pytest.approx(0.1) and found["n"] == 100


def test_a_metric_that_a_photo_lacks_in_either_run_is_left_out_of_its_comparison():
    before = table([1, 1, 1], evidence_mcc=[0.5, np.nan, 0.1])
    after = table([1, 1, 1], evidence_mcc=[0.7, 0.9, np.nan])
    found = compare(before, after, ["evidence_mcc"]).loc["evidence_mcc"]
    assert found["value"] == pytest.approx(0.2) and found["n"] == 1


def test_tables_of_other_photos_are_not_compared():
    with pytest.raises(ValueError, match="not of the same photos"):
        compare(table([1, 2]), table([1, 2, 3]))
