"""Agentic reinforcement learning: GRPO with process rewards, on TRL's `GRPOTrainer` and our environment.

The objective is GRPO's: for a photo, G rollouts are sampled, each scored by `rewards.score`, and every assistant
token of a rollout is pushed by the rollout's advantage, its reward's distance from the group's mean in standard
deviations. No KL term, no entropy bonus, as in the paper. What differs from the public code, where only accuracy
reaches the trainer: the reward that trains is the whole sum (0.6 accuracy + 0.1 format + 0.3 process), and each
component is logged under its own name. What differs from plain TRL: turns are parsed by our strict grammar, and
scored on the very tokens that were generated, split by the tool mask.

Run it in notebook 04_grpo, or: `train(model, processor, photos, search, interface, config, folder)`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_template

from reverse_lib.environment import Budgets, GeoEnvironment, Interface, initial_messages
from reverse_lib.photos import Photo
from reverse_lib.policy import decode_turn, known_warnings_silenced
from reverse_lib.profiles import GrpoConfig
from reverse_lib.rewards import Weights, score
from reverse_lib.sft import History
from reverse_lib.trajectory import parse_turn

COMPONENTS = ("accuracy", "format", "look", "query", "trust", "errors")


class GeoGRPOTrainer(GRPOTrainer):
    """TRL's trainer, which after each generation hands every environment the turns its rollout wrote."""

    def _generate(self, prompts: list):
        output = super()._generate(prompts)
        completion_ids, tool_mask = output[1], output[2]
        for environment, ids, mask in zip(self.environments, completion_ids, tool_mask, strict=True):
            texts = [decode_turn(self._tokenizer, turn) for turn in assistant_turns(ids, mask)]
            environment._finish(texts)
        return output


def assistant_turns(ids: Sequence[int], mask: Sequence[int]) -> list[list[int]]:
    """The runs of tokens the model wrote: ids where mask is 1, split where it is 0."""
    turns: list[list[int]] = []
    before = 0
    for token, written in zip(ids, mask, strict=True):
        if written and not before:
            turns.append([])
        if written:
            turns[-1].append(token)
        before = written
    return turns


class TrainingEnvironment(GeoEnvironment):
    """The environment with a memory of its finished rollout, for the reward functions."""

    _weights = Weights()

    def _finish(self, texts: list[str]) -> None:
        """Assemble and score the rollout that wrote `texts`."""
        self._finished = self._trajectory(texts, agent="grpo")
        self._breakdown = score(self._finished, self._weights)


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


def use_strict_grammar(tokenizer) -> None:
    """Let TRL see the turn that `trajectory.parse_turn` sees, and nothing more lenient, in place."""

    def parse_response(ids, prefix=None, tools=None, **_) -> dict:
        text = decode_turn(tokenizer, list(ids))
        call = parse_turn(text).tool_call
        message = {"role": "assistant", "content": text}
        if call:
            message["tool_calls"] = [{"type": "function", "function": {"name": call.name, "arguments": call.arguments}}]
        return message

    tokenizer.parse_response = parse_response
    tokenizer.response_template = qwen3_template


def make_dataset(photos: Sequence[Photo], interface: Interface) -> Dataset:
    """One row a photo: the prompt, and the id by which the environment finds the photo."""
    return Dataset.from_list([{"prompt": initial_messages(interface), "photo_id": photo.photo_id} for photo in photos])


def grpo_arguments(config: GrpoConfig, folder: str | Path, seed: int, device: str) -> GRPOConfig:
    """The stage's settings in TRL's terms; no KL, no entropy bonus."""
    return GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=config.prompts_per_step * config.group_size,
        num_generations=config.group_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant",
        max_steps=config.steps,
        temperature=config.temperature,
        beta=config.beta,
        max_completion_length=config.max_completion_tokens,
        bf16=True,
        use_cpu=device == "cpu",
        gradient_checkpointing=False,
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
    on_row: Callable[[dict], None] | None = None,
) -> GeoGRPOTrainer:
    """The trainer, ready to run; see `train` for the arguments.

    Raises:
        ValueError: There are fewer photos than one step asks for.
    """
    if len(photos) < config.prompts_per_step:
        raise ValueError(
            f"{len(photos)} photos for steps of {config.prompts_per_step}: pass more or lower grpo.prompts_per_step"
        )
    weights, budgets = weights or Weights(), budgets or Budgets()
    by_id: Mapping[str, Photo] = {photo.photo_id: photo for photo in photos}

    def environment() -> TrainingEnvironment:
        made = TrainingEnvironment(search, by_id, interface, budgets)
        made._weights = weights
        return made

    use_strict_grammar(processor.tokenizer)
    functions, function_weights = reward_functions(weights)
    with known_warnings_silenced():
        arguments = grpo_arguments(config, folder, seed, next(model.parameters()).device.type)
        arguments.reward_weights = function_weights
        arguments.max_tool_calling_iterations = budgets.turns - 1
        trainer = GeoGRPOTrainer(
            model=model,
            reward_funcs=functions,
            args=arguments,
            train_dataset=make_dataset(photos, interface),
            processing_class=processor,
            environment_factory=environment,
            callbacks=[History(on_row)],
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def train(model, processor, photos, search, interface, config: GrpoConfig, folder, seed=0, **settings) -> list[dict]:
    """Train `model` in place for `config.steps` steps of GRPO.

    Args:
        model: What `policy.load_model` returned.
        processor: What `policy.load_processor` returned.
        photos: Training photos, with truth and annotated regions.
        search: A search backend, normally an opened `SearchCache`.
        interface: How the world is shown to the model.
        config: Steps, photos a step, group size, learning rate, temperature.
        folder: Where checkpoints go, if the stage keeps any.
        seed: Of the order of photos and of sampling.
        **settings: `weights`, `budgets`, `on_row`, as in `make_trainer`.

    Returns:
        The logged rows: step, reward, rewards/accuracy/mean, rewards/look/mean, tools/call_frequency, …
    """
    torch.manual_seed(seed)
    trainer = make_trainer(model, processor, photos, search, interface, config, folder, seed, **settings)
    with known_warnings_silenced():
        trainer.train()
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, History)).rows
