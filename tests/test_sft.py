import copy
import importlib.util
import json
import math
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from environment_fakes import Scripted
from models import GUESS, RIGHT, SEARCH, ZOOM, KnownSearch, drawn_photo, untrained
from peft import PeftModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionAttention, Qwen3VLVisionPatchEmbed

from reverse_lib.environment import FULL, TINY, conversation, initial_messages, rollout, show_photo, with_photo
from reverse_lib.models import checkpoint, cpu
from reverse_lib.photos import Photo
from reverse_lib.profiles import Budgets, SftConfig
from reverse_lib.training import sft
from reverse_lib.trajectory import Trajectory

SCRIPTS = ([ZOOM, SEARCH, RIGHT], [GUESS])
LONG, SHORT = (rollout(Scripted(script), [drawn_photo()], KnownSearch())[0] for script in SCRIPTS)


@pytest.fixture(scope="module")
def pair():
    return untrained()


@pytest.fixture(scope="module")
def model(pair):
    return pair[0]


@pytest.fixture(scope="module")
def processor(pair):
    return pair[1]


def dataset_of(trajectories, interface=TINY):
    return sft.make_sft_dataset(trajectories, {"photo-1": drawn_photo()}, interface)


def batch_of(processor, *trajectories):
    return sft.Collator(processor)(list(dataset_of(trajectories)))


def test_loss_covers_every_assistant_token_and_no_other(processor):
    batch = batch_of(processor, LONG)
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    tokenizer = processor.tokenizer
    expected, position = [sft.IGNORE_INDEX] * len(ids), 0
    for text in (ZOOM, SEARCH, RIGHT):
        turn = tokenizer(text + "<|im_end|>")["input_ids"]
        start = next(i for i in range(position, len(ids)) if ids[i : i + len(turn)] == turn)
        expected[start : start + len(turn)] = turn
        position = start + len(turn)
    assert labels == expected


def test_the_conversation_before_each_turn_is_a_prefix_of_the_training_sample(processor):
    messages = conversation(LONG, drawn_photo().load(), TINY)
    whole = sft.Collator(processor)([{"messages": messages, "tools": sft.tool_functions()}])["input_ids"][0].tolist()
    for end in [i for i, message in enumerate(messages) if message["role"] == "assistant"]:
        ids = checkpoint.encode(processor, [messages[:end]])["input_ids"][0].tolist()
        assert whole[: len(ids)] == ids


def test_padding_and_splitting_a_batch_do_not_change_the_summed_loss(model, processor):
    dataset, collate = dataset_of([LONG, SHORT]), sft.Collator(processor)

    def summed(samples):
        batch = collate(samples)
        with torch.no_grad():
            logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
        return torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100, reduction="sum"
        ).item()

    together, apart = summed([dataset[0], dataset[1]]), summed([dataset[0]]) + summed([dataset[1]])
    assert math.isclose(together, apart, rel_tol=1e-4)


def test_what_cannot_be_learned_from_is_refused_by_name(processor):
    with pytest.raises(ValueError, match="photo-1 by nobody: no assistant token"):
        batch_of(processor, Trajectory("photo-1", [], agent="nobody"))
    with pytest.raises(ValueError, match="photo-1 by scripted: .* more than max_length=100"):
        sft.Collator(processor, max_length=100)(list(dataset_of([LONG])))
    with pytest.raises(KeyError, match="photo-1"):
        sft.make_sft_dataset([LONG], {}, TINY)


def test_direct_samples_hold_the_truth_of_the_photo():
    row = sft.direct_trajectories([drawn_photo()])[0]
    assert row.answer.city == "Valencia" and row.km == pytest.approx(0, abs=1e-6) and len(row.steps) == 1


