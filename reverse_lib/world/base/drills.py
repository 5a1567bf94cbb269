"""What the tiny base is trained on: photos, crops and single turns from worlds that are never evaluated.

Worlds with seeds from 1000 on have other photos than world 0 and mostly other places. Photos whose place, and crops
whose text, is held out by `held_out` (one name in twelve, whichever world it stands in) are left out, so that reading
and copying can be measured on names the base has never seen.

A few thousand photos hold too few different names to learn letters from. So there are drawn crops as well, each with
another name, drawn by the same code as the photos' own panels, and it is known where each letter stands.
"""

import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from string import ascii_lowercase

import numpy as np
from PIL import Image, ImageChops

from reverse_lib.environment import TINY, initial_messages, show_photo, show_zoom, with_photo
from reverse_lib.geo import Answer
from reverse_lib.trajectory import ToolCall, format_turn
from reverse_lib.world.atlas import World
from reverse_lib.world.canvas import text_width
from reverse_lib.world.pages import ABOUT, FILLERS, TITLES, filler
from reverse_lib.world.panels import NOWHERE, Mark, draft_panel, draw_wide, panel_picture, sign_style, widen
from reverse_lib.world.places import Country
from reverse_lib.world.teacher import WORDINGS, Row, judge, largest_city_of, misspell, say

KINDS = ("none", "sign", "board", "landmark", "jersey", "poster", "restaurant", "mural")  # the first four can inform
LETTERED = {"sign": 0.45, "board": 0.3, "poster": 0.25}  # shares of drawn crops
FIRST_SEED = 1000  # pre-training worlds; evaluation uses small seeds


@dataclass
class PhotoSample:
    """One photo as the model sees it, with what the vision heads should say."""

    image: np.ndarray  # (H, W, 3) uint8
    country: int
    kind: int  # of the informative region, an index into KINDS
    bbox_2d: tuple[int, int, int, int] | None  # the informative region
    marks: list[tuple[int, tuple[int, int, int, int]]]  # kind and box of every region, decoys included
    photo_id: str = ""
    name: str = ""


@dataclass
class CropSample:
    """One zoom as the model sees it, with the text on it."""

    image: np.ndarray  # (H, W, 3) uint8
    text: str
    centres_px: np.ndarray | None = None  # (characters,) where each letter's middle is, from the left


def held_out(name: str) -> bool:
    """Whether a place name is kept from pre-training: one in twelve, by a hash of the name."""
    return hashlib.blake2b(name.encode(), digest_size=2).digest()[0] < 256 // 12


def draw_samples(seed: int, photos: int, places: int = 200, drawn: int = 0, only_held_out: bool = False):
    """Photos and crops of one pre-training world.

    Args:
        seed: The world's seed.
        photos: How many photos of its train split.
        places: The world's size.
        drawn: Crops with any name on them, besides one of each region with text.
        only_held_out: Take the held-out names instead of the others (for measuring).

    Returns:
        (list of PhotoSample, list of CropSample)
    """
    world = World(seed, places)
    codes = {country.name: i for i, country in enumerate(world.countries)}
    rng = np.random.default_rng(seed)
    samples, crops = [], []
    for photo in world.photos("train", photos):
        if held_out(photo.city) and not only_held_out:
            continue
        image = photo.load()
        mark = next((m for m in photo.marks if m.informative), None)
        small = np.asarray(show_photo(image, TINY))
        kind = KINDS.index(mark.kind if mark else "none")
        box = tuple(mark.bbox_2d) if mark else None
        marks = [(KINDS.index(m.kind), tuple(m.bbox_2d)) for m in photo.marks]
        samples.append(PhotoSample(small, codes[photo.country], kind, box, marks, photo.photo_id, photo.city))
        for mark in photo.marks:
            if mark.kind in LETTERED and held_out(mark.text) == only_held_out:
                zoom = show_zoom(image, loosen(mark.bbox_2d, rng), TINY)
                crops.append(CropSample(np.asarray(zoom), mark.text))
    names = [name for name in world.names if held_out(name) == only_held_out]
    crops += [draw_crop(rng, names, world.countries, samples[i % len(samples)].image) for i in range(drawn)]
    return samples, crops


def loosen(box: Sequence[float], rng: np.random.Generator) -> list[int]:
    """A box as a model would draw it, in 0..1000: each side up to 15 % (one box in four: 35 %) out or 4 % in."""
    return [round(edge) for edge in widen(box, rng.uniform(-0.04, 0.35 if rng.random() < 0.25 else 0.15, 4))]


