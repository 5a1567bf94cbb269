"""How sure an agent is: several sampled answers a photo, their median, and a circle that should hold the truth.

The answers' spread says which photos are hard, but not how hard; and an agent that guesses may guess the same city
every time. So the radius is the spread times a factor, and the factor is measured on validation photos, apart for
answers that found evidence to trust and for guesses: split conformal prediction with a scaled error (Lei et al. 2018,
arxiv.org/abs/1604.04173, section 5.2), by group (Vovk et al., Algorithmic Learning in a Random World, 2005, chapter 4).
On new photos of the same kind it holds at least the share it promises, whatever the agent. The paper has one answer a
photo and no such radius.

    val = combine(sample_runs(agent, val_photos, search, k=8, temperature=0.7, folder="outputs/samples/val"))
    radius = calibrate(val)                                   # val only
    table = radius.of(combine(test_runs))                     # with radius_50_km and radius_90_km
    coverage(radius, table), risk_coverage(table)
"""

import copy
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from reverse_lib.evaluation.evaluate import evaluate
from reverse_lib.evaluation.metrics import check_same_photos, share
from reverse_lib.geo import HALF_CIRCUMFERENCE_KM, haversine_km, unit_vectors
from reverse_lib.photos import Photo
from reverse_lib.profiles import Judging
from reverse_lib.search import SearchBackend

_START_RAD = 0.01  # edge of the first simplex that looks for a median, 64 km


def sample_runs(
    agent: Callable,
    photos: Sequence[Photo],
    search: SearchBackend,
    k: int = 8,
    temperature: float | None = 0.7,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    **settings,
) -> list[pd.DataFrame]:
    """Let an agent answer every photo k times.

    Args:
        agent: One with a field `temperature`, such as `models.Agent`; it is not changed.
        photos: Photos with known places.
        search: What answers the searches; any backend.
        k: Answers a photo.
        temperature: Of the sampling; None leaves the agent as it is.
        seed: Of the sampling, where the agent is a torch model; run i has seed + i.
        folder: Each run gets a folder in it, and a run that was stopped goes on; see `evaluation.evaluate`.
        **settings: Further arguments of `evaluation.evaluate`.

    Returns:
        k tables of `evaluation.evaluate`.

    Raises:
        ValueError: k is below 2, or the agent has no temperature.
    """
    if k < 2:
        raise ValueError(f"sample_runs: k={k}; one answer has no spread, take at least 2")
    if temperature is not None:
        if not hasattr(agent, "temperature"):
            name = type(agent).__name__
            raise ValueError(f"sample_runs: {name} has no temperature; give temperature=None if it samples by itself")
        agent = copy.copy(agent)
        agent.temperature = temperature
    folders = [None if folder is None else Path(folder) / f"sample-{i:02d}" for i in range(k)]
    if not hasattr(getattr(agent, "model", None), "named_parameters"):
        return [evaluate(agent, photos, search, folder=place, **settings) for place in folders]
    import torch

    runs = []
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        for i, place in enumerate(folders):
            torch.manual_seed(seed + i)
            runs.append(evaluate(agent, photos, search, folder=place, **settings))
    return runs


