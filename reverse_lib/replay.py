"""How a recorded search answers again: what makes two calls the same, and the draw of what is shown.

Pure functions, without storage; `cache` keeps the records. Differs from the paper's code in that the draw depends on
(seed, photo, tool, arguments, call number) and on nothing else, so that it is the same in every process.
"""

import hashlib
import math
import operator
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from reverse_lib.search import SearchResult, normalise_query
from reverse_lib.trajectory import Trajectory

IMAGE, TEXT = "image_search_tool", "text_search_tool"


@dataclass(frozen=True)
class Call:
    """One search call as recorded."""

    tool: str
    photo_id: str
    arguments: list[float] | str  # box, or query
    results: tuple[SearchResult, ...]
    replace: bool = False
    backend: str = ""  # who answered, "" if nobody said
    time: float = 0.0  # when, seconds since 1970 UTC; 0 if unknown

    @cached_property
    def key(self) -> bytes:
        """Where it is kept, without the prefix; image and text searches have different ones."""
        return key_of(self.photo_id) + key_of(argument_text(self.tool, self.arguments))


def searches_of(trajectory: Trajectory) -> Iterator[Call]:
    """The searches of a rollout that reached their service, with the results shown; one without results is one too.

    Failed calls are left out, and so are searches with several queries at once: nothing tells which query brought what.
    """
    for step in trajectory.steps:
        seen = step.observation
        if seen is None or seen.tool not in (IMAGE, TEXT) or seen.status not in ("ok", "miss"):
            continue
        results = tuple(SearchResult(**result) for result in seen.results)
        if seen.tool == IMAGE:
            box = [float(round(edge)) for edge in seen.arguments["bbox_2d"]]
            yield Call(IMAGE, trajectory.photo_id, box, results)
            continue
        query = seen.arguments["query"]
        queries = [query] if isinstance(query, str) else query
        if len({normalise_query(text) for text in queries}) == 1:
            yield Call(TEXT, trajectory.photo_id, queries[0], results)


def key_of(text: str) -> bytes:
    """16 bytes for a text of any length and content; LMDB's keys end at 511 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def checked_text(what: str, value: object) -> str:
    """The value, if it is text; `ValueError` if it isn't."""
    if not isinstance(value, str):
        raise ValueError(f"{what} {value!r:.80}: not a text; give a str")
    return value


def argument_text(tool: str, arguments: list[float] | str) -> str:
    """Arguments in the form that makes two calls the same call."""
    return ",".join(f"{value:.2f}" for value in arguments) if tool == IMAGE else normalise_query(arguments)


def checked_box(bbox_2d: Sequence[float]) -> list[float]:
    """Four finite numbers, clipped to 0..1000.

    Raises:
        ValueError: If they aren't.
    """
    try:
        given = list(bbox_2d)
        values = [float(value) for value in given if math.isfinite(value)]
    except (TypeError, ValueError, OverflowError):
        given, values = [], []
    if len(values) != 4 or len(given) != 4:
        raise ValueError(f"box {bbox_2d!r:.80}: not four finite numbers; give [x1, y1, x2, y2] in 0..1000")
    return [min(max(value, 0.0), 1000.0) + 0.0 for value in values]


def area(box: Sequence[float]) -> float:
    """Area of a box in its own units; 0 when its corners are in the wrong order."""
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes, 0..1; 0 when either has no area."""
    common = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    return common / (area(a) + area(b) - common) if area(a) and area(b) else 0.0


def fields_of(result: SearchResult) -> tuple[str, str, str, str, bool | None]:
    """Title, address, source, snippet and label, in the order of `SearchResult`."""
    return result.title, result.url, result.source, result.snippet, result.useful


def checked_result(result: SearchResult) -> SearchResult:
    """The result with valid text and a plain label.

    Raises:
        ValueError: If it is no search result.
    """
    if not isinstance(result, SearchResult) or not all(isinstance(text, str) for text in fields_of(result)[:4]):
        raise ValueError(
            f"result {result!r:.200}: not a SearchResult of texts; convert it, with '' for what is missing"
        )
    texts = [text.encode("utf-8", "replace").decode() for text in fields_of(result)[:4]]
    return SearchResult(*texts, None if result.useful is None else bool(result.useful))


def merged(old: Iterable[SearchResult], new: Iterable[SearchResult]) -> tuple[SearchResult, ...]:
    """Both, each result once, in the order first seen; useful beats not useful, which beats unknown."""
    found: dict[tuple, SearchResult] = {}
    for result in (*old, *new):
        seen = found.setdefault(fields_of(result)[:4], result)
        if result.useful or seen.useful is None:
            found[fields_of(result)[:4]] = result
    return tuple(found.values())


def draw(results: Iterable[SearchResult], shown: int, max_useful: int, key: str, call: int) -> list[SearchResult]:
    """Samples and shuffles, as a function of its arguments alone.

    Two results or more come in another order or sample in call n + 1 than in call n: the one shown first moves on.
    """
    call = operator.index(call)
    generator = random.Random(_number(f"{key}\n{call}"))
    pool = sorted(results, key=lambda result: fields_of(result)[:4])
    useful = _shuffled([result for result in pool if result.useful], generator)[: min(max_useful, shown)]
    others = _shuffled([result for result in pool if not result.useful], generator)[: shown - len(useful)]
    chosen = sorted(useful + others, key=lambda result: fields_of(result)[:4])
    if not chosen:
        return []
    first = chosen.pop((_number(key) + call) % len(chosen))
    return [first, *_shuffled(chosen, generator)]


def _shuffled(items: list[SearchResult], generator: random.Random) -> list[SearchResult]:
    """Shuffles by `random()`, the one stream Python promises not to change between versions."""
    return [item for _, _, item in sorted((generator.random(), at, item) for at, item in enumerate(items))]


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(), "big")
