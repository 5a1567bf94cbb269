"""What a recorded call looks like on disk: entries of the search cache as bytes, and back.

A call has an index entry (the photo and the arguments in full, which look-ups compare), a body (its results, who
answered and when) and, where there is more to tell, its facts, which no look-up reads. All are JSON, so that reading
them runs nothing. A long body is compressed; a body that fits a page of the file is not, because unpacking it would
take longer than everything else about reading it.
"""

import json
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import orjson

from reverse_lib.search.replay import IMAGE, TEXT, Call, fields_of, in_order
from reverse_lib.search.results import SearchResult, normalise_query

INDEX = {IMAGE: b"i", TEXT: b"t"}  # photo, arguments -> the arguments in full
BODY = {IMAGE: b"I", TEXT: b"T"}  # photo, arguments -> results
FACTS = b"f"  # photo, arguments -> what else is known
PHOTO = b"p"  # photo -> its id in full
_PAGE_BYTES = 4080  # of a page of LMDB's, less its header


def pack_index(call: Call) -> bytes:
    """Photo id and arguments, and of a query its words in the form in which queries are compared."""
    words = [normalise_query(call.arguments)] if call.tool == TEXT else []
    return json.dumps([call.photo_id, call.arguments, *words]).encode()


def unpack(value: bytes | None) -> Any:
    """The JSON value of an entry that is never compressed.

    Raises:
        ValueError, TypeError: It is none.
    """
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:  # a lone surrogate, of an odd file name say, is none of its business
        return json.loads(value)


def words_of(index: list) -> frozenset[str]:
    """The distinct words of a recorded query."""
    return frozenset((index[2] if len(index) > 2 else normalise_query(index[1])).split())


class Body(NamedTuple):
    """What was found, by whom and when.

    Attributes:
        pool: The results `replay.in_order`, ready to draw from.
        order: Where in `pool` the first, second, ... recorded result is.
        backend: Who answered.
        time: When, in seconds since 1970 UTC.
        checked: Digest of the block list that all results have passed, "" if there is no such list.
    """

    pool: list[SearchResult]
    order: list[int]
    backend: str = ""
    time: float = 0.0
    checked: str = ""

    @property
    def results(self) -> tuple[SearchResult, ...]:
        """The results as they were recorded."""
        return tuple([self.pool[at] for at in self.order])


def pack_body(results: Sequence[SearchResult], backend: str, time: float, checked: str) -> bytes:
    """The inverse of `unpack_body`."""
    pool = in_order(results)
    place = {id(result): at for at, result in enumerate(pool)}
    order = [place[id(result)] for result in results]
    body = json.dumps([[fields_of(one) for one in pool], order, backend, time, checked]).encode()
    return body if len(body) <= _PAGE_BYTES else zlib.compress(body)


def unpack_body(body: bytes) -> Body:
    """What was found; also of the formats 1 (a compressed list of results) and 2 (a compressed object).

    Raises:
        ValueError, TypeError, KeyError, AttributeError, zlib.error: It is none.
    """
    found = unpack(body if body[:1] == b"[" else zlib.decompress(body))
    if isinstance(found, list) and len(found) == 5 and isinstance(found[2], str):
        return Body([_result(fields) for fields in found[0]], *found[1:])
    older = {"results": found} if isinstance(found, list) else found
    results = [_result(fields) for fields in older["results"]]
    return unpack_body(pack_body(results, older.get("backend", ""), older.get("time", 0.0), ""))


def _result(fields: list) -> SearchResult:
    """`SearchResult(*fields)` in half the time: a frozen dataclass sets its fields one by one through `object`."""
    result = object.__new__(SearchResult)
    kept = result.__dict__
    kept["title"], kept["url"], kept["source"], kept["snippet"], kept["useful"] = fields
    return result


def pack_facts(facts: Iterable[Any]) -> bytes:
    """A list of JSON values."""
    return zlib.compress(json.dumps(list(facts)).encode())


def unpack_facts(value: bytes | None) -> tuple:
    """The inverse of `pack_facts`; none for None."""
    return () if value is None else tuple(json.loads(zlib.decompress(value)))
