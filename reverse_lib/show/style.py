"""What everything shown has in common: colours, error bands, and how outside text and pictures get into a page."""

import html

import numpy as np

from reverse_lib.geo import THRESHOLDS_KM, BoxError, as_box
from reverse_lib.trajectory import Turn

INK, MUTED, GRID = "#222222", "#6b6b6b", "#e4e4e4"
# Okabe and Ito's palette, darkest first: told apart by every common kind of colour vision.
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
PLAIN, WRONG, RIGHT = SERIES[:3]
# Blue for near, red for far (after Paul Tol's "sunset"): one colour per error band, the last for beyond 2500 km.
BAND_COLOURS = ("#2f4a9c", "#4a86c5", "#86bfe0", "#f5b041", "#e8693a", "#a50026")
BAND_LABELS = ("within 1 km", "1–25 km", "25–200 km", "200–750 km", "750–2,500 km", "beyond 2,500 km")


def band(km: float) -> int:
    """Which error band an error in km falls into: 0 (within 1 km) to 5 (beyond 2,500 km, or unknown)."""
    return len(THRESHOLDS_KM) if np.isnan(km) else int(np.searchsorted(THRESHOLDS_KM, km))


def box_or_none(value: object) -> list[int] | None:
    """The bbox_2d that somebody wrote, None for whatever is no box."""
    try:
        return as_box(value)
    except BoxError:
        return None


def box_of(turn: Turn) -> list[int] | None:
    """The bbox_2d that a turn calls a tool with, if any."""
    return box_or_none(turn.tool_call.arguments.get("bbox_2d")) if turn.tool_call else None


def escaped(text: str) -> str:
    """Outside text as HTML: no markup, no template of folium's; a lone surrogate becomes "?", a new line a break."""
    valid = str(text).encode("utf-8", "replace").decode()
    return html.escape(valid).replace("{", "&#123;").replace("\n", "<br>")
