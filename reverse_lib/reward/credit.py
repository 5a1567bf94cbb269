"""Who gets the credit: advantages for each turn of each rollout of a group, or one for the whole rollout.

Everything here is arithmetic on what `score` returns; no engine, no torch. A rollout's reward is split over its
turns, so that a turn is paid for what it did: the call for what it looked at or retrieved, the turn after a search for
the labels it gave, the last turn for accuracy and format. A turn's return is what it and the turns after it earned.

With G rollouts of a photo, rollout i with K_i turns and rewards r(i, k):

    R(i, k) = sum of gamma^(l - k) r(i, l) over l >= k      the return-to-go of turn k
    b(i, k) = mean of R(j, min(k, K_j)) over j != i          what the others of the group could still expect there
    A(i, k) = (R(i, k) - b(i, k)) / (s + eps)                s: standard deviation of R(., 1) in the group

With scale="batch", s is that deviation over all groups at once, each group around its own mean: a group whose rollouts
hardly differ then hardly counts, where "group" blows its small differences up to the size of any other's. "none"
divides by nothing, as Liu et al. 2025 propose (arxiv.org/abs/2503.20783).

The baseline leaves the rollout itself out, so it does not depend on what the rollout did and the gradient is unbiased.
A rollout of the others that is over by turn k stands in with its last turn: were it counted as zero, every late turn
would look good merely because others had answered before. With one turn each, A is GRPO's advantage times G / (G - 1);
rollouts that all earn the same at their end get 0 at every turn.

A turn after a search still says two things, which results to trust and what to do next, and pushing all its tokens by
the answer teaches the list of trusted results little but noise: an answer can be right beside a wrong list. With
credit "segment" the tokens of `<useful>...</useful>` are pushed by the labels alone, u(i, k), in deviations of the
labels' rewards in the group, s', and the thinking before them, which judges the results and prepares both, by the sum
of the turn's advantage and the labels':

    A'(i, k) = (u(i, k) - mean of u(j, .) over the labelled turns of the others) / (s' + eps)

With credit "turn" labels get their turn's advantage, with "trajectory" all tokens of a rollout share one, GRPO's own.

    advantages([score(trajectory) for trajectory in group], credit="segment")
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reverse_lib.profiles import PROCESS_RANGE, Weights
from reverse_lib.reward.score import Breakdown

EPSILON = 1e-4  # added to a standard deviation before dividing by it, as TRL does
CREDITS = ("segment", "turn", "trajectory")
SCALES = ("group", "batch", "none")


class Advantages(NamedTuple):
    """Of one rollout: what pushes the tokens of each turn, and what pushes its labels (and the thinking before them).

    Both are (turns,); labels are NaN for a turn whose labels are not pushed by themselves.
    """

    turns: np.ndarray
    labels: np.ndarray


def advantages(
    breakdowns: Sequence[Breakdown],
    credit: str = "segment",
    weights: Weights | None = None,
    gamma: float = 1.0,
    scale: str = "group",
    group_size: int | None = None,
) -> list[Advantages]:
    """The advantages of rollouts, turn by turn.

    Args:
        breakdowns: Scored with `weights`; the members of a group follow each other.
        credit: One of CREDITS.
        weights: The paper's when None.
        gamma: Discount a turn.
        scale: Whose standard deviation to divide by, one of SCALES.
        group_size: Rollouts a group; all are one group when None.

    Raises:
        ValueError: The credit or the scale is unknown, the rollouts are not whole groups, or a group has one member.
    """
    if credit not in CREDITS:
        raise ValueError(f"credit={credit!r}: choose one of {', '.join(CREDITS)}")
    size, rewards = group_size or len(breakdowns), [turn_rewards(breakdown, weights) for breakdown in breakdowns]
    labels = [np.full(len(turns), np.nan) for turns in rewards]
    if credit == "segment":
        labels = label_advantages([label_rewards(breakdown, weights) for breakdown in breakdowns], size)
    if credit == "trajectory":
        totals = trajectory_advantages([breakdown.total for breakdown in breakdowns], size)
        turns = [np.full(len(earned), total) for earned, total in zip(rewards, totals, strict=True)]
    else:
        turns = turn_advantages(rewards, size, gamma, scale)
    return [Advantages(*pair) for pair in zip(turns, labels, strict=True)]


def turn_rewards(breakdown: Breakdown, weights: Weights | None = None) -> np.ndarray:
    """What each turn of a rollout earned.

    The process part is clipped as a running sum, so that what is earned beyond the clip pays nothing.

    Returns:
        (turns,), whose sum is `breakdown.total`.
    """
    weights = weights or Weights()
    earned = [sum(turn.values()) for turn in breakdown.per_turn]
    clipped = np.clip(np.cumsum([0.0, *earned]), *PROCESS_RANGE)
    rewards = weights.process * np.diff(clipped)  # (turns,)
    if len(rewards):
        rewards[-1] += weights.accuracy * breakdown.accuracy + weights.format * breakdown.format
    return rewards


def returns_to_go(rewards: Sequence[float], gamma: float = 1.0) -> np.ndarray:
    """What each turn and those after it earned, later turns discounted by gamma a turn; (turns,) -> (turns,)."""
    returns = np.array(rewards, float)
    for k in range(len(returns) - 2, -1, -1):
        returns[k] += gamma * returns[k + 1]
    return returns


def turn_advantages(
    rewards: Sequence[Sequence[float]], group_size: int, gamma: float = 1.0, scale: str = "group"
) -> list[np.ndarray]:
    """An advantage for each turn of each rollout, (turns,) each, from what its turns earned; as in `advantages`."""
    if group_size < 2 or len(rewards) % group_size:
        raise ValueError(f"{len(rewards)} rollouts in groups of {group_size}: give whole groups of at least 2")
    if scale not in SCALES:
        raise ValueError(f"scale={scale!r}: choose one of {', '.join(SCALES)}")
    returns = [returns_to_go(turns, gamma) for turns in rewards]
    groups = [returns[start : start + group_size] for start in range(0, len(returns), group_size)]
    divisor = batch_deviation(groups) if scale == "batch" else {"group": None, "none": 1.0}[scale]
    return [advantage for group in groups for advantage in group_advantages(group, divisor)]


def batch_deviation(groups: Sequence[Sequence[np.ndarray]]) -> float:
    """The standard deviation of what whole rollouts earned, each around the mean of its group."""
    totals = np.array([[turns[0] if len(turns) else 0.0 for turns in group] for group in groups])  # (groups, G)
    around = totals - totals.mean(1, keepdims=True)
    return float(np.sqrt((around**2).sum() / (around.size - len(groups)))) + EPSILON


def group_advantages(returns: Sequence[np.ndarray], divisor: float | None = None) -> list[np.ndarray]:
    """The advantages of one group's turns, from the returns-to-go of each rollout, (turns,).

    They are divided by `divisor`, or by the group's own standard deviation.
    """
    filled = [turns if len(turns) else np.zeros(1) for turns in returns]
    longest = max(map(len, filled))
    padded = np.array([np.pad(turns, (0, longest - len(turns)), "edge") for turns in filled])  # (G, longest)
    others = (padded.sum(0) - padded) / (len(returns) - 1)
    spread = padded[:, 0].std(ddof=1) + EPSILON if divisor is None else divisor
    return [row[: len(turns)] for row, turns in zip((padded - others) / spread, returns, strict=True)]


def label_rewards(breakdown: Breakdown, weights: Weights | None = None) -> np.ndarray:
    """What each turn earned by its labels, (turns,); NaN for a turn that had none to give."""
    rewards = np.full(len(breakdown.per_turn), np.nan)
    for k in breakdown.judged_turns:
        rewards[k] = (weights or Weights()).process * breakdown.per_turn[k]["trust"]
    return rewards


def label_advantages(rewards: Sequence[Sequence[float]], group_size: int) -> list[np.ndarray]:
    """An advantage for the labels of each turn of each rollout, from what they earned: (turns,) each.

    NaN where there were none to give; 0 where nobody else of the group gave any.
    """
    values = []
    for start in range(0, len(rewards), group_size):
        group = [np.asarray(turns, float) for turns in rewards[start : start + group_size]]
        labelled = [turns[np.isfinite(turns)] for turns in group]
        every = np.concatenate(labelled)
        divisor = (every.std(ddof=1) if len(every) > 1 else 0.0) + EPSILON
        for i, own in enumerate(group):
            others = np.concatenate(labelled[:i] + labelled[i + 1 :])
            values.append((own - others.mean()) / divisor if len(others) else own * 0.0)
    return values


def trajectory_advantages(totals: Sequence[float], group_size: int) -> np.ndarray:
    """GRPO's own: a rollout's reward, less its group's mean, in standard deviations of the group; (n,) -> (n,)."""
    grouped = np.array(totals, float).reshape(-1, group_size)  # (groups, G)
    centred = grouped - grouped.mean(1, keepdims=True)
    return (centred / (grouped.std(1, ddof=1, keepdims=True) + EPSILON)).reshape(-1)
