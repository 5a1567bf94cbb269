"""GRPO on the tiny model: what was called, what it earned, who was credited, what was trained on, what stops a run."""

import dataclasses
import gc
import itertools
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from environment_fakes import Scripted
from grpo_scripts import AGENT, DOUBT, SCRIPTS, flat, scripted_trainer, train_agent
from models import (
    BROKEN,
    EVIDENCE,
    GUESS,
    RIGHT,
    SEARCH,
    ZOOM,
    KnownSearch,
    drawn_photo,
    untrained,
)

from reverse_lib.environment import TINY, UNREADABLE, rollout
from reverse_lib.geo import accuracy_reward, haversine_km
from reverse_lib.models import load_model
from reverse_lib.photos import Photo
from reverse_lib.profiles import GrpoConfig, Weights
from reverse_lib.reward import (
    CREDITS,
    Advantages,
    Breakdown,
    advantages,
    label_advantages,
    label_rewards,
    score,
    trajectory_advantages,
    turn_advantages,
    turn_rewards,
)
from reverse_lib.training import grpo, speed
from reverse_lib.training.common import PARTS, read_rows

KNOWN = "<think>Spain? I know it.</think><answer>Spain, Valencia, 39.47, -0.38</answer>"
ZERO = dict(accuracy=0.0, format=0.0, process=0.0, look=0.0, query=0.0, trust=0.0, error=0.0)
ALONE = {
    "accuracy": Weights(**ZERO | {"accuracy": 0.6}),
    "format": Weights(**ZERO | {"format": 0.1}),
    "look": Weights(**ZERO | {"process": 0.3, "look": 0.2}),
    "query": Weights(**ZERO | {"process": 0.3, "query": 0.1}),
    "trust": Weights(**ZERO | {"process": 0.3, "trust": 0.3}),
}
# four rollouts that earn the same by the component named and differ by others
ALIKE_IN = {
    "accuracy": ([ZOOM, SEARCH, RIGHT], [SEARCH, RIGHT], [KNOWN], [BROKEN, KNOWN]),
    "format": ([ZOOM, SEARCH, RIGHT], [GUESS], [SEARCH, RIGHT], [SEARCH, DOUBT]),
    "look": ([SEARCH, RIGHT], [GUESS], [BROKEN, GUESS], [SEARCH, DOUBT]),
    "query": ([ZOOM, GUESS], [GUESS], [BROKEN, GUESS], [KNOWN]),
    "trust": ([ZOOM, GUESS], [GUESS], [BROKEN, GUESS], [KNOWN]),
}


def calls_of(trainer) -> list[int]:
    """How many turns of each rollout were answered."""
    return [sum(step.observation is not None for step in t.steps) for t in trainer.rollouts]


def turns_of(trust: float) -> Breakdown:
    """A rollout of one turn."""
    return Breakdown(0, 0, 0, 0, trust, 0, trust, 0.3 * trust, [{"trust": trust}], [0])


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """A trainer after its step, by credit; for reading only."""
    trainers = {}
    for credit in CREDITS:
        trainers[credit] = scripted_trainer(tmp_path_factory.mktemp(credit), credit=credit)
        trainers[credit].train()
    return trainers


@pytest.fixture
def untaught(tmp_path):
    return scripted_trainer(tmp_path)


def alike(gradient, other, cosine=0.999, norm=0.01) -> bool:
    close = torch.nn.functional.cosine_similarity(gradient, other.float(), dim=0) > cosine
    return bool(close) and gradient.norm().item() == pytest.approx(other.norm().item(), rel=norm)


def test_tools_are_called_as_written_and_environments_know_it(steps):
    for trainer in steps.values():
        logs = [[s.observation.tool for s in t.steps if s.observation] for t in trainer.rollouts]
        zoom, text = "image_zoom_in_tool", "text_search_tool"
        assert logs == [[zoom, text], [], [text], [UNREADABLE, text]]
        assert [t.end for t in trainer.rollouts] == ["answered"] * 4
        assert trainer.rollouts[0].steps[1].observation.useful == {2}


def test_what_rollouts_did_is_logged_and_one_cut_off_is_not_answered(tmp_path, steps):
    cut = ["<think>Spain and on and on…"]
    scripts = ([SEARCH, RIGHT], [SEARCH, SEARCH, GUESS], cut, [SEARCH, DOUBT])  # nobody zooms
    trainer = scripted_trainer(tmp_path, scripts, weights=ALONE["trust"])
    trainer.train()
    assert calls_of(trainer) == [1, 2, 0, 1]
    assert [step.observation.repeated for step in trainer.rollouts[1].steps[:2]] == [False, True]
    assert trainer.rollouts[2].end == "format" and trainer.breakdowns[2].format == 0
    assert trainer.breakdowns[0].trust > 0 > trainer.breakdowns[3].trust
    expected = {
        "calls/zoom": 0,
        "calls/image": 0,
        "calls/text": 1,
        "calls/repeated": 1 / 4,
        "calls/missed": 0,
        "turns/unreadable": 0,
        "rollouts/answered": 3 / 4,
        "rollouts/truncated": 1 / 4,
        "reward": 0.3 * (0.3 - 0.3) / 4,  # by the weights it was given
    }
    assert {name: trainer.rows[0][name] for name in expected} == pytest.approx(expected, abs=1e-6)
    usual = steps["turn"].rows[0]
    assert usual["turns/unreadable"] == pytest.approx(1 / 9) and usual["calls/zoom"] == 1 / 4
    assert {f"seconds/{part}" for part in PARTS} <= set(usual)


def test_photos_are_opened_ahead_in_the_background_once_for_their_group_and_let_go_after(tmp_path, monkeypatch):
    opened, load, main = [], Photo.load, threading.main_thread()

    def noting(photo):
        opened.append((photo.photo_id, threading.current_thread() is main))
        return load(photo)

    monkeypatch.setattr(Photo, "load", noting)
    elsewhere = ZOOM.replace("[100, 200, 300, 400]", "[500, 500, 700, 800]")
    scripts = ([ZOOM, GUESS], [elsewhere, GUESS], [ZOOM, elsewhere, GUESS])
    trainer = scripted_trainer(tmp_path, scripts, photos=[drawn_photo(f"photo-{i}") for i in range(3)], steps=3)
    trainer.train()
    trainer.close()
    assert [photo_id for photo_id, _ in opened] == [photo.photo_id for photo in trainer._order]
    assert [in_main for _, in_main in opened] == [True, False, False]
    zooms = [key[2][:22] for key in trainer._album._drawn if key[1] == "show_zoom"]
    assert zooms == ["([100, 200, 300, 400],", "([500, 500, 700, 800],"] * 3
    gc.collect()
    assert not trainer._album._opened


def test_every_component_reaches_the_trainer_and_the_total_is_theirs(steps):
    trainer = steps["turn"]
    row, first = trainer.rows[0], trainer.breakdowns[0]
    assert first.accuracy == 1 and first.format == 1 and first.box_iou == 1 and first.evidence_mcc == 1
    # zoom on the region 0.2, all of the one useful page 0.1, labels right 0.3
    assert first.total == pytest.approx(0.6 + 0.1 + 0.3 * (0.2 + 0.1 + 0.3))
    km = haversine_km(39.47, -0.38, -33.45, -70.66)
    guessed = 0.6 * accuracy_reward(km)
    assert trainer.breakdowns[1].total == pytest.approx(guessed + 0.1)
    assert trainer.breakdowns[3].total == pytest.approx(0.6 + 0.1 * 0.8 + 0.3 * (0.1 + 0.3 - 0.05))
    totals = [b.total for b in trainer.breakdowns]
    assert row["reward"] == pytest.approx(sum(totals) / 4, abs=1e-5)
    for name in grpo.COMPONENTS:
        values = [getattr(b, name) for b in trainer.breakdowns]
        assert row[f"rewards/{name}/mean"] == pytest.approx(sum(values) / 4, abs=1e-5)
    assert trainer.rollouts[0].evidence == [EVIDENCE]


def test_only_tokens_the_model_wrote_are_trained_on(steps):
    trainer = steps["turn"]
    output = trainer.recorded[0]
    for row, turns in enumerate(SCRIPTS):
        mask = (output["tool_mask"][row] * output["completion_mask"][row]).bool()
        written = trainer._tokenizer.decode(output["completion_ids"][row][mask].tolist())
        assert written == "".join(text + "<|im_end|>" for text in turns)
        assert torch.all(output["advantages"][row][~mask] == 0)


