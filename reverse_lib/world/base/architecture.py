"""The tiny Qwen3-VL: tokenizer, chat template, configuration and initialisation.

It is `Qwen3VLForConditionalGeneration`, the architecture of Qwen3-VL-4B-Instruct, at 1/1000 of the size,
so that every stage of the workbench runs in minutes on two CPU cores. What differs from the 4B model:

- The byte-level BPE has about 600 tokens: common words, country names, and tool names with their JSON glue are one
  token each; everything else, such as a city's name, is read and written letter by letter and digit by digit. A
  name then has the same tokens on a sign, in a query and in a result, so comparing and copying can be learned.
- The chat template lists tools by name only: a JSON schema would cost more tokens than the rest of a turn.
- Weights start at 1/sqrt(fan_in), residual outputs further divided by sqrt(2 layers): with the library's 0.02
  a network this narrow does not leave its plateau.
"""

import math
import re
from collections.abc import Iterable

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

CONTROL = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
CONTROL_TOKENS = tuple(f"<|{name}|>" for name in CONTROL)
TAGS = tuple(
    f"<{slash}{name}>" for name in ("think", "useful", "tool_call", "tool_response", "answer") for slash in ("", "/")
)
GLUE = (
    '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [',
    '{"name": "image_search_tool", "arguments": {"bbox_2d": [',
    '{"name": "text_search_tool", "arguments": {"query": "',
    "]}}",
    '"}}',
    "image_zoom_in_tool",
    "image_search_tool",
    "text_search_tool",
    *(f"[{number}] " for number in range(1, 11)),
    *(", ", ": ", ". ", "? "),
)

CHAT_TEMPLATE = """\
{%- macro body(content) -%}
{%- if content is string %}{{ content }}{% else %}
{%- for block in content %}
{%- if block.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>
{%- elif 'text' in block %}{{ block.text }}{% endif %}
{%- endfor %}{% endif %}
{%- endmacro -%}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' }}{% generation %}{{ body(message.content) }}
{%- for call in message.tool_calls or [] -%}
<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>
{%- endfor %}
{{- '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>' + body(message.content) + '</tool_response><|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + body(message.content) }}
{%- if message.role == 'system' and tools %}{{ '\\n' }}
{%- for tool in tools %}{{ tool.function.name + ' ' }}{% endfor %}{% endif %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def make_tokenizer(words: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """The byte-level BPE: bytes, and what has a token of its own.

    Args:
        words: Words that get a token of their own (country names, the glue of our sentences); no parts of them do.

    Returns:
        A tokenizer with the chat template set.
    """
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    whole = sorted(set(words), key=lambda word: (-len(word), word))  # the longest first: "New Zealand" before "New"
    pieces = [byte_level.pre_tokenize_str(space + word)[0][0] for space in ("", " ") for word in sorted(whole)]
    vocabulary = dict.fromkeys([*CONTROL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *pieces])
    vocabulary = {token: i for i, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    isolate = Regex(rf" ?\b({'|'.join(map(re.escape, whole))})\b" if whole else "$^")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(isolate, "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(CONTROL_TOKENS))
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in TAGS + GLUE])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=2048,
    )


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    """The configuration of the 3.9 M-parameter model for this tokenizer."""
    ids = dict(zip(CONTROL_TOKENS, tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS)), strict=True))
    text = {
        "vocab_size": math.ceil(len(tokenizer) / 32) * 32,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 2048,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [4, 6, 6],
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": True,
        "pad_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
    }
    vision = {
        "depth": 4,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_heads": 4,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 192,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": [1, 2],
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def initialise(model: Qwen3VLForConditionalGeneration, seed: int = 0) -> None:
    """Re-draw every weight in place: normal with std 1/sqrt(fan_in), embeddings 0.05, positions 0.5."""
    generator = torch.Generator().manual_seed(seed)
    depth = {
        "language_model": model.config.text_config.num_hidden_layers,
        "visual": model.config.vision_config.depth,
    }
    residual_outputs = ("o_proj.weight", "down_proj.weight", "attn.proj.weight", "linear_fc2.weight")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            std = weight[0].numel() ** -0.5
            if "embed_tokens" in name:
                std = 0.05
            elif "pos_embed" in name:
                std = 0.5
            elif name.endswith(residual_outputs) and "merger" not in name:
                std /= math.sqrt(2 * depth["visual" if "visual" in name else "language_model"])
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)


def image_processor() -> Qwen2VLImageProcessorPil:
    """Qwen's image processor for pictures that already have their final size (multiples of 32 px)."""
    return Qwen2VLImageProcessorPil(
        patch_size=16,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 32 * 32, "longest_edge": 640 * 480},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.25, 0.25, 0.25],
    )


def build(words: Iterable[str] = (), seed: int = 0):
    """A tiny model with fresh weights, and its tokenizer.

    Returns:
        (Qwen3VLForConditionalGeneration in float32, PreTrainedTokenizerFast)
    """
    tokenizer = make_tokenizer(words)
    model = Qwen3VLForConditionalGeneration(tiny_config(tokenizer))
    initialise(model, seed)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer
