"""Any OpenAI-compatible chat server as an agent: to annotate, to be evaluated, or to judge.

endpoint = from_environment()                   # OPENAI_BASE_URL, OPENAI_MODEL, OPENAI_API_KEY
frame = evaluate(endpoint, photos, search, endpoint.interface)

It is asked with the same prompts, tools and budgets as a checkpoint of ours, and its text is read by the same grammar.
A reply is never mended: what breaks the grammar stays broken and is the model's error. The reasoning that a service
returns beside the text becomes the think part where the text has none. What differs from the paper's code: a service
that fails is an error, never a turn; limits are kept rather than run into; tokens and cost are counted; and the key,
which comes from the environment, is shown nowhere. What may be gone in a moment the openai library asks again, after
growing pauses or when the server says (within two minutes); to it belongs a reply of status 200 that is none.

Three ways of calling tools (`EndpointConfig.calling`), so that any server can be asked:

- "native": tools are offered in the request, and calls come back as structures. For commercial APIs.
- "prompt": tools are listed in the system prompt, and calls come back in the text. For servers without tool calls.
- "template": the server's chat template lists the tools, and everything else is text. For a checkpoint of ours behind
  vLLM or SGLang, which then reads what it was trained on.

The photo and its regions leave this machine, as pixels without metadata; so does what the agent wrote and found.
"""

import copy
import functools
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import openai
from transformers.utils import get_json_schema

from reverse_lib.environment import (
    FULL,
    UNREADABLE,
    AgentError,
    AgentRefused,
    Interface,
    Reply,
    one_line,
    tool_functions,
)
from reverse_lib.photos import data_url
from reverse_lib.profiles import EndpointConfig, variable
from reverse_lib.trajectory import TOOLS, parse_turn

OPENAI_URL = "https://api.openai.com/v1"
NATIVE_NOTE = (
    "Make a tool call with the function calls you are offered, one a turn, instead of writing <tool_call>; "
    "write <think>, <useful> and <answer> in your text."
)
LISTED_NOTE = "The tools you have, a JSON schema each:"
IMAGE_FOLLOWS = "The picture is in the next message."
_REFUSED = (400, 413, 422)
_PASSING = (408, 409, 429)  # and everything from 500; the library asks these again
_TAG = re.compile(r"<(?=/?(?:think|useful|tool_call|answer)>)")
_PART = re.compile(r"<(?:useful|tool_call|answer)>")


