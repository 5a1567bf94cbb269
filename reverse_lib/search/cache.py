"""The offline search cache: records what searches returned, and answers the same searches again without a network.

What it is: a folder with one SQLite file, `searches.sqlite3`, whose table `searches` has a row a recorded call; any
SQLite program can read it. An image search is answered by the recorded box that overlaps the asked one best, if their
IoU is 0.7 or more; a text search by the recorded query that shares most words with the asked one, if their Jaccard
similarity is 0.5 or more (`profiles.CacheLimits`). Anything else is a miss, `None`, and stays one: nothing goes
on-line.

How it differs from the paper's code, and why:

- An answer (at most 3 useful results, filled up with others of the same recorded call, shuffled) is a function of
  (seed, photo, tool, arguments, call number), so that members of one GRPO group who ask the same see the same, in
  every process; asking again (call 1, 2, ...) shows another order or sample. There it is unseeded.
- All recorded boxes of a photo compete; there, the first one always wins. Text has a minimum similarity; there, any
  query is paid. Keys are photo ids, not paths. Records are JSON; reading them runs nothing.
- Leaked hosts (see `BlockList`) are dropped when recording, and when reading what was recorded under another list.

What is safe when: a record is on disk when `record_image` or `record_text` has returned. Within `with cache.batch(n):`
it is so after every n records, at the end of the block (also one that ends in an exception) and after `commit()`;
reading through the same handle commits first. A process killed at any moment loses the records not yet committed and
nothing else. Any number of processes and threads may read while one writes; a handle may be used after a fork.
Recording the same call again adds to it: results are told apart by title, address, source and snippet, and a known
label wins over an unknown one, useful over not useful. With `replace=True` the new results stand alone. Each record
says who answered and when; with `max_age_days`, older records are misses. Each row has a checksum, so that a damaged
record is an error and never another text.

    with SearchCache.open("outputs/cache", mode="w") as cache:
        cache.record_text("photo-1", "Valencia Spain", results)
    with SearchCache.open("outputs/cache", seed=3) as cache:
        answer = cache.text("photo-1", "valencia, spain")
"""

import hashlib
import json
import math
import operator
import os
import random
import sqlite3
import threading
import time as clock
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import orjson

from reverse_lib.geo import overlap
from reverse_lib.profiles import CacheLimits
from reverse_lib.search.results import (
    BlockList,
    SearchAnswer,
    SearchResult,
    filter_results,
    jaccard,
    normalise_query,
)
from reverse_lib.trajectory import SEARCH_TOOLS, Trajectory

IMAGE, TEXT = SEARCH_TOOLS
FILE_NAME = "searches.sqlite3"
FORMAT = 4  # kept as `user_version`; up to 3, records lay in LMDB's data.mdb
_APPLICATION = 0x52564C53  # kept as `application_id`: tells our files from other people's SQLite
_PAGE_BYTES = 16384  # holds several records, so that a look-up reads one page or two
_MAPPED_BYTES = 2**40  # of the file, read without copying; SQLite lowers this to what it was built for
_BUSY_S = 60  # how long a writer waits for another one
_DAY_S = 86_400
_TEXTS = operator.attrgetter("title", "url", "source", "snippet")

_TABLE = """CREATE TABLE searches (
    photo_id TEXT NOT NULL,
    tool TEXT NOT NULL,       -- image_search_tool or text_search_tool
    asked TEXT NOT NULL,      -- the arguments in the form that makes two calls the same call
    arguments TEXT NOT NULL,  -- JSON: the box as [x1, y1, x2, y2] in 0..1000, or the query
    backend TEXT NOT NULL,    -- who answered, "" if nobody said
    time REAL NOT NULL,       -- when, seconds since 1970 UTC; 0 if unknown
    blocked TEXT NOT NULL,    -- BlockList.digest of the list that all results have passed, "" if there is no such list
    checksum INTEGER NOT NULL,
    results TEXT NOT NULL,    -- JSON: [{"title", "url", "source", "snippet", "useful"}, ...] as they came
    PRIMARY KEY (photo_id, tool, asked)
) WITHOUT ROWID"""
_COLUMNS = "asked, arguments, backend, time, blocked, checksum, CAST(results AS BLOB)"
_OF_PHOTO = f"SELECT {_COLUMNS} FROM searches WHERE photo_id = ? AND tool = ?"
_RECORD = f"{_OF_PHOTO} AND asked = ?"


