"""Rewards against figures worked out by hand, the ways to cheat that earn nothing, and who gets the credit."""

import math

import numpy as np
import pytest
from environment_fakes import NO_BOXES
from hypothesis import given, settings
from hypothesis import strategies as st

from reverse_lib.geo import box_iou
from reverse_lib.profiles import Weights
from reverse_lib.reward import (
    Breakdown,
    advantages,
    evidence_mcc,
    label_advantages,
    label_rewards,
    returns_to_go,
    score,
    trajectory_advantages,
    turn_advantages,
    turn_rewards,
)
from reverse_lib.reward.credit import EPSILON
from reverse_lib.trajectory import Observation, Step, Trajectory

ANSWER = "<answer>Ocean, , 0, 0</answer>"
REGION = [100, 100, 300, 200]
URLS = [f"https://example.org/{name}" for name in "abcd"]

# Boxes


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], 1.0),
        ([0, 0, 10, 10], [5, 0, 15, 10], 50 / 150),
        ([0, 0, 10, 10], [2, 2, 7, 6], 20 / 100),
        ([0, 0, 10, 10], [5, 5, 15, 15], 25 / 175),
        ([0, 0, 10, 10], [10, 0, 20, 10], 0.0),
        ([0, 0, 10, 10], [11, 11, 20, 20], 0.0),
        ((0.0, 0.0, 10.0, 10.0), [5.5, 0.0, 15.5, 10.0], 45 / 155),
    ],
)
def test_iou_is_the_shared_area_over_the_joint_area(a, b, iou):
    assert box_iou(a, b) == box_iou(b, a) == pytest.approx(iou)


def test_what_is_no_box_overlaps_with_nothing_and_never_raises():
    for box in NO_BOXES:
        assert box_iou(box, [0, 0, 9, 9]) == box_iou([0, 0, 9, 9], box) == box_iou(box, box) == 0.0, box


@settings(deadline=None)
@given(st.lists(st.floats(0, 1000), min_size=8, max_size=8))
def test_iou_is_symmetric_and_between_0_and_1(edges):
    assert 0 <= box_iou(edges[:4], edges[4:]) == box_iou(edges[4:], edges[:4]) <= 1


# Labels


@pytest.mark.parametrize(
    ("predicted", "useful", "n", "mcc"),
    [
        ([1], {1}, 3, 1.0),
        ([2, 3], {1}, 3, -1.0),
        ([1], {1, 2}, 4, 2 / math.sqrt(12)),  # TP 1, FP 0, FN 1, TN 2
        ([1, 2], {1}, 4, 2 / math.sqrt(12)),  # TP 1, FP 1, FN 0, TN 2
        ([1, 3], {1, 2}, 4, 0.0),  # TP 1, FP 1, FN 1, TN 1
        ([3], {1}, 5, -1 / 4),  # TP 0, FP 1, FN 1, TN 3
        ([1, 2, 3], {1, 2, 3}, 3, 1.0),  # everything is useful, everything is called so
        ([1, 2], {1, 2, 3}, 3, 0.0),
        ([], {1, 2, 3}, 3, 0.0),
        ([], set(), 3, 1.0),  # nothing is useful, nothing is called so
        ([1], set(), 3, 0.0),
        ([1, 2, 3], set(), 3, 0.0),
        ([1, 2, 3], {1}, 3, 0.0),
        ([], {1}, 3, 0.0),
        (None, {1}, 3, 0.0),  # no tag
        (None, set(), 3, 0.0),
        (None, {1, 2, 3}, 3, 0.0),
        ([], set(), 0, 1.0),
        ([1], set(), 0, 0.0),
        ([1, 1, 1], {1, 2}, 4, 2 / math.sqrt(12)),  # duplicates count once
        ([3, 3], {1}, 5, -1 / 4),
        ([1, 9], {1, 2}, 4, (1 * 2 - 1 * 1) / math.sqrt(2 * 2 * 3 * 3)),  # position 9 of 4 is a false positive
        ([9], set(), 3, 0.0),
        ([1, 2, 3, 4], {1, 2, 3}, 3, 0.0),
        ([0], {1}, 2, -1 / math.sqrt(2 * 2)),  # TP 0, FP 1, FN 1, TN 1
        ([True], {1}, 3, -1 / math.sqrt(1 * 1 * 3 * 3)),
        ("1", {1}, 3, 0.0),
        ({1}, {1, 8}, 3, 1.0),
        ([np.int64(1)], {1}, 3, 1.0),
    ],
)
def test_mcc_is_met_by_hand(predicted, useful, n, mcc):
    assert evidence_mcc(predicted, useful, n) == pytest.approx(mcc)


