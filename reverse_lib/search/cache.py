"""The offline search cache: records what searches returned, and answers the same searches again without a network.

What it is: a folder of LMDB data, keyed by photo id. An image search is answered by the recorded box that overlaps the
asked one best, if their IoU is 0.7 or more; a text search by the recorded query that shares most words with the asked
one, if their Jaccard similarity is 0.5 or more. Anything else is a miss, `None`, and stays one: nothing goes on-line.

How it differs from the paper's code, and why:

- An answer (at most 3 useful results, filled up with others of the same recorded call, shuffled) is a function of
  (seed, photo, tool, arguments, call number), so that members of one GRPO group who ask the same see the same, in
  every process; asking again (call 1, 2, ...) shows another order or sample. There it is unseeded.
- All recorded boxes of a photo compete; there, the first one always wins. Text has a minimum similarity; there, any
  query is paid. Keys are photo ids, not paths. Records are JSON; reading them runs nothing.
- Leaked hosts (see `search.BlockList`) are dropped when recording, and when reading what was recorded under another
  list.

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
from pathlib import Path
from typing import Any

import lmdb

from reverse_lib.search import exchange
from reverse_lib.search.entries import (
    BODY,
    FACTS,
    INDEX,
    PHOTO,
    Body,
    pack_body,
    pack_facts,
    pack_index,
    unpack,
    unpack_body,
    unpack_facts,
    words_of,
)
from reverse_lib.search.replay import (
    IMAGE,
    TEXT,
    Call,
    area,
    argument_text,
    checked_box,
    checked_result,
    checked_text,
    draw,
    key_of,
    merged,
    overlap,
    searches_of,
)
from reverse_lib.search.results import BlockList, SearchAnswer, SearchResult, filter_results, jaccard, normalise_query
from reverse_lib.search.store import CacheError, Store, scan
from reverse_lib.trajectory import Trajectory

__all__ = ["CacheError", "CachedAnswer", "SearchCache", "FORMAT_VERSION"]

CachedAnswer = SearchAnswer
FORMAT_NAME = "search cache"
FORMAT_VERSION = 3  # 1: a record was the list of its results, without backend and time; 2: always compressed

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
            **origin: `backend`, who answered (""), `time`, when, in seconds since 1970 UTC (now; 0 if unknown), and
                `facts`, a tuple of JSON values to keep beside it; those of each recording are kept.

        Raises:
            ValueError: If the id, the box or a result is malformed.
            CacheError: If the cache can't be written.
        """
        box = checked_box(bbox_2d)
        if not area(box):
            raise ValueError(
                f"box {bbox_2d!r}: has no area, so it could never be found again; give x1 < x2 and y1 < y2"
            )
        self._record(Call(IMAGE, photo_id, box, tuple(results), replace, **_now() | origin))

    def record_text(
        self, photo_id: str, query: str, results: Iterable[SearchResult], replace: bool = False, **origin
    ) -> None:
        """Records what a text search returned; arguments and errors as in `record_image`.

        Args:
            photo_id: The photo the search was for.
            query: The words searched for, at least one.
            results: What came back, labelled or not.
            replace: Whether to forget what was recorded for this query before.
            **origin: `backend`, `time` and `facts`, as in `record_image`.
        """
        if not normalise_query(checked_text("query", query)):
            raise ValueError(f"query {query!r:.80}: has no word, so it could never be found again; leave it out")
        self._record(Call(TEXT, photo_id, query, tuple(results), replace, **_now() | origin))

    def record_trajectory(self, trajectory: Trajectory) -> int:
        """Records the searches of a rollout, as `replay.searches_of` reads them, and returns how many there were."""
        calls = list(searches_of(trajectory))
        for call in calls:
            self._record(changed(call, **_now()))
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
        return self._lookup(
            IMAGE, photo_id, argument_text(IMAGE, box), call, lambda index: overlap(index[1], box), self.min_iou
        )

    def text(self, photo_id: str, query: str, call: int = 0) -> SearchAnswer | None:
        """Answers a text search from the recorded query that shares most words.

        Args:
            photo_id: The photo.
            query: The words searched for.
            call: How often this was asked before in the same rollout.

        Returns:
            The answer, its `match` being the Jaccard similarity, or `None` when no query comes up to `min_similarity`.
        """
        asked = argument_text(TEXT, checked_text("query", query))
        words = frozenset(asked.split())
        return self._lookup(
            TEXT, photo_id, asked, call, lambda index: jaccard(words_of(index), words), self.min_similarity
        )

    def evidence(self, photo_id: str) -> list[str]:
        """Addresses of all recorded results of text searches for a photo that are labelled useful, sorted."""
        prefix = BODY[TEXT] + key_of(checked_text("photo id", photo_id))
        bodies = self._reading().read(lambda txn: [body for _, body in scan(txn, prefix)])
        pools = (self._checked(unpack_body, body).pool for body in bodies)
        results = (result for pool in pools for result in filter_results(pool, self.blocked))
        return sorted({result.url for result in results if result.useful and result.url})

    def photo_ids(self) -> list[str]:
        """Ids of all photos with a record, sorted."""
        return sorted(self._reading().read(lambda txn: [self._checked(unpack, value) for _, value in scan(txn, PHOTO)]))

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
        for tool in INDEX:
            for key in self.keys(tool):
                yield self.call_at(tool, key)

    def keys(self, tool: str) -> list[bytes]:
        """`Call.key` of each record of a tool, sorted."""
        return self._reading().read(lambda txn: [key[1:] for key, _ in scan(txn, INDEX[tool])])

    def call_at(self, tool: str, key: bytes) -> Call:
        """The record that `Call.key` names."""
        keys = INDEX[tool] + key, BODY[tool] + key, FACTS + key
        index, body, facts = self._opened().read(lambda txn: [txn.get(one) for one in keys])
        found, (photo_id, arguments, *_) = self._checked(unpack_body, body), self._checked(unpack, index)
        facts = self._checked(unpack_facts, facts)
        return Call(tool, photo_id, arguments, found.results, False, found.backend, found.time, facts)

    def to_parquet(self, path: str | os.PathLike) -> int:
        """Writes all records, a row a result (position 0 for a call without any); returns the number of rows.

        Hidden results are left out.
        """
        return exchange.to_parquet(self, path)

    def from_parquet(self, path: str | os.PathLike) -> int:
        """Records what `to_parquet` wrote; returns the number of calls.

        Raises:
            CacheError: If the file can't be read or lacks a column.
        """
        return exchange.from_parquet(self, path)

    def _opened(self) -> Store:
        if self._store is None:
            raise CacheError(f"{self.path}: this cache is closed; open it again")
        return self._store

    def _reading(self) -> Store:
        if self._pending:
            self.commit()
        return self._opened()

    def _record(self, call: Call) -> None:
        self._opened()
        if self.mode != "w":
            raise CacheError(f"{self.path}: opened for reading; open it with mode='w' to record")
        if not checked_text("photo id", call.photo_id):
            raise ValueError("photo id '': is empty; give every photo a name")
        checked = filter_results([checked_result(result) for result in call.results], self.blocked)
        call = changed(call, results=merged((), checked))
        with self._alone():
            before = self._pending.get((call.tool, call.key))
            if before and not call.replace:
                both = merged(before.results, call.results)
                kept = dict(arguments=before.arguments, replace=before.replace, facts=(*before.facts, *call.facts))
                call = changed(call, results=both, **kept)
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
            body_key, facts_key = BODY[call.tool] + call.key, FACTS + call.key
            results, checked, old = call.results, self.blocked.digest, None if call.replace else txn.get(body_key)
            if old is not None:
                before = self._checked(unpack_body, old)
                results = merged(before.results, results)
                checked = checked if before.checked == checked else ""
            txn.put(PHOTO + key_of(call.photo_id), json.dumps(call.photo_id).encode(), overwrite=False)
            txn.put(INDEX[call.tool] + call.key, pack_index(call), overwrite=False)
            txn.put(body_key, pack_body(results, call.backend, call.time, checked))
            if call.replace:
                txn.delete(facts_key)
            if call.facts:
                known = self._checked(unpack_facts, txn.get(facts_key))
                txn.put(facts_key, pack_facts([*known, *(fact for fact in call.facts if fact not in known)]))

    def _lookup(
        self, tool: str, photo_id: str, asked: str, call: int, score: Callable[[list], float], least: float
    ) -> SearchAnswer | None:
        photo = key_of(checked_text("photo id", photo_id))
        exact = INDEX[tool] + photo + key_of(asked)

        def nearest(txn: lmdb.Transaction) -> tuple[float, Body] | None:
            best = (least, False, b"")  # score, whether it is the very call, key
            for key, value in scan(txn, exact[: len(photo) + 1]):
                match = score(unpack(value))
                if match >= best[0]:
                    best = max(best, (match, key == exact, key))
            return (best[0], unpack_body(txn.get(BODY[tool] + best[2][1:]))) if best[2] else None

        found = self._checked(self._reading().read, nearest)
        if found is None:
            return None
        match, body = found
        if self.max_age_days is not None and time.time() - body.time > self.max_age_days * _DAY_S:
            return None
        pool = body.pool if body.checked == self.blocked.digest else filter_results(body.pool, self.blocked)
        shown = draw(pool, self.shown, self.max_useful, f"{self.seed}\n{tool}\n{photo.hex()}\n{asked}", call)
        useful = frozenset([position for position, result in enumerate(shown, 1) if result.useful])
        return SearchAnswer(tuple(shown), useful, match, None not in [result.useful for result in pool])

    def _checked(self, read: Callable[[Any], Any], value: Any) -> Any:
        """Calls what reads records; what can't be read is an error that says so."""
        try:
            return read(value)
        except (zlib.error, ValueError, TypeError, LookupError, AttributeError) as error:
            raise CacheError(f"{self.path}: a record is damaged ({error}); restore the cache from a copy") from error


def _now() -> dict[str, float]:
    return {"time": time.time()}
