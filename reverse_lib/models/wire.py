"""Our conversations as a chat API takes them, and its replies as turns of our grammar; nothing here goes on-line.

Three ways of calling tools, so that any server can be asked with the same prompt, tools and parsing:

- "native": tools are offered in the request, and calls come back as structures. For commercial APIs.
- "prompt": tools are listed in the system prompt, and calls come back in the text. For servers without tool calls.
- "template": the server's chat template lists the tools, and everything else is text. For a checkpoint of ours behind
  vLLM or SGLang, which then reads what it was trained on.

A reply is never mended: what breaks the grammar stays broken and is the model's error, as with a local checkpoint. The
reasoning that a service returns beside the text becomes the think part where the text has none.
"""

import base64
import functools
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reverse_lib.environment import UNREADABLE, tool_functions
from reverse_lib.trajectory import parse_turn

CALLING = ("native", "prompt", "template")
NATIVE_NOTE = (
    "Make a tool call with the function calls you are offered, one a turn, instead of writing <tool_call>; "
    "write <think>, <useful> and <answer> in your text."
)
LISTED_NOTE = "The tools you have, a JSON schema each:"
IMAGE_FOLLOWS = "The picture is in the next message."
_TAG = re.compile(r"<(?=/?(?:think|useful|tool_call|answer)>)")
_PART = re.compile(r"<(?:useful|tool_call|answer)>")


@dataclass(frozen=True)
class Pictures:
    """How pictures are sent: inline, nothing but pixels.

    Attributes:
        max_px: Longest side; larger ones are scaled down.
        format: "JPEG", or "PNG" for exactly the pixels that a local checkpoint would see.
    """

    max_px: int = 2048
    format: str = "JPEG"

    def url(self, image) -> str:
        """A PIL image as a data URL, without metadata."""
        clean = image.convert("RGB")
        clean.thumbnail((self.max_px, self.max_px))
        clean.info.clear()
        data = io.BytesIO()
        clean.save(data, self.format, **({"quality": 90} if self.format == "JPEG" else {}))
        return f"data:image/{self.format.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


@dataclass(frozen=True)
class Written:
    """What a reply holds; tokens are None where the server did not count them."""

    content: str
    reasoning: str
    calls: tuple[tuple[str, str], ...]  # name and arguments as written
    finish: str
    tokens_in: int | None = None
    tokens_out: int | None = None

    def text(self) -> str:
        """The turn in our grammar, as far as the model kept to it."""
        text, think = self.content, [self.reasoning.strip()]
        if "</think>" in text:  # some servers leave out the opening tag, which their template writes
            text, think = text if "<think>" in text else f"<think>{text}", []
        elif self.calls:
            part = _PART.search(text)
            prose, text = (text[: part.start()], text[part.start() :]) if part else (text, "")
            think.append(prose.strip())
        think = "\n".join(filter(None, think))
        calls = "".join(_call_text(name, arguments) for name, arguments in self.calls)
        return (f"<think>{_TAG.sub('‹', think)}</think>" if think else "") + text + calls


def request(
    messages: Sequence[Mapping], tools: Sequence[str], calling: str, pictures: Pictures, reasoning_field: str = ""
) -> dict[str, Any]:
    """A conversation as the fields of a chat request.

    Args:
        messages: As `environment.rollout` hands them to an agent.
        tools: Names of the tools offered; none for answering without.
        calling: One of CALLING.
        pictures: How pictures are sent.
        reasoning_field: Where earlier think parts go, for services that want them there; "" leaves them in the text.

    Returns:
        `messages`, and `tools` and `tool_choice` where they belong into the request.
    """
    sent: list[dict] = []
    for place, message in enumerate(messages):
        blocks, role = _blocks(message["content"], pictures), message["role"]
        following = messages[place + 1] if place + 1 < len(messages) else {}
        called = following.get("role") == "tool" and following.get("name") != UNREADABLE
        if role == "system":
            sent.append({"role": role, "content": "\n\n".join([_text(blocks), *_notes(tools, calling)])})
        elif role == "assistant" and calling == "native" and called:
            sent.append(_native_turn(_text(blocks), len(sent), reasoning_field))
        elif role == "assistant":
            sent.append({"role": role, "content": _text(blocks)})
        elif role == "tool" and (calling == "template" or message.get("name") != UNREADABLE):
            sent += _tool_result(blocks, calling, sent[-1])
        else:
            sent.append({"role": "user", "content": blocks})
    if not tools or calling == "prompt":
        return {"messages": sent}
    choice = {"tool_choice": "none"} if calling == "template" else {}
    return {"messages": sent, "tools": schemas(tuple(tools), returns=calling == "template"), **choice}


@functools.cache
def schemas(tools: tuple[str, ...], returns: bool = False) -> list[dict]:
    """The tools as JSON schemas, as chat templates are given them.

    Args:
        tools: Names.
        returns: Whether each says what it returns, which chat templates print and chat APIs don't know.
    """
    from transformers.utils import get_json_schema  # only here: it brings torch

    made = [get_json_schema(function) for function in tool_functions(tools)]
    for schema in made if not returns else ():
        schema["function"].pop("return", None)
    return made