def test_each_token_has_the_advantage_of_its_turn(steps):
    trainer = steps["turn"]
    output = trainer.recorded[0]
    expected = turn_advantages([turn_rewards(breakdown) for breakdown in trainer.breakdowns], 4)
    mask = (output["tool_mask"] * output["completion_mask"]).bool()
    for row, (turns, values) in enumerate(zip(SCRIPTS, expected, strict=True)):
        lengths = [len(trainer._tokenizer(text + "<|im_end|>")["input_ids"]) for text in turns]
        wanted = torch.tensor(np.repeat(values, lengths), dtype=torch.float32)
        torch.testing.assert_close(output["advantages"][row][mask[row]], wanted)
    zoom, search, answer = expected[0]
    assert zoom > answer > 0 and search > 0 > expected[1].max()


def test_with_segment_credit_the_labels_push_themselves_and_the_thought_before_them_and_turns_all_else(steps):
    trainer, usual = steps["segment"], steps["turn"]
    output, tokenizer = trainer.recorded[0], trainer._tokenizer
    found, by_turn = output["advantages"], usual.recorded[0]["advantages"]
    paid = [label_rewards(breakdown) for breakdown in trainer.breakdowns]
    expected = [values[np.isfinite(values)] for values in label_advantages(paid, 4)]
    assert [len(values) for values in expected] == [1, 0, 1, 1]
    for row, values in enumerate(expected):
        changed = (found[row] != by_turn[row]).nonzero()[:, 0]
        text = tokenizer.decode(output["completion_ids"][row][changed].tolist())
        if len(values):
            think, labels = text.split("<useful>")
            assert think.startswith("<think>") and think.endswith("</think>") and labels.endswith("</useful>")
            before = len(tokenizer(think)["input_ids"])
            wanted = torch.full((len(changed),), values[0], dtype=torch.float32)
            wanted[:before] += by_turn[row][changed[:before]]
            torch.testing.assert_close(found[row][changed], wanted)
        else:
            assert text == ""
    assert expected[0] == pytest.approx(expected[3]) and expected[0] > 0 > expected[2]


def test_a_number_that_no_token_has_ends_no_run(untaught):
    trainer = untaught
    trainer.rollouts, trainer.breakdowns = [drawn_photo()] * 2, [turns_of(0.0), turns_of(0.3)]
    ids = torch.tensor([[5, 100_000, 6]] * 2)  # the model's head is wider than its vocabulary
    output = {"completion_ids": ids, "completion_mask": ids * 0 + 1, "tool_mask": ids * 0 + 1}
    trainer.num_generations = 2
    assert (trainer._advantages_by_token(output)[0] < 0).all()


def test_a_model_that_would_write_a_pictures_placeholder_does_not(tmp_path, monkeypatch):
    model, processor = untrained()
    wanted, written = [processor.image_token_id, processor.video_token_id], []

    def craves(_, __, logits):
        logits[..., wanted] += 1e4
        return logits

    model.lm_head.register_forward_hook(craves)
    generate = grpo.GeoGRPOTrainer._generate_single_turn

    def noting(self, *args, **kwargs):
        ids, logps = generate(self, *args, **kwargs)
        written.extend(ids)
        return ids, logps

    monkeypatch.setattr(grpo.GeoGRPOTrainer, "_generate_single_turn", noting)
    config = GrpoConfig(steps=1, prompts_per_step=1, group_size=4, max_turn_tokens=6, save_steps=0)
    grpo.train_grpo(model, processor, [drawn_photo()], KnownSearch(), TINY, config, tmp_path)
    assert len(written) == 4 and not set(wanted) & set(itertools.chain(*written))


def test_with_trajectory_credit_all_turns_of_a_rollout_share_trls_advantage(steps):
    trainer = steps["trajectory"]
    totals = [b.total for b in trainer.breakdowns]
    expected = torch.tensor(trajectory_advantages(totals, 4), dtype=torch.float32)
    torch.testing.assert_close(trainer.recorded[0]["advantages"], expected, atol=1e-4, rtol=1e-4)


def by_hand(advantages, output):
    """Gradient of -sum(A log p) / tokens for the untouched model; advantages (B, T)."""
    model, _ = untrained()
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
    pixels = {key: output[key] for key in ("pixel_values", "image_grid_thw", "mm_token_type_ids")}
    logits = model(input_ids=ids, attention_mask=mask, **pixels).logits[:, output["prompt_ids"].shape[1] - 1 : -1]
    logps = logits.log_softmax(-1).gather(-1, output["completion_ids"][..., None])[..., 0]  # (B, T)
    written = output["completion_mask"] * output["tool_mask"]
    (-(advantages * logps * written).sum() / written.sum()).backward()
    return flat(model)