class CacheError(RuntimeError):
    """A cache that can't be opened, read or written; the message names it, the reason and a remedy."""


@dataclass(frozen=True)
class Call:
    """One search as recorded."""

    tool: str
    photo_id: str
    arguments: list[float] | str  # box, or query
    results: tuple[SearchResult, ...]
    backend: str = ""  # who answered, "" if nobody said
    time: float = 0.0  # when, seconds since 1970 UTC; 0 if unknown

    @property
    def key(self) -> tuple[str, str, str]:
        """Equal for two calls that are the same call: photo, tool, arguments in their plainest form."""
        return self.photo_id, self.tool, _plainest(self.tool, self.arguments)


def searches_of(trajectory: Trajectory) -> Iterator[Call]:
    """The searches of a rollout that reached their service, with the results shown; one without results is one too.

    Failed calls are left out, and so are searches with several queries at once: nothing tells which query brought what.
    """
    for step in trajectory.steps:
        observation = step.observation
        if observation is None or not observation.owes_labels:
            continue
        results = tuple(SearchResult(**result) for result in observation.results)
        if observation.tool == IMAGE:
            box = [float(round(edge)) for edge in observation.arguments["bbox_2d"]]
            yield Call(IMAGE, trajectory.photo_id, box, results)
            continue
        query = observation.arguments["query"]
        queries = [query] if isinstance(query, str) else query
        if len({normalise_query(text) for text in queries}) == 1:
            yield Call(TEXT, trajectory.photo_id, queries[0], results)


