"""Quick generation for a small model on a CPU: the library's `generate`, its loop over new tokens written out.

With four layers of width 192, little of a step of the library's loop is arithmetic: keys and values are copied to make
room for one token more, weights and activations are cast under autocast, and rows that have ended go on until the last
one ends. Here keys and values have their room from the start, weights are cast once, and rows that have ended are
taken out. Greedy tokens are those of the library, sampled ones have the same probabilities. The prompt, pictures
included, is read by the library; settings and layers that are not known here go its way altogether.

    quicken_generation(model)          # model.generate(...) is called as before
"""

import types
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel, rotate_half

_INPUTS = {"input_ids", "attention_mask", "pixel_values", "image_grid_thw", "mm_token_type_ids"}
_SETTINGS = {"max_new_tokens", "do_sample", "temperature", "suppress_tokens", "eos_token_id", "pad_token_id"}
_NEUTRAL = {"top_k": (0,), "top_p": (None, 1.0), "min_p": (None,), "repetition_penalty": (None, 1.0)}
_IDLE = {"bos_token_id", "cache_implementation", "disable_compile", "max_length", "transformers_version", "use_cache"}
_IDLE |= {"_from_model_config", "output_attentions", "output_hidden_states"}  # change no token
_FEWER = 0.8  # rows are taken out when so many are left


def quicken_generation(model) -> None:
    """Make `model.generate` quick, in place."""
    model.generate = types.MethodType(_generate, model)


@torch.no_grad()
def _generate(model, generation_config: GenerationConfig | None = None, **given) -> torch.Tensor:
    """`generate` of a model for inputs padded on the left; returns (B, T + new), padded on the right."""
    library, text = types.MethodType(type(model).generate, model), model.model.language_model
    config = _settled(model.generation_config, generation_config, given)
    asked = given.keys() | model.generation_config.to_diff_dict().keys()
    asked |= generation_config.to_diff_dict().keys() if generation_config else set()
    if not (asked <= {*_INPUTS, *config, *_IDLE} and _is_plain(config) and _is_bare(text)):
        return library(generation_config=generation_config, **given)
    inputs = {name: value for name, value in given.items() if name in _INPUTS}
    read = library(**inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True)
    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))  # (B, T)
    position = mask.sum(1)  # (B,), of the next token
    if "image_grid_thw" in inputs:
        position = position + model.model.rope_deltas.squeeze(1)  # a picture takes fewer positions than tokens
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    with torch.autocast("cpu", enabled=False):
        rows = _Rows.after(read.past_key_values, mask, position, config["max_new_tokens"], dtype)
        written = _write(_Weights.of(text, model.lm_head, dtype), rows, read.logits[0].float(), config)
    return torch.cat([inputs["input_ids"], written], 1)


def _settled(default: GenerationConfig, chosen: GenerationConfig | None, given: dict) -> dict:
    """The settings that count: those given, else those of the chosen configuration, else the model's."""
    found = {}
    for name in (*_SETTINGS, *_NEUTRAL):
        values = (given.get(name), getattr(chosen, name, None), getattr(default, name, None))
        found[name] = next((value for value in values if value is not None), None)
    return found


def _is_plain(config: dict) -> bool:
    """Whether the settings ask for nothing but the likeliest token, or one drawn from the whole distribution."""
    kept = ("repetition_penalty",) if not config["do_sample"] else _NEUTRAL
    known = config["max_new_tokens"] is not None and config["eos_token_id"] is not None
    return known and all(config[name] in _NEUTRAL[name] for name in kept)


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


@dataclass
class _Weights:
    """The text model's weights, norms and embedding in float32 as under autocast, and its sizes."""

    layers: list[_Layer]
    embed: torch.Tensor  # (vocabulary, width)
    norm: torch.Tensor  # (width,)
    head: torch.Tensor  # (vocabulary, width)
    rotary: nn.Module
    heads: int
    key_heads: int
    eps: float

    @classmethod
    def of(cls, text: Qwen3VLTextModel, head: nn.Linear, dtype: torch.dtype) -> "_Weights":
        """Those of a model, its matrices cast to `dtype`."""
        config, layers = text.config, []
        heads, key_heads = config.num_attention_heads, config.num_key_value_heads
        for layer in text.layers:
            attention, mlp = layer.self_attn, layer.mlp
            turned = [attention.q_norm.weight.expand(heads, -1), attention.k_norm.weight.expand(key_heads, -1)]
            norms = layer.input_layernorm.weight, torch.cat(turned), layer.post_attention_layernorm.weight
            shared = [(attention.q_proj, attention.k_proj, attention.v_proj), (attention.o_proj,)]
            shared += [(mlp.gate_proj, mlp.up_proj), (mlp.down_proj,)]
            layers.append(_Layer(*norms, *(torch.cat([one.weight for one in some]).to(dtype) for some in shared)))
        ends = text.embed_tokens.weight, text.norm.weight, head.weight.to(dtype)
        return cls(layers, *ends, text.rotary_emb, heads, key_heads, config.rms_norm_eps)


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
        self.keys, self.values = ([t[rows] for t in some] for some in (self.keys, self.values))
        self.bias, self.position = self.bias[rows], self.position[rows]


