"""Text search by Tavily: https://docs.tavily.com/documentation/api-reference/endpoint/search"""

from reverse_lib.search.live.backend import results_of, text_of
from reverse_lib.search.live.client import Service
from reverse_lib.search.results import SearchResult


class Tavily:
    """Pages for a query, with an excerpt each; the key is TAVILY_API_KEY.

    Args:
        base_url: Where the service is.
        max_results: Asked for; 1 to 20.
        **limits: `per_minute`, `timeout_s`, `attempts`, `wait_s`, `connections`, as in `Service`.
    """

    def __init__(self, base_url: str = "https://api.tavily.com", max_results: int = 10, **limits):
        self.max_results = max_results
        self._service = Service("Tavily", base_url, "TAVILY_API_KEY", _header, **limits)

    def __call__(self, query: str) -> list[SearchResult]:
        """Pages in the service's order.

        Raises:
            ServiceError: The service failed.
        """
        body = {"query": query, "max_results": self.max_results, "search_depth": "basic"}
        found = results_of("Tavily", self._service.post("/search", body), "results")
        return [
            SearchResult(text_of(item, "title"), text_of(item, "url"), snippet=text_of(item, "content"))
            for item in found
        ]


def _header(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