class SearchCache:
    """Recorded searches, a `SearchBackend`. Use `SearchCache.open`, as a context manager."""

    reads_pixels = False  # an image search is answered by its box

    def __init__(self, path, mode="r", seed=0, *, blocked_hosts=(), **limits) -> None:
        if mode not in ("r", "w"):
            raise ValueError(f"mode {mode!r}: no such mode; use 'r' to read or 'w' to record")
        self.seed, self.mode = operator.index(seed), mode
        self.limits, self.blocked = CacheLimits(**limits), BlockList.extended(blocked_hosts)
        self._file = _file_in(path, mode)
        self.path, self._inode, self._closed = Path(path), None, False
        self._start()
        self._connected()

    @classmethod
    def open(cls, path: str | os.PathLike, mode: str = "r", seed: int = 0, **settings) -> "SearchCache":
        """Opens a cache.

        Args:
            path: Its folder; created in mode "w" when it doesn't exist. A process may open a folder many times.
            mode: "r" to read, "w" to record (adding to what is there) and read.
            seed: Draws samples and orders.
            **settings: `blocked_hosts` beyond Flickr's, or a `BlockList` instead; fields of `profiles.CacheLimits`.

        Raises:
            CacheError: If there is no cache to read, or it is none, of another version, or damaged.
            ValueError: If a setting is impossible.
        """
        return cls(path, mode, seed, **settings)

    def __enter__(self) -> "SearchCache":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Commits what is pending and closes; closing twice is fine."""
        with self._alone():
            try:
                self.commit()
            finally:
                self._closed = True
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None

    def record_image(
        self,
        photo_id: str,
        bbox_2d: Sequence[float],
        results: Iterable[SearchResult],
        replace: bool = False,
        backend: str = "",
        time: float | None = None,
    ) -> None:
        """Records what an image search for a box of a photo returned; no results is an answer too.

        Args:
            photo_id: The photo; any text but "".
            bbox_2d: [x1, y1, x2, y2] in 0..1000.
            results: What came back, labelled or not.
            replace: Whether to forget what was recorded for this box before.
            backend: Who answered.
            time: When, in seconds since 1970 UTC; 0 if unknown. None is now.

        Raises:
            ValueError: If the id, the box or a result is malformed.
            CacheError: If the cache can't be written.
        """
        box = _checked_box(bbox_2d)
        if not overlap(box, box):
            raise ValueError(
                f"box {bbox_2d!r}: has no area, so it could never be found again; give x1 < x2 and y1 < y2"
            )
        self._record(IMAGE, photo_id, box, results, replace, backend, time)

    def record_text(
        self,
        photo_id: str,
        query: str,
        results: Iterable[SearchResult],
        replace: bool = False,
        backend: str = "",
        time: float | None = None,
    ) -> None:
        """Records what a text search for a query of at least one word returned; as `record_image`."""
        if not normalise_query(_checked_text("query", query)):
            raise ValueError(f"query {query!r:.80}: has no word, so it could never be found again; leave it out")
        self._record(TEXT, photo_id, _valid(query), results, replace, backend, time)

    def record_trajectory(self, trajectory: Trajectory) -> int:
        """Records the searches of a rollout, as `searches_of` reads them, and returns how many there were."""
        calls = list(searches_of(trajectory))
        for call in calls:
            self._record(call.tool, call.photo_id, call.arguments, call.results)
        return len(calls)

    @contextmanager
    def batch(self, every: int | None = None) -> Iterator["SearchCache"]:
        """Within this block, commits once every so many records (`CacheLimits.batch`) instead of after each."""
        before, self._commit_every = self._commit_every, max(1, every or self.limits.batch)
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
            if not self._pending:
                return
            connection = self._connected()
            if not self._file.exists() or self._file.stat().st_ino != self._inode:
                raise CacheError(f"{self.path}: this cache was deleted or made anew; open it again")
            try:
                with connection:  # commits at its end; after an exception nothing of it is kept
                    connection.execute("BEGIN IMMEDIATE")
                    for call, replace in self._pending:
                        self._write(connection, call, replace)
            except sqlite3.Error as error:
                raise CacheError(f"{self.path}: can't be written ({error}); check rights and free space") from error
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
            CacheError: If the cache can't be read.
        """
        box = _checked_box(bbox_2d)

        def score(asked: str, arguments: str) -> float:
            return overlap(orjson.loads(arguments), box)

        return self._answer(IMAGE, photo_id, box, call, score, self.limits.min_iou)

    def text(self, photo_id: str, query: str, call: int = 0) -> SearchAnswer | None:
        """Answers a text search from the recorded query that shares most words; arguments as in `image`.

        Returns:
            The answer, its `match` being the Jaccard similarity, or `None` when no query comes up to `min_similarity`.
        """
        words = frozenset(normalise_query(_checked_text("query", query)).split())

        def score(asked: str, arguments: str) -> float:
            return jaccard(frozenset(asked.split()), words)

        return self._answer(TEXT, photo_id, query, call, score, self.limits.min_similarity)

    def evidence(self, photo_id: str) -> list[str]:
        """Addresses of all recorded results of text searches for a photo that are labelled useful, sorted."""
        key = _stored_id(photo_id), TEXT
        results = [result for row in self._rows(_OF_PHOTO, *key) for result in self._results(key, row)]
        return sorted({result.url for result in filter_results(results, self.blocked) if result.useful and result.url})

    def photo_ids(self) -> list[str]:
        """Ids of all photos with a record, sorted; what is no valid Unicode in one is escaped."""
        return sorted(photo_id for (photo_id,) in self._rows("SELECT DISTINCT photo_id FROM searches"))

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
        """All records, as they were recorded: image searches, then text searches, by photo and arguments."""
        for *key, asked in self._rows("SELECT photo_id, tool, asked FROM searches ORDER BY tool, photo_id, asked"):
            (row,) = self._rows(_RECORD, *key, asked)
            results = self._results(key, row)
            yield Call(key[1], key[0], json.loads(row[1]), results, backend=row[2], time=row[3])

    def _start(self) -> None:
        """What a process has of its own: a connection, once it needs one, and what it has not committed yet."""
        self._pid, self._lock = os.getpid(), threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._pending: list[tuple[Call, bool]] = []  # with whether it replaces what was recorded before
        self._commit_every = 1

    def _alone(self) -> threading.RLock:
        """Keeps other threads out. In a forked process connection and pending records are the parent's business."""
        if self._pid != os.getpid():
            self._of_parent = self._connection  # kept: closing it here would meddle with the parent's locks
            self._start()
        return self._lock

    def _connected(self) -> sqlite3.Connection:
        if self._closed:
            raise CacheError(f"{self.path}: this cache is closed; open it again")
        if self._connection is None:
            self._connection = _connection(self._file, self.mode)
            self._inode = self._file.stat().st_ino
        return self._connection

    def _rows(self, query: str, *values: object) -> list[tuple]:
        with self._alone():
            if self._pending:
                self.commit()
            try:
                return self._connected().execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise CacheError(f"{self.path}: can't be read ({error}); restore it from a copy") from error

    def _record(
        self, tool: str, photo_id: str, arguments, results: Iterable, replace=False, backend="", time=None
    ) -> None:
        if self.mode != "w":
            raise CacheError(f"{self.path}: opened for reading; open it with mode='w' to record")
        if not _checked_text("photo id", photo_id):
            raise ValueError("photo id '': is empty; give every photo a name")
        results = _merged(filter_results([_checked_result(result) for result in results], self.blocked))
        call = Call(tool, photo_id, arguments, results, backend, clock.time() if time is None else float(time))
        with self._alone():
            self._connected()
            self._pending.append((call, replace))
            if len(self._pending) >= self._commit_every:
                self.commit()

    def _write(self, connection: sqlite3.Connection, call: Call, replace: bool) -> None:
        key, asked = (_stored_id(call.photo_id), call.tool), call.key[2]
        row = None if replace else connection.execute(_RECORD, (*key, asked)).fetchone()
        results, blocked = call.results, self.blocked.digest
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        if row:
            results, arguments = _merged((*self._results(key, row), *results)), row[1]
            blocked = blocked if row[4] == blocked else ""
        body = json.dumps([vars(result) for result in results], ensure_ascii=False)
        fields = *key, asked, arguments, call.backend, call.time, blocked
        row = *fields, _checksum(*fields, body.encode()), body
        connection.execute("INSERT OR REPLACE INTO searches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def _results(self, key: Sequence[str], row: tuple) -> tuple[SearchResult, ...]:
        """The results of a row of a photo and tool; one that is not as it was written is an error."""
        *fields, checksum, body = row
        if not isinstance(body, bytes) or _checksum(*key, *fields, body) != checksum:
            raise self._damaged(key)
        return tuple([_result(result) for result in orjson.loads(body)])

    def _damaged(self, key: Sequence[str]) -> CacheError:
        return CacheError(f"{self.path}: a record of photo {key[0]!r:.80} is damaged; restore the cache from a copy")

    def _answer(self, tool: str, photo_id: str, arguments, call: int, score: Callable, least: float):
        asked, key = _plainest(tool, arguments), (_stored_id(photo_id), tool)
        best, best_row = (least, False), None
        for row in self._rows(_OF_PHOTO, *key):
            try:
                rank = score(row[0], row[1]), row[0] == asked
            except (ValueError, TypeError, AttributeError) as error:
                raise self._damaged(key) from error
            # Of two that match alike the very call answers, else always the same one.
            if rank > best or (rank >= best and (best_row is None or _digest(row[0]) > _digest(best_row[0]))):
                best, best_row = rank, row
        if best_row is None:
            return None
        if self.limits.max_age_days is not None and clock.time() - best_row[3] > self.limits.max_age_days * _DAY_S:
            return None
        pool = self._results(key, best_row)
        if best_row[4] != self.blocked.digest:
            pool = filter_results(pool, self.blocked)
        draw_key = f"{self.seed}\n{tool}\n{_digest(photo_id).hex()}\n{asked}"
        shown = _draw(sorted(pool, key=_TEXTS), self.limits.shown, self.limits.max_useful, draw_key, call)
        useful = frozenset([position for position, result in enumerate(shown, 1) if result.useful])
        return SearchAnswer(tuple(shown), useful, best[0], None not in [result.useful for result in pool])


def _file_in(path: str | os.PathLike, mode: str) -> Path:
    """The file of a cache, its folder made if need be.

    Raises:
        CacheError: If there can't be one.
    """
    try:
        folder = Path(os.path.realpath(path))
        file = folder / FILE_NAME
        if mode == "w":
            folder.mkdir(parents=True, exist_ok=True)
        elif not folder.exists():
            raise CacheError(f"{path}: no such cache; check the path, or record one with mode='w'")
        if not folder.is_dir():
            raise CacheError(f"{path}: a file, a cache is a folder; check the path")
        if not file.exists() and (folder / "data.mdb").exists():
            raise CacheError(
                f"{path}: a cache of an older version (data.mdb), which this program can't read; delete the folder and "
                "record its searches again"
            )
        if not file.exists() and mode == "r":
            raise CacheError(f"{path}: a folder without a cache in it; check the path, or record one with mode='w'")
    except (OSError, ValueError, TypeError) as error:
        raise CacheError(f"{path!r}: can't be opened ({error}); check the path and its permissions") from error
    return file


def _connection(file: Path, mode: str) -> sqlite3.Connection:
    """A connection to the file of a cache, made if need be.

    Raises:
        CacheError: It can't be opened, or is none of ours.
    """
    uri = f"file:{quote(os.fsencode(file))}?mode="
    settings = dict(timeout=_BUSY_S, isolation_level=None, check_same_thread=False, uri=True)
    try:
        try:
            connection = sqlite3.connect(uri + ("rwc" if mode == "w" else "rw"), **settings)
            application, version = _identified(connection, mode)
        except sqlite3.OperationalError:
            # In a folder that can't be written there is no place for SQLite's locks. Nobody records into it either,
            # unless from elsewhere, which they should not do meanwhile; an unfinished -wal would be overlooked.
            if mode == "w" or os.access(file.parent, os.W_OK) or Path(f"{file}-wal").exists():
                raise
            connection = sqlite3.connect(f"{uri}ro&immutable=1", **settings)
            application, version = _identified(connection, mode)
    except sqlite3.Error as error:
        doing = "writing" if mode == "w" else "reading"
        raise CacheError(f"{file.parent}: can't be opened for {doing} ({error}); check that it is a cache") from error
    if application != _APPLICATION:
        raise CacheError(f"{file}: no search cache; check the path")
    if version != FORMAT:
        remedy = "update the program" if version > FORMAT else "delete the folder and record its searches again"
        raise CacheError(f"{file.parent}: format version {version}, and this program reads version {FORMAT}; {remedy}")
    return connection


def _identified(connection: sqlite3.Connection, mode: str) -> tuple[int, int]:
    """What a file says of itself, application and format; an empty one, opened for writing, is made a cache."""
    execute = connection.execute
    execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}")
    if mode == "w":
        if not execute("PRAGMA page_count").fetchone()[0]:
            execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            execute("PRAGMA journal_mode = WAL")  # is kept in the file
        execute("BEGIN IMMEDIATE")  # also tells whether the file can be written
        if not execute("SELECT 1 FROM sqlite_master").fetchone():
            for statement in (_TABLE, f"PRAGMA application_id = {_APPLICATION}", f"PRAGMA user_version = {FORMAT}"):
                execute(statement)
        execute("COMMIT")
    return execute("PRAGMA application_id").fetchone()[0], execute("PRAGMA user_version").fetchone()[0]


