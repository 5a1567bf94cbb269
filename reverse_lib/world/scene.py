"""One photo of the miniature world: what stands where (`plan_scene`), and its picture (`render`).

Planning is cheap and decides every fact; rendering only paints it. Regions that inform and regions that mislead take
their place and size from the same distributions, so that neither tells which is which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from reverse_lib.world import parts
from reverse_lib.world.gazetteer import Country, Place, country_table, pick, stream
from reverse_lib.world.items import CAR_COLOURS, HEIGHT, WIDTH, Box, Camera, Item, overlap, place_items
from reverse_lib.world.landmark import landmark_sprite, tinted
from reverse_lib.world.parts import COLOURS
from reverse_lib.world.street import HOURS, finish, paint_street

INFORMATIVE = ("sign", "board", "landmark")
DECOYS = ("jersey", "poster", "restaurant")
TALL = ("landmark", "jersey")
KIND_SHARES = {"sign": 0.45, "board": 0.15, "landmark": 0.25, "": 0.15}  # "" = nothing informative
HEAD_SHARE = 0.44  # height of a head above a jersey, in widths of the jersey
LONGEST_PX = 268  # widest sign: fits the 224×32 zoom canvas at full height


@dataclass(frozen=True)
class Mark:
    """An annotated region.

    Attributes:
        bbox_2d: [x1, y1, x2, y2] in 0..1000 of the photo.
        kind: "sign", "board", "landmark", "jersey", "poster" or "restaurant".
        text: What is written there, ASCII ("" on a landmark).
        informative: Whether it tells the place.
        country: Country it speaks of: the photo's own when informative.
    """

    bbox_2d: tuple[int, int, int, int]
    kind: str
    text: str
    informative: bool
    country: str


@dataclass(frozen=True)
class Panel:
    """How a mark is painted: its pixel box and the choices that carry no information."""

    mark: Mark
    box: Box
    label: str
    face: str = ""
    text_px: int = 0
    style: int = 0
    arrow: int = 0


@dataclass(frozen=True)
class Scene:
    """A planned photo; `render` paints it."""

    seed: int
    place: Place
    view: int
    camera: Camera
    hour: str
    snow: bool
    panels: tuple[Panel, ...]
    items: tuple[Item, ...]
    cues: dict[str, str | None] = field(hash=False)

    @property
    def marks(self) -> tuple[Mark, ...]:
        """The annotated regions, left to right."""
        return tuple(panel.mark for panel in self.panels)


def plan_scene(seed: int, place: Place, view: int, posters: Sequence[Place]) -> Scene:
    """Decides everything about one photo.

    Args:
        seed: World seed.
        place: Where the photo is taken.
        view: Number of the view; another view is another street, hour and set of regions.
        posters: Cities that posters may name.
    """
    rng = stream("plan", seed, place.place_id, view)
    country = country_table()[place.country]
    right = country.driving == "right"
    camera = Camera(
        horizon_px=float(rng.uniform(196, 246)),
        vanish_px=float(rng.uniform(220, 420)),
        x_m=(1 if right else -1) * float(rng.uniform(0.9, 2.4)),
        height_m=float(rng.uniform(2.4, 3.4)),
    )
    hour = pick(rng, tuple(HOURS))
    snow = country.climate == "boreal" and rng.random() < 0.25
    drafts = _drafts(rng, seed, place, country, posters)
    panels = _arrange(rng, drafts)
    wanted = _wanted_items(rng, country)
    items = place_items(wanted, camera, right, [_footprint(panel, panel.box) for panel in panels], rng)
    return Scene(
        seed=seed,
        place=place,
        view=view,
        camera=camera,
        hour=hour,
        snow=bool(snow),
        panels=tuple(sorted(panels, key=lambda panel: panel.box)),
        items=tuple(items),
        cues=_cues(country, hour, bool(snow), items, panels),
    )


def _drafts(
    rng: np.random.Generator, seed: int, place: Place, country: Country, posters: Sequence[Place]
) -> list[Panel]:
    """The regions of a photo before they have a position: box is (0, 0, width, height)."""
    kinds = list(KIND_SHARES)
    kind = kinds[int(np.searchsorted(np.cumsum(list(KIND_SHARES.values())), rng.random(), side="right"))]
    drafts = []
    if kind:
        local = place.local_name or place.name
        text = "" if kind == "landmark" else place.name
        mark = Mark((0, 0, 0, 0), kind, text, True, place.country)
        style = sign_style(rng, country) if kind == "sign" else int(rng.integers(1 << 16))
        drafts.append(draft_panel(rng, mark, local, style))
    abroad = [other for other in country_table().values() if other.name != country.name]
    for _ in range(int(rng.integers(1, 4))):
        drafts.append(draft_decoy(rng, seed, place, pick(rng, DECOYS), abroad, posters))
    return [drafts[position] for position in rng.permutation(len(drafts))]


def draft_decoy(
    rng: np.random.Generator,
    seed: int,
    place: Place,
    kind: str,
    abroad: Sequence[Country],
    posters: Sequence[Place],
) -> Panel:
    """A region that misleads: its look is one of a few that the web's product pages show too."""
    if kind == "poster":
        city = pick(rng, posters)
        while city.name == place.name:
            city = pick(rng, posters)
        mark = Mark((0, 0, 0, 0), kind, city.name, False, city.country)
        return draft_panel(rng, mark, city.name, poster_style(seed, city))
    other = pick(rng, abroad)
    variant = int(rng.integers(2))
    style = decoy_style(seed, kind, other, variant)
    text = decoy_text(kind, other, style)
    return draft_panel(rng, Mark((0, 0, 0, 0), kind, text, False, other.name), text, style)