@pytest.mark.parametrize("junk", ["1", 1.0, math.nan, None, [1], {}, 10**5000, -1, 0, 99], ids=type)
def test_a_label_that_was_never_shown_never_pays(junk):
    for useful in ({1}, {1, 2}, {1, 2, 3}, set()):
        for called in ([], [1], [2], [1, 2], [1, 2, 3]):
            assert evidence_mcc([*called, junk], useful, 3) <= evidence_mcc(called, useful, 3)


@settings(deadline=None)
@given(st.integers(0, 8), st.sets(st.integers(1, 8)), st.lists(st.integers(-3, 12)), st.integers(9, 10**30))
def test_mcc_stays_between_minus_1_and_1_and_no_stranger_raises_it(n, useful, called, stranger):
    plain = evidence_mcc(called, useful, n)
    assert -1 <= evidence_mcc([*called, stranger], useful, n) <= plain + 1e-12 <= 1 + 1e-12
    assert plain == evidence_mcc(called * 2, useful, n)


@settings(deadline=None)
@given(st.integers(1, 8), st.data())
def test_mcc_is_the_correlation_of_the_two_label_vectors(n, data):
    useful = data.draw(st.sets(st.integers(1, n), min_size=1, max_size=max(n - 1, 1)))
    called = data.draw(st.sets(st.integers(1, n), min_size=1, max_size=max(n - 1, 1)))
    vectors = np.array([[i in labels for i in range(1, n + 1)] for labels in (useful, called)], dtype=float)
    if n > 1:
        assert evidence_mcc(sorted(called), useful, n) == pytest.approx(np.corrcoef(vectors)[0, 1])


# Whole rollouts


def results(urls, useful=()):
    return [{"title": url, "url": url, "useful": position in useful} for position, url in enumerate(urls, 1)]


def zoom(box, **facts):
    return Observation("image_zoom_in_tool", {"bbox_2d": box}, **{"status": "ok", **facts})


def image_search(box, urls=(), useful=(), **facts):
    rest = {"status": "ok" if urls else "miss", "labelled": True, "results": results(urls, useful), **facts}
    return Observation("image_search_tool", {"bbox_2d": box}, **rest)


def text_search(query, urls=(), useful=(), **facts):
    rest = {"status": "ok" if urls else "miss", "labelled": True, "results": results(urls, useful), **facts}
    return Observation("text_search_tool", {"query": query}, **rest)


def rollout(*seen, labels=None, last=ANSWER, **truth):
    """A rollout in the grammar: a call a turn with what came back, then the answer; labels[i] judge call i."""
    steps, tag = [], ""
    for i, observation in enumerate(seen):
        steps.append(Step(f"<think>a</think>{tag}{call(observation.tool)}", observation))
        owed = observation.owes_labels and (labels or {}).get(i) is not None
        tag = f"<useful>{labels[i]}</useful>" if owed else ""
    steps.append(Step(f"<think>a</think>{tag}{last}"))
    return Trajectory("p", steps, **{"lat": 0.0, "lon": 0.0, "regions": [REGION], "evidence": URLS, **truth})


def call(tool):
    return f'<tool_call>{{"name": "{tool}", "arguments": {{}}}}</tool_call>'


