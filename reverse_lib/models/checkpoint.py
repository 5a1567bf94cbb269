"""Checkpoints as agents: loading a model, its processor and its interface, with or without LoRA, and saving them.

agent = load_named("data/models/agent", tools=TOOLS)  # a folder or a Hugging Face id, or "openai:MODEL" on a server
replies = agent(conversations)                        # or environment.rollout(agent, photos, search, agent.interface)

The same functions serve the tiny checkpoints in `data/models/` and `Qwen/Qwen3-VL-4B-Instruct`; only the name differs.
How the world is shown to a model (prompt, picture sizes, style of results) is its `Interface`, kept as
`interface.json` in our checkpoints; a model without that file is shown the FULL interface.
"""

import copy
import importlib.util
import json
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import numpy as np
import torch
from huggingface_hub.utils import disable_progress_bars
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging

from reverse_lib.environment import FULL, Interface, Reply, tool_functions
from reverse_lib.models.cpu import quicken
from reverse_lib.models.endpoint import from_environment
from reverse_lib.profiles import PROFILES, ModelConfig
from reverse_lib.trajectory import TOOLS

SERVER = "openai:"  # before the name of a model on a server
INTERFACE_FILE = "interface.json"
_TOO_LONG = "sequence-length-is-longer-than-the-specified-maximum"  # transformers' name of a warning


class ModelError(ValueError):
    """A model that can't be used; the message names it, the reason and a remedy, in one line."""


class ImageOnlyProcessor(Qwen3VLProcessor):
    """Qwen3-VL's processor without its video part, which cannot be built where torchvision is missing."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.vision_start_token, self.vision_end_token = "<|vision_start|>", "<|vision_end|>"
        for name in ("image", "video", "vision_start", "vision_end"):
            setattr(self, f"{name}_token_id", tokenizer.convert_tokens_to_ids(getattr(self, f"{name}_token")))

    def __call__(self, *args, **kwargs):
        """As in the parent; pixels and grids are tensors also where no tensors were asked for, as TRL expects."""
        batch = super().__call__(*args, **kwargs)
        for key in ("pixel_values", "image_grid_thw"):
            if key in batch:
                batch[key] = torch.as_tensor(np.asarray(batch[key]))
        return batch


def load_processor(path: str | Path) -> ProcessorMixin:
    """The processor of a checkpoint: `AutoProcessor` where torchvision is installed, else its image-only twin.

    Args:
        path: A folder or a Hugging Face model id.

    Raises:
        OSError: `path` is neither a folder with a tokenizer nor a known model id (from transformers).
    """
    if importlib.util.find_spec("torchvision") and not (Path(path) / INTERFACE_FILE).is_file():
        return AutoProcessor.from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.deprecation_warnings[_TOO_LONG] = True  # a rollout may be; the budget of turns ends it, not the tokenizer
    images = Qwen2VLImageProcessorPil.from_pretrained(path)
    return ImageOnlyProcessor(images, tokenizer, chat_template=tokenizer.chat_template)


def load_interface(path: str | Path) -> Interface:
    """How the world is shown to this checkpoint: its own `interface.json`, else FULL."""
    file = Path(path) / INTERFACE_FILE
    if not file.is_file():
        return FULL
    try:
        return Interface.from_dict(json.loads(file.read_text()))
    except (ValueError, TypeError, AttributeError) as error:
        remedy = "save the checkpoint again with save_checkpoint"
        raise ValueError(f"{file}: not an interface ({error}); {remedy}") from error


def load_model(
    path: str | Path, device: str = "cpu", dtype=torch.float32, lora_rank: int = 0, train_vision: bool = True
) -> torch.nn.Module:
    """A Qwen3-VL checkpoint, ready for training or generation.

    Args:
        path: A folder or a Hugging Face model id.
        device: A torch device.
        dtype: Weights are cast to it (our own are stored in float16).
        lora_rank: Above 0, the language model's matrices get LoRA adapters of this rank and nothing else is trained.
        train_vision: Whether the vision tower learns too. A tiny tower forgets how to read letters within minutes of
            training on whole trajectories, in which few letters are read.

    Returns:
        `Qwen3VLForConditionalGeneration`, or a `PeftModel` around it.
    """
    if isinstance(path, Path) and not path.is_dir():
        raise FileNotFoundError(f"{path}: no such checkpoint folder; train it first (notebook 03_sft) or name another")
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype).to(device)
    if device == "cpu":
        quicken(model)
    if not train_vision:
        model.model.visual.requires_grad_(False)
    return with_lora(model, lora_rank) if lora_rank else model


def with_lora(model, rank: int):
    """Wrap `model` in LoRA adapters on the language model's attention and MLP matrices only."""
    target = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=target, task_type="CAUSAL_LM"))


