"""Agentic reinforcement learning: GRPO with process rewards, on TRL's `GRPOTrainer` and our environment.

For a photo, G rollouts are sampled and scored by `rewards.score`, and every token the model wrote is pushed by an
advantage: its turn's, with the labels of search results apart (`credit.label_advantages`, the default), its turn's
(`credit.turn_advantages`), or its rollout's, as in the paper. No KL term, no entropy bonus, as in the paper. What
differs from the public code, where only accuracy reaches the trainer: the reward that trains is the whole sum (0.6
accuracy + 0.1 format + 0.3 process), and each component is logged under its own name. What differs from plain TRL:
turns are read by our strict grammar, on the very tokens that were generated; a turn that can't be read is answered and
counted; image tokens without features stop the run, where TRL would go on without pictures; the order of photos
follows a curriculum; and a run that was killed goes on from its last checkpoint as if nothing had happened.

Run it in notebook 04_grpo, or: `train_grpo(model, processor, photos, search, interface, config, folder)`.
"""

import dataclasses
import json
import math
import shutil
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_template

from reverse_lib.environment import NUDGE, UNREADABLE, Interface, initial_messages
from reverse_lib.models import decode_turn, known_warnings_silenced, pictures_remembered, placeholder_ids, right_padded
from reverse_lib.photos import Photo
from reverse_lib.profiles import Budgets, GrpoConfig, Weights
from reverse_lib.reward import (
    CREDITS,
    SCALES,
    assistant_turns,
    label_advantages,
    label_rewards,
    label_tokens,
    spread,
    turn_advantages,
    turn_rewards,
)
from reverse_lib.training.batches import by_length
from reverse_lib.training.pace import PARTS, Stopwatch, rollout_metrics
from reverse_lib.training.sft import History
from reverse_lib.training.training_environment import Opener, TrainingEnvironment
from reverse_lib.trajectory import TOOLS, curriculum_order, parse_turn

COMPONENTS = ("accuracy", "format", "look", "query", "trust", "errors")
METRICS_FILE, SETTINGS_FILE = "metrics.jsonl", "settings.json"
CHUNKS = 4  # parts of a batch, by length, that the loss is computed in on a CPU


