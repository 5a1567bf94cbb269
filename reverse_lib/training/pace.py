"""What a training step did besides what it earned, and where its time went."""

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from reverse_lib.environment import UNREADABLE
from reverse_lib.trajectory import SEARCH_TOOLS, TOOLS, Step

PARTS = ("generate", "tools", "own", "step")


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
    seen = [step.observation for step in steps]
    used = Counter(one.tool for one in seen if one is not None)
    yield from ((f"calls/{tool.split('_')[tool.startswith('image_zoom')]}", float(used[tool])) for tool in TOOLS)
    for observation in seen:
        yield "turns/unreadable", float(observation is not None and observation.tool == UNREADABLE)
        if observation is not None and observation.tool in TOOLS:
            yield "calls/repeated", float(observation.repeated)
        if observation is not None and observation.tool in SEARCH_TOOLS:
            yield "calls/missed", float(observation.status == "miss")


def speed(rows: Sequence[Mapping], rollouts_per_step: int) -> dict[str, float]:
    """How fast a run was and where its time went, from its logged rows; the first step, which warms up, is left out.

    Returns:
        rollouts_per_s; tokens_per_s (prompts and what the model wrote); the shares of a step, 0..1: generate, tools
        (the environment), own (everything that is ours: environment, rewards, credit, logging), update (the rest).
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
