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
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace as changed
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

import orjson

from reverse_lib.geo import box_iou
from reverse_lib.profiles import CacheLimits
from reverse_lib.search.results import BlockList, SearchAnswer, SearchResult, filter_results, jaccard, normalise_query
from reverse_lib.trajectory import Trajectory

IMAGE, TEXT = "image_search_tool", "text_search_tool"
FILE_NAME = "searches.sqlite3"
FORMAT = 4  # kept as `user_version`; up to 3, records lay in LMDB's data.mdb
_APPLICATION = 0x52564C53  # kept as `application_id`: tells our files from other people's SQLite

# A page holds several records, so that a look-up reads one or two pages. The key comes first: a record that spills over
# onto further pages is compared without reading these.
_SCHEMA = f"""
CREATE TABLE searches (
    photo_id TEXT NOT NULL,
    tool TEXT NOT NULL,       -- image_search_tool or text_search_tool
    asked TEXT NOT NULL,      -- the arguments in the form that makes two calls the same call
    arguments TEXT NOT NULL,  -- JSON: the box as [x1, y1, x2, y2] in 0..1000, or the query
    backend TEXT NOT NULL,    -- who answered
    time REAL NOT NULL,       -- when, seconds since 1970 UTC; 0 if unknown
    facts TEXT NOT NULL,      -- JSON: what else whoever recorded it knew
    checksum INTEGER NOT NULL,
    results TEXT NOT NULL,    -- JSON: [{{"title", "url", "source", "snippet", "useful"}}, ...] as the service gave them
    PRIMARY KEY (photo_id, tool, asked)
) WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {FORMAT}
"""
_PAGE_BYTES = 16384
_MAPPED_BYTES = 2**40  # of the file, read without copying; SQLite lowers this to what it was built for
_BUSY_S = 60  # how long a writer waits for another one
_DAY_S = 86_400
_IN_ORDER = operator.attrgetter("title", "url", "source", "snippet")
_inherited: list[
    sqlite3.Connection
] = []  # a parent's; closing one in its child would take part in what the parent does


class CacheError(RuntimeError):
    """A cache that can't be opened, read or written; the message names it, the reason and a remedy."""


@dataclass(frozen=True)
class Call:
    """One search call as recorded."""

    tool: str
    photo_id: str
    arguments: list[float] | str  # box, or query
    results: tuple[SearchResult, ...]
    backend: str = ""  # who answered, "" if nobody said
    time: float = 0.0  # when, seconds since 1970 UTC; 0 if unknown
    facts: tuple = ()  # JSON values of whoever recorded it, one or more each time; no look-up reads them

    @cached_property
    def key(self) -> tuple[str, str]:
        """Photo and arguments, equal for two calls of a tool that are the same call."""
        return self.photo_id, argument_text(self.tool, self.arguments)


def searches_of(trajectory: Trajectory) -> Iterator[Call]:
    """The searches of a rollout that reached their service, with the results shown; one without results is one too.

    Failed calls are left out, and so are searches with several queries at once: nothing tells which query brought what.
    """
    for step in trajectory.steps:
        seen = step.observation
        if seen is None or seen.tool not in (IMAGE, TEXT) or seen.status not in ("ok", "miss"):
            continue
        results = tuple(SearchResult(**result) for result in seen.results)
        if seen.tool == IMAGE:
            box = [float(round(edge)) for edge in seen.arguments["bbox_2d"]]
            yield Call(IMAGE, trajectory.photo_id, box, results)
            continue
        query = seen.arguments["query"]
        queries = [query] if isinstance(query, str) else query
        if len({normalise_query(text) for text in queries}) == 1:
            yield Call(TEXT, trajectory.photo_id, queries[0], results)


