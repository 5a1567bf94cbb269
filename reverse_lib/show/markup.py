"""HTML of photos with boxes and of turns, for panels and for executed notebooks: pure functions, every text escaped."""

import base64
import html
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from reverse_lib.environment import Interface, observation_content
from reverse_lib.geo import BoxError, as_box
from reverse_lib.photos import crop
from reverse_lib.reward import Breakdown
from reverse_lib.show.plots import SERIES
from reverse_lib.trajectory import SEARCH_TOOLS, Trajectory, Turn

RIGHT, WRONG, PLAIN = SERIES[2], SERIES[1], SERIES[0]
MUTED = "opacity:.7"  # readable on a light ground and on a dark one
RULE = '<hr style="border:0;border-top:1px solid #8885;margin:8px 0">'
_LABELS = {True: "✓ evidence", False: "✗ no evidence"}
_TEXT = "margin:0 0 6px;line-height:1.4;overflow-wrap:anywhere"


def turn_html(
    trajectory: Trajectory,
    number: int,
    image: Image.Image,
    interface: Interface,
    reward: float | None = None,
    advantage: float | None = None,
    in_words: Callable[[str], str] = str,
    width_px: int = 440,
    parts: Mapping[str, float] | None = None,
    always_photo: bool = True,
) -> str:
    """One turn to look at: the photo with the box, what the model wrote, what came back, what the turn earned.

    Args:
        trajectory: Any.
        number: Of the turn, from 1.
        image: The original photo.
        interface: How the world was shown.
        reward: What the turn earned, if known.
        advantage: Of the turn, if known.
        in_words: Turns an agent's shorthand into words (`teacher.in_words` for the tiny agent).
        width_px: Of the photo.
        parts: What the turn earned by component, an entry of `Breakdown.per_turn`, if known.
        always_photo: Whether a turn that draws no box shows the photo, too.
    """
    turn, step = trajectory.turns()[number - 1], trajectory.steps[number - 1]
    earned = "" if reward is None else f" · reward {reward:+.2f}"
    earned += "" if advantage is None else f" · advantage {advantage:+.2f}"
    rows = [f"<b>Turn {number} of {len(trajectory.steps)}{earned}</b>", *written(trajectory, turn, in_words)]
    if paid := {name: value for name, value in (parts or {}).items() if value}:
        rows.insert(1, line("process", ", ".join(f"{name} {value:+.2f}" for name, value in paid.items())))
    rows += came_back(trajectory, number, image, interface) if step.observation else []
    box = turn.tool_call.arguments.get("bbox_2d") if turn.tool_call else None
    if not box and not always_photo:
        return block(rows)
    return beside(photo_html(image, [(box, PLAIN, "")], width_px), block(rows))


def score_html(score: Breakdown) -> str:
    """A reward and its components, on one line."""
    names = ("accuracy", "format", "process", "look", "query", "trust", "errors")
    parts = [f'<span style="{MUTED}">{name}</span> {_unsigned(getattr(score, name))}' for name in names]
    return block([f"<b>reward {_unsigned(score.total)}</b> · {' · '.join(parts[:3])} ({', '.join(parts[3:])})"])


