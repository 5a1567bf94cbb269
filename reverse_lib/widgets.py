"""Panels for notebooks (ipywidgets): stepping through what agents did, turn by turn.

A panel only draws: what it shows is HTML that a pure function made. Where no widget can be drawn (an executed notebook
on a web page, say), the panel stands there as HTML with all of its turns to unfold. Text that a page or a model wrote
is escaped.
"""

import base64
import html
import io
import os
from collections.abc import Callable, Mapping, Sequence

import ipywidgets
from PIL import Image, ImageDraw

from reverse_lib.interface import Interface, observation_content
from reverse_lib.plots import SERIES
from reverse_lib.trajectory import SEARCH_TOOLS, Trajectory

_WIDTH_PX, _SMALL_PX = 440, 240  # of the photo, live and unfolded


def turn_html(
    trajectory: Trajectory,
    number: int,
    image: Image.Image,
    interface: Interface,
    reward: float | None = None,
    advantage: float | None = None,
    in_words: Callable[[str], str] = str,
    width_px: int = _WIDTH_PX,
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
    """
    turn, step = trajectory.turns()[number - 1], trajectory.steps[number - 1]
    box = turn.tool_call.arguments.get("bbox_2d") if turn.tool_call else None
    earned = "" if reward is None else f" · reward {reward:+.2f}"
    earned += "" if advantage is None else f" · advantage {advantage:+.2f}"
    rows = [f"<b>Turn {number} of {len(trajectory.steps)}{earned}</b>"]
    rows += [_line("thinks", in_words(turn.think))] if turn.think else []
    if turn.useful is not None:
        rows.append(_line("trusts", ", ".join(f"[{i}]" for i in turn.useful) or "none of the results"))
    if turn.tool_call:
        words = "; ".join(f"{key}: {value}" for key, value in turn.tool_call.arguments.items())
        rows.append(_line("calls", f"{turn.tool_call.name} ({words})"))
    if turn.answer:
        km = "" if trajectory.km is None else f", {trajectory.km:,.0f} km from {trajectory.city}, {trajectory.country}"
        rows.append(_line("answers", turn.answer.text() + km))
    rows += [_line("errors", ", ".join(turn.errors))] if turn.errors else []
    rows += _came_back(trajectory, number, image, interface) if step.observation else []
    left = f'<img src="{_data_url(_with_box(image, box, width_px), "JPEG")}" width="{width_px}" alt="the photo">'
    right = "".join(f'<div style="margin:0 0 6px">{row}</div>' for row in rows)
    return (
        f'<div style="display:flex;gap:16px;flex-wrap:wrap;line-height:1.4">{left}'
        f'<div style="flex:1;min-width:300px">{right}</div></div>'
    )


def _came_back(trajectory: Trajectory, number: int, image: Image.Image, interface: Interface) -> list[str]:
    """What the tool returned: the crop, or the results with who trusted them and whether they are evidence."""
    seen = trajectory.steps[number - 1].observation
    after = trajectory.turns()[number].useful if number < len(trajectory.steps) else None
    rows = []
    if seen.tool in SEARCH_TOOLS and seen.results:
        for i, result in enumerate(seen.results, 1):
            truth = {True: "✓ evidence", False: "✗ no evidence"}.get(result.get("useful"), "unlabelled")
            trusted = "trusted" if after and i in after else "not trusted"
            agrees = (after is not None and i in after) == bool(result.get("useful"))
            colour = SERIES[2] if agrees else SERIES[1]
            words = f"[{i}] {result.get('title', '')}: {result.get('snippet', '')}"
            rows.append(
                f'<div style="border-left:4px solid {colour};padding-left:6px;margin:2px 0">{html.escape(words)}'
                f'<br><small style="color:#555">{truth}, {trusted}</small></div>'
            )
        return rows
    for block in observation_content(seen, image, interface):
        if block["type"] == "image":
            rows.append(f'<img src="{_data_url(block["image"])}" alt="the zoom" style="image-rendering:pixelated">')
        elif block["text"]:
            rows.append(_line("is told", block["text"]))
    return rows


def _line(label: str, text: str) -> str:
    words = html.escape(text).replace("\n", "<br>")
    return f'<span style="color:#666">{label}</span> {words}'


def _with_box(image: Image.Image, box: object, width_px: int) -> Image.Image:
    shown = image.resize((width_px, round(width_px * image.height / image.width)), Image.Resampling.LANCZOS)
    if isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) and 0 <= v <= 1000 for v in box):
        x1, y1, x2, y2 = (v / 1000 * side for v, side in zip(box, shown.size * 2, strict=True))
        if x1 < x2 and y1 < y2:
            ImageDraw.Draw(shown).rectangle((x1 - 2, y1 - 2, x2 + 2, y2 + 2), outline="white", width=5)
            ImageDraw.Draw(shown).rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=SERIES[0], width=3)
    return shown


def _data_url(image: Image.Image, kind: str = "PNG") -> str:
    data = io.BytesIO()
    image.convert("RGB").save(data, kind, quality=88)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


class TrajectoryViewer(ipywidgets.VBox):
    """Rollouts to step through: choose one, move through its turns.

    Args:
        rollouts: Trajectories on one photo, by the name to choose them by.
        image: The original photo.
        interface: How the world was shown.
        rewards: What each turn of each rollout earned, in the same order; or none.
        advantages: Of each turn of each rollout; or none.
        in_words: Turns an agent's shorthand into words.

    Raises:
        ValueError: There is no rollout with a turn.
    """

    def __init__(
        self,
        rollouts: Mapping[str, Trajectory],
        image: Image.Image,
        interface: Interface,
        rewards: Sequence[Sequence[float]] = (),
        advantages: Sequence[Sequence[float]] = (),
        in_words: Callable[[str], str] = str,
    ):
        self._rollouts = [trajectory for trajectory in rollouts.values() if trajectory.steps]
        if not self._rollouts or len(self._rollouts) < len(rollouts):
            raise ValueError("TrajectoryViewer: give at least one rollout, and none without turns")
        self._given = image, interface, rewards, advantages, in_words
        self.rollout = ipywidgets.Dropdown(options=list(zip(rollouts, range(len(rollouts)), strict=True)))
        self.turn = ipywidgets.IntSlider(
            1, 1, len(self._rollouts[0].steps), description="turn", continuous_update=False
        )
        self.page = ipywidgets.HTML()
        self.rollout.observe(self._choose, "value")
        self.turn.observe(self._draw, "value")
        super().__init__([ipywidgets.HBox([self.rollout, self.turn]), self.page])
        self._draw()

    def _repr_mimebundle_(self, **kwargs):
        page = {"text/html": self.unfolded()}
        return page if os.environ.get("REVERSE_NO_FRONT_END") else super()._repr_mimebundle_(**kwargs) | page

    def unfolded(self) -> str:
        """Every turn of every rollout as HTML that needs no front end."""
        names = [name for name, _ in self.rollout.options]
        parts = []
        for i, (name, trajectory) in enumerate(zip(names, self._rollouts, strict=True)):
            turns = [self._turn(i, k, _SMALL_PX) for k in range(len(trajectory.steps))]
            page = '<hr style="border:0;border-top:1px solid #ddd">'.join(turns)
            parts.append(f"<details{'' if i else ' open'}><summary>{html.escape(name)}</summary>{page}</details>")
        return "".join(parts)

    def _choose(self, _) -> None:
        self.turn.value = 1
        self.turn.max = len(self._rollouts[self.rollout.value].steps)
        self._draw()

    def _draw(self, _=None) -> None:
        self.page.value = self._turn(self.rollout.value, self.turn.value - 1, _WIDTH_PX)

    def _turn(self, i: int, k: int, width_px: int) -> str:
        image, interface, rewards, advantages, in_words = self._given
        reward, advantage = (list(rows)[i][k] if len(rows) else None for rows in (rewards, advantages))
        return turn_html(self._rollouts[i], k + 1, image, interface, reward, advantage, in_words, width_px)
