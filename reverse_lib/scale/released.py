"""Reading the released data set from its folder, as it was published, and nothing else that lies there."""

import csv
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from reverse_lib.photos import MAX_PIXELS, Photo, PhotoError, load_photo
from reverse_lib.scale.caches import read_cache
from reverse_lib.scale.rows import from_annotation, from_rl, from_sft
from reverse_lib.scale.tables import IMAGE_CACHE, SFT, TEXT_CACHE, InteropError, Problem, read_table, rl_schema
from reverse_lib.search import IMAGE, TEXT, SearchCache
from reverse_lib.trajectory import Trajectory

_logger = logging.getLogger(__name__)


@dataclass
class ReleasedData:
    """The released data set.

    Attributes:
        root: Its folder, DATA_ROOT, with `images/`, `sft/`, `rl/` and `rl_cache/`.
        strict: Whether a bad row is an error; otherwise it is left out, noted in `problems`, and logged.
        problems: Rows left out so far, of everything that was read.
    """

    root: str | os.PathLike
    strict: bool = False
    problems: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root = Path(self.root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder; give DATA_ROOT, where the data set is")

    def sft(self, name: str = "train_sft_coldstart_v5") -> Iterator[Trajectory]:
        """Reads `sft/NAME.parquet`. The truth about its photos isn't in it.

        Raises:
            FileNotFoundError, InteropError: The table can't be read, or a row, if strict.
        """
        return self._table(self.root / "sft" / f"{name}.parquet", SFT, from_sft)

    def rl(self, name: str = "train_rl_v5_full") -> Iterator[Trajectory]:
        """Reads `rl/NAME.parquet`: photos with their places, as trajectories without steps; errors as in `sft`."""
        path = self.root / "rl" / f"{name}.parquet"
        return self._table(path, rl_schema(path), from_rl)

    def annotations(self, path: str | os.PathLike) -> Iterator[Trajectory]:
        """Reads a JSONL file of annotated trajectories, relative to the root; errors as in `sft`."""
        path = self.root / path
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file of annotations; check the name")
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    read = self._row(path, number, None, lambda line=line: from_annotation(_json_object(line)))
                    yield from read
        self._say(path)

    def photos(self, name: str = "train_rl_v5_full") -> list[Photo]:
        """The photos of an RL table with their places. Their files are not opened; those missing are problems."""
        photos: dict[str, Photo] = {}
        table = self.root / "rl" / f"{name}.parquet"
        for number, row, fault in read_table(table, rl_schema(table)):
            for task in self._row(table, number, fault, lambda row=row: from_rl(row)):
                source = self.root / "images" / task.photo_id
                kind = TiffPhoto if source.suffix.lower() in (".tif", ".tiff") else Photo
                photo = kind(task.photo_id, source, task.lat, task.lon, task.country, task.city)
                if source.is_file():
                    photos.setdefault(task.photo_id, photo)
                else:
                    self._note(Problem(str(table), number, f"no such photo: {source}"))
        self._say(table)
        return list(photos.values())

    def caches(self, cache: SearchCache, folder: str | os.PathLike = "rl_cache") -> dict[str, int]:
        """Records both search caches.

        Args:
            cache: Opened for recording. What its block list names is dropped, and counted; with `BlockList(())` as
                `blocked_hosts` everything is kept.
            folder: Where the tables are, relative to the root.

        Returns:
            Counts: rows, duplicates (rows of the same photo, call and position: the useful one is kept), empty
            (searches that found nothing), blocked (results dropped) and problems.

        Raises:
            FileNotFoundError, InteropError: A table can't be read, or a row, if strict.
        """
        counts = dict.fromkeys(("rows", "duplicates", "empty", "blocked", "problems"), 0)
        for tool, schema, name in ((IMAGE, IMAGE_CACHE, "image_search_cache"), (TEXT, TEXT_CACHE, "text_search_cache")):
            path = self.root / folder / f"{name}.parquet"
            for key, count in read_cache(cache, tool, path, schema, self._note).items():
                counts[key] += count
            self._say(path)
        return counts

    def _table(self, path: Path, schema: pa.Schema, read: Callable[[dict], Trajectory]) -> Iterator[Trajectory]:
        for number, row, fault in read_table(path, schema):
            yield from self._row(path, number, fault, lambda row=row: read(row))
        self._say(path)

    def _row(self, path: Path, number: int, fault: str | None, read: Callable[[], Trajectory]) -> list[Trajectory]:
        """The row as a list of one, or of none if it is bad."""
        try:
            if fault:
                raise ValueError(fault)
            return [read()]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"has no {error}" if isinstance(error, KeyError) else str(error)
            self._note(Problem(str(path), number, reason))
            return []

    def _note(self, problem: Problem) -> None:
        if self.strict:
            raise InteropError(f"{problem}; correct the row, or read with strict=False to leave it out")
        self.problems.append(problem)

    def _say(self, path: Path) -> None:
        found = [problem for problem in self.problems if problem.file == str(path)]
        if found:
            _logger.warning("%s: %d rows left out, the first: row %d, %s", path, len(found), *found[0][1:])


class TiffPhoto(Photo):
    """A photo in TIFF, as some of the data set's are. `load_photo` doesn't read it; nobody's phone writes it."""

    def load(self) -> Image.Image:
        """Returns the picture: RGB, upright, without metadata.

        Raises:
            PhotoError: It can't be read.
        """
        try:
            with Image.open(self.source, formats=["TIFF"]) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise PhotoError(f"{self.source}: more than {MAX_PIXELS:,} pixels; scale it down first")
                buffer = BytesIO()
                image.convert("RGB").save(buffer, "PNG")  # Pillow has turned it upright on loading
        except (OSError, SyntaxError, TypeError, KeyError, Image.DecompressionBombError) as error:
            raise PhotoError(f"{self.source}: not a readable TIFF ({error}); convert it to JPEG or PNG") from error
        return load_photo(buffer.getvalue())


def write_photo_list(path: str | os.PathLike, photos: Iterable[Photo]) -> int:
    """Writes photos as the CSV that `benchmarks.folder` and the notebooks read; returns the number of rows.

    Paths are relative to the list, where they can be.
    """
    path, count = Path(path), 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "lat", "lon", "country", "city"])
        for photo in photos:
            source = Path(os.path.relpath(photo.source, path.parent)).as_posix()
            writer.writerow([source, photo.lat, photo.lon, photo.country, photo.city])
            count += 1
    return count


def _json_object(line: bytes) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON, write null")

    found = json.loads(line.decode("utf-8-sig"), parse_constant=refuse)
    if not isinstance(found, dict):
        raise ValueError(f"holds {type(found).__name__}, expected an object")
    return found