class Endpoint:
    """An agent for `environment.rollout` that asks a chat server.

    Args:
        config: Which server and how.
        interface: How the world is shown to it.
        tools: Names of the tools its prompt offers.

    Attributes:
        name: The model's.
        concurrency: Conversations at a time; `rollout` then lets each go its own pace.
        usage: Sums so far: requests that were answered, retries (attempts that failed), tokens_in, tokens_out,
            uncounted (replies whose tokens the server did not count; they are in no sum), and cost, by the prices.

    Raises:
        ValueError: The key is not set.
    """

    def __init__(self, config: EndpointConfig, interface: Interface = FULL, tools: Sequence[str] = TOOLS):
        key = variable(config.key_env) if config.key_env else "none"
        if not key:
            raise ValueError(f"{config.model}: no key; set the environment variable {config.key_env}, or key_env=''")
        self.config, self.interface, self.tools = config, interface, tuple(tools)
        self.name, self.concurrency, self.usage = config.model, config.concurrency, Counter()
        self._lock, self._pace = threading.Lock(), _Pace(config.requests_per_min, config.tokens_per_min)
        # `concurrency` bounds the connections; waiting for one of a pool would count as the server's silence
        http = httpx.Client(
            timeout=config.timeout_s,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=config.concurrency),
            event_hooks={"request": [lambda request: self._pace.wait()], "response": [_complete]},
        )
        settings = {"base_url": config.base_url, "max_retries": config.retries, "timeout": config.timeout_s}
        self._client = openai.OpenAI(api_key=key, http_client=http, **settings)

    def __repr__(self) -> str:
        return f"Endpoint({self.name!r} at {self.config.base_url})"

    def __call__(self, conversations: Sequence[Sequence[Mapping]]) -> list[Reply]:
        """The next turn of each conversation, in their order, with its `usage`.

        Raises:
            AgentError: The endpoint kept failing, or refuses a conversation; names the model, the address and why.
        """
        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(self._respond, conversations))

    def without_tools(self) -> "Endpoint":
        """The same endpoint, with the same limits and the same account, whose prompt offers no tools."""
        twin = copy.copy(self)
        twin.tools = ()
        return twin

    def _respond(self, messages: Sequence[Mapping]) -> Reply:
        config, body = self.config, request(messages, self.tools, self.config)
        try:
            answered = self._client.chat.completions.with_raw_response.create(**body)
        except openai.APIError as error:
            raise self._failure(error) from None  # the library's error holds the request, and so the key
        completion: Completion = answered.http_response.extensions["completion"]
        read, written = completion.tokens or (0, 0)
        self._pace.spent(read + written)
        usage = {"requests": 1, "retries": answered.retries_taken, "tokens_in": read, "tokens_out": written}
        usage["uncounted"] = int(completion.tokens is None)
        usage["cost"] = (read * config.price_in + written * config.price_out) / 1e6
        with self._lock:
            self.usage.update(usage)
        if completion.finish == "content_filter":
            raise self._error("its content filter withholds the reply", AgentRefused)
        return Reply(completion.text, usage=usage)

    def _failure(self, error: openai.APIError) -> AgentError:
        """What an error of the library means, with what the service says about it; its attempts are counted."""
        attempts = int(error.request.headers["x-stainless-retry-count"]) + 1
        with self._lock:
            self.usage["retries"] += attempts
        tried = f"{attempts} attempts in a row"
        if isinstance(error, openai.APITimeoutError):
            return self._error(f"no answer within {self.config.timeout_s:g} s, {tried}")
        if not isinstance(error, openai.APIStatusError):
            none = isinstance(error.__cause__, _NoCompletion)
            return self._error(f"{error.__cause__ if none else 'the connection failed or was cut'}, {tried}")
        status, said = error.status_code, error.body.get("message") if isinstance(error.body, dict) else None
        said = f" ({said})" if isinstance(said, str) and said else ""
        if status in _REFUSED:
            return self._error(f"HTTP {status}, this conversation is refused{said}", AgentRefused)
        if status in _PASSING or status >= 500:
            wait = error.response.headers.get("retry-after")
            later = f"; it asks to wait (Retry-After: {wait}), go on later" if wait else ""
            return self._error(f"HTTP {status}{said}, {tried}{later}")
        key = self.config.key_env or "none is sent"
        return self._error(f"HTTP {status}{said}; check address, model, account and the key ({key})")

    def _error(self, why: str, kind: type[AgentError] = AgentError) -> AgentError:
        """In one line, short and without the key, whatever the service said."""
        why = why.replace(self._client.api_key, "…") if self.config.key_env else why
        return kind(f"{self.name} at {self.config.base_url}: {one_line(why)[:400]}")


class _Pace:
    """Spreads requests and tokens evenly over time, so that no more than so many go a minute; 0 for no limit."""

    def __init__(self, requests: int, tokens: int):
        self._request_s, self._token_s = (60 / most if most else 0.0 for most in (requests, tokens))
        self._lock = threading.Lock()
        self._next_request = self._tokens_paid = time.monotonic()

    def wait(self) -> None:
        """Waits until a request may go."""
        with self._lock:
            start = max(time.monotonic(), self._next_request, self._tokens_paid)
            self._next_request = start + self._request_s
        time.sleep(max(0.0, start - time.monotonic()))

    def spent(self, tokens: int) -> None:
        """Takes in what a request has used, known only afterwards: who comes after a long one waits."""
        with self._lock:
            self._tokens_paid = max(time.monotonic(), self._tokens_paid) + tokens * self._token_s


