"""Figures of an evaluation report: tool use, whether a radius keeps its promise, when to abstain, why answers fail.

Like `plots`, whose style they share, each is a function from tables to a figure and computes nothing but positions.
"""

from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.ticker import PercentFormatter

from reverse_lib.evaluation import CAUSES
from reverse_lib.show.plots import GRID, INK, MUTED, STYLE, Plot, draw_groups, new_figure, series_colours

_TOOLS = ("calls_zoom", "calls_image", "calls_text")
_MARKERS = "osD^vP"


@matplotlib.rc_context(STYLE)
def tool_use(summaries: Mapping[str, pd.DataFrame], title: str = "Tool calls a photo") -> Plot:
    """Calls of each tool by stage, with 95 % intervals.

    Args:
        summaries: Tables of `evaluation.summarize` by stage name.
        title: Above the axes.
    """
    figure = new_figure(1.6 + max(1.6, 0.42 * len(summaries)) * len(_TOOLS), 3.6)
    axes = figure.subplots()
    draw_groups(axes, summaries, _TOOLS, "{:.2f}")
    axes.set_xticks(range(len(_TOOLS)), ["zoom", "image search", "text search"])
    axes.set(title=title, ylabel="calls a photo")
    axes.margins(y=0.12)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@matplotlib.rc_context(STYLE)
def reliability(
    coverages: pd.DataFrame | Mapping[str, pd.DataFrame], title: str = "Does the radius keep its promise?"
) -> Plot:
    """The share of truths inside the radius against the share it promises; on the diagonal it keeps its word.

    Args:
        coverages: A table of `uncertainty.coverage`, at several levels, or several tables by name.
        title: Above the axes.
    """
    named = {"observed": coverages} if isinstance(coverages, pd.DataFrame) else coverages
    figure = new_figure(5.2, 4.8)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="as promised")
    smallest = min(named.values(), key=lambda table: table["n"].max())
    spread = (smallest.index.to_numpy(float), smallest["expected_low"], smallest["expected_high"])
    axes.fill_between(*spread, color=GRID, zorder=0, linewidth=0, label="as promised, but for chance (95 %)")
    for i, (colour, (name, table)) in enumerate(zip(series_colours(len(named)), named.items(), strict=True)):
        x = table.index.to_numpy(float) + 0.006 * (i - (len(named) - 1) / 2)
        spread = np.maximum(0, [table["value"] - table["low"], table["high"] - table["value"]])
        style = {"fmt": f"{_MARKERS[i % len(_MARKERS)]}-", "linewidth": 1.2, "markersize": 5, "capsize": 2.5}
        axes.errorbar(x, table["value"], yerr=spread, color=colour, label=f"{name} (n = {table['n'].max()})", **style)
    axes.text(0.98, 0.06, "below the line: too narrow", ha="right", fontsize=9, color=MUTED)
    axes.text(0.02, 0.94, "above the line: too wide", fontsize=9, color=MUTED)
    axes.set(title=title, xlabel="promised share of truths in the radius", ylabel="observed share (95 % interval)")
    axes.set(xlim=(0, 1.01), ylim=(0, 1.01), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@matplotlib.rc_context(STYLE)
def risk_coverage_figure(
    curves: pd.DataFrame | Mapping[str, pd.DataFrame], title: str = "How often wrong, if only the surest are answered?"
) -> Plot:
    """Share of wrong answers against share of photos answered, the surest first, with a 95 % band.

    Args:
        curves: A table of `uncertainty.risk_coverage`, or several by name.
        title: Above the axes.
    """
    named = {"": curves} if isinstance(curves, pd.DataFrame) else curves
    figure = new_figure(7.2, 4.2)
    axes = figure.subplots()
    for colour, (name, curve) in zip(series_colours(len(named)), named.items(), strict=True):
        area = curve.attrs["aurc"]
        label = f"{name}{', ' if name else ''}area {area['value']:.2f} ({area['low']:.2f}–{area['high']:.2f})"
        axes.fill_between(curve["coverage"], curve["low"], curve["high"], color=colour, alpha=0.18, linewidth=0)
        axes.plot(curve["coverage"], curve["risk"], color=colour, linewidth=2.2, label=label)
        axes.axhline(area["random"], color=colour, linewidth=1, linestyle=(0, (2, 3)))
        axes.annotate("in random order", (0.01, area["random"]), (0, 3), textcoords="offset points", color=colour)
    axes.set(title=title, xlabel="share of photos answered, the surest first", ylabel="share of them that is wrong")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@matplotlib.rc_context(STYLE)
def failure_causes(counts: pd.DataFrame, title: str = "Why answers are wrong") -> Plot:
    """The share of photos with each cause of failure, stages side by side, with 95 % intervals.

    Args:
        counts: The table of `evaluation.count_causes`. Causes that no photo has, and successes, are left out.
        title: Above the axes.
    """
    stages = counts.index.unique("stage")
    seen = counts.groupby("cause")["count"].sum()
    causes = [name for name in CAUSES if name != "none" and seen.get(name, 0)]
    figure = new_figure(7.6, 1.5 + max(0.42, 0.17 * len(stages)) * max(1, len(causes)))
    axes = figure.subplots()
    step = 0.7 / len(stages)
    for i, (colour, stage) in enumerate(zip(series_colours(len(stages)), stages, strict=True)):
        rows = counts.loc[stage].loc[causes]
        y = np.arange(len(causes)) + (i - (len(stages) - 1) / 2) * step
        spread = np.maximum(0, [rows["value"] - rows["low"], rows["high"] - rows["value"]])
        style = {
            "fmt": _MARKERS[i % len(_MARKERS)],
            "markersize": 5.5,
            "elinewidth": 1.4,
            "capsize": 2,
            "clip_on": False,
        }
        label = f"{stage} (n = {counts.loc[stage, 'n'].max()})"
        axes.errorbar(rows["value"], y, xerr=spread, color=colour, label=label, **style)
    for line in np.arange(len(causes) - 1) + 0.5:
        axes.axhline(line, color=MUTED, linewidth=0.5)
    axes.set_yticks(range(len(causes)), [CAUSES[name] for name in causes])
    axes.set(title=title, xlabel="share of photos (95 % interval)", ylim=(max(1, len(causes)) - 0.5, -0.5))
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
