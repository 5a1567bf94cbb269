"""What a rollout earns: pure functions from a trajectory to a breakdown, every component under its own name.

`total = 0.6·accuracy + 0.1·format + 0.3·process`, and `process`, clipped to [-0.5, 1], is the sum of
- look: 0.2·(how much a zoom or image search box improves on the best IoU with an annotated region so far),
- query: 0.1·(share of the photo's useful evidence that a text search is the first to retrieve),
- trust: 0.3·(MCC of the evidence labels), once a labelled search,
- error: -0.05 for each tool call that the model got wrong.

Differs from the paper's public code: labels are scored once a search, where the code's last labels are never cleared
and earn again on every turn; a missing tag earns nothing, where saying nothing can earn 1.0; format is complete also
without a search; boxes are compared with the photo's annotated regions, not with the teacher's first cached box; text
search is paid for what it brought, not for hitting the cache. Each turn's share is in `Breakdown.per_turn`, for
turn-level credit. A failed service is no zero: `service_error` is set, `total` is NaN, the rollout is to be dropped.

Run it with `score(trajectory)`.
"""

import dataclasses
import math
import numbers
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from reverse_lib.geo import accuracy_reward, box_iou
from reverse_lib.profiles import FORMAT_PARTIAL, PROCESS_RANGE, Weights
from reverse_lib.trajectory import SEARCH_TOOLS, Observation, Trajectory, Turn

_BOX_TOOLS = ("image_zoom_in_tool", "image_search_tool")


@dataclass
class Breakdown:
    """Every component of one trajectory's reward. look, query, trust and errors are weighted sums over the turns."""

    accuracy: float  # 0..1; NaN if the truth is unknown
    format: float  # 0, 0.8 or 1
    look: float
    query: float
    trust: float
    errors: float  # <= 0
    process: float  # the sum of the four, clipped to PROCESS_RANGE
    total: float  # NaN after a service error or without a truth: a rollout to drop
    per_turn: list[dict[str, float]] = field(default_factory=list)  # a dict a turn: look, query, trust, error
    judged_turns: list[int] = field(default_factory=list)  # indices of the turns whose labels are paid, or punished
    box_iou: float = math.nan  # best of the rollout; 0 if it never looked, NaN if no region is annotated
    evidence_mcc: float = math.nan  # mean over the labelled searches that are paid; NaN if there were none
    service_error: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The components as JSON types, None for NaN."""
        row = dataclasses.asdict(self)
        return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}


def evidence_mcc(predicted: Iterable[Any] | None, useful: Iterable[int], n_results: int) -> float:
    """Matthews correlation between the positions called useful and those that are.

    Formula: https://en.wikipedia.org/wiki/Phi_coefficient. Where its denominator is zero: 1 when nothing is useful and
    nothing was called so, or everything is and everything was; otherwise 0.

    Args:
        predicted: 1-based positions; duplicates count once, what was never shown (or is no integer) counts as a false
            positive. None when the tag is missing.
        useful: 1-based positions of the truly useful results.
        n_results: Number of results shown.

    Returns:
        -1..1; 0 for None.
    """
    if not isinstance(predicted, list | tuple | set | frozenset):
        return 0.0
    shown = range(1, n_results + 1)
    truth = {position for position in useful if position in shown}
    integers = {int(position) for position in predicted if _is_integer(position)}
    called = {position for position in integers if position in shown}
    strangers = len(integers - called) + sum(not _is_integer(position) for position in predicted)
    if not strangers and called == truth and len(truth) in (0, len(shown)):
        return 1.0
    hits, misses = len(called & truth), len(truth - called)
    false_alarms = len(called - truth) + strangers
    rejections = len(shown) - len(called | truth)
    square = (hits + false_alarms) * (hits + misses) * (rejections + false_alarms) * (rejections + misses)
    return (hits * rejections - false_alarms * misses) / math.sqrt(square) if square else 0.0


def score(trajectory: Trajectory, weights: Weights | None = None) -> Breakdown:
    """Scores one rollout, by the paper's weights when they are None.

    Returns:
        The breakdown. `sum(per_turn)` is the process part before clipping.
    """
    weights = weights or Weights()
    turns = trajectory.turns()
    observations = [step.observation for step in trajectory.steps]
    looks, best_iou = _looks(observations, trajectory.regions)
    queries = _queries(observations, trajectory.evidence)
    trusts, mccs, judged = _trusts(observations, turns)
    errors = [seen is not None and seen.status == "model_error" for seen in observations]
    shares = {"look": looks, "query": queries, "trust": trusts, "error": errors}
    per_turn = [{name: getattr(weights, name) * shares[name][i] for name in shares} for i in range(len(turns))]
    sums = {name: math.fsum(turn[name] for turn in per_turn) for name in shares}
    process = min(max(math.fsum(sums.values()), PROCESS_RANGE[0]), PROCESS_RANGE[1])
    accuracy = math.nan if None in (trajectory.lat, trajectory.lon) else accuracy_reward(trajectory.km)
    form = _format(trajectory, turns)
    total = weights.accuracy * accuracy + weights.format * form + weights.process * process
    return Breakdown(
        accuracy=accuracy,
        format=form,
        errors=sums.pop("error"),
        **sums,
        process=process,
        total=math.nan if trajectory.service_failed else total,
        per_turn=per_turn,
        judged_turns=judged,
        box_iou=best_iou,
        evidence_mcc=math.fsum(mccs) / len(mccs) if mccs else math.nan,
        service_error=trajectory.service_failed,
    )


def _looks(observations: Sequence[Observation | None], regions: Sequence[Any]) -> tuple[list[float], float]:
    """How much each call's box improves on the best IoU so far, and the best (NaN without regions)."""
    best, gains = 0.0, []
    for observation in observations:
        gain = 0.0
        if observation is not None and observation.tool in _BOX_TOOLS and observation.status in ("ok", "miss"):
            box = observation.arguments.get("bbox_2d") if isinstance(observation.arguments, dict) else None
            iou = max((box_iou(box, region) for region in regions), default=0.0)
            gain, best = max(iou - best, 0.0), max(iou, best)
        gains.append(gain)
    return gains, best if len(regions) else math.nan