@pytest.mark.parametrize("credit", CREDITS)
def test_the_gradient_is_that_of_the_advantages(steps, credit):
    output = steps[credit].recorded[0]
    advantages = output["advantages"] if credit != "trajectory" else output["advantages"][:, None]
    assert alike(steps[credit].gradients.found, by_hand(advantages, output), 0.995, 0.03)


@pytest.mark.parametrize("name", ALONE)
def test_a_component_alone_gives_its_own_advantages_and_ignores_what_the_others_earn(steps, name):
    trainer = steps["turn"]
    alone = [score(trajectory, ALONE[name]) for trajectory in trainer.rollouts]
    earned = [[turn.get(name, 0.0) for turn in b.per_turn] for b in trainer.breakdowns]
    if name in ("accuracy", "format"):
        earned = [[*[0.0] * (len(b.per_turn) - 1), getattr(b, name)] for b in trainer.breakdowns]
    totals = trajectory_advantages([getattr(b, name) for b in trainer.breakdowns], 4)
    found = zip(advantages(alone, "turn", ALONE[name]), advantages(alone, "trajectory", ALONE[name]), strict=True)
    for (turn, whole), expected, total in zip(found, turn_advantages(earned, 4), totals, strict=True):
        np.testing.assert_allclose(turn.turns, expected, rtol=0.02)
        np.testing.assert_allclose(whole.turns, total, rtol=0.02)
    photos = [drawn_photo(f"photo-{i}") for i in range(4)]
    same = rollout(Scripted(*ALIKE_IN[name]), photos, KnownSearch())
    for credit in CREDITS:
        for weights, differ in ((ALONE[name], False), (Weights(), True)):
            values = advantages([score(trajectory, weights) for trajectory in same], credit, weights)
            assert max(abs(np.nan_to_num(each)).max() for one in values for each in one) < 1e-9 or differ
            assert any(abs(one.turns).max() > 0.1 for one in values) == differ


