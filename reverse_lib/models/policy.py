"""Loading a model and its processor (tiny or Qwen3-VL, with or without LoRA), and asking it for turns.

The same functions serve the tiny checkpoint in `data/models/` and `Qwen/Qwen3-VL-4B-Instruct`; only the name
differs. How the world is shown to a model (prompt, picture sizes, style of results) is its `Interface`, kept as
`interface.json` in our checkpoints; a model without that file is shown the FULL interface.
"""

import copy
import importlib.util
import json
import os
import types
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import xxhash
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    BaseModelOutputWithDeepstackFeatures,
    Qwen3VLTextModel,
    Qwen3VLVisionAttention,
    Qwen3VLVisionModel,
    Qwen3VLVisionPatchEmbed,
    apply_rotary_pos_emb_vision,
)
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.processing_utils import ProcessorMixin

from reverse_lib.environment import FULL, Interface, tool_functions
from reverse_lib.models.generation import quicken_generation
from reverse_lib.trajectory import TOOLS

INTERFACE_FILE = "interface.json"
_TOO_LONG = "sequence-length-is-longer-than-the-specified-maximum"  # transformers' name of a warning
_PLAIN_ATTENTION_MAX = 1024  # patches of an image; the weights of a larger one would not fit
_QUERIES = 128  # that attend together in `right_padded`


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
        raise ValueError(
            f"{file}: not an interface ({error}); save the checkpoint again with save_checkpoint"
        ) from error


def load_model(
    path: str | Path,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    lora_rank: int = 0,
    train_vision: bool = True,
):
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
        quicken_vision(model)
        quicken_generation(model)
    if not train_vision:
        model.model.visual.requires_grad_(False)
    return with_lora(model, lora_rank) if lora_rank else model


def quicken_vision(model) -> None:
    """Make the vision tower quick on a CPU, in place; the results are the same.

    All images of one size attend in one call (the library's loop takes one at a time), with plain matrix products,
    which beat the fused kernel at this size; and the patch embedding, a convolution whose stride is its kernel, is
    computed as the matrix product that it is.
    """
    for module in model.modules():
        if isinstance(module, Qwen3VLVisionAttention):
            module.forward = types.MethodType(_attend_by_size, module)
        elif isinstance(module, Qwen3VLVisionPatchEmbed):
            module.forward = types.MethodType(_embed_patches, module)


def _embed_patches(self, hidden_states):
    """`Qwen3VLVisionPatchEmbed.forward`; hidden_states: (patches, 3 * 2 * 16 * 16) -> (patches, width)."""
    weight = self.proj.weight.flatten(1)
    return F.linear(hidden_states.to(weight.dtype), weight, self.proj.bias)


def _attend_by_size(self, hidden_states, cu_seqlens, position_embeddings=None, **_):
    """`Qwen3VLVisionAttention.forward`, batched over images of equal length; hidden_states: (patches, width)."""
    patches = hidden_states.shape[0]
    query, key, value = self.qkv(hidden_states).view(patches, 3, self.num_heads, -1).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    lengths = cu_seqlens.diff()
    sizes = lengths.unique().tolist()
    if len(sizes) == 1:
        return self.proj(_attend(query, key, value, sizes[0], self.scaling).reshape(patches, -1))
    attended = torch.empty_like(value)
    for length in sizes:
        rows = (lengths == length).repeat_interleave(lengths)  # (patches,)
        attended[rows] = _attend(query[rows], key[rows], value[rows], length, self.scaling)
    return self.proj(attended.view(patches, -1))


def _attend(query, key, value, length: int, scaling: float) -> torch.Tensor:
    """Attention within images of `length` patches each; (images * length, heads, dim) all, and the result."""
    q, k, v = (t.to(value.dtype).unflatten(0, (-1, length)).transpose(1, 2) for t in (query, key, value))
    if length > _PLAIN_ATTENTION_MAX:
        return F.scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2).flatten(0, 1)
    weights = (q * scaling @ k.transpose(-1, -2)).softmax(-1, dtype=torch.float32).to(v.dtype)  # (images, heads, l, l)
    return (weights @ v).transpose(1, 2).flatten(0, 1)


