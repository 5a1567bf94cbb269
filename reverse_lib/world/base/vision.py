"""The tiny model's eyes: its vision tower, pre-trained on its own with throwaway supervised heads.

A published vision-language model arrives with eyes that read. A tiny one trained from next-token loss alone does
not learn to read on a CPU. So the tower first learns, with heads on its final and deepstack outputs, the country,
kind and box of the informative region of a photo, and the text of a crop. Text is read with CTC (Graves et al.
2006), character by character, so that names never seen can be read.

Run as the first step of `python -m reverse_lib.world.base`.
"""

import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reverse_lib.environment import TINY
from reverse_lib.geo import box_iou
from reverse_lib.world.base.drills import KINDS, CropSample, PhotoSample, VisionBatch

CHARSET = " abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-'."
READ_STEPS = 4  # frames a merged visual token (32 px) is split into
BLANK = 0  # of the frames; characters count from 1
INFORMATIVE = 4  # KINDS below it, but for 0, can inform
CELLS = tuple(side // 32 for side in TINY.photo_px)  # merged tokens across and down a photo
BINS = 51  # values of a box edge that the heads tell apart: 0, 20, ... 1000


class VisionHeads(nn.Module):
    """Throwaway heads on the visual tokens; D = 3 x the tower's output width (final and two deepstack outputs)."""

    def __init__(self, width: int, countries: int):
        super().__init__()
        self.norm = nn.LayerNorm(3 * width)
        self.read = nn.Linear(3 * width, READ_STEPS * (len(CHARSET) + 1))
        self.query = nn.Parameter(torch.randn(3 * width) * (3 * width) ** -0.5)
        self.country = nn.Linear(3 * width, countries)
        self.kind = nn.Linear(3 * width, len(KINDS))
        self.box = nn.Linear(3 * width, 4 * BINS)

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """tokens: (B, N, D) -> logits: country (B, C); for each token, kind (B, N, K) and box (B, N, 4, BINS)."""
        tokens = self.norm(tokens)
        weights = (tokens @ self.query).softmax(-1)  # (B, N)
        country = self.country(torch.einsum("bn,bnd->bd", weights, tokens))
        return {"country": country, "kind": self.kind(tokens), "box": self.box(tokens).unflatten(-1, (4, BINS))}

    def frames(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens: (B, N, D) of crops one token high -> log-probabilities (B, N * READ_STEPS, characters + 1)."""
        logits = self.read(self.norm(tokens))  # (B, N, steps * classes)
        return logits.view(tokens.shape[0], tokens.shape[1] * READ_STEPS, -1).float().log_softmax(-1)


def patchify(images: np.ndarray, patch: int = 16, merge: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Same-size images in the layout of our image processor (mean 0.5, std 0.25), without its cost an image.

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
    """Cross-entropies: country of the photo; for each token that a region covers, its kind and its box.

    An edge of a box is a choice among bins, its target spread over the nearest: unlike a regressed number, a choice
    leaves each value a direction of its own in the features, from which the language model can say its digits.
    """
    device, out = tokens.device, heads(tokens)
    country = torch.tensor([s.country for s in samples], device=device)
    kind = torch.zeros(out["kind"].shape[:2], dtype=torch.long)  # (B, N)
    box = torch.zeros(*kind.shape, 4)
    for row, sample in enumerate(samples):
        # the informative region last, so that it wins a shared cell
        for code, bbox_2d in sorted(sample.marks, key=lambda mark: mark[0] < INFORMATIVE):
            cells = cells_of(bbox_2d)
            kind[row, cells], box[row, cells] = code, torch.tensor(bbox_2d) / 1000
    kind, box = kind.to(device), box.to(device)[..., None] * (BINS - 1)  # (B, N, 4, 1)
    of_kind = F.cross_entropy(out["kind"].float().flatten(0, 1), kind.flatten(), reduction="none").view(kind.shape)
    nearby = (-((torch.arange(BINS, device=device) - box[kind > 0]) ** 2) / (2 * 0.6**2)).softmax(-1)  # (n, 4, BINS)
    return {
        "country": F.cross_entropy(out["country"].float(), country),
        "kind": 2 * of_kind[kind > 0].mean() + of_kind[kind == 0].mean(),  # few tokens see a region
        "box": 0.5 * F.cross_entropy(out["box"].float()[kind > 0].flatten(0, 1), nearby.flatten(0, 1)),
    }


def cells_of(bbox_2d: tuple[int, int, int, int]) -> np.ndarray:
    """Indices of the merged tokens that a box covers by a quarter of itself or of them; at least its centre's."""
    across, down = CELLS
    x1, y1, x2, y2 = np.array(bbox_2d) * (across, down, across, down) / 1000  # in cells
    wide = np.minimum(x2, np.arange(across) + 1) - np.maximum(x1, np.arange(across))
    high = np.minimum(y2, np.arange(down) + 1) - np.maximum(y1, np.arange(down))
    shared = high.clip(0)[:, None] * wide.clip(0)  # (down, across)
    shared[min(int((y1 + y2) / 2), down - 1), min(int((x1 + x2) / 2), across - 1)] = 1
    return np.flatnonzero(shared >= 0.25 * min(1, (x2 - x1) * (y2 - y1)))


def find_regions(heads: VisionHeads, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Kind (B,) and box (B, 4) in 0..1000 of the token that most likely holds the informative region."""
    out = heads(tokens)
    informative = out["kind"].float().softmax(-1)[..., 1:INFORMATIVE]  # (B, N, 3)
    best = informative.sum(-1).argmax(-1)  # (B,)
    rows, bins = torch.arange(len(best)), torch.arange(BINS, device=tokens.device)
    chances = out["box"].float()[rows, best].softmax(-1)  # (B, 4, BINS)
    near = chances * ((bins - chances.argmax(-1, keepdim=True)).abs() <= 2)
    edges = (near * bins).sum(-1) / near.sum(-1)  # the mean of the bins around the likeliest
    return informative[rows, best].argmax(-1) + 1, edges * 1000 / (BINS - 1)


def reading_loss(heads: VisionHeads, tokens: torch.Tensor, crops: list[CropSample]) -> dict[str, torch.Tensor]:
    """CTC of the text, and, where letters' positions are known, cross-entropy of the frames they stand on."""
    log_probs = heads.frames(tokens)  # (B, T, C)
    targets = [torch.tensor([CHARSET.index(c) + 1 for c in crop.text if c in CHARSET]) for crop in crops]
    lengths = torch.tensor([len(t) for t in targets])
    steps = torch.full((len(crops),), log_probs.shape[1])
    ctc = F.ctc_loss(log_probs.transpose(0, 1).cpu(), torch.cat(targets), steps, lengths, zero_infinity=True)
    frames = torch.zeros(log_probs.shape[:2], dtype=torch.long)
    known = [row for row, crop in enumerate(crops) if crop.centres_px is not None]
    for row in known:
        at = (crops[row].centres_px * READ_STEPS / 32).astype(int).clip(0, frames.shape[1] - 1)
        frames[row, at] = torch.tensor([CHARSET.index(c) + 1 if c in CHARSET else BLANK for c in crops[row].text])
    weight = torch.where(torch.arange(log_probs.shape[-1]) == BLANK, 0.2, 1.0).to(log_probs.device)
    frames = frames.to(log_probs.device)
    frame = F.nll_loss(log_probs[known].flatten(0, 1), frames[known].flatten(), weight) if known else ctc * 0
    return {"ctc": ctc.to(log_probs.device), "frame": frame}


def read_greedy(heads: VisionHeads, tokens: torch.Tensor) -> list[str]:
    """Best-path CTC decoding of each crop."""
    texts = []
    for row in heads.frames(tokens).argmax(-1).tolist():
        kept = [c for c, before in zip(row, [BLANK, *row[:-1]], strict=True) if c != BLANK and c != before]
        texts.append("".join(CHARSET[c - 1] for c in kept))
    return texts


def vision_losses(visual: nn.Module, heads: VisionHeads, batch: VisionBatch) -> dict[str, torch.Tensor]:
    """All losses of the heads on a batch."""
    device, losses = next(visual.parameters()).device.type, {}
    with torch.autocast(device, dtype=torch.bfloat16):
        if batch.photos:
            tokens = visual_tokens(visual, np.stack([s.image for s in batch.photos]))
            losses = photo_loss(heads, tokens, batch.photos)
        tokens = visual_tokens(visual, np.stack([s.image for s in batch.crops]))
    return losses | reading_loss(heads, tokens.float(), batch.crops)


def linear_weights(module: nn.Module) -> list[nn.Parameter]:
    """Weights of the linear layers, but for one that is an embedding as well."""
    tied = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    return [m.weight for m in module.modules() if isinstance(m, nn.Linear) and id(m.weight) not in tied]


class Descent:
    """Steps of Muon (Jordan 2024) on some matrices and of AdamW on all other parameters, at one rate.

    Reading is learned in half of the time that AdamW alone takes (measured: model card). Muon's steps are scaled to the
    size of AdamW's (Liu et al. 2025), so that one rate serves both.

    Args:
        matrices: Two-dimensional parameters inside the network: no embeddings, no heads.
        parameters: All that are trained, `matrices` too; those without gradients are left out.
        lr: Peak learning rate.
    """

    def __init__(self, matrices: list[nn.Parameter], parameters: list[nn.Parameter], lr: float):
        self.parameters, self.lr = [p for p in parameters if p.requires_grad], lr
        inside = {id(p) for p in matrices}
        groups = [[p for p in self.parameters if (id(p) in inside) == chosen] for chosen in (True, False)]
        scaled = {"adjust_lr_fn": "match_rms_adamw"}
        self.optimisers = [
            kind(group, lr=lr, weight_decay=0.02, **settings)
            for kind, group, settings in zip(
                (torch.optim.Muon, torch.optim.AdamW), groups, (scaled, {"betas": (0.9, 0.98)}), strict=True
            )
            if group
        ]

    def __call__(self, loss: torch.Tensor, rate: float) -> None:
        """One step down `loss`, at this share of the peak rate."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.lr * rate
            optimiser.step()
            optimiser.zero_grad()

    def for_seconds(
        self,
        seconds: float,
        losses: Callable[[], dict[str, torch.Tensor]],
        log_every: int,
        report: Callable[[str], None],
    ) -> list[dict]:
        """Steps down a sum of losses for a time budget, with 5 % warm-up and a cosine to 5 %.

        Args:
            seconds: Wall time.
            losses: What is to be less, by name; called before every step.
            log_every: Steps between two logged rows.
            report: Called with each row as text.

        Returns:
            The logged rows: step, seconds, and a running mean of each loss.
        """
        start, history, step, means = time.monotonic(), [], 0, {}
        while (done := (time.monotonic() - start) / seconds) < 1:
            parts = losses()
            self(sum(parts.values()), rate_at(done))
            for name, loss in parts.items():
                means[name] = 0.9 * means.get(name, loss.item()) + 0.1 * loss.item()
            step += 1
            if step % log_every == 0:
                history.append({"step": step, "seconds": time.monotonic() - start, **means})
                report(" ".join(f"{name} {value:.3f}" for name, value in history[-1].items()))
        return history


def fuse(blocks: nn.ModuleList, many_sizes: bool = False) -> None:
    """Compile a tower's or language model's blocks, in place: a step takes a half to three quarters of the time.

    That costs a minute for each size of images and number of threads, and with `many_sizes` (lengths of text) half a
    minute for each length in batches of one size. Where it fails, as without a C++ compiler, PyTorch warns and goes on.
    """
    torch._dynamo.config.suppress_errors = True
    torch._dynamo.config.recompile_limit = 64
    for block in blocks:
        block.compile(dynamic=many_sizes)


def train_vision(
    visual: nn.Module,
    heads: VisionHeads,
    batches: Iterator[VisionBatch],
    seconds: float,
    lr: float = 1.5e-3,
    log_every: int = 50,
    report: Callable[[str], None] = print,
) -> list[dict]:
    """Train tower and heads for a time budget.

    Args:
        visual: The vision tower, `model.model.visual`.
        heads: Fresh heads; throw them away when the whole model is trained.
        batches: Endless; see `drills.vision_batches`.
        seconds: Wall time to train for.
        lr: Peak learning rate.
        log_every: Steps between two logged rows.
        report: Called with each row as text.

    Returns:
        As `Descent.for_seconds` does.
    """
    descent = Descent(linear_weights(visual), [*visual.parameters(), *heads.parameters()], lr)
    return descent.for_seconds(seconds, lambda: vision_losses(visual, heads, next(batches)), log_every, report)


@torch.inference_mode()
def measure_vision(visual: nn.Module, heads: VisionHeads, photos, crops, batch: int = 128) -> dict[str, float]:
    """What the heads get right on photos and crops: country, box with IoU >= 0.5, text to the letter; shares."""
    country, box, text = [], [], []
    for start in range(0, len(photos), batch):
        some = photos[start : start + batch]
        tokens = visual_tokens(visual, np.stack([s.image for s in some]))
        guess = heads(tokens)["country"].argmax(-1).tolist()
        country += [code == s.country for code, s in zip(guess, some, strict=True)]
        boxes = find_regions(heads, tokens)[1].tolist()
        box += [box_iou(b, s.bbox_2d) >= 0.5 for b, s in zip(boxes, some, strict=True) if s.bbox_2d]
    for start in range(0, len(crops), batch):
        some = crops[start : start + batch]
        read = read_greedy(heads, visual_tokens(visual, np.stack([s.image for s in some])))
        text += [got == s.text for got, s in zip(read, some, strict=True)]
    return {name: float(np.mean(v)) for name, v in (("country", country), ("box", box), ("text", text)) if v}


def rate_at(done: float) -> float:
    """Share of the peak rate at a share of the training time: 5 % warm-up, then a cosine to 5 %."""
    return min(1.0, done / 0.05 + 0.02) * (0.05 + 0.475 * (1 + math.cos(math.pi * done)))
