"""A small photo, a search that remembers what it was asked, and an agent with a script."""

import io
import math

import numpy as np
from PIL import Image

from reverse_lib.environment import TINY, GeoEnvironment
from reverse_lib.photos import Photo
from reverse_lib.search import SearchAnswer, SearchResult, ServiceError
from reverse_lib.trajectory import TOOLS, ToolCall, format_turn

ZOOM, IMAGE, TEXT = TOOLS
_NO_EDGES = (True, None, math.nan, math.inf, -math.inf, 10**400, 1e308, 1j, "9", [9], 1001, -1)
NO_BOXES = [None, "0,0,9,9", "1234", b"1234", 5, {}, {"x1": 1}, {0, 1, 2, 3}, np.array(3), np.zeros((2, 2))]
NO_BOXES += [[], [0, 0, 9], [0, 0, 9, 9, 9], [[0, 0, 9, 9]], [[1, 2], [3, 4]], np.array(["0", "0", "9", "9"])]
NO_BOXES += [["0", "0", "9", "9"], [False, False, True, True], *([0, 0, edge, 9] for edge in _NO_EDGES)]
NO_BOXES += [[9, 0, 0, 9], [0, 9, 9, 0], [9, 9, 0, 0], [0, 0, 0, 9], [5, 5, 5, 5], [0, 0, 1e-200, 1e-200]]
NO_BOXES += [[0.1, 0.2, 0.4, 0.45]]  # a box in 0..1


def picture(width=640, height=480) -> bytes:
    """A photo whose red channel tells x and whose green channel tells y."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    data = io.BytesIO()
    Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype("uint8")).save(data, "PNG")
    return data.getvalue()


def photo(photo_id="p1", **fields) -> Photo:
    return Photo(photo_id, picture(), lat=39.47, lon=-0.38, country="Spain", city="Valencia", **fields)


class FakeSearch:
    """Remembers what it was asked; finds two pages for anything but "nothing", and fails for "down"."""

    def __init__(self):
        self.asked = []

    def _answer(self, asked, word):
        self.asked.append(asked)
        if "down" in word:
            raise ServiceError("503 from https://example.org?key=SECRET")
        if "nothing" in word:
            return None
        results = tuple(
            SearchResult(f"{word} {i}", f"https://e.org/{word}/{i}", "e.org", f"snippet {i}") for i in (1, 2)
        )
        return SearchAnswer(results, frozenset({2}), match=0.8)

    def image(self, photo_id, bbox_2d, call=0, crop=None):
        return self._answer((photo_id, tuple(bbox_2d), call, crop), "picture")

    def text(self, photo_id, query, call=0):
        return self._answer((photo_id, query, call), query)

    def evidence(self, photo_id):
        return [f"https://e.org/{photo_id}"]


def make(search, interface=TINY, photos=None, **settings_) -> GeoEnvironment:
    photos = photos or [photo(), photo("p2")]
    environment = GeoEnvironment(search, {one.photo_id: one for one in photos}, interface, **settings_)
    environment.reset(photo_id=photos[0].photo_id)
    return environment


def call_text(name, **arguments) -> str:
    return format_turn("Look.", tool_call=ToolCall(name, arguments))


ANSWER = "<think>Sure.</think><answer>Spain, Valencia, 39.47, -0.38</answer>"


class Scripted:
    """Writes the texts of its scripts, one a turn, a script a photo in turn, and keeps what it was shown."""

    name = "scripted"

    def __init__(self, *scripts):
        self.scripts, self.seen, self.batches, self._photos = scripts, [], [], {}

    def respond_for(self, photo_ids, conversations):
        self.batches.append(len(conversations))
        texts = []
        for photo_id, messages in zip(photo_ids, conversations, strict=True):
            turn = sum(message["role"] == "assistant" for message in messages)
            script = self.scripts[self._photos.setdefault(photo_id, len(self._photos)) % len(self.scripts)]
            texts.append(script[min(turn, len(script) - 1)])
            self.seen.append((photo_id, messages))
        return texts


def same(a, b) -> bool:
    """Equal messages, pictures compared by their pixels."""
    if isinstance(a, Image.Image):
        return isinstance(b, Image.Image) and a.size == b.size and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b
