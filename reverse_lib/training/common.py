"""What SFT and GRPO share: settings in TRL's terms, and what a run logs (rows as they come, deeds, time)."""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from transformers import TrainerCallback

from reverse_lib.environment import UNREADABLE
from reverse_lib.profiles import GrpoConfig, SftConfig
from reverse_lib.trajectory import SEARCH_TOOLS, TOOLS, Step

PARTS = ("generate", "tools", "own", "step")


def common_arguments(config: SftConfig | GrpoConfig, folder: str | Path, seed: int, device: str) -> dict:
    """The settings that both stages have, in TRL's terms."""
    return dict(
        output_dir=str(folder),
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        adam_beta1=config.beta1,
        adam_beta2=config.beta2,
        max_grad_norm=config.max_grad_norm,
        bf16=True,
        use_cpu=device == "cpu",
        gradient_checkpointing=config.checkpointing,
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


class History(TrainerCallback):
    """Keeps every logged row, hands it to `on_row` as it comes (live curves), and writes it to a file.

    Args:
        on_row: Called with each row.
        path: A JSONL file, a row a line, on disk as soon as it is logged. A run that continues keeps the rows up to
            the step where it continues and writes on; a new run starts it anew.
    """

    def __init__(self, on_row: Callable[[dict], None] | None = None, path: Path | None = None):
        self.rows: list[dict] = []
        self.on_row, self.path = on_row, path

    def on_train_begin(self, args, state, control, **kwargs):
        if self.path is None or not state.is_world_process_zero:
            return
        kept = read_rows(self.path) if state.global_step else []
        self.rows = [row for row in kept if row["step"] <= state.global_step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    def on_log(self, args, state, control, logs=None, **kwargs):
        row = {"step": state.global_step, **(logs or {})}
        self.rows.append(row)
        if self.path is not None and state.is_world_process_zero:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        if self.on_row:
            self.on_row(row)


def read_rows(path: Path) -> list[dict]:
    """The rows of a metrics file; a last line that a killed run left half written is dropped."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class Stopwatch:
    """Seconds spent in parts of a step, by name; parts may lie within each other."""

    def __init__(self):
        self.seconds: Counter = Counter()

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - started


def rollout_metrics(steps: Sequence[Step]) -> Iterator[tuple[str, float]]:
    """Names and values to average: calls a photo by tool; shares of calls that repeat, of searches without a result,
    of turns that can't be read."""
    observations = [step.observation for step in steps]
    used = Counter(observation.tool for observation in observations if observation is not None)
    yield from ((f"calls/{tool.split('_')[tool.startswith('image_zoom')]}", float(used[tool])) for tool in TOOLS)
    for observation in observations:
        yield "turns/unreadable", float(observation is not None and observation.tool == UNREADABLE)
        if observation is not None and observation.tool in TOOLS:
            yield "calls/repeated", float(observation.repeated)
        if observation is not None and observation.tool in SEARCH_TOOLS:
            yield "calls/missed", float(observation.status == "miss")


def speed(rows: Sequence[Mapping], rollouts_per_step: int) -> dict[str, float]:
    """How fast a run was and where its time went, from its logged rows; the first step, which warms up, is left out.

    Returns:
        rollouts_per_s; tokens_per_s (prompts and what the model wrote); the shares of a step, 0..1: generate, tools
        (the environment, and making tokens of what it shows), own (everything that is ours: tools, rewards, credit,
        logging), update (the rest).
    """
    steps = [row for row in rows if row.get("seconds/step")][1:]
    seconds = {part: sum(row[f"seconds/{part}"] for row in steps) for part in PARTS}
    whole = seconds["step"] or math.nan
    tokens = steps[-1]["num_tokens"] - rows[0]["num_tokens"] if steps else math.nan
    own = seconds["own"] + seconds["tools"]
    return {
        "rollouts_per_s": rollouts_per_step * len(steps) / whole,
        "tokens_per_s": tokens / whole,
        "generate": seconds["generate"] / whole,
        "tools": seconds["tools"] / whole,
        "own": own / whole,
        "update": 1 - (seconds["generate"] + own) / whole,
    }