def test_a_whole_rollout_is_scored_by_hand():
    breakdown = score(
        rollout(
            zoom([100, 100, 300, 300]),  # IoU 0.5
            image_search(REGION, ["x", "y", "z"], {2}),  # IoU 1, so 0.5 more
            text_search("q", [URLS[0], "u", "v", "w"], {1, 2}),  # a quarter of the evidence
            labels={1: [2], 2: [1]},  # MCC 1 and 2 / sqrt(12)
            last="<answer>Ocean, , 0, 0.116911</answer>",  # 13 km
        )
    )
    mcc = 2 / math.sqrt(12)
    assert breakdown.accuracy == pytest.approx(0.9, abs=1e-5)
    assert breakdown.format == 1.0
    assert breakdown.look == pytest.approx(0.2)
    assert breakdown.query == pytest.approx(0.025)
    assert breakdown.trust == pytest.approx(0.3 + 0.3 * mcc)
    assert breakdown.errors == 0.0
    assert breakdown.process == pytest.approx(0.2 + 0.025 + 0.3 + 0.3 * mcc)
    assert breakdown.total == pytest.approx(0.6 * 0.9 + 0.1 + 0.3 * (0.525 + 0.3 * mcc), abs=1e-5)
    assert breakdown.box_iou == 1.0
    assert breakdown.evidence_mcc == pytest.approx((1 + mcc) / 2)
    assert not breakdown.service_error
    expected = [
        {"look": 0.1, "query": 0.0, "trust": 0.0, "error": 0.0},
        {"look": 0.1, "query": 0.0, "trust": 0.0, "error": 0.0},
        {"look": 0.0, "query": 0.025, "trust": 0.3, "error": 0.0},
        {"look": 0.0, "query": 0.0, "trust": 0.3 * mcc, "error": 0.0},
    ]
    assert breakdown.per_turn == [pytest.approx(turn) for turn in expected]


def test_a_direct_answer_earns_accuracy_and_the_whole_format():
    breakdown = score(rollout())
    assert (breakdown.accuracy, breakdown.format, breakdown.process) == (1.0, 1.0, 0.0)
    assert breakdown.total == pytest.approx(0.7)
    assert breakdown.box_iou == 0.0
    assert math.isnan(breakdown.evidence_mcc)


def test_weights_are_taken_from_the_argument():
    weights = Weights(accuracy=1, format=2, process=4, look=0.5, query=0.25, trust=0.125, error=-0.0625)
    row = rollout(zoom(REGION), text_search("q", URLS, {1}), zoom([1], status="model_error"), labels={1: [1]})
    breakdown = score(row, weights)
    assert breakdown.process == 0.5 + 0.25 + 0.125 - 0.0625
    assert breakdown.total == 1 + 2 + 4 * breakdown.process


def test_a_look_pays_what_it_adds_to_the_best_before():
    far, half = [500, 500, 600, 600], [100, 100, 300, 300]
    for boxes, gains in [
        ([far, half, REGION], [0, 0.1, 0.1]),
        ([REGION, half, REGION], [0.2, 0, 0]),
        ([half, half, half], [0.1, 0, 0]),
    ]:
        breakdown = score(rollout(*[zoom(box) for box in boxes]))
        assert [turn["look"] for turn in breakdown.per_turn] == pytest.approx([*gains, 0])
        assert breakdown.box_iou == pytest.approx(sum(gains) / 0.2)


def test_a_box_is_compared_with_every_region_and_pays_for_the_best():
    row = rollout(image_search([400, 400, 600, 600]), regions=[[0, 0, 9, 9], [400, 400, 600, 500], [410, 0, 420, 9]])
    assert score(row).look == pytest.approx(0.1)
    none = score(rollout(zoom(REGION), regions=[]))
    assert none.look == 0.0 and math.isnan(none.box_iou)


