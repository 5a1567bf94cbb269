"""The tiny base model, the stand-in for Qwen3-VL-4B-Instruct: it can see and speak, but knows no place.

A published vision-language model arrives with eyes that read. A tiny one trained from next-token loss alone
does not learn to read on a CPU, so the base is made in two steps, on worlds whose places are never evaluated:

1. `train_vision`: the vision tower alone, with throwaway heads on its pooled and deepstack outputs: country,
   kind and box of the informative region of a photo; the text of a crop (CTC, so that unseen names can be read).
2. `train_skills`: the whole model on single turns in the agent's own grammar: point at the region, read the
   crop, judge a list of results against the cues, copy a position. Never a whole trajectory: that is what the
   cold start teaches.

Rebuild it with `python -m reverse_lib.pretrain data/models/base` (two CPU cores: see the model card).
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from reverse_lib.environment import tool_functions
from reverse_lib.policy import Agent
from reverse_lib.rewards import box_iou, evidence_mcc
from reverse_lib.skills import KINDS, CropSample, PhotoSample, SkillDrills, SkillSample
from reverse_lib.trajectory import parse_turn

CHARSET = " abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-'."
CTC_STEPS = 4  # frames a merged visual token (32 px) is split into
BOX_BINS = 51


class VisionHeads(nn.Module):
    """Throwaway heads on the visual tokens; D = 3 x the tower's output width (final and two deepstack outputs)."""

    def __init__(self, width: int, countries: int):
        super().__init__()
        self.norm = nn.LayerNorm(3 * width)
        self.read = nn.Linear(3 * width, CTC_STEPS * (len(CHARSET) + 1))
        self.queries = nn.Parameter(torch.randn(6, 3 * width) * (3 * width) ** -0.5)
        self.country = nn.Linear(3 * width, countries)
        self.kind = nn.Linear(3 * width, len(KINDS))
        self.box = nn.ModuleList(nn.Linear(3 * width, BOX_BINS) for _ in range(4))

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """tokens: (B, N, D) -> country (B, C), kind (B, K), box (B, 4, bins)."""
        tokens = self.norm(tokens)
        weights = torch.einsum("qd,bnd->bqn", self.queries, tokens).softmax(-1)  # (B, 6, N)
        pooled = torch.einsum("bqn,bnd->bqd", weights, tokens)  # (B, 6, D)
        box = torch.stack([head(pooled[:, 2 + i]) for i, head in enumerate(self.box)], 1)
        return {"country": self.country(pooled[:, 0]), "kind": self.kind(pooled[:, 1]), "box": box}

    def ctc(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens: (B, N, D) -> log-probabilities (N * CTC_STEPS, B, characters + 1)."""
        logits = self.read(self.norm(tokens))  # (B, N, steps * classes)
        logits = logits.view(tokens.shape[0], tokens.shape[1] * CTC_STEPS, -1)
        return logits.transpose(0, 1).float().log_softmax(-1)


def patchify(images: np.ndarray, patch: int = 16, merge: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of same-size images in the layout of Qwen's image processor (mean 0.5, std 0.25), without its per-image cost.

    Args:
        images: (B, H, W, 3) uint8; H and W are multiples of patch * merge.

    Returns:
        pixel_values (B * H/patch * W/patch, 3 * 2 * patch * patch) float32, grid_thw (B, 3) int64.
    """
    batch, height, width, _ = images.shape
    rows, columns = height // patch, width // patch
    x = torch.from_numpy(images).float().div_(255).sub_(0.5).div_(0.25).permute(0, 3, 1, 2)
    x = x.reshape(batch, 3, rows // merge, merge, patch, columns // merge, merge, patch)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7)  # (B, rows/m, columns/m, m, m, 3, p, p)
    x = x.unsqueeze(6).expand(*x.shape[:6], 2, patch, patch)
    grid = torch.tensor([[1, rows, columns]]).repeat(batch, 1)
    return x.reshape(batch * rows * columns, -1), grid


def visual_tokens(visual: nn.Module, images: np.ndarray) -> torch.Tensor:
    """Final and deepstack outputs of the tower for same-size images: (B, merged tokens, 3 * width)."""
    pixels, grid = patchify(images)
    device = next(visual.parameters()).device
    output = visual(pixels.to(device), grid_thw=grid.to(device))
    features = torch.cat([output.pooler_output, *output.deepstack_features], -1)
    return features.view(len(images), -1, features.shape[-1])


def photo_loss(heads: VisionHeads, tokens: torch.Tensor, samples: list[PhotoSample]) -> dict[str, torch.Tensor]:
    """Cross-entropies of country and kind; for photos with a region, 51-bin cross-entropy + 0.3 x L1 of the box."""
    device = tokens.device
    out = heads(tokens)
    country = torch.tensor([s.country for s in samples], device=device)
    kind = torch.tensor([s.kind for s in samples], device=device)
    losses = {"country": F.cross_entropy(out["country"], country), "kind": F.cross_entropy(out["kind"], kind)}
    boxed = [i for i, s in enumerate(samples) if s.bbox_2d]
    if boxed:
        box = torch.tensor([samples[i].bbox_2d for i in boxed], device=device) / 1000  # (b, 4)
        logits = out["box"][boxed].float()  # (b, 4, bins)
        bins = (box * (BOX_BINS - 1)).round().long()
        expected = logits.softmax(-1) @ torch.linspace(0, 1, BOX_BINS, device=device)
        losses["box"] = F.cross_entropy(logits.flatten(0, 1), bins.flatten()) + 0.3 * 10 * (expected - box).abs().mean()
    return losses


def reading_loss(heads: VisionHeads, tokens: torch.Tensor, texts: list[str]) -> torch.Tensor:
    """CTC loss of the texts on the crops, a mean per character."""
    log_probs = heads.ctc(tokens)  # (T, B, C)
    targets = [torch.tensor([CHARSET.index(c) + 1 for c in text if c in CHARSET]) for text in texts]
    lengths = torch.tensor([len(t) for t in targets])
    steps = torch.full((len(texts),), log_probs.shape[0])
    return F.ctc_loss(log_probs.cpu(), torch.cat(targets), steps, lengths, blank=0, zero_infinity=True)


def read_greedy(heads: VisionHeads, tokens: torch.Tensor) -> list[str]:
    """Best-path CTC decoding of each crop."""
    best = heads.ctc(tokens).argmax(-1).T.tolist()  # (B, T)
    texts = []
    for row in best:
        kept = [c for c, before in zip(row, [0, *row[:-1]], strict=True) if c and c != before]
        texts.append("".join(CHARSET[c - 1] for c in kept))
    return texts


def train_vision(
    visual: nn.Module,
    heads: VisionHeads,
    batches: Iterator[tuple[list[PhotoSample], list[CropSample]]],
    seconds: float,
    lr: float = 1.5e-3,
    log_every: int = 50,
    report=print,
) -> list[dict]:
    """Train tower and heads for a time budget with AdamW, 5 % warm-up and a cosine to 5 %.

    Args:
        visual: The vision tower, `model.model.visual`.
        heads: Fresh heads; throw them away afterwards.
        batches: Endless pairs of photos and crops; all photos of a pair have one size, and so have all crops.
        seconds: Wall time to train for.
        lr: Peak learning rate.

    Returns:
        A list of logged losses with step and seconds.
    """
    parameters = [*visual.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.02)
    start, history, step = time.monotonic(), [], 0
    while (done := (time.monotonic() - start) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = lr * rate_at(done)
        photos, crops = next(batches)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = photo_loss(heads, visual_tokens(visual, np.stack([s.image for s in photos])), photos)
            tokens = visual_tokens(visual, np.stack([s.image for s in crops]))
        losses["read"] = reading_loss(heads, tokens.float(), [s.text for s in crops])
        loss = losses["country"] + losses["kind"] + losses.get("box", 0.0) + 2 * losses["read"]
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        if step % log_every == 0:
            row = {"step": step, "seconds": time.monotonic() - start, **{k: v.item() for k, v in losses.items()}}
            history.append(row)
            report(" ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    return history


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
    shares: tuple[float, float, float] = (0.2, 0.25, 0.55),
    log_every: int = 50,
    report: Callable[[str], None] = print,
    on_log: Callable[[], None] | None = None,
) -> list[dict]:
    """Train the whole model on single turns for a time budget; one kind of turn a step.

    Args:
        model: With a pre-trained vision tower, which learns at a fifth of the rate.
        tokenizer: The tiny tokenizer.
        drills: Where turns come from.
        seconds: Wall time to train for.
        lr: Peak learning rate.
        batch: Samples a step.
        shares: Of pointing, reading and judging among the steps.
        on_log: Called at every log line (checkpoints).
    """
    visual = list(model.model.visual.parameters())
    rest = [p for p in model.parameters() if not any(p is v for v in visual)]
    groups = [{"params": rest, "peak": lr}, {"params": visual, "peak": lr / 5}]
    optimiser = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), weight_decay=0.02)
    kinds = (drills.pointing, drills.reading, drills.judging)
    start, history, step, recent = time.monotonic(), [], 0, {}
    while (done := (time.monotonic() - start) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * rate_at(done)
        kind = kinds[drills.rng.choice(3, p=shares)]
        inputs, weights = encode_skills(tokenizer, [kind() for _ in range(batch)])
        with torch.autocast(next(model.parameters()).device.type, dtype=torch.bfloat16):
            loss = skill_loss(model, inputs, weights)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        recent[kind.__name__] = 0.9 * recent.get(kind.__name__, loss.item()) + 0.1 * loss.item()
        step += 1
        if step % log_every == 0:
            history.append({"step": step, "seconds": time.monotonic() - start, **recent})
            report(" ".join(f"{k} {v:.3f}" for k, v in history[-1].items()))
            if on_log:
                on_log()
    return history


def rate_at(done: float) -> float:
    """Share of the peak rate at a share of the training time: 5 % warm-up, then a cosine to 5 %."""
    return min(1.0, done / 0.05 + 0.02) * (0.05 + 0.475 * (1 + math.cos(math.pi * done)))


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
