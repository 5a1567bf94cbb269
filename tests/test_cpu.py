"""Quick generation writes what the library's writes."""

import types
from pathlib import Path

import pytest
import torch
from models import KnownSearch, drawn_photo, untrained
from transformers import GenerationConfig

from reverse_lib.environment import TINY, assistant_message, initial_messages, show_photo, with_photo
from reverse_lib.environment.interface import image_block, tool_message
from reverse_lib.models import checkpoint, cpu
from reverse_lib.profiles import GrpoConfig
from reverse_lib.training import grpo

AGENT = Path(__file__).parent.parent / "data" / "models" / "agent"
READ = (
    '<think>Spain? A sign.</think><tool_call>{"name": "text_search_tool", "arguments": {"query": "Vigo"}}</tool_call>'
)
LISTED = "[1] Vigo, Spain: 42.23, -8.71\n[2] Vigo, Chile: -33.10, -70.90\n[3] Lugo, Spain: 43.01, -7.55"


def conversations(*, pictures: bool = True):
    """Three that wait for a turn, of unequal length; the first two with a picture."""
    picture = image_block(show_photo(drawn_photo().load(), TINY))
    alone = with_photo(initial_messages(TINY), [picture]) if pictures else initial_messages(TINY)
    asked = [*alone, assistant_message(READ), tool_message("text_search_tool", LISTED)]
    return [alone, asked, [*initial_messages(TINY), assistant_message(READ), tool_message("text_search_tool", "")]]


@pytest.fixture(scope="module")
def agent():
    return checkpoint.load_agent(AGENT)


def inputs(agent, some):
    return checkpoint.encode(agent.processor, some)


def library(model, **given):
    """The library's own way."""
    return type(model).generate(model, **given)


@pytest.mark.parametrize("pictures", [True, False])
def test_the_likeliest_tokens_are_those_of_the_library_though_rows_end_at_different_steps(agent, pictures):
    given = inputs(agent, conversations(pictures=pictures)) | {"max_new_tokens": 120, "do_sample": False}
    quick, known = agent.model.generate(**given), library(agent.model, **given)
    length = given["input_ids"].shape[1]
    ends = (known[:, length:] == agent.processor.tokenizer.eos_token_id).int().argmax(1)
    assert len(set(ends.tolist())) > 1 and ends.min() > 10  # rows were taken out on the way
    assert torch.equal(quick, known)


def test_it_is_the_quick_way_that_answers_after_loading(agent, monkeypatch):
    monkeypatch.setattr(cpu, "_write", lambda *_: torch.full((3, 1), 7))
    given = inputs(agent, conversations()) | {"max_new_tokens": 3, "do_sample": False}
    assert agent.model.generate(**given)[:, -1].tolist() == [7, 7, 7]


def test_a_turn_that_does_not_end_is_cut_where_the_library_cuts_it(agent):
    given = inputs(agent, conversations()) | {"max_new_tokens": 7, "do_sample": False}
    assert torch.equal(agent.model.generate(**given), library(agent.model, **given))


def test_tokens_are_drawn_as_often_as_the_model_says():
    model, processor = untrained(seed=3)
    with torch.no_grad():  # an untrained model says nearly the same of all tokens
        model.lm_head.weight.mul_(4)
    given = checkpoint.encode(processor, [initial_messages(TINY)])
    rows, heat = 2000, 0.8
    many = {name: value.expand(rows, -1) for name, value in given.items()}
    torch.manual_seed(0)
    sampling = {"do_sample": True, "temperature": heat, "top_k": 0, "eos_token_id": -1}
    drawn = model.generate(**many, max_new_tokens=2, **sampling)[:, -2:]  # (rows, 2)
    first = int(drawn[:, 0].mode().values)
    after = torch.cat([given["input_ids"], torch.tensor([[first]])], 1)
    for ids, found in ((given["input_ids"], drawn[:, 0]), (after, drawn[drawn[:, 0] == first, 1])):
        with torch.no_grad():
            said = (model(ids).logits[0, -1] / heat).softmax(-1)
        counted = torch.bincount(found, minlength=len(said)) / len(found)
        assert said.max() > 0.02 and len(found) > 50
        off = (counted - said).abs() / (said * (1 - said) / len(found)).sqrt()
        assert off[said * len(found) > 5].max() < 4.5


