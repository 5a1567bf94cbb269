"""The tiny base model, the stand-in for Qwen3-VL-4B-Instruct: it can see and speak, but knows hardly a place.

In steps, on worlds that are never evaluated. Each drills one thing alone, because mixed with others from the start it
stalls (measured: model card):

1. reading: the vision tower alone learns the letters on drawn crops, with a throwaway head (CTC).
2. looking: the tower goes on reading, and learns country, kinds and boxes of the regions of photos.
3. copying: the language model alone says names and numbers again, and turns spelled names into names.
4. judging: it goes on with that, and judges lists of results; still no picture.
5. spelling: it learns to say letter by letter what the tower, held still, has read.
6. skills: single turns of all kinds: point at the region, read a crop, judge a list of results against the cues, copy a
   position. Never a whole trajectory: that is what the cold start teaches.

Rebuild it with `python -m reverse_lib.pretrain data/models/base`. What is done is kept in `progress.pt` in that
folder after every step, so that a second run goes on there (times and skills: see the model card).
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
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
from reverse_lib.vision import VisionHeads, measure_vision, patchify, rate_at, train_vision
from reverse_lib.world import World

STEPS = ("reading", "looking", "copying", "judging", "spelling", "skills")
PROGRESS = "progress.pt"
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
    # few lengths: the CPU backend keeps compiled kernels and buffers for each one it meets
    padding = {"padding": True, "padding_side": "right", "pad_to_multiple_of": 32}
    batch = tokenizer(texts, return_tensors="pt", return_token_type_ids=False, **padding)
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
    shares: Mapping[str, float],
    lr: float = 1.5e-3,
    batch: int = 32,
    log_every: int = 50,
    report: Callable[[str], None] = print,
    on_log: Callable[[], None] | None = None,
) -> list[dict]:
    """Train whatever of the model has gradients on single turns for a time budget; one kind of turn a step.

    Args:
        model: With a pre-trained vision tower.
        tokenizer: The tiny tokenizer.
        drills: Where turns come from.
        seconds: Wall time to train for.
        shares: How often each kind of turn (a method of `drills`) is drawn; they sum to 1.
        lr: Peak learning rate.
        batch: Samples a step.
        log_every: Steps between two logged rows.
        report: Called with each row as text.
        on_log: Called at every logged row (checkpoints).

    Returns:
        The logged losses (running means by kind of turn), with step and seconds.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.02)
    kinds, chances = list(shares), list(shares.values())
    start, history, step, recent = time.monotonic(), [], 0, {}
    while (done := (time.monotonic() - start) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = lr * rate_at(done)
        kind = kinds[drills.rng.choice(len(kinds), p=chances)]
        inputs, weights = encode_skills(tokenizer, [getattr(drills, kind)() for _ in range(batch)])
        with torch.autocast(next(model.parameters()).device.type, dtype=torch.bfloat16):
            loss = skill_loss(model, inputs, weights)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        recent[kind] = 0.9 * recent.get(kind, loss.item()) + 0.1 * loss.item()
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


@dataclass(frozen=True)
class Recipe:
    """How long each step takes, minutes of wall time, and on how much data."""

    reading: float = 35
    looking: float = 28
    copying: float = 8
    judging: float = 18
    spelling: float = 10
    skills: float = 18
    worlds: int = 12  # pre-training worlds
    places: int = 200  # of each
    photos: int = 900  # of each
    drawn: int = 4000  # drawn crops of each
    seed: int = 0  # of weights and batches


class Builder:
    """The base under construction: model, tokenizer, throwaway heads and data, and the steps that are done."""

    def __init__(self, folder: Path, recipe: Recipe):
        self.folder, self.recipe = folder, recipe
        folder.mkdir(parents=True, exist_ok=True)
        self.world = World(FIRST_SEED, recipe.places)
        self.pool = draw_pool(recipe.worlds, recipe.photos, recipe.drawn, recipe.places)
        print(f"{len(self.pool[0])} photos, {len(self.pool[1])} crops", flush=True)
        self.model, self.tokenizer = tiny.build(vocabulary_texts([self.world]), whole_words(self.world), recipe.seed)
        batch_vision_attention(self.model)
        self.heads = VisionHeads(self.model.config.text_config.hidden_size, len(self.world.countries))
        self.drills = SkillDrills(*self.pool, self.world, recipe.seed)
        self.done: list[str] = []
        if (folder / PROGRESS).is_file():
            state = torch.load(folder / PROGRESS, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.heads.load_state_dict(state["heads"])
            self.done = state["done"]

    def see(self, photos: int, crops: int, minutes: float) -> None:
        """Trains tower and heads on so many photos and crops a step."""
        batches = vision_batches(*self.pool, (photos, crops), self.recipe.seed + photos)
        train_vision(self.model.model.visual, self.heads, batches, 60 * minutes)

    def speak(self, minutes: float, lr: float, batch: int, **shares: float) -> None:
        """Trains the language model on drills, the tower held still."""
        self.model.model.visual.requires_grad_(False)
        train_skills(self.model, self.tokenizer, self.drills, 60 * minutes, shares, lr, batch)
        self.model.model.visual.requires_grad_(True)

    def step(self, name: str) -> None:
        """One step of the recipe, unless it is done."""
        if name in self.done:
            return
        print(name, flush=True)
        minutes = getattr(self.recipe, name)
        if name == "reading":
            self.see(0, 64, minutes)
        elif name == "looking":
            self.see(32, 32, minutes)
        elif name == "copying":
            self.speak(minutes, 2e-3, 64, copying=0.6, spelling=0.4)
        elif name == "judging":
            self.speak(minutes, 1.5e-3, 32, judging=0.6, copying=0.2, spelling=0.2)
        elif name == "spelling":
            self.speak(minutes, 2e-3, 64, reading=1.0)
        else:
            self.speak(minutes, 1.5e-3, 32, pointing=0.3, reading=0.25, judging=0.4, copying=0.03, spelling=0.02)
        self.done.append(name)
        state = {"model": self.model.state_dict(), "heads": self.heads.state_dict(), "done": self.done}
        torch.save(state, self.folder / PROGRESS)

    def measure(self) -> dict[str, float]:
        """Skills on the photos of a world that was not trained on, and on held-out names only."""
        recipe = self.recipe
        test = draw_pool(
            1, recipe.photos, recipe.drawn // 8, recipe.places, first_seed=FIRST_SEED - 1, only_held_out=True
        )
        drills = SkillDrills(*test, self.world, recipe.seed, only_held_out=True)
        seen = measure_vision(self.model.model.visual, self.heads, *test)
        return {f"heads_{k}": v for k, v in seen.items()} | measure_skills(self.agent(), drills, 256)

    def agent(self) -> Agent:
        """The base as an agent."""
        template = self.tokenizer.chat_template
        processor = ImageOnlyProcessor(tiny.image_processor(), self.tokenizer, chat_template=template)
        return Agent(self.model, processor, TINY)


def build_base(folder: Path, recipe: Recipe | None = None) -> dict[str, float]:
    """Build the base from nothing, or go on where an earlier run stopped, and save it.

    Args:
        folder: Where the checkpoint goes.
        recipe: Minutes and sizes.

    Returns:
        Measured skills, on photos of a further world and on held-out names.
    """
    builder = Builder(folder, recipe or Recipe())
    for name in STEPS:
        builder.step(name)
    save_checkpoint(folder, builder.model, builder.agent().processor, TINY, torch.float16)
    skills = builder.measure()
    (folder / "skills.json").write_text(json.dumps(skills, indent=2) + "\n")
    return skills


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A field of Recipe, such as reading=20.")
def main(folder: Path, settings: tuple[str, ...]) -> None:
    """Rebuild the tiny base model into FOLDER."""
    set_threads()
    known = {field.name: field.type for field in fields(Recipe)}
    chosen = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in known:
            raise click.BadParameter(f"{name!r}: unknown; use one of {', '.join(known)}")
        try:
            chosen[name] = type(getattr(Recipe(), name))(value)
        except ValueError:
            raise click.BadParameter(f"{setting!r}: give a number") from None
    print(build_base(folder, Recipe(**chosen)))


if __name__ == "__main__":
    main()
