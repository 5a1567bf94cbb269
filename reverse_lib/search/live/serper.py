"""Text search and Google Lens by Serper: https://serper.dev"""

from collections.abc import Callable, Sequence

from reverse_lib.search.live.backend import results_of, text_of
from reverse_lib.search.live.client import Service
from reverse_lib.search.results import SearchResult

BASE_URL, KEY_VARIABLE = "https://google.serper.dev", "SERPER_API_KEY"


class Serper:
    """Pages for a query, with an excerpt each; the key is SERPER_API_KEY.

    Args:
        base_url: Where the service is.
        max_results: Asked for; 1 to 100.
        **limits: `per_minute`, `timeout_s`, `attempts`, `wait_s`, `connections`, as in `Service`.
    """

    def __init__(self, base_url: str = BASE_URL, max_results: int = 10, **limits):
        self.max_results = max_results
        self._service = Service("Serper", base_url, KEY_VARIABLE, _header, **limits)

    def __call__(self, query: str) -> list[SearchResult]:
        """Pages in the service's order.

        Raises:
            ServiceError: The service failed.
        """
        answer = self._service.post("/search", {"q": query, "num": self.max_results})
        return [
            SearchResult(text_of(item, "title"), text_of(item, "link"), snippet=text_of(item, "snippet"))
            for item in results_of("Serper", answer, "organic")
        ]


class SerperLens:
    """Pages with pictures like a region, by Google Lens, for crops that you host yourself.

    The service fetches the crop, so it must stand at a public address: think about who can see it there, and for how
    long. `GoogleVision` needs no such place.

    Args:
        address_of: (photo id, bbox_2d, cut-out) -> the https address where you put the cut-out.
        base_url: Where the service is.
        **limits: As in `Serper`.
    """

    def __init__(self, address_of: Callable[[str, Sequence[float], object], str], base_url: str = BASE_URL, **limits):
        self._address_of = address_of
        self._service = Service("Serper", base_url, KEY_VARIABLE, _header, **limits)

    def __call__(self, photo_id: str, bbox_2d: Sequence[float], crop) -> list[SearchResult]:
        """Pages in the service's order.

        Raises:
            ServiceError: The service failed.
            ValueError: `address_of` gave no https address.
        """
        url = self._address_of(photo_id, bbox_2d, crop)
        if not isinstance(url, str) or not url.startswith("https://"):
            raise ValueError(f"photo {photo_id}: address_of must give the https address of the crop, not {url!r:.80}")
        found = results_of("Serper", self._service.post("/lens", {"url": url}), "organic")
        return [SearchResult(text_of(one, "title"), text_of(one, "link"), text_of(one, "source")) for one in found]


def _header(key: str) -> dict[str, str]:
    return {"X-API-KEY": key}
