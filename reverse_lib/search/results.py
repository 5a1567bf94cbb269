"""What a search returns, who may answer one, and what must never be shown.

A backend (offline cache, miniature web, live service) answers two questions: an image search for a box of a photo and a
text search for a query. It returns a `SearchAnswer`, or `None` for a miss. A live service that fails raises
`ServiceError`, so that an outage is never mistaken for a miss nor scored as one.

Differs from the paper's code in two ways. Results from Flickr, where the benchmark photos come from, really are
dropped, also behind image proxies and archives (`BlockList`). Similarity of queries is computed on normalised words, so
that capitals, accents typed in two ways and punctuation make no difference.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol, runtime_checkable
from urllib.parse import unquote

FLICKR_HOSTS = (
    "flickr.com",
    "staticflickr.com",
    "flic.kr",
    "flickr.net",
    "flickriver.com",
    "flickrhivemind.net",
    "hiveminer.com",
    "fluidr.com",
)
"""Flickr, its picture servers and short links, and sites that mirror its photo pages."""

_FLICKR_SOURCE = "flickr"  # what an image search prints as the source when it gives no host
_URL_MAX_CHARS = 20_000  # nothing beyond this is looked at; real addresses end near 2,000
_HOST_MAX_LABELS = 12
_RULES = "1"  # of blocking; change it when more results, or other ones, are found to come from a listed host
_DROPPED_QUERY_CATEGORIES = frozenset({"Cf", "Cs"})  # joiners, soft hyphens, lone surrogates
_APOSTROPHES = frozenset("'\u2019\u2018\u02bc`\u00b4")  # removed before NFKC turns some of them into spaces
_DOTS = str.maketrans({"\u3002": ".", "\uff0e": ".", "\uff61": ".", "\\": "/"})  # dots browsers accept in a host
_SCHEME = re.compile(r"^(https?:|[a-z][a-z0-9+.-]{0,30}:(?=/))")


class ServiceError(RuntimeError):
    """A search service failed; neither a miss nor a reason for a zero reward."""


@dataclass(frozen=True)
class SearchResult:
    """One result as a search service gave it.

    Attributes:
        title: Headline of the page.
        url: Address of the page.
        source: Site name or host.
        snippet: Excerpt of the page's text.
        useful: Whether it helps to locate the photo it was found for; `None` when nobody has labelled it.
    """

    title: str
    url: str
    source: str = ""
    snippet: str = ""
    useful: bool | None = None


@dataclass(frozen=True)
class SearchAnswer:
    """The results of one call, in the order they are shown.

    Attributes:
        results: What is shown; the order carries no information.
        useful: 1-based positions in `results` that are labelled useful.
        match: IoU (image) or similarity (text) of the call and the recorded call that answered it, 0..1; `None` live.
        labelled: Whether every result has a label; when False, `useful` says nothing about the others.
    """

    results: tuple[SearchResult, ...]
    useful: frozenset[int]
    match: float | None = None
    labelled: bool = True


@runtime_checkable
class SearchBackend(Protocol):
    """Anything that answers the agent's searches: cache, miniature web, live service.

    One that answers image searches without looking at `crop` may say `reads_pixels = False`.
    """

    def image(self, photo_id: str, bbox_2d: Sequence[float], call: int = 0, crop=None) -> SearchAnswer | None:
        """Searches by picture.

        Args:
            photo_id: The photo searched from.
            bbox_2d: [x1, y1, x2, y2] in 0..1000 of the photo.
            call: How often this photo was asked this very thing before, from 0.
            crop: The cut-out as an RGB picture, for backends that look at pixels.

        Returns:
            The answer, or `None` for a miss.
        """
        ...

    def text(self, photo_id: str, query: str, call: int = 0) -> SearchAnswer | None:
        """Searches by words; arguments and result as in `image`."""
        ...

    def evidence(self, photo_id: str) -> list[str]:
        """Addresses known to be useful answers to text searches for this photo; empty when unknown."""
        ...


def normalise_query(text: str) -> str:
    """Brings a query into the form in which queries are compared.

    NFKC, case folded, apostrophes removed, every other punctuation mark or mathematical, currency or modifier symbol
    turned into a space, white space collapsed. Applying it twice changes nothing.

    Args:
        text: Any string.

    Returns:
        Words separated by single spaces; empty when the query has none.
    """
    if text.isascii():
        return " ".join(text.translate(_ASCII_QUERY).split())
    text = "".join(char for char in text if char not in _APOSTROPHES)
    text = _fold(_fold(text))
    return " ".join("".join(map(_query_char, text)).split())


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _query_char(char: str) -> str:
    category = unicodedata.category(char)
    if char in _APOSTROPHES or category in _DROPPED_QUERY_CATEGORIES:
        return ""
    if category[0] in "PZ" or category in ("Sm", "Sc", "Sk", "Cc"):
        return " "
    return char


_ASCII_QUERY = {code: _query_char(chr(code).lower()) for code in range(128)}


def query_similarity(a: str, b: str) -> float:
    """Jaccard similarity of two queries' words, 0..1; 0 when either has no word."""
    return jaccard(*(frozenset(normalise_query(text).split()) for text in (a, b)))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Share of the words of either set that are in both, 0..1; 0 for two empty sets."""
    return len(a & b) / len(a | b) if a and b else 0.0


@dataclass(frozen=True)
class Failing:
    """A search service that is down: every search raises ServiceError. For learning, and testing, what to do then.

    Attributes:
        backend: What would have answered; still knows which pages are evidence.
    """

    backend: SearchBackend
    reads_pixels: ClassVar[bool] = False

    def image(self, photo_id: str, bbox_2d: Sequence[float], call: int = 0, crop=None) -> None:
        """Fails."""
        raise ServiceError("image search: switched off")

    def text(self, photo_id: str, query: str, call: int = 0) -> None:
        """Fails."""
        raise ServiceError("text search: switched off")

    def evidence(self, photo_id: str) -> list[str]:
        """What the backend says."""
        return self.backend.evidence(photo_id)


@dataclass(frozen=True)
class Withholding:
    """A search service that knows nothing of the place: evidence is missing from its answers.

    Attributes:
        backend: What answers. Of an answer without labels nothing is left, since any of it may be evidence.
    """

    backend: SearchBackend

    @property
    def reads_pixels(self) -> bool:
        """Whether the backend looks at `crop`."""
        return getattr(self.backend, "reads_pixels", True)

    def image(self, photo_id: str, bbox_2d: Sequence[float], call: int = 0, crop=None) -> SearchAnswer | None:
        """What the backend finds, without evidence; None if nothing is left."""
        return _without_evidence(self.backend.image(photo_id, bbox_2d, call, crop))

    def text(self, photo_id: str, query: str, call: int = 0) -> SearchAnswer | None:
        """What the backend finds, without evidence; None if nothing is left."""
        return _without_evidence(self.backend.text(photo_id, query, call))

    def evidence(self, photo_id: str) -> list[str]:
        """None: nothing that it shows is evidence."""
        return []


def _without_evidence(answer: SearchAnswer | None) -> SearchAnswer | None:
    if answer is None or not answer.labelled:
        return None
    left = tuple(result for number, result in enumerate(answer.results, 1) if number not in answer.useful)
    return SearchAnswer(left, frozenset(), answer.match) if left else None


@dataclass(frozen=True)
class BlockList:
    """Hosts whose pages must not reach the agent, because they may be the photo's own.

    Attributes:
        hosts: Host names, normalised. A host blocks itself and everything below it: "flickr.com" blocks
            "www.flickr.com" but not "notflickr.com" nor "flickr.com.example.org".
    """

    hosts: tuple[str, ...] = FLICKR_HOSTS

    def __post_init__(self) -> None:
        hosts = (self.hosts,) if isinstance(self.hosts, str) else self.hosts
        object.__setattr__(self, "hosts", tuple(dict.fromkeys(map(_listed_host, hosts))))

    @cached_property
    def _index(self) -> frozenset[str]:
        return frozenset(self.hosts)

    @cached_property
    def digest(self) -> str:
        """Names the list and what it does; results checked by a list of the same name need no second look."""
        return hashlib.sha256("\n".join((_RULES, *sorted(self.hosts))).encode()).hexdigest()[:16]

    @cached_property
    def _marks(self) -> tuple[str, ...]:
        """What is in every text that names a listed host, or may hide one."""
        return (_FLICKR_SOURCE, "%", "\\", *(host for host in self.hosts if _FLICKR_SOURCE not in host))

    @classmethod
    def extended(cls, hosts: "str | Iterable[str] | BlockList" = ()) -> "BlockList":
        """Flickr's hosts and further ones.

        Args:
            hosts: Host names; addresses and "*.example.com" are understood. A `BlockList` is returned as it is.

        Raises:
            ValueError: If an entry holds no host name.
        """
        if isinstance(hosts, BlockList):
            return hosts
        return cls(FLICKR_HOSTS + ((hosts,) if isinstance(hosts, str) else tuple(hosts)))

    def blocks_host(self, host: str) -> bool:
        """Whether a host name equals a listed one or lies below it."""
        labels = _host(_plain_url(host)).split(".")
        first = max(0, len(labels) - _HOST_MAX_LABELS)
        return any(".".join(labels[start:]) in self._index for start in range(first, len(labels)))

    def blocks_url(self, url: str) -> bool:
        """Whether an address leads to a listed host, directly or through a proxy that carries the address inside."""
        return any(self.blocks_host(host) for host in _hosts_in(url))

    def clears(self, results: Sequence[SearchResult]) -> bool:
        """Whether no result can come from a listed host, seen at one glance; when False, look at each.

        Printable ASCII without percent sign or backslash can hide a host between spaces alone.
        """
        text = "|".join([result.url for result in results] + [result.source for result in results])
        if not (text.isascii() and text.isprintable()):
            return False
        text = text.replace(" ", "").lower()
        return not any(word in text for word in self._marks)

    def blocks(self, result: SearchResult) -> bool:
        """Whether a result comes from a listed host, by its address or by its stated source."""
        source = result.source.strip()
        if source.casefold() == _FLICKR_SOURCE and self.blocks_host("flickr.com"):
            return True
        return self.blocks_url(result.url) or self.blocks_url(source.partition(" ")[0])


def filter_results(
    results: Iterable[SearchResult], blocked_hosts: str | Iterable[str] | BlockList = ()
) -> list[SearchResult]:
    """Drops results from Flickr and from listed hosts, keeping the order.

    Args:
        results: Any search results.
        blocked_hosts: Hosts beyond Flickr's, or a `BlockList` to use instead.

    Returns:
        The results that may be shown.
    """
    blocked, results = BlockList.extended(blocked_hosts), list(results)
    return results if blocked.clears(results) else [result for result in results if not blocked.blocks(result)]


def _plain_url(url: str) -> str:
    """Undoes what hides a host from a comparison: percent signs, wide letters, capitals, backslashes, white space."""
    url = url[:_URL_MAX_CHARS]
    if url.isascii() and url.isprintable() and not {"%", "\\", " "} & set(url):
        return url.lower()
    for _ in range(3):
        url = unquote(url)
    url = unicodedata.normalize("NFKC", url.translate(_DOTS)).casefold()
    return "".join(char for char in url if unicodedata.category(char) not in ("Cc", "Cf", "Zs"))


def _host(authority: str) -> str:
    return authority.rpartition("@")[2].partition(":")[0].strip(".")


def _hosts_in(url: str) -> set[str]:
    """Every host an address names.

    That is its own host; a host after a double slash further on ("https://archive.example/https://flickr.com/..."); and
    a piece of path or query that goes on with a path of its own ("https://proxy.example/live.staticflickr.com/1.jpg").
    A word such as "?ref=flickr.com" or "/wiki/Flickr.com" at the end of an address is none.
    """
    plain = _plain_url(url)
    plain = "//" + _SCHEME.sub("", plain, count=1).lstrip("/")
    hosts = set()
    pieces = re.split(r"([/?#&=|,;\"'()<>]+)", plain)
    for before, piece, after in zip(pieces[1::2], pieces[2::2], pieces[3::2] + [""], strict=False):
        if "//" in before or after.startswith("/"):
            hosts.add(_host(piece))
    return hosts - {""}


def _listed_host(entry: str) -> str:
    """Normalises one entry of a block list.

    Raises:
        ValueError: If there is no host name in it.
    """
    if not isinstance(entry, str):
        raise ValueError(f"blocked host {entry!r}: not a text; list host names such as 'example.com'")
    plain = _plain_url(entry)
    authority = re.split(r"[/?#]", _SCHEME.sub("", plain, count=1).lstrip("/"))[0]
    host = _host(authority).removeprefix("*.").strip(".")
    if not host or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", host):
        raise ValueError(f"blocked host {entry!r}: no host name; list host names such as 'example.com'")
    return host
