"""Any OpenAI-compatible chat server as an agent: a teacher, a policy to evaluate, or a judge.

It is asked with the same prompts, tools and budgets as a checkpoint of ours, and its text is read by the same grammar.
What differs from the paper's code: a service that fails is an error, never a turn of the model; limits are kept rather
than run into; tokens and cost are counted; and the key, which comes from the environment, is shown nowhere.

    endpoint = from_environment()                   # OPENAI_BASE_URL, OPENAI_MODEL, OPENAI_API_KEY
    frame = evaluate(endpoint, photos, search, endpoint.interface)

The photo and its regions leave this machine, as pixels without metadata; so does what the agent wrote and found.
"""

import copy
import email.utils
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import httpx
import openai
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from reverse_lib.environment import FULL, AgentError, AgentRefused, Interface, Reply, one_line
from reverse_lib.models.wire import CALLING, Pictures, Written, join_chunks, read_reply, request
from reverse_lib.profiles import variable
from reverse_lib.trajectory import TOOLS

OPENAI_URL = "https://api.openai.com/v1"
_WINDOW_S = 60.0
_RETRIED = {408, 409, 425, 429}  # and everything from 500
_REFUSED = {400, 413, 422}
_IMAGE_TOKENS = 1000  # a guess for the limit of tokens, corrected by what the reply says


class _Passing(Exception):
    """A failure that may be gone in a moment."""


@dataclass(frozen=True)
class EndpointConfig:
    """Which endpoint, how it is asked, and how hard."""

    base_url: str  # such as "http://localhost:8000/v1"
    model: str
    key_env: str = "OPENAI_API_KEY"  # NAME of the environment variable with the key; "" where none is needed
    calling: str = "native"  # how tools are called, one of wire.CALLING
    stream: bool = False  # replies in pieces: a slow one is not taken for a silent one
    concurrency: int = 8  # conversations at a time
    requests_per_min: int = 0  # at most; 0 for no limit
    tokens_per_min: int = 0  # read and written, at most; 0 for no limit
    timeout_s: float = 180  # longest silence of the server
    retries: int = 5  # of one request, after its first attempt
    longest_wait_s: float = 120  # before an attempt; a server that asks for more stops the run
    max_tokens: int = 2048  # of one turn; 0 leaves it to the server
    temperature: float | None = 0.7  # None leaves it to the server
    price_in: float = 0.0  # per million tokens read, in any currency
    price_out: float = 0.0  # per million tokens written
    image_px: int = 2048  # longest side of a picture sent
    image_format: str = "JPEG"  # or "PNG"
    reasoning_field: str = ""  # where the server wants earlier reasoning back, such as "reasoning_content"
    extra: Mapping[str, Any] = field(default_factory=dict)  # more fields for each request: {"reasoning_effort": "low"}

    def __post_init__(self):
        if not self.model:
            raise ValueError("EndpointConfig.model is empty; name a model, or set OPENAI_MODEL")
        if httpx.URL(self.base_url).scheme not in ("http", "https"):
            raise ValueError(f"EndpointConfig.base_url={self.base_url!r}: give an http(s) address that ends in /v1")
        for name, known in (("calling", CALLING), ("image_format", ("JPEG", "PNG"))):
            if getattr(self, name) not in known:
                raise ValueError(f"EndpointConfig.{name}={getattr(self, name)!r}: choose one of {', '.join(known)}")
        for item in fields(self):
            value, least = getattr(self, item.name), {"concurrency": 1, "image_px": 32}.get(item.name, 0)
            if item.type in (int, float) and not value >= least:
                raise ValueError(f"EndpointConfig.{item.name}={value!r}: give a number of at least {least}")
        if not self.timeout_s:
            raise ValueError("EndpointConfig.timeout_s=0: give the seconds after which a silent server has failed")


