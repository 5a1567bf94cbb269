"""The offline search cache: records what searches returned, and answers the same searches again without a network.

What it is: a folder of LMDB data, keyed by photo id. An image search is answered by the recorded box that overlaps the
asked one best, if their IoU is 0.7 or more; a text search by the recorded query that shares most words with the asked
one, if their Jaccard similarity is 0.5 or more. Anything else is a miss, `None`, and stays one: nothing goes on-line.

How it differs from the paper's code, and why:

- An answer (at most 3 useful results, filled up with others of the same recorded call, shuffled) is a function of
  (seed, photo, tool, arguments, call number), so that members of one GRPO group who ask the same see the same, in
  every process; asking again (call 1, 2, ...) shows another order or sample. There it is unseeded.
- All recorded boxes of a photo compete; there, the first one always wins. Text has a minimum similarity; there, any
  query is paid. Keys are photo ids, not paths. Records are compressed JSON; reading them runs nothing.
- Leaked hosts (see `search.BlockList`) are dropped when recording and again when reading.

What is safe when: a record is on disk when `record_image` or `record_text` has returned. Within `with cache.batch(n):`
it is so after every n records, at the end of the block (also one that ends in an exception) and after `commit()`;
reading through the same handle commits first. A process killed at any moment loses the records not yet committed and
nothing else. Recording the same call again adds to it: results are told apart by title, address, source and snippet,
and a known label wins over an unknown one, useful over not useful. With `replace=True` the new results stand alone.
Each record says who answered and when; with `max_age_days`, older records are misses.

    with SearchCache.open("outputs/cache", mode="w") as cache:
        cache.record_text("photo-1", "Valencia Spain", results)
    with SearchCache.open("outputs/cache", seed=3) as cache:
        answer = cache.text("photo-1", "valencia, spain")
"""

import json
import operator
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace as changed
from functools import lru_cache
from pathlib import Path

import lmdb

from reverse_lib.replay import (
    IMAGE,
    TEXT,
    Call,
    area,
    argument_text,
    checked_box,
    checked_result,
    checked_text,
    draw,
    fields_of,
    key_of,
    merged,
    overlap,
    searches_of,
)
from reverse_lib.search import (
    BlockList,
    SearchAnswer,
    SearchResult,
    filter_results,
    jaccard,
    normalise_query,
    query_tokens,
)
from reverse_lib.store import CacheError, Store, scan
from reverse_lib.trajectory import Trajectory

__all__ = ["CacheError", "CachedAnswer", "SearchCache", "FORMAT_VERSION"]

CachedAnswer = SearchAnswer
FORMAT_NAME = "search cache"
FORMAT_VERSION = 2  # 1: a record was the list of its results, without backend and time

_words = lru_cache(maxsize=65_536)(query_tokens)  # the same recorded queries are compared again and again
_INDEX = {IMAGE: b"i", TEXT: b"t"}  # photo, arguments -> the arguments in full
_BODY = {IMAGE: b"I", TEXT: b"T"}  # photo, arguments -> results
_PHOTO = b"p"  # photo -> its id in full
_PARQUET_TYPES = dict.fromkeys(("photo_id", "tool", "arguments"), "string") | {"position": "int32"}
_PARQUET_TYPES |= dict.fromkeys(("title", "url", "source", "snippet"), "string") | {"useful": "bool"}
_PARQUET_ORIGIN = {"backend": "string", "time": "double"}  # of the call
_DAY_S = 86_400