def draw_crop(
    rng: np.random.Generator, names: Sequence[str], countries: Sequence[Country], backdrop: np.ndarray
) -> CropSample:
    """A panel with a random name (one in five: random letters) on a piece of a photo, seen through a loose box.

    Args:
        rng: Where every choice comes from.
        names: Names to write.
        countries: Whose sign colours are used.
        backdrop: (H, W, 3) uint8, what is around the panel.
    """
    text = names[rng.integers(len(names))]
    if rng.random() < 0.2:
        text = "".join(ascii_lowercase[i] for i in rng.integers(26, size=rng.integers(3, 12))).capitalize()
    country = countries[rng.integers(len(countries))]
    kind = tuple(LETTERED)[rng.choice(len(LETTERED), p=list(LETTERED.values()))]
    style = sign_style(rng, country) if kind == "sign" else int(rng.integers(1 << 16))
    panel = draft_panel(rng, Mark(NOWHERE, kind, text, True, country.name), text, style)
    picture = panel_picture(0, panel)
    with_text, without = (draw_wide(each) for each in (panel, replace(panel, label=" ")))
    difference = ImageChops.difference(with_text, without)
    left, _, right, _ = difference.getbbox() or (0, 0, *picture.size)
    ends = np.array([text_width(text[:n], panel.face, 64) for n in range(len(text) + 1)], float)
    centres = left + (right - left) * (ends[:-1] + ends[1:]) / 2 / ends[-1]  # px of the panel

    width, height = picture.size
    beside, above = round(0.4 * width) + 12, round(0.4 * height) + 12  # px of the photo around the panel
    size = width + 2 * beside, height + 2 * above
    scene = Image.fromarray(backdrop).resize(size, Image.Resampling.BILINEAR)
    scene.paste(picture, (beside, above))
    scene = Image.fromarray(_weathered(np.asarray(scene), rng))
    scale = 1000 / np.array([scene.width, scene.height] * 2)  # px -> 0..1000
    box = loosen((beside, above, beside + width, above + height) * scale, rng)
    crop_left, crop_top, crop_right, crop_bottom = np.array(box) / scale
    stretch = TINY.zoom_stretch
    zoom = min(TINY.zoom_px[0] / stretch / (crop_right - crop_left), TINY.zoom_px[1] / (crop_bottom - crop_top))
    return CropSample(np.asarray(show_zoom(scene, box, TINY)), text, (centres + beside - crop_left) * zoom * stretch)


