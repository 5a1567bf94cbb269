"""What training looks like: curves that grow while it runs, the tokens that carry loss, a group of rollouts.

Like `plots`, each function turns what it is given into a figure (or HTML) and computes nothing that trains.
"""

import html
import itertools
import time
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd

from reverse_lib.plots import MUTED, SERIES, STYLE, Plot, in_plain_words, new_figure, series_colours, show_image


@matplotlib.rc_context(STYLE)
def training_curves(logs: Sequence[dict], keys: Sequence[str], x: str = "step", title: str = "Training") -> Plot:
    """One small panel a key over training: raw values pale, a running mean on top.

    Args:
        logs: Rows as a trainer logs them; a row without a key is skipped for that key.
        keys: Numbers to draw, for example ("loss", "reward", "kl").
        x: The key on the horizontal axis; rows without it count 1, 2, …
        title: Above the panels.
    """
    figure = new_figure(3.4 * min(3, len(keys)), 2.5 * -(-len(keys) // 3) + 0.3)
    panels = figure.subplots(-(-len(keys) // 3), min(3, len(keys)), squeeze=False).flat
    for key, colour, panel in zip(keys, series_colours(len(keys)), panels, strict=False):
        points = [(row.get(x, i), row[key]) for i, row in enumerate(logs, start=1) if row.get(key) is not None]
        panel.set(title=in_plain_words(key), xlabel=x)
        if not points:
            panel.text(0.5, 0.5, "nothing logged", transform=panel.transAxes, ha="center", color=MUTED)
            continue
        steps, values = np.array(points, float).T
        smooth = pd.Series(values).rolling(max(1, len(values) // 10), min_periods=1).mean()
        panel.plot(steps, values, color=colour, alpha=0.35, linewidth=1, marker="." if len(values) < 40 else None)
        panel.plot(steps, smooth, color=colour, linewidth=2)
    for panel in list(panels):
        panel.set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


class LiveCurves:
    """Training curves that are redrawn in place while a notebook cell runs: a trainer's `on_row`.

    Attributes:
        keys: Numbers to draw.
        every: Rows between two drawings.
        title: Above the panels.
        total: Steps the run will take, for the time left; 0 if unknown.
    """

    def __init__(self, keys: Sequence[str], every: int = 5, title: str = "Training", total: int = 0):
        from IPython.display import display

        self.keys, self.every, self.title, self.total = tuple(keys), every, title, total
        self.rows: list[dict] = []
        self.started_s = time.monotonic()
        self.handle = display("waiting for the first step", display_id=True)

    def __call__(self, row: dict) -> None:
        self.rows.append(row)
        if len(self.rows) % self.every == 0:
            self.draw()

    def draw(self) -> None:
        """Draw all rows so far."""
        self.handle.update(training_curves(self.rows, self.keys, title=f"{self.title}: {self._pace()}"))

    def _pace(self) -> str:
        step, spent_s = self.rows[-1].get("step", len(self.rows)), time.monotonic() - self.started_s
        left = f", about {spent_s / step * (self.total - step):.0f} s left" if step and step < self.total else ""
        return f"step {step}, {spent_s:.0f} s{left}"


def tokens_html(tokens: Sequence[str], learned: Sequence[bool]) -> str:
    """Tokens in a row, those that carry loss on blue; runs of the same token are counted.

    Args:
        tokens: Decoded one by one.
        learned: Whether each carries loss.
    """
    spans = []
    for (token, flag), run in itertools.groupby(zip(tokens, learned, strict=True)):
        count = len(list(run))
        text = html.escape(token.replace("\n", "⏎")) + (f" ×{count}" if count > 2 else "")
        style = "background:#cfe3f5;color:#123" if flag else "background:#efefef;color:#777"
        spans += [f'<span style="{style};padding:0 2px;margin:1px;border-radius:3px">{text}</span>'] * (
            1 if count > 2 else count
        )
    return f'<div style="line-height:1.9;font-family:monospace;font-size:12px">{"".join(spans)}</div>'


@matplotlib.rc_context(STYLE)
def patch_grid(images: Sequence, token_px: int = 32) -> Plot:
    """Pictures as the model gets them, with the squares that become one token each."""
    figure = new_figure(4.6 * len(images), 3.4)
    for axes, image in zip(figure.subplots(1, len(images), squeeze=False).flat, images, strict=True):
        tokens = (image.width // token_px) * (image.height // token_px)
        show_image(axes, image, f"{image.width}×{image.height} px, {tokens} tokens")
        axes.vlines(np.arange(token_px, image.width, token_px) - 0.5, -0.5, image.height - 0.5, "white", linewidth=0.8)
        axes.hlines(np.arange(token_px, image.height, token_px) - 0.5, -0.5, image.width - 0.5, "white", linewidth=0.8)
    return figure


@matplotlib.rc_context(STYLE)
def group_figure(group: Sequence, scores: Sequence, columns: int = 4) -> Plot:
    """A group of rollouts side by side: what each turn earned, and the rollout's advantage.

    Args:
        group: Trajectories on one photo.
        scores: Their `rewards.Breakdown`s.
        columns: Panels in a row.
    """
    totals = np.array([s.total for s in scores])
    advantages = (totals - totals.mean()) / (totals.std(ddof=1) + 1e-4) if len(totals) > 1 else totals * 0
    rows = -(-len(group) // columns)
    figure = new_figure(3.1 * columns, 2.3 * rows + 0.5)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    parts = ("look", "query", "trust", "error")
    for panel, breakdown, trajectory, advantage in zip(panels, scores, group, advantages, strict=False):
        turns = np.arange(1, len(breakdown.per_turn) + 1)
        base = np.zeros(len(turns))
        for part, colour in zip(parts, SERIES, strict=False):
            values = np.array([turn[part] for turn in breakdown.per_turn])
            panel.bar(turns, values, 0.6, bottom=base, color=colour, label=part)
            base = base + np.maximum(values, 0)
        calls = [
            turn.tool_call.name.split("_")[1 if "zoom" in turn.tool_call.name else 0] if turn.tool_call else "answer"
            for turn in trajectory.turns()
        ]
        panel.set_xticks(turns, calls, fontsize=8)
        where = f"{trajectory.km:,.0f} km" if trajectory.km is not None else trajectory.end
        colour = SERIES[0] if advantage > 0 else SERIES[1]
        panel.set_title(f"{where} · R {breakdown.total:.2f} · A {advantage:+.1f}", fontsize=9, color=colour)
    for panel in panels[len(group) :]:
        panel.set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle("What each turn earned, in one group", x=0.01, ha="left", fontweight="bold")
    return figure