def from_environment(interface: Interface = FULL, tools: Sequence[str] = TOOLS, **settings) -> Endpoint:
    """The endpoint that the environment names: OPENAI_BASE_URL, OPENAI_MODEL and OPENAI_API_KEY.

    Args:
        interface: How the world is shown to it.
        tools: Names of the tools its prompt offers.
        **settings: Fields of `EndpointConfig`; what is given here is not looked for.

    Raises:
        ValueError: There is no model or no key, or a setting is impossible; names it.
    """
    named = {"base_url": variable("OPENAI_BASE_URL") or OPENAI_URL, "model": variable("OPENAI_MODEL")}
    return Endpoint(EndpointConfig(**named | settings), interface, tools)


class Completion(NamedTuple):
    """What a reply holds."""

    text: str  # the turn in our grammar, as far as the model kept to it
    finish: str  # why it ended
    tokens: tuple[int, int] | None  # read and written; None where the server did not count them


class _NoCompletion(httpx.TransportError):
    """A reply of status 200 that is none; to the library a failed connection, after which it asks again."""


def _complete(response: httpx.Response) -> None:
    """Reads a reply to its end, and leaves it with the response as `completion`."""
    if not response.is_success:
        return
    response.read()
    try:
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            lines = (line.removeprefix("data:").strip() for line in response.iter_lines() if line.startswith("data:"))
            chunks = [json.loads(line) for line in lines if line != "[DONE]"]
        else:
            chunks = [response.json()]
        response.extensions["completion"] = read_completion(chunks)
    except ValueError as error:
        raise _NoCompletion(f"the reply can't be read ({error})", request=response.request) from None


def read_completion(chunks: Iterable[Mapping[str, Any]]) -> Completion:
    """A reply in one piece or, streamed, in many; of its choices the first.

    Raises:
        ValueError: It has another shape than the API documents, is no whole one, or says that the service failed.
    """
    content, reasoning, finish, usage = "", "", "", {}
    calls: dict[int, list[str]] = {}  # name and arguments
    try:
        for chunk in chunks:
            if chunk.get("error"):
                raise ValueError(f"the service reports an error: {chunk['error'].get('message')}")
            usage = chunk.get("usage") or usage
            for choice in (chunk.get("choices") or ())[:1]:
                finish = choice.get("finish_reason") or finish
                piece = choice.get("delta") or choice.get("message") or {}
                content += piece.get("content") or ""
                reasoning += piece.get("reasoning_content") or piece.get("reasoning") or ""
                for place, call in enumerate(piece.get("tool_calls") or ()):
                    parts, function = calls.setdefault(call.get("index", place), ["", ""]), call["function"]
                    parts[:] = parts[0] + (function.get("name") or ""), parts[1] + (function.get("arguments") or "")
        tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
        text = turn_text(content, reasoning, list(calls.values()))
    except (LookupError, TypeError, AttributeError):
        raise ValueError("it has another shape than a chat completion") from None
    if finish in ("", "error"):
        raise ValueError("it was cut before its end")
    return Completion(text, finish, tokens if all(isinstance(n, int) and n >= 0 for n in tokens) else None)


def turn_text(content: str, reasoning: str = "", calls: Sequence[tuple[str, str]] = ()) -> str:
    """What a model wrote, what it thought where the service keeps that apart, and its native calls (name and arguments
    as written) as a turn in our grammar; TypeError where one of them is no text."""
    text, think = content, [reasoning.strip()]
    if "</think>" in content:  # some servers leave out the opening tag, which their template writes
        text, think = content if "<think>" in content else f"<think>{content}", []
    elif calls:
        part = _PART.search(content)
        prose, text = (content[: part.start()], content[part.start() :]) if part else (content, "")
        think.append(prose.strip())
    thought = _TAG.sub("‹", "\n".join(filter(None, think)))
    turn = f"<think>{thought}</think>" + text if thought else text
    for name, arguments in calls:  # arguments that are no JSON stay what they are
        safe = _TAG.sub(r"\\u003c", arguments) or "{}"  # a tag in an argument ends nothing; to JSON it is the same text
        turn += f'<tool_call>{{"name": {json.dumps(name)}, "arguments": {safe}}}</tool_call>'
    return turn


