"""Figures: a table goes in, a matplotlib figure comes out. One style, safe for colour-blind readers.

Figures are made without pyplot, so none stays open and no backend matters; each shows itself as a PNG at the end of a
notebook cell, and `figure.savefig(path)` writes it. They compute nothing but positions.
"""

import io
import itertools
import time
from collections.abc import Collection, Iterator, Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from reverse_lib.evaluation import CAUSES
from reverse_lib.geo import HALF_CIRCUMFERENCE_KM, THRESHOLDS_KM
from reverse_lib.show.style import GRID, INK, MUTED, PLAIN, SERIES, WRONG

STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "text.parse_math": False,
}
MARKERS = "osD^vP"
TOOL_METRICS = {"calls_zoom": "zoom", "calls_image": "image search", "calls_text": "text search"}
Tables = pd.DataFrame | Mapping[str, pd.DataFrame]


class Plot(Figure):
    """A figure of so many inches that any notebook front end can show; its title stands at the left."""

    def __init__(self, width: float, height: float, title: str = ""):
        super().__init__(figsize=(width, height), layout="constrained", facecolor="white")
        if title:
            self.suptitle(title, x=0.01, ha="left", fontweight="bold")

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()

    def legend_below(self, columns: int = 3, first: Collection[str] = ()) -> None:
        """One legend of all that the axes name, under them; what is called as in `first` comes first."""
        entries = zip(*self.axes[0].get_legend_handles_labels(), strict=True)
        ordered = zip(*sorted(entries, key=lambda entry: entry[1] not in first), strict=True)
        self.legend(*ordered, loc="outside lower center", ncols=columns)


@matplotlib.rc_context(STYLE)
def error_curve(frames: Tables, samples: int = 500) -> Plot:
    """Share of photos within each distance, over log km, with the five thresholds and a 95 % bootstrap band.

    Args:
        frames: A table of `evaluation.evaluate`, or several by name; photos whose search service failed are left out.
        samples: Bootstrap resamples.
    """
    grid_km = np.geomspace(0.3, HALF_CIRCUMFERENCE_KM, 200)
    alone = isinstance(frames, pd.DataFrame) or len(frames) == 1
    figure = Plot(7.2 if alone else 8.8, 4.2)
    axes = figure.subplots()
    for colour, _, name, frame in _series(frames, "photos"):
        served = frame[frame["end"] != "service_error"] if "end" in frame else frame
        km = np.where(served["km"].isna(), np.inf, served["km"])  # (n,)
        reached = km[:, None] <= grid_km  # (n, 200)
        picks = np.random.default_rng(0).multinomial(len(km), np.full(len(km), 1 / len(km)), samples)
        spread = np.percentile(picks @ reached / len(km), [2.5, 97.5], axis=0)
        _curve(axes, grid_km, reached.mean(axis=0), *spread, colour, f"{name} (n = {len(km)})")
        if alone:
            for limit in THRESHOLDS_KM:
                share = (km <= limit).mean()
                axes.annotate(f"{share:.0%}", (limit, share), xytext=(-4, 5), textcoords="offset points", ha="right")
                axes.plot(limit, share, "o", color=colour, markersize=5)
    for limit in THRESHOLDS_KM:
        axes.axvline(limit, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
    axes.set(xscale="log", xlim=(0.3, HALF_CIRCUMFERENCE_KM), ylim=(0, 1.06), xlabel="error, km (log scale)")
    axes.set(title="How far off are the answers?", ylabel="share of photos within that error")
    axes.set_xticks(THRESHOLDS_KM, [f"{limit:,}" for limit in THRESHOLDS_KM])
    axes.minorticks_off()
    _percent(axes.yaxis)
    axes.legend(loc="upper left", bbox_to_anchor=(0 if alone else 1, 1), title="95 % bootstrap band", title_fontsize=9)
    return figure


@matplotlib.rc_context(STYLE)
def risk_coverage_figure(curves: Tables) -> Plot:
    """Share of wrong answers against share of photos answered, the surest first, with a 95 % band.

    Args:
        curves: A table of `evaluation.risk_coverage`, or several by name.
    """
    figure = Plot(7.2, 4.2)
    axes = figure.subplots()
    for colour, _, name, curve in _series(curves, ""):
        area = curve.attrs["aurc"]
        label = f"{name}{', ' if name else ''}area {area['value']:.2f} ({area['low']:.2f}–{area['high']:.2f})"
        _curve(axes, curve["coverage"], curve["risk"], curve["low"], curve["high"], colour, label)
        axes.axhline(area["random"], color=colour, linewidth=1, linestyle=(0, (2, 3)))
        axes.annotate("in random order", (0.01, area["random"]), (0, 3), textcoords="offset points", color=colour)
    axes.set(title="How often wrong, if only the surest are answered?", xlim=(0, 1), ylim=(0, 1.02))
    axes.set(xlabel="share of photos answered, the surest first", ylabel="share of them that is wrong")
    _percent(axes.xaxis, axes.yaxis)
    figure.legend_below(2)
    return figure


@matplotlib.rc_context(STYLE)
def reliability(coverages: Tables) -> Plot:
    """The share of truths inside the radius against the share it promises; on the diagonal it keeps its word.

    Args:
        coverages: A table of `evaluation.coverage`, at several levels, or several tables by name.
    """
    series = list(_series(coverages, "observed"))
    figure = Plot(5.2, 4.8)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="as promised")
    widest = min((table for *_, table in series), key=lambda table: table["n"].max())
    chance = (widest.index.to_numpy(float), widest["expected_low"], widest["expected_high"])
    axes.fill_between(*chance, color=GRID, zorder=0, linewidth=0, label="as promised, but for chance (95 %)")
    for i, (colour, marker, name, table) in enumerate(series):
        x = table.index.to_numpy(float) + 0.006 * (i - (len(series) - 1) / 2)
        style = {"fmt": f"{marker}-", "linewidth": 1.2, "markersize": 5, "capsize": 2.5, "color": colour}
        axes.errorbar(x, table["value"], yerr=_spread(table), label=f"{name} (n = {table['n'].max()})", **style)
    axes.text(0.98, 0.06, "below the line: too narrow", ha="right", fontsize=9, color=MUTED)
    axes.text(0.02, 0.94, "above the line: too wide", fontsize=9, color=MUTED)
    axes.set(title="Does the radius keep its promise?", xlim=(0, 1.01), ylim=(0, 1.01), aspect="equal")
    axes.set(xlabel="promised share of truths in the radius", ylabel="observed share (95 % interval)")
    _percent(axes.xaxis, axes.yaxis)
    figure.legend_below(2)
    return figure