@pytest.mark.parametrize("see", [zoom, image_search])
def test_a_malformed_box_is_scored_as_looking_nowhere(see):
    for box in NO_BOXES:
        breakdown = score(rollout(see(box), see(REGION)))
        assert [turn["look"] for turn in breakdown.per_turn] == pytest.approx([0, 0.2, 0]), box
        assert breakdown.process == pytest.approx(0.2)


def test_calls_without_a_box_look_nowhere_and_malformed_regions_are_never_met():
    for arguments in ({}, {"bbox_2d": {"a": 1}}, [1, 2], None, {"bbox": REGION}):
        assert score(rollout(Observation("image_zoom_in_tool", arguments, "ok"))).look == 0.0
    assert score(rollout(zoom(REGION), regions=["abcd", [1, 2], [math.nan] * 4, REGION])).look == pytest.approx(0.2)


def test_a_call_refused_pays_nothing_and_costs_5_hundredths():
    breakdown = score(rollout(zoom(REGION, status="model_error"), text_search("q", URLS, status="model_error")))
    assert (breakdown.look, breakdown.query, breakdown.errors) == (0.0, 0.0, pytest.approx(-0.1))
    assert [turn["error"] for turn in breakdown.per_turn] == [-0.05, -0.05, 0.0]
    assert breakdown.total == pytest.approx(0.6 + 0.1 - 0.3 * 0.1)


def test_a_text_search_pays_for_evidence_that_is_new_in_this_rollout():
    row = rollout(
        text_search("a", [URLS[0], URLS[0], "x"]),
        text_search("b", [URLS[0], URLS[1], URLS[2]]),
        text_search("c", URLS[:3]),
        image_search([0, 0, 9, 9], [URLS[3]]),
        text_search("d", URLS),
        evidence=[*URLS, URLS[0]],
    )
    assert [turn["query"] for turn in score(row).per_turn] == pytest.approx([0.025, 0.05, 0, 0, 0.025, 0])


def test_no_evidence_no_pay_for_queries():
    assert score(rollout(text_search("a", URLS), evidence=[])).query == 0.0
    assert score(rollout(text_search("a", [], status="miss"))).query == 0.0
    hostile = text_search("a", status="ok", results=[{}, {"url": None}, {"url": ["x"]}, {"url": 3}])
    assert score(rollout(hostile)).query == 0.0


@pytest.mark.parametrize("flagged", [True, False])
def test_a_repeated_call_earns_nothing(flagged):
    first = text_search("a", ["x", "y"], {1})
    again = text_search("a", [*URLS, "z"], {1}, repeated=flagged)
    breakdown = score(rollout(first, again, labels={0: [1], 1: [1]}))
    assert [turn["trust"] for turn in breakdown.per_turn] == pytest.approx([0, 0.3, 0])
    assert breakdown.query == 0.0
    assert breakdown.evidence_mcc == 1.0


def test_a_call_made_again_after_it_was_refused_is_no_repetition():
    row = rollout(text_search("a", status="model_error"), text_search("a", URLS, {1}), labels={1: [1]})
    assert (score(row).query, score(row).trust) == (pytest.approx(0.1), pytest.approx(0.3))


def test_a_search_that_shows_nothing_new_does_not_pay_for_its_labels_again():
    row = rollout(
        text_search("a", ["x", "y", "z"], {1}),
        text_search("b", ["y", "x"], {2}),
        text_search("c", ["z", "new"], {1}),
        labels={0: [1], 1: [2], 2: [1]},
    )
    assert [turn["trust"] for turn in score(row).per_turn] == pytest.approx([0, 0.3, 0, 0.3])


def test_labels_on_later_turns_do_not_earn_again():
    row = rollout(text_search("a", ["x", "y"], {1}), zoom(REGION), zoom(REGION), labels={0: [1]})
    for step in row.steps[2:]:
        step.text = step.text.replace("</think>", "</think><useful>[1]</useful>")
    breakdown = score(row)
    assert [turn["trust"] for turn in breakdown.per_turn] == pytest.approx([0, 0.3, 0, 0])
    assert breakdown.format == 0.8


