"""Reading what a model asked of a tool: arguments checked or refused in words, log entries paired with turns.

Any argument that JSON can carry, and any other Python object, is either accepted or refused with an `ArgumentError`
whose text is meant for the model.
"""

import functools
import inspect
import math
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from reverse_lib.search import SearchResult, normalise_query
from reverse_lib.trajectory import Observation, Step, Turn, parse_turn

MAX_QUERY_CHARS = 300
MAX_QUERIES = 5
NUDGE = "write one tool call or one answer"
UNREADABLE = "unreadable_turn"  # stands for the tool in the log entry of a turn that neither calls nor answers
_MARKUP = re.compile(r"<(?=\||/?(?:think|useful|tool_call|tool_response|tools|answer|image|video|s)\b)", re.IGNORECASE)
_CODE_POINTS_DROPPED = {"Cc", "Cs", "Co"}
_CALL_NAME = re.compile(r'<tool_call>\s*\{\s*"name"\s*:\s*"(\w{1,40})"')


class ArgumentError(ValueError):
    """An argument the model wrote can't be used; the text is meant for the model."""


class OverBudget(Exception):
    """The calls to a tool are used up."""


def tool(method: Callable) -> Callable:
    """Turn a method into a tool: checked arguments, limits, one log entry a call, no exception for model input."""
    parameters = list(inspect.signature(method).parameters.values())[1:]
    required = {parameter.name: parameter.default is parameter.empty for parameter in parameters}

    @functools.wraps(method)
    def call(self, /, *args, **kwargs):
        if self._photo is None:
            raise RuntimeError(f"{method.__name__}: no photo yet; call reset(photo_id=…) first")
        names = list(required) + [f"argument {i}" for i in range(len(required) + 1, len(args) + 1)]
        given = dict(zip(names, args, strict=False)) | kwargs
        self._entry = Observation(tool=method.__name__, arguments=plain(given), status="model_error", text="")
        content = self._answer(method, given, required)
        self._log.append(self._entry)
        return self._with_notice(content)

    return call


def one_line(text: object) -> str:
    """Text from outside as a single line: whitespace collapsed, control characters dropped, chat markup defused."""
    words = " ".join(str(text).split())
    if not words.isprintable():
        kept = "".join(char for char in words if unicodedata.category(char) not in _CODE_POINTS_DROPPED)
        words = " ".join(kept.split())
    return _MARKUP.sub("‹", words)


def check_names(tool: str, given: Mapping[str, object], required: Mapping[str, bool]) -> None:
    """Check the names of a call's arguments.

    Args:
        tool: Its name, for the message.
        given: The arguments.
        required: For each parameter of the tool, whether it must be given.

    Raises:
        ArgumentError: One is missing or unknown.
    """
    usage = f"{tool} takes {', '.join(name if needed else f'{name} (optional)' for name, needed in required.items())}"
    for name, needed in required.items():
        if needed and name not in given:
            raise ArgumentError(f"{name} is missing; {usage}")
    for name in given:
        if name not in required:
            raise ArgumentError(f"unknown argument {one_line(name)[:40]}; {usage}")


def check_text(name: str, value: object) -> None:
    """Refuse an optional argument that is no text."""
    if not isinstance(value, str):
        raise ArgumentError(f"{name} must be text")


def as_queries(value: object) -> list[str]:
    """The distinct queries of a text search, each on one line.

    Raises:
        ArgumentError: Not text nor a list of texts, nothing to search for, or too much.
    """
    texts = value if isinstance(value, list | tuple) else [value]
    if len(texts) > MAX_QUERIES:
        raise ArgumentError(f"too many queries: give at most {MAX_QUERIES} at once")
    queries: dict[str, str] = {}
    for text in texts:
        if not isinstance(text, str):
            raise ArgumentError("query must be text, or a list of texts")
        if len(text) > MAX_QUERY_CHARS:
            raise ArgumentError(f"query is too long: use at most {MAX_QUERY_CHARS} characters")
        text = one_line(text)
        if not normalise_query(text):
            raise ArgumentError("query is empty: give at least one word")
        queries.setdefault(normalise_query(text), text)
    if not queries:
        raise ArgumentError("query is empty: give at least one word")
    return list(queries.values())


