"""Advantages by turn: the four properties an estimator of this kind must have, and its sums."""

import numpy as np
import pytest

from reverse_lib.profiles import Weights
from reverse_lib.reward import (
    Breakdown,
    advantages,
    label_advantages,
    label_rewards,
    returns_to_go,
    trajectory_advantages,
    turn_advantages,
    turn_rewards,
)
from reverse_lib.reward.credit import EPSILON


def broken_down(per_turn, accuracy=1.0, form=1.0, weights=None):
    weights = weights or Weights()
    process = float(np.clip(sum(sum(turn.values()) for turn in per_turn), -0.5, 1))
    total = weights.accuracy * accuracy + weights.format * form + weights.process * process
    return Breakdown(accuracy, form, 0, 0, 0, 0, process, total, per_turn)


def judged(per_turn, turns):
    breakdown = broken_down(per_turn)
    breakdown.judged_turns = turns
    return breakdown


def test_turn_rewards_sum_to_the_total_and_pay_the_last_turn_for_the_answer():
    found = turn_rewards(broken_down([{"look": 0.2}, {"query": 0.1, "error": -0.05}, {"trust": 0.3}], accuracy=0.5))
    np.testing.assert_allclose(found, [0.06, 0.015, 0.09 + 0.3 + 0.1])


@pytest.mark.parametrize("step", [0.5, -0.4])
def test_what_is_earned_beyond_the_clip_pays_nothing(step):
    breakdown = broken_down([{"trust": step}] * 4)
    rewards = turn_rewards(breakdown)
    assert rewards.sum() == pytest.approx(breakdown.total)
    assert rewards[2] == 0 and rewards[0] == pytest.approx(0.3 * step)


def test_a_rollout_without_turns_earns_nothing():
    assert turn_rewards(broken_down([])).shape == (0,)
    assert turn_advantages([[], [1.0]], 2)[0].shape == (0,)


def test_returns_to_go_discount_what_comes_later():
    np.testing.assert_allclose(returns_to_go([1, 2, 4]), [7, 6, 4])
    np.testing.assert_allclose(returns_to_go([1, 2, 4], gamma=0.5), [3, 4, 4])


def test_with_one_turn_each_it_is_grpos_advantage_times_g_over_g_minus_1():
    totals = np.random.default_rng(0).random(12)
    found = np.concatenate(turn_advantages([[t] for t in totals], group_size=4))
    np.testing.assert_allclose(found, trajectory_advantages(totals, 4) * 4 / 3)
    by_hand = (totals[:4] - totals[:4].mean()) / (totals[:4].std(ddof=1) + EPSILON)
    np.testing.assert_allclose(trajectory_advantages(totals, 4)[:4], by_hand)


def test_scaled_over_the_batch_a_group_that_hardly_differs_hardly_counts():
    rewards = [[0.2], [0.8], [0.50], [0.52]]
    alone = np.concatenate(turn_advantages(rewards, 2))
    np.testing.assert_allclose(
        abs(alone), [0.6 / (0.6 / 2**0.5 + EPSILON)] * 2 + [0.02 / (0.02 / 2**0.5 + EPSILON)] * 2
    )
    together = np.concatenate(turn_advantages(rewards, 2, scale="batch"))
    deviation = ((2 * 0.3**2 + 2 * 0.01**2) / 2) ** 0.5 + EPSILON
    np.testing.assert_allclose(together, np.array([-0.6, 0.6, -0.02, 0.02]) / deviation)
    np.testing.assert_allclose(np.concatenate(turn_advantages(rewards, 2, scale="none")), [-0.6, 0.6, -0.02, 0.02])
    with pytest.raises(ValueError, match="scale='all': choose one of group, batch, none"):
        turn_advantages(rewards, 2, scale="all")


@pytest.mark.parametrize("lengths", [(2, 2, 2, 2), (1, 2, 3, 5)])
def test_equal_rewards_at_the_end_give_zero_however_long_the_rollouts_are(lengths):
    rewards = [[0.0] * (n - 1) + [0.7] for n in lengths]
    assert all(np.allclose(one, 0) for one in turn_advantages(rewards, 4))


def test_only_turns_before_the_difference_are_credited():
    early, late = turn_advantages([[0.3, 0.0, 0.5], [0.0, 0.0, 0.5]], 2)
    assert early[0] > 0 > late[0]
    np.testing.assert_allclose([early[1:], late[1:]], 0)


def bandit(generator, groups, size):
    """Turn 1: go on (with p) or stop; turn 2: left (with q) or right. Returns choices and rewards of the turns."""
    p, q = 0.6, 0.3
    goes, left = generator.random((groups, size)) < p, generator.random((groups, size)) < q
    rewards = [
        [0.2, 1.0 if second else 0.1] if first else [0.5]
        for first, second in zip(goes.ravel(), left.ravel(), strict=True)
    ]
    return goes.ravel(), left.ravel(), rewards, (p, q)


