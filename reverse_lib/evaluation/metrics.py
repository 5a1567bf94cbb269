"""The figures of an evaluation with 95 % intervals, and whether two runs really differ.

What differs from the paper's tables (section 4, experiments): every figure carries a bootstrap interval over photos,
photos whose search service failed are left out and counted instead of scored as zero, and two runs are compared photo
by photo.

    summary = summarize(frame)              # index metric; value, low, high, n
    changes = compare(before, after)        # the same photos before and after: value, low, high, …, verdict
"""

import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from reverse_lib.geo import HALF_CIRCUMFERENCE_KM, THRESHOLDS_KM, geoguessr_score, within
from reverse_lib.profiles import EvaluationConfig, Judging

LABELS = {
    **{f"within_{km}km": f"within {km:,} km" for km in THRESHOLDS_KM},
    "median_km": "median error, km",
    "mean_km": "mean error, km",
    "geoguessr_score": "GeoGuessr score",
    "country": "right country",
    "country_of_position": "position in the right country",
    "continent": "position on the right continent",
    "parsed": "answer readable",
    "format": "format",
    "box_iou": "box IoU",
    "query_hit": "queries that find evidence",
    "evidence_precision": "evidence precision",
    "evidence_recall": "evidence recall",
    "evidence_mcc": "evidence MCC",
    "calls_zoom": "zooms a photo",
    "calls_image": "image searches a photo",
    "calls_text": "text searches a photo",
    "tokens": "tokens written a photo",
    "seconds": "seconds of writing a photo",
    "reward": "reward",
}
"""Every metric, in order, and what tables call it."""
METRICS = tuple(LABELS)
NO_DIFFERENCE = "no difference shown at this size"
_YES_OR_NO = (*METRICS[: len(THRESHOLDS_KM)], "country", "country_of_position", "continent", "parsed")
_UNTESTED = {"gained": np.nan, "lost": np.nan, "p_mcnemar": np.nan}
_UNKNOWN = {"value": np.nan, "low": np.nan, "high": np.nan}
_SAMPLES = EvaluationConfig.bootstrap


