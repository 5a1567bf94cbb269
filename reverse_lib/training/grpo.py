"""Agentic reinforcement learning: GRPO with process rewards, on TRL's `GRPOTrainer` and `environment.rollout`.

For a photo, G rollouts are sampled and scored by `reward.score`, and every token the model wrote is pushed by an
advantage (`reward.advantages`): its turn's, with the labels of search results apart (the default), its turn's, or its
rollout's, as in the paper. No KL term, no entropy bonus, as in the paper. What differs from the public code, where only
accuracy reaches the trainer: the reward that trains is the whole sum (0.6 accuracy + 0.1 format + 0.3 process), and
each component is logged under its own name.

Rollouts come from the loop in which agents act everywhere else; the trainer is its agent. TRL generates one turn for a
batch, computes the loss, shards, logs and saves. So turns are read by our strict grammar, on the very tokens that were
generated; a turn that can't be read is answered and counted; image tokens without features stop the run, where TRL
would go on without pictures; the order of photos follows a curriculum; and a run that was killed goes on from its last
checkpoint as if nothing had happened.

Run it in notebook 04_grpo, or: `train_grpo(model, processor, photos, search, interface, config, folder)`.
"""

import dataclasses
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from PIL import Image
from transformers import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import get_training_chat_template, is_chat_template_prefix_preserving
from trl.trainer.utils import split_pixel_values_by_grid, unsplit_pixel_values_by_grid

from reverse_lib.environment import (
    Album,
    Interface,
    Reply,
    Rollout,
    image_block,
    images_of,
    initial_messages,
    rollout,
    text_block,
    tool_functions,
)
from reverse_lib.models import decode_turn, pictures_remembered, placeholder_ids, right_padded
from reverse_lib.photos import Photo
from reverse_lib.profiles import Budgets, GrpoConfig, Weights
from reverse_lib.reward import CREDITS, SCALES, Advantages, Breakdown, advantages, score
from reverse_lib.training.common import PARTS, History, Stopwatch, common_arguments, rollout_metrics
from reverse_lib.trajectory import TOOLS, Trajectory, curriculum_order

COMPONENTS = ("accuracy", "format", "look", "query", "trust", "errors")
METRICS_FILE, SETTINGS_FILE = "metrics.jsonl", "settings.json"
_BY_TOKEN = {"completion_ids", "completion_mask", "tool_mask", "advantages", "old_per_token_logps"}
_BY_TOKEN |= {"ref_per_token_logps", "sampling_per_token_logps", "importance_sampling_ratio"}  # (B, completion)


@dataclass(frozen=True)
class Encoded:
    """A conversation as tokens: the prompt's, those after it, and which of them the agent wrote."""

    prompt: list[int]
    completion: list[int]
    written: list[int]  # 1 for a token of the agent's, 0 for one of a tool's result
    pictures: list[Image.Image]