def read_reply(reply: Mapping[str, Any]) -> Written:
    """The first choice of a reply.

    Raises:
        ValueError: It has another shape than the API documents, or says that the service failed.
    """
    if reply.get("error"):
        raise ValueError("the reply is an error")
    try:
        choice = reply["choices"][0]
        message, usage = choice["message"], reply.get("usage") or {}
        calls = tuple(
            (one["function"]["name"], one["function"]["arguments"]) for one in message.get("tool_calls") or ()
        )
        texts = [message.get("content") or "", message.get("reasoning_content") or message.get("reasoning") or ""]
        texts.append(choice.get("finish_reason") or "")
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (LookupError, TypeError, AttributeError):
        raise ValueError("the reply has another shape than a chat completion") from None
    if not all(isinstance(text, str) for text in [*texts, *(part for call in calls for part in call)]):
        raise ValueError("the reply has something else where text belongs")
    if texts[2] in ("", "error"):
        raise ValueError("the reply was cut before its end")
    known = [count if isinstance(count, int) and count >= 0 else None for count in counts]
    return Written(texts[0], texts[1], calls, texts[2], *known)


def join_chunks(chunks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The pieces of a streamed reply as one reply; one that never said how it finished is told from a whole one.

    Raises:
        ValueError: A piece has another shape than the API documents.
    """
    texts: dict[str, str] = dict.fromkeys(("content", "reasoning"), "")
    calls: dict[int, dict[str, str]] = {}
    finish, usage, error = None, None, None
    try:
        for chunk in chunks:
            usage, error = chunk.get("usage") or usage, chunk.get("error") or error
            for choice in chunk.get("choices") or ():
                delta, finish = choice.get("delta") or {}, choice.get("finish_reason") or finish
                texts["content"] += delta.get("content") or ""
                texts["reasoning"] += delta.get("reasoning_content") or delta.get("reasoning") or ""
                for piece in delta.get("tool_calls") or ():
                    call = calls.setdefault(piece.get("index") or 0, {"name": "", "arguments": ""})
                    for key in call:
                        call[key] += (piece.get("function") or {}).get(key) or ""
    except (LookupError, TypeError, AttributeError):
        raise ValueError("a piece of the reply has another shape than a chat completion") from None
    message = {**texts, "tool_calls": [{"function": calls[index]} for index in sorted(calls)]}
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage, "error": error}


def _call_text(name: str, arguments: str) -> str:
    """A native call in our grammar; arguments that are no JSON stay what they are."""
    safe = _TAG.sub(r"\\u003c", arguments) or "{}"  # a tag in an argument ends nothing; to JSON it is the same text
    return f'<tool_call>{{"name": {json.dumps(name)}, "arguments": {safe}}}</tool_call>'


def _native_turn(text: str, number: int, reasoning_field: str) -> dict:
    """An earlier turn that called a tool, with its call as a structure."""
    turn, before = parse_turn(text), text.partition("<tool_call>")[0]
    call = {"name": turn.tool_call.name, "arguments": json.dumps(turn.tool_call.arguments, ensure_ascii=False)}
    calls = [{"id": f"call_{number}", "type": "function", "function": call}]
    if reasoning_field and turn.think is not None:
        before = before.partition("</think>")[2]
        return {"role": "assistant", "content": before, reasoning_field: turn.think, "tool_calls": calls}
    return {"role": "assistant", "content": before, "tool_calls": calls}


def _tool_result(blocks: list[dict], calling: str, before: Mapping) -> list[dict]:
    """What a tool returned; a chat API takes text only from a tool, so a picture follows as the user's."""
    if calling == "prompt":
        return [{"role": "user", "content": [*_wrapped(blocks)]}]
    if calling == "template":
        return [{"role": "tool", "tool_call_id": "call", "content": blocks}]
    pictures = [block for block in blocks if block["type"] == "image_url"]
    text = "\n".join(filter(None, [_text(blocks), IMAGE_FOLLOWS if pictures else ""]))
    result = {"role": "tool", "tool_call_id": before["tool_calls"][0]["id"], "content": text}
    return [result, {"role": "user", "content": pictures}] if pictures else [result]


def _wrapped(blocks: list[dict]) -> list[dict]:
    return [{"type": "text", "text": "<tool_response>"}, *blocks, {"type": "text", "text": "</tool_response>"}]


def _notes(tools: Sequence[str], calling: str) -> list[str]:
    """What the system prompt adds about the way of calling."""
    if not tools or calling == "template":
        return []
    if calling == "native":
        return [NATIVE_NOTE]
    return ["\n".join([LISTED_NOTE, *(json.dumps(one["function"]) for one in schemas(tuple(tools)))])]


def _blocks(content: str | Sequence[Mapping], pictures: Pictures) -> list[dict]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [
        {"type": "image_url", "image_url": {"url": pictures.url(block["image"])}}
        if block["type"] == "image"
        else {"type": "text", "text": block["text"]}
        for block in content
    ]


def _text(blocks: Sequence[Mapping]) -> str:
    return "\n".join(block["text"] for block in blocks if block["type"] == "text")