def request(messages: Sequence[Mapping], tools: Sequence[str], config: EndpointConfig) -> dict[str, Any]:
    """A conversation as the arguments of a chat request.

    Args:
        messages: As `environment.rollout` hands them to an agent.
        tools: Names of the tools offered; none for answering without.
        config: How the server is asked.
    """
    sent: list[dict] = []
    for message, following in zip(messages, [*messages[1:], {}], strict=True):
        blocks, role = _blocks(message["content"], config), message["role"]
        called = following.get("role") == "tool" and following.get("name") != UNREADABLE
        if role == "system":
            sent.append({"role": role, "content": "\n\n".join([_text(blocks), *_notes(tools, config.calling)])})
        elif role == "assistant" and config.calling == "native" and called:
            sent.append(_native_turn(_text(blocks), len(sent), config.reasoning_field))
        elif role == "assistant":
            sent.append({"role": role, "content": _text(blocks)})
        elif role == "tool" and (config.calling == "template" or message.get("name") != UNREADABLE):
            sent += _tool_result(blocks, config.calling, sent[-1])
        else:
            sent.append({"role": "user", "content": blocks})
    fields = {"model": config.model, "messages": sent, "extra_body": dict(config.extra)}
    if tools and config.calling != "prompt":
        fields["tools"] = _schemas(tuple(tools), returns=config.calling == "template")
    if tools and config.calling == "template":
        fields["tool_choice"] = "none"
    if config.max_tokens:
        fields["max_tokens"] = config.max_tokens
    if config.temperature is not None:
        fields["temperature"] = config.temperature
    if config.stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    return fields


@functools.cache
def _schemas(tools: tuple[str, ...], returns: bool = False) -> list[dict]:
    """JSON schemas; `returns`: each says what it returns, which chat templates print and chat APIs don't know."""
    schemas = [get_json_schema(function) for function in tool_functions(tools)]
    for schema in schemas if not returns else ():
        schema["function"].pop("return", None)
    return schemas


def _notes(tools: Sequence[str], calling: str) -> list[str]:
    """What the system prompt adds about the way of calling."""
    if not tools or calling == "template":
        return []
    if calling == "native":
        return [NATIVE_NOTE]
    return ["\n".join([LISTED_NOTE, *(json.dumps(schema["function"]) for schema in _schemas(tuple(tools)))])]


def _native_turn(text: str, number: int, reasoning_field: str) -> dict:
    """An earlier turn that called a tool, with its call as a structure."""
    turn, before = parse_turn(text), text.partition("<tool_call>")[0]
    call = {"name": turn.tool_call.name, "arguments": json.dumps(turn.tool_call.arguments, ensure_ascii=False)}
    message = {"role": "assistant", "content": before}
    if reasoning_field and turn.think is not None:
        message |= {"content": before.partition("</think>")[2], reasoning_field: turn.think}
    return message | {"tool_calls": [{"id": f"call_{number}", "type": "function", "function": call}]}


def _tool_result(blocks: list[dict], calling: str, before: Mapping) -> list[dict]:
    """What a tool returned; a chat API takes only text from a tool, so a picture follows as the user's."""
    if calling == "prompt":
        opening, closing = ({"type": "text", "text": tag} for tag in ("<tool_response>", "</tool_response>"))
        return [{"role": "user", "content": [opening, *blocks, closing]}]
    if calling == "template":
        return [{"role": "tool", "tool_call_id": "call", "content": blocks}]
    pictures = [block for block in blocks if block["type"] == "image_url"]
    text = "\n".join(filter(None, [_text(blocks), IMAGE_FOLLOWS if pictures else ""]))
    result = {"role": "tool", "tool_call_id": before["tool_calls"][0]["id"], "content": text}
    return [result, {"role": "user", "content": pictures}] if pictures else [result]


def _blocks(content: str | Sequence[Mapping], config: EndpointConfig) -> list[dict]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [
        {"type": "image_url", "image_url": {"url": data_url(block["image"], config.image_format, config.image_px)}}
        if block["type"] == "image"
        else {"type": "text", "text": block["text"]}
        for block in content
    ]


def _text(blocks: Sequence[Mapping]) -> str:
    return "\n".join(block["text"] for block in blocks if block["type"] == "text")
