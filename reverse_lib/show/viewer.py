"""What agents did as HTML, turn by turn, and a viewer that steps through it, also two side by side.

Every text is escaped. The viewer is HTML alone, so it works in an executed notebook on a web page, too.

    TrajectoryViewer({"rollout 1": first, "rollout 2": second}, photo.load(), interface)      # one at a time
    TrajectoryViewer({"cold start": before, "GRPO": after}, photo.load(), interface, side_by_side=True)
"""

import itertools
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

from reverse_lib.environment import Interface, observation_content
from reverse_lib.photos import crop, data_url
from reverse_lib.reward import Breakdown
from reverse_lib.show.style import PLAIN, RIGHT, WRONG, box_of, box_or_none, escaped
from reverse_lib.trajectory import SEARCH_TOOLS, Trajectory, Turn

MUTED = "opacity:.7"  # readable on a light ground and on a dark one
RULE = '<hr style="border:0;border-top:1px solid #8885;margin:8px 0">'
_LABELS = {True: "✓ evidence", False: "✗ no evidence"}
_TEXT = "margin:0 0 6px;line-height:1.4;overflow-wrap:anywhere"
_ALONE_PX, _BESIDE_PX = 440, 320  # width of the photo
_TABS = """<style>
.reverse-tabs {display: flex; flex-wrap: wrap; gap: 4px 14px}
.reverse-tabs > div {order: 1; flex: 0 0 100%; min-width: 0; border-top: 1px solid #8885; padding-top: 6px}
.reverse-tabs > label:not(:has(:checked)) + div {display: none}
.reverse-tabs input {margin: 0}
</style>"""


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


def _came_back(trajectory: Trajectory, number: int, image: Image.Image, interface: Interface) -> list[str]:
    """What the tool of a turn returned: the crop, or the results, each with its label and whether it was trusted."""
    observation = trajectory.steps[number - 1].observation
    if observation.tool in SEARCH_TOOLS and observation.results:
        trusted, method = trusted_after(trajectory, number), observation.label_method
        return [_judged(i, result, i in trusted, method) for i, result in enumerate(observation.results, 1)]
    rows = []
    for part in observation_content(observation, image, interface):
        if part["type"] == "image":
            style = "image-rendering:pixelated;max-width:100%"
            rows.append(f'<img src="{data_url(part["image"], "PNG")}" alt="the zoom" style="{style}">')
        elif part["text"]:
            rows.append(line("is told", part["text"]))
    return rows


def trusted_after(trajectory: Trajectory, number: int) -> set[int]:
    """Positions that the turn after turn `number` trusts; none where it says nothing or is not there."""
    turns = trajectory.turns()
    return set(turns[number].useful or ()) if number < len(turns) else set()


def _judged(position: int, result: dict[str, Any], trusted: bool, method: str) -> str:
    """A result with a bar: green where the agent's trust and the label agree, orange where not, blue without label."""
    useful = result.get("useful")
    colour = PLAIN if useful is None else RIGHT if trusted == useful else WRONG
    text = result_html(result, f"{label_of(result, method)}, {'trusted' if trusted else 'not trusted'}")
    return f'<div style="border-left:4px solid {colour};padding-left:8px">[{position}] {text}</div>'


def result_html(result: dict[str, Any], *remarks: str) -> str:
    """A search result: its title, what it says, and remarks in small print."""
    title, snippet = (escaped(result.get(name) or "") for name in ("title", "snippet"))
    return f'<b>{title}</b> {snippet}<br><small style="{MUTED}">{escaped(" · ".join(filter(None, remarks)))}</small>'


def label_of(result: dict[str, Any], method: str) -> str:
    """What is known about a result, and who says so: "✓ evidence (judge)"."""
    label = _LABELS.get(result.get("useful"), "unlabelled")
    return f"{label} ({method})" if method and result.get("useful") is not None else label


def score_html(score: Breakdown) -> str:
    """A reward and its components, on one line."""
    names = ("accuracy", "format", "process", "look", "query", "trust", "errors")
    parts = [line(name, f"{getattr(score, name):z.2f}") for name in names]
    return block([f"<b>reward {score.total:z.2f}</b> · {' · '.join(parts[:3])} ({', '.join(parts[3:])})"])


