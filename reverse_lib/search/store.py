"""A folder of LMDB data, opened safely: what the search cache keeps its records in.

LMDB survives a kill at any moment and serves many reading processes beside one writer, but has rules that bite: a
folder may be open once a process, not across a fork, with a fixed size, and a shortened file kills the process that
reads it. `Store` keeps these rules:

- All handles of a process on one folder share one environment; a reader that is joined by a writer goes on.
- Transactions are short and never left open; a fork waits for them, and the child opens an environment of its own.
- The size doubles when it is used up, and a process whose neighbour did so follows.
- A header names the format and its version, and is checked before anything else, as is the length of the file.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import lmdb

Result = TypeVar("Result")

_HEADER = b"header"
_FIRST_SIZE = 16 * 2**20  # bytes of address space; the file itself only holds what was written
_MAX_READERS = 1024  # processes and threads reading at the same instant


class CacheError(RuntimeError):
    """A cache that can't be opened, read or written; the message names it, the reason and a remedy."""


class Store:
    """One LMDB environment, shared within the process. Use `Store.open`, then `close` once for every `open`."""

    def __init__(self, folder: Path, writable: bool) -> None:
        """Opens the environment; `Store.open` is the way in.

        Args:
            folder: Real path of the folder.
            writable: Whether records can be written.
        """
        self.folder = folder
        self.writable = writable
        self.users = 0
        self.lock = threading.RLock()  # no transaction may be running while the size changes or the process forks
        self._env: lmdb.Environment | None = None
        self.env()
        self.file_id = _file_id(folder)

    @classmethod
    def open(cls, path: str | os.PathLike, writable: bool, name: str, version: int) -> "Store":
        """Opens a folder, or joins whoever in this process has it open.

        Args:
            path: The folder; created, with its parents, when it is to be written.
            writable: Whether records can be written.
            name: What the header calls the format.
            version: Newest version of the format that the caller can read, and the one it writes.

        Raises:
            CacheError: If there is nothing there to read, or it is no store of this format, newer, or damaged.
        """
        folder = _folder(path, writable)
        with _registry_lock:
            store = _registry.get(str(folder))
            if store is not None and store.file_id != _file_id(folder):  # deleted and made anew since
                store._shut()
                store = None
            if store is None:
                store = cls(folder, writable)
            elif writable and not store.writable:
                store._make_writable()
            try:
                store._check_header(name, version)
            except CacheError:
                if not store.users:
                    store._shut()
                raise
            store.users += 1
            _registry[str(folder)] = store
            return store

    def close(self) -> None:
        """Ends one use; the last one closes the environment."""
        with _registry_lock, self.lock:
            self.users -= 1
            if self.users <= 0:
                self._shut()
                if _registry.get(str(self.folder)) is self:
                    del _registry[str(self.folder)]

    def read(self, work: Callable[[lmdb.Transaction], Result]) -> Result:
        """Runs `work(transaction)` on one consistent state and returns what it returns.

        Raises:
            CacheError: If LMDB can't read the file.
        """
        return self._run(work, write=False)

    def write(self, work: Callable[[lmdb.Transaction], Result]) -> Result:
        """Runs `work(transaction)`; when this returns, what it put is on disk, when it raises, nothing is.

        Args:
            work: Called again from the start when the size had to grow.

        Raises:
            CacheError: If LMDB can't write the file.
        """
        return self._run(work, write=True)

    def env(self) -> lmdb.Environment:
        """The environment, opened when there is none (at first, and after a fork)."""
        if self._env is None:
            self._env = _open_environment(self.folder, self.writable)
        return self._env

    def _run(self, work: Callable[[lmdb.Transaction], Result], write: bool) -> Result:
        with self.lock:
            if not self.users:
                raise CacheError(f"{self.folder}: this cache was closed or replaced; open it again")
            return self._retry(work, write)

    def _retry(self, work: Callable[[lmdb.Transaction], Result], write: bool) -> Result:
        while True:
            try:
                with self.env().begin(write=write) as transaction:
                    return work(transaction)
            except lmdb.MapFullError:
                self._resize(2 * self.env().info()["map_size"])
            except lmdb.MapResizedError:
                self._resize(0)
            except lmdb.Error as error:
                action = "written; check free space" if write else "read; restore it from a copy"
                raise CacheError(f"{self.folder}: can't be {action} ({error})") from error

    def _resize(self, size: int) -> None:
        try:
            self.env().set_mapsize(size)  # 0 adopts the size another process has set
        except lmdb.Error as error:
            raise CacheError(f"{self.folder}: can't grow to {size:,} bytes ({error}); free memory or space") from error

    def _check_header(self, name: str, version: int) -> None:
        header, entries = self._retry(lambda t: (t.get(_HEADER), t.stat()["entries"]), write=False)
        text = json.dumps({"format": name, "version": version}).encode()
        if header is None and not entries and self.writable:
            self._retry(lambda t: t.put(_HEADER, text, overwrite=False), write=True)
            return
        try:
            found = json.loads(header or b"")
            found_name, found_version = found["format"], int(found["version"])
        except (ValueError, TypeError, KeyError) as error:
            raise CacheError(f"{self.folder}: LMDB data, but no {name}; check the path") from error
        if found_name != name:
            raise CacheError(f"{self.folder}: holds {found_name!r}, not a {name}; check the path")
        if found_version > version:
            raise CacheError(
                f"{self.folder}: {name} of format version {found_version}, newer than version {version}, the newest "
                "this program reads; update the program"
            )
        if found_version < version and self.writable:  # from now on it may hold what an older program can't read
            self._retry(lambda t: t.put(_HEADER, text), write=True)

    def _make_writable(self) -> None:
        with self.lock:
            self._shut_environment()
            self.writable = True
            try:
                self.env()
            except CacheError:
                self.writable = False
                raise

    def _shut(self) -> None:
        with self.lock:
            self.users = 0
            self._shut_environment()

    def _shut_environment(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None


def _folder(path: str | os.PathLike, writable: bool) -> Path:
    """The real path of a folder that can be opened, made if need be.

    Raises:
        CacheError: If it can't be opened.
    """
    try:
        folder = Path(os.path.realpath(path))
        if writable:
            folder.mkdir(parents=True, exist_ok=True)
        elif not folder.exists():
            raise CacheError(f"{path}: no such cache; check the path, or record one with mode='w'")
        if not folder.is_dir():
            raise CacheError(f"{path}: a file, a cache is a folder; check the path")
        if not writable and not (folder / "data.mdb").is_file():
            raise CacheError(f"{path}: a folder without a cache in it; check the path, or record one with mode='w'")
    except FileExistsError as error:
        raise CacheError(f"{path}: a file, a cache is a folder; give another path") from error
    except (OSError, ValueError, TypeError) as error:
        raise CacheError(f"{path!r}: can't be opened ({error}); check the path and its permissions") from error
    return folder


def _open_environment(folder: Path, writable: bool) -> lmdb.Environment:
    """Opens LMDB and compares the file's length with what it says of itself."""
    # No spare transactions: they would hold a place in the table of readers across a fork.
    settings = dict(map_size=_FIRST_SIZE, max_readers=_MAX_READERS, max_spare_txns=0, readonly=not writable)
    try:
        try:
            env = lmdb.open(str(folder), create=writable, **settings)
        except lmdb.Error:
            if writable or os.access(_lock_file(folder), os.W_OK):
                raise
            # A folder that can't be written needs no lock; whoever can write it elsewhere should not do so meanwhile.
            env = lmdb.open(str(folder), create=False, lock=False, **settings)
    except (lmdb.Error, OSError) as error:
        mode = "writing" if writable else "reading"
        raise CacheError(f"{folder}: can't be opened for {mode} ({error}); check that it is a cache") from error
    needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"] if env.stat()["entries"] else 0
    size = os.path.getsize(folder / "data.mdb")
    if size < needed:
        env.close()
        raise CacheError(f"{folder}: data.mdb is cut short ({size:,} of {needed:,} bytes); copy it again")
    return env


def _lock_file(folder: Path) -> Path:
    lock_file = folder / "lock.mdb"
    return lock_file if lock_file.exists() else folder


def _file_id(folder: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(folder / "data.mdb")
    except OSError:
        return None
    return status.st_dev, status.st_ino


def scan(txn: lmdb.Transaction, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Entries whose key starts with a prefix, in the order of keys."""
    with txn.cursor() as cursor:
        if cursor.set_range(prefix):
            for key, value in cursor:
                if not key.startswith(prefix):
                    return
                yield key, value


_registry: dict[str, Store] = {}  # LMDB itself is one environment per file and process, so the register is too
_registry_lock = threading.RLock()


def _before_fork() -> None:
    _registry_lock.acquire()
    for store in _registry.values():
        store.lock.acquire()


def _after_fork_in_parent() -> None:
    for store in _registry.values():
        store.lock.release()
    _registry_lock.release()


def _after_fork_in_child() -> None:
    for store in _registry.values():
        store._shut_environment()
    _after_fork_in_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