def gradients(generator, groups=60_000, size=4):
    """Estimates, one a group, of the gradient of the expected reward in the two logits; (groups, 2)."""
    goes, left, rewards, (p, q) = bandit(generator, groups, size)
    values = turn_advantages(rewards, size, scale="none")
    found = np.zeros((len(rewards), 2))
    for i, advantage in enumerate(values):
        found[i, 0] = (goes[i] - p) * advantage[0]
        found[i, 1] = (left[i] - q) * advantage[1] if goes[i] else 0.0
    return found.reshape(groups, size, 2).mean(1)


def test_the_gradient_of_a_two_turn_bandit_is_the_analytic_one():
    estimates = gradients(np.random.default_rng(0))
    p, q = 0.6, 0.3
    going = 0.2 + q * 1.0 + (1 - q) * 0.1
    analytic = np.array([p * (1 - p) * (going - 0.5), p * q * (1 - q) * (1.0 - 0.1)])
    error = estimates.std(0) / np.sqrt(len(estimates))
    assert np.all(np.abs(estimates.mean(0) - analytic) < 4 * error) and np.all(error < 0.1 * np.abs(analytic))


def test_standing_in_with_the_last_turn_is_less_noisy_than_counting_a_finished_rollout_as_zero():
    goes, left, rewards, (p, q) = bandit(np.random.default_rng(1), 20_000, 4)
    returns = np.array([(list(returns_to_go(one)) + [0.0])[:2] for one in rewards]).reshape(-1, 4, 2)
    zeros = (returns - (returns.sum(1, keepdims=True) - returns) / 3)[..., 1].ravel()
    ours = np.array([one[1] if len(one) > 1 else 0.0 for one in turn_advantages(rewards, 4, scale="none")])
    score = (left - q) * goes
    assert (score * ours).mean() == pytest.approx((score * zeros).mean(), abs=0.005)
    assert (score * ours).var() < 0.8 * (score * zeros).var()


def test_groups_do_not_see_each_other():
    generator = np.random.default_rng(2)
    rewards = [generator.random(generator.integers(1, 5)).tolist() for _ in range(8)]
    together = turn_advantages(rewards, 4)
    apart = turn_advantages(rewards[:4], 4) + turn_advantages(rewards[4:], 4)
    assert all(np.array_equal(a, b) for a, b in zip(together, apart, strict=True))


@pytest.mark.parametrize(("count", "size"), [(3, 2), (4, 1)])
def test_rollouts_that_are_no_whole_groups_are_refused(count, size):
    with pytest.raises(ValueError, match=f"{count} rollouts in groups of {size}"):
        turn_advantages([[1.0]] * count, size)


@pytest.mark.parametrize("credit", ["segment", "turn", "trajectory"])
def test_the_advantages_of_a_group_are_those_of_its_credit(credit):
    group = [judged([{"trust": 0.3}, {"look": 0.1}], [0]), judged([{"trust": -0.1}], [0]), judged([{}], [])]
    rows = advantages(group * 2, credit, gamma=0.9, group_size=3)
    turns = turn_advantages([turn_rewards(one) for one in group * 2], 3, 0.9)
    labels = label_advantages([label_rewards(one) for one in group * 2], 3)
    totals = trajectory_advantages([one.total for one in group * 2], 3)
    for i, row in enumerate(rows):
        expected = np.full(len(turns[i]), totals[i]) if credit == "trajectory" else turns[i]
        np.testing.assert_allclose(row.turns, expected)
        np.testing.assert_allclose(row.labels, labels[i] if credit == "segment" else np.full(len(turns[i]), np.nan))
    with pytest.raises(ValueError, match="credit='token': choose one of segment, turn, trajectory"):
        advantages(group, "token")


def test_labels_are_paid_at_the_turns_that_gave_them_and_a_wrong_list_is_no_missing_one():
    per_turn = [{"trust": 0.0}, {"trust": 0.3}, {"trust": 0.0}, {"trust": 0.0}]
    np.testing.assert_allclose(label_rewards(judged(per_turn, [1, 2])), [np.nan, 0.09, 0.0, np.nan])
    np.testing.assert_allclose(label_rewards(judged(per_turn, [1]), Weights(process=0.5))[1], 0.15)


def test_labels_compete_with_the_labels_of_the_other_rollouts_alone():
    nan = np.nan
    rewards = [[nan, 0.09], [nan, 0.03, 0.09], [nan], [nan, 0.0, nan]]
    found = label_advantages(rewards, 4)
    deviation = np.std([0.09, 0.03, 0.09, 0.0], ddof=1) + EPSILON
    others = np.mean([0.03, 0.09, 0.0])
    np.testing.assert_allclose(found[0], [nan, (0.09 - others) / deviation])
    np.testing.assert_allclose(found[1][1:], (np.array([0.03, 0.09]) - np.mean([0.09, 0.0])) / deviation)
    np.testing.assert_allclose(found[3], [nan, (0.0 - np.mean([0.09, 0.03, 0.09])) / deviation, nan])
    assert np.isnan(found[2]).all() and len(found) == 4
    alone = label_advantages([[nan, 0.09], [nan]], 2)
    np.testing.assert_allclose(alone[0], [nan, 0.0])
    same = label_advantages([[0.09], [0.09]] * 2, 2)
    np.testing.assert_allclose(np.concatenate(same), 0.0)
