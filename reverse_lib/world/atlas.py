"""The miniature world as others use it: places, splits, photos, and searches that label themselves.

    world = World(seed=0, places=200)
    photo = world.photos("train", 1)[0]
    photo.load(), photo.marks, photo.cues
    world.live.text(photo.photo_id, "Valencia Spain")

Splits: train, val and test-seen are different views of the same "seen" places (75 %); test-new is the other places,
which no photo, poster or search of the other splits ever shows.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from PIL import Image

from reverse_lib.photos import Photo
from reverse_lib.photos import crop as cut
from reverse_lib.search import SearchAnswer, normalise_query
from reverse_lib.world.dice import stream
from reverse_lib.world.engine import Engine, SearchHit
from reverse_lib.world.pages import names_in
from reverse_lib.world.panels import Mark
from reverse_lib.world.places import (
    Country,
    Place,
    checked_size,
    choose_places,
    choose_spare,
    country_table,
    offset,
    spare_names,
)
from reverse_lib.world.scene import Scene, Writing, plan_scene, render
from reverse_lib.world.store import WorldStore

SPLITS = ("train", "val", "test-seen", "test-new")
SEEN_SHARE = 0.75  # of the places
POSTER_CITIES = 60  # cities besides the places that posters name
JITTER_KM = 3.0  # a photo's distance from its place's centre, at most
MAX_VIEWS = 4096  # views of one place and split: what fits into a photo id


class PhotoIds:
    """Opaque photo ids that their own world can read again: a four-round Feistel cipher over 64 bits.

    Half of the bits are a checksum, so that an id of another world, or anyone's own photo, is recognised at once.
    """

    def __init__(self, key: str) -> None:
        """`key` names the world."""
        self.key = key.encode()
        self.tag = self._mix(0, 0)

    def encode(self, place: int, number: int) -> str:
        """The id of a view: 16 hexadecimal digits, from two numbers below 65536."""
        left, right = self.tag, place << 16 | number
        for turn in range(1, 5):
            left, right = right, left ^ self._mix(turn, right)
        return f"{left:08x}{right:08x}"

    def decode(self, photo_id: str) -> tuple[int, int] | None:
        """The two numbers of an id, None if it isn't of this world."""
        if not re.fullmatch("[0-9a-f]{16}", photo_id):
            return None
        left, right = int(photo_id[:8], 16), int(photo_id[8:], 16)
        for turn in range(4, 0, -1):
            left, right = right ^ self._mix(turn, left), left
        return (right >> 16, right & 0xFFFF) if left == self.tag else None

    def _mix(self, turn: int, half: int) -> int:
        data = turn.to_bytes(1, "little") + half.to_bytes(4, "little")
        return int.from_bytes(hashlib.blake2b(data, digest_size=4, key=self.key).digest(), "little")


@dataclass(frozen=True)
class WorldPhoto(Photo):
    """A photo of the miniature world; `load` renders it."""

    place: Place | None = None
    view: int = 0  # number of the view of that place; splits never share one
    split: str = ""
    scene: Scene | None = field(default=None, repr=False)

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Annotated regions, informative ones and decoys, left to right."""
        return self.scene.marks

    @property
    def writings(self) -> tuple[Writing, ...]:
        """Everything that can be read in the photo and where, the marks' own texts included."""
        return self.scene.writings

    @property
    def cues(self) -> dict[str, str | None]:
        """Truths that are in the picture (`scene._cues`), None for those that are not."""
        return self.scene.cues

    def load(self) -> Image.Image:
        """Renders the photo: RGB, 640×480, the same bytes each time."""
        return render(self.scene)