@matplotlib.rc_context(STYLE)
def bars(
    summaries: Mapping[str, pd.DataFrame],
    metrics: Sequence[str] = ("within_25km", "within_200km", "within_750km", "country"),
    title: str = "Accuracy by stage",
    published: pd.DataFrame | None = None,
) -> Plot:
    """Metrics side by side for each stage, with 95 % intervals, beside published figures where they apply.

    Args:
        summaries: Tables of `evaluation.summarize` by stage name.
        metrics: Rows of these tables, all shares in 0..1.
        title: Above the axes.
        published: Rows of `evaluation.published` for the benchmark that was evaluated, each drawn as a hollow mark
            right of the bars of the distances it reports.
    """
    figure = Plot(1.6 + max(1.5, 0.37 * len(summaries)) * len(metrics), 3.8)
    axes = _grouped_bars(figure, summaries, metrics, "{:.0%}")
    axes.set(title=title, ylabel="share of photos", ylim=(0, 1.12))
    _percent(axes.yaxis)
    if published is not None and len(published):
        for (system, row), marker in zip(published.iterrows(), itertools.cycle("DosP^vX*"), strict=False):
            y = row.reindex(metrics).astype(float).dropna()
            x = [list(metrics).index(metric) + 0.46 for metric in y.index]
            style = {"markerfacecolor": "white", "markeredgecolor": INK, "markersize": 6.5, "linestyle": "none"}
            axes.plot(x, y, marker=marker, label=system, **style)
        figure.supxlabel(f"marks: published, {'; '.join(published['source'].unique())}", fontsize=8, color=MUTED)
    figure.legend_below(first=summaries)
    return figure


@matplotlib.rc_context(STYLE)
def tool_use(summaries: Mapping[str, pd.DataFrame]) -> Plot:
    """Calls of each tool by stage, with 95 % intervals; of tables of `evaluation.summarize` by stage name."""
    figure = Plot(1.6 + max(1.6, 0.42 * len(summaries)) * len(TOOL_METRICS), 3.6)
    axes = _grouped_bars(figure, summaries, list(TOOL_METRICS), "{:.2f}")
    axes.set_xticks(range(len(TOOL_METRICS)), list(TOOL_METRICS.values()))
    axes.set(title="Tool calls a photo", ylabel="calls a photo")
    axes.margins(y=0.12)
    figure.legend_below()
    return figure


