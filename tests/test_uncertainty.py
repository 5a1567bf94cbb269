"""How sure an agent is: medians against a minimiser, radii on data of known distribution, curves worked by hand."""

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest
from environment_fakes import FakeSearch
from environment_fakes import photo as make_photo
from scipy import stats
from scipy.optimize import minimize

from reverse_lib.evaluation import abstain, calibrate, combine, coverage, limit_for, risk_coverage, sample_runs
from reverse_lib.evaluation.uncertainty import geodesic_median
from reverse_lib.geo import haversine_km
from reverse_lib.profiles import Judging

PHOTOS = [make_photo(f"p{i}") for i in range(4)]
HALF_GLOBE_KM = math.pi * 6371.0088


def table(km, spread_km, tag="t", backed=1.0):
    """A table of `combine` with the errors and spreads given; NaN for a photo without a readable answer."""
    km, spread_km = np.broadcast_arrays(np.array(km, float), np.array(spread_km, float))
    names = [f"{tag}{i}" for i in range(len(km))]
    columns = {"photo_id": names, "km": km, "spread_km": spread_km, "backed": backed}
    return pd.DataFrame(columns | {"answers": np.where(np.isnan(km), 0, 8), "samples": 8})


def drawn(n, seed, tag="t", factor=1.0):
    """Errors that are `factor` times the spread times a draw of the exponential distribution."""
    rng = np.random.default_rng(seed)
    spread = 10 ** rng.uniform(0, 3, n)
    return table(factor * spread * rng.exponential(1, n), spread, tag)


@pytest.mark.parametrize("scale_deg", [0.1, 3, 30])
def test_the_median_is_where_a_general_minimiser_finds_it(scale_deg):
    rng = np.random.default_rng(int(scale_deg * 10))
    for _ in range(6):
        k, centre = rng.integers(3, 9), rng.uniform([-50, -180], [50, 180])
        lat = np.clip(centre[0] + rng.normal(0, scale_deg, k), -89, 89)
        lon = (centre[1] + rng.normal(0, scale_deg, k) + 180) % 360 - 180

        def total_km(at, lat=lat, lon=lon):
            return haversine_km(lat, lon, at[0], (at[1] + 180) % 360 - 180).sum()

        options = {"xatol": 1e-8, "fatol": 1e-8, "maxiter": 2000}
        starts = list(zip(lat, lon, strict=True))
        best = min(minimize(total_km, start, method="Nelder-Mead", options=options).fun for start in starts)
        assert total_km(geodesic_median(lat, lon)) == pytest.approx(best, abs=2e-3)  # metres


def test_medians_that_need_no_search():
    assert geodesic_median([48.0], [2.0]) == pytest.approx((48, 2))
    assert geodesic_median([10, 20, 50], [5, 5, 5]) == pytest.approx((20, 5))  # along a meridian: the middle one
    assert geodesic_median([7, 7, 7, -60], [3, 3, 3, 120]) == pytest.approx((7, 3))  # most agree: no outlier moves it
    assert geodesic_median([10, -10, 0, 0], [179, 179, 169, -171]) == pytest.approx((0, 179), abs=1e-6)  # a cross
    lat, lon = geodesic_median([80, 80, 80], [0, 120, -120])
    assert lat == pytest.approx(90, abs=1e-6)  # around the pole
    lat, lon = geodesic_median([0, 0], [0, 180])  # antipodes: any point will do
    assert haversine_km(lat, lon, 0, 0) + haversine_km(lat, lon, 0, 180) == pytest.approx(HALF_GLOBE_KM)
    assert geodesic_median([0, 0.1, 0.1], [0, 1, -1]) == pytest.approx((0, 0), abs=1e-9)  # 168 degrees, above 120
    lat, _ = geodesic_median([0, 1, 1], [0, 1, -1])  # 90 degrees: inside the triangle
    assert 0.3 < lat < 0.5


def runs_of(*answers, end=None, trusted=None):
    """Runs of one photo at (0, 0) with the positions given; None for an unreadable answer."""
    rows = []
    for i, answer in enumerate(answers):
        lat, lon = answer or (np.nan, np.nan)
        row = {"photo_id": "p", "lat": 0.0, "lon": 0.0, "pred_lat": lat, "pred_lon": lon}
        row |= {"trusted": trusted[i] if trusted else 1, "end": end[i] if end else "answered"}
        rows.append(pd.DataFrame([row]))
    return rows


