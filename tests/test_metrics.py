"""Metrics: a table worked by hand, SciPy's bootstrap and tests on the same data, a published table got back."""

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reverse_lib.evaluation import METRICS, compare, summarize, to_frame
from reverse_lib.evaluation.metrics import NO_DIFFERENCE, bootstrap, mcnemar, share
from reverse_lib.evaluation.published import published

KM_A_DEGREE = 6371.0088 * math.pi / 180  # along a meridian
LIMITS = (1, 25, 200, 750, 2500)


def table(km, **columns):
    """An evaluation frame with the errors given, in km; NaN for an answer that could not be read."""
    rows = dict.fromkeys(METRICS, 1.0) | {"country": "France", "pred_country": "France", "end": "answered"}
    return pd.DataFrame(
        {"photo_id": [f"p{i:04}" for i in range(len(km))], **rows, "km": np.array(km, float), **columns}
    )


@pytest.mark.parametrize("system", ["Geo-ADAPT", "GeoCLIP", "GLOBE"])
def test_a_published_row_comes_back_from_errors_that_have_its_distribution(system, make_trajectory):
    shares = published("im2gps3k").loc[system, [f"within_{limit}km" for limit in LIMITS]].to_numpy(float)
    counts = np.diff(np.round(np.concatenate([[0], shares, [1]]) * 1000)).astype(int)
    edges = list(pairwise([0.01, *LIMITS, 12_000]))
    rng = np.random.default_rng(0)
    km = [np.exp(rng.uniform(*np.log(edge), n)) for n, edge in zip(counts, edges, strict=True)]
    rows = [
        make_trajectory(f"p{i}", (-60.0, 2.0), f"X, Y, {d / KM_A_DEGREE - 60}, 2.0")
        for i, d in enumerate(np.concatenate(km))
    ]
    summary = summarize(to_frame(rows), samples=500)
    for limit, expected in zip(LIMITS, shares, strict=True):
        row = summary.loc[f"within_{limit}km"]
        assert row["value"] == pytest.approx(expected, abs=1e-9)
        assert row["high"] - row["low"] == pytest.approx(
            2 * 1.96 * math.sqrt(expected * (1 - expected) / 1000), rel=0.15
        )


def test_the_published_figures_are_those_of_the_papers_and_apply_to_their_benchmark_only():
    ours, other = published("im2gps3k"), published("yfcc4k")
    assert ours.loc["REVERSE 4B", ["within_1km", "within_25km"]].tolist() == [0.225, 0.483]
    assert ours.loc["REVERSE 4B, SFT only", "within_25km"] == 0.425 and math.isnan(
        ours.loc["REVERSE 4B", "within_200km"]
    )
    assert (
        other.loc["REVERSE 4B", "within_25km"] == 0.275
        and other.loc["REVERSE 4B, untuned base", "within_25km"] == 0.124
    )
    assert other.loc["SpotAgent", "within_2500km"] == 0.708 and "GLOBE" not in other.index
    assert "2605.26861" in ours.loc["REVERSE 4B", "source"] and len(published("world")) == 0


def test_mean_and_median_differ_where_they_should_and_an_unread_answer_is_half_the_globe():
    value = summarize(table([1, 2, 9, math.nan]))["value"]
    assert value["median_km"] == 5.5
    assert value["mean_km"] == pytest.approx((1 + 2 + 9 + math.pi * 6371.0088) / 4)


def test_country_and_continent_are_those_of_the_answered_position_whatever_it_is_called(make_trajectory):
    answers = [
        "France, Lille, 50.63, 3.06",
        "Belgium, Lille, 50.63, 3.06",
        "France, Gent, 51.05, 3.72",
        "France, X, 40.7, -74.0",
        None,
    ]
    frame = to_frame([make_trajectory(f"p{i}", answer=answer) for i, answer in enumerate(answers)])
    assert frame["country_of_position"].tolist() == [1, 1, 0, 0, 0]
    assert frame["continent"].tolist() == [1, 1, 1, 0, 0]
    value = summarize(frame)["value"]
    assert (value["country_of_position"], value["continent"], value["country"]) == (0.4, 0.6, 0.6)


def test_a_photo_at_sea_has_no_country_to_get_right(make_trajectory):
    frame = to_frame([make_trajectory(truth=(0.0, 0.0)), make_trajectory("p2")])
    assert frame["country_of_position"].isna().tolist() == [True, False]
    assert summarize(frame).loc["continent", "n"] == 1


def test_evidence_precision_and_recall_pool_the_searches_of_a_photo(make_trajectory):
    def row(trusts, useful=(False, True), **changes):
        made = make_trajectory()
        shown = made.steps[1].observation
        for result, flag in zip(shown.results, useful, strict=True):
            result["useful"] = flag
        vars(shown).update(changes)
        made.steps[2].text = made.steps[2].text.replace("<useful>[2]</useful>", trusts and f"<useful>{trusts}</useful>")
        frame = to_frame([made]).fillna(-1)
        return frame["evidence_precision"].item(), frame["evidence_recall"].item()

    assert row("[2]") == (1, 1) and row("[1, 2]") == (0.5, 1) and row("[1]") == (0, 0)
    assert row("[]") == (-1, 0) and row("") == (-1, 0)  # nothing called useful: no precision
    assert row("[]", useful=(False, False)) == (-1, -1) and row("[1]", useful=(False, False)) == (0, -1)
    assert row("[2, 7]") == (0.5, 1)  # a result that was never shown
    assert row("[2]", labelled=False) == (-1, -1) and row("[2]", repeated=True) == (-1, -1)