def _grouped_bars(figure: Plot, summaries: Mapping[str, pd.DataFrame], metrics: Sequence[str], label: str) -> Axes:
    """Bars with intervals: a group a metric, a colour a stage, `label` formats the number above each bar."""
    axes = figure.subplots()
    width = 0.8 / len(summaries)
    highest = max(summary.loc[list(metrics), "high"].max() for summary in summaries.values())
    size = 8 if len(summaries) > 3 else 8.5
    for i, (colour, _, name, summary) in enumerate(_series(summaries)):
        rows = summary.loc[list(metrics)]
        x = np.arange(len(metrics)) + (i - (len(summaries) - 1) / 2) * width
        axes.bar(x, rows["value"], width * 0.92, color=colour, label=name)
        axes.errorbar(x, rows["value"], yerr=_spread(rows), fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)
        for at, row in zip(x, rows.itertuples(), strict=True):
            if np.isfinite(row.value):
                place = (at, row.high + 0.015 * highest)
                axes.text(*place, label.format(row.value), ha="center", va="bottom", fontsize=size, color=INK)
    axes.set_xticks(range(len(metrics)), [in_plain_words(name) for name in metrics])
    axes.grid(axis="x", visible=False)
    return axes


@matplotlib.rc_context(STYLE)
def failure_causes(counts: pd.DataFrame) -> Plot:
    """The share of photos with each cause of failure, stages side by side, with 95 % intervals.

    Args:
        counts: The table of `evaluation.count_causes`. Causes that no photo has, and successes, are left out.
    """
    stages = {stage: counts.loc[stage] for stage in counts.index.unique("stage")}
    photos = counts.groupby("cause")["count"].sum()
    causes = [name for name in CAUSES if name != "none" and photos.get(name, 0)]
    figure = Plot(7.6, 1.5 + max(0.42, 0.17 * len(stages)) * max(1, len(causes)))
    axes = figure.subplots()
    for i, (colour, marker, stage, table) in enumerate(_series(stages)):
        rows = table.loc[causes]
        y = np.arange(len(causes)) + (i - (len(stages) - 1) / 2) * 0.7 / len(stages)
        style = {"markersize": 5.5, "elinewidth": 1.4, "capsize": 2, "clip_on": False, "color": colour}
        label = f"{stage} (n = {table['n'].max()})"
        axes.errorbar(rows["value"], y, xerr=_spread(rows), fmt=marker, label=label, **style)
    for line in np.arange(len(causes) - 1) + 0.5:
        axes.axhline(line, color=MUTED, linewidth=0.5)
    axes.set_yticks(range(len(causes)), [CAUSES[name] for name in causes])
    axes.set(
        title="Why answers are wrong", xlabel="share of photos (95 % interval)", ylim=(max(1, len(causes)) - 0.5, -0.5)
    )
    axes.set_xlim(left=0)
    _percent(axes.xaxis)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    figure.legend_below()
    return figure


@matplotlib.rc_context(STYLE)
def effects_figure(effects: pd.DataFrame, metrics: Sequence[str]) -> Plot:
    """One panel a metric: how much each variant differs from the full method, with 95 % intervals.

    Args:
        effects: The table of `evaluation.effects`, index (variant, metric), columns value, low, high, shown.
        metrics: Which ones, a panel each.
    """
    variants = list(dict.fromkeys(effects.index.get_level_values("variant")))
    size = 2.2 + 2.6 * len(metrics), 1.2 + 0.34 * len(variants)
    figure = Plot(*size, "What each variant changes against the full method")
    places = np.arange(len(variants))
    for panel, metric in zip(figure.subplots(1, len(metrics), sharey=True, squeeze=False).flat, metrics, strict=True):
        rows = effects.xs(metric, level="metric").loc[variants]
        colours = np.where(~rows["shown"].astype(bool), MUTED, np.where(rows["value"] > 0, PLAIN, WRONG))
        panel.axvline(0, color=INK, linewidth=1)
        panel.hlines(places, rows["low"], rows["high"], colours, linewidth=2)
        panel.scatter(rows["value"], places, c=colours, s=28, zorder=3)
        panel.set(title=in_plain_words(metric), xlabel="less ← full method → more")
        panel.set_yticks(places, variants)
    panel.invert_yaxis()
    return figure


