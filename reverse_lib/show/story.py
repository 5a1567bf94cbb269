"""A trajectory as sentences: the words that figures, maps and the command line share."""

from collections.abc import Callable

from reverse_lib.trajectory import Trajectory


def narrate(trajectory: Trajectory, in_words: Callable[[str], str] = str) -> list[str]:
    """A trajectory as sentences, one or more a turn: what it looked at, searched, was shown, trusted and answered.

    Args:
        trajectory: Any trajectory.
        in_words: Turns an agent's shorthand into words (`teacher.in_words` for the tiny agent).
    """
    lines = []
    shown = None
    for number, (turn, step) in enumerate(zip(trajectory.turns(), trajectory.steps, strict=True), start=1):
        thoughts = (in_words(turn.think) if turn.think else "").splitlines() or ["(nothing)"]
        inline = thoughts[0] if len(thoughts) == 1 else "".join(f"\n     {line.strip()}" for line in thoughts)
        lines += f"{number}. thinks: {inline}".splitlines()
        if turn.useful is not None:
            lines.append(f"   trusts: {_trusted(turn.useful, shown)}")
        if turn.tool_call is not None:
            lines += [f"   {line}" for line in _call_lines(turn.tool_call, step.observation)]
        if turn.answer is not None:
            lines.append(f"   answers: {turn.answer.text()}")
        elif turn.tool_call is None:
            lines.append(f"   neither calls a tool nor answers ({', '.join(turn.errors) or 'unreadable'})")
            lines += [f"   is told: {step.observation.text}"] if step.observation else []
        shown = step.observation
    return lines


def _trusted(useful: list[int], shown) -> str:
    results = shown.results if shown is not None else []
    names = [
        f"[{i}] {results[i - 1].get('title', '')}" if 1 <= i <= len(results) else f"[{i}] (never shown)" for i in useful
    ]
    return "; ".join(names) or "none of the results"


def _call_lines(call, observation) -> list[str]:
    where = f"region {call.arguments.get('bbox_2d')}"
    what = {
        "image_zoom_in_tool": f"zooms into {where}",
        "image_search_tool": f"searches with the picture of {where}",
        "text_search_tool": f"searches for “{call.arguments.get('query')}”",
    }.get(call.name, call.name)
    if observation is None:
        return [what]
    if observation.status in ("model_error", "service_error"):
        return [what, f"is told: {observation.text}"]
    if observation.tool == "image_zoom_in_tool":
        return [what]
    return [what, *(f"  [{i}] {_result(r)}" for i, r in enumerate(observation.results, start=1))] + (
        [] if observation.results else ["  no results"]
    )


def _result(result: dict) -> str:
    title, snippet = result.get("title", ""), result.get("snippet", "")
    return f"{title}: {snippet}" if snippet else title
