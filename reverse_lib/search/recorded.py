"""A live search service through the cache: what was asked before is answered from disk, what is new is kept.

What differs from the paper's code: which mode is on is said, a miss in mode "offline" stays one, a failing service is
an error and leaves nothing in the cache, and how far the cache has drifted from the live service can be measured. What
is shown comes from the cache also when the service was just asked, so that the first who asks sees what the next sees.

    with SearchCache.open("outputs/cache", mode="w", max_age_days=90) as cache:
        search = RecordedSearch(cache, LiveSearch(text=Tavily()), backend="tavily")
        search.text("photo-1", "Valencia Spain")          # asked once, then from disk for 90 days
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from reverse_lib.search.cache import IMAGE, Call, SearchCache
from reverse_lib.search.results import BlockList, SearchAnswer, SearchBackend, SearchResult, filter_results

MODES = ("offline", "record", "refresh")


class RecordedSearch:
    """A `SearchBackend` made of a cache and a live one.

    Args:
        cache: Opened for recording, but in mode "offline".
        live: What is asked; None in mode "offline".
        mode: "offline": the cache alone, never the service. "record": the cache, and on a miss (or a record older than
            its `max_age_days`) the service, whose answer is kept. "refresh": always the service, whose answer replaces
            what was kept for the same call.
        backend: Written into each new record.

    Raises:
        ValueError: The mode is unknown, or does not go with what else is given.
    """

    def __init__(self, cache: SearchCache, live: SearchBackend | None, mode: str = "record", backend: str = "live"):
        if mode not in MODES:
            raise ValueError(f"mode {mode!r}: choose one of {', '.join(MODES)}")
        if mode != "offline" and (live is None or cache.mode != "w"):
            raise ValueError(f"mode {mode!r}: needs a live service, and a cache opened with mode='w'")
        self.cache, self.live, self.mode, self.backend = cache, live, mode, backend
        self.reads_pixels = mode != "offline" and getattr(live, "reads_pixels", True)

    def image(self, photo_id: str, bbox_2d: Sequence[float], call: int = 0, crop=None) -> SearchAnswer | None:
        """Searches by picture.

        Raises:
            ServiceError: The service was asked and failed; nothing was recorded.
        """
        return self._search("image", photo_id, bbox_2d, call, crop)

    def text(self, photo_id: str, query: str, call: int = 0) -> SearchAnswer | None:
        """Searches by words; arguments and errors as in `image`."""
        return self._search("text", photo_id, query, call)

    def evidence(self, photo_id: str) -> list[str]:
        """What either knows."""
        live = self.live.evidence(photo_id) if self.live is not None else []
        return sorted({*self.cache.evidence(photo_id), *live})

    def _search(self, kind: str, photo_id: str, arguments, call: int, *crop) -> SearchAnswer | None:
        recorded, live = getattr(self.cache, kind), getattr(self.live, kind, None)
        answer = None if self.mode == "refresh" else recorded(photo_id, arguments, call)
        if answer is not None or self.mode == "offline":
            return answer
        results = _labelled(live(photo_id, arguments, call, *crop))
        record = self.cache.record_image if kind == "image" else self.cache.record_text
        record(photo_id, arguments, results, replace=self.mode == "refresh", backend=self.backend)
        return recorded(photo_id, arguments, call)


def _labelled(answer: SearchAnswer | None) -> list[SearchResult]:
    """The results of an answer, each with what the answer says about its usefulness."""
    if answer is None:
        return []
    other = False if answer.labelled else None
    return [replace(r, useful=True if i in answer.useful else other) for i, r in enumerate(answer.results, 1)]


def drift(
    calls: Iterable[Call],
    live: SearchBackend,
    crop_of: Callable[[str, Sequence[float]], object] | None = None,
    blocked: BlockList | None = None,
) -> pd.DataFrame:
    """How recorded answers differ from what the service says to the same calls now.

    Args:
        calls: Records, such as `cache.calls()` or some of them.
        live: The service to ask.
        crop_of: Makes the cut-out for (photo id, box), for a service that looks at pixels.
        blocked: For both sides; Flickr's hosts when None.

    Returns:
        A row a call: photo_id, tool, asked, backend, time (when it was recorded), cached and live (number of results),
        changed (0..1, share of all addresses seen that only one side has), useful (results labelled useful in the
        record), lost (of these, how many the service no longer returns).

    Raises:
        ServiceError: The service failed.
    """
    rows = []
    for call in calls:
        if call.tool == IMAGE:
            crop = crop_of(call.photo_id, call.arguments) if crop_of else None
            answer = live.image(call.photo_id, call.arguments, 0, crop)
        else:
            answer = live.text(call.photo_id, call.arguments, 0)
        before = filter_results(call.results, blocked or ())
        old, useful = {_address(r) for r in before}, {_address(r) for r in before if r.useful}
        new = {_address(r) for r in filter_results(answer.results if answer else (), blocked or ())}
        changed = len(old ^ new) / len(old | new) if old | new else 0.0
        origin = call.photo_id, call.tool, str(call.arguments), call.backend, call.time
        rows.append((*origin, len(old), len(new), changed, len(useful), len(useful - new)))
    columns = "photo_id tool asked backend time cached live changed useful lost".split()
    return pd.DataFrame(rows, columns=columns)


def _address(result: SearchResult) -> tuple[str, ...]:
    return (result.url,) if result.url else (result.title, result.snippet)


def training_search(
    mode: str, recorded: str | Path, folder: str | Path, live: SearchBackend, shown: int, backend: str = "live"
) -> tuple[SearchCache, SearchBackend]:
    """What answers searches while an agent is trained.

    Args:
        mode: "offline": what was recorded, and nothing else. "record": a copy of it, which learns from the service what
            it doesn't have. A student asks what its teacher never asked; offline, most of that is a miss, and an
            agent learns that searching does not pay. In this mode only the very call that was recorded is answered
            from the copy: a near one is asked anew, as it will be when the agent is on its own.
        recorded: A cache.
        folder: Where the copy goes, `search_cache`; an older one is replaced.
        live: The service.
        shown: Results of an answer, at most.
        backend: Written into each new record.

    Returns:
        The cache, to be closed after training, and the backend to train with.

    Raises:
        ValueError: The mode is neither.
    """
    if mode not in ("offline", "record"):
        raise ValueError(f"search={mode!r}: choose 'offline' or 'record'")
    if mode == "offline":
        cache = SearchCache.open(recorded, shown=shown)
        return cache, cache
    copy = Path(folder) / "search_cache"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(recorded, copy)
    cache = SearchCache.open(copy, mode="w", shown=shown, min_similarity=1.0, min_iou=1.0)
    return cache, RecordedSearch(cache, live, "record", backend)
