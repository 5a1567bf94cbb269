"""Executed notebooks small enough to be kept in git: pictures as JPEG, maps as a word on where they are.

slim(Path("outputs/reference/05_evaluation.ipynb"))
"""

import base64
import io
from pathlib import Path

import nbformat
from PIL import Image

LARGE = 60_000  # characters of an output that is worth the trouble
QUALITY = 85  # of JPEG
PAGE = 300_000  # characters of HTML that can only be a map: its own file is kept instead


def slim(path: Path) -> Path:
    """Shrink the outputs of an executed notebook in place; its cells, texts and tables stay.

    Args:
        path: An executed notebook.

    Returns:
        The path.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if len(data.get("image/png", "")) > LARGE:
                data["image/jpeg"] = min(_jpeg(data.pop("image/png")), data.get("image/jpeg") or "", key=_worth)
            if len(data.get("text/html", "")) > PAGE:
                data["text/html"] = "<p><em>The map is a file of its own, in <code>maps/</code>.</em></p>"
    nbformat.write(notebook, path)
    return path


def _jpeg(png: str) -> str:
    """A PNG as a JPEG on white, both in base64."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    paper = Image.new("RGBA", picture.size, "white")
    paper.alpha_composite(picture)
    file = io.BytesIO()
    paper.convert("RGB").save(file, "JPEG", quality=QUALITY, optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _worth(picture: str) -> float:
    return len(picture) or float("inf")
