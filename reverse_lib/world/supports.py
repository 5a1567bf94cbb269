"""What carries a marked region: posts, an arm over the road, a base, a person."""

from __future__ import annotations

from reverse_lib.world.canvas import Canvas, Colour, Light
from reverse_lib.world.items import HEIGHT
from reverse_lib.world.panels import HEAD_SHARE, Panel

SKIN: tuple[Colour, ...] = ((224, 180, 150), (196, 150, 118), (150, 104, 76), (96, 66, 48))


def paint_support(canvas: Canvas, panel: Panel, ground_px: float, road_px: tuple[float, float], light: Light) -> None:
    """What carries a region: posts under a panel, an arm over the road, a base under a landmark, a person.

    Args:
        canvas: The photo.
        panel: The region.
        ground_px: Row where posts meet the ground.
        road_px: First and last column of the carriageway on that row.
        light: Of the photo.
    """
    left, top, right, bottom = panel.box
    steel, shadow = light.tone((104, 106, 110)), light.tone((74, 78, 62))
    kind = panel.mark.kind
    if kind == "jersey":
        _paint_person(canvas, panel, light)
    elif kind == "landmark":
        wide = (right - left) * 0.62
        canvas.disc((left + right) / 2, bottom - 1, wide, 11, shadow)
        canvas.box(left - 6, bottom - 3, right + 5, bottom + 5, light.tone((150, 146, 138)))
    elif right < road_px[0] or left > road_px[1] or kind == "mural":
        for x in (left + (right - left) / 6, right - (right - left) / 6):
            canvas.disc(x, ground_px, 7, 2.4, shadow)
            canvas.box(x - 2.2, bottom - 2, x + 2.2, ground_px, steel)
    else:
        on_left = left + right < road_px[0] + road_px[1]
        x = min(left - 8, road_px[0] - 12) if on_left else max(right + 8, road_px[1] + 12)
        canvas.box(x - 3, top - 12, x + 3, ground_px + 14, steel)
        a, b = (x, right - 8) if on_left else (left + 8, x)
        canvas.box(a, top - 10, b, top - 6, steel)
        for hanger in (left + (right - left) / 5, right - (right - left) / 5):
            canvas.box(hanger - 1.2, top - 8, hanger + 1.2, top + 1, steel)


def _paint_person(canvas: Canvas, panel: Panel, light: Light) -> None:
    left, top, right, bottom = panel.box
    width, height, middle = right - left, bottom - top, (left + right) / 2
    skin = light.tone(SKIN[panel.salt % len(SKIN)])
    hair = light.tone(((38, 28, 24), (92, 62, 36), (176, 148, 100), (60, 56, 54))[panel.salt // 4 % 4])
    trousers = light.tone(((44, 48, 66), (70, 66, 60), (96, 104, 116), (60, 76, 60))[panel.salt // 16 % 4])
    head = HEAD_SHARE / 2.2 * width
    length = 1.12 * height
    for side in (-1, 1):
        hip, foot = middle + side * width * 0.15, middle + side * width * 0.19
        canvas.fill(
            (
                (hip - width * 0.15, bottom - 3),
                (hip + width * 0.15, bottom - 3),
                (foot + width * 0.1, bottom + length),
                (foot - width * 0.1, bottom + length),
            ),
            trousers,
        )
        if bottom + length < HEIGHT + 8:
            canvas.disc(foot, bottom + length, width * 0.13, width * 0.06, light.tone((34, 32, 34)))
        x, out = middle + side * width * 0.42, middle + side * width * 0.46
        arm = width * 0.055
        low = top + height * 0.92
        canvas.fill(
            ((x - arm, top + height * 0.36), (x + arm, top + height * 0.36), (out + arm, low), (out - arm, low)), skin
        )
        canvas.disc(out, low, arm * 1.2, arm * 1.4, skin)
    canvas.box(middle - width * 0.09, top - 0.4 * head, middle + width * 0.09, top + 0.12 * height, skin)
    canvas.disc(middle, top - 0.95 * head, head * 0.82, head, skin)
    canvas.shape(
        [
            (middle + head * 0.88 * x, top - 1.0 * head - head * 1.08 * y)
            for x, y in ((1, 0), (0.8, 0.7), (0, 1), (-0.8, 0.7), (-1, 0), (-0.7, 0.35), (0.7, 0.35))
        ],
        hair,
    )
