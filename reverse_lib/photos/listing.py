"""Photos with known places to evaluate on, or to annotate: public benchmarks, anyone's own folder.

Rows that can't be used are never dropped in silence: a `Listing` names each with its line and reason, and the photos
and the skipped rows add up to what was listed. What differs from the paper's code: coordinates are range-checked and
(0, 0) is kept, marked as suspicious; paths stay inside the folder; a draw of n photos is a function of their names.

A benchmark is for judging. The paper's public code uses 50 test photos of Im2GPS3k as its validation set; here no
benchmark photo is used to select a checkpoint, a threshold or a prompt. For that there are `val` and your own photos.

    listing = load("im2gps3k", "data/im2gps3k")
    listing.photos, listing.skipped, listing.counts()
    listing = folder("my_photos")                   # a CSV with path, lat, lon[, country, city] in the folder
"""

import hashlib
import heapq
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PureWindowsPath

import pandas as pd

from reverse_lib.photos.lists import Row, read_columns, read_lines, read_rows
from reverse_lib.photos.photo import Photo, PhotoError

NAMES = ("im2gps3k", "yfcc4k", "folder")
PUBLISHED = {"im2gps3k": 2997, "yfcc4k": 4536}  # photos each is published with
_SKIPPED = ["line", "path", "kind", "reason"]
_LISTS = {  # file names to look for, the best first
    "im2gps3k": ("im2gps3k_places365.csv", "im2gps3k*.csv", "*.csv"),
    "yfcc4k": ("yfcc4k*.tsv", "yfcc4k*.txt", "yfcc4k*.csv", "*.tsv", "*.txt", "*.csv"),
    "folder": ("*.csv", "*.tsv"),
}
_PHOTOS_IN = {  # folders, below the one of the list
    "im2gps3k": ("", "images", "im2gps3ktest"),
    "yfcc4k": ("", "images", "yfcc4k"),
    "folder": ("", "images"),
}
_SUFFIXES = ("", ".jpg", ".JPG", ".jpeg", ".png", ".webp")  # an id may come without one
# Id, longitude and latitude, counted from 0: as in YFCC100M, from which the rows are cut, with its line numbers first;
# and counted from 1 with the id first.
_YFCC_LAYOUTS = ((1, 12, 13), (0, 11, 12))


@dataclass(frozen=True)
class Listing:
    """What a list of photos holds.

    Attributes:
        photos: Those that can be used, in the order listed.
        skipped: The other rows: line, path, kind ("row", "outside", "coordinates", "missing", "duplicate" or
            "unreadable"), reason.
        suspicious: Rows among `photos` that someone should look at, with the same columns.
    """

    photos: list[Photo]
    skipped: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=_SKIPPED))
    suspicious: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=_SKIPPED))

    @property
    def listed(self) -> int:
        """Rows that were to be used: photos and skipped ones."""
        return len(self.photos) + len(self.skipped)

    def counts(self) -> dict[str, int]:
        """How many rows were skipped, by kind."""
        return self.skipped["kind"].value_counts(sort=False).to_dict()


