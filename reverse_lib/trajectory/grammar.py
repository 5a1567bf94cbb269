"""The grammar of one assistant turn: reading it strictly, writing it back.

A turn is `<think>…</think>`, then, if and only if the previous message was a search result, `<useful>[i, …]</useful>`,
then exactly one `<tool_call>{json}</tool_call>` or one `<answer>Country, City, lat, lon</answer>`. Tags are
case-sensitive, once each, in this order, with nothing but whitespace between them.

Differs from the paper's public code, which searches each tag on its own with a lenient regular expression and so pays
mismatched, nested and repeated tags: here any text gives a `Turn` with named errors, never an exception, in time
linear in its length, and a field is filled only where there is one way to read it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from reverse_lib.geo import Answer, parse_answer

TOOLS = ("image_zoom_in_tool", "image_search_tool", "text_search_tool")
SEARCH_TOOLS = ("image_search_tool", "text_search_tool")
PARTS = ("think", "useful", "tool_call", "answer")

_PART_ERRORS = {
    "repeated": "more than one opening or closing tag",
    "unclosed": "an opening tag without a closing tag after it",
    "unopened": "a closing tag without an opening tag",
    "nested": "the part contains, or stands in, another part",
}
TURN_ERRORS: dict[str, str] = {
    **{f"{part}_{kind}": text for part in PARTS for kind, text in _PART_ERRORS.items()},
    "think_missing": "no think part",
    "useful_missing": "a search result went before, and its evidence labels are not there",
    "useful_unexpected": "evidence labels without a search result before",
    "useful_invalid": "the labels are not a JSON list of integers from 1",
    "useful_duplicate": "a position is labelled twice",
    "tool_call_json": "not JSON, or with repeated keys, NaN, too many digits or levels, or half of a surrogate pair",
    "tool_call_object": "not a JSON object that has a name and arguments",
    "tool_call_extra": "keys besides name and arguments",
    "tool_call_name": "the name is not one of the tools",
    "tool_call_arguments": "the arguments are not a JSON object",
    "answer_invalid": "not `Country, City, lat, lon` with numbers in range",
    "action_missing": "neither a tool call nor an answer",
    "action_both": "a tool call and an answer",
    "wrong_order": "the parts are not in the order think, useful, tool call or answer",
    "text_outside": "text outside the tags",
}

_TAG = re.compile(r"<(/?)(think|useful|tool_call|answer)>")
_WS, _POSITION = r"[ \t\r\n]*", r"[1-9][0-9]{0,17}"  # JSON's whitespace; an integer from 1 that fits an int64 column
_USEFUL = re.compile(rf"{_WS}\[{_WS}((?:{_POSITION}{_WS},{_WS})*{_POSITION})?{_WS}\]{_WS}")
_CITATION = re.compile(r"\[\s*([0-9]{1,4}(?:\s*,\s*[0-9]{1,4})*)\s*\]")
_MAX_DIGITS = 18  # of an integer that always fits an int64 column
_MAX_DEPTH = 16  # of nested lists and objects; the tools' own arguments need 3


@dataclass(frozen=True)
class ToolCall:
    """A tool's name, one of `TOOLS`, and its arguments as the model wrote them."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """One assistant turn, as far as it can be read in one way only."""

    think: str | None
    useful: list[int] | None  # 1-based positions; None: no labels, which is not the same as []
    tool_call: ToolCall | None
    answer: Answer | None
    errors: list[str] = field(default_factory=list)  # names from TURN_ERRORS, each once


def parse_turn(text: str, after_search: bool | None = None) -> Turn:
    """Reads one assistant turn. Total: any text gives a turn, in time linear in its length.

    Args:
        text: exactly what the model wrote.
        after_search: True if the previous message was a search result, so that labels are owed; False if not, so that
            they are out of place; None if unknown: either is accepted.

    Returns:
        The turn, with `errors` naming every departure from the grammar (`TURN_ERRORS`). A field is filled where its
        part is there once, properly closed, outside every other part, and valid in itself.
    """
    bodies, errors, present = _parts(text)
    if "think" not in present:
        errors.append("think_missing")
    if after_search is True and "useful" not in present:
        errors.append("useful_missing")
    if after_search is False and "useful" in present:
        errors.append("useful_unexpected")
    if not present & {"tool_call", "answer"}:
        errors.append("action_missing")
    if present >= {"tool_call", "answer"}:
        errors.append("action_both")

    useful = _useful(bodies["useful"], errors) if "useful" in bodies else None
    tool_call = _tool_call(bodies["tool_call"], errors) if "tool_call" in bodies else None
    answer = parse_answer(bodies["answer"]) if "answer" in bodies else None
    if "answer" in bodies and answer is None:
        errors.append("answer_invalid")
    return Turn(bodies.get("think"), useful, tool_call, answer, errors)