def tokens_html(tokens: Sequence[str], learned: Sequence[bool]) -> str:
    """Tokens in a row, those that carry loss on blue; runs of the same token are counted.

    Args:
        tokens: Decoded one by one.
        learned: Whether each carries loss.
    """
    spans = []
    for (token, flag), run in itertools.groupby(zip(tokens, learned, strict=True)):
        count = len(list(run))
        text = escaped(token.replace("\n", "⏎")) + (f" ×{count}" if count > 2 else "")
        style = "background:#cfe3f5;color:#123" if flag else "background:#efefef;color:#777"
        span = f'<span style="{style};padding:0 2px;margin:1px;border-radius:3px">{text}</span>'
        spans += [span] * (1 if count > 2 else count)
    return f'<div style="line-height:1.9;font-family:monospace;font-size:12px">{"".join(spans)}</div>'


def line(label: str, text: str) -> str:
    """A muted label and a text."""
    return f'<span style="{MUTED}">{label}</span> {escaped(text)}'


def block(rows: Iterable[str]) -> str:
    """Pieces of HTML below each other."""
    return "".join(f'<div style="{_TEXT}">{row}</div>' for row in rows)


def beside(left: str, right: str) -> str:
    """Two pieces side by side, or one above the other where there is no room."""
    return (
        f'<div style="display:flex;gap:16px;flex-wrap:wrap;align-items:flex-start">{left}'
        f'<div style="flex:1;min-width:280px">{right}</div></div>'
    )


def photo_html(image: Image.Image, boxes: Sequence[tuple[object, str, str]], width_px: int) -> str:
    """A photo with boxes drawn on it.

    Args:
        image: The original photo.
        boxes: (bbox_2d, colour, label) each; a box that is none, as a model may write it, is left out.
        width_px: Of the picture shown.
    """
    shown = image.resize((width_px, max(1, round(width_px * image.height / image.width))), Image.Resampling.LANCZOS)
    for value, colour, label in boxes:
        if box := box_or_none(value):
            _draw_box(shown, box, colour, label)
    style = "max-width:100%;height:auto"
    return f'<img src="{data_url(shown)}" width="{width_px}" style="{style}" alt="the photo">'


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


def crop_html(image: Image.Image, value: object, width_px: int = 400, height_px: int = 120) -> str:
    """A region of a photo, as large as fits; nothing for a box that is none.

    Args:
        image: The original photo.
        value: bbox_2d, or what a model wrote for one.
        width_px: Of the picture shown, at most.
        height_px: Of the picture shown, at most.
    """
    box = box_or_none(value)
    if box is None:
        return ""
    region = crop(image, box)
    scale = min(width_px / region.width, height_px / region.height)
    size = max(1, round(region.width * scale)), max(1, round(region.height * scale))
    shown = region.resize(size, Image.Resampling.LANCZOS)
    return f'<img src="{data_url(shown)}" style="max-width:100%" alt="the region">'


class _Run(NamedTuple):
    """A rollout to show: what it is called, and what is known of its rewards."""

    name: str
    trajectory: Trajectory
    rewards: Sequence[float] | None
    advantages: Sequence[float] | None
    score: Breakdown | None