def _write(weights: _Weights, rows: _Rows, logits: torch.Tensor, config: dict) -> torch.Tensor:
    """The new tokens, (B, new), from the logits that follow the prompt, (B, vocabulary)."""
    ends = torch.as_tensor(config["eos_token_id"]).view(-1)
    written = torch.full((len(logits), config["max_new_tokens"]), config["pad_token_id"] or 0)
    alive = going = torch.arange(len(logits))  # rows of `written` that are computed, and that have not ended
    for step in range(config["max_new_tokens"]):
        tokens = _choose(logits, config)
        here = torch.isin(alive, going)
        written[going, step] = tokens[here]
        going = alive[here & ~torch.isin(tokens, ends)]
        if not len(going):
            return written[:, : step + 1]
        if len(going) <= _FEWER * len(alive):
            left = torch.isin(alive, going)
            alive, tokens = alive[left], tokens[left]
            rows.keep(left)
        if step + 1 < config["max_new_tokens"]:
            logits = _step(weights, rows, tokens)
    return written


def _choose(logits: torch.Tensor, config: dict) -> torch.Tensor:
    """A token for each row, (B,)."""
    if config["suppress_tokens"]:
        logits[:, config["suppress_tokens"]] = float("-inf")
    if not config["do_sample"]:
        return logits.argmax(-1)
    reached = (logits / (config["temperature"] or 1.0)).softmax(-1).cumsum(-1)  # (B, vocabulary)
    drawn = torch.rand(len(logits), 1) * reached[:, -1:]  # one number a row; `multinomial` draws one a token
    return torch.searchsorted(reached, drawn, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)


def _step(weights: _Weights, rows: _Rows, tokens: torch.Tensor) -> torch.Tensor:
    """The logits after one token more a row: (B,) -> (B, vocabulary), float32."""
    batch, heads, key_heads, at = len(tokens), weights.heads, weights.key_heads, rows.length
    dtype, queries = weights.head.dtype, (key_heads, heads // key_heads, -1)
    hidden = F.embedding(tokens, weights.embed)  # (B, width)
    cos, sin = weights.rotary(hidden, rows.position.expand(3, -1).unsqueeze(2))  # (B, 1, dim)
    bias = rows.bias[..., : at + 1]
    for layer, keys, values in zip(weights.layers, rows.keys, rows.values, strict=True):
        mixed = F.linear(_normed(hidden, layer.before, weights.eps).to(dtype), layer.qkv).view(batch, -1, cos.shape[-1])
        turned = _normed(mixed[:, : heads + key_heads], layer.turned, weights.eps)
        turned = turned * cos + rotate_half(turned) * sin
        keys[:, :, at], values[:, :, at] = turned[:, heads:], mixed[:, heads + key_heads :]
        query = turned[:, :heads].to(dtype).view(batch, *queries)
        seen = F.scaled_dot_product_attention(query, keys[:, :, : at + 1], values[:, :, : at + 1], bias)
        hidden = hidden + F.linear(seen.view(batch, -1), layer.out)
        gate, up = F.linear(_normed(hidden, layer.between, weights.eps).to(dtype), layer.gate_up).chunk(2, -1)
        hidden = hidden + F.linear(F.silu(gate) * up, layer.down)
    rows.length += 1
    rows.position = rows.position + 1
    return F.linear(_normed(hidden, weights.norm, weights.eps).to(dtype), weights.head).float()


def _normed(hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """As `Qwen3VLTextRMSNorm`, in float32, with weights that may differ by head."""
    return F.rms_norm(hidden.float(), hidden.shape[-1:], eps=eps) * weight