def decoy_text(kind: str, country: Country, style: int) -> str:
    """What a jersey (its number) or a restaurant board (a word) says."""
    return str(2 + style % 22) if kind == "jersey" else country.eatery


def decoy_picture(rng: np.random.Generator, seed: int, kind: str, label: str, country: str, style: int) -> Image.Image:
    """A product page's picture of a jersey, poster or restaurant board: RGB on a plain ground."""
    panel = draft_panel(rng, Mark((0, 0, 0, 0), kind, label, False, country), label, style)
    picture = panel_picture(seed, None, panel)
    backdrop = Image.new("RGB", picture.size, pick(rng, ((200, 204, 208), (150, 160, 150), (228, 226, 220))))
    backdrop.paste(picture, (0, 0), picture if picture.mode == "RGBA" else None)
    light = float(rng.uniform(0.88, 1.05))
    return tinted(backdrop, (light, light * float(rng.uniform(0.94, 1.0)), light * float(rng.uniform(0.88, 1.0))))


def poster_style(seed: int, city: Place) -> int:
    """The look of the poster of a city, the same in photos and on its page."""
    return int(stream("poster", seed, city.place_id).integers(1 << 16))


def decoy_style(seed: int, kind: str, country: Country, variant: int) -> int:
    """The look of variant 0 or 1 of a jersey or restaurant board, the same in photos and on its page."""
    return int(stream(kind, seed, country.code, variant).integers(1 << 16))


def sign_style(rng: np.random.Generator, country: Country) -> int:
    """0: the country's colours; 1: brown tourist sign; 2.. neutral, where the country's colours are unknown."""
    if rng.random() < 0.1:
        return 1
    return 0 if country.sign_background else 2 + int(rng.integers(3))


def draft_panel(rng: np.random.Generator, mark: Mark, label: str, style: int) -> Panel:
    """A region that has its size and lettering, but no place in the photo yet: its box starts at (0, 0)."""
    if mark.kind in TALL:
        height = int(rng.integers(112, 172))
        width = round(height * rng.uniform(0.62, 0.9))
        return Panel(mark, (0, 0, width, height), label, style=style)
    face = _face(rng, mark.kind, style)
    text_px = int(rng.integers(22, 28))
    height = round(text_px * rng.uniform(1.55, 1.95))
    arrow = int(rng.integers(-1, 2)) if mark.kind == "sign" else 0
    room = rng.uniform(0.84, 1.04) * parts.text_width(label, face, text_px) + rng.uniform(1.3, 2.1) * height
    width = int(min(max(room, 2.4 * height), LONGEST_PX))
    return Panel(mark, (0, 0, width, height), label, face, text_px, style, arrow)


