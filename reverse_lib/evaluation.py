"""Running an agent over photos with known places, and its accuracy with 95 % intervals.

What differs from the paper's protocol (section 4, experiments): every figure carries a bootstrap interval; photos whose
search service failed are left out and counted, never scored as zero; nothing is chosen on the photos it is judged on.

    frame = evaluate(agent, world.photos("test-new", 200), world.live, agent.interface)
    summary = summarize(frame)              # index metric; value, low, high, n
"""

import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from reverse_lib.calls import UNREADABLE
from reverse_lib.environment import TINY, Budgets, Interface, rollout
from reverse_lib.geo import EARTH_RADIUS_KM, THRESHOLDS_KM, geoguessr_score
from reverse_lib.photos import Photo
from reverse_lib.rewards import score
from reverse_lib.search import SearchBackend
from reverse_lib.trajectory import TOOLS, Trajectory

HALF_CIRCUMFERENCE_KM = (
    np.pi * EARTH_RADIUS_KM
)  # 20,015 km, the largest possible error: stands in for an answer that could not be read
METRICS = (
    *(f"within_{km}km" for km in THRESHOLDS_KM),
    "median_km",
    "geoguessr_score",
    "country",
    "parsed",
    "format",
    "box_iou",
    "query_hit",
    "evidence_mcc",
    "calls_zoom",
    "calls_image",
    "calls_text",
    "reward",
)
_CALLS = dict(zip(("calls_zoom", "calls_image", "calls_text"), TOOLS, strict=True))


def evaluate(
    policy: Callable,
    photos: Sequence[Photo],
    search: SearchBackend,
    interface: Interface = TINY,
    budgets: Budgets | None = None,
    tools: Sequence[str] = TOOLS,
    batch_size: int = 32,
    progress: Callable | None = None,
) -> pd.DataFrame:
    """Let an agent answer every photo, and score what it did.

    Args:
        policy: An agent as `environment.rollout` takes it: conversations -> texts.
        photos: Photos with known latitude and longitude.
        search: What answers the agent's searches.
        interface: How photos and results are shown to the agent.
        budgets: Calls and turns allowed; None for the standard ones.
        tools: Names of the tools offered.
        batch_size: Photos in flight together.
        progress: Passed on to `rollout`.

    Returns:
        One row a photo, in the order given: truth, answer, km (NaN if unparsed), reward components, calls, trajectory.

    Raises:
        ValueError: No photos, a photo without known place, or the same photo id twice.
    """
    if not photos:
        raise ValueError("evaluate: no photos given; ask the world or the folder for at least one")
    unknown = [p.photo_id for p in photos if p.lat is None or p.lon is None]
    if unknown:
        raise ValueError(f"{unknown[0]}: photo without known latitude and longitude cannot be scored; leave it out")
    if len({p.photo_id for p in photos}) < len(photos):
        raise ValueError("evaluate: a photo id occurs twice; give each photo its own id")
    trajectories = rollout(
        policy,
        photos,
        search,
        interface=interface,
        budgets=budgets or Budgets(),
        tools=tools,
        batch_size=batch_size,
        progress=progress,
    )
    return to_frame(trajectories)


def to_frame(trajectories: Sequence[Trajectory]) -> pd.DataFrame:
    """Score trajectories: one row each, with the columns that `summarize`, the plots and the maps read."""
    return pd.DataFrame([_row(t) for t in trajectories])


def _row(trajectory: Trajectory) -> dict:
    breakdown, answer = score(trajectory), trajectory.answer
    parsed = answer is not None
    used = [step.observation.tool for step in trajectory.steps if step.observation is not None]
    return {
        "photo_id": trajectory.photo_id,
        "lat": trajectory.lat,
        "lon": trajectory.lon,
        "country": trajectory.country,
        "city": trajectory.city,
        "pred_lat": answer.lat if parsed else np.nan,
        "pred_lon": answer.lon if parsed else np.nan,
        "pred_country": answer.country if parsed else "",
        "pred_city": answer.city if parsed else "",
        "km": trajectory.km if parsed and trajectory.km is not None else np.nan,
        "parsed": parsed,
        "format": breakdown.format,
        "box_iou": breakdown.box_iou,
        "query_hit": _query_hit(trajectory),
        "evidence_mcc": breakdown.evidence_mcc,
        **{column: used.count(tool) for column, tool in _CALLS.items()},
        "unreadable": used.count(UNREADABLE),
        "reward": breakdown.total,
        "accuracy": breakdown.accuracy,
        "look": breakdown.look,
        "query": breakdown.query,
        "trust": breakdown.trust,
        "end": "service_error" if breakdown.service_error else trajectory.end,
        "trajectory": trajectory,
    }


