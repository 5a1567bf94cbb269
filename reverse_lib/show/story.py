"""A trajectory as sentences: the words that figures, maps and the command line share."""

from collections.abc import Callable

from reverse_lib.trajectory import SEARCH_TOOLS, Observation, ToolCall, Trajectory


def narrate(trajectory: Trajectory, in_words: Callable[[str], str] = str) -> list[str]:
    """A trajectory as sentences, one or more a turn: what it looked at, searched, was shown, trusted and answered.

    Args:
        trajectory: Any trajectory.
        in_words: Turns an agent's shorthand into words (`teacher.in_words` for the tiny agent).
    """
    lines: list[str] = []
    previous = None  # what the turn before was shown
    for number, (turn, step) in enumerate(zip(trajectory.turns(), trajectory.steps, strict=True), start=1):
        thoughts = (in_words(turn.think) if turn.think else "").splitlines() or ["(nothing)"]
        inline = thoughts[0] if len(thoughts) == 1 else "".join(f"\n     {line.strip()}" for line in thoughts)
        lines += f"{number}. thinks: {inline}".splitlines()
        if turn.useful is not None:
            lines.append(f"   trusts: {_trusted(turn.useful, previous.results if previous else [])}")
        if turn.tool_call is not None:
            lines += [f"   {line}" for line in _call_lines(turn.tool_call, step.observation)]
        if turn.answer is not None:
            lines.append(f"   answers: {turn.answer.text()}")
        elif turn.tool_call is None:
            lines.append(f"   neither calls a tool nor answers ({', '.join(turn.errors) or 'unreadable'})")
            lines += [f"   is told: {step.observation.text}"] if step.observation else []
        previous = step.observation
    return lines


def _trusted(useful: list[int], results: list[dict]) -> str:
    names = {i: result.get("title", "") for i, result in enumerate(results, start=1)}
    return "; ".join(f"[{i}] {names.get(i, '(never shown)')}" for i in useful) or "none of the results"


def _call_lines(call: ToolCall, observation: Observation | None) -> list[str]:
    region = f"region {call.arguments.get('bbox_2d')}"
    deeds = {
        "image_zoom_in_tool": f"zooms into {region}",
        "image_search_tool": f"searches with the picture of {region}",
        "text_search_tool": f"searches for “{call.arguments.get('query')}”",
    }
    lines = [deeds.get(call.name, call.name)]
    if observation is not None and observation.status in ("model_error", "service_error"):
        lines.append(f"is told: {observation.text}")
    elif observation is not None and observation.tool in SEARCH_TOOLS:
        pieces = [(result.get("title", ""), result.get("snippet", "")) for result in observation.results]
        results = (": ".join(piece if piece[1] else piece[:1]) for piece in pieces)
        lines += [f"  [{i}] {result}" for i, result in enumerate(results, start=1)] or ["  no results"]
    return lines