def test_training_steps_lower_the_loss_and_move_the_weights(tmp_path):
    model, processor = untrained(1)
    dataset = dataset_of([LONG, SHORT] * 4)
    before = {name: value.clone() for name, value in model.named_parameters()}
    rows = sft.train_sft(model, processor, dataset, SftConfig(batch_size=4, epochs=4, learning_rate=2e-3), tmp_path)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.7 * losses[0]
    assert all(
        not torch.equal(before[name], value)
        for name, value in model.named_parameters()
        if "embed_tokens" in name or "qkv" in name
    )
    fresh, _ = untrained(2)
    fresh.load_state_dict(model.state_dict())
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():  # in float32 again, not in the bfloat16 of training
        assert torch.equal(model.eval()(input_ids=ids).logits, fresh.eval()(input_ids=ids).logits)


def test_gradient_accumulation_gives_the_step_of_the_whole_batch(tmp_path):
    weights = []
    for batch, accumulate, checkpointing in ((4, 1, False), (1, 4, False), (2, 2, True)):
        model, processor = untrained(3)
        dataset = dataset_of([LONG, SHORT, SHORT, SHORT])
        config = SftConfig(
            batch_size=batch, accumulate=accumulate, epochs=1, learning_rate=1e-3, checkpointing=checkpointing
        )
        rows = sft.train_sft(model, processor, dataset, config, tmp_path)
        loss = next(row["loss"] for row in rows if "loss" in row)
        weights.append((loss, next(row["grad_norm"] for row in rows if "grad_norm" in row)))
    for loss, norm in weights[1:]:
        assert loss == pytest.approx(weights[0][0], rel=5e-3)  # bfloat16
        assert norm == pytest.approx(weights[0][1], rel=3e-2)


def test_a_run_that_was_killed_goes_on_with_the_same_losses(tmp_path):
    dataset = dataset_of([LONG, SHORT] * 4)
    config = SftConfig(batch_size=2, epochs=1, learning_rate=1e-3, save_steps=2)

    def losses(folder, resume=False, stop_at=None):
        def stop(row):
            if row["step"] == stop_at:
                raise KeyboardInterrupt

        model, processor = untrained(4)
        rows = sft.train_sft(model, processor, dataset, config, tmp_path / folder, on_row=stop, resume=resume)
        return {row["step"]: row["loss"] for row in rows if "loss" in row}

    whole = losses("whole")
    with pytest.raises(KeyboardInterrupt):
        losses("killed", stop_at=3)
    resumed = losses("killed", resume=True)
    assert sorted(whole) == [1, 2, 3, 4] and [*whole][2:] == [*resumed][-2:] == [3, 4]
    assert [resumed[step] for step in (3, 4)] == pytest.approx([whole[step] for step in (3, 4)], rel=1e-4)


def test_pictures_are_drawn_once_ahead_in_another_process_and_the_losses_are_the_same(processor, tmp_path, monkeypatch):
    load, losses, drawn_by = Photo.load, {}, {}

    def watched(self):
        with (tmp_path / str(workers)).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return load(self)

    monkeypatch.setattr(Photo, "load", watched)
    for workers in (0, 1):
        dataset = dataset_of([LONG, SHORT] * 2)
        config = SftConfig(batch_size=2, epochs=2, workers=workers)
        rows = sft.train_sft(untrained(7)[0], processor, dataset, config, tmp_path)
        losses[workers] = [row["loss"] for row in rows if "loss" in row]
        drawn_by[workers] = (tmp_path / str(workers)).read_text().split()
        assert 0 < rows[-1]["waited_s"] < rows[-1]["train_runtime"]
        assert len(drawn_by[workers]) == 4  # though there are two epochs
    assert set(drawn_by[0]) == {str(os.getpid())} and losses[1] == losses[0]
    if multiprocessing.get_start_method() == "fork":
        assert drawn_by[1].count(str(os.getpid())) == 1  # the first row, which TRL looks at when it is made


