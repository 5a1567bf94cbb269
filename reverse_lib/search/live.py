"""Live search services: Tavily and Serper for words, Google Cloud Vision for a region of a photo.

Each is asked over one bounded HTTP client with retries (`profiles.ServiceLimits`), whose key comes from an environment
variable and appears nowhere else. What fails, in whatever words, is a `ServiceError`; only an answer that lists nothing
is a miss. `LiveSearch` makes a backend of two services, `configured` of those that a user has keys for.
"""

import base64
import io
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from reverse_lib.profiles import ServiceLimits, variable
from reverse_lib.search.cache import IMAGE, TEXT
from reverse_lib.search.results import BlockList, SearchAnswer, SearchResult, ServiceError, filter_results

_RETRIED = {408, 425, 429, 500, 502, 503, 504}


class LiveSearch:
    """A `SearchBackend` that asks live services; what is not given is a miss.

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
        shown: int = ServiceLimits.max_results,
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

    def _answer(self, results: list[SearchResult]) -> SearchAnswer | None:
        kept = filter_results(results, self._blocked)[: self._shown]
        return SearchAnswer(tuple(kept), frozenset(), labelled=False) if kept else None


class _Passing(Exception):
    """A failure that may be gone in a moment."""


class Service:
    """One HTTP service: bounded in time, connections and calls a minute; its key appears nowhere.

    Args:
        base_url: Scheme and host, "" for the service's own; requests go nowhere else, redirects are not followed.
        **limits: Fields of `profiles.ServiceLimits`.

    Raises:
        ValueError: The key is not set, or the address is not http(s).
    """

    name: ClassVar[str]  # for messages
    address: ClassVar[str]  # where it is
    key_variable: ClassVar[str]  # environment variable that holds the key
    header: ClassVar[tuple[str, str]]  # carries the key: its name, and what stands before the key

    def __init__(self, base_url: str = "", **limits):
        base_url, self.limits = base_url or self.address, ServiceLimits(**limits)
        if httpx.URL(base_url).scheme not in ("http", "https"):
            raise ValueError(f"{self.name}: {base_url!r} is no http(s) address")
        key = variable(self.key_variable)
        if not key:
            raise ValueError(f"{self.name}: no key; set the environment variable {self.key_variable}")
        self._free_at, self._lock = 0.0, threading.Lock()

        def signed(request: httpx.Request) -> httpx.Request:  # so that the client's own headers don't hold the key
            header, prefix = self.header
            request.headers[header] = prefix + key
            return request

        open_at_a_time = dict.fromkeys(("max_connections", "max_keepalive_connections"), self.limits.connections)
        self._http = httpx.Client(
            base_url=base_url, auth=signed, timeout=self.limits.timeout_s, limits=httpx.Limits(**open_at_a_time)
        )
        self._retrying = Retrying(
            stop=stop_after_attempt(self.limits.attempts),
            wait=wait_random_exponential(multiplier=min(0.5, self.limits.wait_s), max=self.limits.wait_s),
            retry=retry_if_exception_type(_Passing),
            reraise=True,
        )

    def _post(self, path: str, body: Mapping[str, Any]) -> dict:
        """Sends JSON, gets a JSON object.

        Raises:
            ServiceError: The service failed, refused, or answered something else. The text names the service and the
                status, and nothing of what was sent.
        """
        try:
            return self._retrying(self._once, path, body)
        except _Passing as failure:
            raise ServiceError(f"{self.name}: {failure}") from None

    def _once(self, path: str, body: Mapping[str, Any]) -> dict:
        with self._lock:
            now = time.monotonic()
            wait_s = max(0.0, self._free_at - now)
            self._free_at = max(now, self._free_at) + 60 / self.limits.per_minute
        time.sleep(wait_s)
        try:
            with self._http.stream("POST", path, json=dict(body)) as response:
                status, content = response.status_code, b""
                for piece in response.iter_bytes():
                    content += piece
                    if len(content) > self.limits.max_bytes:
                        raise ServiceError(f"{self.name}: the answer is longer than {self.limits.max_bytes:,} bytes")
        except httpx.HTTPError as error:
            raise _Passing(f"no answer ({type(error).__name__})") from None
        if status in _RETRIED:
            raise _Passing(f"HTTP {status}")
        if status != 200:
            raise ServiceError(f"{self.name}: HTTP {status}; check key, quota and settings")
        try:
            answer = httpx.Response(200, content=content).json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ServiceError(f"{self.name}: the answer is no JSON object")
        return answer

    def _listed(self, answer: Mapping, key: str) -> list[Mapping]:
        """The objects that an answer lists under a key; no such key means that there are none.

        Raises:
            ServiceError: What is there is no list of objects.
        """
        objects = answer.get(key) or []
        if not isinstance(objects, list) or not all(isinstance(item, Mapping) for item in objects):
            raise ServiceError(f"{self.name}: {key!r} of the answer is no list of objects")
        return objects


class Tavily(Service):
    """Pages for a query, with an excerpt each: https://docs.tavily.com/documentation/api-reference/endpoint/search"""

    name, address, key_variable = "Tavily", "https://api.tavily.com", "TAVILY_API_KEY"
    header = "Authorization", "Bearer "

    def __call__(self, query: str) -> list[SearchResult]:
        """Pages in the service's order, 1 to 20; a failing service raises `ServiceError`."""
        body = {"query": query, "max_results": self.limits.max_results, "search_depth": "basic"}
        return [
            _result(item, "title", "url", "content") for item in self._listed(self._post("/search", body), "results")
        ]