class SearchCache:
    """Recorded searches, a `SearchBackend`. Use `SearchCache.open`, as a context manager."""

    reads_pixels = False  # an image search is answered by its box

    def __init__(
        self,
        path: str | os.PathLike,
        mode: str = "r",
        seed: int = 0,
        *,
        blocked_hosts: str | Iterable[str] | BlockList = (),
        **limits,
    ) -> None:
        """Opens a cache; see `open`."""
        if mode not in ("r", "w"):
            raise ValueError(f"mode {mode!r}: no such mode; use 'r' to read or 'w' to record")
        self.path, self.mode, self.seed = path, mode, operator.index(seed)
        self.limits = CacheLimits(**limits)
        self.blocked = BlockList.extended(blocked_hosts)
        self._pending: list[tuple[Call, bool]] = []  # with whether it replaces what was recorded before
        self._commit_every = 1
        self._pid, self._lock = os.getpid(), threading.RLock()
        self._file = _file_in(path, mode)
        self._connection: sqlite3.Connection | None = _connected(self._file, mode)
        self._inode = os.stat(self._file).st_ino
        self.path, self._closed = Path(path), False

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
        box = _checked_box(bbox_2d)
        if not box_iou(box, box):
            raise ValueError(
                f"box {bbox_2d!r}: has no area, so it could never be found again; give x1 < x2 and y1 < y2"
            )
        self._record(Call(IMAGE, photo_id, box, tuple(results), **{"time": time.time()} | origin), replace)

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
        if not normalise_query(_checked_text("query", query)):
            raise ValueError(f"query {query!r:.80}: has no word, so it could never be found again; leave it out")
        self._record(Call(TEXT, photo_id, _valid(query), tuple(results), **{"time": time.time()} | origin), replace)

    def record_trajectory(self, trajectory: Trajectory) -> int:
        """Records the searches of a rollout, as `searches_of` reads them, and returns how many there were."""
        calls = list(searches_of(trajectory))
        for call in calls:
            self._record(changed(call, time=time.time()))
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
            connection = self._opened()
            try:
                if os.stat(self._file).st_ino != self._inode:
                    raise FileNotFoundError("its file was replaced")
                with connection:  # commits at its end, or takes back what an exception has interrupted
                    connection.execute("BEGIN IMMEDIATE")
                    for call, replace in self._pending:
                        self._write(connection, call, replace)
            except FileNotFoundError as error:
                raise CacheError(f"{self.path}: this cache was deleted or made anew; open it again") from error
            except sqlite3.Error as error:
                raise CacheError(
                    f"{self.path}: can't be written ({error}); check permissions and free space"
                ) from error
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
        box = _checked_box(bbox_2d)

        def overlap(_: str, arguments: str) -> float:
            return box_iou(orjson.loads(arguments), box)

        return self._lookup(IMAGE, photo_id, argument_text(IMAGE, box), call, overlap, self.limits.min_iou)

    def text(self, photo_id: str, query: str, call: int = 0) -> SearchAnswer | None:
        """Answers a text search from the recorded query that shares most words.

        Args:
            photo_id: The photo.
            query: The words searched for.
            call: How often this was asked before in the same rollout.

        Returns:
            The answer, its `match` being the Jaccard similarity, or `None` when no query comes up to `min_similarity`.
        """
        asked = argument_text(TEXT, _checked_text("query", query))
        words = frozenset(asked.split())

        def similarity(recorded: str, _: str) -> float:
            return jaccard(frozenset(recorded.split()), words)

        return self._lookup(TEXT, photo_id, asked, call, similarity, self.limits.min_similarity)

    def evidence(self, photo_id: str) -> list[str]:
        """Addresses of all recorded results of text searches for a photo that are labelled useful, sorted."""
        rows = self._rows(f"{_RECORDS} WHERE photo_id = ? AND tool = ?", _stored_id(photo_id), TEXT)
        results = (result for row in rows for result in filter_results(self._call(row).results, self.blocked))
        return sorted({result.url for result in results if result.useful and result.url})

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
        for tool in (IMAGE, TEXT):
            for key in self.keys(tool):
                yield self.call_at(tool, key)

    def keys(self, tool: str) -> list[tuple[str, str]]:
        """`Call.key` of each record of a tool, sorted."""
        return sorted(self._rows("SELECT photo_id, asked FROM searches WHERE tool = ?", tool))

    def call_at(self, tool: str, key: tuple[str, str]) -> Call:
        """The record that `Call.key` names."""
        photo_id, asked = key
        return self._call(*self._rows(_ONE_RECORD, _stored_id(photo_id), tool, asked))

    def _alone(self) -> threading.RLock:
        """Keeps other threads out. After a fork the connection, and what is pending, are the parent's business."""
        if self._pid != os.getpid():
            _inherited.append(self._connection)
            self._pid, self._lock, self._connection = os.getpid(), threading.RLock(), None
            self._pending, self._commit_every = [], 1
        return self._lock

    def _opened(self) -> sqlite3.Connection:
        if self._closed:
            raise CacheError(f"{self.path}: this cache is closed; open it again")
        if self._connection is None:
            self._connection = _connected(self._file, self.mode)
        return self._connection

    def _rows(self, query: str, *values: object) -> list[tuple]:
        with self._alone():
            if self._pending:
                self.commit()
            try:
                return self._opened().execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise CacheError(f"{self.path}: can't be read ({error}); restore it from a copy") from error

    def _record(self, call: Call, replace: bool = False) -> None:
        if self.mode != "w":
            raise CacheError(f"{self.path}: opened for reading; open it with mode='w' to record")
        if not _checked_text("photo id", call.photo_id):
            raise ValueError("photo id '': is empty; give every photo a name")
        results = filter_results([_checked_result(result) for result in call.results], self.blocked)
        with self._alone():
            self._opened()
            self._pending.append((changed(call, results=_merged((), results)), replace))
            if len(self._pending) >= self._commit_every:
                self.commit()

    def _write(self, connection: sqlite3.Connection, call: Call, replace: bool) -> None:
        key = _stored_id(call.photo_id), call.tool, call.key[1]
        row = None if replace else connection.execute(_ONE_RECORD, key).fetchone()
        arguments, results, facts = call.arguments, call.results, list(call.facts)
        if row is not None:
            before = self._call(row)
            arguments, results = before.arguments, _merged(before.results, results)
            facts = [*before.facts, *(fact for fact in facts if fact not in before.facts)]
        head = *key, _json(arguments), call.backend, float(call.time), _json(facts)
        body = _json([vars(result) for result in results])
        values = *head, _checksum(head, body.encode()), body
        connection.execute("INSERT OR REPLACE INTO searches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def _call(self, row: tuple) -> Call:
        """A row as a call; one that is not what was written is an error."""
        *head, checksum, body = row
        try:
            if checksum != _checksum(head, body):
                raise ValueError("its checksum is another")
            results = tuple([_result(fields) for fields in orjson.loads(body)])
            photo_id, tool, _, arguments, backend, recorded_s, facts = head
            facts = () if facts == "[]" else tuple(orjson.loads(facts))
            return Call(tool, photo_id, orjson.loads(arguments), results, backend, recorded_s, facts)
        except (ValueError, TypeError, UnicodeError) as error:
            raise CacheError(f"{self.path}: a record is damaged ({error}); restore the cache from a copy") from error

    def _lookup(
        self, tool: str, photo_id: str, asked: str, call: int, score: Callable[[str, str], float], least: float
    ) -> SearchAnswer | None:
        best, best_row = (least, False, b""), None
        for row in self._rows(f"{_RECORDS} WHERE photo_id = ? AND tool = ?", _stored_id(photo_id), tool):
            match = score(row[2], row[3])
            if match >= best[0]:
                rank = match, row[2] == asked, key_of(row[2])
                if rank >= best:
                    best, best_row = rank, row
        if best_row is None:
            return None
        record = self._call(best_row)
        age_s = time.time() - record.time
        if self.limits.max_age_days is not None and age_s > self.limits.max_age_days * _DAY_S:
            return None
        pool = sorted(filter_results(record.results, self.blocked), key=_IN_ORDER)
        key = f"{self.seed}\n{tool}\n{key_of(photo_id).hex()}\n{asked}"
        shown = _draw(pool, self.limits.shown, self.limits.max_useful, key, call)
        useful = frozenset([position for position, result in enumerate(shown, 1) if result.useful])
        return SearchAnswer(tuple(shown), useful, best[0], None not in [result.useful for result in pool])


_RECORDS = (
    "SELECT photo_id, tool, asked, arguments, backend, time, facts, checksum, CAST(results AS BLOB) FROM searches"
)
_ONE_RECORD = f"{_RECORDS} WHERE photo_id = ? AND tool = ? AND asked = ?"


def _file_in(path: str | os.PathLike, mode: str) -> Path:
    """The file of a cache, its folder made if need be.

    Raises:
        CacheError: If there can't be one.
    """
    try:
        folder = Path(os.path.realpath(path))
        if mode == "w":
            folder.mkdir(parents=True, exist_ok=True)
        elif not folder.exists():
            raise CacheError(f"{path}: no such cache; check the path, or record one with mode='w'")
        if not folder.is_dir():
            raise CacheError(f"{path}: a file, a cache is a folder; check the path")
        file = folder / FILE_NAME
        if not file.is_file():
            if (folder / "data.mdb").exists():
                raise CacheError(
                    f"{path}: a cache of an older version (data.mdb), which this program can't read; delete the folder "
                    "and record its searches again"
                )
            if mode == "r":
                raise CacheError(f"{path}: a folder without a cache in it; check the path, or record with mode='w'")
        return file
    except FileExistsError as error:
        raise CacheError(f"{path}: a file, a cache is a folder; give another path") from error
    except (OSError, ValueError, TypeError) as error:
        raise CacheError(f"{path!r}: can't be opened ({error}); check the path and its permissions") from error


def _connected(file: Path, mode: str) -> sqlite3.Connection:
    """A connection to a cache's file, made if need be.

    Raises:
        CacheError: It can't be opened, or is not ours.
    """
    connection = None
    try:
        connection = _open_sqlite(file, "rwc" if mode == "w" else "rw")
        if mode == "w":
            _make(connection)
        else:
            try:
                _numbers(connection)
            except sqlite3.OperationalError:
                # A folder that can't be written has no place for SQLite's locks. Nobody can write it either, unless
                # from elsewhere, which they should not do meanwhile; what they left unfinished would be overlooked.
                if os.access(file.parent, os.W_OK) or Path(f"{file}-wal").exists():
                    raise
                connection = _open_sqlite(file, "ro&immutable=1")
            connection.execute("PRAGMA query_only = 1")
        application, version = _numbers(connection)
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        doing = "writing" if mode == "w" else "reading"
        raise CacheError(f"{file.parent}: can't be opened for {doing} ({error}); check that it is a cache") from error
    if application != _APPLICATION:
        connection.close()
        raise CacheError(f"{file.parent}: {file.name} is no search cache; check the path")
    if version != FORMAT:
        connection.close()
        age, remedy = ("newer", "update the program") if version > FORMAT else ("older", "record it again")
        raise CacheError(
            f"{file.parent}: a search cache of format {version}, {age} than {FORMAT}, this program's; {remedy}"
        )
    return connection


def _open_sqlite(file: Path, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(file))}?mode={mode}"
    connection = sqlite3.connect(uri, _BUSY_S, isolation_level=None, check_same_thread=False, uri=True)
    connection.execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}")
    return connection


