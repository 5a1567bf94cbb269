"""Figures: a table or a trajectory goes in, a matplotlib figure comes out. One style, safe for colour-blind readers.

Figures are made without pyplot, so none stays open and no backend matters; each shows itself as a PNG at the end of a
notebook cell, and `figure.savefig(path)` writes it.
"""

import io
import itertools
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reverse_lib.geo import HALF_CIRCUMFERENCE_KM, THRESHOLDS_KM
from reverse_lib.show.story import narrate

INK, MUTED, GRID = "#222222", "#6b6b6b", "#e4e4e4"
# Okabe and Ito's palette, darkest first: told apart by every common kind of colour vision.
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Blue for near, red for far (after Paul Tol's "sunset"): one colour per error band, the last for beyond 2500 km.
BAND_COLOURS = ("#2f4a9c", "#4a86c5", "#86bfe0", "#f5b041", "#e8693a", "#a50026")
BAND_LABELS = ("within 1 km", "1–25 km", "25–200 km", "200–750 km", "750–2,500 km", "beyond 2,500 km")
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


class Plot(Figure):
    """A figure that any notebook front end can show, whatever the backend."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def new_figure(width: float, height: float) -> Plot:
    return Plot(figsize=(width, height), layout="constrained", facecolor="white")


def band(km: float) -> int:
    """Which error band an error in km falls into: 0 (within 1 km) to 5 (beyond 2,500 km, or unknown)."""
    return len(THRESHOLDS_KM) if np.isnan(km) else int(np.searchsorted(THRESHOLDS_KM, km))


@matplotlib.rc_context(STYLE)
def error_curve(frames: pd.DataFrame | Mapping[str, pd.DataFrame], seed: int = 0, samples: int = 500) -> Plot:
    """Share of photos within each distance, over log km, with the five thresholds and a 95 % bootstrap band.

    Args:
        frames: A table of `evaluation.evaluate`, or several by name; photos whose search service failed are left out.
        seed: Of the resampling.
        samples: Bootstrap resamples.
    """
    named = {"": frames} if isinstance(frames, pd.DataFrame) else frames
    grid_km = np.geomspace(0.3, HALF_CIRCUMFERENCE_KM, 200)
    figure = new_figure(7.2 if len(named) == 1 else 8.8, 4.2)
    axes = figure.subplots()
    for colour, (name, frame) in zip(series_colours(len(named)), named.items(), strict=True):
        served = frame[frame["end"] != "service_error"] if "end" in frame else frame
        km = np.where(served["km"].isna(), np.inf, served["km"])  # (n,)
        reached = km[:, None] <= grid_km  # (n, 200)
        picks = np.random.default_rng(seed).multinomial(len(km), np.full(len(km), 1 / len(km)), samples)
        low, high = np.percentile(picks @ reached / len(km), [2.5, 97.5], axis=0)
        axes.fill_between(grid_km, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(
            grid_km, reached.mean(axis=0), color=colour, linewidth=2.2, label=f"{name or 'photos'} (n = {len(km)})"
        )
        if len(named) == 1:
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
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    place = {"loc": "upper left", "bbox_to_anchor": (1, 1) if len(named) > 1 else (0, 1)}
    axes.legend(**place, title="95 % bootstrap band", title_fontsize=9)
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
        published: Rows of `published.published` for the benchmark that was evaluated, each drawn as a mark beside the
            bars of the distances it reports.
    """
    figure = new_figure(1.6 + max(1.5, 0.37 * len(summaries)) * len(metrics), 3.8)
    axes = figure.subplots()
    draw_groups(axes, summaries, metrics, "{:.0%}")
    axes.set(title=title, ylabel="share of photos", ylim=(0, 1.12))
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    if published is not None and len(published):
        _draw_published(axes, published, metrics)
        figure.supxlabel(f"marks: published, {'; '.join(published['source'].unique())}", fontsize=8, color=MUTED)
    entries = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda entry: entry[1] not in summaries)
    figure.legend(*zip(*entries, strict=True), loc="outside lower center", ncols=3)
    return figure


