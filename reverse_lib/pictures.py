"""Figures made of pictures: contact sheets of photos, and the crops that an agent looked at."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.patches import Rectangle
from PIL import Image

from reverse_lib.interface import Interface, observation_content, show_photo
from reverse_lib.plots import SERIES, STYLE, Plot
from reverse_lib.trajectory import Trajectory


@matplotlib.rc_context(STYLE)
def contact_sheet(
    images: Sequence[Image.Image],
    titles: Sequence[str] = (),
    boxes: Sequence[Sequence] = (),
    columns: int = 4,
    width_in: float = 12.0,
) -> Plot:
    """Pictures in rows, each with a title and boxes of its own.

    Args:
        images: At least one.
        titles: One each, or none at all.
        boxes: For each picture the boxes to draw, bbox_2d each; or none at all.
        columns: Pictures in a row.
        width_in: Width of a full row in inches; heights follow from the pictures.

    Raises:
        ValueError: There is no picture, or another number of titles or boxes.
    """
    for name, given in (("titles", titles), ("boxes", boxes)):
        if len(given) not in (0, len(images)) or not images:
            raise ValueError(f"contact_sheet: {len(given)} {name} for {len(images)} pictures; give one each, or none")
    width_in *= min(columns, len(images)) / columns
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    tallest = max(image.height / image.width for image in images)
    height_in = rows * (width_in / columns * tallest + (0.3 if len(titles) else 0.05))
    figure = Plot(figsize=(width_in, height_in), layout="constrained", facecolor="white")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels:
        panel.axis("off")
    for number, (panel, image) in enumerate(zip(panels, images, strict=False)):
        panel.imshow(np.asarray(image))
        if len(titles):
            panel.set_title(titles[number], fontsize=9, fontweight="normal")
        for x1, y1, x2, y2 in boxes[number] if len(boxes) else ():
            at = x1 / 1000 * image.width, y1 / 1000 * image.height
            size = (x2 - x1) / 1000 * image.width, (y2 - y1) / 1000 * image.height
            panel.add_patch(Rectangle(at, *size, fill=False, edgecolor="white", linewidth=4))
            panel.add_patch(Rectangle(at, *size, fill=False, edgecolor=SERIES[2], linewidth=2))
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
        if step.observation is not None:
            for block in observation_content(step.observation, image, interface):
                if block["type"] == "image":
                    pictures.append(block["image"])
                    titles.append(f"the zoom of turn {number}")
    sizes = [f"{picture.width}×{picture.height} px" for picture in pictures]
    return pictures, [f"{title}, {size}" for title, size in zip(titles, sizes, strict=True)]