def _weathered(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light, tint and grain, as the hour gives them to a photo; (H, W, 3) uint8."""
    light = rng.uniform(0.55, 1.08) * rng.uniform(0.9, 1.05, 3)
    grain = rng.normal(0, rng.uniform(0, 5), pixels.shape[:2])[..., None]
    return np.clip(pixels * light + grain, 0, 255).astype(np.uint8)


def draw_pool(
    worlds: int,
    photos: int,
    drawn: int = 0,
    places: int = 200,
    workers: int = 2,
    first_seed: int = FIRST_SEED,
    only_held_out: bool = False,
):
    """`draw_samples` over several worlds, in parallel processes; `photos` and `drawn` count for each of them.

    Returns:
        (list of PhotoSample, list of CropSample), in the order of seeds.
    """
    draw = partial(draw_samples, photos=photos, places=places, drawn=drawn, only_held_out=only_held_out)
    with ProcessPoolExecutor(workers) as pool:
        parts = list(pool.map(draw, range(first_seed, first_seed + worlds)))
    return [p for part in parts for p in part[0]], [c for part in parts for c in part[1]]


@dataclass
class VisionBatch:
    """What the vision tower learns from in one step."""

    photos: list[PhotoSample]
    crops: list[CropSample]


def vision_batches(
    photos: Sequence[PhotoSample], crops: Sequence[CropSample], batch: tuple[int, int], seed: int
) -> Iterator[VisionBatch]:
    """Endless random batches of so many photos, each varied anew, and so many crops."""
    rng = np.random.default_rng(seed)
    while True:
        yield VisionBatch(
            [vary(rng, photos[i]) for i in rng.integers(len(photos), size=batch[0])],
            [crops[i] for i in rng.integers(len(crops), size=batch[1])],
        )


def vary(rng: np.random.Generator, photo: PhotoSample) -> PhotoSample:
    """The photo in other light, and most of it only, at its former size; regions of which half is cut off are dropped.

    Eyes that see each photo several times learn photos by heart: on those of another world they had the box in 77 of
    100, on their own in 94 (measured: model card).
    """
    height, width, _ = photo.image.shape
    share = min(rng.uniform(0.75, 1.08), 1.0)  # a quarter of the photos stay whole
    left, top = rng.uniform(0, 1 - share, size=2)  # of the photo's sides
    part = (left * width, top * height, (left + share) * width, (top + share) * height)
    image = Image.fromarray(photo.image).resize((width, height), Image.Resampling.BILINEAR, part)
    light = rng.uniform(0.8, 1.2) * rng.uniform(0.9, 1.1, size=3)  # red, green, blue
    image = np.asarray(image.point([min(round(gain * value), 255) for gain in light for value in range(256)]))

    def moved(bbox_2d: tuple[int, int, int, int]) -> tuple[int, int, int, int] | None:
        corners = (np.array(bbox_2d) / 1000 - (left, top, left, top)) / share * 1000
        x1, y1, x2, y2 = left_over = corners.clip(0, 1000)
        area = (corners[2] - corners[0]) * (corners[3] - corners[1])
        return tuple(int(v) for v in left_over.round()) if (x2 - x1) * (y2 - y1) > area / 2 else None

    marks = [(kind, box) for kind, bbox_2d in photo.marks if (box := moved(bbox_2d))]
    return replace(photo, image=image, bbox_2d=photo.bbox_2d and moved(photo.bbox_2d), marks=marks)


@dataclass
class SkillSample:
    """A conversation whose last turn is learned, and the one image it needs, if any."""

    messages: list[dict]
    image: np.ndarray | None  # (H, W, 3) uint8


class SkillDrills:
    """Draws single turns of the agent's grammar: point, read, judge a list of results.

    Lists are made up: any name with any country, positions drawn anew each time, so that only comparing and
    copying can be learned from them, never a place.

    Attributes:
        misread: Share of judged lists whose name was read with one letter wrong, as small eyes do; results about the
            right name still match.
        most_results: Longest judged list.
    """

    def __init__(
        self,
        photos: Sequence[PhotoSample],
        crops: Sequence[CropSample],
        world: World,
        seed: int,
        only_held_out: bool = False,
    ):
        self.photos, self.crops, self.countries = photos, crops, world.countries
        self.rng = np.random.default_rng(seed)
        self.names = sorted(name for name in world.names if held_out(name) == only_held_out)
        self.misread, self.most_results = 0.12, 6

    def pointing(self) -> SkillSample:
        """The photo, and the first turn of a trajectory on it."""
        photo = self.photos[self.rng.integers(len(self.photos))]
        country = self.countries[photo.country]
        if photo.bbox_2d is None:
            answer = largest_city_of(country)
            turn = format_turn(f"{self._say('guess', c=country.name)} {self._say('nothing')}", answer=answer)
        else:
            turn = self._look(country.name, KINDS[photo.kind], photo.bbox_2d)
        return SkillSample([*_opening(with_image=True), _says(turn)], photo.image)

    def reading(self) -> SkillSample:
        """A crop, the text on it, and the query that follows."""
        crop = self.crops[self.rng.integers(len(self.crops))]
        country = self._pick(self.countries).name
        look = self._look(country, self._pick(("sign", "board")), self.rng.integers(0, 100, 4) * 10)
        turn = self._read(crop.text, country)
        messages = [*_opening(), _says(look), _tool({"type": "image"}), _says(turn)]
        return SkillSample(messages, crop.image)

    def copying(self) -> SkillSample:
        """Names, countries and positions to be said again: what is needed before a page can be quoted."""
        rng, items = self.rng, []
        for _ in range(int(rng.integers(1, 7))):
            position = f"{rng.uniform(-60, 70):.2f}, {rng.uniform(-180, 180):.2f}"
            name, country = self._pick(self.names), self._pick(self.countries).name
            items.append((name, position, f"{name}, {country}", f"{name}, {country}: {position}")[int(rng.integers(4))])
        text = "\n".join(items)
        return SkillSample([{"role": "user", "content": text}, _says(text)], None)

    def judging(self) -> SkillSample:
        """A list of results, a verdict on each, and what follows from them."""
        country, name = self._pick(self.countries), self._pick(self.names)
        by_look, misread = self.rng.random() < 0.3, self.rng.random() < self.misread
        read = misspell(self.rng, name) if misread else name
        rows = self._results(country, name, by_look)
        listed = "\n".join(f"[{row.number}] {row.title}: {row.position or filler(self.rng)}" for row in rows)
        verdicts = [judge(row, country.name, "" if by_look else name) for row in rows]
        think, trusted = " ".join(map(str, verdicts)), [v for v in verdicts if v.trusted]
        useful = [verdict.row.number for verdict in trusted]
        if trusted:
            row = trusted[0].row
            answer = Answer(row.country, row.names[0] if by_look else name, *map(float, row.position.split(", ")))
            turn = format_turn(
                f"{think} {self._say('use', i=row.number, t=row.title, p=row.position)}", useful, answer=answer
            )
        elif by_look:
            answer = largest_city_of(country)
            turn = format_turn(f"{think} {self._say('none')}", useful, answer=answer)
        else:
            turn = format_turn(f"{think} {self._say('none')}", useful, tool_call=_text_search(read))
        box = self.rng.integers(0, 100, 4) * 10
        if by_look:
            before = [_says(self._look(country.name, self._pick(("landmark", "landmark", "sign", "board")), box, True))]
        else:
            look, crop = self._look(country.name, self._pick(("sign", "board")), box), {"type": "text", "text": ""}
            before = [_says(look), _tool(crop), _says(self._read(read, country.name))]
        messages = [*_opening(), *before, _tool({"type": "text", "text": listed}), _says(turn)]
        return SkillSample(messages, None)

    def _results(self, country: Country, name: str, by_look: bool) -> list[Row]:
        """Up to so many rows (copying is learned on the short ones): right pages, twins, neighbours, shops, noise.

        In a quarter of the lists hardly anything is about the country. Where such lists were rare, the answer that
        falls back on the guess named a country of the list instead.
        """
        rng, rows = self.rng, []
        at_home = 0.0 if rng.random() < 0.25 else 0.5
        lat, lon = rng.uniform(-55, 65), rng.uniform(-179, 179)
        for _ in range(min(int(rng.choice([1, 1, 2, 2, 3, 4, 5, 6, 6, 6])), self.most_results)):
            same_country, same_name = rng.random() < at_home, rng.random() < (0.3 if by_look else 0.6)
            where = (country if same_country else self._pick(self.countries)).name
            who = name if same_name else self._neighbour(name) if rng.random() < 0.3 else self._pick(self.names)
            kind = self._pick(ABOUT) if rng.random() < 0.85 else self._pick(("blog", "jersey", "restaurant"))
            words = {"n": who, "m": self._pick(self.names), "e": self._pick(self.countries).eatery}
            title = self._pick(TITLES[kind]).format(**words) + f", {where}"
            at = (rng.uniform(-55, 65), rng.uniform(-179, 179))
            if same_name and where == country.name:
                at = (lat + rng.normal(0, 0.03), lon + rng.normal(0, 0.03))
            stated = kind != "blog" and rng.random() < 0.65
            rows.append((title, f"{at[0]:.2f}, {at[1]:.2f}" if stated else ""))
        return [Row(number, *row) for number, row in enumerate(rows, 1)]

    def _neighbour(self, name: str) -> str:
        """A name that begins alike."""
        position = bisect_left(self.names, name) + int(self.rng.integers(-2, 3))
        return self.names[position % len(self.names)]

    def _look(self, country: str, kind: str, bbox_2d: Sequence[int], by_image: bool = False) -> str:
        """A first turn: the guess, what is seen, and a call with the box (reading it, unless it has no writing)."""
        tool = "image_search_tool" if by_image or kind == "landmark" else "image_zoom_in_tool"
        box = [int(round(v / 10) * 10) for v in bbox_2d]
        think = f"{self._say('guess', c=country)} {self._say('see', k=kind)}"
        return format_turn(think, tool_call=ToolCall(tool, {"bbox_2d": box}))

    def _read(self, name: str, country: str) -> str:
        """The turn after a zoom."""
        return format_turn(self._say("reads", n=name), tool_call=_text_search(f"{name} {country}"))

    def _say(self, phrase: str, **parts: object) -> str:
        return say(self.rng, phrase, **parts)

    def _pick(self, items: Sequence):
        return items[int(self.rng.integers(len(items)))]


def _opening(with_image: bool = False) -> list[dict]:
    messages = initial_messages(TINY)
    return with_photo(messages, [{"type": "image"}]) if with_image else messages


def _says(text: str) -> dict:
    return {"role": "assistant", "content": text}


def _tool(block: dict) -> dict:
    return {"role": "tool", "content": [block]}


def _text_search(query: str) -> ToolCall:
    return ToolCall("text_search_tool", {"query": query})


def whole_words(world: World) -> list[str]:
    """Words that deserve a token of their own: countries, and the wording of titles, snippets and turns."""
    phrases = [phrase for group in (*TITLES.values(), *WORDINGS.values(), FILLERS) for phrase in group]
    phrases += [*KINDS, "Where is this Find the place", "system user assistant"]
    phrases += [country.eatery for country in world.countries]
    bare = (re.sub(r"\{\w\}", " ", phrase) for phrase in phrases)
    words = {word for phrase in bare for word in re.findall("[A-Za-z]+", phrase) if len(word) > 1}
    return sorted(words | {country.name for country in world.countries})
