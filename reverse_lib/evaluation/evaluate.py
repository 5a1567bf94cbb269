"""Running an agent over photos with known places, and a table of what it did: a row a photo.

What differs from the paper's protocol (section 4, experiments): photos whose search service failed are left out and
counted, never scored as zero; a run that was stopped goes on where it stopped; nothing is chosen on the photos it is
judged on. The figures with their intervals are in `reverse_lib.metrics`; import them from here.

    frame = evaluate(agent, world.photos("test-new", 200), world.live, agent.interface, folder="outputs/mine")
    summary = summarize(frame)              # index metric; value, low, high, n
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd

from reverse_lib.environment import TINY, UNREADABLE, Interface, rollout
from reverse_lib.evaluation.metrics import (
    HALF_CIRCUMFERENCE_KM,
    METRICS,
    compare,
    per_photo,
    same_country,
    summarize,
    to_json,
)
from reverse_lib.evaluation.run_folder import RunFolder, facts_of, kept_trajectories
from reverse_lib.geo import where_is
from reverse_lib.photos import Photo
from reverse_lib.profiles import Budgets
from reverse_lib.reward import score
from reverse_lib.search import SearchBackend
from reverse_lib.trajectory import TOOLS, Trajectory

__all__ = [
    "HALF_CIRCUMFERENCE_KM",
    "METRICS",
    "compare",
    "evaluate",
    "load_results",
    "narrate",
    "per_photo",
    "same_country",
    "service_failed",
    "summarize",
    "to_frame",
    "to_json",
]

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
    folder: str | os.PathLike[str] | None = None,
    on_error: Callable[[str, Exception], bool] | None = None,
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
        progress: Called with the number of photos that just ended, also those found finished in `folder`.
        folder: Where results go (see `run_folder`): a photo is on disk as soon as it is finished, and a run that is
            started again asks only those that are missing or whose service failed. None keeps nothing.
        on_error: As in `rollout`. A photo that is gone on without stands in the table as one whose service failed.

    Returns:
        One row a photo, in the order given: truth, answer, km (NaN if unparsed), reward components, calls, trajectory.

    Raises:
        ValueError: No photos, a photo without known place, the same photo id twice, or a folder of another run.
    """
    photos, budgets = list(photos), budgets or Budgets()
    _check(photos)
    by_id = {photo.photo_id: photo for photo in photos}
    settings = dict(interface=interface, budgets=budgets, tools=tools)
    kept = RunFolder(folder, facts_of(policy, photos, search, **settings)) if folder is not None else None
    done = kept.finished() if kept else {}
    agent = _Metered(policy)

    def keep(trajectory: Trajectory) -> None:
        done[trajectory.photo_id] = agent.noted(trajectory)
        if kept:
            kept.add(trajectory)

    def goes_on(photo_id: str, error: Exception) -> bool:
        if on_error is None or not on_error(photo_id, error):
            return False
        keep(_not_worked_on(by_id[photo_id], agent.name, error))
        if progress is not None:
            progress(1)
        return True

    if done and progress is not None:
        progress(len(done))
    missing = [photo for photo in photos if photo.photo_id not in done]
    running = dict(batch_size=batch_size, progress=progress, on_finished=keep, on_error=goes_on)
    rollout(agent, missing, search, **settings, **running)
    frame = to_frame(done[photo_id] for photo_id in by_id)
    if kept:
        kept.finish(frame)
    return frame