def test_answers_are_combined_into_their_median_and_what_cannot_be_used_is_left_out_and_counted():
    row = combine(runs_of((0, 1), (0, 2), (0, 6))).iloc[0]
    a_degree = HALF_GLOBE_KM / 180
    assert row[["pred_lat", "pred_lon"]].tolist() == pytest.approx([0, 2])
    assert row["km"] == pytest.approx(2 * a_degree) and row["spread_km"] == pytest.approx(a_degree, abs=1e-3)
    assert (row["answers"], row["samples"]) == (3, 3)
    row = combine(runs_of((0, 1), None, (0, 9), end=["answered", "format", "service_error"])).iloc[0]
    assert row[["pred_lon", "spread_km"]].tolist() == pytest.approx([1, 0], abs=1e-6)
    assert (row["answers"], row["samples"]) == (1, 2)
    row = combine(runs_of(None, None)).iloc[0]
    assert math.isnan(row["km"]) and math.isnan(row["spread_km"]) and row["answers"] == 0
    # backed: some result was trusted, and the answer could be read
    row = combine(runs_of((0, 1), (0, 1), (0, 1), None, trusted=[2, 0, 1, 1])).iloc[0]
    assert row["backed"] == 0.5 and row["spread_km"] == 0.0
    assert combine(runs_of((0, 1), (0, 1), end=["answered", "service_error"], trusted=[0, 1]))["backed"].item() == 0
    # photos are matched by id
    first = pd.concat([run.assign(photo_id=name) for name, run in zip("ab", runs_of((0, 1), (0, 5)), strict=True)])
    both = combine([first, first[::-1]])
    assert both["photo_id"].tolist() == ["a", "b"] and both["pred_lon"].tolist() == pytest.approx([1, 5])
    with pytest.raises(ValueError, match="not of the same photos"):
        combine([first, first[:1]])


@dataclass
class Guesser:
    """Answers at random around Valencia, as far as its temperature lets it."""

    temperature: float = 0.0
    name: str = "guesser"
    asked: list = field(default_factory=list)

    def __call__(self, conversations):
        self.asked += [self.temperature] * len(conversations)
        lat = 39 + self.temperature * np.random.default_rng(len(self.asked)).random(len(conversations))
        return [f"<think>Spain?</think><answer>Spain, Valencia, {x:.4f}, -0.38</answer>" for x in lat]


def test_samples_are_taken_at_the_temperature_and_leave_the_agent_as_it_was(tmp_path):
    agent = Guesser()
    runs = sample_runs(agent, PHOTOS, FakeSearch(), k=3, temperature=0.5, folder=tmp_path, batch_size=2)
    assert len(runs) == 3 and agent.temperature == 0.0 and set(agent.asked) == {0.5}
    assert combine(runs)["spread_km"].min() > 0
    again = sample_runs(agent, PHOTOS, FakeSearch(), k=3, temperature=0.5, folder=tmp_path, batch_size=2)
    assert len(agent.asked) == 12 and all(map(pd.DataFrame.equals, runs, again))


def test_an_agent_without_temperature_and_a_single_sample_are_refused():
    agent = Guesser().__call__
    with pytest.raises(ValueError, match="method has no temperature; give temperature=None"):
        sample_runs(agent, PHOTOS, FakeSearch())
    assert len(sample_runs(agent, PHOTOS, FakeSearch(), k=2, temperature=None)) == 2
    with pytest.raises(ValueError, match="k=1; one answer has no spread"):
        sample_runs(Guesser(), PHOTOS, FakeSearch(), k=1)


def test_the_draws_of_a_torch_model_follow_from_the_seed_and_touch_no_other_draw():
    torch = pytest.importorskip("torch")

    class Model(Guesser):
        def __call__(self, conversations):
            lat = 39 + torch.rand(len(conversations))
            return [f"<think>Spain?</think><answer>Spain, Valencia, {x:.4f}, -0.38</answer>" for x in lat.tolist()]

    agent = Model()
    agent.model = torch.nn.Linear(1, 1)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (sample_runs(agent, PHOTOS, FakeSearch(), k=2, seed=seed) for seed in (0, 0, 7))
    assert torch.rand(1) == expected
    lat = [[run["pred_lat"].tolist() for run in runs] for runs in (first, second, other)]
    assert lat[0] == lat[1] != lat[2] and lat[0][0] != lat[0][1]


