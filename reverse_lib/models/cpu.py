"""A small Qwen3-VL made quick on a CPU: the same results in a fraction of the time, behind one switch.

quicken(model)                      # model(...) and model.generate(...) are called as before
with right_padded(model): ...       # a training step
with pictures_remembered(model): ...  # rollouts and updates whose vision tower stands still

Vision: all images of one size attend in one call (the library's loop takes one at a time), with plain matrix products,
which beat the fused kernel at this size; and the patch embedding, a convolution whose stride is its kernel, is computed
as the matrix product that it is.

Generation: the library's loop over new tokens, written out. With four layers of width 192, little of a step of that
loop is arithmetic: keys and values are copied to make room for one token more, weights and activations are cast under
autocast, and rows that have ended go on until the last one ends. Here keys and values have their room from the start,
weights are cast once, and rows that have ended are taken out. Greedy tokens are those of the library, sampled ones have
the same probabilities. The prompt, pictures included, is read by the library; settings, layers and devices that are not
provided for go its way altogether.
"""

import copy
import os
import types
from collections import OrderedDict
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
import xxhash
from torch import nn
from transformers import GenerationConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    BaseModelOutputWithDeepstackFeatures,
    Qwen3VLTextModel,
    Qwen3VLVisionAttention,
    Qwen3VLVisionModel,
    Qwen3VLVisionPatchEmbed,
    apply_rotary_pos_emb_vision,
    rotate_half,
)

from reverse_lib.profiles import variable

_PLAIN_ATTENTION_MAX = 1024  # patches of an image; the weights of a larger one would not fit
_QUERIES = 128  # that attend together in `right_padded`
_FEWER = 0.8  # rows are taken out when so many are left
_REMEMBERED = 512  # pictures, the latest ones, in `pictures_remembered`