def save_checkpoint(path: str | Path, model, processor, interface: Interface, dtype: torch.dtype | None = None) -> Path:
    """Write model (adapters merged), tokenizer, image processor and interface into one folder.

    Args:
        path: The folder; made if missing.
        model: What `load_model` returned, trained or not; it is not changed.
        processor: What `load_processor` returned.
        interface: How the world was shown to it.
        dtype: The weights' type on disk; None keeps the model's.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "merge_and_unload"):
        model = copy.deepcopy(model).merge_and_unload()
    state = {name: value.to(dtype) if dtype else value for name, value in model.state_dict().items()}
    model.save_pretrained(path, state_dict=state)
    processor.tokenizer.save_pretrained(path)
    processor.image_processor.save_pretrained(path)
    (path / INTERFACE_FILE).write_text(json.dumps(interface.to_dict(), indent=2) + "\n")
    return path


@dataclass
class Agent:
    """A checkpoint that writes turns: an agent for `environment.rollout`.

    Attributes:
        model: `Qwen3VLForConditionalGeneration`, in evaluation mode during a call.
        processor: Its processor, padding on the left.
        interface: How the world is shown to it.
        name: What trajectories are signed with.
        tools: The tools its prompt lists.
        temperature: 0 for greedy decoding.
        max_new_tokens: Longest turn, in tokens; a longer one is cut.
    """

    model: torch.nn.Module
    processor: ProcessorMixin
    interface: Interface
    name: str = "agent"
    tools: tuple[str, ...] = TOOLS
    temperature: float = 0.0
    max_new_tokens: int = ModelConfig.max_turn_tokens

    @torch.inference_mode()
    def __call__(self, conversations: Sequence[list[dict]]) -> list[Reply]:
        """The next assistant turn of each conversation."""
        was_training = self.model.training
        self.model.eval()
        inputs = encode(self.processor, conversations, self.tools).to(self.model.device)
        sampling = {"do_sample": False}
        if self.temperature:  # from the whole distribution, as in training
            sampling = {"do_sample": True, "temperature": self.temperature, "top_k": 0, "top_p": 1.0}
        never = placeholder_ids(self.processor)
        ids = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, suppress_tokens=never, **sampling)
        self.model.train(was_training)
        tokenizer, replies = self.processor.tokenizer, []
        for turn in ids[:, inputs["input_ids"].shape[1] :].tolist():
            if tokenizer.eos_token_id in turn:
                turn = turn[: turn.index(tokenizer.eos_token_id) + 1]
            replies.append(Reply(decode_turn(tokenizer, turn), tuple(turn)))
        return replies


def encode(processor, conversations: Sequence[list[dict]], tools: Sequence[str] = TOOLS):
    """Token ids and pixels of conversations that wait for an assistant turn, padded on the left.

    Returns:
        BatchFeature with input_ids, attention_mask (B, T), pixel_values (patches, dim), image_grid_thw (images, 3).
    """
    return processor.apply_chat_template(
        list(conversations),
        tools=tool_functions(tools),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        processor_kwargs={"return_tensors": "pt", "padding": True, "padding_side": "left"},
    )


def placeholder_ids(processor) -> list[int]:
    """Tokens that a model must never write: a picture's placeholder without a picture can't be read again."""
    return [processor.image_token_id, processor.video_token_id]


def decode_turn(tokenizer, ids: list[int]) -> str:
    """The text of one generated turn, up to its end token; tags are kept."""
    if tokenizer.eos_token_id in ids:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
    return tokenizer.decode([i for i in ids if i != tokenizer.pad_token_id], skip_special_tokens=False)


def load_agent(path: str | Path, device: str = "cpu", **settings) -> Agent:
    """A checkpoint as an agent; `settings` are fields of `Agent`. One shown the FULL interface has longer turns.

    Raises:
        FileNotFoundError: A folder that isn't there.
        ValueError: A file of the checkpoint can't be used; the message names it.
    """
    model = load_model(path, device, torch.float32 if device == "cpu" else torch.bfloat16)
    processor, interface = load_processor(path), load_interface(path)
    if not processor.chat_template:
        raise ValueError(f"{path}: has no chat template; save the checkpoint again with save_checkpoint")
    scale = PROFILES["qwen3vl-4b" if interface.name == FULL.name else "cpu"]
    usual = {"name": Path(path).name, "max_new_tokens": scale.model.max_turn_tokens}
    return Agent(model, processor, interface, **usual | settings)


def load_named(model: str, tools: Sequence[str], calling: str = "native", say: Callable[[str], object] = print):
    """An agent by the name that a user gives it.

    Args:
        model: A folder, a model id, or "openai:" and the name of a model on the server in OPENAI_BASE_URL.
        tools: Names of the tools its prompt lists.
        calling: How a model on a server is to call tools, one of `profiles.CALLING`.
        say: Called with what a user should know besides, such as what is sent to a server.

    Raises:
        ModelError: It isn't there, or can't be used.
    """
    if model.startswith(SERVER):
        try:  # greedily, as our own write
            endpoint = from_environment(tools=tools, model=model.removeprefix(SERVER), calling=calling, temperature=0.0)
        except ValueError as error:
            raise ModelError(f"{model}: {error}") from error
        say(
            f"{model}: the photos and each zoom, as pixels without metadata, and what the agent writes and finds are "
            f"sent to {endpoint.config.base_url}, with the key in {endpoint.config.key_env}"
        )
        return endpoint
    _quiet()
    source = _source(model)
    if isinstance(source, Path) and not (source / INTERFACE_FILE).is_file():
        say(f"{source}: has no {INTERFACE_FILE}, so it is prompted like a large model")
    try:
        return load_agent(source, tools=tuple(tools))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{model}: {str(error).strip().splitlines()[0]}") from error


def _source(model: str) -> Path | str:
    """The folder or the model id, which exists; a model id that is not on this disk is asked for on-line."""
    path = Path(model).expanduser()
    if path.is_dir():
        for name in ("config.json", "tokenizer.json"):
            if not (path / name).is_file():
                raise ModelError(f"{model}: no {name} in this folder; name one with a checkpoint in it")
        return path
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model) or path.parent.exists():
        raise ModelError(f"{model}: no such folder; name one with a checkpoint in it, or a model id")
    if isinstance(huggingface_hub.try_to_load_from_cache(model, "config.json"), str):
        return model
    try:
        exists = huggingface_hub.HfApi().repo_exists(model)
    except Exception as error:  # the HTTP library's own kinds, which vary with the version of huggingface_hub
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{model}: no such folder, and huggingface.co can't be asked for it ({reason})") from error
    if not exists:
        raise ModelError(f"{model}: neither a folder nor a model on huggingface.co; check its spelling")
    return model


def _quiet() -> None:
    """Loading a model says nothing unless it fails; a download keeps its progress bar in a terminal."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if not sys.stderr.isatty():
        disable_progress_bars()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