def _plainest(tool: str, arguments: Sequence[float] | str) -> str:
    """Arguments in the form that makes two calls the same call."""
    return "{:.2f},{:.2f},{:.2f},{:.2f}".format(*arguments) if tool == IMAGE else normalise_query(arguments)


def _checked_text(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} {value!r:.80}: not a text; give a str")
    return value


def _valid(text: str) -> str:
    """The text without halves of surrogate pairs, which no file can hold."""
    return text.encode("utf-8", "replace").decode()


def _stored_id(photo_id: str) -> str:
    """A photo's id as it is kept: the bytes of an odd file name are escaped, so that two ids stay two."""
    return _checked_text("photo id", photo_id).encode("utf-8", "backslashreplace").decode()


def _checked_box(bbox_2d: Sequence[float]) -> list[float]:
    """Four finite numbers, clipped to 0..1000.

    Raises:
        ValueError: If they aren't.
    """
    try:
        x1, y1, x2, y2 = edges = list(bbox_2d)
        finite = math.isfinite(x1) and math.isfinite(y1) and math.isfinite(x2) and math.isfinite(y2)
    except (TypeError, ValueError, OverflowError):
        finite = False
    if not finite:
        raise ValueError(f"box {bbox_2d!r:.80}: not four finite numbers; give [x1, y1, x2, y2] in 0..1000")
    return [1000.0 if edge > 1000 else float(edge) if edge > 0 else 0.0 for edge in edges]