class GeoGRPOTrainer(GRPOTrainer):
    """TRL's trainer with our environments, credit and alarms; `make_trainer` sets the attributes.

    Attributes:
        settings: The stage's configuration.
        reward_parts: Weights of the reward's parts.
        clock: Where a step's time went.
        order: The photos of all steps, in order.
        opener: Opens those of the next step.
    """

    settings: GrpoConfig
    reward_parts: Weights
    clock: Stopwatch
    order: Sequence[Photo]
    opener: Opener

    def training_step(self, *args, **kwargs):
        self.clock.seconds.clear()
        with self.clock("step"):
            loss = super().training_step(*args, **kwargs)
        for part in PARTS:
            seconds = self.clock.seconds[part] * self.args.gradient_accumulation_steps  # of which TRL logs the mean
            self._metrics["train"][f"seconds/{part}"].append(seconds)
        return loss

    def _generate_single_turn(self, *args, **kwargs):
        with self.clock("generate"), self.accelerator.autocast():  # weights are cast once a turn, not for every token
            return super()._generate_single_turn(*args, **kwargs)

    def _generate(self, prompts: list):
        if self.tools:
            for tools, environment in zip(self._sync_tool_dicts, self.environments, strict=True):
                tools[UNREADABLE] = environment._unreadable
        output = super()._generate(prompts)
        prompt_ids, completion_ids, tool_mask, images = output[0], output[1], output[2], output[6]
        with self.clock("own"):
            masks = tool_mask or [[1] * len(ids) for ids in completion_ids]
            for i, environment in enumerate(self.environments):
                self._check_images(environment, prompt_ids[i] + completion_ids[i], (images or {i: None})[i] or [])
                turns = assistant_turns(completion_ids[i], masks[i])
                environment._finish([decode_turn(self._tokenizer, turn) for turn in turns])
            self._log_rollouts(completion_ids)
        return output

    def _check_images(self, environment: TrainingEnvironment, ids: list[int], images: Sequence) -> None:
        """Raise where TRL would drop every picture of the batch and train on without them."""
        processor = self.processing_class.image_processor
        merged = processor.merge_size**2
        features = sum(processor.get_number_of_image_patches(one.height, one.width, {}) // merged for one in images)
        if (tokens := ids.count(self._image_pad_token_id)) != features:
            raise RuntimeError(
                f"{environment._photo.photo_id}: {tokens} image tokens, but {len(images)} pictures with {features} "
                "features; a rollout was cut or lost a picture: raise grpo.max_completion_tokens"
            )

    def _log_rollouts(self, completion_ids: Sequence[Sequence[int]]) -> None:
        """Log what the rollouts did besides what they earned."""
        ends = {*self.eos_token_ids}
        for environment, ids in zip(self.environments, completion_ids, strict=True):
            for name, value in rollout_metrics(environment._finished.steps):
                self._log_metric(name, value)
            self._log_metric("rollouts/answered", float(environment._finished.end == "answered"))
            self._log_metric("rollouts/truncated", float(not ids or ids[-1] not in ends))

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        if self.settings.credit != "trajectory":
            with self.clock("own"):
                output["advantages"] = self._advantages_by_token(output)
        if self.model.training and self.accelerator.num_processes == 1:
            first = (self.state.global_step + 1) * self.settings.prompts_per_step
            self.opener.open(self.order[first : first + self.settings.prompts_per_step])
        return output

    def _advantages_by_token(self, output: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The advantage of the turn, or of the labels, that each token of a completion is in; 0 outside; (B, T)."""
        environments, settings = self.environments, self.settings
        rewards = gather_object([turn_rewards(e._breakdown, self.reward_parts).tolist() for e in environments])
        group = self.num_generations if self.model.training else self.num_generations_eval
        advantages = turn_advantages(rewards, group, settings.gamma, settings.scale)
        first = self.accelerator.process_index * len(environments)
        mask = output["completion_mask"] * output.get("tool_mask", 1)  # (B, T)
        mine = slice(first, first + len(environments))
        rows = np.array(
            [
                spread(values, written, environment._finished.photo_id)
                for values, written, environment in zip(advantages[mine], mask.tolist(), environments, strict=True)
            ]
        )  # (B, T)
        if settings.credit == "segment":
            paid = gather_object([label_rewards(e._breakdown, self.reward_parts).tolist() for e in environments])
            for row, ids, written, values in zip(
                rows, output["completion_ids"].tolist(), mask.tolist(), label_advantages(paid, group)[mine], strict=True
            ):
                self._pay_labels(row, ids, written, values)
        return torch.tensor(rows, dtype=torch.float32, device=mask.device)

    def _pay_labels(self, row: np.ndarray, ids: list[int], written: list[int], values: np.ndarray) -> None:
        """Write the labels' own advantages over their turns', and add them to the thinking before, in place; (T,)."""
        starts = np.flatnonzero(np.diff([0, *written]) == 1)
        for start, turn, value in zip(starts, assistant_turns(ids, written), values, strict=True):
            if np.isfinite(value):
                pieces = self._tokenizer.convert_ids_to_tokens(turn)  # None for a number that no token has
                labels = label_tokens([piece or "" for piece in pieces])
                row[start : start + labels.start] += value
                row[start + labels.start : start + labels.stop] = value

    def _compute_loss(self, model, inputs):
        # one photo a prompt, all photos of one size: nothing is padded on the left, and a CPU can take the short way;
        # what is computed again is so after this, and must be computed alike
        short = inputs["prompt_mask"].all() and not self.settings.checkpointing
        alone = self.accelerator.num_processes == 1 and self.accelerator.device.type == "cpu"
        loss_of = super()._compute_loss
        with right_padded(model) if short else nullcontext():
            return sum(loss_of(model, part) for part in by_length(inputs, CHUNKS if alone else 1))


def reward_functions(weights: Weights) -> tuple[list[Callable], list[float]]:
    """What TRL calls after each generation: the total, which trains, and its components, which are logged.

    Returns:
        (functions, weights of the functions): 1 for the total, 0 for each component.
    """

    def reward(environments, **_) -> list[float]:
        return [_finite(e._breakdown.total, e) for e in environments]

    def component(name: str) -> Callable:
        def value(environments, **_) -> list[float]:
            return [_finite(getattr(e._breakdown, name), e) for e in environments]

        value.__name__ = name
        return value

    return [reward, *map(component, COMPONENTS)], [1.0] + [0.0] * len(COMPONENTS)


def _finite(value: float, environment: TrainingEnvironment) -> float:
    if math.isnan(value):
        photo_id, failed = environment._finished.photo_id, environment._breakdown.service_error
        reason = "a search service failed; train against the offline cache" if failed else "check truth and weights"
        raise FloatingPointError(f"{photo_id}: the reward is not a number ({reason}); the run stops here")
    return float(value)


def use_strict_grammar(tokenizer, nudges: int) -> None:
    """Let TRL see the turn that `trajectory.parse_turn` sees, and nothing more lenient, in place.

    A turn that neither calls nor answers becomes a call of UNREADABLE, so that it is answered; unless it was cut, or
    `nudges` turns of the rollout were answered so before.
    """

    def told(prefix: Sequence[int] | None) -> int:
        return tokenizer.decode(list(prefix or [])).count(NUDGE)

    def parse_response(ids, prefix=None, tools=None, **_) -> dict:
        text = decode_turn(tokenizer, list(ids))
        turn = parse_turn(text)
        message = {"role": "assistant", "content": text}
        if turn.tool_call:
            message["tool_calls"] = [_call(turn.tool_call.name, turn.tool_call.arguments)]
        elif turn.answer is None and tokenizer.eos_token_id in ids and told(prefix) < nudges:
            message["tool_calls"] = [_call(UNREADABLE, {"text": text})]
        return message

    tokenizer.parse_response = parse_response
    tokenizer.response_template = qwen3_template


def _call(name: str, arguments: dict) -> dict:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def make_dataset(photos: Sequence[Photo], order: Sequence[int], interface: Interface) -> Dataset:
    """A row a draw: the prompt, and the id by which the environment finds the photo."""
    return Dataset.from_list([{"prompt": initial_messages(interface), "photo_id": photos[i].photo_id} for i in order])


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
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=rollouts // (processes * batch),
        num_generations=config.group_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        max_steps=config.steps,
        temperature=config.temperature,
        beta=config.beta,
        scale_rewards=config.scale,
        max_completion_length=config.max_completion_tokens,
        generation_kwargs={"max_new_tokens": min(config.max_turn_tokens, config.max_completion_tokens)},
        shuffle_dataset=False,
        loss_type="dapo",  # a mean over all tokens of a step
        bf16=True,
        use_cpu=device == "cpu",
        gradient_checkpointing=config.checkpointing,
        logging_steps=1,
        save_strategy="steps" if config.save_steps else "no",
        save_steps=config.save_steps or 500,
        save_total_limit=1,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        data_seed=seed,
    )


def make_trainer(
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
) -> GeoGRPOTrainer:
    """The trainer, ready to run; see `train_grpo` for the arguments.

    Raises:
        ValueError: There are fewer photos than one step asks for, the credit is unknown, or `levels` are not one a
            photo.
    """
    if len(photos) < config.prompts_per_step:
        raise ValueError(
            f"{len(photos)} photos for steps of {config.prompts_per_step}: pass more or lower grpo.prompts_per_step"
        )
    if config.credit not in CREDITS:
        raise ValueError(f"grpo.credit={config.credit!r}: choose one of {', '.join(CREDITS)}")
    if config.scale not in SCALES:
        raise ValueError(f"grpo.scale={config.scale!r}: choose one of {', '.join(SCALES)}")
    if levels is not None and len(levels) != len(photos):
        raise ValueError(f"{len(levels)} levels for {len(photos)} photos: give one for each, or none")
    weights, budgets, clock = weights or Weights(), budgets or Budgets(), Stopwatch()
    opened, pictures, opener = WeakValueDictionary(), OrderedDict(), Opener()
    by_id: Mapping[str, Photo] = {photo.photo_id: photo for photo in photos}

    def environment() -> TrainingEnvironment:
        made = TrainingEnvironment(search, by_id, interface, budgets, tools)
        made._weights, made._clock = weights, clock
        made._opened, made._pictures, made._ahead = opened, pictures, opener.ahead
        return made

    order = curriculum_order(
        levels or ["unknown"] * len(photos), config.steps * config.prompts_per_step, config.easy_share, seed
    )
    use_strict_grammar(processor.tokenizer, budgets.nudges)
    functions, function_weights = reward_functions(weights)
    with known_warnings_silenced():
        arguments = grpo_arguments(config, folder, seed, next(model.parameters()).device.type)
        arguments.reward_weights = function_weights
        arguments.generation_kwargs["suppress_tokens"] = placeholder_ids(processor)
        arguments.max_tool_calling_iterations = budgets.turns - 1
        trainer = GeoGRPOTrainer(
            model=model,
            reward_funcs=functions,
            args=arguments,
            train_dataset=make_dataset(photos, order, interface),
            processing_class=processor,
            environment_factory=environment,
            callbacks=[History(on_row, Path(folder) / METRICS_FILE)],
        )
    trainer.settings, trainer.reward_parts, trainer.clock = config, weights, clock
    trainer.order, trainer.opener = [photos[i] for i in order], opener
    trainer.remove_callback(PrinterCallback)
    return trainer


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
    tokenizer, template = processor.tokenizer, processor.tokenizer.response_template
    trainer = make_trainer(model, processor, photos, search, interface, config, folder, seed, **settings)
    described = {name: value for name, value in settings.items() if name != "on_row"}
    described |= {"seed": seed, "config": config, "photos": [photo.photo_id for photo in photos]}
    with known_warnings_silenced(), pictures_remembered(model):
        trainer.train(resume_from_checkpoint=_interrupted(Path(folder), described))
    trainer.opener.close()
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # else it would go on computing in bfloat16
    del tokenizer.parse_response
    tokenizer.response_template = template  # TRL's would be saved with the checkpoint
    if trainer.accelerator.is_main_process:
        _forget(Path(folder))
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, History)).rows


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