def draw_groups(axes: Axes, summaries: Mapping[str, pd.DataFrame], metrics: Sequence[str], label: str) -> None:
    """Bars with intervals: a group a metric, a colour a stage, `label` formats the number above each bar."""
    width = 0.8 / len(summaries)
    highest = max(summary.loc[list(metrics), "high"].max() for summary in summaries.values())
    for i, (colour, (name, summary)) in enumerate(zip(series_colours(len(summaries)), summaries.items(), strict=True)):
        rows = summary.loc[list(metrics)]
        x = np.arange(len(metrics)) + (i - (len(summaries) - 1) / 2) * width
        spread = np.maximum(0, [rows["value"] - rows["low"], rows["high"] - rows["value"]])
        axes.bar(x, rows["value"], width * 0.92, color=colour, label=name)
        axes.errorbar(x, rows["value"], yerr=spread, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)
        size = 8 if len(summaries) > 3 else 8.5
        for at, row in zip(x, rows.itertuples(), strict=True):
            if np.isfinite(row.value):
                place = (at, row.high + 0.015 * highest)
                axes.text(*place, label.format(row.value), ha="center", va="bottom", fontsize=size, color=INK)
    axes.set_xticks(range(len(metrics)), [in_plain_words(name) for name in metrics])
    axes.grid(axis="x", visible=False)


def _draw_published(axes: Axes, published: pd.DataFrame, metrics: Sequence[str]) -> None:
    """A hollow mark a system, right of the bars of each metric it reports."""
    for marker, (system, row) in zip(itertools.cycle("DosP^vX*"), published.iterrows(), strict=False):
        at = [(i + 0.46, row[name]) for i, name in enumerate(metrics) if name in row and np.isfinite(row[name])]
        x, y = zip(*at, strict=True) if at else ((), ())
        axes.plot(x, y, marker, markerfacecolor="white", markeredgecolor=INK, markersize=6.5, label=system)


def funnel(counts: Mapping[str, int], title: str = "What the filters keep") -> Plot:
    """An ordered funnel of counts, each bar labelled with its number and its share of the first.

    Args:
        counts: Ordered, the largest first, as `trajectory.filter_trajectories` returns it.
        title: Above the bars.
    """
    first = max(1, next(iter(counts.values()), 1))
    return bar_list(counts, title, [f"{count:,}  ({count / first:.0%})" for count in counts.values()], fade=0.6)


@matplotlib.rc_context(STYLE)
def bar_list(values: Mapping[str, float], title: str, labels: Sequence[str] = (), fade: float = 0.0) -> Plot:
    """Numbers by name as horizontal bars, from the top, each with its value written behind it.

    Args:
        values: None below 0.
        title: Above the bars.
        labels: What to write instead of the values.
        fade: How much paler the last bar is than the first, 0..1.
    """
    figure = new_figure(6.4, 0.55 * len(values) + 0.9)
    axes = figure.subplots()
    longest = max(values.values(), default=0) or 1
    labels = labels or [f"{value:,}" for value in values.values()]
    for y, (value, label) in enumerate(zip(values.values(), labels, strict=True)):
        axes.barh(y, value, color=SERIES[0], alpha=1 - fade * y / max(1, len(values)), height=0.72)
        axes.text(value + longest * 0.012, y, label, va="center", color=INK)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.set_xlim(0, longest * 1.22)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    axes.xaxis.set_visible(False)
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    return figure


@matplotlib.rc_context(STYLE)
def photo_with_boxes(
    image, marks: Sequence = (), regions: Sequence = (), boxes: Sequence = (), title: str = ""
) -> Plot:
    """A photo with what is known about it: marks of the world, annotated regions, the agent's own boxes.

    Args:
        image: PIL image.
        marks: `world.Mark`s; informative ones are drawn solid, decoys dashed, each with kind and text.
        regions: Annotated informative regions, bbox_2d each.
        boxes: The agent's boxes, bbox_2d each, numbered in order.
        title: Above the photo.
    """
    figure = new_figure(6.4, 6.4 * image.height / image.width + 0.3)
    axes = figure.subplots()
    show_image(axes, image, title)
    for mark in marks:
        label = f"{mark.kind}: {mark.text}" if mark.text else mark.kind
        _box(
            axes, image, mark.bbox_2d, SERIES[2] if mark.informative else SERIES[1], label, dashed=not mark.informative
        )
    for region in regions:
        _box(axes, image, region, SERIES[2], "informative")
    for number, box in enumerate(boxes, start=1):
        _box(axes, image, box, SERIES[0], str(number), below=True)
    return figure