@pytest.mark.parametrize("tags", ["<useful>[1]</useful><useful>[1]</useful>", "<useful>[1, 1]</useful>", "<useful>[1]"])
def test_a_tag_that_is_repeated_or_broken_earns_nothing(tags):
    row = rollout(text_search("a", ["x", "y"], {1}))
    row.steps[1].text = f"<think>a</think>{tags}{ANSWER}"
    assert score(row).trust == 0.0
    assert score(row).format < 1.0


@pytest.mark.parametrize("useful", [set(), {1}, {1, 2}])
def test_saying_nothing_never_pays(useful):
    row = rollout(text_search("a", ["x", "y"], useful))
    breakdown = score(row)
    assert (breakdown.trust, breakdown.evidence_mcc, breakdown.format) == (0.0, 0.0, 0.8)
    row.steps[1].text = ""
    assert (score(row).trust, score(row).total) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("found", "trust"),
    [
        (text_search("a", ["x", "y"], labelled=False), 0.0),
        (text_search("a", status="miss"), 0.0),
        (text_search("a", status="ok"), 0.0),
        (text_search("a", ["x", "y"]), 0.3),
    ],
    ids=["unlabelled", "miss", "empty", "none useful"],
)
def test_an_empty_list_pays_only_where_labelled_results_were_useless(found, trust):
    breakdown = score(rollout(found, labels={0: []}))
    assert breakdown.trust == pytest.approx(trust)
    assert math.isnan(breakdown.evidence_mcc) == (trust == 0)
    assert breakdown.format == 1.0


def test_wrong_labels_cost_and_positions_never_shown_do_not_help():
    wrong = score(rollout(text_search("a", ["x", "y"], {1}), labels={0: [2]}))
    assert wrong.trust == pytest.approx(-0.3)
    assert score(rollout(text_search("a", ["x", "y"], {1}), labels={0: [1, 7]})).trust < 0.3


def test_labels_still_owed_when_the_rollout_ends_count_as_missing():
    row = rollout(text_search("a", URLS, {1}))
    row.steps.pop()
    breakdown = score(row)
    assert (breakdown.evidence_mcc, breakdown.trust, breakdown.format) == (0.0, 0.0, 0.0)
    assert breakdown.total == pytest.approx(0.3 * 0.1)


def test_the_process_part_is_clipped_at_both_ends():
    good = [text_search(str(i), [f"{i}x", f"{i}y"], {1}) for i in range(4)]
    breakdown = score(rollout(*good, labels=dict.fromkeys(range(4), [1])))
    assert (breakdown.trust, breakdown.process) == (pytest.approx(1.2), 1.0)
    bad = score(rollout(*[zoom(i, status="model_error") for i in range(12)]))
    assert (bad.errors, bad.process) == (pytest.approx(-0.6), -0.5)
    assert bad.total == pytest.approx(0.7 - 0.15)


@pytest.mark.parametrize(
    ("last", "form"),
    [
        (f"<think>a</think>{ANSWER}", 1.0),
        (f"<think>a</think>{ANSWER} bye", 0.8),
        (f"<think>a</think><useful>[1]</useful>{ANSWER}", 0.8),
        (f"{ANSWER}<think>a</think>", 0.8),
        (ANSWER, 0.0),
        (f"<think>a</thin>{ANSWER}", 0.0),
        (f"<think>{ANSWER}</think>", 0.0),
        (f"<think>a</think>{ANSWER}{ANSWER}", 0.0),
        ("<think>a</think><answer>Ocean, , 0, 181</answer>", 0.0),
        ("<think>a</think>", 0.0),
        ("", 0.0),
    ],
)
def test_format_is_complete_partial_or_nothing(last, form):
    row = Trajectory("p", [Step(f"<think>a</think>{call('image_zoom_in_tool')}", zoom(REGION)), Step(last)], 0.0, 0.0)
    assert score(row).format == form