def _face(rng: np.random.Generator, kind: str, style: int) -> str:
    if kind == "sign":
        return pick(rng, parts.SIGN_FACES)
    return parts.BOARD_FACES[style % 3] if kind in DECOYS else pick(rng, parts.BOARD_FACES)


def _arrange(rng: np.random.Generator, drafts: list[Panel]) -> list[Panel]:
    """Gives every draft a place, none closer than 14 px to another.

    Starts anew when one finds no room, and after 40 attempts drops a decoy.
    """
    for _ in range(40):
        placed: list[Panel] = []
        for draft in drafts:
            width, height = draft.box[2:]
            left = int(rng.integers(8, WIDTH - width - 8))
            low, high = (110, 360 - height // 2) if draft.mark.kind not in TALL else (70, 390 - height)
            top = int(rng.integers(low, high))
            box = (left, top, left + width, top + height)
            if any(overlap(_footprint(draft, box), _footprint(other, other.box), 14) for other in placed):
                break
            placed.append(_at(draft, box))
        else:
            return placed
    spare = next(index for index, draft in enumerate(drafts) if not draft.mark.informative)
    return _arrange(rng, drafts[:spare] + drafts[spare + 1 :])


def _footprint(panel: Panel, box: Box) -> Box:
    """The box that nothing else may cover: the region itself, above a jersey also the head."""
    head = round(HEAD_SHARE * (box[2] - box[0])) if panel.mark.kind == "jersey" else 0
    return box[0], box[1] - head, box[2], box[3]


def _at(draft: Panel, box: Box) -> Panel:
    scale = (1000 / WIDTH, 1000 / HEIGHT) * 2
    bbox_2d = tuple(min(round(value * factor), 1000) for value, factor in zip(box, scale, strict=True))
    old = draft.mark
    mark = Mark(bbox_2d, old.kind, old.text, old.informative, old.country)
    return Panel(mark, box, draft.label, draft.face, draft.text_px, draft.style, draft.arrow)


def _wanted_items(rng: np.random.Generator, country: Country) -> list[tuple[str, str]]:
    wanted = [("flag", country.flag)] if rng.random() < 0.28 else []
    if (country.taxi_body or country.taxi_roof) and rng.random() < 0.6:
        wanted.append(("taxi", pick(rng, tuple(CAR_COLOURS))))
    if rng.random() < 0.55:
        wanted.append(("car", pick(rng, tuple(CAR_COLOURS))))
    if country.postbox and rng.random() < 0.55:
        wanted.append(("postbox", ""))
    if country.warning and rng.random() < 0.6:
        wanted.append(("warning", ""))
    return wanted


def _cues(
    country: Country, hour: str, snow: bool, items: Sequence[Item], panels: Sequence[Panel]
) -> dict[str, str | None]:
    """The truths that are in the picture; None for what is not there."""
    seen = {item.kind for item in items}
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
        "flag": country.name if "flag" in seen else None,
        "postbox": country.postbox if "postbox" in seen else None,
        "taxi": (country.taxi_body or country.taxi_roof) if "taxi" in seen else None,
        "warning": country.warning if "warning" in seen else None,
        "plate": next(filter(None, plates), None),
        "roof": country.roof or None,
        "climate": country.climate,
        "trees": country.trees,
        "hour": hour,
        "snow": "yes" if snow else None,
    }


def render(scene: Scene) -> Image.Image:
    """Paints a planned photo: RGB, 640×480, the same bytes for the same scene on every machine."""
    rng = stream("paint", scene.seed, scene.place.place_id, scene.view)
    country = country_table()[scene.place.country]
    image = paint_street(country, scene.camera, scene.hour, scene.snow, list(scene.items), rng)
    draw = ImageDraw.Draw(image)
    for panel in sorted(scene.panels, key=lambda panel: panel.box[3]):
        _support(draw, scene, panel, rng)
        picture = panel_picture(scene.seed, scene.place, panel)
        image.paste(picture, panel.box[:2], picture if picture.mode == "RGBA" else None)
        if panel.mark.kind == "landmark":
            _occlude(draw, panel.box, rng)
    return finish(image, scene.hour, rng)


