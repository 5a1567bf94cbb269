"""Qwen3-VL-4B's own architecture, at a fraction of its depth, through the stages that train it.

Sizes are those of the published configuration of Qwen/Qwen3-VL-4B-Instruct; only the number of layers and the
vocabulary are cut, and weights are random. Settings are those of the profile, but for shorter runs that learn faster.
What this cannot show is what the real weights would answer.
"""

import io
from dataclasses import replace

import pytest
import torch
from environment_fakes import Scripted
from grpo_scripts import script
from models import GUESS, RIGHT, SEARCH, ZOOM, KnownSearch, drawn_photo, untrained
from transformers import AutoModelForImageTextToText, Qwen3VLConfig

from reverse_lib.environment import FULL, rollout
from reverse_lib.models import checkpoint
from reverse_lib.profiles import get_profile
from reverse_lib.training import grpo, sft

SHOWN = replace(FULL, system_prompt="Find the place.")  # a tiny vocabulary cuts the long prompt into 1,500 tokens
TEXT = dict(hidden_size=2560, intermediate_size=9728, num_attention_heads=32, num_key_value_heads=8, head_dim=128)
TEXT |= dict(vocab_size=2048, tie_word_embeddings=True)  # instead of 151,936, whose matrix would take minutes
ROPE = dict(rope_type="default", rope_theta=5e6, mrope_section=[24, 20, 20], mrope_interleaved=True)
VISION = dict(hidden_size=1024, intermediate_size=4096, num_heads=16, patch_size=16, spatial_merge_size=2)
VISION |= dict(temporal_patch_size=2, out_hidden_size=2560, num_position_embeddings=2304)


@pytest.fixture(scope="module")
def shallow():
    """One text and one vision layer of the 4B model under LoRA, in bfloat16, with our processor."""
    _, processor = untrained()
    ids = processor.tokenizer.convert_tokens_to_ids
    end, names = ids("<|im_end|>"), {"image": "image_pad", "video": "video_pad"}
    names |= {"vision_start": "vision_start", "vision_end": "vision_end"}
    config = Qwen3VLConfig(
        text_config=TEXT | {"num_hidden_layers": 1, "rope_parameters": ROPE, "eos_token_id": end},
        vision_config=VISION | {"depth": 1, "deepstack_visual_indexes": [0]},
        tie_word_embeddings=True,
        **{f"{name}_token_id": ids(f"<|{token}|>") for name, token in names.items()},
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.generation_config.eos_token_id = end
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return checkpoint.with_lora(model, 4), processor


@pytest.fixture(scope="module")
def photo():
    """A small photo: the full interface shows it pixel for pixel, and every 32x32 px are a token."""
    buffer = io.BytesIO()
    drawn_photo().load().resize((224, 160)).save(buffer, "PNG")
    return replace(drawn_photo(), source=buffer.getvalue())


def adapters(model):
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def test_both_supervised_stages_take_a_step_at_the_4b_models_width(shallow, photo, tmp_path):
    model, processor = shallow
    long = rollout(Scripted([ZOOM, SEARCH, RIGHT]), [photo], KnownSearch(), SHOWN)[0]
    for stage, trajectories in (("direct", sft.direct_trajectories([photo])), ("coldstart", [long])):
        before = adapters(model)
        dataset = sft.make_sft_dataset(trajectories, {photo.photo_id: photo}, SHOWN)
        config = replace(getattr(get_profile("qwen3vl-4b"), stage), accumulate=1, epochs=1, learning_rate=1e-3)
        rows = sft.train_sft(model, processor, dataset, config, tmp_path / stage)
        losses = [row["loss"] for row in rows if "loss" in row]
        assert losses and all(0 < loss < 20 for loss in losses)
        assert any(not torch.equal(before[key], value) for key, value in adapters(model).items())


def test_reinforcement_learning_takes_a_step_at_the_4b_models_width(shallow, photo, tmp_path):
    model, processor = shallow
    shorter = dict(steps=1, prompts_per_step=1, group_size=2, batch_size=1, learning_rate=1e-3)
    config = replace(get_profile("qwen3vl-4b").grpo, **shorter)
    trainer = grpo.GeoGRPOTrainer(model, processor, [photo], KnownSearch(), SHOWN, config, tmp_path)
    script(trainer, ([SEARCH, RIGHT], [GUESS]))
    before = adapters(model)
    trainer.train()
    assert [trajectory.end for trajectory in trainer.rollouts] == ["answered", "answered"]
    assert trainer.breakdowns[0].total > trainer.breakdowns[1].total
    assert any(not torch.equal(before[key], value) for key, value in adapters(model).items())