def test_a_loss_computed_in_parts_by_length_is_the_whole_one(tmp_path, steps):
    parts, whole = steps["turn"], scripted_trainer(tmp_path, chunks=1)
    whole.train()
    assert alike(parts.gradients.found, whole.gradients.found)
    losses = [[row["loss"] for row in trainer.rows if "loss" in row] for trainer in (parts, whole)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    sizes = [part["completion_ids"].shape for part in grpo.by_length(parts.recorded[0], 3)]
    assert [rows for rows, _ in sizes] == [2, 1, 1] and sizes == sorted(sizes, key=lambda size: size[1])
    assert sizes[0][1] < sizes[-1][1] == parts.recorded[0]["completion_ids"].shape[1]


@pytest.mark.parametrize("credit", ["segment", "trajectory"])
def test_rollouts_in_small_batches_with_activations_computed_again_give_the_step_of_all_at_once(
    tmp_path, steps, credit
):
    whole, small = steps[credit], scripted_trainer(tmp_path, credit=credit, batch_size=1, checkpointing=True)
    small.train()
    assert small.args.gradient_accumulation_steps == 4 and len(small.recorded) == 1
    assert small.accelerator.unwrap_model(small.model).model.language_model.gradient_checkpointing
    assert alike(small.gradients.found, whole.gradients.found)
    row, one = (trainer.rows[0] for trainer in (small, whole))
    assert row["reward"] == pytest.approx(one["reward"]) and row["num_tokens"] == one["num_tokens"]
    assert 0 < row["seconds/own"] < row["seconds/step"]


def test_a_step_changes_language_model_and_vision_and_with_lora_only_adapters(tmp_path, steps):
    adapted = scripted_trainer(tmp_path, lora_rank=4)
    before = {name: value.clone() for name, value in adapted.model.named_parameters()}
    adapted.train()
    for trainer, start in ((steps["turn"], dict(untrained()[0].named_parameters())), (adapted, before)):
        changed = [name for name, value in trainer.model.named_parameters() if not torch.equal(start[name], value)]
        assert any("language_model" in name for name in changed)
        assert any("visual" in name for name in changed) == (trainer is not adapted)
        assert all("lora" in name for name in changed) == (trainer is adapted)


def not_a_number(real):
    return lambda *args: dataclasses.replace(real(*args), total=float("nan"))


def losing(turn):
    return lambda real: lambda messages: real(messages)[:turn]


def last_turns(real):
    return lambda *args: [Advantages(*(values[-1:] for values in one)) for one in real(*args)]


@pytest.mark.parametrize(
    ("name", "broken", "error", "words"),
    [
        ("score", not_a_number, FloatingPointError, "photo-1: the reward is not a number"),
        ("images_of", losing(0), RuntimeError, "photo-1: 48 image tokens, but 0 pictures with 0 features"),
        ("images_of", losing(1), RuntimeError, "photo-1: 62 image tokens, but 1 pictures with 48 features"),  # a zoom
        ("advantages", last_turns, RuntimeError, "photo-1: 1 turns, but 3 in the tokens"),
    ],
)
def test_what_gets_lost_on_the_way_stops_the_run_with_the_photo(untaught, monkeypatch, name, broken, error, words):
    monkeypatch.setattr(grpo, name, broken(getattr(grpo, name)))
    with pytest.raises(error, match=words):
        untaught.train()


def test_a_turn_longer_than_the_room_that_is_left_is_cut_and_ends_its_rollout(tmp_path):
    trainer = scripted_trainer(tmp_path, ([ZOOM, SEARCH, RIGHT], [GUESS]), max_completion_tokens=20)
    trainer.train()
    assert trainer.recorded[0]["completion_ids"].shape[1] == 20
    assert [len(t.steps) for t in trainer.rollouts] == [1, 1]
    for trajectory, text in zip(trainer.rollouts, (ZOOM, GUESS), strict=True):
        assert text.startswith(trajectory.steps[0].text) and trajectory.steps[0].text != text
        assert trajectory.end == "format"


def test_a_tool_result_that_no_longer_fits_ends_its_rollout(tmp_path):
    trainer = scripted_trainer(tmp_path, ([ZOOM, SEARCH, RIGHT], [GUESS]), max_completion_tokens=110)
    trainer.sample()
    assert trainer.rollouts[0].answer is None and trainer.rollouts[1].end == "answered"


def test_without_tools_there_is_one_turn_and_the_prompt_names_none(tmp_path, steps):
    trainer = scripted_trainer(tmp_path, ([KNOWN], [GUESS]), tools=())
    prompts = [trainer.sample()["prompt_ids"][0], steps["turn"].recorded[0]["prompt_ids"][0]]
    assert ["text_search_tool" in trainer._tokenizer.decode(ids) for ids in prompts] == [False, True]
    assert trainer.breakdowns[0].total == pytest.approx(0.7)


def run(*program):
    """A program of the tests in a process of its own."""
    environment = os.environ | {"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, program)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)


def test_a_group_split_over_two_processes_is_trained_on_alike(tmp_path, steps):
    trainer = steps["turn"]
    program = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "tests/grpo_scripts.py", tmp_path / "two.pt"]
    done = run(*program)
    assert done.returncode == 0, done.stderr[-3000:]
    two = torch.load(tmp_path / "two.pt", weights_only=False)
    alone = trainer.recorded[0]["advantages"]
    for row, other in enumerate(itertools.chain(*two["advantages"])):
        width = min(alone.shape[1], len(other))
        torch.testing.assert_close(alone[row, :width], other[:width])
        assert not alone[row, width:].any() and not other[width:].any()
    assert alike(two["gradient"], trainer.gradients.found, norm=0.02)
    row = trainer.rows[0]
    for name in ("reward", "rewards/trust/mean", "calls/text", "turns/unreadable"):
        assert two["row"][name] == pytest.approx(row[name])


def test_a_run_that_was_killed_goes_on_as_if_nothing_had_happened(tmp_path):
    assert run("tests/grpo_scripts.py", tmp_path / "killed", 2).returncode == -9
    assert [row["step"] for row in read_rows(tmp_path / "killed/metrics.jsonl")] == [1, 2]
    assert [path.name for path in (tmp_path / "killed").glob("checkpoint-*")] == ["checkpoint-1"]
    rows, model = train_agent(tmp_path / "killed")
    whole, other = train_agent(tmp_path / "whole")

    def facts(rows):
        timed = ("seconds/", "train_", "step_time", "profiling/")
        return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows if "reward" in row]

    assert [row["step"] for row in rows if "reward" in row] == [1, 2]
    assert facts(rows) == facts(whole) == facts(read_rows(tmp_path / "killed/metrics.jsonl"))
    assert len({row["num_tokens"] for row in facts(whole)}) == 2 and any(row.get("grad_norm") for row in whole)
    for (name, value), (_, expected) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(value, expected), name
    fresh = load_model(AGENT)
    fresh.load_state_dict(model.state_dict())
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():  # in float32 again, not in the bfloat16 of training
        assert torch.equal(model.eval()(input_ids=ids).logits, fresh.eval()(input_ids=ids).logits)
    assert not list((tmp_path / "killed").glob("checkpoint-*"))