def test_the_same_seed_draws_the_same_and_another_seed_something_else(agent):
    sampling = {"max_new_tokens": 60, "do_sample": True, "temperature": 1.5, "top_k": 0}
    given = inputs(agent, conversations()) | sampling
    written = [torch.manual_seed(seed) and agent.model.generate(**given).tolist() for seed in (1, 1, 2)]
    assert written[0] == written[1] != written[2]


def test_a_suppressed_token_is_never_written(agent):
    given = inputs(agent, conversations()) | {"max_new_tokens": 40, "do_sample": False}
    length = given["input_ids"].shape[1]
    usual = agent.model.generate(**given)[:, length:]
    never = usual[0, 2].item()
    other = agent.model.generate(**given, suppress_tokens=[never])
    assert never in usual and never not in other[:, length:]
    assert torch.equal(other, library(agent.model, **given, suppress_tokens=[never]))


def test_a_configuration_counts_and_a_single_setting_beats_it(agent):
    end = agent.processor.tokenizer.eos_token_id
    chosen = GenerationConfig(max_new_tokens=5, do_sample=False, eos_token_id=[end], pad_token_id=0)
    given = inputs(agent, conversations())
    length = given["input_ids"].shape[1]
    assert agent.model.generate(**given, generation_config=chosen).shape[1] == length + 5
    assert agent.model.generate(**given, generation_config=chosen, max_new_tokens=3).shape[1] == length + 3


def test_under_autocast_it_computes_what_the_library_computes_there(agent):
    given = inputs(agent, conversations()) | {"max_new_tokens": 120, "do_sample": False}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quick, known = agent.model.generate(**given), library(agent.model, **given)
    same = sum(torch.equal(a[: len(b)], b[: len(a)]) for a, b in zip(quick, known, strict=True))
    assert same >= 2  # rounding may tip one token


@pytest.mark.parametrize("settings", [{"num_beams": 2}, {"repetition_penalty": 1.5}, {"do_sample": True, "top_k": 1}])
def test_settings_that_it_does_not_know_go_the_librarys_way(agent, monkeypatch, settings):
    monkeypatch.setattr(cpu, "_write", None)
    given = inputs(agent, conversations()) | {"max_new_tokens": 12, "do_sample": False} | settings
    assert torch.equal(agent.model.generate(**given), library(agent.model, **given))


@pytest.mark.parametrize("setting", [{"no_repeat_ngram_size": 2}, {"num_beams": 2}])
def test_what_the_models_own_configuration_asks_for_counts_too(agent, monkeypatch, setting):
    monkeypatch.setattr(cpu, "_write", None)
    for name, value in setting.items():
        monkeypatch.setattr(agent.model.generation_config, name, value)
    given = inputs(agent, conversations()) | {"max_new_tokens": 12, "do_sample": False}
    assert torch.equal(agent.model.generate(**given), library(agent.model, **given))


def test_rollouts_of_training_are_written_the_quick_way(tmp_path, monkeypatch):
    rows, write = [], cpu._write
    monkeypatch.setattr(cpu, "_write", lambda *given: rows.append(len(given[2])) or write(*given))
    model, processor = checkpoint.load_model(AGENT), checkpoint.load_processor(AGENT)
    settings = GrpoConfig(steps=1, prompts_per_step=1, group_size=2, save_steps=0)
    grpo.train_grpo(model, processor, [drawn_photo()], KnownSearch(), TINY, settings, tmp_path)
    assert rows[0] == 2 and len(rows) > 1  # all turns of all rollouts


def test_adapters_go_the_librarys_way_until_they_are_merged(monkeypatch):
    model = checkpoint.with_lora(checkpoint.load_model(AGENT), 4)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    processor = checkpoint.load_processor(AGENT)
    given = checkpoint.encode(processor, conversations()) | {"max_new_tokens": 30, "do_sample": False}
    with monkeypatch.context() as patch:
        patch.setattr(cpu, "_write", None)
        adapted = model.generate(**given)
    merged = model.merge_and_unload()
    assert isinstance(merged.generate, types.MethodType) and torch.equal(merged.generate(**given), adapted)
    plain = checkpoint.load_model(AGENT).generate(**given)
    assert plain.shape != adapted.shape or not torch.equal(plain, adapted)