class GeoGRPOTrainer(GRPOTrainer):
    """TRL's trainer, with our rollouts, rewards, credit and alarms; see `train_grpo` for the arguments.

    It is itself the agent of its rollouts (`respond_for`).

    Attributes:
        rollouts: Those of the last step on this process: a trajectory each.
        breakdowns: What each of them earned.

    Raises:
        ValueError: There are fewer photos than one step asks for, the credit is unknown, or `levels` are not one a
            photo.
    """

    name = "grpo"

    def __init__(
        self,
        model,
        processor,
        photos: Sequence[Photo],
        search,
        interface: Interface,
        config: GrpoConfig,
        folder: str | Path,
        seed: int = 0,
        weights: Weights | None = None,
        budgets: Budgets | None = None,
        tools: Sequence[str] = TOOLS,
        levels: Sequence[str] | None = None,
        on_row: Callable[[dict], None] | None = None,
    ):
        _check(config, len(photos), levels)
        self._search, self._interface, self._config, self._offered = search, interface, config, tuple(tools)
        self._weights, self._budgets = weights or Weights(), budgets or Budgets()
        self._album, self._clock = Album(photos), Stopwatch()
        self.rollouts: list[Trajectory] = []
        self.breakdowns: list[Breakdown] = []
        draws = config.steps * config.prompts_per_step
        order = curriculum_order(levels or ["unknown"] * len(photos), draws, config.easy_share, seed)
        self._order = [photos[i] for i in order]
        rows = [{"prompt": initial_messages(interface), "photo_id": photo.photo_id} for photo in self._order]
        arguments = grpo_arguments(config, folder, seed, next(model.parameters()).device.type)
        arguments.reward_weights = [1.0] + [0.0] * len(COMPONENTS)  # the total trains, its components are logged
        arguments.generation_kwargs["suppress_tokens"] = placeholder_ids(processor)
        super().__init__(
            model=model,
            reward_funcs=self._reward_functions(),
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=processor,
            callbacks=[history := History(on_row, Path(folder) / METRICS_FILE)],
        )
        self.tools = tool_functions()  # none is called; that there are some makes TRL take the pictures of all turns
        if not is_chat_template_prefix_preserving(processor):
            self.chat_template = get_training_chat_template(processor)  # renders the same tokens
        self._prompt_ids = lru_cache(256)(self._prompt_ids)
        self._result_ids = lru_cache(4096)(self._result_ids)
        self.remove_callback(PrinterCallback)
        self._history = history

    @property
    def rows(self) -> list[dict]:
        """What was logged."""
        return self._history.rows

    def sample(self) -> dict[str, torch.Tensor]:
        """The first step's rollouts, sampled, scored and credited, as what `compute_loss` takes.

        Returns:
            prompt_ids, completion_ids, completion_mask, tool_mask, advantages (a number a token; with credit
            "trajectory" a number a rollout), pixel_values, image_grid_thw, …
        """
        self.model.train()
        self.current_gradient_accumulation_steps = self.args.gradient_accumulation_steps  # `compute_loss` asks for it
        rows = [self.train_dataset[i] for i in range(self._config.prompts_per_step)]
        return self._generate_and_score_completions([row for row in rows for _ in range(self.num_generations)])

    def close(self) -> None:
        """Stop opening photos ahead."""
        self._album.close()

    def training_step(self, *args, **kwargs):
        self._clock.seconds.clear()
        with self._clock("step"):
            loss = super().training_step(*args, **kwargs)
        self._clock.seconds["tools"] -= self._clock.seconds["generate"]  # which lies within
        for part in PARTS:
            seconds = self._clock.seconds[part] * self.args.gradient_accumulation_steps  # of which TRL logs the mean
            self._metrics["train"][f"seconds/{part}"].append(seconds)
        return loss

    def _generate_and_score_completions(self, inputs):
        self._drawn = [self._album[row["photo_id"]] for row in inputs]
        output = super()._generate_and_score_completions(inputs)
        if self._config.credit != "trajectory":  # TRL's own is that of plain GRPO
            with self._clock("own"):
                output["advantages"] = self._advantages_by_token(output)
        if self.accelerator.num_processes == 1:
            first = (self.state.global_step + 1) * self._config.prompts_per_step
            self._album.open_ahead(self._order[first : first + self._config.prompts_per_step])
        return output

    def _generate(self, prompts: list):
        """A step's rollouts, as TRL takes them: tokens, masks and pictures."""
        runs: dict[int, Rollout] = {}
        with self._clock("tools"):
            self.rollouts = rollout(
                self,
                self._drawn,
                self._search,
                self._interface,
                self._budgets,
                self._offered,
                batch_size=len(self._drawn),
                on_finished=lambda _, run: runs.update({run.index: run}),
                album=self._album,
            )
        with self._clock("own"):
            self.breakdowns = [score(trajectory, self._weights) for trajectory in self.rollouts]
            encoded = [self._encode(runs[i].photo_id, runs[i].messages) for i in range(len(prompts))]
            self._log_rollouts(encoded)
        texts = [[{"role": "assistant", "content": t.steps[-1].text if t.steps else ""}] for t in self.rollouts]
        pictures = [one.pictures for one in encoded]
        tokens = [one.prompt for one in encoded], [one.completion for one in encoded], [one.written for one in encoded]
        return *tokens, texts, None, {}, pictures, pictures

    def respond_for(self, photo_ids: Sequence[str], conversations: Sequence[list[dict]]) -> list[Reply | None]:
        """The next turn of each conversation; None where there is no room for one."""
        encoded = [self._encode(*one) for one in zip(photo_ids, conversations, strict=True)]
        rooms = [self.max_completion_length - len(one.completion) for one in encoded]
        going = [i for i, room in enumerate(rooms) if room > 0]
        replies: list[Reply | None] = [None] * len(conversations)
        if not going:
            return replies
        prompts = [encoded[i].prompt + encoded[i].completion for i in going]
        pictures = [encoded[i].pictures for i in going]
        with self._clock("generate"), self.accelerator.autocast():  # weights are cast once a turn, not for every token
            written, _ = self._generate_single_turn(prompts, pictures, self._pixels(pictures), 1, has_tool_images=True)
        for i, ids in zip(going, written, strict=True):
            ids = ids[: rooms[i]]
            ended = bool(ids) and ids[-1] in self.eos_token_ids
            replies[i] = Reply(decode_turn(self._tokenizer, ids), tuple(ids), last=not ended)
        return replies

    def _pixels(self, pictures: Sequence[Sequence[Image.Image]]) -> dict[str, torch.Tensor]:
        """pixel_values (patches, dim) and image_grid_thw (images, 3); a picture that rollouts share is read once."""
        distinct = {id(picture): picture for some in pictures for picture in some}
        made = self.processing_class.image_processor(images=list(distinct.values()), return_tensors="pt")
        patches = made["pixel_values"].split(made["image_grid_thw"].prod(1).tolist())
        at = {key: place for place, key in enumerate(distinct)}
        order = [at[id(picture)] for some in pictures for picture in some]
        values = torch.cat([patches[place] for place in order])
        return {"pixel_values": values, "image_grid_thw": made["image_grid_thw"][order]}

    def _encode(self, photo_id: str, messages: Sequence[dict]) -> Encoded:
        """A conversation as tokens: the agent's turns are those it wrote, and are never encoded again.

        Raises:
            RuntimeError: Its image tokens are not as many as its pictures have features. TRL would drop every picture
                of the batch and train on without them.
        """
        prompt, completion, written = list(self._prompt_ids(_described(messages[:2]))), [], []
        for message in messages[2:]:
            if message["role"] == "assistant":
                completion += message["token_ids"]
                written += [1] * len(message["token_ids"])
            else:
                ids = self._result_ids(message["name"], _described([message]))
                completion += ids
                written += [0] * len(ids)
        pictures = images_of(messages)
        processor = self.processing_class.image_processor
        patches = sum(processor.get_number_of_image_patches(one.height, one.width, {}) for one in pictures)
        features, tokens = patches // processor.merge_size**2, (prompt + completion).count(self._image_pad_token_id)
        if tokens != features:
            raise RuntimeError(
                f"{photo_id}: {tokens} image tokens, but {len(pictures)} pictures with {features} features; a picture "
                "was lost on the way"
            )
        return Encoded(prompt, completion, written, pictures)

    def _prompt_ids(self, described: tuple) -> tuple[int, ...]:
        """Tokens of the system and user message; a picture's number of tokens follows from its size alone."""
        system, user = (_blocks(one) for one in described)
        prompt = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        tokenized = self.processing_class.apply_chat_template(
            conversation=[prompt],
            tools=tool_functions(self._offered) or None,
            chat_template=self.chat_template,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            **self.chat_template_kwargs,
        )
        return tuple(tokenized["input_ids"][0])

    def _result_ids(self, tool: str, described: tuple) -> tuple[int, ...]:
        """Tokens from the end of a turn that called a tool to where the next turn begins."""
        return tuple(self._get_tool_suffix_ids([{"role": "tool", "name": tool, "content": _blocks(described[0])}]))

    def _reward_functions(self) -> list[Callable]:
        """What TRL calls after each generation: the total, which trains, and its components, which are logged."""

        def named(name: str, field: str) -> Callable:
            def value(prompts, **_) -> list[float]:
                return [self._finite(getattr(breakdown, field), i) for i, breakdown in enumerate(self.breakdowns)]

            value.__name__ = name
            return value

        return [named("reward", "total"), *(named(name, name) for name in COMPONENTS)]

    def _finite(self, value: float, i: int) -> float:
        if math.isnan(value):
            failed, photo_id = self.breakdowns[i].service_error, self.rollouts[i].photo_id
            reason = "a search service failed; train against the offline cache" if failed else "check truth and weights"
            raise FloatingPointError(f"{photo_id}: the reward is not a number ({reason}); the run stops here")
        return float(value)

    def _log_rollouts(self, encoded: Sequence[Encoded]) -> None:
        """Log how long the rollouts were, and what they did besides what they earned."""
        lengths = torch.tensor([[len(one.prompt), sum(one.written)] for one in encoded], device=self.accelerator.device)
        self.state.num_input_tokens_seen += self.accelerator.gather(lengths).sum().item()
        self._metrics["train"]["num_tokens"] = [self.state.num_input_tokens_seen]
        for trajectory, one in zip(self.rollouts, encoded, strict=True):
            for name, value in rollout_metrics(trajectory.steps):
                self._log_metric(name, value)
            self._log_metric("rollouts/answered", float(trajectory.end == "answered"))
            cut = not one.completion or one.completion[-1] not in self.eos_token_ids
            self._log_metric("rollouts/truncated", float(cut))
            self._log_metric("completions/mean_length", float(sum(one.written)))

    def _advantages_by_token(self, output: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The advantage that pushes each token of a completion; 0 for what the model did not write; (B, T)."""
        config, first = self._config, self.accelerator.process_index * len(self.breakdowns)
        everybody = gather_object(self.breakdowns)
        values = advantages(everybody, config.credit, self._weights, config.gamma, config.scale, self.num_generations)
        written = (output["completion_mask"] * output["tool_mask"]).tolist()  # (B, T)
        rows = []
        for i, ids in enumerate(output["completion_ids"].tolist()):
            pieces = [piece or "" for piece in self._tokenizer.convert_ids_to_tokens(ids)]  # None: no token has this id
            rows.append(by_token(values[first + i], written[i], pieces, self.rollouts[i].photo_id))
        return torch.tensor(np.array(rows), dtype=torch.float32, device=output["completion_ids"].device)

    def _compute_loss(self, model, inputs):
        # one photo a prompt, all photos of one size: nothing is padded on the left, and a CPU can take the short way;
        # what is computed again is so after this, and must be computed alike
        short = inputs["prompt_mask"].all() and not self._config.checkpointing
        alone = self.accelerator.num_processes == 1 and self.accelerator.device.type == "cpu"
        loss_of = super()._compute_loss
        with right_padded(model) if short else nullcontext():
            return sum(loss_of(model, part) for part in by_length(inputs, self._config.chunks if alone else 1))


def by_token(values: Advantages, written: Sequence[int], pieces: Sequence[str], photo_id: str) -> np.ndarray:
    """What pushes each token of a completion: its turn's advantage, or its labels'; (T,).

    Labels that are pushed by themselves push the thinking before them as well, beside its turn's advantage.

    Args:
        values: Of the rollout, turn by turn.
        written: 1 for a token that the model wrote, 0 elsewhere; the runs of 1 are its turns.
        pieces: The tokens as texts, in which ASCII stands for itself, as in a byte-level vocabulary.
        photo_id: Of the rollout, for the error if there are not as many turns among the tokens.
    """
    edges = np.flatnonzero(np.diff([0, *written, 0]))  # where each turn begins, and where it is over
    turns = list(zip(edges[::2], edges[1::2], strict=True))
    if len(turns) != len(values.turns):
        raise RuntimeError(f"{photo_id}: {len(values.turns)} turns, but {len(turns)} in the tokens")
    row = np.zeros(len(written))
    for (start, end), turn, labels in zip(turns, *values, strict=True):
        row[start:end] = turn
        if np.isfinite(labels):
            tag = label_tokens(pieces[start:end])
            row[start : start + tag.start] += labels
            row[start + tag.start : start + tag.stop] = labels
    return row


def label_tokens(pieces: Sequence[str]) -> range:
    """Where in a turn the labels stand, `<useful>` to `</useful>` after the thinking; empty without a whole tag."""
    text = "".join(pieces)
    start = text.find("<useful>", max(text.find("</think>"), 0))
    end = text.find("</useful>", start) + len("</useful>")
    if start < 0 or end < len("</useful>"):
        return range(0)
    ends = np.cumsum([len(piece) for piece in pieces])  # (tokens,), of characters
    return range(int(np.searchsorted(ends, start, "right")), int(np.searchsorted(ends, end)) + 1)


def _described(messages: Sequence[dict]) -> tuple:
    """Texts, and sizes of pictures, of messages: what their tokens follow from."""
    return tuple(
        tuple(block["image"].size if block["type"] == "image" else block["text"] for block in message["content"])
        for message in messages
    )


def _blocks(described: tuple) -> list[dict]:
    return [text_block(one) if isinstance(one, str) else image_block(Image.new("RGB", one)) for one in described]


def by_length(inputs: Mapping, chunks: int) -> Iterator[dict]:
    """Parts of a batch whose rollouts are about equally long, each cut to its longest: less padding to compute.

    The losses of the parts sum to that of the batch, because TRL divides by the tokens of the whole batch.
    """
    prompt = inputs["prompt_ids"].shape[1]
    lengths = inputs["completion_mask"].sum(1)  # (B,)
    whole = split_pixel_values_by_grid(dict(inputs))
    for rows in lengths.argsort(stable=True).tensor_split(chunks):
        if len(rows):
            longest = int(lengths[rows].max())
            part = {key: _rows(value, rows.tolist()) for key, value in whole.items()}
            for key, value in part.items():
                if key.endswith("token_type_ids"):
                    part[key] = value[:, : prompt + longest]
                elif key in _BY_TOKEN and value.dim() == 2:
                    part[key] = value[:, :longest]
            yield unsplit_pixel_values_by_grid(part)


def _rows(value, rows: list[int]):
    if isinstance(value, torch.Tensor) and value.dim():
        return value[rows]
    return [value[i] for i in rows] if isinstance(value, list) else value


def _check(config: GrpoConfig, photos: int, levels: Sequence[str] | None) -> None:
    if photos < config.prompts_per_step:
        raise ValueError(
            f"{photos} photos for steps of {config.prompts_per_step}: pass more or lower grpo.prompts_per_step"
        )
    for name, value, known in (("credit", config.credit, CREDITS), ("scale", config.scale, SCALES)):
        if value not in known:
            raise ValueError(f"grpo.{name}={value!r}: choose one of {', '.join(known)}")
    if levels is not None and len(levels) != photos:
        raise ValueError(f"{len(levels)} levels for {photos} photos: give one for each, or none")


def grpo_arguments(config: GrpoConfig, folder: str | Path, seed: int, device: str) -> GRPOConfig:
    """The stage's settings in TRL's terms; no KL, no entropy bonus.

    Raises:
        ValueError: The rollouts of a step can't be shared among the processes, in batches of the size asked for.
    """
    rollouts, processes = config.prompts_per_step * config.group_size, PartialState(cpu=device == "cpu").num_processes
    batch = config.batch_size or max(rollouts // processes, 1)
    if rollouts % (processes * batch):
        raise ValueError(
            f"{rollouts} rollouts a step for {processes} processes in batches of {batch}: choose prompts_per_step and "
            "group_size whose product is a multiple of them, or another batch_size"
        )
    return GRPOConfig(
        **common_arguments(config, folder, seed, device),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=rollouts // (processes * batch),
        num_generations=config.group_size,
        lr_scheduler_type=config.schedule,
        epsilon=config.clip,
        max_steps=config.steps,
        temperature=config.temperature,
        beta=config.beta,
        scale_rewards=config.scale,
        max_completion_length=config.max_completion_tokens,
        generation_kwargs={"max_new_tokens": min(config.max_turn_tokens, config.max_completion_tokens)},
        shuffle_dataset=False,
        loss_type="dapo",  # a mean over all tokens of a step
        logging_steps=1,
    )


def train_grpo(
    model, processor, photos, search, interface, config: GrpoConfig, folder, seed=0, **settings
) -> list[dict]:
    """Train `model` in place for `config.steps` steps of GRPO.

    A run with `config.save_steps` that was killed, and is started again with the same settings in the same folder,
    goes on from its last checkpoint: same photos, same random numbers, same metrics file. Checkpoints are removed when
    the run is complete, and when another run starts in their folder.

    Args:
        model: What `models.load_model` returned.
        processor: What `models.load_processor` returned.
        photos: Training photos, with truth and annotated regions.
        search: A search backend, normally an opened `SearchCache`.
        interface: How the world is shown to the model.
        config: Steps, photos a step, group size, learning rate, temperature, credit.
        folder: Where `metrics.jsonl` goes, and checkpoints while the run lasts.
        seed: Of the order of photos and of sampling.
        **settings: `weights`, `budgets`, `tools` (names out of TOOLS), `levels` (how hard each photo is, in the words
            of `trajectory.curriculum`; easy ones come first), `on_row` (called with each logged row).

    Returns:
        The logged rows: step, reward, rewards/accuracy/mean, rewards/look/mean, calls/text, seconds/generate, …
    """
    torch.manual_seed(seed)
    described = {name: value for name, value in settings.items() if name != "on_row"}
    described |= {"seed": seed, "config": config, "photos": [photo.photo_id for photo in photos]}
    with warnings.catch_warnings(action="ignore", category=FutureWarning), pictures_remembered(model):
        trainer = GeoGRPOTrainer(model, processor, photos, search, interface, config, folder, seed, **settings)
        trainer.train(resume_from_checkpoint=_interrupted(Path(folder), described))
    trainer.close()
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # else it would go on computing in bfloat16
    if trainer.accelerator.is_main_process:
        _forget(Path(folder))
    return trainer.rows


def _interrupted(folder: Path, settings: Mapping) -> str | None:
    """The last checkpoint of a run with these settings that was not completed; others are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(settings, default=lambda value: dataclasses.asdict(value), indent=1) + "\n"
    file = folder / SETTINGS_FILE
    last = get_last_checkpoint(str(folder))
    if last and file.is_file() and file.read_text() == text:
        return last
    _forget(folder)
    file.write_text(text)
    return None


def _forget(folder: Path) -> None:
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    (folder / SETTINGS_FILE).unlink(missing_ok=True)