@dataclass
class Usage:
    """What was asked and what it cost."""

    requests: int = 0  # that were answered
    retries: int = 0  # attempts that failed
    tokens_in: int = 0
    tokens_out: int = 0
    uncounted: int = 0  # replies whose tokens the server did not count; they are in no sum
    cost: float = 0.0  # by the prices of the configuration
    seconds: float = 0.0  # between asking and being answered, added up over requests

    def add(self, other: "Usage") -> None:
        """Counts another one in."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))

    def to_dict(self) -> dict[str, float]:
        """Plain JSON types."""
        return asdict(self)


class Quota:
    """At most so many requests and tokens within any 60 s; who would exceed it waits.

    Args:
        requests: A minute; 0 for no limit.
        tokens: A minute; 0 for no limit. A request larger than that goes when nothing else went for a minute.
        clock: Seconds, monotonic.
        sleep: Waits for so many seconds.
    """

    def __init__(self, requests: int, tokens: int, clock: Callable[[], float], sleep: Callable[[float], object]):
        self._requests, self._tokens, self._clock, self._sleep = requests, tokens, clock, sleep
        self._sent: deque[list[float]] = deque()  # time and tokens of each request of the last minute
        self._held_until = clock()
        self._lock = threading.Lock()

    def take(self, tokens: float) -> list[float]:
        """Waits until a request of about so many tokens may go; returns its entry, for `settle`."""
        while True:
            with self._lock:
                wait_s = self._wait_s(tokens)
                if wait_s <= 0:
                    entry = [self._clock(), tokens]
                    self._sent.append(entry)
                    return entry
            self._sleep(wait_s)

    def settle(self, entry: list[float], tokens: float) -> None:
        """Says how many tokens it was in fact."""
        with self._lock:
            entry[1] = tokens

    def hold(self, seconds: float) -> None:
        """No request goes for so long."""
        with self._lock:
            self._held_until = max(self._held_until, self._clock() + seconds)

    def _wait_s(self, tokens: float) -> float:
        now = self._clock()
        while self._sent and self._sent[0][0] <= now - _WINDOW_S:
            self._sent.popleft()
        spent = sum(entry[1] for entry in self._sent)
        too_many = self._requests and len(self._sent) >= self._requests
        too_much = self._tokens and self._sent and spent + tokens > self._tokens
        full_s = self._sent[0][0] + _WINDOW_S - now if too_many or too_much else 0.0
        return max(full_s, self._held_until - now)


class Endpoint:
    """An agent for `environment.rollout` and `evaluation.evaluate` that asks a chat server.

    Args:
        config: Which server and how.
        interface: How the world is shown to it.
        tools: Names of the tools its prompt offers.
        clock: Seconds, monotonic.
        sleep: Waits for so many seconds.

    Attributes:
        name: The model's.
        concurrency: Conversations at a time; `rollout` then lets each go its own pace.
        usage: The sum over all requests so far.

    Raises:
        ValueError: The key is not set.
    """

    def __init__(
        self,
        config: EndpointConfig,
        interface: Interface = FULL,
        tools: Sequence[str] = TOOLS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ):
        self.config, self.interface, self.tools = config, interface, tuple(tools)
        self.name, self.concurrency, self.usage = config.model, config.concurrency, Usage()
        self._pictures = Pictures(config.image_px, config.image_format)
        self._clock, self._lock = clock, threading.Lock()
        self._quota = Quota(config.requests_per_min, config.tokens_per_min, clock, sleep)
        self._slots = threading.BoundedSemaphore(config.concurrency)
        self._client, self._without_key = _client(config)
        self._retrying = Retrying(
            stop=stop_after_attempt(config.retries + 1),
            wait=wait_random_exponential(multiplier=min(1, config.longest_wait_s), max=config.longest_wait_s),
            retry=retry_if_exception_type(_Passing),
            sleep=sleep,
            reraise=True,
        )

    def __repr__(self) -> str:
        return f"Endpoint({self.name!r} at {self.config.base_url})"

    def __call__(self, conversations: Sequence[Sequence[Mapping]]) -> list[str]:
        """The next turn of each conversation, in their order; as many at a time as may be.

        Raises:
            AgentError: The endpoint kept failing, or refuses a conversation; names the model, the address and why.
        """
        if len(conversations) == 1:
            return [self.respond(conversations[0])]
        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(self.respond, conversations))

    def without_tools(self) -> "Endpoint":
        """The same endpoint, with the same limits and the same account, whose prompt offers no tools."""
        twin = copy.copy(self)
        twin.tools = ()
        return twin

    def respond(self, messages: Sequence[Mapping]) -> Reply:
        """The next turn of one conversation; errors as in a call."""
        body, used, failure = self._body(messages), Usage(), None
        started = self._clock()
        try:
            written = self._retrying(self._attempt, body, used)
        except _Passing as passing:
            failure = self._error(f"{passing}, {self.config.retries + 1} attempts in a row")
        finally:
            used.seconds = self._clock() - started
            with self._lock:
                self.usage.add(used)
        if failure:
            raise failure
        if written.finish == "content_filter":
            raise self._error("its content filter withholds the reply", AgentRefused)
        return Reply(written.text(), seconds=used.seconds, usage=used.to_dict())

    def _attempt(self, body: dict[str, Any], used: Usage) -> Written:
        """One request. Failures are raised outside their handlers, since the library's errors hold the request."""
        written = failure = None
        with self._slots:
            entry = self._quota.take(_estimate(body))
            try:
                written = self._send(body)
            except openai.APIStatusError as error:
                failure = self._status_failure(error)
            except openai.APITimeoutError:
                failure = _Passing(f"no answer within {self.config.timeout_s:g} s")
            except (openai.APIConnectionError, httpx.HTTPError):
                failure = _Passing("the connection failed or was cut")
            except openai.APIError as error:
                failure = _Passing(f"the service reports an error{self._said(error)}")
            except ValueError as error:  # broken JSON, or another shape than documented
                failure = _Passing(f"the reply can't be read ({type(error).__name__})")
        if failure:
            used.retries += 1
            raise failure
        self._count(used, entry, written)
        return written

    def _send(self, body: dict[str, Any]) -> Written:
        options = {"stream_options": {"include_usage": True}} if self.config.stream else {}
        made = self._client.chat.completions.create(
            model=self.config.model, stream=self.config.stream, extra_body=dict(self.config.extra), **options, **body
        )
        if self.config.stream:
            with made:
                return read_reply(join_chunks(_plain(chunk) for chunk in made))
        return read_reply(_plain(made))

    def _body(self, messages: Sequence[Mapping]) -> dict[str, Any]:
        config = self.config
        body = request(messages, self.tools, config.calling, self._pictures, config.reasoning_field)
        limits = {"max_tokens": config.max_tokens or None, "temperature": config.temperature}
        return body | {name: value for name, value in limits.items() if value is not None}

    def _count(self, used: Usage, entry: list[float], written: Written) -> None:
        used.requests += 1
        if written.tokens_in is None or written.tokens_out is None:
            used.uncounted += 1
            return
        used.tokens_in, used.tokens_out = written.tokens_in, written.tokens_out
        used.cost = (used.tokens_in * self.config.price_in + used.tokens_out * self.config.price_out) / 1e6
        self._quota.settle(entry, used.tokens_in + used.tokens_out)

    def _status_failure(self, error) -> Exception:
        """What a status other than 200 means, with what the service says about it."""
        status, said = error.status_code, self._said(error)
        if status in _REFUSED:
            return self._error(f"HTTP {status}, this conversation is refused{said}", AgentRefused)
        if (status not in _RETRIED and status < 500) or error.code == "insufficient_quota":
            key = self.config.key_env or "none is sent"
            return self._error(f"HTTP {status}{said}; check address, model, account and the key ({key})")
        wait_s = _retry_after_s(error.response.headers)
        if wait_s > self.config.longest_wait_s:
            return self._error(f"HTTP {status}, asks to wait {wait_s:,.0f} s{said}; go on later")
        self._quota.hold(wait_s)
        return _Passing(f"HTTP {status}{said}")

    def _said(self, error) -> str:
        """The service's own words, short, on one line and without the key."""
        message = error.body.get("message") if isinstance(error.body, dict) else None
        return f" ({self._without_key(one_line(message))[:200]})" if isinstance(message, str) and message else ""

    def _error(self, why: str, kind: type[AgentError] = AgentError) -> AgentError:
        return kind(f"{self.name} at {self.config.base_url}: {why}")