@pytest.mark.parametrize(("method", "free_gb", "most"), [("fork", 50.5, 8), ("fork", 0.06, 0), ("spawn", 50.5, 0)])
def test_where_memory_cannot_be_shared_or_processes_forked_batches_are_made_between_steps(
    monkeypatch, method, free_gb, most
):
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: method)
    monkeypatch.setattr(sft.shutil, "disk_usage", lambda path: SimpleNamespace(free=free_gb * 1e9))
    monkeypatch.setattr(sft.os, "sched_getaffinity", lambda pid: range(64), raising=False)
    found = sft.sft_arguments(SftConfig(workers=8), 16, "nowhere", 0, "cpu").dataloader_num_workers
    assert found == most or not Path("/dev/shm").is_dir()


def test_photos_as_large_as_they_come_are_not_kept_in_memory():
    small, large = dataset_of([LONG]), dataset_of([LONG], FULL)
    assert small[0]["images"][0] is small[0]["images"][0]
    assert large[0]["images"][0] is not large[0]["images"][0]


def moved_by_a_step(model, processor, folder) -> set[str]:
    """Names of the weights that one step of training changes."""
    before = {name: value.clone() for name, value in model.named_parameters()}
    config = SftConfig(batch_size=4, epochs=1, learning_rate=1e-2)
    sft.train_sft(model, processor, dataset_of([LONG, SHORT] * 2), config, folder)
    return {name for name, value in model.named_parameters() if not torch.equal(before[name], value)}


def test_the_eyes_can_be_held_still_and_lora_trains_adapters_of_the_language_model_alone(processor, tmp_path):
    checkpoint.save_checkpoint(tmp_path / "base", *untrained(5), TINY)
    moved = moved_by_a_step(checkpoint.load_model(tmp_path / "base", train_vision=False), processor, tmp_path)
    assert moved and not any("visual" in name for name in moved)
    wrapped = checkpoint.with_lora(untrained(2)[0], 4)
    trainable = {name for name, value in wrapped.named_parameters() if value.requires_grad}
    assert trainable and all("lora_" in name and "language_model" in name for name in trainable)
    assert set() < moved_by_a_step(wrapped, processor, tmp_path) <= trainable


def test_adapters_saved_and_loaded_and_merged_give_the_same_logits(tmp_path):
    model, processor = untrained()
    wrapped = checkpoint.with_lora(model, 4)
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.1)  # zero before training, so that adapters change nothing
    conversation_ = with_photo(initial_messages(TINY), [{"type": "image", "image": drawn_photo().load()}])
    inputs = checkpoint.encode(processor, [conversation_])

    def logits(of):
        with torch.inference_mode():
            return of.eval()(**inputs).logits

    expected = logits(wrapped)
    wrapped.save_pretrained(tmp_path / "adapters")
    assert sum(file.stat().st_size for file in (tmp_path / "adapters").iterdir()) < 1_000_000
    reloaded = PeftModel.from_pretrained(untrained()[0], tmp_path / "adapters")
    checkpoint.save_checkpoint(tmp_path / "merged", wrapped, processor, TINY)
    merged = checkpoint.load_model(tmp_path / "merged")
    torch.testing.assert_close(logits(reloaded), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=1e-4)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert (logits(untrained()[0]) - expected).abs().max() > 0.01


def test_a_saved_checkpoint_answers_as_the_model_in_memory(model, processor, tmp_path):
    checkpoint.save_checkpoint(tmp_path / "agent", model, processor, TINY)
    loaded = checkpoint.load_agent(tmp_path / "agent", max_new_tokens=12)
    prompt = conversation(LONG, drawn_photo().load(), TINY)[:2]
    assert loaded.interface == TINY
    assert loaded([prompt]) == checkpoint.Agent(model, processor, TINY, max_new_tokens=12)([prompt])