def test_format_needs_a_think_in_every_turn_and_a_single_answer():
    row = rollout(zoom(REGION))
    row.steps[0].text = call("image_zoom_in_tool")
    assert score(row).format == 0.0
    twice = Trajectory("p", [Step(f"<think>a</think>{ANSWER}")] * 2, 0.0, 0.0)
    assert (score(twice).format, score(twice).accuracy) == (0.0, 0.0)
    assert score(Trajectory("p", [], 0.0, 0.0)).total == 0.0


def test_a_failed_service_is_an_error_and_never_a_zero():
    breakdown = score(rollout(text_search("a", status="service_error"), last=""))
    assert breakdown.service_error
    assert math.isnan(breakdown.total)
    assert breakdown.errors == 0.0


def test_without_a_truth_there_is_no_total():
    breakdown = score(rollout(zoom(REGION), lat=None, lon=None))
    assert math.isnan(breakdown.accuracy) and math.isnan(breakdown.total)
    assert (breakdown.format, breakdown.look) == (1.0, pytest.approx(0.2))
    row = breakdown.to_dict()
    assert (row["accuracy"], row["total"], row["format"], row["evidence_mcc"]) == (None, None, 1.0, None)
    assert row["per_turn"] == breakdown.per_turn


@settings(deadline=None)
@given(st.lists(st.text("<>/thinkusefl[]12, ") | st.just(f"<think></think>{ANSWER}"), max_size=4), st.data())
def test_any_rollout_has_a_score_within_its_bounds(texts, data):
    boxes = st.sampled_from([REGION, *NO_BOXES])
    seen = st.none() | boxes.map(zoom) | st.lists(st.sampled_from(URLS)).map(lambda urls: text_search("q", urls, {1}))
    row = Trajectory("p", [Step(text, data.draw(seen)) for text in texts], 0.0, 0.0, regions=[REGION], evidence=URLS)
    breakdown = score(row)
    assert -0.15 <= breakdown.total <= 1.0
    assert len(breakdown.per_turn) == len(texts)
    parts = sum(sum(turn.values()) for turn in breakdown.per_turn)
    assert parts == pytest.approx(breakdown.look + breakdown.query + breakdown.trust + breakdown.errors)


def test_scoring_changes_nothing_and_is_repeatable():
    row = rollout(zoom(REGION), text_search("q", URLS, {1}), labels={1: [1]})
    before = row.to_dict()
    assert score(row) == score(row)
    assert row.to_dict() == before


# Credit


def broken_down(per_turn, accuracy=1.0, judged=()):
    process = float(np.clip(sum(sum(turn.values()) for turn in per_turn), -0.5, 1))
    total = 0.6 * accuracy + 0.1 + 0.3 * process
    return Breakdown(accuracy, 1.0, 0, 0, 0, 0, process, total, per_turn, list(judged))


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


def gradients(generator, groups=20_000, size=4):
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
    goes, left, rewards, (p, q) = bandit(np.random.default_rng(1), 4_000, 4)
    returns = np.array([(list(returns_to_go(one)) + [0.0])[:2] for one in rewards]).reshape(-1, 4, 2)
    zeros = (returns - (returns.sum(1, keepdims=True) - returns) / 3)[..., 1].ravel()
    ours = np.array([one[1] if len(one) > 1 else 0.0 for one in turn_advantages(rewards, 4, scale="none")])
    score = (left - q) * goes
    assert (score * ours).mean() == pytest.approx((score * zeros).mean(), abs=0.01)
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
    group = [
        broken_down([{"trust": 0.3}, {"look": 0.1}], judged=[0]),
        broken_down([{"trust": -0.1}], judged=[0]),
        broken_down([{}], judged=[]),
    ]
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
    np.testing.assert_allclose(label_rewards(broken_down(per_turn, judged=[1, 2])), [np.nan, 0.09, 0.0, np.nan])
    np.testing.assert_allclose(label_rewards(broken_down(per_turn, judged=[1]), Weights(process=0.5))[1], 0.15)


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
