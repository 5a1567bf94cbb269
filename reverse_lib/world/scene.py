"""One photo of the miniature world: what stands where (`plan_scene`), and its picture (`render`).

Planning is cheap and decides every fact; rendering only paints it. Regions that inform and regions that mislead take
their place and size from the same distributions, so that neither tells which is which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from PIL import Image

from reverse_lib.world.canvas import HEIGHT, WIDTH, Box, Camera, Canvas, add_grain, add_mottle, overlap
from reverse_lib.world.dice import Dice, pick, pick_weighted, stream
from reverse_lib.world.items import CAR_COLOURS, Item, place_items, plate_box
from reverse_lib.world.panels import (
    DECOY_SHARES,
    HEAD_SHARE,
    KIND_SHARES,
    NOWHERE,
    TALL,
    Mark,
    Panel,
    draft_decoy,
    draft_panel,
    paint_panel,
    paint_support,
    sign_style,
)
from reverse_lib.world.places import Country, Place, country_table
from reverse_lib.world.sky import HOUR_SHARES, WEATHER_SHARES, make_light
from reverse_lib.world.street import ROAD_M, Street, paint_street, plan_street


@dataclass(frozen=True)
class Writing:
    """Something that can be read in a photo: where, as [x1, y1, x2, y2] in 0..1000, and what."""

    bbox_2d: tuple[int, int, int, int]
    text: str


@dataclass(frozen=True)
class Scene:
    """A planned photo; `render` paints it."""

    seed: int
    place: Place
    view: int
    camera: Camera
    hour: str
    weather: str
    panels: tuple[Panel, ...]
    items: tuple[Item, ...]
    street: Street
    cues: dict[str, str | None] = field(hash=False)

    @property
    def marks(self) -> tuple[Mark, ...]:
        """The annotated regions, left to right."""
        return tuple(panel.mark for panel in self.panels)

    @property
    def writings(self) -> tuple[Writing, ...]:
        """All that is written and can be read: marks with a text, shop signs, number plates."""
        writings = [Writing(mark.bbox_2d, mark.text) for mark in self.marks if mark.text]
        writings += [Writing(_bbox(house.sign), house.shop) for house in self.street.houses if house.label_px]
        hidden = [_footprint(panel, panel.box) for panel in self.panels]
        for item in self.items:
            near = [other.box for other in self.items if other.z_m < item.z_m]
            if item.text and not any(overlap(plate_box(item), box, 1) for box in hidden + near):
                writings.append(Writing(_bbox(plate_box(item)), item.text))
        return tuple(writings)


def plan_scene(seed: int, place: Place, view: int, posters: Sequence[Place]) -> Scene:
    """Decides everything about one photo.

    Args:
        seed: World seed.
        place: Where the photo is taken.
        view: Number of the view; another view is another street, hour and set of regions.
        posters: Cities that posters may name and whose landmarks may be painted on a wall.
    """
    dice = Dice(stream("plan", seed, place.place_id, view))
    country = country_table()[place.country]
    right = country.driving == "right"
    camera = Camera(
        horizon_px=dice.uniform(196, 246),
        vanish_px=dice.uniform(220, 420),
        x_m=(1 if right else -1) * dice.uniform(0.9, 2.4),
        height_m=dice.uniform(2.2, 3.2),
    )
    hour = pick_weighted(dice, HOUR_SHARES)
    weather = pick_weighted(dice, WEATHER_SHARES[country.climate])
    panels = _arrange(dice, _drafts(dice, seed, place, country, posters), camera)
    taken = [_footprint(panel, panel.box) for panel in panels]
    items = place_items(_wanted_items(dice, country), camera, right, taken, dice)
    return Scene(
        seed=seed,
        place=place,
        view=view,
        camera=camera,
        hour=hour,
        weather=weather,
        panels=tuple(sorted(panels, key=lambda panel: panel.box)),
        items=tuple(items),
        street=plan_street(country, camera, items, taken, dice),
        cues=_cues(country, hour, weather, items, panels),
    )


def _drafts(dice: Dice, seed: int, place: Place, country: Country, posters: Sequence[Place]) -> list[Panel]:
    """The regions of a photo before they have a position: box is (0, 0, width, height)."""
    kind, drafts = pick_weighted(dice, KIND_SHARES), []
    if kind:
        local = place.local_name or place.name
        text = "" if kind == "landmark" else place.name
        mark = Mark(NOWHERE, kind, text, True, place.country, place.place_id)
        style = sign_style(dice, country) if kind == "sign" else dice.integers(1 << 16)
        drafts.append(draft_panel(dice, mark, local, style, country))
    abroad = [other for other in country_table().values() if other.name != country.name]
    for _ in range(2 + dice.integers(2) - len(drafts)):  # as many regions with one that informs as without
        drafts.append(draft_decoy(dice, seed, place, pick_weighted(dice, DECOY_SHARES), abroad, posters))
    return [drafts[position] for position in dice.permutation(len(drafts))]


def _arrange(dice: Dice, drafts: list[Panel], camera: Camera) -> list[Panel]:
    """Gives every draft a place, none closer than 14 px to another.

    Starts anew when one finds no room, and after 60 attempts drops a decoy.
    """
    for _ in range(60):
        placed: list[Panel] = []
        for draft in drafts:
            box = _somewhere(dice, draft, camera)
            if any(overlap(_footprint(draft, box), _footprint(other, other.box), 14) for other in placed):
                break
            placed.append(replace(draft, box=box, mark=replace(draft.mark, bbox_2d=_bbox(box))))
        else:
            return placed
    spare = next(index for index, draft in enumerate(drafts) if not draft.mark.informative)
    return _arrange(dice, drafts[:spare] + drafts[spare + 1 :], camera)


def _somewhere(dice: Dice, draft: Panel, camera: Camera) -> Box:
    """A place for a region: tall ones stand beside the carriageway, wide ones anywhere on posts or an arm."""
    width, height = draft.box[2:]
    tall = draft.mark.kind in TALL
    for _ in range(12):
        left = dice.integers(8, WIDTH - width - 8)
        lowest = round(camera.horizon_px) + 24 - height
        low, high = (max(100, lowest), 400 - height) if tall else (96, 360 - height // 2)
        top = dice.integers(low, high)
        ends = _carriageway(camera, top + height + 30)
        middle = left + width / 2
        if not tall or not ends[0] < middle < ends[1]:
            break
    return left, top, left + width, top + height


def _carriageway(camera: Camera, row: float) -> tuple[float, float]:
    """First and last column of the road on a row below the horizon."""
    scale = max(row - camera.horizon_px, 1) / camera.height_m  # px a metre
    return tuple(camera.vanish_px + (x - camera.x_m) * scale for x in (-ROAD_M, ROAD_M))


def _footprint(panel: Panel, box: Box) -> Box:
    """The box that nothing else may cover: the region itself, above every tall one also a head's room.

    A landmark gets that room as well, or its place would differ from a jersey's.
    """
    head = round(HEAD_SHARE * (box[2] - box[0])) if panel.mark.kind in TALL else 0
    return box[0], box[1] - head, box[2], box[3]


def _bbox(box: Box) -> tuple[int, int, int, int]:
    scale = (1000 / WIDTH, 1000 / HEIGHT) * 2
    return tuple(min(max(round(value * factor), 0), 1000) for value, factor in zip(box, scale, strict=True))


def _wanted_items(dice: Dice, country: Country) -> list[tuple[str, str]]:
    wanted = [("flag", country.flag)] if dice.random() < 0.25 else []
    colours = tuple(CAR_COLOURS)
    if (country.taxi_body or country.taxi_roof) and dice.random() < 0.6:
        wanted.append(("taxi", pick(dice, colours)))
    for share in (0.65, 0.3):
        if dice.random() < share:
            wanted.append(("car", pick(dice, colours)))
    if country.postbox and dice.random() < 0.55:
        wanted.append(("postbox", ""))
    if country.warning and dice.random() < 0.6:
        wanted.append(("warning", ""))
    return wanted


def _cues(
    country: Country, hour: str, weather: str, items: Sequence[Item], panels: Sequence[Panel]
) -> dict[str, str | None]:
    """The truths that are in the picture; None for what is not there."""
    kinds = {item.kind for item in items}
    plates = [
        country.plate_front if item.note.startswith("front") else country.plate_rear
        for item in items
        if item.kind in ("taxi", "car")
    ]
    signs = [panel for panel in panels if panel.mark.kind == "sign" and panel.style == 0]
    return {
        "driving": country.driving,
        "centre_line": country.centre_line or None,
        "sign": country.sign_background if signs else None,
        "flag": country.name if "flag" in kinds else None,
        "postbox": country.postbox if "postbox" in kinds else None,
        "taxi": (country.taxi_body or country.taxi_roof) if "taxi" in kinds else None,
        "warning": country.warning if "warning" in kinds else None,
        "plate": next(filter(None, plates), None),
        "roof": country.roof or None,
        "climate": country.climate,
        "trees": country.trees,
        "hour": hour,
        "weather": weather,
    }


def render(scene: Scene) -> Image.Image:
    """Paints a planned photo: RGB, 640×480, the same bytes for the same scene on every machine."""
    rng = stream("paint", scene.seed, scene.place.place_id, scene.view)
    dice, canvas = Dice(rng), Canvas(WIDTH, HEIGHT)
    light = make_light(scene.hour, scene.weather, dice)
    paint_street(canvas, scene, light, dice)
    panels = sorted(scene.panels, key=lambda panel: panel.box[3])
    for panel in panels:
        foot = max(panel.box[3] + dice.uniform(16, 60), scene.camera.horizon_px + dice.uniform(30, 90))
        paint_support(canvas, panel, foot, _carriageway(scene.camera, foot), light)
    for panel in panels:
        paint_panel(canvas, scene.seed, panel, light, dice)
    add_mottle(canvas.pixels, rng)
    add_grain(canvas.pixels, dice)
    return canvas.image()