@contextmanager
def pictures_remembered(model, most: int = 512):
    """For the time of the block: a vision tower that is not trained looks at each picture once, not once a turn.

    Rollouts of a group share their photo, and every turn and the update show all pictures again. Does nothing where
    the tower is trained. The features are computed in the model's own precision, also under autocast.

    Args:
        model: What `load_model` returned.
        most: Pictures to remember, the latest ones.
    """
    towers = [m for m in model.modules() if isinstance(m, Qwen3VLVisionModel)]
    still = [tower for tower in towers if not any(p.requires_grad for p in tower.parameters())]
    for tower in still:
        tower.forward = _Remembering(tower, most)
    try:
        yield
    finally:
        for tower in still:
            del tower.forward


class _Remembering:
    """The forward of a still vision tower, with a memory of pictures by their pixels."""

    def __init__(self, tower, most: int):
        self.look, self.most = tower.forward, most
        self.merged = tower.spatial_merge_size**2  # patches a token
        self.known: OrderedDict[tuple, list[torch.Tensor]] = OrderedDict()

    @torch.no_grad()
    def __call__(self, hidden_states, grid_thw, **kwargs):
        """hidden_states: (patches, dim), grid_thw: (images, 3)."""
        pictures = hidden_states.split(grid_thw.prod(1).tolist())
        keys = [_fingerprint(picture, grid) for picture, grid in zip(pictures, grid_thw.tolist(), strict=True)]
        new = list({key: i for i, key in enumerate(keys) if key not in self.known}.values())
        found = dict(self.known)
        if new:
            with torch.autocast(hidden_states.device.type, enabled=False):
                seen = self.look(torch.cat([pictures[i] for i in new]), grid_thw=grid_thw[new], **kwargs)
            sizes = [len(pictures[i]) // self.merged for i in new]
            layers = [layer.split(sizes) for layer in (seen.pooler_output, *seen.deepstack_features)]
            found |= {keys[i]: list(parts) for i, parts in zip(new, zip(*layers, strict=True), strict=True)}
        self.known.update((key, found[key]) for key in keys)
        for key in keys:
            self.known.move_to_end(key)
        while len(self.known) > self.most:
            self.known.popitem(last=False)
        pooled, *deep = (torch.cat(layer) for layer in zip(*(found[key] for key in keys), strict=True))
        return BaseModelOutputWithDeepstackFeatures(pooler_output=pooled, deepstack_features=deep)


def _fingerprint(picture: torch.Tensor, grid: list[int]) -> tuple:
    """Of pixels and grid; xxHash is an order of magnitude quicker than a cryptographic hash, and there is no enemy."""
    return xxhash.xxh3_128_digest(picture.detach().float().cpu().contiguous().numpy()), *grid


@contextmanager
def right_padded(model):
    """For the time of the block, on a CPU: causal attention as plain matrix products in bfloat16, without a mask.

    A training step of a model with narrow heads takes two thirds of the time. Right only for rows padded on the right
    and without a cache: no token before the padding sees it. Does nothing on other devices.
    """
    configs = [module.config for module in model.modules() if isinstance(module, Qwen3VLTextModel)]
    before = [config._attn_implementation for config in configs]
    if next(model.parameters()).device.type == "cpu":
        for config in configs:
            config._attn_implementation = "causal_bf16"
    try:
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation


def _attend_causally(module, query, key, value, attention_mask=None, scaling=1.0, **_):
    """Attention of `right_padded`, a block of queries at a time, so that little that is hidden is computed.

    query (B, heads, T, dim), key and value (B, key heads, T, dim).
    """
    shared, length, dtype = module.num_key_value_groups, query.shape[2], value.dtype
    hidden = torch.full((length, length), -1e4, dtype=torch.bfloat16, device=query.device).triu(1)
    with torch.autocast(query.device.type, enabled=False):
        grouped = (query * scaling).to(torch.bfloat16).unflatten(1, (-1, shared)).flatten(0, 1)
        key, value = (t.to(torch.bfloat16).flatten(0, 1) for t in (key, value))  # (B * key heads, T, dim)
        blocks = []
        for start in range(0, length, _QUERIES):
            end = min(start + _QUERIES, length)
            asked = grouped[:, :, start:end].flatten(1, 2)  # (B * key heads, shared * queries, dim)
            unseen = hidden[start:end, :end].repeat(shared, 1)
            weights = torch.baddbmm(unseen, asked, key[:, :end].transpose(1, 2)).softmax(-1)
            blocks.append((weights @ value[:, :end]).unflatten(1, (shared, -1)))
        return torch.cat(blocks, 2).view(query.shape).transpose(1, 2).to(dtype), None


ALL_ATTENTION_FUNCTIONS.register("causal_bf16", _attend_causally)


def with_lora(model, rank: int):
    """Wrap `model` in LoRA adapters on the language model's attention and MLP matrices only."""
    from peft import LoraConfig, get_peft_model

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


@contextmanager
def known_warnings_silenced():
    """Drop two warnings that no user of ours can act on: a renamed option, and TRL's note on environments."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*is deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*environment_factory.*experimental", category=UserWarning)
        yield


def set_threads(threads: int | None = None) -> int:
    """Use `threads` CPU threads for torch (default: every core the process may run on); returns the number."""
    threads = threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else threads or os.cpu_count()
    torch.set_num_threads(threads)
    return threads


@dataclass
class Agent:
    """A checkpoint that writes turns: the `agent` that `environment.rollout` asks.

    Attributes:
        model: `Qwen3VLForConditionalGeneration`, in evaluation mode during a call.
        processor: Its processor, padding on the left.
        interface: How the world is shown to it.
        name: What trajectories are signed with.
        tools: The tools its prompt lists.
        temperature: 0 for greedy decoding.
        max_new_tokens: Longest turn, in tokens.
    """

    model: torch.nn.Module
    processor: ProcessorMixin
    interface: Interface
    name: str = "agent"
    tools: tuple[str, ...] = TOOLS
    temperature: float = 0.0
    max_new_tokens: int = 320

    @torch.inference_mode()
    def __call__(self, conversations: Sequence[list[dict]]) -> list[str]:
        """The next assistant turn of each conversation, as text without the end token."""
        was_training = self.model.training
        self.model.eval()
        inputs = encode(self.processor, conversations, self.tools).to(self.model.device)
        sampling = {"do_sample": False}
        if self.temperature:  # from the whole distribution, as in training
            sampling = {"do_sample": True, "temperature": self.temperature, "top_k": 0, "top_p": 1.0}
        never = unwritten(self.processor)
        ids = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, suppress_tokens=never, **sampling)
        self.model.train(was_training)
        written = ids[:, inputs["input_ids"].shape[1] :]  # (B, T)
        return [decode_turn(self.processor.tokenizer, row.tolist()) for row in written]


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


def unwritten(processor) -> list[int]:
    """Tokens that a model must never write: a picture's placeholder without a picture can't be read again."""
    return [processor.image_token_id, processor.video_token_id]


def decode_turn(tokenizer, ids: list[int]) -> str:
    """The text of one generated turn, up to its end token; tags are kept."""
    if tokenizer.eos_token_id in ids:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
    return tokenizer.decode([i for i in ids if i != tokenizer.pad_token_id], skip_special_tokens=False)


def load_agent(path: str | Path, device: str = "cpu", **settings) -> Agent:
    """A checkpoint as an agent; `settings` are fields of `Agent`.

    Raises:
        FileNotFoundError: A folder that isn't there.
        ValueError: A file of the checkpoint can't be used; the message names it.
        TypeError: A setting is unknown.
    """
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    agent = Agent(load_model(path, device, dtype), load_processor(path), load_interface(path), name=Path(path).name)
    if not agent.processor.chat_template:
        raise ValueError(f"{path}: has no chat template; save the checkpoint again with save_checkpoint")
    for name, value in settings.items():
        if not hasattr(agent, name):
            raise TypeError(f"load_agent: unknown setting {name!r}; known: {', '.join(agent.__dataclass_fields__)}")
        setattr(agent, name, value)
    return agent