def plain(value: object, depth: int = 0) -> object:
    """A copy of an argument made of JSON types, cut to a size worth keeping in a log."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value[:1000].encode("utf-8", "replace").decode()
    if isinstance(value, int):
        return int(value) if value.bit_length() < 64 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if depth < 3 and isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value[:20]]
    if depth < 3 and isinstance(value, dict):
        return {str(plain(key, 3))[:40]: plain(item, depth + 1) for key, item in list(value.items())[:20]}
    return f"({type(value).__name__})"


def shares(available: Sequence[int], total: int) -> list[int]:
    """How many results each query may show: as even as possible, `total` in all."""
    even = [0] * len(available)
    while sum(even) < min(total, sum(available)):
        for i in range(len(even)):
            if even[i] < available[i] and sum(even) < total:
                even[i] += 1
    return even


def logged(result: SearchResult, useful: bool | None) -> dict:
    """A result as the log keeps it."""
    return {
        "title": result.title,
        "url": result.url,
        "source": result.source,
        "snippet": result.snippet,
        "useful": useful,
    }


def not_found(name: str) -> str:
    """What TRL tells a model that calls a tool it was not given."""
    return str({"error": f"Tool {name} not found."})


def unreadable(turn: Turn) -> str:
    """What a model is told after a turn in which no call and no answer could be read."""
    return f"Error: {', '.join(turn.errors) or 'action_missing'}; {NUDGE}"


def pair(texts: Sequence[str], log: Sequence[Observation], tools: Sequence[str], turns: int) -> tuple[list[Step], int]:
    """Join each turn with the observation of its call.

    An engine may read a call in a text that breaks the grammar (two calls in a turn, say): such a text takes the
    entries that bear its names as long as enough are left for the regular calls after it. A last call may have no
    entry where the turns are used up, or where the engine read a broken turn otherwise than the grammar does. A turn
    in which nothing could be read takes the entry that says so, if it was answered.

    Args:
        texts: What the model wrote, a turn each.
        log: The calls, in order.
        tools: Names of the tools the model had.
        turns: The budget of turns.

    Returns:
        A step for each text, and the number of calls beyond one a turn, which have no step.

    Raises:
        ValueError: The calls in the texts are not those in the log.
    """
    parsed = [parse_turn(text) for text in texts]
    owed = [turn.tool_call is not None and turn.tool_call.name in tools for turn in parsed]
    pending, steps, surplus = deque(log), [], 0
    for k, (text, turn) in enumerate(zip(texts, parsed, strict=True)):
        taken: list[Observation] = []
        if owed[k]:
            if pending and pending[0].tool == turn.tool_call.name:
                taken = [pending.popleft()]
            elif k + 1 < len(texts) or pending or not (turn.errors or len(texts) >= turns or len(log) >= turns - 1):
                raise ValueError(f"turn {k + 1} of {len(texts)} calls {turn.tool_call.name}, {_summary(log)}")
        elif turn.tool_call is not None:
            taken = [_unknown_tool(turn)]
        elif turn.answer is None and pending and pending[0].tool == UNREADABLE:
            taken = [pending.popleft()]
        else:
            names = _CALL_NAME.findall(text)
            while names and len(pending) > sum(owed[k + 1 :]) and pending[0].tool == names.pop(0):
                taken.append(pending.popleft())
        steps.append(Step(text, taken[0] if taken else None))
        surplus += max(0, len(taken) - 1)
    if pending:
        raise ValueError(f"{len(pending)} logged calls belong to none of the {len(texts)} turns, {_summary(log)}")
    return steps, surplus


def _unknown_tool(turn: Turn) -> Observation:
    call = turn.tool_call
    return Observation(tool=call.name, arguments=plain(call.arguments), status="model_error", text=not_found(call.name))


def _summary(log: Sequence[Observation]) -> str:
    calls = ", ".join(entry.tool for entry in log) or "no call"
    return f"but the log holds {calls}; pass every turn of this rollout, once each"


def how_it_ended(steps: Sequence[Step]) -> str:
    """How a rollout ended, in the words of `Trajectory.end`."""
    last = parse_turn(steps[-1].text) if steps else None
    if last and last.answer is not None and last.tool_call is None:
        return "answered"
    if any(step.observation and step.observation.status == "service_error" for step in steps):
        return "service_error"
    return "budget" if last and last.tool_call is not None else "format"