_INPUTS = {"input_ids", "attention_mask", "pixel_values", "image_grid_thw", "mm_token_type_ids"}
_SETTINGS = {"max_new_tokens", "do_sample", "temperature", "suppress_tokens", "eos_token_id", "pad_token_id"}
_IDLE = {"bos_token_id", "cache_implementation", "disable_compile", "max_length", "transformers_version", "use_cache"}
_IDLE |= {"_from_model_config", "output_attentions", "output_hidden_states"}  # change no token
_NEUTRAL = {"top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}  # change no token at these values


def set_threads(threads: int | None = None) -> int:
    """Use so many CPU threads for torch, and return their number.

    Args:
        threads: As many as OMP_NUM_THREADS says when None, or every core that the process may run on.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = threads or int(variable("OMP_NUM_THREADS") or cores)
    torch.set_num_threads(threads)
    return threads


def quicken(model) -> None:
    """Make a Qwen3-VL model quick on a CPU, in place; what it computes and writes stays the same."""
    for module in model.modules():
        if isinstance(module, Qwen3VLVisionAttention):
            module.forward = types.MethodType(_attend_by_size, module)
        elif isinstance(module, Qwen3VLVisionPatchEmbed):
            module.forward = types.MethodType(_embed_patches, module)
    model.generate = types.MethodType(_generate, model)


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


@torch.no_grad()
def _generate(model, generation_config: GenerationConfig | None = None, **given) -> torch.Tensor:
    """`generate` of a model for inputs padded on the left; returns (B, T + new), padded on the right."""
    library, text = types.MethodType(type(model).generate, model), model.model.language_model
    config = copy.deepcopy(model.generation_config)
    config.update(**(generation_config.to_diff_dict() if generation_config else {}))
    inputs = config.update(**given)  # what is no setting
    if not (inputs.keys() <= _INPUTS and _is_plain(config) and _is_bare(text)):
        return library(generation_config=generation_config, **given)
    read = library(**inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True)
    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))  # (B, T)
    position = mask.sum(1)  # (B,), of the next token
    if "image_grid_thw" in inputs:
        position = position + model.model.rope_deltas.squeeze(1)  # a picture takes fewer positions than tokens
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    with torch.autocast("cpu", enabled=False):
        rows = _Rows.after(read.past_key_values, mask, position, config.max_new_tokens, dtype)
        layers, head = [_Layer.of(layer, dtype) for layer in text.layers], model.lm_head.weight.to(dtype)
        written = _write(partial(_step, text, layers, head, rows), rows, read.logits[0].float(), config)
    return torch.cat([inputs["input_ids"], written], 1)


def _is_plain(config: GenerationConfig) -> bool:
    """Whether the settings ask for nothing but the likeliest token, or one drawn from the whole distribution."""
    asked = {name for name, value in config.to_diff_dict().items() if value != _NEUTRAL.get(name, ...)}
    idle = _IDLE if config.do_sample else _IDLE | {"top_k", "top_p", "min_p"}
    whole = config.top_k == 0 or not config.do_sample  # the library takes the 50 likeliest unless told
    return whole and asked <= _SETTINGS | idle and None not in (config.max_new_tokens, config.eos_token_id)


def _is_bare(text: Qwen3VLTextModel) -> bool:
    """Whether every matrix is a plain one in float32 on the CPU: no adapter, no bias."""
    matrices = [module for name, module in text.layers.named_modules() if name.endswith("_proj")]
    plain = all(type(module) is nn.Linear and module.bias is None for module in matrices)
    return plain and all(p.dtype == torch.float32 and p.device.type == "cpu" for p in text.parameters())


@dataclass
class _Layer:
    """A decoder layer's norms in float32, and its matrices, those that share their input in one."""

    before: torch.Tensor  # (width,), the norm before attention
    turned: torch.Tensor  # (heads + key heads, dim), of queries and keys
    between: torch.Tensor  # (width,), before the MLP
    qkv: torch.Tensor  # ((heads + 2 * key heads) * dim, width)
    out: torch.Tensor  # (width, heads * dim)
    gate_up: torch.Tensor  # (2 * inner, width)
    down: torch.Tensor  # (width, inner)

    @classmethod
    def of(cls, layer, dtype: torch.dtype) -> "_Layer":
        """Those of a layer of the library, its matrices cast to `dtype`."""
        attention, mlp, config = layer.self_attn, layer.mlp, layer.self_attn.config
        queries = attention.q_norm.weight.expand(config.num_attention_heads, -1)
        turned = torch.cat([queries, attention.k_norm.weight.expand(config.num_key_value_heads, -1)])
        shared = [(attention.q_proj, attention.k_proj, attention.v_proj), (attention.o_proj,)]
        shared += [(mlp.gate_proj, mlp.up_proj), (mlp.down_proj,)]
        matrices = [torch.cat([linear.weight for linear in together]).to(dtype) for together in shared]
        return cls(layer.input_layernorm.weight, turned, layer.post_attention_layernorm.weight, *matrices)


@dataclass
class _Rows:
    """Conversations under way: what they remember, and where they stand."""

    keys: list[torch.Tensor]  # a layer: (B, key heads, T + new, dim)
    values: list[torch.Tensor]
    bias: torch.Tensor  # (B, 1, 1, T + new), -inf where the padding is
    position: torch.Tensor  # (B,), of the next token
    length: int  # tokens remembered, padding included

    @classmethod
    def after(cls, cache, mask: torch.Tensor, position: torch.Tensor, new: int, dtype: torch.dtype) -> "_Rows":
        """Those that have read a prompt, with room for `new` tokens."""
        rooms = [[F.pad(t.to(dtype), (0, 0, 0, new)) for t in (layer.keys, layer.values)] for layer in cache.layers]
        bias = torch.zeros(mask.shape, dtype=dtype).masked_fill(mask == 0, float("-inf"))
        bias = F.pad(bias, (0, new))[:, None, None]
        return cls([keys for keys, _ in rooms], [values for _, values in rooms], bias, position, mask.shape[1])

    def keep(self, rows: torch.Tensor) -> None:
        """Forget all but these rows."""
        self.keys, self.values = ([t[rows] for t in layers] for layers in (self.keys, self.values))
        self.bias, self.position = self.bias[rows], self.position[rows]


def _write(step: Callable, rows: _Rows, logits: torch.Tensor, config: GenerationConfig) -> torch.Tensor:
    """The new tokens, (B, new), from the logits that follow the prompt, (B, vocabulary); `step` gives more."""
    ends = torch.as_tensor(config.eos_token_id).view(-1)
    written = torch.full((len(logits), config.max_new_tokens), config.pad_token_id or 0)
    alive = going = torch.arange(len(logits))  # rows of `written` that are computed, and that have not ended
    for place in range(config.max_new_tokens):
        tokens = _choose(logits, config)
        here = torch.isin(alive, going)
        written[going, place] = tokens[here]
        going = alive[here & ~torch.isin(tokens, ends)]
        if not len(going):
            return written[:, : place + 1]
        if len(going) <= _FEWER * len(alive):
            left = torch.isin(alive, going)
            alive, tokens = alive[left], tokens[left]
            rows.keep(left)
        if place + 1 < config.max_new_tokens:
            logits = step(tokens)
    return written


def _choose(logits: torch.Tensor, config: GenerationConfig) -> torch.Tensor:
    """A token for each row, (B,)."""
    if config.suppress_tokens:
        logits[:, config.suppress_tokens] = float("-inf")
    if not config.do_sample:
        return logits.argmax(-1)
    reached = (logits / (config.temperature or 1.0)).softmax(-1).cumsum(-1)  # (B, vocabulary)
    drawn = torch.rand(len(logits), 1) * reached[:, -1:]  # one number a row; `multinomial` draws one a token
    return torch.searchsorted(reached, drawn, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)


def _step(
    text: Qwen3VLTextModel, layers: list[_Layer], head: torch.Tensor, rows: _Rows, tokens: torch.Tensor
) -> torch.Tensor:
    """The logits after one token more a row: (B,) -> (B, vocabulary), float32; `head` is (vocabulary, width)."""
    batch, at, dtype, eps = len(tokens), rows.length, head.dtype, text.config.rms_norm_eps
    heads, key_heads = text.config.num_attention_heads, text.config.num_key_value_heads
    hidden = F.embedding(tokens, text.embed_tokens.weight)  # (B, width)
    cos, sin = text.rotary_emb(hidden, rows.position.expand(3, -1).unsqueeze(2))  # (B, 1, dim)
    bias = rows.bias[..., : at + 1]
    for layer, keys, values in zip(layers, rows.keys, rows.values, strict=True):
        mixed = F.linear(_normed(hidden, layer.before, eps).to(dtype), layer.qkv).view(batch, -1, cos.shape[-1])
        turned = _normed(mixed[:, : heads + key_heads], layer.turned, eps)
        turned = turned * cos + rotate_half(turned) * sin
        keys[:, :, at], values[:, :, at] = turned[:, heads:], mixed[:, heads + key_heads :]
        query = turned[:, :heads].to(dtype).view(batch, key_heads, heads // key_heads, -1)
        attended = F.scaled_dot_product_attention(query, keys[:, :, : at + 1], values[:, :, : at + 1], bias)
        hidden = hidden + F.linear(attended.view(batch, -1), layer.out)
        gate, up = F.linear(_normed(hidden, layer.between, eps).to(dtype), layer.gate_up).chunk(2, -1)
        hidden = hidden + F.linear(F.silu(gate) * up, layer.down)
    rows.length += 1
    rows.position = rows.position + 1
    return F.linear(_normed(hidden, text.norm.weight, eps).to(dtype), head).float()


def _normed(hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """As `Qwen3VLTextRMSNorm`, in float32, with weights that may differ by head."""
    return F.rms_norm(hidden.float(), hidden.shape[-1:], eps=eps) * weight


@contextmanager
def pictures_remembered(model):
    """For the time of the block: a vision tower that is not trained looks at each picture once, not once a turn.

    Rollouts of a group share their photo, and every turn and the update show all pictures again. Does nothing where
    the tower is trained. The features are computed in the model's own precision, also under autocast.
    """
    towers = [m for m in model.modules() if isinstance(m, Qwen3VLVisionModel)]
    still = [tower for tower in towers if not any(p.requires_grad for p in tower.parameters())]
    for tower in still:
        tower.forward = _remembering(tower)
    try:
        yield
    finally:
        for tower in still:
            del tower.forward


def _remembering(tower: Qwen3VLVisionModel) -> Callable:
    """The forward of a still vision tower, with a memory of pictures by their pixels."""
    look, merged = tower.forward, tower.spatial_merge_size**2  # patches a token
    features: OrderedDict[tuple, tuple[torch.Tensor, ...]] = OrderedDict()  # pooled, then deepstack's layers

    @torch.no_grad()
    def forward(hidden_states, grid_thw, **kwargs):  # (patches, dim), (images, 3)
        pictures = hidden_states.split(grid_thw.prod(1).tolist())
        keys = [_fingerprint(picture, grid) for picture, grid in zip(pictures, grid_thw.tolist(), strict=True)]
        new = {key: i for i, key in enumerate(keys) if key not in features}
        if new:
            looked_at = list(new.values())
            with torch.autocast(hidden_states.device.type, enabled=False):
                output = look(torch.cat([pictures[i] for i in looked_at]), grid_thw=grid_thw[looked_at], **kwargs)
            sizes = [len(pictures[i]) // merged for i in looked_at]
            layers = [layer.split(sizes) for layer in (output.pooler_output, *output.deepstack_features)]
            features.update(zip(new, zip(*layers, strict=True), strict=True))
        pooled, *deep = (torch.cat(layer) for layer in zip(*(features[key] for key in keys), strict=True))
        for key in keys:
            features.move_to_end(key)
        while len(features) > _REMEMBERED:
            features.popitem(last=False)
        return BaseModelOutputWithDeepstackFeatures(pooler_output=pooled, deepstack_features=deep)

    return forward


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