def _make(connection: sqlite3.Connection) -> None:
    """Makes the table where there is none, and sees that the file can be written."""
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    if not connection.execute("PRAGMA page_count").fetchone()[0]:
        connection.execute("PRAGMA journal_mode = WAL")  # kept in the file
    connection.execute("BEGIN IMMEDIATE")
    if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        for statement in _SCHEMA.split(";\n"):
            connection.execute(statement)
    connection.execute("COMMIT")


def _numbers(connection: sqlite3.Connection) -> list[int]:
    """What the file says of itself: application and format."""
    return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]


def key_of(text: str) -> bytes:
    """16 bytes for a text of any length and content."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def argument_text(tool: str, arguments: list[float] | str) -> str:
    """Arguments in the form that makes two calls the same call."""
    return "{:.2f},{:.2f},{:.2f},{:.2f}".format(*arguments) if tool == IMAGE else normalise_query(arguments)


def _checked_text(what: str, value: object) -> str:
    """The value, if it is text; `ValueError` if it isn't."""
    if not isinstance(value, str):
        raise ValueError(f"{what} {value!r:.80}: not a text; give a str")
    return value


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _stored_id(photo_id: str) -> str:
    """A photo's id as it is kept: an odd file name's half characters escaped, so that two ids stay two."""
    return _checked_text("photo id", photo_id).encode("utf-8", "backslashreplace").decode()