def load_results(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """The table of a finished run, its trajectories scored anew by the present rewards.

    Raises:
        FileNotFoundError: The run isn't finished, or there is none.
    """
    return to_frame(kept_trajectories(folder))


def service_failed(frame: pd.DataFrame) -> list[str]:
    """Ids of the photos whose search service failed: in no figure, and asked again by `evaluate` in their folder."""
    return frame.loc[frame["end"] == "service_error", "photo_id"].tolist()


def _check(photos: Sequence[Photo]) -> None:
    if not photos:
        raise ValueError("evaluate: no photos given; ask the world or the folder for at least one")
    unknown = [p.photo_id for p in photos if p.lat is None or p.lon is None]
    if unknown:
        raise ValueError(f"{unknown[0]}: photo without known latitude and longitude cannot be scored; leave it out")
    if len({p.photo_id for p in photos}) < len(photos):
        raise ValueError("evaluate: a photo id occurs twice; give each photo its own id")


def _not_worked_on(photo: Photo, agent: str, error: Exception) -> Trajectory:
    """Stands for a photo that could not be worked on."""
    known = dict(lat=photo.lat, lon=photo.lon, country=photo.country, city=photo.city)
    extra = {"error": str(error)}
    return Trajectory(photo.photo_id, **known, regions=photo.regions, agent=agent, end="service_error", extra=extra)


class _Metered:
    """An agent that notes what each photo took: tokens it wrote, and its share of the seconds its batches took."""

    def __init__(self, agent: Callable):
        self.agent = agent
        self.name = str(getattr(agent, "name", "") or type(agent).__name__)
        self.seconds, self.tokens = Counter(), Counter()
        self.count = _token_counter(agent)

    def __getattr__(self, name: str):
        return getattr(self.agent, name)

    def respond_for(self, photo_ids: Sequence[str], conversations: Sequence[list[dict]]) -> list[str]:
        started = time.perf_counter()
        known = hasattr(self.agent, "respond_for")
        texts = self.agent.respond_for(photo_ids, conversations) if known else self.agent(conversations)
        each = (time.perf_counter() - started) / max(1, len(photo_ids))
        self.seconds.update(dict.fromkeys(photo_ids, each))
        if self.count is not None:
            for photo_id, text in zip(photo_ids, texts, strict=False):
                self.tokens[photo_id] += self.count(text) if isinstance(text, str) else 0
        return texts

    def noted(self, trajectory: Trajectory) -> Trajectory:
        """The trajectory with `seconds` and, where they could be counted, `tokens` among its extra facts."""
        name, usage = trajectory.photo_id, trajectory.extra.get("usage", {})
        facts = {"seconds": self.seconds[name]} | ({"tokens": self.tokens[name]} if self.count else {})
        if usage and not usage["uncounted"]:
            facts["tokens"] = usage["tokens_out"]
        trajectory.extra = facts | trajectory.extra
        return trajectory


def _token_counter(agent: Callable) -> Callable[[str], int] | None:
    """Counts the tokens of a text the way the agent says, or its tokenizer does; None where nobody knows."""
    tokenizer = getattr(getattr(agent, "processor", None), "tokenizer", None)
    by_tokenizer = tokenizer and (lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]))
    return getattr(agent, "count_tokens", None) or by_tokenizer


def to_frame(trajectories: Iterable[Trajectory]) -> pd.DataFrame:
    """Score trajectories: one row each, with the columns that `summarize`, the plots and the maps read.

    `trusted` counts the results that the agent called useful, `unreadable` its turns that neither call nor answer.
    """
    frame = pd.DataFrame([_row(trajectory) for trajectory in trajectories])
    if not len(frame):
        return frame
    truth = where_is(frame["lat"].astype(float), frame["lon"].astype(float))
    answer = where_is(frame["pred_lat"], frame["pred_lon"])
    known = truth["code"] != ""
    hits = {
        "country_of_position": (answer["code"] == truth["code"]).where(known),
        "continent": (answer["continent"] == truth["continent"]).where(known),
    }
    at = frame.columns.get_loc("parsed")
    for name, values in hits.items():
        frame.insert(at, name, values.astype(float))
    return frame


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
        **_evidence(trajectory),
        "evidence_mcc": breakdown.evidence_mcc,
        **{column: used.count(tool) for column, tool in _CALLS.items()},
        "unreadable": used.count(UNREADABLE),
        "trusted": sum(len(turn.useful or []) for turn in trajectory.turns()),
        "tokens": trajectory.extra.get("tokens", np.nan),
        "seconds": trajectory.extra.get("seconds", np.nan),
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


def _evidence(trajectory: Trajectory) -> dict[str, float]:
    """Over the labelled searches, repeated ones left out: the share of the results called useful that are, and the
    share of the useful ones that were called so. NaN where none was called useful, or none was useful."""
    calls = useful = hits = 0
    labels = [*(turn.useful or [] for turn in trajectory.turns()), []][1:]  # a turn judges the search before it
    for step, called in zip(trajectory.steps, labels, strict=True):
        seen = step.observation
        if seen is not None and seen.owes_labels and seen.labelled and not seen.repeated:
            calls, useful, hits = calls + len(called), useful + len(seen.useful), hits + len(seen.useful & set(called))
    return {
        "evidence_precision": hits / calls if calls else np.nan,
        "evidence_recall": hits / useful if useful else np.nan,
    }


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
