"""Figures made of pictures: contact sheets of photos, and the crops that an agent looked at."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from reverse_lib.environment import Interface, observation_content, show_photo
from reverse_lib.show.plots import SERIES, STYLE, Plot
from reverse_lib.trajectory import Trajectory

INFORMATIVE, DECOY = SERIES[2], SERIES[1]  # colours of boxes, as in `plots.photo_with_boxes`


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

    Raises:
        ValueError: There is no picture, or another number of titles or boxes.
    """
    for name, given in (("titles", titles), ("boxes", boxes), ("decoys", decoys)):
        if len(given) not in (0, len(images)) or not images:
            raise ValueError(f"contact_sheet: {len(given)} {name} for {len(images)} pictures; give one each, or none")
    width_in *= min(columns, len(images)) / columns
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    tallest = max(image.height / image.width for image in images)
    height_in = rows * (width_in / columns * tallest + (0.3 if len(titles) else 0.05)) + (0.35 if len(decoys) else 0)
    figure = Plot(figsize=(width_in, height_in), layout="constrained", facecolor="white")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels:
        panel.axis("off")
    for number, (panel, image) in enumerate(zip(panels, images, strict=False)):
        panel.imshow(np.asarray(image))
        if len(titles):
            panel.set_title(titles[number], fontsize=9, fontweight="normal")
        for given, colour in ((boxes, INFORMATIVE), (decoys, DECOY)):
            for bbox_2d in given[number] if len(given) else ():
                _outline(panel, image, bbox_2d, colour)
    if len(decoys):
        names = {INFORMATIVE: "tells the place", DECOY: "decoy"}
        handles = [Rectangle((0, 0), 1, 1, fill=False, edgecolor=key, linewidth=2, label=names[key]) for key in names]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _outline(panel: Axes, image: Image.Image, bbox_2d: Sequence[float], colour: str) -> None:
    """A box in 0..1000 of the picture, on a white ground."""
    x1, y1, x2, y2 = bbox_2d
    at = x1 / 1000 * image.width, y1 / 1000 * image.height
    size = (x2 - x1) / 1000 * image.width, (y2 - y1) / 1000 * image.height
    panel.add_patch(Rectangle(at, *size, fill=False, edgecolor="white", linewidth=4))
    panel.add_patch(Rectangle(at, *size, fill=False, edgecolor=colour, linewidth=2))


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
