"""The tiny base model, the stand-in for Qwen3-VL-4B-Instruct: it can see and speak, but knows hardly a place.

In steps, on worlds that are never evaluated. Each drills one new thing, because all mixed from the start they stall.
Eyes and words are learned apart, side by side in two processes with half of the cores each; when the words are done,
the eyes get all:

- eyes, the vision tower alone with throwaway heads:
  1. reading: the letters on drawn crops (CTC, and the place where each letter stands).
  2. looking: it goes on reading, and learns the country of photos, and kinds and boxes of their regions.
- words, the language model without a picture:
  3. copying: it says names and numbers again.
  4. comparing: it goes on with that, and judges one or two results; from longer lists alone it did not learn in the
     same time to compare names, and took what is in the right country for evidence.
  5. judging: the same with up to six results.
- both, the tower held still, and all the while a little of copying and judging, which are forgotten otherwise:
  6. naming: it says what the tower has read.
  7. pointing: it says what and where the tower has seen.
  8. skills: single turns of all kinds: point at the region, read a crop, judge a list of results against the cues, copy
     a position. Never a whole trajectory: that is what the cold start teaches.

Rebuild it with `python -m reverse_lib.world.base data/models/base`; with `--measure`, the skills of the base in that
folder are measured instead. What is done is kept there after every step (`eyes.pt`, `words.pt`, `both.pt`), so that a
second run goes on (times and skills: see the model card).
"""

import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from reverse_lib.environment import TINY, tool_functions
from reverse_lib.geo import Answer, box_iou
from reverse_lib.models import (
    Agent,
    ImageOnlyProcessor,
    quicken,
    right_padded,
    save_checkpoint,
    set_threads,
)
from reverse_lib.reward import evidence_mcc
from reverse_lib.trajectory import Turn, parse_turn
from reverse_lib.world.atlas import World
from reverse_lib.world.base import architecture
from reverse_lib.world.base.drills import FIRST_SEED, SkillDrills, SkillSample, draw_pool, vision_batches, whole_words
from reverse_lib.world.base.vision import (
    Descent,
    VisionHeads,
    fuse,
    linear_weights,
    measure_vision,
    patchify,
    train_vision,
)

PARTS = {
    "eyes": ("reading", "looking"),
    "words": ("copying", "comparing", "judging"),
    "both": ("naming", "pointing", "skills"),
}
EYES = {"reading": ((0, 64), 1.5e-3), "looking": ((20, 12), 3e-3)}  # photos and crops a step, peak learning rate
WORDS: dict[str, tuple[float, dict[str, float]]] = {  # peak learning rate, shares of drills
    "copying": (2e-3, {"copying": 1.0}),
    "comparing": (1.5e-3, {"judging": 0.65, "copying": 0.35}),
    "judging": (1.5e-3, {"judging": 0.65, "copying": 0.35}),
    "naming": (1e-3, {"reading": 0.8, "judging": 0.12, "copying": 0.08}),
    "pointing": (1e-3, {"pointing": 0.6, "reading": 0.2, "judging": 0.15, "copying": 0.05}),
    "skills": (1e-3, {"pointing": 0.25, "reading": 0.33, "judging": 0.4, "copying": 0.02}),
}
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
    # few lengths: each new one costs half a minute of compiling, and buffers that the CPU backend keeps
    padding = {"padding": True, "padding_side": "right", "pad_to_multiple_of": 64}
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


def draw_batches(draw: Callable[[], SkillSample], batch: int, rng: np.random.Generator) -> list[list[SkillSample]]:
    """A few batches in random order, each of samples about equally long: attention to padding is what costs most."""
    samples = sorted((draw() for _ in range(8 * batch)), key=lambda s: sum(len(str(m["content"])) for m in s.messages))
    batches = [samples[start : start + batch] for start in range(0, len(samples), batch)]
    return [batches[i] for i in rng.permutation(len(batches))]