def _checked_box(bbox_2d: Sequence[float]) -> list[float]:
    """Four finite numbers, clipped to 0..1000.

    Raises:
        ValueError: If they aren't.
    """
    try:
        x1, y1, x2, y2 = given = list(bbox_2d)
        finite = math.isfinite(x1) and math.isfinite(y1) and math.isfinite(x2) and math.isfinite(y2)
    except (TypeError, ValueError, OverflowError):
        finite = False
    if not finite:
        raise ValueError(f"box {bbox_2d!r:.80}: not four finite numbers; give [x1, y1, x2, y2] in 0..1000")
    return [1000.0 if value > 1000 else float(value) if value > 0 else 0.0 for value in given]


def _checked_result(result: SearchResult) -> SearchResult:
    """The result with valid text and a plain label.

    Raises:
        ValueError: If it is no search result.
    """
    if not isinstance(result, SearchResult) or not all(isinstance(text, str) for text in _IN_ORDER(result)):
        raise ValueError(
            f"result {result!r:.200}: not a SearchResult of texts; convert it, with '' for what is missing"
        )
    return SearchResult(*map(_valid, _IN_ORDER(result)), None if result.useful is None else bool(result.useful))


def _result(fields: dict) -> SearchResult:
    """`SearchResult(**fields)` in a third of the time: a frozen dataclass sets its fields one by one."""
    result = object.__new__(SearchResult)
    result.__dict__.update(fields)
    return result


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _checksum(head: Sequence[object], body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32("\n".join(map(str, head)).encode()))


def _merged(old: Iterable[SearchResult], new: Iterable[SearchResult]) -> tuple[SearchResult, ...]:
    """Both, each result once, in the order first seen; useful beats not useful, which beats unknown."""
    results: dict[tuple, SearchResult] = {}
    for result in (*old, *new):
        before = results.setdefault(_IN_ORDER(result), result)
        if result.useful or before.useful is None:
            results[_IN_ORDER(result)] = result
    return tuple(results.values())


def _draw(pool: Sequence[SearchResult], shown: int, max_useful: int, key: str, call: int) -> list[SearchResult]:
    """Samples and shuffles results, given in order of their texts, as a function of its arguments alone.

    Two results or more come in another order or sample in call n + 1 than in call n: the one shown first moves on.
    """
    call, places = operator.index(call), range(len(pool))
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass"))
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