def from_environment(interface: Interface = FULL, tools: Sequence[str] = TOOLS, **settings) -> Endpoint:
    """The endpoint that the environment names: OPENAI_BASE_URL, OPENAI_MODEL and OPENAI_API_KEY.

    Args:
        interface: How the world is shown to it.
        tools: Names of the tools its prompt offers.
        **settings: Fields of `EndpointConfig`; what is given here is not looked for.

    Raises:
        ValueError: There is no model or no key, or a setting is impossible; names it.
    """
    named = {"base_url": variable("OPENAI_BASE_URL") or OPENAI_URL, "model": variable("OPENAI_MODEL")}
    return Endpoint(EndpointConfig(**named | settings), interface, tools)


def _client(config: EndpointConfig):
    """The library's client, and a function that takes the key out of a text; neither shows the key."""
    key = variable(config.key_env) if config.key_env else ""
    if config.key_env and not key:
        raise ValueError(f"{config.model}: no key; set the environment variable {config.key_env}, or key_env=''")

    def signed(call: httpx.Request) -> httpx.Request:  # so that nothing but the request itself holds the key
        if key:
            call.headers["Authorization"] = f"Bearer {key}"
        return call

    # Endpoint._slots bounds the connections; waiting for one of a pool would count as the server's silence
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=config.concurrency)
    http = httpx.Client(auth=signed, timeout=config.timeout_s, limits=limits)
    client = openai.OpenAI(
        base_url=config.base_url,
        api_key="none",
        admin_api_key="",
        webhook_secret="",
        timeout=config.timeout_s,
        max_retries=0,
        http_client=http,
    )
    return client, lambda text: text.replace(key, "…") if key else text


def _plain(made) -> dict[str, Any]:
    """A reply of the library, or a piece of one, as it came."""
    if not isinstance(made, openai.BaseModel):
        raise ValueError("no JSON object")
    return made.to_dict(warnings=False)


def _estimate(body: Mapping[str, Any]) -> float:
    """About how many tokens a request will use: four characters each, a guess a picture, and all it may write."""
    total = float(body.get("max_tokens", 0))
    for message in body["messages"]:
        content = message["content"]
        for block in [{"text": content}] if isinstance(content, str) else content:
            total += len(block["text"]) / 4 if "text" in block else _IMAGE_TOKENS
    return total


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """How long a server asks to be left alone, in seconds or until a date; 0 where it says nothing readable."""
    text = headers.get("retry-after", "").strip()
    if text.replace(".", "", 1).isdecimal():
        return float(text)
    date = email.utils.parsedate_tz(text) if text else None
    return max(0.0, email.utils.mktime_tz(date) - time.time()) if date else 0.0
