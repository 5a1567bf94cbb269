"""How a recorded search answers again: what makes two calls the same, and the draw of what is shown.

Pure functions, without storage; `cache` keeps the records. Differs from the paper's code in that the draw depends on
(seed, photo, tool, arguments, call number) and on nothing else, so that it is the same in every process.
"""

import hashlib
import math
import operator
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from reverse_lib.search.results import SearchResult, normalise_query
from reverse_lib.trajectory import Trajectory

IMAGE, TEXT = "image_search_tool", "text_search_tool"
_ORDER = operator.attrgetter("title", "url", "source", "snippet")


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
    facts: tuple = ()  # JSON values of whoever recorded it, one or more each time; no look-up reads them

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
    return "{:.2f},{:.2f},{:.2f},{:.2f}".format(*arguments) if tool == IMAGE else normalise_query(arguments)


def checked_box(bbox_2d: Sequence[float]) -> list[float]:
    """Four finite numbers, clipped to 0..1000.

    Raises:
        ValueError: If they aren't.
    """
    try:
        x1, y1, x2, y2 = given = list(bbox_2d)
        finite = math.isfinite(x1) and math.isfinite(y1) and math.isfinite(x2) and math.isfinite(y2)
    except (TypeError, ValueError, OverflowError):
        finite = False
    if not finite:
        raise ValueError(f"box {bbox_2d!r:.80}: not four finite numbers; give [x1, y1, x2, y2] in 0..1000")
    return [1000.0 if value > 1000 else float(value) if value > 0 else 0.0 for value in given]


def area(box: Sequence[float]) -> float:
    """Area of a box in its own units; 0 when its corners are in the wrong order."""
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes, 0..1; 0 when either has no area."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height  # what overlaps has an area
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


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


def in_order(results: Iterable[SearchResult]) -> list[SearchResult]:
    """The results in the order that `draw` wants: by title, address, source and snippet."""
    return sorted(results, key=_ORDER)


def draw(pool: Sequence[SearchResult], shown: int, max_useful: int, key: str, call: int) -> list[SearchResult]:
    """Samples and shuffles results, given `in_order`, as a function of its arguments alone.

    Two results or more come in another order or sample in call n + 1 than in call n: the one shown first moves on.
    """
    call, places = operator.index(call), range(len(pool))
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass"))
    turn = int.from_bytes(digest.digest(), "big") + call
    digest.update(f"\n{call}".encode())
    random_number = random.Random(int.from_bytes(digest.digest(), "big")).random
    is_useful = [result.useful is True for result in pool]
    if len(pool) <= shown and is_useful.count(True) <= max_useful:  # all are shown, so the sample need not be known
        chosen = list(places)
        for _ in places:
            random_number()
    else:
        useful = _shuffled([at for at in places if is_useful[at]], random_number)[: min(max_useful, shown)]
        others = _shuffled([at for at in places if not is_useful[at]], random_number)[: shown - len(useful)]
        chosen = sorted(useful + others)
    if not chosen:
        return []
    first = pool[chosen.pop(turn % len(chosen))]
    return [first, *[pool[at] for at in _shuffled(chosen, random_number)]]


def _shuffled(places: list[int], random_number: Callable[[], float]) -> list[int]:
    """Shuffles by `random()`, the one stream Python promises not to change between versions."""
    return [at for _, at in sorted([(random_number(), at) for at in places])]