def test_the_factor_is_the_rank_that_the_theorem_names():
    nine = calibrate(table(np.arange(1, 10) * 30.0, 5.0, "v"))  # scores 1 … 9, of spread and 25 km
    assert [nine.factor(level, True) for level in (0.5, 0.9, 0.91)] == [5, 9, math.inf]
    two = table([1.0, 1.0], [0.0, 75.0])
    assert nine.km(two, 0.5).tolist() == [125, 500] and nine.of(two)["radius_90_km"].tolist() == [225, 900]
    assert nine.km(two, 0.99) == pytest.approx([HALF_GLOBE_KM] * 2)
    assert np.isnan(nine.of(table([np.nan], np.nan))["radius_50_km"].item())
    with pytest.raises(ValueError, match="level=50"):
        nine.factor(50, True)


def test_guesses_have_a_factor_of_their_own():
    mixed = pd.concat([table([1, 2, 3], 0, "v"), table([100, 200, 300], 0, "g", backed=0.4)])
    radius = calibrate(mixed)
    both = pd.concat([table([1], 0, backed=0.5), table([1], 0, "u", backed=0.0)])
    assert radius.km(both, 0.5) == pytest.approx([2, 200])


def test_the_factor_of_a_known_distribution_is_its_quantile(monkeypatch):
    monkeypatch.setattr(Judging, "floor_km", 0.0)
    radius = calibrate(drawn(20_000, 1, "v"))
    assert radius.factor(0.5, True) == pytest.approx(math.log(2), rel=0.03)
    assert radius.factor(0.9, True) == pytest.approx(math.log(10), rel=0.03)