def combine(runs: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One answer a photo out of several: the geodesic median of those that could be read.

    Args:
        runs: Tables of `evaluation.evaluate`, all of the same photos.

    Returns:
        A row a photo, in the order of the first table: photo_id, lat, lon (the truth), pred_lat, pred_lon (the
        median), km (its error), spread_km (median distance of the answers from it, to the metre), backed (share of the
        samples with a readable answer after some result was called useful), answers (that could be read), samples. NaN
        where no answer could be read; a sample whose search service failed doesn't count.

    Raises:
        ValueError: The tables are not of the same photos.
    """
    check_same_photos(runs)
    rows = []
    for photo_id, samples in pd.concat(runs).groupby("photo_id", sort=False):
        truth = samples[["lat", "lon"]].to_numpy(float)[0]
        samples = samples[samples["end"] != "service_error"]
        read = samples[samples["pred_lat"].notna()]
        answers = read[["pred_lat", "pred_lon"]].to_numpy(float).T  # (2, answers)
        lat, lon = geodesic_median(*answers) if len(read) else (np.nan, np.nan)
        rows.append(
            {
                "photo_id": photo_id,
                "lat": truth[0],
                "lon": truth[1],
                "pred_lat": lat,
                "pred_lon": lon,
                "km": float(haversine_km(lat, lon, *truth)),
                "spread_km": np.median(haversine_km(*answers, lat, lon)).round(3) if len(read) else np.nan,
                "backed": (read["trusted"] > 0).sum() / len(samples) if len(samples) else np.nan,
                "answers": len(read),
                "samples": len(samples),
            }
        )
    return pd.DataFrame(rows)


def geodesic_median(lat: Sequence[float], lon: Sequence[float]) -> tuple[float, float]:
    """The point with the smallest sum of great-circle distances to the given ones.

    Nelder and Mead's search from the best of the points, which is the answer where nothing nearby is better: at the
    median that is one of the points the sum has a corner, and methods that follow its slope don't settle there.

    Args:
        lat: Latitudes in degrees, shape (k,), k >= 1.
        lon: Longitudes in degrees, shape (k,).

    Returns:
        (lat, lon) in degrees.
    """
    from scipy.optimize import minimize

    points = unit_vectors(lat, lon)  # (k, 3)

    def total_rad(at: np.ndarray) -> float:
        return np.arctan2(np.linalg.norm(np.cross(points, at), axis=1), points @ at).sum()

    best = min(points, key=total_rad)
    around = best + np.vstack([np.zeros(3), _START_RAD * np.eye(3)])
    options = {"initial_simplex": around, "xatol": 1e-10, "fatol": 1e-15, "maxiter": 2000}
    best = min(best, minimize(total_rad, best, method="Nelder-Mead", options=options).x, key=total_rad)
    x, y, z = best
    return math.degrees(math.atan2(z, math.hypot(x, y))), math.degrees(math.atan2(y, x))


@dataclass(frozen=True)
class Radius:
    """How far around the median the truth is to be expected: a factor of the spread, calibrated on other photos.

    Attributes:
        scores: Error over spread (and 25 km) of the calibration photos, ascending, apart for guesses (False) and for
            photos at least half of whose samples are backed by a trusted result (True).
        photo_ids: The calibration photos, which must not be judged by it.
    """

    scores: Mapping[bool, tuple[float, ...]]
    photo_ids: frozenset[str] = field(repr=False)

    def factor(self, level: float, backed: bool) -> float:
        """The factor that holds a share `level` (0..1) of truths; infinite when the calibration photos are too few."""
        rank, scores = self._rank(level, backed), self.scores[backed]
        return scores[rank - 1] if rank <= len(scores) else math.inf

    def km(self, table: pd.DataFrame, level: float) -> np.ndarray:
        """Radii in km, shape (n,), of a table of `combine`: 20,015 km at most, NaN without an answer."""
        factors = np.where(_is_backed(table), self.factor(level, True), self.factor(level, False))
        return np.minimum(factors * _scale_km(table), HALF_CIRCUMFERENCE_KM)

    def of(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table of `combine` with the columns radius_50_km and radius_90_km."""
        return table.assign(**{f"radius_{100 * level:g}_km": self.km(table, level) for level in Judging.levels})

    def expected(self, level: float, table: pd.DataFrame) -> tuple[float, float]:
        """The middle 95 % of the share of truths that it holds in a table of this size, of photos of the same kind."""
        from scipy.stats import betabinom

        held = np.ones(1)  # probabilities of 0, 1, … truths held
        for backed in (False, True):
            n, rank = int((_is_backed(table) == backed).sum()), self._rank(level, backed)
            beyond = len(self.scores[backed]) + 1 - rank  # 0: too few to calibrate, the radius holds every truth
            chances = betabinom(n, rank, beyond).pmf(np.arange(n + 1)) if beyond else np.eye(1, n + 1, n)[0]
            held = np.convolve(held, chances)
        low, high = np.searchsorted(np.cumsum(held), [0.025, 0.975])
        return float(low / len(table)), float(high / len(table))

    def _rank(self, level: float, backed: bool) -> int:
        """Which of the calibration scores is the factor, from 1; one more than there are when they are too few."""
        if not 0 < level < 1:
            raise ValueError(f"level={level}: give a share between 0 and 1, such as 0.9")
        return math.ceil((len(self.scores[backed]) + 1) * level - 1e-9)


def _is_backed(table: pd.DataFrame) -> np.ndarray:
    return (table["backed"] >= 0.5).to_numpy()


def _scale_km(table: pd.DataFrame) -> np.ndarray:
    """What radii are a multiple of, (n,): answers that agree to the metre are not that sure."""
    return table["spread_km"].to_numpy(float) + Judging.floor_km


def calibrate(val: pd.DataFrame) -> Radius:
    """Measures on validation photos how far truths lie from the median, in units of the spread.

    A radius for 90 % needs 9 backed photos and 9 guesses; below that it is the whole Earth.

    Args:
        val: The table of `combine` for validation photos; never for those that will be judged. Photos without a
            readable answer tell nothing and are left out.

    Raises:
        ValueError: There is no photo with an answer.
    """
    answered = val[val["answers"] > 0]
    if not len(answered):
        raise ValueError("calibrate: no photo with an answer to calibrate on; combine the runs on val")
    scores, backed = answered["km"].to_numpy() / _scale_km(answered), _is_backed(answered)
    groups = {group: tuple(np.sort(scores[backed == group]).tolist()) for group in (False, True)}
    return Radius(groups, frozenset(val["photo_id"]))


def coverage(radius: Radius, table: pd.DataFrame, levels: Sequence[float] = Judging.levels) -> pd.DataFrame:
    """Whether the radius keeps its promise: the share of answered photos whose truth lies within it.

    Calibration photos are a sample too: where they and these are of one kind, the number of photos held is
    beta-binomial (Angelopoulos and Bates 2021, arxiv.org/abs/2107.07511, section 3.2), and the verdict asks whether the
    share found is within the middle 95 % of that.

    Args:
        radius: From `calibrate`.
        table: The table of `combine` for other photos.
        levels: Shares that the radius should hold.

    Returns:
        Index level; columns value, low, high (observed share, Wilson's 95 % interval), n, expected_low, expected_high
        (where it should lie), verdict ("as promised", "too narrow" or "too wide"), median_radius_km.

    Raises:
        ValueError: A photo was used for calibration, or none has an answer.
    """
    shared = sorted(radius.photo_ids & set(table["photo_id"]))
    if shared:
        raise ValueError(f"coverage: {len(shared)} photos were calibrated on ({shared[0]}, …); judge other photos")
    table = table[table["answers"] > 0]
    if not len(table):
        raise ValueError("coverage: no photo with an answer to judge; combine the runs on test photos")
    rows = {}
    for level in levels:
        km = radius.km(table, level)
        row = _share_of(table["km"].to_numpy() <= km)
        row["expected_low"], row["expected_high"] = radius.expected(level, table)
        narrow, wide = row["value"] < row["expected_low"], row["value"] > row["expected_high"]
        row["verdict"] = "too narrow" if narrow else "too wide" if wide else "as promised"
        rows[level] = row | {"median_radius_km": float(np.median(km))}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("level")


def risk_coverage(table: pd.DataFrame, by: str = "radius_90_km", samples: int = 500) -> pd.DataFrame:
    """How often the answers are wrong when only the surest are given.

    Source: Geifman and El-Yaniv 2017, arxiv.org/abs/1705.08500.

    Args:
        table: The table of `Radius.of`, or of `combine`.
        by: The column that says how unsure an answer is; photos of one value are answered together or in random order.
        samples: Bootstrap resamples.

    Returns:
        n rows, from the surest photo alone to all of them; columns coverage (share of photos answered), limit (the
        largest value of `by` among them), risk (share of the answered that are wrong), low, high (95 %, pointwise).
        Its attrs["aurc"] holds the mean risk over all coverages, the area under the curve: value, low, high, and what
        it would be in random order (`random`) and with every right answer first (`best`).

    Raises:
        ValueError: There is no photo.
    """
    table = table[table["samples"] > 0]
    n = len(table)
    if not n:
        raise ValueError("risk_coverage: no photo to judge; combine the runs on test photos")
    unsure = table[by].fillna(np.inf).to_numpy(float)
    order = np.argsort(unsure, kind="stable")
    wrong = (~(table["km"].to_numpy() <= Judging.near_km)).astype(float)[order]  # (n,)
    ends = np.flatnonzero(np.append(unsure[order][1:] != unsure[order][:-1], True))  # last photo of each value
    once = np.ones((1, n), int)
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), samples)  # (samples, n)
    (risk,), drawn = _risks(once, wrong, ends), _risks(draws, wrong, ends)
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    coverage = np.arange(1, n + 1) / n
    curve = pd.DataFrame({"coverage": coverage, "limit": unsure[order], "risk": risk, "low": low, "high": high})
    least, most = np.percentile(drawn.mean(1), [2.5, 97.5])
    best = _risks(once, np.sort(wrong), np.arange(n))
    areas = {"value": risk.mean(), "low": least, "high": most, "random": wrong.mean(), "best": best.mean()}
    curve.attrs["aurc"] = {name: float(area) for name, area in areas.items()}
    return curve