def train_skills(
    model,
    tokenizer,
    drills: SkillDrills,
    seconds: float,
    shares: Mapping[str, float],
    lr: float = 1e-3,
    batch: int = 16,
    log_every: int = 100,
    report: Callable[[str], None] = print,
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

    Returns:
        As `Descent.for_seconds` does; losses by kind of turn.
    """
    kinds, chances, ready = list(shares), list(shares.values()), {kind: [] for kind in shares}

    def loss_of_a_kind() -> dict[str, torch.Tensor]:
        kind = kinds[drills.rng.choice(len(kinds), p=chances)]
        ready[kind] = ready[kind] or draw_batches(getattr(drills, kind), batch, drills.rng)
        inputs, weights = encode_skills(tokenizer, ready[kind].pop())
        with torch.autocast(next(model.parameters()).device.type, dtype=torch.bfloat16), right_padded(model):
            return {kind: skill_loss(model, inputs, weights)}

    descent = Descent(linear_weights(model), list(model.parameters()), lr)
    return descent.for_seconds(seconds, loss_of_a_kind, log_every, report)


@dataclass(frozen=True)
class Recipe:
    """How long each step takes, minutes of wall time, and on how much data."""

    reading: float = 8
    looking: float = 61
    copying: float = 4
    comparing: float = 12
    judging: float = 8
    naming: float = 6
    pointing: float = 11
    skills: float = 18
    worlds: int = 50  # pre-training worlds
    places: int = 200  # of each
    photos: int = 900  # of each
    drawn: int = 800  # drawn crops of each
    seed: int = 0  # of weights and batches


class Builder:
    """A part of the base under construction: model, tokenizer, throwaway heads, data, and the steps that are done."""

    def __init__(self, folder: Path, recipe: Recipe, part: str, report: Callable[[str], None] = print):
        self.file, self.recipe, self.part, self.report = folder / f"{part}.pt", recipe, part, report
        self.world = World(FIRST_SEED, recipe.places)
        self.model, self.tokenizer = architecture.build(whole_words(self.world), recipe.seed)
        quicken(self.model)
        self.heads = VisionHeads(self.model.config.text_config.hidden_size, len(self.world.countries))
        self.done: list[str] = []
        if self.file.is_file():
            state = torch.load(self.file, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.heads.load_state_dict(state["heads"])
            self.done = state["done"]
        elif part == "both":
            eyes, words = (torch.load(folder / f"{done}.pt", weights_only=True) for done in ("eyes", "words"))
            tower = {name: weight for name, weight in eyes["model"].items() if ".visual." in name}
            self.model.load_state_dict(words["model"] | tower)
            self.heads.load_state_dict(eyes["heads"])
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model.to(device), self.heads.to(device)

    def build(self, pool: tuple[list, list]) -> None:
        """Takes the steps of this part that are not done, on so many photos and crops."""
        self.drills = SkillDrills(*pool, self.world, self.recipe.seed)
        for name in PARTS[self.part]:
            if name not in self.done:
                print(name, flush=True)
                self.step(name, pool)
                self.done.append(name)
                state = {"model": self.model.state_dict(), "heads": self.heads.state_dict(), "done": self.done}
                torch.save(state, self.file)

    def step(self, name: str, pool: tuple[list, list]) -> None:
        """One step of the recipe."""
        minutes = getattr(self.recipe, name)
        self.drills.most_results = 6 if name in ("judging", "skills") else 2
        if name in EYES:
            self.see(pool, minutes, *EYES[name])
        else:
            self.speak(minutes, *WORDS[name])

    def see(self, pool: tuple[list, list], minutes: float, batch: tuple[int, int], lr: float) -> None:
        """Trains tower and heads on so many photos and crops a step."""
        if minutes > 5 and self.model.device.type == "cpu":  # a shorter step does not earn back the compiling
            fuse(self.model.model.visual.blocks)
        batches = vision_batches(*pool, batch, self.recipe.seed + batch[0])
        train_vision(self.model.model.visual, self.heads, batches, 60 * minutes, lr, report=self.report)

    def speak(self, minutes: float, lr: float, shares: Mapping[str, float]) -> None:
        """Trains the language model on drills, the tower held still."""
        self.model.model.visual.requires_grad_(False)
        if self.part == "both" and minutes > 5 and self.model.device.type == "cpu":  # on one core it wins too little
            fuse(self.model.model.language_model.layers, many_sizes=True)
        train_skills(self.model, self.tokenizer, self.drills, 60 * minutes, shares, lr, report=self.report)
        self.model.model.visual.requires_grad_(True)

    def measure(self) -> dict[str, float]:
        """Skills on the photos of a world that was not trained on, and on held-out names only."""
        pool = unseen_pool(self.recipe.photos, places=self.recipe.places)
        heads = measure_vision(self.model.model.visual, self.heads, *pool)
        return {f"heads_{k}": v for k, v in heads.items()} | measure_base(self.agent(), pool, self.recipe.places)

    def agent(self) -> Agent:
        """The base as an agent."""
        template = self.tokenizer.chat_template
        processor = ImageOnlyProcessor(architecture.image_processor(), self.tokenizer, chat_template=template)
        return Agent(self.model, processor, TINY)


def teach_words(folder: Path, recipe: Recipe, threads: int) -> None:
    """The part of the base that needs no picture."""
    set_threads(threads)
    Builder(folder, recipe, "words").build(([], []))


def build_base(folder: Path, recipe: Recipe | None = None) -> dict[str, float]:
    """Build the base from nothing, or go on where an earlier run stopped, and save it.

    Args:
        folder: Where the checkpoint goes.
        recipe: Minutes and sizes.

    Returns:
        Measured skills, on photos of a further world and on held-out names.
    """
    recipe, threads = recipe or Recipe(), set_threads()
    folder.mkdir(parents=True, exist_ok=True)
    pool = draw_pool(recipe.worlds, recipe.photos, recipe.drawn, recipe.places)
    print(f"{len(pool[0])} photos, {len(pool[1])} crops", flush=True)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as beside:
        words = beside.submit(teach_words, folder, recipe, max(threads // 2, 1))
        set_threads(max(threads // 2, 1))

        def report(row: str) -> None:
            print(row, flush=True)
            if words.done():
                set_threads()

        Builder(folder, recipe, "eyes", report).build(pool)
        words.result()
    set_threads()
    Builder(folder, recipe, "both").build(pool)
    builder = Builder(folder, recipe, "both")  # read again, without compiled blocks
    save_checkpoint(folder, builder.model, builder.agent().processor, TINY, torch.float16)
    skills = builder.measure()
    (folder / "skills.json").write_text(json.dumps(skills, indent=2) + "\n")
    return skills


def measure_skills(agent: Agent, drills: SkillDrills, n: int = 64) -> dict[str, float]:
    """Free-running accuracy of each skill on `n` drills.

    Returns:
        read: share of crops read exactly; point: share of boxes with IoU >= 0.5; judge_mcc: MCC of trusted results;
        judge_exact: share of lists judged exactly; copy: of these, where a result is used, the share of answers with
        its very position; answer: share of all answers with country, name and position of the first useful result.
    """
    read, point, mcc, exact, copied, answered = [], [], [], [], [], []
    for kind in (drills.pointing, drills.reading, drills.judging):
        for want, got in _answered(agent, [kind() for _ in range(n)]):
            if kind == drills.reading:
                read.append(want.think == got.think)
            elif kind == drills.judging:
                mcc.append(evidence_mcc(got.useful, set(want.useful), 6))
                exact.append(got.useful == want.useful)
                if want.answer and want.useful:
                    answered.append(got.answer == want.answer)
                    copied += [_position(got.answer) == _position(want.answer)] if exact[-1] else []
            elif want.tool_call:
                point.append(got.tool_call is not None and box_iou(_box(got), _box(want)) >= 0.5)
    skills = {"read": read, "point": point, "judge_mcc": mcc, "judge_exact": exact, "copy": copied, "answer": answered}
    return {name: float(np.mean(values or [0])) for name, values in skills.items()}


def measure_base(
    agent: Agent, pool: tuple[list, list] | None = None, places: int = 200, n: int = 512
) -> dict[str, float]:
    """What a base can do where it was never trained: photos of a further world, and held-out names only.

    Args:
        agent: The base.
        pool: Photos and crops with held-out names; those of the last world before the training's if None.
        places: Size of the worlds.
        n: Drills of each kind.

    Returns:
        As `measure_skills` does; and read_photo: share of the pool's crops cut from photos, the drawn ones aside, read
        exactly.
    """
    photos, crops = pool or unseen_pool(places=places)
    world = World(FIRST_SEED, places)
    skills = measure_skills(agent, SkillDrills(photos, crops, world, 0, only_held_out=True), n)
    cut = [SkillDrills(photos, [crop], world, 0).reading() for crop in crops if crop.centres_px is None]
    read = [want.think == got.think for want, got in _answered(agent, cut)]
    return skills | {"read_photo": float(np.mean(read))}


def unseen_pool(photos: int = 900, drawn: int = 650, places: int = 200) -> tuple[list, list]:
    """Photos and crops with held-out names only, of a world that is not trained on."""
    return draw_pool(1, photos, drawn, places, first_seed=FIRST_SEED - 1, only_held_out=True)


def _answered(agent: Agent, samples: list[SkillSample]) -> list[tuple[Turn, Turn]]:
    """The last turns of drills, as they should be and as the agent writes them."""
    replies = agent([_with_image(s) for s in samples])
    texts = [reply.text if reply else "" for reply in replies]
    return [(parse_turn(s.messages[-1]["content"]), parse_turn(text)) for s, text in zip(samples, texts, strict=True)]


def _position(answer: Answer | None) -> tuple[float, float] | None:
    return None if answer is None else (answer.lat, answer.lon)


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
