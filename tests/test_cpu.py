"""A model on a CPU writes what the library's writes, quicker."""

import types
from pathlib import Path

import pytest
import torch
from models import KnownSearch, drawn_photo
from transformers import GenerationConfig

from reverse_lib.environment import FULL, TINY, assistant_message, initial_messages, show_photo, with_photo
from reverse_lib.environment.interface import image_block, tool_message
from reverse_lib.models import checkpoint, cpu, load_agent, load_model, load_processor
from reverse_lib.models.checkpoint import encode, with_lora
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
    return load_agent(AGENT)


@pytest.fixture(scope="module")
def given(agent):
    """What `generate` is given: greedy writing after three conversations of unequal length."""
    return {**encode(agent.processor, conversations()), "do_sample": False}


def test_an_agent_that_is_shown_the_full_interface_has_longer_turns(agent, monkeypatch):
    monkeypatch.setattr(checkpoint, "load_interface", lambda path: FULL)
    assert (agent.max_new_tokens, load_agent(AGENT).max_new_tokens) == (320, 2048)
    assert load_agent(AGENT, max_new_tokens=7).max_new_tokens == 7


def library(model):
    """The library's own `generate`."""
    return types.MethodType(type(model).generate, model)


@pytest.mark.parametrize("pictures", [True, False])
def test_the_likeliest_tokens_are_those_of_the_library_though_rows_end_at_different_steps(agent, pictures):
    given = {**encode(agent.processor, conversations(pictures=pictures)), "max_new_tokens": 120, "do_sample": False}
    quick, usual = agent.model.generate(**given), library(agent.model)(**given)
    length = given["input_ids"].shape[1]
    ends = (usual[:, length:] == agent.processor.tokenizer.eos_token_id).int().argmax(1)
    assert len(set(ends.tolist())) > 1 and ends.min() > 10  # rows were taken out on the way
    assert torch.equal(quick, usual)
    given["max_new_tokens"] = 7  # before any ends
    assert torch.equal(agent.model.generate(**given), library(agent.model)(**given))


def test_tokens_are_drawn_as_often_as_the_model_says():
    torch.manual_seed(0)
    logits, rows, heat = 2 * torch.randn(300), 20_000, 0.8
    settings = GenerationConfig(do_sample=True, temperature=heat, suppress_tokens=[7])
    drawn = cpu._choose(logits.expand(rows, -1).clone(), settings)  # (rows,)
    logits[7] = float("-inf")
    expected = (logits / heat).softmax(-1)
    counted = torch.bincount(drawn, minlength=len(expected)) / rows
    off = (counted - expected).abs() / (expected * (1 - expected) / rows).sqrt()
    assert counted[7] == 0 and off[expected * rows > 5].max() < 4.5


def test_the_same_seed_draws_the_same_another_seed_something_else_and_the_cold_the_likeliest(agent, given):
    sampling = given | {"max_new_tokens": 20, "do_sample": True, "temperature": 1.5, "top_k": 0}
    written = [torch.manual_seed(seed) and agent.model.generate(**sampling).tolist() for seed in (1, 1, 2)]
    assert written[0] == written[1] != written[2]
    cold = agent.model.generate(**sampling | {"temperature": 1e-4})
    assert torch.equal(cold, agent.model.generate(**given, max_new_tokens=20))


def test_a_suppressed_token_is_never_written(agent, given):
    given, length = given | {"max_new_tokens": 40}, given["input_ids"].shape[1]
    usual = agent.model.generate(**given)[:, length:]
    never = usual[0, 2].item()
    other = agent.model.generate(**given, suppress_tokens=[never])
    assert never in usual and never not in other[:, length:]
    assert torch.equal(other, library(agent.model)(**given, suppress_tokens=[never]))


def test_a_configuration_counts_and_a_single_setting_beats_it(agent, given):
    end, length = agent.processor.tokenizer.eos_token_id, given["input_ids"].shape[1]
    chosen = GenerationConfig(max_new_tokens=5, do_sample=False, eos_token_id=[end], pad_token_id=0)
    assert agent.model.generate(**given, generation_config=chosen).shape[1] == length + 5
    assert agent.model.generate(**given, generation_config=chosen, max_new_tokens=3).shape[1] == length + 3


def test_under_autocast_it_computes_what_the_library_computes_there(agent, given):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quick, usual = (write(**given, max_new_tokens=120) for write in (agent.model.generate, library(agent.model)))
    same = sum(torch.equal(a[: len(b)], b[: len(a)]) for a, b in zip(quick, usual, strict=True))
    assert same >= 2  # rounding may tip one token


@pytest.mark.parametrize("own", [False, True], ids=["asked for", "the model's own"])
@pytest.mark.parametrize(
    "settings", [{"num_beams": 2}, {"repetition_penalty": 1.5}, {"do_sample": True, "top_k": 1}, {"do_sample": True}]
)
def test_settings_that_are_not_provided_for_go_the_librarys_way(agent, given, monkeypatch, settings, own):
    monkeypatch.setattr(cpu, "_write", None)
    given = {name: value for name, value in given.items() if name != "do_sample"} | {"max_new_tokens": 12}
    for name, value in settings.items() if own else ():
        monkeypatch.setattr(agent.model.generation_config, name, value)
    given |= {} if own else settings
    quick, usual = (torch.manual_seed(0) and write(**given) for write in (agent.model.generate, library(agent.model)))
    assert torch.equal(quick, usual)


def test_rollouts_of_training_are_written_the_quick_way(tmp_path, monkeypatch):
    rows, write = [], cpu._write
    monkeypatch.setattr(cpu, "_write", lambda *given: rows.append(len(given[2])) or write(*given))
    model, processor = load_model(AGENT), load_processor(AGENT)
    settings = GrpoConfig(steps=1, prompts_per_step=1, group_size=2, save_steps=0)
    grpo.train_grpo(model, processor, [drawn_photo()], KnownSearch(), TINY, settings, tmp_path)
    assert rows[0] == 2 and len(rows) > 1  # all turns of all rollouts


def test_adapters_go_the_librarys_way_until_they_are_merged(given, monkeypatch):
    model = with_lora(load_model(AGENT), 4)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    given = given | {"max_new_tokens": 30}
    with monkeypatch.context() as patch:
        patch.setattr(cpu, "_write", None)
        adapted = model.generate(**given)
    merged = model.merge_and_unload()
    assert isinstance(merged.generate, types.MethodType) and torch.equal(merged.generate(**given), adapted)
    plain = load_model(AGENT).generate(**given)
    assert plain.shape != adapted.shape or not torch.equal(plain, adapted)