def summarize(frame: pd.DataFrame, seed: int = 0, samples: int = _SAMPLES) -> pd.DataFrame:
    """Every metric with its 95 % percentile bootstrap interval over photos.

    An answer that could not be read counts as wrong: outside every threshold, score 0, wrong country and continent, and
    20,015 km (half the Earth's circumference) in median and mean. `country` compares the answered country's name with
    the true one; `country_of_position` and `continent` compare where the answered and the true position lie
    (`geo.where_is`). Some metrics average fewer photos, see column n: `box_iou` those with an informative region,
    `query_hit` (whether a text search brought useful evidence) those with a text search whose results are labelled,
    `evidence_precision` those that called a labelled result useful, `evidence_recall` those that were shown a useful
    one, `evidence_mcc` those whose searches were labelled, `tokens` (written by the agent) and `seconds` (that its
    writing took) those of which it is known. Rows whose search service failed are left out.

    Args:
        frame: The table of `evaluate`.
        seed: Of the resampling; the same seed gives the same interval.
        samples: Bootstrap resamples.

    Returns:
        Index metric (in the order of METRICS); columns value, low, high, n (photos that count).

    Raises:
        ValueError: No row is left to summarize.
    """
    if not len(frame) or (frame["end"] == "service_error").all():
        raise ValueError(f"summarize: none of {len(frame)} photos can be scored; check the search service")
    rows = {}
    for name, values in per_photo(frame).items():
        known = values[np.isfinite(values)]
        average = np.median if name == "median_km" else np.mean
        rows[name] = {**bootstrap(known, average, seed, samples), "n": len(known)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("metric").astype({"n": int})


def compare(
    before: pd.DataFrame | Sequence[pd.DataFrame],
    after: pd.DataFrame | Sequence[pd.DataFrame],
    metrics: Sequence[str] = METRICS,
    seed: int = 0,
    samples: int = _SAMPLES,
) -> pd.DataFrame:
    """What changed between two runs on the same photos: the mean difference with its paired 95 % bootstrap interval.

    A photo's differences over several pairs of runs (training seeds) are averaged first; photos are then drawn with
    replacement, so the interval tells of other photos, not of other seeds. What a photo answers by yes or no also gets
    McNemar's exact test, which asks whether as many photos were gained as lost (doi.org/10.1007/BF02295996). One in
    twenty comparisons of equal runs shows a difference: of many, believe those that you asked for beforehand.

    Args:
        before: The table of `evaluate`, or one a seed.
        after: As many tables, of the same photos.
        metrics: Names out of METRICS; "median_km" and "mean_km" both become the mean difference of the errors in km.
        seed: Of the resampling.
        samples: Bootstrap resamples.

    Returns:
        Index metric; columns value, low, high (after minus before), n (photos on which both are known); gained, lost
        (photos that turned from no to yes, and back) and p_mcnemar, NaN for other metrics and for several seeds; shown
        (the interval leaves out 0, p_mcnemar is below 0.05 where there is one, and there are at least 10 photos);
        verdict: the same in words.

    Raises:
        ValueError: The tables are not of the same photos, or not as many.
    """
    pairs = [(before, after)] if isinstance(before, pd.DataFrame) else list(zip(before, after, strict=True))
    check_same_photos([frame for pair in pairs for frame in pair])
    photos = [[per_photo(frame.sort_values("photo_id")) for frame in pair] for pair in pairs]
    rows = {}
    for name in metrics:
        differences = np.array([new[name] - old[name] for old, new in photos])  # (seeds, photos)
        mean = pd.DataFrame(differences).mean().dropna().to_numpy()  # (photos known in both,), over the seeds
        tested = mcnemar(mean) if name in _YES_OR_NO and len(pairs) == 1 else _UNTESTED
        rows[name] = _judged({**bootstrap(mean, np.mean, seed, samples), "n": len(mean), **tested})
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("metric").astype({"n": int, "shown": bool})


def check_same_photos(frames: Sequence[pd.DataFrame]) -> None:
    """Refuses tables that are not of the same photos, or that hold a photo twice."""
    ids = sorted(frames[0]["photo_id"])
    if any(sorted(frame["photo_id"]) != ids for frame in frames) or len(set(ids)) < len(ids):
        raise ValueError("the tables are not of the same photos; ask for all of them with one list of photos")


def per_photo(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """The number each photo puts into each metric: arrays (photos,), NaN where it doesn't apply or a service failed."""
    km = frame["km"].to_numpy(float)
    full_km = np.where(np.isnan(km), HALF_CIRCUMFERENCE_KM, km)
    columns = dict(zip(METRICS, within(km).T.astype(float), strict=False))  # the first metrics are the thresholds
    columns["median_km"] = columns["mean_km"] = full_km
    columns["geoguessr_score"] = geoguessr_score(km)
    columns["country"] = np.array(
        [same_country(a, b) if b else np.nan for a, b in zip(frame["pred_country"], frame["country"], strict=True)],
        float,
    )
    unknown = pd.Series(np.nan, frame.index)  # tables of other programs need not hold every column
    served = frame["end"].to_numpy() != "service_error"
    values = {name: columns[name] if name in columns else frame.get(name, unknown).to_numpy(float) for name in METRICS}
    return {name: np.where(served, numbers, np.nan) for name, numbers in values.items()}


def same_country(answered: str, truth: str) -> bool:
    """Whether two country names are the same but for case, accents' encoding and outer spaces; empty never is."""
    left, right = (unicodedata.normalize("NFKC", name).casefold().strip() for name in (answered, truth))
    return bool(left) and left == right


def bootstrap(
    known: np.ndarray, average: Callable = np.mean, seed: int = 0, samples: int = _SAMPLES
) -> dict[str, float]:
    """Value, low and high: an average of known (n,), with the 95 % percentile interval over draws with replacement.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. Not `scipy.stats.bootstrap`: it
    draws other photos for the same seed, and published intervals would move.
    """
    if not len(known):
        return _UNKNOWN
    generator = np.random.default_rng(seed)
    picks = generator.integers(0, len(known), (samples, len(known)), dtype=np.int32)  # (samples, n)
    low, high = np.percentile(average(known[picks], axis=1), [2.5, 97.5])
    return {"value": float(average(known)), "low": float(low), "high": float(high)}


def share(count: int, n: int) -> dict[str, float]:
    """Value, low and high: the share count / n with Wilson's 95 % interval, which is right also near 0 and 1."""
    from scipy.stats import binomtest

    if not n:
        return _UNKNOWN
    interval = binomtest(int(count), int(n)).proportion_ci(0.95, "wilson")
    return {"value": count / n, "low": float(interval.low), "high": float(interval.high)}


def mcnemar(differences: np.ndarray) -> dict[str, float]:
    """McNemar's exact test on differences (n,) of 1 (gained), 0 or -1 (lost)."""
    from scipy.stats import binomtest

    gained, lost = int((differences > 0).sum()), int((differences < 0).sum())
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return {"gained": float(gained), "lost": float(lost), "p_mcnemar": float(p)}


def _judged(row: dict[str, float]) -> dict:
    """A row of a comparison with the columns shown and verdict."""
    if row["n"] < Judging.fewest_photos:
        return row | {"shown": False, "verdict": f"{row['n']} photos are too few to tell"}
    shown = (row["low"] > 0 or row["high"] < 0) and not row["p_mcnemar"] >= 0.05
    return row | {"shown": shown, "verdict": ("higher" if row["low"] > 0 else "lower") if shown else NO_DIFFERENCE}


def to_json(summary: pd.DataFrame) -> dict:
    """A summary as plain JSON values: {"n": photos, "metrics": {name: {"value", "low", "high"}}}, None for unknown."""
    metrics = {
        name: {key: None if np.isnan(row[key]) else float(row[key]) for key in ("value", "low", "high")}
        for name, row in summary.iterrows()
    }
    return {"n": int(summary.loc["parsed", "n"]), "metrics": metrics}
