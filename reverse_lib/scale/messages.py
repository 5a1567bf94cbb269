"""A conversation of the released data set as the steps of a trajectory, and back.

There a conversation is a list of messages: system and question, then what the model wrote, each followed by a user
message with what its tool returned inside `<tool_response>` tags, or with a reminder to follow the format. Pictures are
the word `<image>`. A tool's result is text; here it is read again into results, so that they can be labelled.
"""

import re
from collections.abc import Iterable, Sequence

from reverse_lib.environment import UNREADABLE, result_row
from reverse_lib.search import SearchResult
from reverse_lib.trajectory import SEARCH_TOOLS, TOOLS, Observation, Step, ToolCall, parse_turn

ZOOM, IMAGE, TEXT = TOOLS
PICTURE = "<image>"
SERVICE_FAILURES = (
    "Image search failed",
    "Tavily search failed",
    "all API keys exhausted",
    "COS upload",
    "the search service is not available",
)
_RESPONSE = re.compile(r"\s*<tool_response>\n?(.*?)\n?</tool_response>\s*", re.DOTALL)
_NUMBERED = re.compile(r"\[(\d{1,4})\] ?(.*)")
_HEADERS = ("Web search results for:", "Image search results for")
_FIELDS = {"Source:": "source", "Link:": "url", "URL:": "url"}


def steps_of(messages: Sequence[dict], labels: Iterable[tuple[str, list[int]]] | None = None) -> list[Step]:
    """Reads the turns of a conversation.

    Args:
        messages: From the model's first on; role and content (text) each.
        labels: Tool and 1-based useful positions of each search, in their order within the tool; where None, what the
            model marked in the turn after each search.

    Returns:
        A step for each assistant message.

    Raises:
        ValueError: A message before the model's first, or a role that is neither user, tool nor assistant.
    """
    steps: list[Step] = []
    for message in messages:
        role, text = message["role"], message["content"]
        if role == "assistant":
            steps.append(Step(text))
        elif role not in ("user", "tool") or not steps:
            raise ValueError(f"a message of role {role!r} after {len(steps)} turns of the model")
        else:
            seen, last = observation_of(parse_turn(steps[-1].text).tool_call, text), steps[-1]
            if last.observation is None:
                last.observation = seen
            else:
                last.observation.text += f"\n{seen.text}"
    _mark_repeats(steps)
    _label(steps, None if labels is None else list(labels))
    return steps


def messages_of(steps: Iterable[Step]) -> list[dict]:
    """Writes steps as messages, in the data set's form."""
    messages = []
    for step in steps:
        messages.append({"role": "assistant", "content": step.text})
        seen = step.observation
        if seen is None:
            continue
        text = seen.text
        if seen.tool == ZOOM and seen.status == "ok":
            text = f"{PICTURE}\n{text}" if text else PICTURE
        wrapped = text if seen.tool == UNREADABLE else f"<tool_response>\n{text}\n</tool_response>"
        messages.append({"role": "user", "content": wrapped})
    return messages


def observation_of(call: ToolCall | None, message: str) -> Observation:
    """What a tool's message says happened.

    Args:
        call: The call it answers; None when nothing could be called.
        message: With or without its tags.
    """
    match = _RESPONSE.fullmatch(message)
    text = match[1] if match else message
    if call is None:
        return Observation(UNREADABLE, {}, "model_error", text)
    if any(words in text for words in SERVICE_FAILURES):
        return Observation(call.name, call.arguments, "service_error", text)
    if text.startswith("Error") or text.endswith(": answer now"):
        return Observation(call.name, call.arguments, "model_error", text)
    if call.name == ZOOM:
        return Observation(ZOOM, call.arguments, "ok", text.replace(PICTURE, "", 1).strip("\n"))
    results = results_in(text)
    rows = [result_row(result, None) for _, result in results]
    return Observation(call.name, call.arguments, "ok" if rows else "miss", text, rows)


def results_in(text: str) -> list[tuple[int, SearchResult]]:
    """The numbered results of a search's text: the number printed, and the result.

    A result is a line `[i] title`, followed by lines that begin with Source:, Link: or URL:, and then by an excerpt.
    """
    found: list[tuple[int, dict[str, str], list[str]]] = []
    lines = text.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        numbered, stripped = _NUMBERED.fullmatch(line), line.strip()
        if numbered and following.strip().startswith(tuple(_FIELDS)):
            found.append((int(numbered[1]), {"title": numbered[2].strip()}, []))
        elif found and stripped and not line.startswith(_HEADERS):
            _, fields, excerpt = found[-1]
            word, _, rest = stripped.partition(" ")
            name = _FIELDS.get(word)
            if name and name not in fields and not excerpt:
                fields[name] = rest.strip()
            else:
                excerpt.append(stripped)
    return [(number, SearchResult(**{"url": ""} | fields, snippet=" ".join(words))) for number, fields, words in found]


def _mark_repeats(steps: Sequence[Step]) -> None:
    before: list[tuple[str, dict]] = []
    for seen in (step.observation for step in steps):
        if seen is not None and seen.tool in TOOLS:
            seen.repeated = (seen.tool, seen.arguments) in before
            before.append((seen.tool, seen.arguments))


def _label(steps: Sequence[Step], labels: list[tuple[str, list[int]]] | None) -> None:
    """Writes labels to results that are numbered 1, 2, ...; where numbers start again, nobody knows which was meant."""
    waiting = {tool: [marked for name, marked in labels or [] if name == tool] for tool in SEARCH_TOOLS}
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        seen = step.observation
        if seen is None or seen.tool not in SEARCH_TOOLS or not seen.owes_labels:
            continue
        if labels is None:
            useful = parse_turn(following.text).useful if following else None
        else:
            useful = waiting[seen.tool].pop(0) if waiting[seen.tool] else None
        numbers = [number for number, _ in results_in(seen.text)]
        if useful is None or seen.status != "ok" or numbers != list(range(1, len(seen.results) + 1)):
            continue
        seen.labelled = True
        seen.results = [
            result | {"useful": number in useful} for number, result in zip(numbers, seen.results, strict=True)
        ]