def _query_hit(trajectory: Trajectory) -> float:
    """1.0 if a text search brought useful evidence, 0.0 if none did; NaN without one, or where nobody knows."""
    seen = [step.observation for step in trajectory.steps if step.observation is not None]
    known = [o for o in seen if o.tool == "text_search_tool" and (o.labelled or o.status == "miss")]
    return float(any(o.useful for o in known)) if known else np.nan


def summarize(frame: pd.DataFrame, seed: int = 0, samples: int = 2000) -> pd.DataFrame:
    """Every metric with its 95 % percentile bootstrap interval over photos.

    An answer that could not be read counts as wrong: outside every threshold, score 0, wrong country, and
    20,015 km (half the Earth's circumference) in the median. `box_iou` averages the photos with an informative region,
    `query_hit` (whether a text search brought useful evidence) those with a text search whose results are labelled,
    `evidence_mcc` those whose searches were labelled. Rows whose search service failed are left out: see column n.

    Args:
        frame: The table of `evaluate`.
        seed: Of the resampling; the same seed gives the same interval.
        samples: Bootstrap resamples.

    Returns:
        Index metric (in the order of METRICS); columns value, low, high, n (photos that count).

    Raises:
        ValueError: No row is left to summarize.
    """
    served = frame[frame["end"] != "service_error"] if len(frame) else frame
    if not len(served):
        raise ValueError(f"summarize: none of {len(frame)} photos can be scored; check the search service")
    rows = {}
    for name, values in per_photo(served).items():
        known = values[np.isfinite(values)]
        average = np.median if name == "median_km" else np.mean
        rows[name] = {**_interval(known, average, np.random.default_rng(seed), samples), "n": len(known)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("metric").astype({"n": int})


def compare(
    before: pd.DataFrame | Sequence[pd.DataFrame],
    after: pd.DataFrame | Sequence[pd.DataFrame],
    metrics: Sequence[str] = METRICS,
    seed: int = 0,
    samples: int = 2000,
) -> pd.DataFrame:
    """What changed between two runs on the same photos: the mean difference with its paired 95 % bootstrap interval.

    A photo's differences over several pairs of runs (training seeds) are averaged first; photos are then drawn with
    replacement, so the interval tells of other photos, not of other seeds.

    Args:
        before: The table of `evaluate`, or one a seed.
        after: As many tables, of the same photos.
        metrics: Names out of METRICS; "median_km" becomes the mean difference of the errors in km.
        seed: Of the resampling.
        samples: Bootstrap resamples.

    Returns:
        Index metric; columns value, low, high (after minus before), n (photos on which both are known), shown (whether
        the interval leaves out 0).

    Raises:
        ValueError: The tables are not of the same photos, or not as many.
    """
    pairs = [(before, after)] if isinstance(before, pd.DataFrame) else list(zip(before, after, strict=True))
    ids = sorted(pairs[0][0]["photo_id"])
    if any(sorted(frame["photo_id"]) != ids for pair in pairs for frame in pair):
        raise ValueError("compare: the tables are not of the same photos; evaluate both runs on one list of photos")
    known = [[per_photo(frame.sort_values("photo_id")) for frame in pair] for pair in pairs]
    rows = {}
    for name in metrics:
        differences = np.array([new[name] - old[name] for old, new in known])  # (seeds, photos)
        counted = np.isfinite(differences)
        mean = np.where(counted, differences, 0).sum(0) / np.maximum(counted.sum(0), 1)
        mean = mean[counted.any(0)]
        rows[name] = {**_interval(mean, np.mean, np.random.default_rng(seed), samples), "n": len(mean)}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("metric").astype({"n": int})
    return table.assign(shown=(table["low"] > 0) | (table["high"] < 0))


def per_photo(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """The number each photo puts into each metric: arrays of shape (photos,), NaN where a metric doesn't apply."""
    km = frame["km"].to_numpy(float)
    wrong = np.isnan(km)
    full_km = np.where(wrong, HALF_CIRCUMFERENCE_KM, km)
    columns = {f"within_{limit}km": (full_km <= limit).astype(float) for limit in THRESHOLDS_KM}
    columns["median_km"] = full_km
    columns["geoguessr_score"] = np.where(wrong, 0.0, geoguessr_score(full_km))
    columns["country"] = np.array(
        [same_country(a, b) if b else np.nan for a, b in zip(frame["pred_country"], frame["country"], strict=True)],
        float,
    )
    return {name: columns[name] if name in columns else frame[name].to_numpy(float) for name in METRICS}


def same_country(answered: str, truth: str) -> bool:
    """Whether two country names are the same but for case, accents' encoding and outer spaces; empty never is."""
    left, right = (unicodedata.normalize("NFKC", name).casefold().strip() for name in (answered, truth))
    return bool(left) and left == right


def _interval(known: np.ndarray, average: Callable, generator: np.random.Generator, samples: int) -> dict[str, float]:
    """Value and 95 % percentile interval of the average of known (n,), drawing photos with replacement."""
    if not len(known):
        return {"value": np.nan, "low": np.nan, "high": np.nan}
    picks = generator.integers(0, len(known), (samples, len(known)), dtype=np.int32)  # (samples, n)
    low, high = np.percentile(average(known[picks], axis=1), [2.5, 97.5])
    return {"value": float(average(known)), "low": float(low), "high": float(high)}


def to_json(summary: pd.DataFrame) -> dict:
    """A summary as plain JSON values: {"n": photos, "metrics": {name: {"value", "low", "high"}}}, None for unknown."""
    metrics = {
        name: {key: None if np.isnan(row[key]) else float(row[key]) for key in ("value", "low", "high")}
        for name, row in summary.iterrows()
    }
    return {"n": int(summary.loc["parsed", "n"]), "metrics": metrics}


def narrate(trajectory: Trajectory, in_words: Callable[[str], str] = str) -> list[str]:
    """A trajectory as sentences, one or more a turn: what it looked at, searched, was shown, trusted and answered.

    Args:
        trajectory: Any trajectory.
        in_words: Turns an agent's shorthand into words (`teacher.in_words` for the tiny agent).
    """
    lines = []
    shown = None
    for number, (turn, step) in enumerate(zip(trajectory.turns(), trajectory.steps, strict=True), start=1):
        thoughts = (in_words(turn.think) if turn.think else "").splitlines() or ["(nothing)"]
        inline = thoughts[0] if len(thoughts) == 1 else "".join(f"\n     {line.strip()}" for line in thoughts)
        lines += f"{number}. thinks: {inline}".splitlines()
        if turn.useful is not None:
            lines.append(f"   trusts: {_trusted(turn.useful, shown)}")
        if turn.tool_call is not None:
            lines += [f"   {line}" for line in _call_lines(turn.tool_call, step.observation)]
        if turn.answer is not None:
            lines.append(f"   answers: {turn.answer.text()}")
        elif turn.tool_call is None:
            lines.append(f"   neither calls a tool nor answers ({', '.join(turn.errors) or 'unreadable'})")
            lines += [f"   is told: {step.observation.text}"] if step.observation else []
        shown = step.observation
    return lines


def _trusted(useful: list[int], shown) -> str:
    results = shown.results if shown is not None else []
    names = [
        f"[{i}] {results[i - 1].get('title', '')}" if 1 <= i <= len(results) else f"[{i}] (never shown)" for i in useful
    ]
    return "; ".join(names) or "none of the results"


def _call_lines(call, observation) -> list[str]:
    where = f"region {call.arguments.get('bbox_2d')}"
    what = {
        "image_zoom_in_tool": f"zooms into {where}",
        "image_search_tool": f"searches with the picture of {where}",
        "text_search_tool": f"searches for “{call.arguments.get('query')}”",
    }.get(call.name, call.name)
    if observation is None:
        return [what]
    if observation.status in ("model_error", "service_error"):
        return [what, f"is told: {observation.text}"]
    if observation.tool == "image_zoom_in_tool":
        return [what]
    return [what, *(f"  [{i}] {_result(r)}" for i, r in enumerate(observation.results, start=1))] + (
        [] if observation.results else ["  no results"]
    )


def _result(result: dict) -> str:
    title, snippet = result.get("title", ""), result.get("snippet", "")
    return f"{title}: {snippet}" if snippet else title