def both_kinds(n, seed, tag):
    """Two thirds backed answers, one third guesses that agree and are far off."""
    rng = np.random.default_rng(seed + 5000)
    guesses = table(rng.lognormal(6, 1, n // 3), 0.0, f"guess {tag}", backed=0.0)
    return pd.concat([drawn(n - n // 3, seed, tag), guesses])


def test_over_many_draws_the_radius_holds_the_share_it_promises_of_backed_answers_and_of_guesses():
    held, guesses, inside = {0.5: [], 0.9: []}, [], []
    for seed in range(150):
        radius, new = calibrate(both_kinds(89, seed, "v")), both_kinds(90, 1000 + seed, "t")  # 60 and 29 photos
        found = coverage(radius, new)
        inside += found["value"].between(found["expected_low"], found["expected_high"]).tolist()
        guesses.append(coverage(radius, new[new["backed"] == 0], [0.9])["value"].item())
        for level, shares in held.items():
            shares.append(found.loc[level, "value"])
    exact = {0.5: (60 * 31 / 61 + 30 * 15 / 30) / 90, 0.9: (60 * 55 / 61 + 30 * 27 / 30) / 90}
    for level, shares in held.items():
        assert np.mean(shares) == pytest.approx(exact[level], abs=4 * np.std(shares) / math.sqrt(150))
    assert np.mean(guesses) == pytest.approx(27 / 30, abs=4 * np.std(guesses) / math.sqrt(150))
    assert 0.93 < np.mean(inside) <= 1


def test_the_radius_of_an_agent_that_became_worse_is_found_too_narrow_and_of_a_better_one_too_wide():
    radius = calibrate(drawn(300, 1, "v"))
    found = {factor: coverage(radius, drawn(300, 3, factor=factor)) for factor in (0.3, 1.0, 3.0)}
    verdicts = {factor: set(rows["verdict"]) for factor, rows in found.items()}
    assert verdicts == {0.3: {"too wide"}, 1.0: {"as promised"}, 3.0: {"too narrow"}}
    row = found[3.0].loc[0.9]
    interval = stats.binomtest(round(row["value"] * 300), 300).proportion_ci(method="wilson")
    assert (row["low"], row["high"], row["n"]) == pytest.approx((interval.low, interval.high, 300))
    law = stats.betabinom(300, 271, 30)  # of 301 ranks the 271st
    assert row["expected_low"] == law.ppf(0.025) / 300 and row["expected_high"] == law.ppf(0.975) / 300


def test_photos_without_a_readable_answer_have_no_radius_and_are_counted_by_n_alone():
    lost = table([np.nan] * 20, np.nan, "lost", backed=0.0)
    assert calibrate(pd.concat([drawn(80, 1, "v"), lost])).scores == calibrate(drawn(80, 1, "v")).scores
    found = coverage(calibrate(drawn(80, 1, "v")), pd.concat([table([1.0], [10.0]), lost]))
    assert found.loc[0.9, ["value", "n"]].tolist() == [1, 1]


def test_a_kind_that_val_has_too_few_of_gets_the_whole_earth_which_always_holds():
    radius = calibrate(drawn(80, 1, "v"))
    found = coverage(radius, table([15_000.0] * 30, 0.0, backed=0.0))
    assert found.loc[0.9, ["value", "expected_low", "expected_high"]].tolist() == [1, 1, 1]
    assert found.loc[0.9, "median_radius_km"] == pytest.approx(HALF_GLOBE_KM)


def test_a_photo_that_was_calibrated_on_is_not_judged():
    val = drawn(50, 1, "v")
    with pytest.raises(ValueError, match=r"50 photos were calibrated on \(v0, …\)"):
        coverage(calibrate(val), val)
    for none in (val[:0], table([np.nan], np.nan)):
        with pytest.raises(ValueError, match="no photo with an answer to calibrate on"):
            calibrate(none)
        with pytest.raises(ValueError, match="no photo with an answer to judge"):
            coverage(calibrate(val), none)
    with pytest.raises(ValueError, match="no photo to judge"):
        risk_coverage(val[:0])


def test_a_risk_coverage_curve_worked_by_hand():
    curve = risk_coverage(table([1, 100, 2, 100], [1, 2, 3, np.nan]), by="spread_km", samples=100)
    assert curve["coverage"].tolist() == [0.25, 0.5, 0.75, 1.0] and curve["limit"].tolist() == [1, 2, 3, math.inf]
    assert curve["risk"].tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    area = curve.attrs["aurc"]
    assert area["value"] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert area["random"] == 0.5 and area["best"] == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)


def test_photos_that_are_equally_sure_are_answered_in_random_order():
    curve = risk_coverage(table([1, 100, 100, 1, 100], [1, 5, 5, 5, 5]), by="spread_km", samples=100)
    assert curve["risk"].tolist() == pytest.approx([0, 0.75 / 2, 1.5 / 3, 2.25 / 4, 3 / 5])
    flat = risk_coverage(table([1, 100, np.nan], 7.0), by="spread_km", samples=10)
    assert flat["risk"].tolist() == pytest.approx([2 / 3] * 3)
    assert flat.attrs["aurc"]["value"] == flat.attrs["aurc"]["random"]


def test_the_interval_of_the_area_is_scipys_bootstrap():
    rng = np.random.default_rng(2)
    spread = rng.permutation(200) + 1.0
    km = np.where(rng.random(200) < spread / 250, 100.0, 1.0)

    def area(spread, km):
        wrong = (km > 25)[np.argsort(spread, kind="stable")]
        return np.mean(np.cumsum(wrong) / np.arange(1, len(wrong) + 1))

    found = risk_coverage(table(km, spread), by="spread_km", samples=3000).attrs["aurc"]
    other = stats.bootstrap(
        (spread, km), area, paired=True, vectorized=False, n_resamples=3000, method="percentile", rng=1
    )
    assert found["value"] == pytest.approx(area(spread, km))
    interval = other.confidence_interval
    width = interval.high - interval.low
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high), abs=0.06 * width)


def test_an_agent_abstains_where_its_radius_is_wide_and_the_limit_comes_from_val():
    val = table([1, 2, 100, 3, 100, 100], 0, "v").assign(radius_90_km=[2, 4, 6, 8, 10, 12])
    limit = limit_for(val, 0.25)
    assert limit == 8  # of the four surest, one is wrong
    assert limit_for(val, 0.0) == 4 and limit_for(val, 1.0) == 12
    assert limit_for(table([100], [1], "v"), 0.1, by="spread_km") == -math.inf
    test = table([1, 100, 1, 1, np.nan], 0).assign(radius_90_km=[2, 4, 9, 8, np.nan])
    left = abstain(test, limit)
    assert left["value"].tolist() == [3 / 5, 1 / 3] and left["n"].tolist() == [5, 3]
    nobody = abstain(test, -math.inf)
    assert nobody.loc["answered", "value"] == 0 and math.isnan(nobody.loc["wrong", "value"])
    val = table([1, 1, 100, 1], [1, 2, 2, 2], "v")  # photos that are equally sure are not parted
    assert limit_for(val, 0.2, by="spread_km") == 1 and limit_for(val, 0.25, by="spread_km") == 2
