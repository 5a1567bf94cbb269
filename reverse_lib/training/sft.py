"""Supervised fine-tuning on multi-turn image trajectories, on TRL's `SFTTrainer`: stage 1 and stage 2 of the method.

Stage 1, direct: photo -> answer. Stage 2, cold start: whole trajectories with crops and search results. They
differ only in the trajectories they are given. What differs from TRL's own vision collator (see `Collator`):
the tool block is rendered as in RL, images inside tool turns stay where they are, and nothing but assistant
tokens carries loss, each weighing the same however a step is split into batches. What differs from the paper: sizes,
and a cosine that ends at 0.1 of the peak rate for both.

Run it in notebook 03_sft, or: `train_sft(model, processor, make_sft_dataset(rows, photos, interface), config, folder)`.
"""

import math
import multiprocessing
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import SFTConfig, SFTTrainer
from trl.chat_template_utils import get_training_chat_template

from reverse_lib.environment import Interface, conversation, images_of, tool_functions
from reverse_lib.geo import Answer
from reverse_lib.models import right_padded
from reverse_lib.photos import Photo
from reverse_lib.profiles import SftConfig
from reverse_lib.training.common import History, common_arguments
from reverse_lib.trajectory import TOOLS, Step, Trajectory, format_turn

IGNORE_INDEX = -100


def direct_trajectories(photos: Sequence[Photo]) -> list[Trajectory]:
    """Stage 1's samples: the truth of each photo as a one-turn trajectory without tools.

    Raises:
        ValueError: A photo has no coordinates.
    """
    rows = []
    for photo in photos:
        if photo.lat is None or photo.lon is None:
            raise ValueError(
                f"{photo.photo_id}: no coordinates, so there is nothing to learn from; drop it or add them"
            )
        answer = Answer(photo.country, photo.city, photo.lat, photo.lon)
        text = format_turn(f"{photo.country}? Nothing to read.", answer=answer)
        truth = {"lat": photo.lat, "lon": photo.lon, "country": photo.country, "city": photo.city}
        rows.append(Trajectory(photo.photo_id, [Step(text, None)], **truth, agent="truth", end="answered"))
    return rows


def make_sft_dataset(
    trajectories: Sequence[Trajectory],
    photos: Mapping[str, Photo],
    interface: Interface,
    tools: Sequence[str] = TOOLS,
) -> Dataset:
    """Trajectories as TRL reads them; pictures are drawn or loaded when asked for, and kept if they are small.

    Returns:
        A dataset whose rows are `{"messages": [...], "images": [...], "tools": [...], "sample_id": ...}`.

    Raises:
        KeyError: A trajectory's photo is not in `photos`.
    """
    missing = [t.photo_id for t in trajectories if t.photo_id not in photos]
    if missing:
        raise KeyError(
            f"{len(missing)} trajectories have no photo, the first is {missing[0]!r}; pass the photos they were made on"
        )
    functions, kept = tool_functions(tools), {}

    def row(index: int) -> dict:
        messages = kept.get(index)
        if messages is None:
            trajectory = trajectories[index]
            messages = conversation(trajectory, photos[trajectory.photo_id].load(), interface)
            if interface.photo_px:  # else photos are as large as they come, and memory is not
                kept[index] = messages
        return {"messages": messages, "images": images_of(messages), "tools": functions}

    def rows(batch: dict) -> dict:
        made = [row(index) for index in batch["index"]]
        ids = [f"{trajectories[i].photo_id} by {trajectories[i].agent or 'unknown'}" for i in batch["index"]]
        return {key: [r[key] for r in made] for key in ("messages", "images", "tools")} | {"sample_id": ids}

    lengths = [
        sum(len(s.text) + len(s.observation.text if s.observation else "") for s in t.steps) for t in trajectories
    ]
    return Dataset.from_dict({"index": range(len(trajectories)), "length": lengths}).with_transform(rows)


class Collator:
    """Renders conversations with the tool block of RL and supervises assistant tokens only.

    Args:
        processor: The model's processor; its chat template must mark assistant turns with `{% generation %}`
            (ours does; Qwen3-VL's is replaced by TRL's training version of it, which renders the same tokens).
        max_length: Longest sample in tokens; a longer one is refused by name, because a cut image run is fatal.
    """

    def __init__(self, processor, max_length: int | None = None):
        self.processor = processor
        self.max_length = max_length
        marked = "generation" in (processor.chat_template or "")
        self.chat_template = processor.chat_template if marked else get_training_chat_template(processor)

    def __call__(self, samples: Sequence[dict]) -> dict[str, torch.Tensor]:
        """Samples -> input_ids, attention_mask, labels (B, T), pixel_values (patches, dim), image_grid_thw (images, 3).

        Raises:
            ValueError: A sample has no supervised token, or is longer than `max_length`.
        """
        batch = self.processor.apply_chat_template(
            [sample["messages"] for sample in samples],
            tools=samples[0]["tools"],
            chat_template=self.chat_template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            processor_kwargs={"padding": True, "padding_side": "right"},
        )
        # asked for tensors, the library looks through one number by number to find the assistant's tokens
        batch = {key: torch.as_tensor(np.asarray(value)) for key, value in batch.items()}
        supervised = batch.pop("assistant_masks").bool()  # (B, T)
        lengths = batch["attention_mask"].sum(1).tolist()
        for sample, tokens, length in zip(samples, supervised.sum(1).tolist(), lengths, strict=True):
            name = sample.get("sample_id", "sample")
            if not tokens:
                raise ValueError(
                    f"{name}: no assistant token to learn from; drop the sample or give it an assistant turn"
                )
            if self.max_length and length > self.max_length:
                raise ValueError(
                    f"{name}: {length} tokens, more than max_length={self.max_length}; leave it out or raise max_length"
                )
        batch["labels"] = batch["input_ids"].masked_fill(~supervised, IGNORE_INDEX)
        return batch


