"""What all live services share: a bounded HTTP client with retries, whose key appears nowhere."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from reverse_lib.profiles import variable
from reverse_lib.search.results import ServiceError

_RETRIED = {408, 425, 429, 500, 502, 503, 504}
_MAX_BYTES = 5_000_000  # of an answer


class _Passing(Exception):
    """A failure that may be gone in a moment."""


class Service:
    """One HTTP service: bounded in time, connections and calls a minute; its key appears nowhere.

    Args:
        name: For messages.
        base_url: Scheme and host; requests go nowhere else, redirects are not followed.
        key_variable: Environment variable that holds the key.
        header: Makes the header that carries the key.
        per_minute: Calls at most; further ones wait.
        timeout_s: Of one attempt.
        attempts: Of one call, with growing pauses in between.
        wait_s: Longest pause.
        connections: Open at a time.

    Raises:
        ValueError: The key is not set, or the address is not http(s).
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        key_variable: str,
        header: Callable[[str], Mapping[str, str]],
        per_minute: float = 60,
        timeout_s: float = 20,
        attempts: int = 4,
        wait_s: float = 20,
        connections: int = 8,
    ):
        if httpx.URL(base_url).scheme not in ("http", "https"):
            raise ValueError(f"{name}: {base_url!r} is no http(s) address")
        key = variable(key_variable)
        if not key:
            raise ValueError(f"{name}: no key; set the environment variable {key_variable}")
        self.name, self._pause_s, self._free_at, self._lock = name, 60 / per_minute, 0.0, threading.Lock()
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)

        def signed(request: httpx.Request) -> httpx.Request:  # so that the client's own headers don't hold the key
            request.headers.update(header(key))
            return request

        self._http = httpx.Client(base_url=base_url, auth=signed, timeout=timeout_s, limits=limits)
        self._retrying = Retrying(
            stop=stop_after_attempt(attempts),
            wait=wait_random_exponential(multiplier=min(0.5, wait_s), max=wait_s),
            retry=retry_if_exception_type(_Passing),
            reraise=True,
        )

    def post(self, path: str, body: Mapping[str, Any]) -> dict:
        """Send JSON, get JSON.

        Raises:
            ServiceError: The service failed, refused, or answered something else than a JSON object. The text names
                the service and the status, and nothing of what was sent.
        """
        try:
            return self._retrying(self._once, path, body)
        except _Passing as failure:
            raise ServiceError(f"{self.name}: {failure}") from None

    def _once(self, path: str, body: Mapping[str, Any]) -> dict:
        with self._lock:
            now = time.monotonic()
            wait_s, self._free_at = max(0.0, self._free_at - now), max(now, self._free_at) + self._pause_s
        time.sleep(wait_s)
        try:
            with self._http.stream("POST", path, json=dict(body)) as response:
                status, content = response.status_code, b""
                for piece in response.iter_bytes():
                    content += piece
                    if len(content) > _MAX_BYTES:
                        raise ServiceError(f"{self.name}: the answer is longer than {_MAX_BYTES:,} bytes")
        except httpx.HTTPError as error:
            raise _Passing(f"no answer ({type(error).__name__})") from None
        if status in _RETRIED:
            raise _Passing(f"HTTP {status}")
        if status != 200:
            raise ServiceError(f"{self.name}: HTTP {status}; check key, quota and settings")
        return self._json(content)

    def _json(self, content: bytes) -> dict:
        try:
            answer = httpx.Response(200, content=content).json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ServiceError(f"{self.name}: the answer is no JSON object")
        return answer
