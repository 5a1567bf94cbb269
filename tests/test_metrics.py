"""Metrics: tables worked by hand, SciPy's bootstrap and tests on the same data, figures of the papers."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reverse_lib.evaluation import METRICS, compare, published, summarize, to_frame, to_json
from reverse_lib.evaluation.metrics import NO_DIFFERENCE, mcnemar, same_country, share

HALF_GLOBE_KM = math.pi * 6371.0088


def table(km, **columns):
    """An evaluation frame with the errors given, in km; NaN for an answer that could not be read."""
    km = np.array(km, float)
    parsed = ~np.isnan(km)
    rows = dict.fromkeys(METRICS, 1.0) | {"country": "France", "end": "answered", "parsed": parsed, "km": km}
    rows |= {"photo_id": [f"p{i:04}" for i in range(len(km))], "pred_country": np.where(parsed, "France", "")}
    return pd.DataFrame(rows | columns)


def test_shares_averages_and_score_equal_numbers_computed_by_hand():
    value = summarize(table([0.5, 13, 100, 500, 2000, 5000, math.nan, 25]))["value"]
    shares = [value[f"within_{km}km"] for km in (1, 25, 200, 750, 2500)]
    assert shares == [1 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8]  # exactly 25 km is within 25 km
    assert value["median_km"] == (100 + 500) / 2
    by_hand = sum(5000 * math.exp(-km / 1492.7) for km in (0.5, 13, 100, 500, 2000, 5000, 25)) / 8
    assert value["geoguessr_score"] == pytest.approx(by_hand)
    assert value["country"] == value["parsed"] == 7 / 8
    value = summarize(table([1, 2, 9, math.nan]))["value"]
    assert value["median_km"] == 5.5 and value["mean_km"] == pytest.approx((1 + 2 + 9 + HALF_GLOBE_KM) / 4)
    unread = summarize(table([10, math.nan, math.nan])).loc["median_km"]
    assert unread["value"] == pytest.approx(HALF_GLOBE_KM) and unread["n"] == 3


def test_the_metrics_are_exactly_those_promised_to_readers_of_the_json():
    promised = """within_1km within_25km within_200km within_750km within_2500km median_km mean_km geoguessr_score
    country country_of_position continent parsed format box_iou query_hit evidence_precision evidence_recall
    evidence_mcc calls_zoom calls_image calls_text tokens seconds reward""".split()
    assert list(summarize(table([1.0])).index) == list(METRICS) == promised


@pytest.mark.parametrize(
    ("metric", "average", "values"),
    [
        ("within_25km", np.mean, lambda km: km <= 25),
        ("median_km", np.median, lambda km: km),
        ("mean_km", np.mean, lambda km: km),
    ],
)
def test_an_interval_is_scipys_bootstrap_within_the_error_of_drawing(metric, average, values):
    km = np.random.default_rng(3).lognormal(3, 1.5, 150)
    row = summarize(table(km), samples=10_000).loc[metric]
    other = stats.bootstrap((values(km),), average, n_resamples=10_000, method="percentile", rng=5).confidence_interval
    assert row["value"] == average(values(km))
    assert (row["low"], row["high"]) == pytest.approx((other.low, other.high), rel=0.03)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    frame = table(np.random.default_rng(0).lognormal(4, 2, 50))
    first, same, other = (summarize(frame, seed=seed) for seed in (3, 3, 4))
    assert first.equals(same) and first.loc["geoguessr_score", "low"] != other.loc["geoguessr_score", "low"]


def test_what_is_not_known_of_a_photo_is_left_out_of_that_metric_and_null_in_json():
    summary = summarize(table([1, 1, 1, 1], evidence_mcc=[1.0, 0.5, math.nan, math.nan], box_iou=math.nan))
    assert summary.loc["evidence_mcc", ["value", "n"]].tolist() == [0.75, 2]
    assert math.isnan(summary.loc["box_iou", "value"]) and summary.loc["box_iou", "n"] == 0
    assert summary.loc["reward", "n"] == 4
    metrics = to_json(summary)["metrics"]
    assert metrics["box_iou"] == {"value": None, "low": None, "high": None}
    assert metrics["within_1km"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    older = summarize(table([1, 2]).drop(columns=["tokens", "seconds", "continent"]))
    assert older.loc[["tokens", "seconds", "continent", "reward"], "n"].tolist() == [0, 0, 0, 2]


def test_photos_whose_service_failed_are_left_out_and_the_rest_says_how_many_remain():
    summary = summarize(table([1, 1, math.nan], end=["answered", "answered", "service_error"]))
    assert summary.loc["within_1km", "value"] == 1.0
    assert summary.loc["parsed", "n"] == to_json(summary)["n"] == 2
    with pytest.raises(ValueError, match="none of 1 photos can be scored"):
        summarize(table([math.nan], end="service_error"))


def test_countries_are_compared_without_case_and_an_empty_answer_is_never_right():
    assert same_country(" FRANCE", "France")
    assert same_country("Co\u0302te d'Ivoire", "C\u00f4te d'Ivoire")
    assert not same_country("", "") and not same_country("Niger", "Nigeria")


def test_country_and_continent_are_those_of_the_answered_position_whatever_it_is_called(make_trajectory):
    answers = ["France, Lille, 50.63, 3.06", "Belgium, Lille, 50.63, 3.06", "France, Gent, 51.05, 3.72"]
    answers += ["France, X, 40.7, -74.0", None]
    frame = to_frame([make_trajectory(f"p{i}", answer=answer) for i, answer in enumerate(answers)])
    assert frame["country_of_position"].tolist() == [1, 1, 0, 0, 0]
    assert frame["continent"].tolist() == [1, 1, 1, 0, 0]
    value = summarize(frame)["value"]
    assert (value["country_of_position"], value["continent"], value["country"]) == (0.4, 0.6, 0.6)
    at_sea = to_frame([make_trajectory(truth=(0.0, 0.0)), make_trajectory("p2")])
    assert at_sea["country_of_position"].isna().tolist() == [True, False]
    assert summarize(at_sea).loc["continent", "n"] == 1


def test_the_published_figures_are_those_of_the_papers_and_apply_to_their_benchmark_only():
    ours, other = published("im2gps3k"), published("yfcc4k")
    assert ours.loc["REVERSE 4B", ["within_1km", "within_25km"]].tolist() == [0.225, 0.483]
    assert math.isnan(ours.loc["REVERSE 4B", "within_200km"])
    assert ours.loc["REVERSE 4B, SFT only", "within_25km"] == 0.425
    assert other.loc[["REVERSE 4B", "REVERSE 4B, untuned base"], "within_25km"].tolist() == [0.275, 0.124]
    assert other.loc["SpotAgent", "within_2500km"] == 0.708 and "GLOBE" not in other.index
    assert "2605.26861" in ours.loc["REVERSE 4B", "source"] and len(published("world")) == 0


def test_mcnemars_p_is_the_binomial_sum_and_nearly_the_chi_square_of_the_textbook():
    few = mcnemar(np.repeat([1.0, -1.0, 0.0], [9, 2, 30]))
    by_hand = 2 * sum(math.comb(11, k) for k in (0, 1, 2)) / 2**11
    assert (few["gained"], few["lost"]) == (9, 2) and few["p_mcnemar"] == pytest.approx(by_hand)
    many = mcnemar(np.repeat([1.0, -1.0, 0.0], [75, 59, 300]))["p_mcnemar"]
    assert many == pytest.approx(stats.chi2.sf((75 - 59 - 1) ** 2 / (75 + 59), 1), rel=0.02)  # Edwards' correction
    assert mcnemar(np.zeros(5))["p_mcnemar"] == 1.0


def test_a_share_has_wilsons_interval_also_at_its_ends():
    z2 = 1.959964**2
    assert share(0, 20) == {"value": 0, "low": 0, "high": pytest.approx(z2 / (20 + z2))} and share(20, 20)["high"] == 1
    middle, half = (0.5 + z2 / 8) / (1 + z2 / 4), (z2 * (0.25 / 4 + z2 / 64)) ** 0.5 / (1 + z2 / 4)
    assert (share(2, 4)["low"], share(2, 4)["high"]) == pytest.approx((middle - half, middle + half), abs=1e-6)
    assert math.isnan(share(0, 0)["value"])


def test_a_comparison_is_paired_by_photo_whatever_the_order():
    before = table([10, 100, 1000, np.nan], reward=[0.9, 0.5, 0.2, 0.0])
    after = table([10, 20, 1000, 10], reward=[0.9, 0.7, 0.2, 0.8])[::-1]
    changes = compare(before, after)
    assert changes.loc["reward", "value"] == pytest.approx((0 + 0.2 + 0 + 0.8) / 4)
    assert changes.loc["within_25km", "value"] == 0.5 and changes.loc["calls_text", "value"] == 0
    assert changes.loc["parsed", "value"] == 0.25 and not changes.loc["calls_text", "shown"]


def test_the_interval_of_a_comparison_is_scipys_paired_bootstrap():
    rng = np.random.default_rng(0)
    before = table(np.full(200, 10.0), reward=rng.random(200))
    after = table(np.full(200, 10.0), reward=before["reward"] + rng.normal(0.03, 0.1, 200))
    row = compare(before, after, ["reward"], samples=20_000).loc["reward"]
    difference = (after["reward"] - before["reward"]).to_numpy()
    other = stats.bootstrap((difference,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert (row["low"], row["high"]) == pytest.approx((other.low, other.high), abs=0.001)
    assert row["shown"] == (other.low > 0)


def test_seeds_are_averaged_photo_by_photo_before_photos_are_drawn_and_have_no_mcnemar():
    noisy = np.random.default_rng(1).normal(0, 1, 100)
    before = [table(np.full(100, 100.0), reward=0.0)] * 2
    after = [table(np.full(100, 10.0), reward=0.1 + sign * noisy) for sign in (1, -1)]
    changes = compare(before, after, ["reward", "within_25km"])
    assert changes.loc["reward", ["low", "high", "n"]].tolist() == pytest.approx([0.1, 0.1, 100])
    near = changes.loc["within_25km"]  # a photo counts once
    assert math.isnan(near["p_mcnemar"]) and near["shown"] and near["n"] == 100


def test_what_either_run_does_not_know_of_a_photo_is_left_out_of_its_comparison():
    before = table([1, 1, 1], evidence_mcc=[0.5, np.nan, 0.1])
    row = compare(before, table([1, 1, 1], evidence_mcc=[0.7, 0.9, np.nan]), ["evidence_mcc"]).loc["evidence_mcc"]
    assert row["value"] == pytest.approx(0.2) and row["n"] == 1
    before = table([10] * 20, end=["service_error"] + ["answered"] * 19)
    after = table([math.nan] + [10] * 18 + [math.nan], end=["answered"] * 19 + ["service_error"])
    assert compare(before, after).loc["within_25km", ["value", "n"]].tolist() == [0, 18]


def test_tables_of_other_photos_or_with_a_photo_twice_are_not_compared():
    twice = pd.concat([table([1, 2]), table([1])])
    for before, after in ((table([1, 2]), table([1, 2, 3])), (twice, twice)):
        with pytest.raises(ValueError, match="not of the same photos"):
            compare(before, after)


def test_a_comparison_counts_photos_gained_and_lost_at_each_threshold():
    before = [10] * 20 + [100] * 20
    after = [100] * 2 + [10] * 18 + [10] * 14 + [300] * 6
    changes = compare(table(before), table(after))
    near, far = changes.loc["within_25km"], changes.loc["within_200km"]
    assert (near["gained"], near["lost"], near["verdict"]) == (14, 2, "higher")
    assert near["p_mcnemar"] == pytest.approx(stats.binomtest(2, 16).pvalue)
    assert (far["gained"], far["lost"], far["verdict"]) == (0, 6, "lower")
    assert changes.loc["within_1km", "p_mcnemar"] == 1 and changes.loc["within_1km", "verdict"] == NO_DIFFERENCE
    assert math.isnan(changes.loc["mean_km", "p_mcnemar"]) and math.isnan(changes.loc["reward", "gained"])


def test_a_few_photos_gained_and_none_lost_are_no_difference_although_the_interval_leaves_out_zero():
    row = compare(table([100] * 100), table([10] * 5 + [100] * 95), ["within_25km"]).loc["within_25km"]
    assert row["low"] > 0 and row["p_mcnemar"] == pytest.approx(2 / 2**5)
    assert not row["shown"] and row["verdict"] == NO_DIFFERENCE


def test_nine_photos_are_too_few_to_show_anything():
    changes = compare(table([100] * 9), table([10] * 9), ["within_25km", "mean_km"])
    assert not changes["shown"].any() and changes.loc["mean_km", "verdict"] == "9 photos are too few to tell"
    assert compare(table([100] * 10), table([10] * 10), ["mean_km"])["verdict"].tolist() == ["lower"]


def test_equal_runs_are_found_to_differ_about_as_rarely_as_the_level_says():
    rng = np.random.default_rng(0)
    pairs = [[table(rng.choice([10, 100], 80)) for _ in range(2)] for _ in range(200)]
    shown = [compare(*pair, ["within_25km"], samples=200)["shown"].item() for pair in pairs]
    assert np.mean(shown) < 0.08