def test_the_image_only_processor_gives_the_ids_and_pixels_of_the_full_one(processor, tmp_path):
    pytest.importorskip(
        "torchvision",
        reason="AutoProcessor needs it (pip install torch==2.14.1 torchvision==0.29.1); next is a stand-in",
    )
    processor.tokenizer.save_pretrained(tmp_path)
    settings = processor.image_processor.to_dict() | {"processor_class": "Qwen3VLProcessor"}
    for name, kind in (("preprocessor", "image_processor_type"), ("video_preprocessor", "video_processor_type")):
        value = "Qwen2VLImageProcessor" if name == "preprocessor" else "Qwen3VLVideoProcessor"
        (tmp_path / f"{name}_config.json").write_text(json.dumps(settings | {kind: value}, default=str))
    full = checkpoint.load_processor(tmp_path)
    assert type(full).__name__ == "Qwen3VLProcessor"
    sample = {"messages": conversation(LONG, drawn_photo().load(), TINY), "tools": sft.tool_functions()}
    one, other = sft.Collator(processor)([sample]), sft.Collator(full)([sample])
    assert one["input_ids"].tolist() == other["input_ids"].tolist()
    assert one["labels"].tolist() == other["labels"].tolist()
    assert one["image_grid_thw"].tolist() == other["image_grid_thw"].tolist()
    torch.testing.assert_close(one["pixel_values"], other["pixel_values"], atol=2 / 255 / 0.25, rtol=0)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="the test above needs no stand-in")
def test_so_it_does_where_torchvision_is_missing_with_a_stand_in_for_its_few_functions():
    name = test_the_image_only_processor_gives_the_ids_and_pixels_of_the_full_one.__name__
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", f"{__file__}::{name}"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent / "stand_in")}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "1 passed" in run.stdout, run.stdout + run.stderr


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        checkpoint.load_model(tmp_path / "nowhere")


def plain_copy(model):
    """The same model with the library's own vision tower."""
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if isinstance(module, Qwen3VLVisionAttention | Qwen3VLVisionPatchEmbed):
            del module.forward
    return plain


@pytest.mark.parametrize("samples", ["long, long", "short, short", "long, short"])
def test_the_quick_vision_tower_gives_what_the_library_gives(model, processor, samples):
    rows = [{"long": LONG, "short": SHORT}[name] for name in samples.split(", ")]
    dataset = dataset_of(rows)
    batch = sft.Collator(processor)([dataset[i] for i in range(len(rows))])
    batch.pop("labels")
    plain = plain_copy(model)
    assert type(plain.model.visual.patch_embed).forward.__name__ == "forward"
    with torch.no_grad():
        expected = plain(**batch).logits
        torch.testing.assert_close(model(**batch).logits, expected, atol=1e-4, rtol=1e-4)


def test_an_image_too_large_for_plain_attention_is_attended_by_the_fused_kernel(model, processor, monkeypatch):
    batch = batch_of(processor, LONG)
    batch.pop("labels")
    with torch.no_grad():
        expected = model(**batch).logits
        monkeypatch.setattr(cpu, "_PLAIN_ATTENTION_MAX", 60)
        torch.testing.assert_close(model(**batch).logits, expected, atol=1e-4, rtol=1e-4)


def test_rows_of_a_step_are_about_equally_long_and_every_epoch_has_its_own_order():
    lengths = [int(n) for n in torch.randint(10, 1000, (400,), generator=torch.Generator().manual_seed(0))]
    sampler = sft.ByLength(lengths, 8, seed=3)
    first, again = list(sampler), list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first == again != second and sorted(first) == sorted(second) == list(range(400))
    assert list(sft.ByLength(lengths, 8, seed=4)) != first

    def waste(order):
        steps = [[lengths[i] for i in order[start : start + 8]] for start in range(0, 400, 8)]
        return sum(8 * max(step) for step in steps) / sum(lengths)

    assert waste(first) < 1.1 < waste(range(400))
    assert first[:8] != sorted(first[:8], key=lambda i: lengths[i])  # not simply from short to long