class Serper(Service):
    """Pages that Google has for a query, with an excerpt each: https://serper.dev"""

    name, address, key_variable = "Serper", "https://google.serper.dev", "SERPER_API_KEY"
    header = "X-API-KEY", ""

    def __call__(self, query: str) -> list[SearchResult]:
        """Pages in the service's order, 1 to 100; a failing service raises `ServiceError`."""
        answer = self._post("/search", {"q": query, "num": self.limits.max_results})
        return [_result(item, "title", "link", "snippet") for item in self._listed(answer, "organic")]


class GoogleVision(Service):
    """Pages with a picture like a region: https://cloud.google.com/vision/docs/detecting-web

    The region's pixels go inline in the request and are put nowhere else.
    """

    name, address, key_variable = "Google Cloud Vision", "https://vision.googleapis.com", "GOOGLE_API_KEY"
    header = "x-goog-api-key", ""

    def __call__(self, photo_id: str, bbox_2d: Sequence[float], crop) -> list[SearchResult]:
        """Pages in the service's order.

        Args:
            photo_id: Not sent.
            bbox_2d: Not sent.
            crop: The region as a PIL image.

        Raises:
            ServiceError: The service failed.
            ValueError: There is no cut-out.
        """
        if crop is None:
            raise ValueError(f"photo {photo_id}: an image search by {self.name} needs the cut-out region")
        feature = {"type": "WEB_DETECTION", "maxResults": self.limits.max_results}
        request = {"image": {"content": self._encoded(crop)}, "features": [feature]}
        answers = self._listed(self._post("/v1/images:annotate", {"requests": [request]}), "responses")
        answer = answers[0] if answers else {}
        if "error" in answer:
            raise ServiceError(f"{self.name}: the service reports an error for this picture")
        detection = answer.get("webDetection") or {}
        if not isinstance(detection, dict):
            raise ServiceError(f"{self.name}: 'webDetection' of the answer is no object")
        pages = [_result(page, "pageTitle", "url") for page in self._listed(detection, "pagesWithMatchingImages")]
        return [SearchResult(page.title.replace("<b>", "").replace("</b>", ""), page.url) for page in pages]

    def _encoded(self, crop) -> str:
        """The picture alone, small, as base64 JPEG; a new picture, so no metadata comes along."""
        clean = crop.convert("RGB")
        clean.thumbnail((self.limits.max_side_px,) * 2)
        clean = clean.copy()
        clean.info.clear()
        data = io.BytesIO()
        clean.save(data, "JPEG", quality=90)
        return base64.b64encode(data.getvalue()).decode()


def _result(item: Mapping, title: str, url: str, snippet: str = "") -> SearchResult:
    """A result from the fields of these names, "" for what is missing or no text."""
    texts = [item[key] if isinstance(item.get(key), str) else "" for key in (title, url, snippet)]
    return SearchResult(texts[0], texts[1], snippet=texts[2])


SERVICES: dict[str, tuple[type[Service], ...]] = {TEXT: (Tavily, Serper), IMAGE: (GoogleVision,)}
"""By tool, those that can answer it; the first that has a key is asked."""
_SENT = {
    TEXT: "text searches send the agent's own words",
    IMAGE: f"image searches send the region cut out, as a new JPEG of at most {ServiceLimits.max_side_px:,} px",
}


def configured(tools: Sequence[str], **settings) -> tuple[LiveSearch, list[str]]:
    """A live search for some tools, by the first service for each that has a key.

    Args:
        tools: Names of the tools offered; those that search need a service.
        **settings: `blocked_hosts` and `shown`, as in `LiveSearch`.

    Returns:
        The search, and a sentence a tool: what will be sent, to whom, with which key.

    Raises:
        ValueError: A tool has no service with a key; names the variables.
    """
    services, sentences, missing = {}, [], []
    for tool in (name for name in SERVICES if name in tools):
        ready = next((kind for kind in SERVICES[tool] if variable(kind.key_variable)), None)
        if ready is None:
            missing.append(f"for {tool} set {' or '.join(kind.key_variable for kind in SERVICES[tool])}")
            continue
        services[tool] = ready()
        host = httpx.URL(ready.address).host
        sentences.append(f"{_SENT[tool]} to {ready.name} ({host}), with the key in {ready.key_variable}")
    if missing:
        raise ValueError(f"no live search service is configured: {', '.join(missing)}; or do without that tool")
    return LiveSearch(services.get(TEXT), services.get(IMAGE), **settings), sentences