def _risks(counts: np.ndarray, wrong: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Risk at coverages 1/n … 1 for draws of photos, how often each: counts (draws, n), wrong (n,), ends of ties."""
    n = len(wrong)
    grid = np.arange(1, n + 1)
    answered = np.cumsum(counts, axis=1)[:, ends]
    errors = np.cumsum(counts * wrong, axis=1)[:, ends]
    rows = [np.interp(grid, [0, *a], [0, *e]) / grid for a, e in zip(answered, errors, strict=True)]
    return np.array(rows)  # (draws, n)


def limit_for(val: pd.DataFrame, risk: float, by: str = "radius_90_km") -> float:
    """The largest value of `by` up to which at most a share `risk` of validation answers is wrong, -inf if none is.

    Args:
        val: The table of `Radius.of`, or of `combine`, for validation photos; never for those that will be judged.
        risk: The share of wrong answers that is acceptable, 0..1.
        by: The column that says how unsure an answer is.
    """
    whole = risk_coverage(val, by, samples=1).groupby("limit").last()  # photos of one value are answered together
    limits = whole.index[(whole["risk"] <= risk) & np.isfinite(whole.index)]
    return float(limits.max()) if len(limits) else -math.inf


def abstain(table: pd.DataFrame, limit: float, by: str = "radius_90_km") -> pd.DataFrame:
    """What is left when the agent answers only where it is sure enough.

    Args:
        table: The table of `Radius.of`, or of `combine`.
        limit: Only photos with `by` up to this are answered, for example from `limit_for` on val.
        by: The column that says how unsure an answer is.

    Returns:
        Index "answered" (of all photos) and "wrong" (of the answered); columns value, low, high (Wilson's 95 %), n.
    """
    table = table[table["samples"] > 0]
    answered = table[by] <= limit
    rows = {"answered": _share_of(answered), "wrong": _share_of(~(table["km"][answered] <= Judging.near_km))}
    return pd.DataFrame.from_dict(rows, orient="index")


def _share_of(flags: np.ndarray | pd.Series) -> dict[str, float]:
    """The share of flags that are true, with its interval, and their number n."""
    return share(int(flags.sum()), len(flags)) | {"n": len(flags)}
