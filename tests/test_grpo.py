"""GRPO on the tiny model with scripted generations: what was called, what it earned, what was trained on."""

import pytest
import torch
from models import BROKEN, EVIDENCE, GUESS, RIGHT, SEARCH, ZOOM, KnownSearch, drawn_photo, untrained

from reverse_lib import grpo
from reverse_lib.environment import TINY
from reverse_lib.geo import accuracy_reward, haversine_km
from reverse_lib.profiles import GrpoConfig

SCRIPTS = ([ZOOM, SEARCH, RIGHT], [GUESS], [SEARCH, RIGHT], [BROKEN])


@pytest.fixture
def trainer(tmp_path):
    model, processor = untrained()
    config = GrpoConfig(steps=1, prompts_per_step=1, group_size=4, learning_rate=1e-3, max_completion_tokens=400)
    made = grpo.make_trainer(model, processor, [drawn_photo()], KnownSearch(), TINY, config, tmp_path)
    made.recorded = []
    script(made, SCRIPTS)
    score = made._generate_and_score_completions

    def recording(inputs):
        output = score(inputs)
        made.recorded.append(output)
        return output

    made._generate_and_score_completions = recording
    return made


def script(trainer, scripts):
    """Let rollout i write scripts[i], turn by turn, instead of sampling."""
    alive: list = []

    def generate(prompt_ids, images, fields, num_generations, has_tool_images=False):
        nonlocal alive
        if num_generations > 1:
            alive = [(list(turns), 0) for turns in scripts]
        texts = [turns[k] for turns, k in alive]
        alive = [(turns, k + 1) for turns, k in alive if k + 1 < len(turns)]
        return [trainer._tokenizer(text + "<|im_end|>")["input_ids"] for text in texts], None

    trainer._generate_single_turn = generate


def test_tools_are_called_as_written_and_environments_know_it(trainer):
    trainer.train()
    logs = [[o.tool for o in environment._log] for environment in trainer.environments]
    zoom, text = "image_zoom_in_tool", "text_search_tool"
    assert logs == [[zoom, text], [], [text], []]
    assert [e._finished.end for e in trainer.environments] == ["answered", "answered", "answered", "format"]
    assert trainer.environments[0]._finished.steps[1].observation.useful == {2}
    rows = [row for c in trainer.callback_handler.callbacks if isinstance(c, grpo.History) for row in c.rows]
    assert rows[0]["tools/call_frequency"] == 3 / 4 and rows[0]["tools/failure_frequency"] == 0


def test_every_component_reaches_the_trainer_and_the_total_is_theirs(trainer):
    trainer.train()
    rows = [row for c in trainer.callback_handler.callbacks if isinstance(c, grpo.History) for row in c.rows]
    first = trainer.environments[0]._breakdown
    assert first.accuracy == 1 and first.format == 1 and first.box_iou == 1 and first.evidence_mcc == 1
    # zoom on the region 0.2, all of the one useful page 0.1, labels right 0.3
    assert first.total == pytest.approx(0.6 + 0.1 + 0.3 * (0.2 + 0.1 + 0.3))
    km = haversine_km(39.47, -0.38, -33.45, -70.66)
    assert trainer.environments[1]._breakdown.total == pytest.approx(0.6 * accuracy_reward(km) + 0.1)
    assert trainer.environments[3]._breakdown.total == 0
    totals = [e._breakdown.total for e in trainer.environments]
    assert rows[0]["reward"] == pytest.approx(sum(totals) / 4, abs=1e-5)
    for name in grpo.COMPONENTS:
        values = [getattr(e._breakdown, name) for e in trainer.environments]
        assert rows[0][f"rewards/{name}/mean"] == pytest.approx(sum(values) / 4, abs=1e-5)
    assert trainer.environments[0]._finished.evidence == [EVIDENCE]


def test_only_tokens_the_model_wrote_are_trained_on(trainer):
    trainer.train()
    output = trainer.recorded[0]
    for row, turns in enumerate(SCRIPTS):
        mask = (output["tool_mask"][row] * output["completion_mask"][row]).bool()
        written = trainer._tokenizer.decode(output["completion_ids"][row][mask].tolist())
        assert written == "".join(text + "<|im_end|>" for text in turns)


def test_advantages_favour_the_rollout_that_earned_more_and_weights_change(trainer):
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    advantages = trainer.recorded[0]["advantages"]
    totals = torch.tensor([e._breakdown.total for e in trainer.environments])
    assert advantages.argsort().tolist() == totals.argsort().tolist()
    torch.testing.assert_close(advantages, (totals - totals.mean()) / (totals.std() + 1e-4), atol=1e-3, rtol=1e-3)
    changed = [name for name, value in trainer.model.named_parameters() if not torch.equal(before[name], value)]
    assert any("language_model" in name for name in changed) and any("visual" in name for name in changed)


def test_a_reward_that_is_not_a_number_stops_the_run_with_the_photo(trainer, monkeypatch):
    real = grpo.score

    def broken(trajectory, weights):
        made = real(trajectory, weights)
        made.total = float("nan")
        return made

    monkeypatch.setattr(grpo, "score", broken)
    with pytest.raises(FloatingPointError, match="photo-1"):
        trainer.train()


def test_a_group_in_which_nobody_zooms_is_trained_on_as_well(trainer):
    script(trainer, ([SEARCH, RIGHT], [GUESS], [SEARCH, GUESS], [SEARCH, SEARCH, RIGHT]))
    trainer.train()
    assert [len(e._log) for e in trainer.environments] == [1, 0, 1, 2]
    assert [e._log[-1].repeated for e in trainer.environments if e._log] == [False, False, True]
    assert trainer.environments[0]._breakdown.trust > trainer.environments[2]._breakdown.trust == 0


def test_turns_are_split_where_the_tool_mask_is_zero():
    assert grpo.assistant_turns([5, 6, 7, 8, 9], [1, 1, 0, 0, 1]) == [[5, 6], [9]]
    assert grpo.assistant_turns([], []) == []


def test_too_few_photos_for_a_step_are_refused(tmp_path):
    model, processor = untrained()
    with pytest.raises(ValueError, match="1 photos for steps of 8"):
        grpo.make_trainer(model, processor, [drawn_photo()], KnownSearch(), TINY, GrpoConfig(), tmp_path)