def _checked_result(result: SearchResult) -> SearchResult:
    """The result with valid text and a plain label.

    Raises:
        ValueError: If it is no search result.
    """
    if not isinstance(result, SearchResult) or not all(isinstance(text, str) for text in _TEXTS(result)):
        raise ValueError(
            f"result {result!r:.200}: not a SearchResult of texts; convert it, with '' for what is missing"
        )
    return SearchResult(*map(_valid, _TEXTS(result)), None if result.useful is None else bool(result.useful))


def _result(fields: dict) -> SearchResult:
    """`SearchResult(**fields)` in a third of the time: a frozen dataclass sets its fields one by one."""
    result = object.__new__(SearchResult)
    result.__dict__.update(fields)
    return result


def _merged(results: Iterable[SearchResult]) -> tuple[SearchResult, ...]:
    """Each result once, in the order first met; useful beats not useful, which beats unknown."""
    kept: dict[tuple, SearchResult] = {}
    for result in results:
        before = kept.setdefault(_TEXTS(result), result)
        if result.useful or before.useful is None:
            kept[_TEXTS(result)] = result
    return tuple(kept.values())


def _checksum(photo_id, tool, asked, arguments, backend, time, blocked, body: bytes) -> int:
    fields = f"{photo_id}\n{tool}\n{asked}\n{arguments}\n{backend}\n{time}\n{blocked}\n"
    return zlib.crc32(body, zlib.crc32(fields.encode()))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def _draw(pool: Sequence[SearchResult], shown: int, max_useful: int, key: str, call: int) -> list[SearchResult]:
    """Samples and shuffles results, given in the order of their texts, as a function of its arguments alone.

    Two results or more come in another order or sample in call n + 1 than in call n: the one shown first moves on.
    """
    call, places = operator.index(call), range(len(pool))
    digest = hashlib.sha256(key.encode())
    turn = int.from_bytes(digest.digest(), "big") + call
    digest.update(f"\n{call}".encode())
    random_number = random.Random(int.from_bytes(digest.digest(), "big")).random
    is_useful = [result.useful is True for result in pool]
    if len(pool) <= shown and is_useful.count(True) <= max_useful:  # all are shown, so the sample need not be known
        chosen = list(places)
        for _ in places:
            random_number()
    else:
        useful = _shuffled([at for at in places if is_useful[at]], random_number)[: min(max_useful, shown)]
        others = _shuffled([at for at in places if not is_useful[at]], random_number)[: shown - len(useful)]
        chosen = sorted(useful + others)
    if not chosen:
        return []
    first = pool[chosen.pop(turn % len(chosen))]
    return [first, *[pool[at] for at in _shuffled(chosen, random_number)]]


def _shuffled(places: list[int], random_number: Callable[[], float]) -> list[int]:
    """Shuffles by `random()`, the one stream Python promises not to change between versions."""
    return [at for _, at in sorted([(random_number(), at) for at in places])]
