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
from matplotlib.patches import Rectangle

from reverse_lib.show.plots import (
    GRID,
    INK,
    MUTED,
    SERIES,
    STYLE,
    Plot,
    in_plain_words,
    new_figure,
    series_colours,
    show_image,
)
from reverse_lib.trajectory import TOOLS


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
def group_figure(group: Sequence, rewards: Sequence[Sequence[float]], advantages: Sequence[Sequence[float]]) -> Plot:
    """A group of rollouts as rows, their turns as cells: what each turn did and earned, and how it will be pushed.

    Args:
        group: Trajectories on one photo.
        rewards: What each turn of each rollout earned (`credit.turn_rewards`).
        advantages: Of each turn (`credit.turn_advantages`); blue turns become more likely, orange ones less.
    """
    longest = max(1, *(len(one) for one in rewards))
    figure = new_figure(2.6 + 1.35 * longest, 0.9 + 0.62 * len(group))
    axes = figure.subplots()
    colours = matplotlib.colors.LinearSegmentedColormap.from_list("pushed", (SERIES[1], "white", SERIES[0]))
    shade = matplotlib.colors.Normalize(-2, 2, clip=True)
    for row, (trajectory, earned, pushed) in enumerate(zip(group, rewards, advantages, strict=True)):
        for k, (turn, reward, advantage) in enumerate(zip(trajectory.turns(), earned, pushed, strict=True)):
            face = colours(shade(advantage))
            axes.add_patch(Rectangle((k + 0.03, row + 0.06), 0.94, 0.88, facecolor=face, edgecolor=GRID))
            ink = "white" if abs(advantage) > 1.4 else INK
            words = f"{_what(turn)}\nr {reward:+.2f}   A {advantage:+.1f}"
            axes.text(k + 0.5, row + 0.5, words, ha="center", va="center", fontsize=8, color=ink)
        end = f"{trajectory.km:,.0f} km" if trajectory.km is not None else f"no answer ({trajectory.end})"
        axes.text(-0.08, row + 0.5, f"{end}\nR {sum(earned):.2f}", ha="right", va="center", fontsize=8.5, color=INK)
    axes.set(xlim=(0, longest), ylim=(len(group), 0), yticks=[])
    axes.set_xticks(np.arange(longest) + 0.5, [f"turn {k + 1}" for k in range(longest)])
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    figure.suptitle("Reward r and advantage A of each turn", x=0.01, ha="left", fontweight="bold")
    return figure


def _what(turn) -> str:
    """What a turn did, in a word or two."""
    if turn.tool_call is not None:
        return {TOOLS[0]: "zoom", TOOLS[1]: "image search", TOOLS[2]: "text search"}[turn.tool_call.name]
    return "answer" if turn.answer is not None else "unreadable"


@matplotlib.rc_context(STYLE)
def effects_figure(effects: pd.DataFrame, metrics: Sequence[str], baseline: str = "full method") -> Plot:
    """One panel a metric: how much each variant differs from the baseline, with 95 % intervals.

    Args:
        effects: The table of `ablations.effects`, index (variant, metric), columns value, low, high, shown.
        metrics: Which ones, a panel each.
        baseline: What the line at 0 stands for.
    """
    variants = list(dict.fromkeys(effects.index.get_level_values("variant")))
    figure = new_figure(2.2 + 2.6 * len(metrics), 1.2 + 0.34 * len(variants))
    places = np.arange(len(variants))
    for panel, metric in zip(figure.subplots(1, len(metrics), sharey=True, squeeze=False).flat, metrics, strict=True):
        rows = effects.xs(metric, level="metric").loc[variants]
        colours = np.where(~rows["shown"].astype(bool), MUTED, np.where(rows["value"] > 0, SERIES[0], SERIES[1]))
        panel.axvline(0, color=INK, linewidth=1)
        panel.hlines(places, rows["low"], rows["high"], colours, linewidth=2)
        panel.scatter(rows["value"], places, c=colours, s=28, zorder=3)
        panel.set(title=in_plain_words(metric), xlabel=f"less ← {baseline} → more")
        panel.set_yticks(places, variants)
    panel.invert_yaxis()
    figure.suptitle(f"What each variant changes against the {baseline}", x=0.01, ha="left", fontweight="bold")
    return figure
