"""Two live services as one search backend, and what they found as results."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from reverse_lib.search.results import BlockList, SearchAnswer, SearchResult, ServiceError, filter_results

Found = Iterable[Mapping]


class LiveSearch:
    """A `search.SearchBackend` that asks live services; what is not given is a miss.

    Args:
        text: Answers a query with results, such as `Tavily()`.
        image: Answers (photo id, box, cut-out) with results, such as `GoogleVision()`.
        blocked_hosts: Hosts beyond Flickr's whose pages must not be shown, or a `BlockList`.
        shown: Results of an answer, at most.
    """

    def __init__(
        self,
        text: Callable[[str], list[SearchResult]] | None = None,
        image: Callable[[str, Sequence[float], object], list[SearchResult]] | None = None,
        blocked_hosts: str | Iterable[str] | BlockList = (),
        shown: int = 10,
    ):
        self._text, self._image, self._shown = text, image, shown
        self._blocked = BlockList.extended(blocked_hosts)

    def text(self, photo_id: str, query: str, call: int = 0) -> SearchAnswer | None:
        """Searches by words; a failing service raises `ServiceError`."""
        return self._answer(self._text(query) if self._text else [])

    def image(self, photo_id: str, bbox_2d: Sequence[float], call: int = 0, crop=None) -> SearchAnswer | None:
        """Searches with a region of the photo; a failing service raises `ServiceError`."""
        return self._answer(self._image(photo_id, bbox_2d, crop) if self._image else [])

    def evidence(self, photo_id: str) -> list[str]:
        """Nobody knows."""
        return []

    def _answer(self, found: list[SearchResult]) -> SearchAnswer | None:
        kept = filter_results(found, self._blocked)[: self._shown]
        return SearchAnswer(tuple(kept), frozenset(), labelled=False) if kept else None


def results_of(service: str, answer: Mapping, key: str) -> list[Mapping]:
    """The list under a key of an answer; no such key means that nothing was found.

    Raises:
        ServiceError: What is there is no list of objects.
    """
    found = answer.get(key) or []
    if not isinstance(found, list) or not all(isinstance(item, Mapping) for item in found):
        raise ServiceError(f"{service}: {key!r} of the answer is no list of objects")
    return found


def text_of(item: Mapping, key: str) -> str:
    """A text field of a result, "" when it is missing or something else."""
    value = item.get(key)
    return value if isinstance(value, str) else ""