class World:
    """A world is a function of its seed and the number of places; everything in it is made on demand.

    Places and search engine are kept on disk from the first use of `engine` on, and read from there later.

    Attributes:
        seed: Another seed gives other places and other photos.
        root: Folder in which worlds are kept.
        places: The places, in a seeded order.
        spare_cities: Cities besides the places, of other names, that posters show and the web knows.
    """

    def __init__(self, seed: int = 0, places: int = 200, root: str | Path | None = None) -> None:
        """Opens or chooses the places; pages, pictures and photos follow when they are asked for.

        Args:
            seed: World seed.
            places: Number of places, 24 to 20,000.
            root: Folder in which worlds are kept; None for `data/worlds`.

        Raises:
            ValueError: If `places` is out of range.
        """
        self.seed, size = int(seed), checked_size(places)
        self._store = WorldStore(self.seed, size, root)
        self.root = self._store.root
        kept = self._store.places()
        self.places = kept[0] if kept else choose_places(self.seed, size)
        self.spare_cities = kept[1] if kept else choose_spare(self.seed, self.places, POSTER_CITIES)
        self._photos: dict[str, WorldPhoto] = {}
        self._ids = PhotoIds(f"{self.seed} {size}")
        self._numbers = {place.place_id: number for number, place in enumerate(self.places)}

    @property
    def countries(self) -> tuple[Country, ...]:
        """The countries with their visible facts, by name."""
        return tuple(country_table().values())

    @cached_property
    def names(self) -> list[str]:
        """Thousands of city names that no place of this world bears, largest city first."""
        return spare_names(self.places)

    @cached_property
    def _sides(self) -> dict[str, list[Place]]:
        """Places of "seen" and "new".

        Every country with two places and more gets a new one first, then each in proportion to its places; a
        country keeps a seen one unless no other country has any to give.
        """
        by_country: dict[str, list[Place]] = {}
        for place in self.places:
            by_country.setdefault(place.country, []).append(place)
        held: dict[int, str] = {}  # place_id to country
        counts: Counter[str] = Counter()

        def turn(country: str) -> tuple:
            new, size = counts[country], len(by_country[country])
            return new >= size, new >= size - 1, new > 0, (new + 0.5) / size, -size, country

        for _ in range(round((1 - SEEN_SHARE) * len(self.places))):
            country = min(by_country, key=turn)
            counts[country] += 1
            held[by_country[country][-counts[country]].place_id] = country
        sides = {"seen": [place for place in self.places if place.place_id not in held]}
        return sides | {"new": [place for place in self.places if place.place_id in held]}

    def places_of(self, split: str) -> list[Place]:
        """The places of a split.

        Raises:
            ValueError: If there is no such split.
        """
        if split not in SPLITS:
            raise ValueError(f"split {split!r}: unknown; use one of {', '.join(SPLITS)}")
        return self._sides["new" if split == "test-new" else "seen"]

    def photos(self, split: str, n: int | None = None) -> list[WorldPhoto]:
        """The first `n` photos of a split: one of every place, then a second view of every place, and so on.

        Args:
            split: "train", "val", "test-seen" or "test-new".
            n: How many; None for one of every place.

        Raises:
            ValueError: If the split is unknown or `n` is beyond `MAX_VIEWS` views of every place.
        """
        places = self.places_of(split)
        n = len(places) if n is None else n
        if not 0 <= n <= MAX_VIEWS * len(places):
            raise ValueError(f"n={n}: choose a number from 0 to {MAX_VIEWS * len(places)} for {len(places)} places")
        return [self._photo(split, places[i % len(places)], i // len(places)) for i in range(n)]

    def photo(self, photo_id: str) -> WorldPhoto:
        """The photo of an id, whether or not `photos` has been called.

        Raises:
            KeyError: If it is no photo of this world.
        """
        if photo_id not in self._photos:
            place, number = self._ids.decode(photo_id) or (-1, 0)
            split = SPLITS[number % len(SPLITS)]
            if not 0 <= place < len(self.places) or self.places[place] not in self.places_of(split):
                raise KeyError(f"photo {photo_id!r}: not of the world with seed {self.seed}; check its seed and size")
            return self._photo(split, self.places[place], number // len(SPLITS))
        return self._photos[photo_id]

    def _photo(self, split: str, place: Place, view: int) -> WorldPhoto:
        number = view * len(SPLITS) + SPLITS.index(split)
        photo_id = self._ids.encode(self._numbers[place.place_id], number)
        if photo_id not in self._photos:
            scene = plan_scene(self.seed, place, number, self._poster_pool(split))
            lat, lon = offset(stream("jitter", self.seed, place.place_id, number), place.lat, place.lon, JITTER_KM)
            self._photos[photo_id] = WorldPhoto(
                photo_id=photo_id,
                source=None,
                lat=lat,
                lon=lon,
                country=place.country,
                city=place.name,
                regions=tuple(mark.bbox_2d for mark in scene.marks if mark.informative),
                place=place,
                view=number,
                split=split,
                scene=scene,
            )
        return self._photos[photo_id]

    def _poster_pool(self, split: str) -> list[Place]:
        return self._pools["new" if split == "test-new" else "seen"]

    @cached_property
    def _pools(self) -> dict[str, list[Place]]:
        """Cities that posters may name and murals show; those that are held out stay out of all other photos."""
        held_names = {place.name for place in self._sides["new"]}
        seen = [place for place in self._sides["seen"] if place.name not in held_names]
        return {"seen": seen + self.spare_cities, "new": self._sides["new"] + self.spare_cities}

    @cached_property
    def engine(self) -> Engine:
        """The search engine over this world's web."""
        return self._store.engine(self.places, self.spare_cities)

    @property
    def teacher(self):
        """The scripted teacher, which knows the truth about this world's photos."""
        from reverse_lib.world.teacher import ScriptedTeacher

        return ScriptedTeacher(self)

    def __reduce__(self):
        return World, (self.seed, len(self.places), self.root)

    @cached_property
    def live(self) -> LiveSearch:
        """The engine as a search backend that labels its own results."""
        return LiveSearch(self)


class LiveSearch:
    """`search.SearchBackend` over the miniature web.

    Results for this world's photos are labelled; for any other photo id they are not. Searches of training and
    validation photos never return pages that speak of places held out for test-new. The order shown carries no
    information: it is a function of (seed, photo, tool, arguments, call).
    """

    def __init__(self, world: World, k: int = 6) -> None:
        """Args: the world, and how many results an answer has at most."""
        self.world, self.k = world, k

    def image(
        self, photo_id: str, bbox_2d: Sequence[float], call: int = 0, crop: Image.Image | None = None
    ) -> SearchAnswer | None:
        """Searches by the look of a box; without `crop` it is cut from the photo. None when nothing is found."""
        photo = self._find(photo_id)
        if crop is None:
            if photo is None:
                return None
            crop = cut(photo.load(), bbox_2d)
        hits = self.world.engine.search_image(crop, self.k, self._hidden(photo))
        box = ",".join(str(round(float(value))) for value in bbox_2d)
        return self._answer(photo, hits, ("image", photo_id, box, call))

    def text(self, photo_id: str, query: str, call: int = 0) -> SearchAnswer | None:
        """Searches by words; None when no page has any of them."""
        photo = self._find(photo_id)
        hits = self.world.engine.search_text(query, self.k, self._hidden(photo))
        return self._answer(photo, hits, ("text", photo_id, normalise_query(query), call))

    def evidence(self, photo_id: str) -> list[str]:
        """Addresses of all pages that locate the photo; none where nothing in the photo tells its place."""
        photo = self._find(photo_id)
        if photo is None or not photo.regions:
            return []
        return [page.url for page in self.world.engine.pages_about(photo.place) if page.useful_for(photo.place)]

    def _find(self, photo_id: str) -> WorldPhoto | None:
        try:
            return self.world.photo(photo_id)
        except KeyError:
            return None

    def _hidden(self, photo: WorldPhoto | None) -> frozenset[str]:
        return self._held_out if photo is not None and photo.split in ("train", "val") else frozenset()

    @cached_property
    def _held_out(self) -> frozenset[str]:
        """Addresses of pages about test-new places, or that speak of a name which only such places bear."""
        new, seen = self.world.places_of("test-new"), self.world.places_of("train")
        ids = {place.place_id for place in new}
        names = {place.name for place in new} - {place.name for place in seen}
        pages = self.world.engine.pages
        return frozenset(
            page.url for page in pages if page.place_id in ids or not names.isdisjoint(names_in(page.title))
        )

    def _answer(self, photo: WorldPhoto | None, hits: list[SearchHit], key: tuple) -> SearchAnswer | None:
        if not hits:
            return None
        order = stream("shown", self.world.seed, *key).permutation(len(hits))
        pages = [hits[position].page for position in order]
        if photo is None:
            return SearchAnswer(tuple(page.result() for page in pages), frozenset(), labelled=False)
        flags = [bool(photo.regions) and page.useful_for(photo.place) for page in pages]
        results = tuple(page.result(flag) for page, flag in zip(pages, flags, strict=True))
        return SearchAnswer(results, frozenset(i for i, flag in enumerate(flags, 1) if flag))