@matplotlib.rc_context(STYLE)
def trajectory_figure(trajectory, photo, in_words=str) -> Plot:
    """What an agent did, to read: the photo with every box it used, numbered by turn, beside the turns as sentences.

    Args:
        trajectory: A `Trajectory`.
        photo: Its `Photo`, or the PIL image itself.
        in_words: Turns an agent's shorthand into words (`teacher.in_words` for the tiny agent).
    """
    image = photo.load() if hasattr(photo, "source") else photo
    lines = [piece for line in narrate(trajectory, in_words) for piece in _wrap(line)]
    figure = new_figure(12, max(5.2, 0.21 * len(lines) + 1.3))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.05))
    show_image(left, image, _verdict(trajectory))
    for region in trajectory.regions:
        _box(left, image, region, SERIES[2], "informative region", dashed=True, below=True)
    for number, (turn, step) in enumerate(zip(trajectory.turns(), trajectory.steps, strict=True), start=1):
        if turn.tool_call is not None and _is_box(turn.tool_call.arguments.get("bbox_2d")):
            failed = step.observation is not None and step.observation.status.endswith("_error")
            _box(left, image, turn.tool_call.arguments["bbox_2d"], SERIES[1] if failed else SERIES[0], f"turn {number}")
    right.axis("off")
    right.set_title("Turn by turn")
    for row, line in enumerate(lines):
        bold = "bold" if line[:1].isdigit() or line.startswith("   answers") else "normal"
        right.text(0, 1 - row / max(len(lines), 22), line, va="top", fontsize=9.5, color=INK, fontweight=bold)
    right.set(xlim=(0, 1), ylim=(0, 1))
    return figure


def _verdict(trajectory) -> str:
    if trajectory.answer is None:
        return f"No answer ({trajectory.end or 'unfinished'})"
    if trajectory.km is None:
        return f"Answer: {trajectory.answer.text()}"
    return f"{trajectory.answer.text()}\n{trajectory.km:,.0f} km from {trajectory.place}"


def _wrap(line: str, width: int = 74) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()) + 3)
    return textwrap.wrap(line, width, subsequent_indent=indent, drop_whitespace=True) or [""]


def _is_box(value) -> bool:
    numbers = isinstance(value, list) and len(value) == 4 and all(isinstance(v, int | float) for v in value)
    return numbers and bool(np.isfinite(value).all())


def show_image(axes: Axes, image, title: str) -> None:
    axes.imshow(np.asarray(image))
    axes.set_title(title)
    axes.axis("off")


def _box(axes: Axes, image, bbox_2d, colour: str, label: str, dashed: bool = False, below: bool = False) -> None:
    """One labelled rectangle; bbox_2d is [x1, y1, x2, y2] in 0..1000 of the image."""
    x1, y1, x2, y2 = np.array(bbox_2d, float) / 1000 * [image.width, image.height, image.width, image.height]
    style = (0, (3, 2)) if dashed else "solid"
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="white", linewidth=4, alpha=0.8))
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=2, linestyle=style))
    tag = {"facecolor": colour, "edgecolor": "none", "boxstyle": "round,pad=0.18"}
    at = (x1, y2) if below else (x1, y1)
    offset, side = ((0, -3), "top") if below else ((0, 3), "bottom")
    words = {"va": side, "fontsize": 8.5, "color": "white", "bbox": tag}
    text = axes.annotate(label, at, xytext=offset, textcoords="offset points", **words)
    text.set_in_layout(False)


def series_colours(n: int) -> list[str]:
    return [SERIES[i % len(SERIES)] for i in range(n)]


def in_plain_words(name: str) -> str:
    words = name.replace("within_", "≤ ").replace("km", " km").replace("_", " ").replace("/", " ").strip()
    return words.replace("iou", "IoU").replace("mcc", "MCC")
