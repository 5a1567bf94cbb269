"""The tiny base model, the stand-in for Qwen3-VL-4B-Instruct: it can see and speak, but knows hardly a place.

In steps, on worlds that are never evaluated:

1. `vision.train_vision`: the vision tower alone, with throwaway heads.
2. `train_skills` on copying alone: names and numbers said again. Two and a half minutes of it bring the loss from 3.4
   to 0.01; among the other drills it does not move, and nothing that quotes a page is learned before it.
3. `train_skills` on reading alone, with the eyes held still: the language model learns what they say. Here
   too six minutes alone moved a loss that a quarter of an hour among other drills had not (one run).
4. `train_skills` on single turns of all kinds: point at the region, read the crop, judge a list of results against the
   cues, copy a position. Never a whole trajectory: that is what the cold start teaches.

Rebuild it with `python -m reverse_lib.pretrain data/models/base` (times and skills: see the model card there).
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from reverse_lib import tiny
from reverse_lib.environment import TINY, tool_functions
from reverse_lib.policy import Agent, ImageOnlyProcessor, batch_vision_attention, save_checkpoint, set_threads
from reverse_lib.rewards import box_iou, evidence_mcc
from reverse_lib.skills import (
    FIRST_SEED,
    SkillDrills,
    SkillSample,
    draw_pool,
    vision_batches,
    vocabulary_texts,
    whole_words,
)
from reverse_lib.trajectory import parse_turn
from reverse_lib.vision import VisionHeads, patchify, rate_at, train_vision, vision_losses
from reverse_lib.world import World

VERDICT_WEIGHT = 4.0  # of the loss on "+" and "~": three tokens in twenty carry the whole decision


def encode_skills(tokenizer, samples: Sequence[SkillSample]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Render skill samples for the model; only the last turn is supervised.

    Args:
        tokenizer: The tiny tokenizer.
        samples: With images of one size, or none.

    Returns:
        Model inputs without labels, and weights (B, T): 0 where a token is given, else its share in the loss.
    """
    texts = tokenizer.apply_chat_template([s.messages for s in samples], tools=tool_functions(), tokenize=False)
    pixels, grid = {}, None
    if samples[0].image is not None:
        values, grid = patchify(np.stack([s.image for s in samples]))
        pixels = {"pixel_values": values, "image_grid_thw": grid}
        pad = "<|image_pad|>"
        texts = [text.replace(pad, pad * int(grid[0].prod() // 4)) for text in texts]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right", return_token_type_ids=False)
    ids = batch["input_ids"]
    end, start = (tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|im_start|>"))
    position = torch.arange(ids.shape[1])
    last_start = torch.where(ids == start, position, -1).amax(1, keepdim=True)  # (B, 1)
    last_end = torch.where(ids == end, position, -1).amax(1, keepdim=True)
    header = len(tokenizer("<|im_start|>assistant\n")["input_ids"])
    weights = ((position >= last_start + header) & (position <= last_end)).float()
    verdicts = torch.tensor(tokenizer.convert_tokens_to_ids(["+", "~"]))
    weights = torch.where(torch.isin(ids, verdicts), VERDICT_WEIGHT * weights, weights)
    image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    return {**batch, **pixels, "mm_token_type_ids": (ids == image_id).int()}, weights


def skill_loss(model, inputs: dict[str, torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
    """Weighted next-token cross-entropy of the supervised tokens."""
    device = next(model.parameters()).device
    inputs, weights = {k: v.to(device) for k, v in inputs.items()}, weights[:, 1:].to(device)
    hidden = model.model(**inputs, use_cache=False).last_hidden_state[:, :-1][weights > 0]  # (n, width)
    losses = F.cross_entropy(model.lm_head(hidden).float(), inputs["input_ids"][:, 1:][weights > 0], reduction="none")
    return (losses * weights[weights > 0]).sum() / weights.sum()


def train_skills(
    model,
    tokenizer,
    drills: SkillDrills,
    seconds: float,
    lr: float = 1.5e-3,
    batch: int = 32,
    shares: Sequence[float] = (0.2, 0.25, 0.4, 0.15),
    eyes: tuple[VisionHeads, Iterator] | None = None,
    log_every: int = 50,
    report: Callable[[str], None] = print,
    on_log: Callable[[], None] | None = None,
) -> list[dict]:
    """Train the whole model on single turns for a time budget; one kind of turn a step.

    Args:
        model: With a pre-trained vision tower, which learns at half the rate.
        tokenizer: The tiny tokenizer.
        drills: Where turns come from.
        seconds: Wall time to train for.
        lr: Peak learning rate.
        batch: Samples a step.
        shares: Of pointing, reading, judging and copying among the steps.
        eyes: The vision heads and their batches; their losses are added, so that the tower goes on learning to see.
        log_every: Steps between two logged rows.
        report: Called with each row as text.
        on_log: Called at every logged row (checkpoints).

    Returns:
        The logged losses (running means by kind of turn), with step and seconds.
    """
    visual = list(model.model.visual.parameters())
    rest = [p for p in model.parameters() if not any(p is v for v in visual)]
    groups = [{"params": rest, "peak": lr}, {"params": visual, "peak": lr / 2}]
    if eyes:
        groups.append({"params": list(eyes[0].parameters()), "peak": lr / 2})
    optimiser = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), weight_decay=0.02)
    kinds = (drills.pointing, drills.reading, drills.judging, drills.copying)
    start, history, step, recent = time.monotonic(), [], 0, {}
    while (done := (time.monotonic() - start) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * rate_at(done)
        kind = kinds[drills.rng.choice(len(kinds), p=shares)]
        inputs, weights = encode_skills(tokenizer, [kind() for _ in range(batch)])
        with torch.autocast(next(model.parameters()).device.type, dtype=torch.bfloat16):
            losses = {kind.__name__: skill_loss(model, inputs, weights)}
        if eyes:
            losses |= vision_losses(model.model.visual, eyes[0], *next(eyes[1]))
        optimiser.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        recent |= {name: 0.9 * recent.get(name, v.item()) + 0.1 * v.item() for name, v in losses.items()}
        step += 1
        if step % log_every == 0:
            history.append({"step": step, "seconds": time.monotonic() - start, **recent})
            report(" ".join(f"{k} {v:.3f}" for k, v in history[-1].items()))
            if on_log:
                on_log()
    return history


def measure_skills(agent: Agent, drills: SkillDrills, n: int = 64) -> dict[str, float]:
    """Free-running accuracy of each skill on `n` drills.

    Returns:
        read: share of crops read exactly; point: share of boxes with IoU >= 0.5; judge_mcc: MCC of trusted results;
        judge_exact: share of lists judged exactly; copy: share of answers whose position is the first useful result's.
    """
    read, point, mcc, exact, copied = [], [], [], [], []
    for kind in (drills.pointing, drills.reading, drills.judging):
        samples = [kind() for _ in range(n)]
        written = agent([_with_image(s) for s in samples])
        for sample, text in zip(samples, written, strict=True):
            want, got = parse_turn(sample.messages[-1]["content"]), parse_turn(text)
            if kind == drills.reading:
                read.append(want.think == got.think)
            elif kind == drills.judging:
                mcc.append(evidence_mcc(got.useful, set(want.useful), 6))
                exact.append(got.useful == want.useful)
                copied += [got.answer == want.answer] if want.answer and want.useful else []
            elif want.tool_call:
                point.append(got.tool_call is not None and box_iou(_box(got), _box(want)) >= 0.5)
    names = ("read", "point", "judge_mcc", "judge_exact", "copy")
    return {name: float(np.mean(v)) for name, v in zip(names, (read, point, mcc, exact, copied), strict=True)}


def _box(turn) -> list[float]:
    box = turn.tool_call.arguments.get("bbox_2d")
    return box if isinstance(box, list) and len(box) == 4 else [0, 0, 0, 0]


def _with_image(sample: SkillSample) -> list[dict]:
    """The conversation before the last turn, its image block filled in."""
    messages = []
    for message in sample.messages[:-1]:
        content = message["content"]
        if isinstance(content, list):
            picture = {"type": "image", "image": Image.fromarray(sample.image)} if sample.image is not None else None
            content = [picture if block["type"] == "image" else block for block in content]
        messages.append({**message, "content": content})
    return messages


def build_base(
    folder: Path,
    vision_minutes: float = 40,
    copy_minutes: float = 4,
    reading_minutes: float = 10,
    skill_minutes: float = 40,
    worlds: int = 12,
    photos: int = 900,
    seed: int = 0,
) -> dict[str, float]:
    """Build the base from nothing and save it; `vision.pt` is kept beside it, so that a second run goes on there.

    Args:
        folder: Where the checkpoint goes.
        vision_minutes: Wall time of the first step.
        copy_minutes: Wall time of the second step.
        reading_minutes: Wall time of the third step.
        skill_minutes: Wall time of the fourth step.
        worlds: Pre-training worlds of 200 places.
        photos: Photos of each.
        seed: Of weights and batches.

    Returns:
        Measured skills, on photos of a further world and on held-out names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    world = World(FIRST_SEED, 200)
    pool = draw_pool(worlds, photos)
    print(f"{len(pool[0])} photos, {len(pool[1])} crops", flush=True)
    model, tokenizer = tiny.build(vocabulary_texts([world]), whole_words(world), seed)
    batch_vision_attention(model)
    heads, kept = VisionHeads(model.config.text_config.hidden_size, len(world.countries)), folder / "vision.pt"
    if kept.is_file():
        state = torch.load(kept, weights_only=True)
        model.model.visual.load_state_dict(state["visual"])
        heads.load_state_dict(state["heads"])
    else:
        train_vision(model.model.visual, heads, vision_batches(*pool, world, 32, seed), 60 * vision_minutes)
        torch.save({"visual": model.model.visual.state_dict(), "heads": heads.state_dict()}, kept)
    processor = ImageOnlyProcessor(tiny.image_processor(), tokenizer, chat_template=tokenizer.chat_template)

    def keep() -> None:
        save_checkpoint(folder, model, processor, TINY, torch.float16)

    eyes, drills = (heads, vision_batches(*pool, world, 12, seed + 1)), SkillDrills(*pool, world, seed)
    train_skills(model, tokenizer, drills, 60 * copy_minutes, lr=2e-3, batch=64, shares=(0, 0, 0, 1))
    model.model.visual.requires_grad_(False)
    train_skills(model, tokenizer, drills, 60 * reading_minutes, lr=2e-3, batch=64, shares=(0, 1, 0, 0))
    model.model.visual.requires_grad_(True)
    train_skills(model, tokenizer, drills, 60 * skill_minutes, eyes=eyes, on_log=keep)
    keep()
    skills = measure(model, processor, world, photos)
    (folder / "skills.json").write_text(json.dumps(skills, indent=2) + "\n")
    return skills


def measure(model, processor, world: World, photos: int = 900, seed: int = 0) -> dict[str, float]:
    """Skills on the photos of a world that was not trained on, and on held-out names only."""
    test = draw_pool(1, photos, first_seed=FIRST_SEED - 1, only_held_out=True)
    return measure_skills(Agent(model, processor, TINY), SkillDrills(*test, world, seed, only_held_out=True), 256)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--vision-minutes", default=40.0, show_default=True)
@click.option("--copy-minutes", default=4.0, show_default=True)
@click.option("--reading-minutes", default=10.0, show_default=True)
@click.option("--skill-minutes", default=40.0, show_default=True)
@click.option("--worlds", default=12, show_default=True)
@click.option("--photos", default=900, show_default=True, help="Of each world.")
def main(folder: Path, **numbers) -> None:
    """Rebuild the tiny base model into FOLDER."""
    set_threads()
    print(build_base(folder, **numbers))


if __name__ == "__main__":
    main()