@pytest.mark.parametrize("average", [np.mean, np.median])
def test_an_interval_is_scipys_bootstrap_within_the_error_of_drawing(average):
    values = np.random.default_rng(3).lognormal(3, 1.5, 150)
    found = bootstrap(values, average, samples=10_000)
    other = stats.bootstrap((values,), average, n_resamples=10_000, method="percentile", rng=5).confidence_interval
    assert found["value"] == average(values)
    assert (found["low"], found["high"]) == pytest.approx((other.low, other.high), rel=0.03)


def test_mcnemars_p_is_the_binomial_sum_and_nearly_the_chi_square_of_the_textbook():
    difference = np.array([1.0] * 9 + [-1.0] * 2 + [0.0] * 30)
    found = mcnemar(difference)
    by_hand = 2 * sum(math.comb(11, k) for k in (0, 1, 2)) / 2**11
    assert (found["gained"], found["lost"]) == (9, 2) and found["p_mcnemar"] == pytest.approx(by_hand)
    many = mcnemar(np.repeat([1.0, -1.0, 0.0], [75, 59, 300]))["p_mcnemar"]
    assert many == pytest.approx(stats.chi2.sf((75 - 59 - 1) ** 2 / (75 + 59), 1), rel=0.02)  # Edwards' correction
    assert mcnemar(np.zeros(5))["p_mcnemar"] == 1.0


def test_a_comparison_counts_photos_gained_and_lost_at_each_threshold():
    before = [10] * 20 + [100] * 20
    after = [100] * 2 + [10] * 18 + [10] * 14 + [300] * 6
    found = compare(table(before), table(after))
    assert found.loc["within_25km", ["gained", "lost"]].tolist() == [14, 2]
    assert found.loc["within_25km", "p_mcnemar"] == pytest.approx(stats.binomtest(2, 16).pvalue)
    assert found.loc["within_25km", "verdict"] == "higher" and found.loc["within_200km", "verdict"] == "lower"
    assert found.loc["within_200km", ["gained", "lost"]].tolist() == [0, 6]
    assert found.loc["within_1km", "p_mcnemar"] == 1 and found.loc["within_1km", "verdict"] == NO_DIFFERENCE
    assert math.isnan(found.loc["mean_km", "p_mcnemar"]) and math.isnan(found.loc["reward", "gained"])


def test_a_few_photos_gained_and_none_lost_are_no_difference_although_the_interval_leaves_out_zero():
    after = [10] * 5 + [100] * 95
    row = compare(table([100] * 100), table(after), ["within_25km"], samples=2000).loc["within_25km"]
    assert row["low"] > 0 and row["p_mcnemar"] == pytest.approx(2 / 2**5)
    assert not row["shown"] and row["verdict"] == NO_DIFFERENCE


def test_nine_photos_are_too_few_to_show_anything():
    found = compare(table([100] * 9), table([10] * 9), ["within_25km", "mean_km"])
    assert not found["shown"].any() and found.loc["mean_km", "verdict"] == "9 photos are too few to tell"
    assert compare(table([100] * 10), table([10] * 10), ["mean_km"])["verdict"].tolist() == ["lower"]


def test_equal_runs_are_found_to_differ_about_as_rarely_as_the_level_says():
    rng = np.random.default_rng(0)
    shown = []
    for _ in range(200):
        before, after = (table(rng.choice([10, 100], 80)) for _ in range(2))
        shown.append(compare(before, after, ["within_25km"], samples=300)["shown"].item())
    assert np.mean(shown) < 0.08


def test_several_seeds_have_no_mcnemar_since_a_photo_counts_once():
    runs = [table([100] * 20), table([10] * 20)]
    found = compare([runs[0]] * 2, [runs[1]] * 2, ["within_25km"]).loc["within_25km"]
    assert math.isnan(found["p_mcnemar"]) and found["shown"] and found["n"] == 20


def test_photos_whose_service_failed_in_either_run_are_left_out_of_a_comparison():
    before = table([10] * 20, end=["service_error"] + ["answered"] * 19)
    after = table([math.nan] + [10] * 18 + [math.nan], end=["answered"] * 19 + ["service_error"])
    found = compare(before, after)
    assert found.loc["within_25km", ["value", "n"]].tolist() == [0, 18]


def test_a_table_that_holds_a_photo_twice_is_not_compared():
    twice = pd.concat([table([1, 2]), table([1])])
    with pytest.raises(ValueError, match="not of the same photos"):
        compare(twice, twice)


def test_a_table_without_the_newer_columns_is_summarized_with_these_unknown():
    old = table([1, 2]).drop(columns=["tokens", "seconds", "continent"])
    summary = summarize(old)
    assert (
        summary.loc[["tokens", "seconds", "continent"], "n"].tolist() == [0, 0, 0] and summary.loc["reward", "n"] == 2
    )


def test_a_share_has_wilsons_interval_also_at_its_ends():
    assert share(0, 20)["high"] == pytest.approx(1.959964**2 / (20 + 1.959964**2))
    assert share(0, 20)["low"] == 0 and share(20, 20)["high"] == 1 and math.isnan(share(0, 0)["value"])