def test_a_checkpoint_of_other_settings_is_not_continued(tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "settings.json").write_text(json.dumps({"seed": 1}))
    assert grpo._interrupted(tmp_path, {"seed": 2}) is None and not (tmp_path / "checkpoint-1").exists()
    (tmp_path / "checkpoint-4").mkdir()
    assert grpo._interrupted(tmp_path, {"seed": 2}) == str(tmp_path / "checkpoint-4")


def test_where_the_time_went_is_shares_of_the_steps_after_the_first():
    row = {"seconds/step": 10.0, "seconds/generate": 6.0, "seconds/tools": 0.1, "seconds/own": 0.1}
    rows = [row | {"seconds/step": 99.0, "num_tokens": 100.0}, row | {"num_tokens": 300.0}, row | {"num_tokens": 700.0}]
    found = speed([*rows, {"train_loss": 0.0}], rollouts_per_step=64)
    expected = {
        "rollouts_per_s": 6.4,
        "tokens_per_s": 30.0,
        "generate": 0.6,
        "tools": 0.01,
        "own": 0.02,
        "update": 0.38,
    }
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "levels", "message"),
    [
        ({}, None, "1 photos for steps of 8"),
        ({"prompts_per_step": 1, "credit": "token"}, None, "grpo.credit='token': choose one of segment, turn"),
        ({"prompts_per_step": 1, "scale": "all"}, None, "grpo.scale='all': choose one of group, batch, none"),
        ({"prompts_per_step": 1}, ["easy", "hard"], "2 levels for 1 photos"),
        ({"prompts_per_step": 1, "batch_size": 3}, None, "8 rollouts a step for 1 processes in batches of 3"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, steps, settings, levels, message):
    of = (steps["turn"].model, steps["turn"].processing_class, [drawn_photo()], KnownSearch(), TINY)
    with pytest.raises(ValueError, match=message):
        grpo.GeoGRPOTrainer(*of, GrpoConfig(**settings), tmp_path, levels=levels)


def test_every_token_of_a_turn_gets_its_value_and_labels_their_own():
    nan, pieces = np.nan, ["x", "<think>", "a", "", "", "<think></think>", "<useful>[1]</useful>", "<answer>"]
    written = [0, 1, 1, 0, 0, 1, 1, 1]
    row = grpo.by_token(Advantages(np.array([2.0, -1.0]), np.array([nan, 0.5])), written, pieces, "p")
    np.testing.assert_array_equal(row, [0, 2, 2, 0, 0, -0.5, 0.5, -1])
    assert grpo.by_token(Advantages(np.zeros(0), np.zeros(0)), [0, 0], ["", ""], "p").tolist() == [0, 0]
    with pytest.raises(RuntimeError, match="photo-7: 1 turns, but 2 in the tokens"):
        grpo.by_token(Advantages(np.ones(1), np.ones(1)), [1, 0, 1], ["", "", ""], "photo-7")


@pytest.mark.parametrize(
    ("pieces", "labels"),
    [
        (["<think>", "a", "</think>", "<useful>", "[1, ", "3]", "</useful>", "<answer>"], "<useful>[1, 3]</useful>"),
        (["<thi", "nk><useful>[9]</useful></think><us", "eful>[2", "]</useful><ans"], "</think><useful>"),
        (["<think>", "a", "</think>", "<answer>"], ""),
        (["<think>", "</think>", "<useful>", "[1"], ""),
        (["</useful>", "<useful>", "[1"], ""),
        ([], ""),
    ],
)
def test_the_labels_of_a_turn_are_found_among_its_tokens(pieces, labels):
    found = grpo.label_tokens(pieces)
    text = "".join(pieces[i] for i in found)
    if labels == "</think><useful>":  # tags that share tokens with their neighbours
        assert list(found) == [1, 2, 3]
    else:
        assert text == labels