class ByLength(Sampler):
    """Draws rows in random order, those of a step about equally long: padding is what a step wastes most on.

    Args:
        lengths: Of the rows, in any unit.
        batch: Rows a step.
        seed: Of the order, which differs from epoch to epoch and is the same after a restart.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int):
        self.lengths, self.batch, self.seed, self.epoch = list(lengths), batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch, generator=generator))


class Trainer(SFTTrainer):
    """`SFTTrainer` whose order of samples is given, and which logs for how long it has waited for them (`waited_s`)."""

    sampler: Sampler
    waited_s = 0.0

    def _get_train_sampler(self, train_dataset=None) -> Sampler:
        return self.sampler

    def get_batch_samples(self, *args, **kwargs):
        started = time.monotonic()
        samples = super().get_batch_samples(*args, **kwargs)
        self.waited_s += time.monotonic() - started
        return samples

    def log(self, logs: dict, *args, **kwargs) -> None:
        super().log(logs | {"waited_s": self.waited_s}, *args, **kwargs)


class TimeLimit(TrainerCallback):
    """Stops training after `minutes` of wall time, at the end of a step."""

    def __init__(self, minutes: float):
        self.minutes = minutes

    def on_train_begin(self, args, state, control, **kwargs):
        self.end_s = time.monotonic() + 60 * self.minutes

    def on_step_end(self, args, state, control, **kwargs):
        if time.monotonic() > self.end_s:
            control.should_training_stop = True


def possible_workers() -> int:
    """How many processes may make batches ahead: one a core, and one for each GB of shared memory, where batches wait.

    None where processes are not forked, as on macOS: data sets of ours can't be sent to another kind.
    """
    shared = Path("/dev/shm")
    if multiprocessing.get_start_method() != "fork" or not shared.is_dir():
        return 0
    return min(len(os.sched_getaffinity(0)), int(shutil.disk_usage(shared).free // 1e9))


def sft_arguments(config: SftConfig, samples: int, folder: str | Path, seed: int, device: str) -> SFTConfig:
    """The stage's settings in TRL's terms."""
    steps = max(1, math.ceil(samples * config.epochs / (config.batch_size * config.accumulate)))
    workers = min(config.workers, possible_workers())
    return SFTConfig(
        **common_arguments(config, folder, seed, device),
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        max_steps=steps,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": config.final_rate},
        warmup_steps=int(steps * config.warmup_share),
        logging_steps=max(1, steps // 50),
        max_length=None,
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
    )


def train_sft(
    model,
    processor,
    dataset: Dataset,
    config: SftConfig,
    folder: str | Path,
    seed: int = 0,
    on_row: Callable[[dict], None] | None = None,
    resume: bool = False,
) -> list[dict]:
    """Train `model` in place on `dataset`, for `config.epochs` epochs or `config.minutes` minutes.

    Args:
        model: What `models.load_model` returned.
        processor: What `models.load_processor` returned.
        dataset: What `make_sft_dataset` returned.
        config: Batch size, learning rate, length of the run.
        folder: Where checkpoints go, if the stage keeps any.
        seed: Of the order of the samples.
        on_row: Called with every logged row.
        resume: Continue from the folder's last checkpoint.

    Returns:
        The logged rows: step, loss, learning_rate, mean_token_accuracy, …
    """
    device = next(model.parameters()).device.type
    history = History(on_row)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # options that TRL's own code uses
        trainer = Trainer(
            model=model,
            args=sft_arguments(config, len(dataset), folder, seed, device),
            train_dataset=dataset,
            processing_class=processor,
            data_collator=Collator(processor, config.max_length),
            callbacks=[history, TimeLimit(config.minutes)],
        )
        # Qwen3-VL says it takes no loss arguments, so that TRL would average the means of small batches, in which a
        # short answer weighs as much as a long trajectory; TRL's own loss can count tokens over the whole step.
        trainer.model_accepts_loss_kwargs = True
        trainer.sampler = ByLength(dataset.with_format(None)["length"], config.batch_size * config.accumulate, seed)
        trainer.remove_callback(PrinterCallback)
        with right_padded(model):
            trainer.train(resume_from_checkpoint=resume)
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # else it would go on computing in bfloat16
    return history.rows