def format_turn(
    think: str,
    useful: list[int] | None = None,
    tool_call: ToolCall | None = None,
    answer: Answer | None = None,
) -> str:
    """Writes one turn; `parse_turn` reads it back.

    Args:
        think: the reasoning; no tags of the grammar in it.
        useful: 1-based positions of the useful results of the search before, None if no labels are owed.
        tool_call: the call, or None.
        answer: the answer, or None; exactly one of the two is needed. Coordinates are written with two decimals.

    Returns:
        The parts in order, with nothing between them.

    Raises:
        ValueError: if the parts can't be read back as they are (a tag inside a part, a comma in the country, a NaN).
    """
    text = f"<think>{think}</think>"
    if useful is not None:
        text += f"<useful>{json.dumps(list(useful))}</useful>"
    if tool_call is not None:
        call = {"name": tool_call.name, "arguments": tool_call.arguments}
        text += f"<tool_call>{json.dumps(call, ensure_ascii=False)}</tool_call>"
    if answer is not None:
        text += f"<answer>{answer.text()}</answer>"
    turn = parse_turn(text)
    if turn.errors:
        reasons = "; ".join(f"{name} ({TURN_ERRORS[name]})" for name in turn.errors)
        raise ValueError(f"turn {text[:200]!r}: not in the grammar: {reasons}; change that part")
    if answer is not None and turn.answer.country != answer.country.strip():
        raise ValueError(f"country {answer.country!r}: read back as {turn.answer.country!r}; write it without commas")
    return text


def cited_indices(text: str, n: int) -> set[int]:
    """Finds the results that a reasoning cites as `[2]` or `[1, 3]`.

    Args:
        text: the think part of the turn after a search.
        n: number of results shown.

    Returns:
        1-based positions. A lone position out of range is dropped; a list with one is taken for something else, a box
        for example, and dropped whole.
    """
    cited: set[int] = set()
    for match in _CITATION.finditer(text):
        positions = {int(number) for number in match[1].split(",")}
        if all(1 <= position <= n for position in positions):
            cited |= positions
    return cited


def _parts(text: str) -> tuple[dict[str, str], list[str], set[str]]:
    """Splits a turn into the bodies of its well-formed parts, its errors of form, and the names of all tags seen."""
    tags = list(_TAG.finditer(text))
    inside = [frozenset()]  # before each tag, and at the end: the parts that are open there
    for tag in tags:
        inside.append(inside[-1] - {tag[2]} if tag[1] else inside[-1] | {tag[2]})
    bodies: dict[str, str] = {}
    errors: list[str] = []
    first: list[int] = []  # the opening tags' places among all tags, part by part
    for part in PARTS:
        starts, ends = ([k for k, tag in enumerate(tags) if tag[2] == part and tag[1] == slash] for slash in ("", "/"))
        first += starts[:1]
        if not starts and not ends:
            continue
        if len(starts) > 1 or len(ends) > 1:
            errors.append(f"{part}_repeated")
        elif not starts:
            errors.append(f"{part}_unopened")
        elif not ends or ends[0] < starts[0]:
            errors.append(f"{part}_unclosed")
        elif inside[starts[0]] or ends[0] != starts[0] + 1:
            errors.append(f"{part}_nested")
        else:
            bodies[part] = text[tags[starts[0]].end() : tags[ends[0]].start()]
    if first != sorted(first):
        errors.append("wrong_order")
    gaps = zip([0, *(tag.end() for tag in tags)], [*(tag.start() for tag in tags), len(text)], inside, strict=True)
    if any(text[start:end].strip() for start, end, parts in gaps if not parts):
        errors.append("text_outside")
    return bodies, errors, {tag[2] for tag in tags}


def _useful(body: str, errors: list[str]) -> list[int] | None:
    """Reads the inside of a useful part."""
    match = _USEFUL.fullmatch(body)
    positions = [int(number) for number in match[1].split(",")] if match and match[1] else []
    if match is None or len(set(positions)) != len(positions):
        errors.append("useful_duplicate" if match else "useful_invalid")
        return None
    return positions


def _tool_call(body: str, errors: list[str]) -> ToolCall | None:
    """Reads the inside of a tool call; None where it is no call, or JSON that is ambiguous or can't be sent on."""
    try:
        value = _JSON.decode(body)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # refuses NaN and half of a surrogate pair
        if _depth(value) > _MAX_DEPTH:
            raise ValueError("too deep")
    except (ValueError, RecursionError):
        errors.append("tool_call_json")
        return None
    if not isinstance(value, dict) or "name" not in value or "arguments" not in value:
        errors.append("tool_call_object")
    elif value["name"] not in TOOLS:
        errors.append("tool_call_name")
    elif not isinstance(value["arguments"], dict):
        errors.append("tool_call_arguments")
    else:
        errors += ["tool_call_extra"] if len(value) > 2 else []
        return ToolCall(value["name"], value["arguments"])
    return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds an object and refuses a key that comes twice."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is repeated")
    return value


def _integer(digits: str) -> int:
    """Reads an integer that fits an int64 column."""
    if len(digits.lstrip("-")) > _MAX_DIGITS:
        raise ValueError(f"an integer of more than {_MAX_DIGITS} digits")
    return int(digits)


def _depth(value: Any) -> int:
    """How many lists and objects lie in each other."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, dict | list) + max(map(_depth, inner), default=0)


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer)
