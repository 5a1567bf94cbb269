"""Figures made of pictures: photos with boxes, contact sheets, and what an agent saw and did, turn by turn."""

import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from reverse_lib.environment import Interface, observation_content, show_photo
from reverse_lib.photos import Photo
from reverse_lib.show.figures import STYLE, Plot
from reverse_lib.show.story import narrate
from reverse_lib.show.style import GRID, INK, PLAIN, RIGHT, WRONG, box_of
from reverse_lib.trajectory import TOOLS, Trajectory, Turn

TURN_NAMES = dict(zip(TOOLS, ("zoom", "image search", "text search"), strict=True))


@matplotlib.rc_context(STYLE)
def photo_with_boxes(
    image: Image.Image, marks: Sequence = (), regions: Sequence = (), boxes: Sequence = (), title: str = ""
) -> Plot:
    """A photo with what is known about it: marks of the world, annotated regions, the agent's own boxes.

    Args:
        image: The photo.
        marks: `world.Mark`s; informative ones are drawn solid, decoys dashed, each with kind and text.
        regions: Annotated informative regions, bbox_2d each.
        boxes: The agent's boxes, bbox_2d each, numbered in order.
        title: Above the photo.
    """
    figure = Plot(6.4, 6.4 * image.height / image.width + 0.3)
    axes = figure.subplots()
    _show_image(axes, image, title)
    for mark in marks:
        label = f"{mark.kind}: {mark.text}" if mark.text else mark.kind
        _box(axes, image, mark.bbox_2d, RIGHT if mark.informative else WRONG, label, dashed=not mark.informative)
    for region in regions:
        _box(axes, image, region, RIGHT, "informative")
    for number, box in enumerate(boxes, start=1):
        _box(axes, image, box, PLAIN, str(number), below=True)
    return figure


@matplotlib.rc_context(STYLE)
def contact_sheet(
    images: Sequence[Image.Image],
    titles: Sequence[str] = (),
    boxes: Sequence[Sequence] = (),
    columns: int = 4,
    width_in: float = 12.0,
    decoys: Sequence[Sequence] = (),
) -> Plot:
    """Pictures in rows, each with a title and boxes of its own.

    Args:
        images: At least one.
        titles: One each, or none at all.
        boxes: For each picture the boxes to draw, bbox_2d each; or none at all.
        columns: Pictures in a row.
        width_in: Width of a full row in inches; heights follow from the pictures.
        decoys: For each picture the boxes of what misleads, drawn in another colour, with a legend; or none at all.
    """
    width_in *= min(columns, len(images)) / columns
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    tallest = max(image.height / image.width for image in images)
    height_in = rows * (width_in / columns * tallest + (0.3 if len(titles) else 0.05)) + (0.35 if len(decoys) else 0)
    figure = Plot(width_in, height_in)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[len(images) :]:
        panel.axis("off")
    for number, (panel, image) in enumerate(zip(panels, images, strict=False)):
        _show_image(panel, image, titles[number] if len(titles) else "", fontsize=9, fontweight="normal")
        for given, colour in ((boxes, RIGHT), (decoys, WRONG)):
            for bbox_2d in given[number] if len(given) else ():
                _box(panel, image, bbox_2d, colour)
    if len(decoys):
        names = {RIGHT: "tells the place", WRONG: "decoy"}
        handles = [Rectangle((0, 0), 1, 1, fill=False, edgecolor=key, linewidth=2, label=names[key]) for key in names]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def seen_pictures(
    trajectory: Trajectory, image: Image.Image, interface: Interface
) -> tuple[list[Image.Image], list[str]]:
    """Every picture that the agent was given in a rollout, at the size it was given, and a title for each.

    Args:
        trajectory: Rolled out under `interface`.
        image: The original photo.
        interface: How the world was shown.

    Returns:
        The photo first, then each zoom, in order; and as many titles.
    """
    pictures, titles = [show_photo(image, interface)], ["the photo"]
    for number, step in enumerate(trajectory.steps, start=1):
        for block in observation_content(step.observation, image, interface) if step.observation else ():
            if block["type"] == "image":
                pictures.append(block["image"])
                titles.append(f"the zoom of turn {number}")
    sizes = [f"{picture.width}×{picture.height} px" for picture in pictures]
    return pictures, [f"{title}, {size}" for title, size in zip(titles, sizes, strict=True)]


@matplotlib.rc_context(STYLE)
def trajectory_figure(trajectory: Trajectory, photo: Photo, in_words=str) -> Plot:
    """What an agent did, to read: the photo with every box it used, numbered by turn, beside the turns as sentences.

    Args:
        trajectory: Any.
        photo: Its photo.
        in_words: Turns an agent's shorthand into words (`world.in_words` for the tiny agent).
    """
    image = photo.load()
    lines = [piece for line in narrate(trajectory, in_words) for piece in _wrap(line)]
    figure = Plot(12, max(5.2, 0.21 * len(lines) + 1.3))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.05))
    _show_image(left, image, _verdict(trajectory))
    for region in trajectory.regions:
        _box(left, image, region, RIGHT, "informative region", dashed=True, below=True)
    for number, (turn, step) in enumerate(zip(trajectory.turns(), trajectory.steps, strict=True), start=1):
        if box := box_of(turn):
            failed = step.observation is not None and step.observation.status.endswith("_error")
            _box(left, image, box, WRONG if failed else PLAIN, f"turn {number}")
    right.axis("off")
    right.set_title("Turn by turn")
    for row, line in enumerate(lines):
        bold = "bold" if line[:1].isdigit() or line.startswith("   answers") else "normal"
        right.text(0, 1 - row / max(len(lines), 22), line, va="top", fontsize=9.5, color=INK, fontweight=bold)
    right.set(xlim=(0, 1), ylim=(0, 1))
    return figure