def _unsigned(value: float) -> str:
    """Two decimals, and no minus before what is rounded to zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def beside(left: str, right: str) -> str:
    """Two pieces side by side, or one above the other where there is no room."""
    return (
        f'<div style="display:flex;gap:16px;flex-wrap:wrap;align-items:flex-start">{left}'
        f'<div style="flex:1;min-width:280px">{right}</div></div>'
    )


def block(rows: Iterable[str]) -> str:
    """Pieces of HTML below each other."""
    return "".join(f'<div style="{_TEXT}">{row}</div>' for row in rows)


def line(label: str, text: str) -> str:
    """A muted label and a text."""
    words = html.escape(text).replace("\n", "<br>")
    return f'<span style="{MUTED}">{label}</span> {words}'


def written(trajectory: Trajectory, turn: Turn, in_words: Callable[[str], str] = str) -> list[str]:
    """What the model wrote in a turn, a piece of HTML a part."""
    rows = [line("thinks", in_words(turn.think))] if turn.think else []
    if turn.useful is not None:
        rows.append(line("trusts", ", ".join(f"[{i}]" for i in turn.useful) or "none of the results"))
    if turn.tool_call:
        words = "; ".join(f"{key}: {value}" for key, value in turn.tool_call.arguments.items())
        rows.append(line("calls", f"{turn.tool_call.name} ({words})"))
    if turn.answer:
        km = "" if trajectory.km is None else f", {trajectory.km:,.0f} km from {trajectory.place}"
        rows.append(line("answers", turn.answer.text() + km))
    return rows + ([line("errors", ", ".join(turn.errors))] if turn.errors else [])


def came_back(trajectory: Trajectory, number: int, image: Image.Image, interface: Interface) -> list[str]:
    """What the tool of a turn returned: the crop, or the results with who trusted them and whether they are evidence.

    Args:
        trajectory: Any.
        number: Of the turn, from 1; it called a tool.
        image: The original photo.
        interface: How the world was shown.
    """
    seen = trajectory.steps[number - 1].observation
    if seen.tool in SEARCH_TOOLS and seen.results:
        trusted = trusted_after(trajectory, number)
        return [_judged(i, result, i in trusted, seen.label_method) for i, result in enumerate(seen.results, 1)]
    rows = []
    for part in observation_content(seen, image, interface):
        if part["type"] == "image":
            style = "image-rendering:pixelated;max-width:100%"
            rows.append(f'<img src="{_data_url(part["image"])}" alt="the zoom" style="{style}">')
        elif part["text"]:
            rows.append(line("is told", part["text"]))
    return rows


def trusted_after(trajectory: Trajectory, number: int) -> set[int]:
    """Positions that the turn after turn `number` trusts; none where it says nothing or is not there."""
    turns = trajectory.turns()
    return set(turns[number].useful or ()) if number < len(turns) else set()


def result_html(result: dict[str, Any], *remarks: str) -> str:
    """A search result: its title, what it says, and remarks in small print."""
    title, snippet = (html.escape(str(result.get(name) or "")) for name in ("title", "snippet"))
    small = " · ".join(html.escape(remark) for remark in remarks if remark)
    return f'<b>{title}</b> {snippet}<br><small style="{MUTED}">{small}</small>'


def origin_of(result: dict[str, Any]) -> str:
    """The address of a result, or its source when it has none."""
    return str(result.get("url") or result.get("source") or "")


def label_of(result: dict[str, Any], method: str) -> str:
    """What is known about a result, and who says so: "✓ evidence (judge)"."""
    label = _LABELS.get(result.get("useful"), "unlabelled")
    return f"{label} ({method})" if method and result.get("useful") is not None else label


def _judged(position: int, result: dict[str, Any], trusted: bool, method: str) -> str:
    """A result with a bar: green where the agent's trust and the label agree, orange where not, blue without label."""
    useful = result.get("useful")
    colour = PLAIN if useful is None else RIGHT if trusted == useful else WRONG
    text = result_html(result, f"{label_of(result, method)}, {'trusted' if trusted else 'not trusted'}")
    return f'<div style="border-left:4px solid {colour};padding-left:8px">[{position}] {text}</div>'


def photo_html(image: Image.Image, boxes: Sequence[tuple[object, str, str]] = (), width_px: int = 440) -> str:
    """A photo with boxes drawn on it.

    Args:
        image: The original photo.
        boxes: (bbox_2d, colour, label) each; a box that is none, as a model may write it, is left out.
        width_px: Of the picture shown.
    """
    shown = image.resize((width_px, max(1, round(width_px * image.height / image.width))), Image.Resampling.LANCZOS)
    for box, colour, label in boxes:
        try:
            corners = as_box(box)
        except BoxError:
            continue
        _draw_box(shown, corners, colour, label)
    style = "max-width:100%;height:auto"
    return f'<img src="{_data_url(shown, "JPEG")}" width="{width_px}" style="{style}" alt="the photo">'


def crop_html(image: Image.Image, box: object, width_px: int = 400, height_px: int = 120) -> str:
    """A region of a photo, as large as fits; nothing for a box that is none.

    Args:
        image: The original photo.
        box: bbox_2d, or what a model wrote for one.
        width_px: Of the picture shown, at most.
        height_px: Of the picture shown, at most.
    """
    try:
        region = crop(image, as_box(box))
    except BoxError:
        return ""
    scale = min(width_px / region.width, height_px / region.height)
    size = max(1, round(region.width * scale)), max(1, round(region.height * scale))
    shown = region.resize(size, Image.Resampling.LANCZOS)
    return f'<img src="{_data_url(shown, "JPEG")}" style="max-width:100%" alt="the region">'


def _draw_box(shown: Image.Image, box: Sequence[int], colour: str, label: str) -> None:
    """A box with a white rim; the label of a green one stands above it, of another below, so that both can be read."""
    x1, y1, x2, y2 = (v / 1000 * side for v, side in zip(box, shown.size * 2, strict=True))
    draw = ImageDraw.Draw(shown)
    for margin, outline, width in ((2, "white", 5), (1, colour, 3)):
        draw.rectangle((x1 - margin, y1 - margin, x2 + margin, y2 + margin), outline=outline, width=width)
    if label:
        width = draw.textlength(label, font_size=13) + 8
        left = min(max(x1 - 1, 0), max(shown.width - width, 0))
        above = (colour == RIGHT and y1 >= 20) or y2 > shown.height - 20
        top = max(y1 - 20, 0) if above else y2 + 3
        draw.rectangle((left, top, left + width, top + 18), fill=colour)
        draw.text((left + 4, top + 1), label, fill="white", font_size=13)


def _data_url(image: Image.Image, kind: str = "PNG") -> str:
    data = io.BytesIO()
    image.convert("RGB").save(data, kind, quality=88)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
