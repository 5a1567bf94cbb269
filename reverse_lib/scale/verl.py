"""What verl needs to train an agent on our data: RL rows, search caches, tool configuration and a reward function.

    export_verl("outputs/verl", world.photos("train", 1000), cache)

writes `rl/train_rl.parquet`, `rl_cache/*.parquet`, `tool_config.yaml` and `reward.py`; a training run then names them:

    data.train_files=outputs/verl/rl/train_rl.parquet
    actor_rollout_ref.rollout.multi_turn.tool_config_path=outputs/verl/tool_config.yaml
    custom_reward_function.path=outputs/verl/reward.py custom_reward_function.name=compute_score

Differs from the paper's public code: the reward that is exported is the one that reaches the trainer, accuracy and
format both, and the tools are described in the very words our own training shows a model. verl hands a reward function
the text of a rollout alone. Labels of evidence and annotated regions are not in it, so of the process part only the
penalty for calls the model got wrong can be paid; and what a model writes in the form of a tool's message is taken for
one. verl can't drop a rollout whose service failed: such a one is scored by its answer and counted, `service_error`.
"""

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from reverse_lib.environment import FULL, Interface, tool_functions
from reverse_lib.photos import Photo
from reverse_lib.profiles import Weights
from reverse_lib.reward import score
from reverse_lib.scale.released import IMAGE, TEXT, ZOOM, place_of, steps_of, write_caches, write_rl
from reverse_lib.search import SearchCache
from reverse_lib.trajectory import TOOLS, Trajectory

TOOL_CLASSES = {  # where the paper's copy of verl has them
    ZOOM: "verl.tools.image_zoom_in_tool.ImageZoomInTool",
    IMAGE: "verl.tools.image_search_tool.ImageSearchTool",
    TEXT: "verl.tools.text_search_tool.TextSearchTool",
}
# Between two turns of the model verl's text of a rollout has the chat template's words, with its tags or without.
_TOOL_TURN = re.compile(
    r"(?:<\|im_end\|>)?\s{0,4}(?:<\|im_start\|>)?(?:user|tool)\n(<tool_response>(?:(?!<tool_response>).)*?</tool_response>)"
    r"\s{0,4}(?:<\|im_end\|>)?\s{0,4}(?:<\|im_start\|>)?assistant\n",
    re.DOTALL,
)
_ENDS = ("<|im_end|>", "<|endoftext|>")
REWARD_FILE = '''"""The reward for verl: give this file as custom_reward_function.path, and the name compute_score."""

try:
    from reverse_lib.scale import compute_score
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}; put the folder that holds reverse_lib on PYTHONPATH of each worker") from error

__all__ = ["compute_score"]
'''


def export_verl(
    folder: str | os.PathLike,
    tasks: Iterable[Trajectory | Photo],
    cache: SearchCache,
    interface: Interface = FULL,
    split: str = "train",
) -> dict[str, Path]:
    """Writes everything verl needs into a folder.

    Args:
        folder: Created when it isn't there. Paths of photos in the rows are relative to DATA_ROOT, `images/…`.
        tasks: Photos with known places, or trajectories.
        cache: What the tools answer from.
        interface: Whose prompt the rows have.
        split: Names the table, `rl/SPLIT_rl.parquet`, and is written into each row.

    Returns:
        The files: "rl", "image_cache", "text_cache", "tools", "reward".

    Raises:
        ReleasedError: The place of a photo is unknown.
    """
    folder = Path(folder)
    files = {"rl": folder / "rl" / f"{split}_rl.parquet"}
    files |= {"tools": folder / "tool_config.yaml", "reward": folder / "reward.py"}
    write_rl(files["rl"], tasks, interface, split)
    caches = write_caches(cache, folder / "rl_cache")
    config = _tool_config(caches, cache)
    files["tools"].write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100), encoding="utf-8")
    files["reward"].write_text(REWARD_FILE, encoding="utf-8")
    return files | {"image_cache": caches[IMAGE], "text_cache": caches[TEXT]}


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict | None = None, **_: object
) -> dict[str, float]:
    """The reward of a rollout, as verl calls it.

    Args:
        data_source, extra_info: Not looked at; nor is what else a version of verl passes.
        solution_str: All that followed the prompt, turns of the model and results of its tools.
        ground_truth: `lat, lon, country, city`.

    Returns:
        score (the weighted total), accuracy, format, process, answered (1 if an answer could be read) and
        service_error (1 if a tool says that its service failed).

    Raises:
        ValueError: The ground truth can't be read.
    """
    lat, lon, country, city = place_of(ground_truth)
    texts = _TOOL_TURN.split(solution_str)
    messages = [{"role": "user" if number % 2 else "assistant", "content": text} for number, text in enumerate(texts)]
    for end in _ENDS:
        messages[-1]["content"] = messages[-1]["content"].rstrip().removesuffix(end)
    trajectory, weights = Trajectory("", steps_of(messages, labels=[]), lat, lon, country, city), Weights()
    breakdown = score(trajectory, weights)
    parts = {name: getattr(breakdown, name) for name in ("accuracy", "format", "process")}
    return {
        "score": math.fsum(getattr(weights, name) * part for name, part in parts.items()),
        **parts,
        "answered": float(trajectory.answer is not None),
        "service_error": float(breakdown.service_error),
    }


def _tool_config(caches: Mapping[str, Path], cache: SearchCache) -> dict[str, Any]:
    """verl's tool configuration, with the tools as our chat template describes them and the cache's own limits."""
    from transformers.utils import get_json_schema  # seconds to import

    schemas = {function.__name__: get_json_schema(function)["function"] for function in tool_functions()}
    tools = []
    for tool in TOOLS:
        config: dict[str, Any] = {"type": "native"}
        if tool in caches:
            config |= {"cache_path": str(caches[tool]), "max_results": cache.limits.shown}
            config["n_pos_limit"] = cache.limits.max_useful
        if tool == IMAGE:
            config["iou_threshold"] = cache.limits.min_iou
        function = {name: schemas[tool][name] for name in ("name", "description", "parameters")}
        function["parameters"] = _plain_types(function["parameters"])
        schema = {"type": "function", "function": function}
        tools.append({"class_name": TOOL_CLASSES[tool], "config": config, "tool_schema": schema})
    return {"tools": tools}


def _plain_types(schema: Any) -> Any:
    """A schema in which every property has one type, the only form verl reads: of several, the first."""
    if isinstance(schema, list):
        return [_plain_types(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    first = schema.get("anyOf", [{}])[0]
    return first | {name: _plain_types(value) for name, value in schema.items() if name != "anyOf"}