def _queries(observations: Sequence[Observation | None], evidence: Iterable[str]) -> list[float]:
    """The share of the evidence that each call is the first text search to retrieve."""
    wanted = set(evidence)
    total, shares = len(wanted), [0.0] * len(observations)
    for i, observation in enumerate(observations):
        if observation is not None and observation.tool == "text_search_tool" and observation.status == "ok":
            urls = {result["url"] for result in observation.results if isinstance(result.get("url"), str)}
            if total and not _is_repeated(observations, i):
                shares[i] = len(wanted & urls) / total
            wanted -= urls
    return shares


def _trusts(
    observations: Sequence[Observation | None], turns: Sequence[Turn]
) -> tuple[list[float], list[float], list[int]]:
    """The MCC at the turn whose labels judge a search that pays, 0 at every other turn; the MCCs; those turns.

    A search pays when its results are labelled, it shows one that no earlier search showed, and it repeats no call.
    When no turn follows, its labels are missing like any others: MCC 0.
    """
    per_turn, paid, judged = [0.0] * len(observations), [], []
    shown: set[tuple[str, ...]] = set()
    for i, observation in enumerate(observations):
        if observation is None or observation.tool not in SEARCH_TOOLS or observation.status != "ok":
            continue
        results = {_identity(result) for result in observation.results}
        pays = observation.labelled and bool(results - shown) and not _is_repeated(observations, i)
        shown |= results
        if pays:
            labels = turns[i + 1].useful if i + 1 < len(turns) else None
            paid.append(evidence_mcc(labels, observation.useful, len(observation.results)))
            if i + 1 < len(turns):
                per_turn[i + 1] = paid[-1]
                judged.append(i + 1)
    return per_turn, paid, judged


def _format(trajectory: Trajectory, turns: Sequence[Turn]) -> float:
    """1 for a rollout in the grammar throughout, 0.8 if only think and answer are there, 0 otherwise."""
    if trajectory.answer is None or any(turn.think is None for turn in turns):
        return 0.0
    return FORMAT_PARTIAL if any(turn.errors for turn in turns) else 1.0


def _is_repeated(observations: Sequence[Observation | None], i: int) -> bool:
    """Whether call `i` was made before in this rollout, by the environment's word or by its arguments."""
    call = observations[i]
    return call.repeated or any(
        other.status in ("ok", "miss") and (other.tool, other.arguments) == (call.tool, call.arguments)
        for other in observations[:i]
        if other is not None
    )


def _identity(result: dict[str, Any]) -> tuple[str, ...]:
    """What tells a result from others: its address, or what it says when it has none."""
    url = result.get("url")
    return (str(url),) if url else (str(result.get("title")), str(result.get("snippet")))


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