def test_right_padded_rows_give_the_same_loss_and_gradients_without_a_mask(model, processor):
    dataset = dataset_of([LONG, SHORT])
    batch = sft.Collator(processor)([dataset[0], dataset[1]])

    def gradient():
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        name = "model.language_model.layers.0.self_attn.q_proj.weight"
        return loss.item(), model.get_parameter(name).grad.clone()

    loss, usual = gradient()
    config = model.model.language_model.config
    before = config._attn_implementation
    with cpu.right_padded(model):
        assert config._attn_implementation == "causal_bf16"
        quick_loss, quick = gradient()
    assert config._attn_implementation == before != "causal_bf16"
    model.zero_grad()
    assert math.isclose(quick_loss, loss, rel_tol=2e-3)
    assert torch.nn.functional.cosine_similarity(quick.flatten(), usual.flatten(), dim=0) > 0.99


@pytest.mark.parametrize("length", [2, 128, 129, 300])
def test_attention_in_blocks_is_causal_attention(length):
    torch.manual_seed(0)
    sizes = [(2, 6, length, 32), (2, 2, length, 32), (2, 2, length, 32)]
    blocks, usual = ([torch.randn(size).requires_grad_() for size in sizes] for _ in range(2))
    for mine, theirs in zip(blocks, usual, strict=True):
        theirs.data.copy_(mine.data)
    found, _ = cpu._attend_causally(SimpleNamespace(num_key_value_groups=3), *blocks, scaling=32**-0.5)
    query, key, value = usual
    shared = (key.repeat_interleave(3, 1), value.repeat_interleave(3, 1))
    known = torch.nn.functional.scaled_dot_product_attention(query, *shared, is_causal=True).transpose(1, 2)
    assert torch.allclose(found, known, atol=0.03)  # bfloat16
    weight = torch.randn(known.shape)
    (found * weight).sum().backward(), (known * weight).sum().backward()
    for mine, theirs in zip(blocks, usual, strict=True):
        assert torch.nn.functional.cosine_similarity(mine.grad.flatten(), theirs.grad.flatten(), dim=0) > 0.999


def test_an_agent_never_writes_the_placeholder_of_a_picture():
    model, processor = untrained()
    wanted = torch.zeros(model.lm_head.out_features)
    wanted[[processor.image_token_id, processor.video_token_id]] = 1e4
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + wanted)
    agent = checkpoint.Agent(model, processor, TINY, max_new_tokens=4)
    (record,) = rollout(agent, [drawn_photo()], KnownSearch(), budgets=Budgets(turns=2))
    assert len(record.steps) == 2 and not any("_pad|>" in step.text for step in record.steps)


def test_a_still_tower_looks_at_each_picture_once_with_the_same_result(monkeypatch):
    model, processor = untrained()
    tower, asked = model.model.visual, []
    tower.patch_embed.register_forward_hook(lambda module, inputs, output: asked.append(len(output)))
    photo = show_photo(drawn_photo().load(), TINY)
    photos = [photo, photo.rotate(180), photo.crop((0, 0, 128, 96))]
    talks = [with_photo(initial_messages(TINY), [{"type": "image", "image": photos[i]}]) for i in (0, 1, 0, 2)]
    inputs = checkpoint.encode(processor, talks)

    def logits():
        asked.clear()
        with torch.no_grad():
            return model(**inputs).logits, sum(asked)

    with cpu.pictures_remembered(model):
        expected, patches = logits()
        assert patches == len(inputs["pixel_values"])  # a tower that learns is left alone
    tower.requires_grad_(False)
    with cpu.pictures_remembered(model):
        first, looked_at = logits()
        again, looked_again = logits()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert logits()[1] == 0
    assert looked_at == patches - (inputs["image_grid_thw"][0].prod()) and looked_again == 0
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(again, expected)
    assert logits()[1] == patches
    monkeypatch.setattr(cpu, "_REMEMBERED", 1)
    with cpu.pictures_remembered(model):
        torch.testing.assert_close(logits()[0], expected)
        torch.testing.assert_close(logits()[0], expected)