def panel_picture(seed: int, place: Place | None, panel: Panel) -> Image.Image:
    """The region alone, RGB or RGBA, of exactly the size of its box."""
    left, top, right, bottom = panel.box
    size, kind = (right - left, bottom - top), panel.mark.kind
    if kind == "landmark":
        return landmark_sprite(seed, place.place_id).resize(size, Image.Resampling.BILINEAR)
    country = country_table().get(panel.mark.country)
    if kind == "jersey":
        sprite = parts.jersey_sprite(country.flag, int(panel.mark.text), panel.style // 32)
        return sprite.resize(size, Image.Resampling.BILINEAR)
    if kind == "sign":
        colours = _sign_colours(country, panel.style)
        return parts.draw_sign(size, panel.label, colours, panel.face, panel.text_px, panel.arrow)
    if kind == "board":
        return parts.draw_board(size, panel.label, panel.style, panel.style // 16 % 3, panel.face, panel.text_px)
    if kind == "poster":
        return parts.draw_poster(size, panel.label, panel.style, panel.face, panel.text_px)
    return parts.draw_restaurant(size, panel.label, country.flag, panel.style, panel.face, panel.text_px)


def _sign_colours(country: Country, style: int) -> tuple[parts.Colour, parts.Colour, parts.Colour]:
    neutral = (("grey", "white"), ("white", "black"), ("black", "white"))
    if style == 1:
        return COLOURS["brown"], COLOURS["white"], COLOURS["white"]
    if style >= 2:
        ground, ink = neutral[style % 3]
        return COLOURS[ground], COLOURS[ink], COLOURS[ink]
    return COLOURS[country.sign_background], COLOURS[country.sign_text], COLOURS[country.sign_border]


def _support(draw: ImageDraw.ImageDraw, scene: Scene, panel: Panel, rng: np.random.Generator) -> None:
    """What carries a region: posts under a panel, a mound under a landmark, a person in a jersey."""
    left, top, right, bottom = panel.box
    horizon = round(scene.camera.horizon_px)
    ground = max(bottom + int(rng.integers(16, 60)), horizon + int(rng.integers(30, 90)))
    if panel.mark.kind == "landmark":
        draw.ellipse((left - 24, bottom - 14, right + 24, max(bottom + 18, ground)), fill=(128, 132, 104))
    elif panel.mark.kind == "jersey":
        _person(draw, panel.box, pick(rng, ((224, 180, 150), (150, 104, 76), (96, 66, 48))))
    else:
        for x in (left + (right - left) // 6, right - (right - left) // 6):
            draw.rectangle((x - 2, bottom, x + 2, ground), fill=(104, 104, 108))


def _person(draw: ImageDraw.ImageDraw, box: Box, skin: parts.Colour) -> None:
    left, top, right, bottom = box
    width, middle = right - left, (left + right) / 2
    head = HEAD_SHARE / 2.2 * width
    draw.ellipse((middle - head, top - 2.1 * head, middle + head, top + 0.3 * head), fill=skin)
    draw.rectangle((left, top + (bottom - top) // 3, left + width // 8, bottom), fill=skin)
    draw.rectangle((right - width // 8, top + (bottom - top) // 3, right, bottom), fill=skin)
    for x in (left + width * 0.24, left + width * 0.54):
        draw.rectangle((x, bottom - 2, x + width * 0.22, min(bottom + width, HEIGHT)), fill=(44, 48, 66))


def _occlude(draw: ImageDraw.ImageDraw, box: Box, rng: np.random.Generator) -> None:
    """Sometimes a bush or a lamp post in front of a landmark."""
    left, top, right, bottom = box
    if rng.random() < 0.35:
        x, radius = int(rng.integers(left, right)), int(rng.integers(10, 22))
        draw.ellipse((x - radius, bottom - radius, x + radius, bottom + radius // 2), fill=(66, 104, 50))
    if rng.random() < 0.2:
        x = int(rng.integers(left, right))
        draw.rectangle((x - 2, top - 10, x + 2, bottom + 10), fill=(70, 72, 76))