class TrajectoryViewer:
    """Rollouts on one photo to step through: choose one, move through its turns.

    Args:
        rollouts: Trajectories by the name to choose them by.
        image: The original photo.
        interface: How the world was shown.
        rewards: What each turn of each rollout earned, in the same order; or none.
        advantages: Of each turn of each rollout; or none.
        in_words: Turns an agent's shorthand into words (`world.in_words` for the tiny agent).
        scores: Of each rollout, its breakdown; or none.
        side_by_side: Whether the rollouts, say one a stage, stand side by side and are stepped through together.

    Raises:
        ValueError: There is no rollout, one has no turn, they are about several photos, or rewards, advantages or
            scores are not as many.
    """

    def __init__(
        self,
        rollouts: Mapping[str, Trajectory],
        image: Image.Image,
        interface: Interface,
        rewards: Sequence[Sequence[float]] = (),
        advantages: Sequence[Sequence[float]] = (),
        in_words: Callable[[str], str] = str,
        scores: Sequence[Breakdown] = (),
        side_by_side: bool = False,
    ):
        if not rollouts or not all(trajectory.steps for trajectory in rollouts.values()):
            raise ValueError("TrajectoryViewer: give at least one rollout, and none without turns")
        if len(photos := sorted({trajectory.photo_id for trajectory in rollouts.values()})) > 1:
            raise ValueError(f"TrajectoryViewer: rollouts on {', '.join(photos[:3])}; give those on one photo")
        columns = {"rewards": rewards, "advantages": advantages, "scores": scores}
        for name, column in columns.items():
            if len(column) not in (0, len(rollouts)):
                raise ValueError(
                    f"TrajectoryViewer: {len(column)} {name} for {len(rollouts)} rollouts; one each, or none"
                )
        rows = [column if len(column) else [None] * len(rollouts) for column in columns.values()]
        self._runs = [_Run(*row) for row in zip(rollouts, rollouts.values(), *rows, strict=True)]
        self._image, self._interface, self._in_words, self._side_by_side = image, interface, in_words, side_by_side

    def _repr_html_(self) -> str:
        group = uuid.uuid4().hex  # another one whenever it is shown: equal ones would switch each other
        pages = []
        for number, runs in enumerate([self._runs] if self._side_by_side else [[run] for run in self._runs]):
            longest = max(len(run.trajectory.steps) for run in runs)
            steps = [(f"turn {k + 1}", self._columns(runs, k)) for k in range(longest)]
            pages.append((escaped(runs[0].name), _tabs(f"{group}-{number}", steps)))
        return _TABS + _tabs(group, pages)

    def _columns(self, runs: Sequence[_Run], k: int) -> str:
        """Turn `k`, from 0, of each run, side by side; of one that has ended, its last."""
        cells = (self._turn(run, min(k, len(run.trajectory.steps) - 1)) for run in runs)
        grid = f"display:grid;grid-template-columns:repeat({len(runs)},minmax(0,1fr));gap:0 24px"
        return f'<div style="{grid}">{"".join(f"<div>{cell}</div>" for cell in cells)}</div>'

    def _turn(self, run: _Run, k: int) -> str:
        """One turn: the photo with the box, what the model wrote, what came back, what the turn earned."""
        turn, step = run.trajectory.turns()[k], run.trajectory.steps[k]
        earned = "" if run.rewards is None else f" · reward {run.rewards[k]:+.2f}"
        earned += "" if run.advantages is None else f" · advantage {run.advantages[k]:+.2f}"
        rows = [f"<b>Turn {k + 1} of {len(run.trajectory.steps)}{earned}</b>"]
        parts = run.score.per_turn[k] if run.score else {}
        if paid := [f"{name} {value:+.2f}" for name, value in parts.items() if value]:
            rows.append(line("process", ", ".join(paid)))
        rows += written(run.trajectory, turn, self._in_words)
        rows += _came_back(run.trajectory, k + 1, self._image, self._interface) if step.observation else []
        photo = photo_html(self._image, [(box_of(turn), PLAIN, "")], _BESIDE_PX if self._side_by_side else _ALONE_PX)
        title = f"<b>{escaped(run.name)}</b>" if self._side_by_side else ""
        return title + (score_html(run.score) if run.score else "") + beside(photo, block(rows))


def _tabs(group: str, pages: Sequence[tuple[str, str]]) -> str:
    """Pages by label, one shown at a time; where a page's styles are stripped, they stand below each other."""
    if len(pages) == 1:
        return pages[0][1]
    tabs = [
        f'<label><input type="radio" name="{group}"{"" if i else " checked"}> {label}</label><div>{page}</div>'
        for i, (label, page) in enumerate(pages)
    ]
    return f'<div class="reverse-tabs">{"".join(tabs)}</div>'