def funnel(counts: Mapping[str, int]) -> Plot:
    """What `trajectory.filter_trajectories` keeps, the largest first: each number with its share of the first."""
    first = max(1, next(iter(counts.values()), 1))
    labels = [f"{count:,}  ({count / first:.0%})" for count in counts.values()]
    return bar_list(counts, "What the filters keep", labels, fade=0.6)


@matplotlib.rc_context(STYLE)
def bar_list(values: Mapping[str, float], title: str, labels: Sequence[str] = (), fade: float = 0.0) -> Plot:
    """Numbers by name as horizontal bars, from the top, each with its value written behind it.

    Args:
        values: None below 0.
        title: Above the bars.
        labels: What to write instead of the values.
        fade: How much paler the last bar is than the first, 0..1.
    """
    figure = Plot(6.4, 0.55 * len(values) + 0.9, title)
    axes = figure.subplots()
    longest = max(values.values(), default=0) or 1
    labels = labels or [f"{value:,}" for value in values.values()]
    for y, (value, label) in enumerate(zip(values.values(), labels, strict=True)):
        axes.barh(y, value, color=PLAIN, alpha=1 - fade * y / max(1, len(values)), height=0.72)
        axes.text(value + longest * 0.012, y, label, va="center", color=INK)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.set_xlim(0, longest * 1.22)
    axes.xaxis.set_visible(False)
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    return figure


@matplotlib.rc_context(STYLE)
def training_curves(logs: Sequence[dict], keys: Sequence[str], title: str = "Training") -> Plot:
    """One small panel a key over training: raw values pale, a running mean on top.

    Args:
        logs: Rows as a trainer logs them; one without "step" counts as its number, one without a key is skipped there.
        keys: Numbers to draw, for example ("loss", "reward", "kl").
        title: Above the panels.
    """
    columns, rows = min(3, len(keys)), -(-len(keys) // 3)
    figure = Plot(3.4 * columns, 2.5 * rows + 0.3, title)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for key, colour, panel in zip(keys, itertools.cycle(SERIES), panels, strict=False):
        points = [(row.get("step", i), row[key]) for i, row in enumerate(logs, start=1) if row.get(key) is not None]
        panel.set(title=in_plain_words(key), xlabel="step")
        if not points:
            panel.text(0.5, 0.5, "nothing logged", transform=panel.transAxes, ha="center", color=MUTED)
            continue
        steps, values = np.array(points, float).T
        smooth = pd.Series(values).rolling(max(1, len(values) // 10), min_periods=1).mean()
        panel.plot(steps, values, color=colour, alpha=0.35, linewidth=1, marker="." if len(values) < 40 else None)
        panel.plot(steps, smooth, color=colour, linewidth=2)
    for panel in panels[len(keys) :]:
        panel.set_visible(False)
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
        step, spent_s = self.rows[-1].get("step", len(self.rows)), time.monotonic() - self.started_s
        left = f", about {spent_s / step * (self.total - step):.0f} s left" if step and step < self.total else ""
        title = f"{self.title}: step {step}, {spent_s:.0f} s{left}"
        self.handle.update(training_curves(self.rows, self.keys, title))


def _series(tables: Tables, name: str = "") -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """(colour, marker, name, table) of each table; a single one goes by `name`."""
    named = {name: tables} if isinstance(tables, pd.DataFrame) else tables
    for i, (key, table) in enumerate(named.items()):
        yield SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)], key or name, table


def _curve(axes: Axes, x: ArrayLike, y: ArrayLike, low: ArrayLike, high: ArrayLike, colour: str, label: str) -> None:
    """A line with a band around it."""
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, y, color=colour, linewidth=2.2, label=label)


def _spread(rows: pd.DataFrame) -> np.ndarray:
    """How far intervals reach below and above their values, (2, n)."""
    return np.maximum(0, [rows["value"] - rows["low"], rows["high"] - rows["value"]])


def _percent(*axes: Axis) -> None:
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1))


def in_plain_words(name: str) -> str:
    words = name.replace("within_", "≤ ").replace("km", " km").replace("_", " ").replace("/", " ").strip()
    return words.replace("iou", "IoU").replace("mcc", "MCC")