class SearchCache:
    """Recorded searches, a `search.SearchBackend`. Use `SearchCache.open`, as a context manager."""

    reads_pixels = False  # an image search is answered by its box

    def __init__(
        self,
        path: str | os.PathLike,
        mode: str = "r",
        seed: int = 0,
        *,
        blocked_hosts: str | Iterable[str] | BlockList = (),
        shown: int = 10,
        max_useful: int = 3,
        min_iou: float = 0.7,
        min_similarity: float = 0.5,
        max_age_days: float | None = None,
    ) -> None:
        """Opens a cache; see `open`."""
        if mode not in ("r", "w"):
            raise ValueError(f"mode {mode!r}: no such mode; use 'r' to read or 'w' to record")
        if not (shown >= 1 and max_useful >= 0 and min_iou > 0 and min_similarity > 0):
            limits = dict(shown=shown, max_useful=max_useful, min_iou=min_iou, min_similarity=min_similarity)
            raise ValueError(f"{limits}: impossible; show at least one result, and use minima above 0")
        self.path, self.mode, self.seed = Path(path), mode, operator.index(seed)
        self.shown, self.max_useful = shown, max_useful
        self.min_iou, self.min_similarity, self.max_age_days = min_iou, min_similarity, max_age_days
        self.blocked = BlockList.extended(blocked_hosts)
        self._pending: dict[tuple[str, bytes], Call] = {}
        self._recorded, self._commit_every = 0, 1
        self._pid, self._lock = os.getpid(), threading.RLock()
        self._store: Store | None = Store.open(path, mode == "w", FORMAT_NAME, FORMAT_VERSION)

    @classmethod
    def open(cls, path: str | os.PathLike, mode: str = "r", seed: int = 0, **settings) -> "SearchCache":
        """Opens a cache.

        Args:
            path: Its folder; created in mode "w" when it doesn't exist. A process may open a folder many times.
            mode: "r" to read, "w" to record (adding to what is there) and read.
            seed: Draws samples and orders.
            **settings: `blocked_hosts` beyond Flickr's, or a `BlockList` instead; `shown` results at most in an answer
                (10), `max_useful` of them (3); `min_iou` (0.7) and `min_similarity` (0.5) of a hit; `max_age_days`
                beyond which a record is a miss, as is one of unknown age (None, for ever, by default).

        Raises:
            CacheError: If there is no cache to read, or it is none, newer than this program, or damaged.
            ValueError: If a setting is impossible.
        """
        return cls(path, mode, seed, **settings)

    def __enter__(self) -> "SearchCache":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Commits what is pending and closes; closing twice is fine."""
        if self._store is None:
            return
        try:
            self.commit()
        finally:
            store, self._store = self._store, None
            store.close()

    def record_image(
        self, photo_id: str, bbox_2d: Sequence[float], results: Iterable[SearchResult], replace: bool = False, **origin
    ) -> None:
        """Records what an image search for a box of a photo returned; no results is an answer too.

        Args:
            photo_id: The photo; any text but "".
            bbox_2d: [x1, y1, x2, y2] in 0..1000.
            results: What came back, labelled or not.
            replace: Whether to forget what was recorded for this box before.
            **origin: `backend`, who answered (""), and `time`, when, in seconds since 1970 UTC (now).

        Raises:
            ValueError: If the id, the box or a result is malformed.
            CacheError: If the cache can't be written.
        """
        box = checked_box(bbox_2d)
        if not area(box):
            raise ValueError(
                f"box {bbox_2d!r}: has no area, so it could never be found again; give x1 < x2 and y1 < y2"
            )
        self._record(Call(IMAGE, photo_id, box, tuple(results), replace, **origin))

    def record_text(
        self, photo_id: str, query: str, results: Iterable[SearchResult], replace: bool = False, **origin
    ) -> None:
        """Records what a text search returned; arguments and errors as in `record_image`.

        Args:
            photo_id: The photo the search was for.
            query: The words searched for, at least one.
            results: What came back, labelled or not.
            replace: Whether to forget what was recorded for this query before.
            **origin: `backend` and `time`, as in `record_image`.
        """
        if not normalise_query(checked_text("query", query)):
            raise ValueError(f"query {query!r:.80}: has no word, so it could never be found again; leave it out")
        self._record(Call(TEXT, photo_id, query, tuple(results), replace, **origin))

    def record_trajectory(self, trajectory: Trajectory) -> int:
        """Records the searches of a rollout, as `replay.searches_of` reads them, and returns how many there were."""
        calls = list(searches_of(trajectory))
        for call in calls:
            self._record(call)
        return len(calls)

    @contextmanager
    def batch(self, every: int = 1000) -> Iterator["SearchCache"]:
        """Within this block, commits once every `every` records instead of after each; much faster."""
        before, self._commit_every = self._commit_every, max(1, every)
        try:
            yield self
        finally:
            self._commit_every = before
            self.commit()

    def commit(self) -> None:
        """Puts everything recorded so far on disk.

        Raises:
            CacheError: If it can't be written; it stays pending.
        """
        with self._alone():
            if self._pending:
                self._opened().write(self._write_pending)
                self._recorded = 0
                self._pending.clear()

    def image(self, photo_id: str, bbox_2d: Sequence[float], call: int = 0, crop: object = None) -> SearchAnswer | None:
        """Answers an image search from the recorded box that overlaps most.

        Args:
            photo_id: The photo.
            bbox_2d: [x1, y1, x2, y2] in 0..1000.
            call: How often this was asked before in the same rollout.
            crop: Not looked at.

        Returns:
            The answer, its `match` being the IoU, or `None` when no box comes up to `min_iou`.

        Raises:
            ValueError: If the box isn't four finite numbers.
        """
        box = checked_box(bbox_2d)
        return self._lookup(IMAGE, photo_id, box, call, lambda recorded: overlap(recorded, box), self.min_iou)

    def text(self, photo_id: str, query: str, call: int = 0) -> SearchAnswer | None:
        """Answers a text search from the recorded query that shares most words.

        Args:
            photo_id: The photo.
            query: The words searched for.
            call: How often this was asked before in the same rollout.

        Returns:
            The answer, its `match` being the Jaccard similarity, or `None` when no query comes up to `min_similarity`.
        """
        words = query_tokens(checked_text("query", query))
        return self._lookup(TEXT, photo_id, query, call, lambda seen: jaccard(_words(seen), words), self.min_similarity)

    def evidence(self, photo_id: str) -> list[str]:
        """Addresses of all recorded results of text searches for a photo that are labelled useful, sorted."""
        prefix = _BODY[TEXT] + key_of(checked_text("photo id", photo_id))
        bodies = self._reading().read(lambda txn: [body for _, body in scan(txn, prefix)])
        return sorted({r.url for body in bodies for r in self._visible(body) if r.useful and r.url})

    def photo_ids(self) -> list[str]:
        """Ids of all photos with a record, sorted."""
        return sorted(self._reading().read(lambda txn: [self._decoded(value) for _, value in scan(txn, _PHOTO)]))

    def stats(self) -> dict[str, int]:
        """Counts: photos, calls and results by tool, and how many results are useful, unlabelled, hidden as leaked."""
        names = "photos image_calls text_calls image_results text_results useful unlabelled blocked"
        counts = dict.fromkeys(names.split(), 0) | {"photos": len(self.photo_ids())}
        for call in self.calls():
            short = call.tool.partition("_")[0]
            kept = filter_results(call.results, self.blocked)
            counts[f"{short}_calls"] += 1
            counts[f"{short}_results"] += len(kept)
            counts["useful"] += sum(result.useful is True for result in kept)
            counts["unlabelled"] += sum(result.useful is None for result in kept)
            counts["blocked"] += len(call.results) - len(kept)
        return counts

    def calls(self) -> Iterator[Call]:
        """All records, as they were recorded: image searches, then text searches, in the order of their keys."""
        for tool, prefix in _INDEX.items():
            for key, index in self._reading().read(lambda txn, prefix=prefix: list(scan(txn, prefix))):
                body = self._opened().read(lambda txn, tool=tool, key=key: txn.get(_BODY[tool] + key[1:]))
                photo_id, arguments = self._decoded(index)
                yield Call(tool, photo_id, arguments, *self._record_in(body))

    def to_parquet(self, path: str | os.PathLike) -> int:
        """Writes all records, a row a result (position 0 for a call without any); returns the number of rows.

        Hidden results are left out.
        """
        import pyarrow as pa
        from pyarrow import parquet

        rows = []
        for call in self.calls():
            kept = filter_results(call.results, self.blocked)
            for position, result in enumerate(kept, 1) if kept else [(0, SearchResult("", ""))]:
                asked = [call.photo_id, call.tool, json.dumps(call.arguments), position]
                rows.append([*asked, *fields_of(result), call.backend, call.time])
        types = _PARQUET_TYPES | _PARQUET_ORIGIN
        columns = zip(types.items(), zip(*rows, strict=True) if rows else [()] * len(types), strict=True)
        try:
            table = pa.table({name: pa.array(values, kind) for (name, kind), values in columns})
        except UnicodeEncodeError as error:
            raise CacheError(f"{path}: a photo id isn't valid Unicode ({error}); record it under another id") from error
        partial = f"{os.fspath(path)}.{os.getpid()}.partial"
        parquet.write_table(table, partial)
        os.replace(partial, path)
        return len(rows)

    def from_parquet(self, path: str | os.PathLike) -> int:
        """Records what `to_parquet` wrote; returns the number of calls.

        Raises:
            CacheError: If the file can't be read or lacks a column.
        """
        import pyarrow as pa
        from pyarrow import parquet

        calls: dict[tuple[str, str, str], list[tuple[int, SearchResult, dict]]] = {}
        try:
            table = parquet.read_table(path)
            for row in table.select([*_PARQUET_TYPES, *_PARQUET_ORIGIN.keys() & set(table.column_names)]).to_pylist():
                photo_id, tool, arguments, position, *fields = (row[name] for name in _PARQUET_TYPES)
                origin = {name: row[name] for name in _PARQUET_ORIGIN if name in row}
                found = calls.setdefault((photo_id, tool, arguments), [])
                found.append((position, SearchResult(*fields), origin))
            parsed = [(tool, photo_id, json.loads(text), found) for (photo_id, tool, text), found in calls.items()]
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise CacheError(f"{path}: not records written by to_parquet ({error}); export them again") from error
        with self.batch():
            for tool, photo_id, arguments, found in parsed:
                record = self.record_image if tool == IMAGE else self.record_text
                record(photo_id, arguments, [result for at, result, _ in found if at > 0], **found[0][2])
        return len(parsed)

    def _opened(self) -> Store:
        if self._store is None:
            raise CacheError(f"{self.path}: this cache is closed; open it again")
        return self._store

    def _reading(self) -> Store:
        self.commit()
        return self._opened()

    def _record(self, call: Call) -> None:
        self._opened()
        if self.mode != "w":
            raise CacheError(f"{self.path}: opened for reading; open it with mode='w' to record")
        if not checked_text("photo id", call.photo_id):
            raise ValueError("photo id '': is empty; give every photo a name")
        checked = filter_results([checked_result(result) for result in call.results], self.blocked)
        call = changed(call, results=merged((), checked), time=call.time or time.time())
        with self._alone():
            before = self._pending.get((call.tool, call.key))
            if before and not call.replace:
                both = merged(before.results, call.results)
                call = changed(call, arguments=before.arguments, results=both, replace=before.replace)
            self._pending[call.tool, call.key] = call
            self._recorded += 1
            if self._recorded >= self._commit_every:
                self.commit()

    def _alone(self) -> threading.RLock:
        """Keeps other threads from the pending records, which after a fork are the parent's to write, as its batch."""
        if self._pid != os.getpid():
            self._pid, self._recorded, self._commit_every = os.getpid(), 0, 1
            self._pending, self._lock = {}, threading.RLock()
        return self._lock

    def _write_pending(self, txn: lmdb.Transaction) -> None:
        for call in self._pending.values():
            body_key = _BODY[call.tool] + call.key
            old = None if call.replace else txn.get(body_key)
            results = merged(self._record_in(old)[0], call.results) if old else call.results
            txn.put(_PHOTO + key_of(call.photo_id), json.dumps(call.photo_id).encode(), overwrite=False)
            index = json.dumps([call.photo_id, call.arguments]).encode()
            txn.put(_INDEX[call.tool] + call.key, index, overwrite=False)
            body = {"results": [fields_of(one) for one in results], "backend": call.backend, "time": call.time}
            txn.put(body_key, zlib.compress(json.dumps(body).encode()))

    def _lookup(
        self,
        tool: str,
        photo_id: str,
        arguments: list[float] | str,
        call: int,
        score: Callable[[list[float] | str], float],
        least: float,
    ) -> SearchAnswer | None:
        photo, asked = key_of(checked_text("photo id", photo_id)), argument_text(tool, arguments)
        exact = photo + key_of(asked)

        def best_body(txn: lmdb.Transaction) -> tuple[float, bytes | None]:
            ranks = [
                (score(self._decoded(value)[1]), key[1:] == exact, key[1:])
                for key, value in scan(txn, _INDEX[tool] + photo)
            ]
            best = max(ranks, default=(0.0, False, b""))
            return (best[0], txn.get(_BODY[tool] + best[2])) if best[0] >= least else (0.0, None)

        match, body = self._reading().read(best_body)
        if body is None:
            return None
        found, _, _, when = self._record_in(body)
        if self.max_age_days is not None and time.time() - when > self.max_age_days * _DAY_S:
            return None
        results = filter_results(found, self.blocked)
        shown = draw(results, self.shown, self.max_useful, f"{self.seed}\n{tool}\n{photo.hex()}\n{asked}", call)
        useful = frozenset(position for position, result in enumerate(shown, 1) if result.useful)
        return SearchAnswer(tuple(shown), useful, match, all(result.useful is not None for result in results))

    def _visible(self, body: bytes) -> list[SearchResult]:
        return filter_results(self._record_in(body)[0], self.blocked)

    def _record_in(self, body: bytes | None) -> tuple[tuple[SearchResult, ...], bool, str, float]:
        """The fields of a `Call` from `results` on."""
        found = self._decoded(body, zlib.decompress)
        found = {"results": found} if isinstance(found, list) else found
        try:
            results = tuple(SearchResult(*fields) for fields in found["results"])
            return results, False, found.get("backend", ""), found.get("time", 0.0)
        except (TypeError, KeyError, AttributeError) as error:
            raise CacheError(f"{self.path}: a record is damaged ({error}); restore the cache from a copy") from error

    def _decoded(self, value: bytes | None, unpack: Callable[[bytes], bytes] = bytes):
        try:
            return json.loads(unpack(value))
        except (zlib.error, ValueError, TypeError) as error:
            raise CacheError(f"{self.path}: a record is damaged ({error}); restore the cache from a copy") from error