def _verdict(trajectory: Trajectory) -> str:
    if trajectory.answer is None:
        return f"No answer ({trajectory.end or 'unfinished'})"
    if trajectory.km is None:
        return f"Answer: {trajectory.answer.text()}"
    return f"{trajectory.answer.text()}\n{trajectory.km:,.0f} km from {trajectory.place}"


def _wrap(line: str, width: int = 74) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()) + 3)
    return textwrap.wrap(line, width, subsequent_indent=indent, drop_whitespace=True) or [""]


@matplotlib.rc_context(STYLE)
def patch_grid(images: Sequence[Image.Image]) -> Plot:
    """Pictures as the model gets them, with the squares that become one token each."""
    side_px = 32
    figure = Plot(4.6 * len(images), 3.4)
    for axes, image in zip(figure.subplots(1, len(images), squeeze=False).flat, images, strict=True):
        tokens = (image.width // side_px) * (image.height // side_px)
        _show_image(axes, image, f"{image.width}×{image.height} px, {tokens} tokens")
        axes.vlines(np.arange(side_px, image.width, side_px) - 0.5, -0.5, image.height - 0.5, "white", linewidth=0.8)
        axes.hlines(np.arange(side_px, image.height, side_px) - 0.5, -0.5, image.width - 0.5, "white", linewidth=0.8)
    return figure


@matplotlib.rc_context(STYLE)
def group_figure(
    group: Sequence[Trajectory], rewards: Sequence[Sequence[float]], advantages: Sequence[Sequence[float]]
) -> Plot:
    """A group of rollouts as rows, their turns as cells: what each turn did and earned, and how it will be pushed.

    Args:
        group: Trajectories on one photo.
        rewards: What each turn of each rollout earned (`credit.turn_rewards`).
        advantages: Of each turn (`credit.turn_advantages`); blue turns become more likely, orange ones less.
    """
    longest = max(1, *map(len, rewards))
    figure = Plot(2.6 + 1.35 * longest, 0.9 + 0.62 * len(group), "Reward r and advantage A of each turn")
    axes = figure.subplots()
    colours = matplotlib.colors.LinearSegmentedColormap.from_list("pushed", (WRONG, "white", PLAIN))
    shade = matplotlib.colors.Normalize(-2, 2, clip=True)
    for row, (trajectory, earned, pushed) in enumerate(zip(group, rewards, advantages, strict=True)):
        for k, (turn, reward, advantage) in enumerate(zip(trajectory.turns(), earned, pushed, strict=True)):
            face = colours(shade(advantage))
            axes.add_patch(Rectangle((k + 0.03, row + 0.06), 0.94, 0.88, facecolor=face, edgecolor=GRID))
            ink = "white" if abs(advantage) > 1.4 else INK
            words = f"{_deed(turn)}\nr {reward:+.2f}   A {advantage:+.1f}"
            axes.text(k + 0.5, row + 0.5, words, ha="center", va="center", fontsize=8, color=ink)
        end = f"{trajectory.km:,.0f} km" if trajectory.km is not None else f"no answer ({trajectory.end})"
        axes.text(-0.08, row + 0.5, f"{end}\nR {sum(earned):.2f}", ha="right", va="center", fontsize=8.5, color=INK)
    axes.set(xlim=(0, longest), ylim=(len(group), 0), yticks=[])
    axes.set_xticks(np.arange(longest) + 0.5, [f"turn {k + 1}" for k in range(longest)])
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return figure


def _deed(turn: Turn) -> str:
    """What a turn did, in a word or two."""
    if turn.tool_call is not None:
        return TURN_NAMES[turn.tool_call.name]
    return "answer" if turn.answer is not None else "unreadable"


def _show_image(axes: Axes, image: Image.Image, title: str, **style) -> None:
    axes.imshow(np.asarray(image))
    axes.set_title(title, **style)
    axes.axis("off")


def _box(
    axes: Axes,
    image: Image.Image,
    bbox_2d: Sequence[float],
    colour: str,
    label: str = "",
    dashed: bool = False,
    below: bool = False,
) -> None:
    """A box on a white ground; bbox_2d is [x1, y1, x2, y2] in 0..1000 of the image."""
    x1, y1, x2, y2 = np.array(bbox_2d, float) / 1000 * [image.width, image.height, image.width, image.height]
    style = (0, (3, 2)) if dashed else "solid"
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="white", linewidth=4, alpha=0.8))
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=2, linestyle=style))
    if label:
        tag = {"facecolor": colour, "edgecolor": "none", "boxstyle": "round,pad=0.18"}
        at, offset, side = ((x1, y2), (0, -3), "top") if below else ((x1, y1), (0, 3), "bottom")
        words = {"va": side, "fontsize": 8.5, "color": "white", "bbox": tag}
        axes.annotate(label, at, xytext=offset, textcoords="offset points", **words).set_in_layout(False)