class _Unusable(ValueError):
    """A row that can't be used: its kind and the reason."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


def load(
    name: str,
    root: str | os.PathLike | None = None,
    n: int | None = None,
    check: bool = True,
    progress: Callable[[int], object] | None = None,
) -> Listing:
    """The photos of a benchmark.

    Args:
        name: "im2gps3k" or "yfcc4k"; "folder" for any list, MP16-Pro's too.
        root: A folder with the list and the photos, or the list itself.
        n: How many of the listed photos, bad rows included; all when None. Drawn by a hash of
            their names, so that a small draw is part of a larger one.
        check: Whether every photo is opened to see that it can be read; False for lists of millions.
        progress: Called with 1 after every row.

    Raises:
        ValueError: The name is unknown, there is no list, or it can't be read; tells what to do.
    """
    if name not in NAMES:
        raise ValueError(f"benchmark {name!r}: choose one of {', '.join(NAMES)}")
    if root is None:
        raise ValueError(f"benchmark {name}: say where the photos are with --root DIR, or with its CSV")
    table = _table(name, Path(root))
    return _listing(_read(name, table), table.parent, _PHOTOS_IN[name], n, check, progress)


def folder(
    root: str | os.PathLike,
    csv: str | os.PathLike | None = None,
    n: int | None = None,
    check: bool = True,
    progress: Callable[[int], object] | None = None,
) -> Listing:
    """A user's own photos: a folder and a list with columns path, lat, lon and, optionally, country and city.

    Args:
        root: The folder that the list's paths start from.
        csv: The list; the only one in the folder when None.
        n: As in `load`.
        check: As in `load`.
        progress: As in `load`.

    Returns:
        The photos, with their paths as ids, and the bad rows as a table.

    Raises:
        ValueError: There is no list, or it can't be read; tells what to do.
    """
    table = _table("folder", Path(root)) if csv is None else Path(csv)
    return _listing(read_rows(table), Path(root), _PHOTOS_IN["folder"], n, check, progress)


def _table(name: str, root: Path) -> Path:
    """The list in a folder, or root itself if it is a file."""
    if not root.is_dir():
        if root.is_file():
            return root
        raise ValueError(f"{root}: no CSV file there, nor a folder with one; check the path")
    for pattern in _LISTS[name]:
        found = sorted(path for path in root.glob(pattern) if path.is_file())
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(path.name for path in found[:4])
            raise ValueError(f"{root}: {len(found)} CSV files there ({names}); name the one that lists the photos")
    raise ValueError(f"{root}: no CSV file there; write one with columns path, lat, lon")


def _read(name: str, table: Path) -> Iterator[Row]:
    if name != "yfcc4k":
        return read_rows(table)
    texts = (text.strip("\r\n") for _, text in read_lines(table))
    rows = [text.split("\t") for text in islice(filter(str.strip, texts), 100)]
    if not rows or {"lat", "latitude"} & set(re.split("[,;\t]", "\t".join(rows[0]).casefold())):
        return read_rows(table)  # a later copy, with a header
    return read_columns(table, max(_YFCC_LAYOUTS, key=lambda layout: _fit(table.parent, rows, layout)))


def _fit(root: Path, rows: list[list[str]], layout: tuple[int, int, int]) -> int:
    """How much of some rows looks as it should in a layout: coordinates that are some, ids that have a photo."""
    points = 0
    for cells in rows:
        if len(cells) > max(layout):
            photo, lon, lat = (cells[at] for at in layout)
            points += _degrees(lat, 90) is not None and _degrees(lon, 180) is not None
            points += any(True for _ in _files(root, _PHOTOS_IN["yfcc4k"], photo))
    return points


def _listing(rows: Iterable[Row], root: Path, folders: tuple[str, ...], n: int | None, check, progress) -> Listing:
    """Rows as photos, or as reasons why not."""
    photos, skipped, suspicious, first_line = [], [], [], {}
    for row in _drawn(rows, n):
        try:
            photo = _photo(row, root, folders)
            key = os.path.realpath(photo.source)
            if key in first_line:
                raise _Unusable("duplicate", f"already listed in line {first_line[key]}; remove one of the two")
            first_line[key] = row.line
            if check:
                _open(photo)
        except _Unusable as problem:
            skipped.append((row.line, row.path, problem.kind, str(problem)))
            continue
        finally:
            if progress is not None:
                progress(1)
        photos.append(photo)
        if photo.lat == photo.lon == 0:
            reason = "0, 0 lies in the sea off Africa and often stands for an unknown place; check it"
            suspicious.append((row.line, row.path, "coordinates", reason))
    return Listing(photos, pd.DataFrame(skipped, columns=_SKIPPED), pd.DataFrame(suspicious, columns=_SKIPPED))


def _drawn(rows: Iterable[Row], n: int | None) -> Iterable[Row]:
    """All rows, or n of them by a hash of their names, in the order listed."""
    if n is None:
        return rows
    if n < 1:
        raise ValueError(f"n={n}: ask for at least one photo")
    chosen = heapq.nsmallest(n, rows, key=lambda row: (hashlib.sha256(row.path.encode()).digest(), row.line))
    return sorted(chosen, key=lambda row: row.line)


def _photo(row: Row, root: Path, folders: tuple[str, ...]) -> Photo:
    """A row as a photo whose file is there and whose place is one; the file isn't opened."""
    if row.problem:
        raise _Unusable("row", row.problem)
    name = _inside(row.path)
    lat, lon = _degrees(row.lat, 90), _degrees(row.lon, 180)
    if lat is None or lon is None:
        column, written, limit = ("lat", row.lat, 90) if lat is None else ("lon", row.lon, 180)
        swapped = "; are lat and lon swapped?" if _degrees(row.lat, 180) and _degrees(row.lon, 90) else "; correct it"
        raise _Unusable("coordinates", f"{column} {written!r:.40} isn't degrees within -{limit}..{limit}{swapped}")
    source = next(_files(root, folders, name), None)
    if source is None:
        places = " or ".join(str(root / place) for place in folders)
        raise _Unusable("missing", f"no such file in {places}")
    if not Path(os.path.realpath(source)).is_relative_to(os.path.realpath(root)):
        raise _Unusable("outside", f"a link that leaves {root}; put the photo itself there")
    return Photo(name, source, lat, lon, row.country, row.city)


def _inside(written: str) -> str:
    """A name relative to the folder, with slashes, that doesn't leave it."""
    windows = PureWindowsPath(written)
    name = posixpath.normpath(windows.as_posix() if "\\" in written else written)
    if not written or name == ".":
        raise _Unusable("row", "names no photo; fill in its path")
    if (windows.drive and windows.root) or name.startswith("/") or name.split("/")[0] == "..":
        raise _Unusable("outside", "leaves the folder of the photos; give a path below it")
    return name


def _files(root: Path, folders: tuple[str, ...], name: str) -> Iterator[Path]:
    """Files that a name may mean, such as images/XX/YY/XX_YY_nnn.jpg for XX/YY/nnn.jpg in MP16-Pro."""
    flat = name.replace("/", "_")
    parts = flat.split("_")
    spellings = [name, "/".join([*parts[:2], flat])] if len(parts) > 2 else [name]
    for place in folders:
        for spelling in spellings:
            for suffix in _SUFFIXES:
                path = root / place / f"{spelling}{suffix}"
                if os.path.isfile(path):
                    yield path


def _degrees(written: str, limit: int) -> float | None:
    """A coordinate in degrees, None if it is no number within the limit."""
    try:
        value = float(written) if "_" not in written else None
    except ValueError:
        return None
    return value if value is not None and abs(value) <= limit else None


def _open(photo: Photo) -> None:
    try:
        photo.load()
    except PhotoError as error:
        raise _Unusable("unreadable", str(error).removeprefix(f"{photo.source}: ")) from error
