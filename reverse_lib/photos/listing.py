"""Lists of photos with known places, to evaluate on or to annotate: public benchmarks, anyone's own folder.

Rows that can't be used are never dropped in silence: a `Listing` names each with its line and reason, and the photos
and the skipped rows add up to what was listed. What differs from the paper's code: coordinates are range-checked and
(0, 0) is kept, marked as suspicious; paths stay inside the folder; a draw of n photos is a function of their names.

A benchmark is for judging. The paper's public code uses 50 test photos of Im2GPS3k as its validation set; here no
benchmark photo is used to select a checkpoint, a threshold or a prompt. For that there are `val` and your own photos.

Lists are read as people keep them: commas, semicolons or tabs between cells, with decimal commas where the comma is no
separator, in UTF-8 with or without a byte order mark, or in UTF-16 with one.

    listing = load("im2gps3k", "data/im2gps3k")
    listing.photos, listing.skipped, listing.counts()
    listing = folder("my_photos")                   # a CSV with path, lat, lon[, country, city] in the folder
"""

from __future__ import annotations

import csv
import hashlib
import heapq
import io
import math
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, NamedTuple

from reverse_lib.photos.photo import Photo, PhotoError, reason_of

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = {"im2gps3k": 2997, "yfcc4k": 4536}  # photos each is published with
COLUMNS = {  # the names each column goes by, in lower case, the best first
    "path": "path file filename file_name image_path img_path image photo img_id image_id photo_id id name".split(),
    "lat": ["lat", "latitude", "gt_lat"],
    "lon": ["lon", "longitude", "lng", "long", "gt_lon"],
    "country": ["country", "gt_country"],
    "city": ["city", "gt_city", "town"],
}
LAYOUTS = {  # names of the list, the best first, and folders of the photos, below the one of the list
    "im2gps3k": (("im2gps3k_places365.csv", "im2gps3k*.csv", "*.csv"), ("", "images", "im2gps3ktest")),
    "yfcc4k": (("yfcc4k*.tsv", "yfcc4k*.txt", "yfcc4k*.csv", "*.tsv", "*.txt", "*.csv"), ("", "images", "yfcc4k")),
    "folder": (("*.csv", "*.tsv"), ("", "images")),
}
# Cells of id, longitude and latitude, from 0: with the id first, and as in YFCC100M, with its line numbers before. In
# the first the accuracy follows, which would pass for a latitude of the second; the second never passes for the first.
_YFCC_LAYOUTS = ((0, 11, 12), (1, 12, 13))
_SUFFIXES = ("", ".jpg", ".JPG", ".jpeg", ".png", ".webp")  # an id may come without one
_MOST_LINES = 20  # of a row whose cells hold line breaks


def _rows_table(rows: Sequence[tuple] = ()) -> pd.DataFrame:
    import pandas as pd  # only here: a photo is loaded without it

    return pd.DataFrame(rows, columns=["line", "path", "kind", "reason"])


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
    skipped: pd.DataFrame = field(default_factory=_rows_table)
    suspicious: pd.DataFrame = field(default_factory=_rows_table)

    @property
    def listed(self) -> int:
        """Rows that were to be used: photos and skipped ones."""
        return len(self.photos) + len(self.skipped)

    def counts(self) -> dict[str, int]:
        """How many rows were skipped, by kind."""
        return self.skipped["kind"].value_counts(sort=False).to_dict()


class Row(NamedTuple):
    """A row as written; nothing in it is checked."""

    line: int  # number of its first line, from 1
    path: str  # what names the photo: a path or an id
    lat: str = ""
    lon: str = ""
    country: str = ""
    city: str = ""
    problem: str = ""  # why the row can't be read, with a remedy; "" if it can


class _Unusable(ValueError):
    """A row that can't be used: its kind and the reason."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


def load(
    name: str,
    root: str | os.PathLike | None = None,
    n: int | None = None,
    progress: Callable[[int], object] = lambda rows: None,
) -> Listing:
    """The photos of a benchmark, each opened to see that it can be read.

    Args:
        name: "im2gps3k" or "yfcc4k"; "folder" for any list, MP16-Pro's too.
        root: A folder with the list and the photos, or the list itself.
        n: How many of the listed photos, bad rows included; all when None. Drawn by a hash of
            their names, so that a small draw is part of a larger one.
        progress: Called with 1 after every row.

    Raises:
        ValueError: The name is unknown, there is no list, or it can't be read; tells what to do.
    """
    if name not in LAYOUTS:
        raise ValueError(f"benchmark {name!r}: choose one of {', '.join(LAYOUTS)}")
    if root is None:
        raise ValueError(f"benchmark {name}: say where the photos are with --root DIR, or with its CSV")
    table = _list_in(Path(root), name)
    photos, skipped, suspicious, first_line = [], [], [], {}
    for row in _drawn(_yfcc_rows(table) if name == "yfcc4k" else read_rows(table), n):
        try:
            photo = _photo(row, table.parent, LAYOUTS[name][1])
            first = first_line.setdefault(os.path.realpath(photo.source), row.line)
            if first != row.line:
                raise _Unusable("duplicate", f"already listed in line {first}; remove one of the two")
            photo.load()
        except _Unusable as problem:
            skipped.append((row.line, row.path, problem.kind, str(problem)))
        except PhotoError as error:
            skipped.append((row.line, row.path, "unreadable", str(error).removeprefix(f"{photo.source}: ")))
        else:
            photos.append(photo)
            if photo.lat == photo.lon == 0:
                reason = "0, 0 lies in the sea off Africa and often stands for an unknown place; check it"
                suspicious.append((row.line, row.path, "coordinates", reason))
        progress(1)
    return Listing(photos, _rows_table(skipped), _rows_table(suspicious))


def folder(root: str | os.PathLike, n: int | None = None) -> Listing:
    """A user's own photos: a folder with a CSV of path, lat, lon and, optionally, country and city; see `load`."""
    return load("folder", root, n)


def _list_in(root: Path, name: str) -> Path:
    """The list in a folder, or root itself if it is a file."""
    if not root.is_dir():
        if root.is_file():
            return root
        raise ValueError(f"{root}: no CSV file there, nor a folder with one; check the path")
    for pattern in LAYOUTS[name][0]:
        files = sorted(path for path in root.glob(pattern) if path.is_file())
        if len(files) == 1:
            return files[0]
        if files:
            names = ", ".join(path.name for path in files[:4])
            raise ValueError(f"{root}: {len(files)} CSV files there ({names}); name the one that lists the photos")
    raise ValueError(f"{root}: no CSV file there; write one with columns path, lat, lon")


def _drawn(rows: Iterator[Row], n: int | None) -> list[Row]:
    """All rows, or n of them by a hash of their names, in the order listed."""
    if n is None:
        return list(rows)
    return sorted(heapq.nsmallest(n, rows, key=lambda row: (hashlib.sha256(row.path.encode()).digest(), row.line)))


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
        raise _Unusable("missing", f"no such file in {' or '.join(str(root / place) for place in folders)}")
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
    paths = (root / place / f"{spelling}{end}" for place in folders for spelling in spellings for end in _SUFFIXES)
    return (path for path in paths if os.path.isfile(path))


def _degrees(written: str, limit: int) -> float | None:
    """A coordinate in degrees, None if it is no number within the limit."""
    try:
        value = float(written) if "_" not in written else math.nan
    except ValueError:
        return None
    return value if abs(value) <= limit else None


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a list whose first line names its columns (see `COLUMNS`); blank ones are left out.

    Not pandas': every row keeps the number of its line, also after cells that hold line breaks, and a quotation mark
    never closed costs its own line and not the rest of the file.

    Raises:
        ValueError: The file can't be read as text, or its first line doesn't name the columns; says which.
    """
    lines = _lines(path)
    start = next((at for at, text in enumerate(lines) if text.strip(" \t\r\n,;")), 0)
    header = "".join(lines[start : start + 1])
    separator = max(",;\t", key=header.count)
    width, columns = _columns(path, start + 1, _cells(header, separator) or [])
    for line, cells in _records(lines, start + 1, separator, width):
        if cells is None:
            yield Row(line, "", problem="not readable as CSV; check its quotation marks, and cells of enormous length")
        elif any(cell.strip() for cell in cells):
            yield _row(line, cells, separator, width, columns)


def _yfcc_rows(path: Path) -> Iterator[Row]:
    """The rows of YFCC4k's list: tabs between cells, no quotation marks, no header but in later copies."""
    lines = ((number, [cell.strip() for cell in text.split("\t")]) for number, text in enumerate(_lines(path), 1))
    rows = [row for row in lines if any(row[1])]
    if not rows or {"lat", "latitude"} & set(re.split("[,;\t]", "\t".join(rows[0][1]).casefold())):
        yield from read_rows(path)
        return
    photo, lon, lat = max(_YFCC_LAYOUTS, key=lambda layout: sum(_fits(cells, layout) for _, cells in rows[:100]))
    for number, cells in rows:
        short = f"{len(cells)} cells; at least {lat + 1} are needed" if len(cells) <= lat else ""
        cells = cells + [""] * (lat + 1 - len(cells))
        yield Row(number, cells[photo], cells[lat], cells[lon], problem=short)


def _fits(cells: list[str], layout: tuple[int, int, int]) -> bool:
    """Whether a row has coordinates where a layout says."""
    _, lon, lat = layout
    return len(cells) > lat and _degrees(cells[lat], 90) is not None and _degrees(cells[lon], 180) is not None


def _lines(path: Path) -> list[str]:
    """The lines of a text file, line ends kept.

    Raises:
        ValueError: The file can't be opened, or a line is not text; names it.
    """
    try:
        data = path.read_bytes()
        encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        return list(io.StringIO(data.decode(encoding), newline=""))
    except UnicodeDecodeError as error:
        line, name = data.count(b"\n", 0, error.start) + 1, encoding.removesuffix("-sig").upper()
        fault = f"line {line} is not {name} (byte 0x{data[error.start]:02X})"
        raise ValueError(f"{path}: {fault}; save the list as 'CSV UTF-8'") from error
    except OSError as error:
        raise ValueError(f"{path}: can't be read ({reason_of(error)}); give the path of a list of photos") from error


def _cells(text: str, separator: str) -> list[str] | None:
    """The cells of one row; None if it is no CSV, or not all of it."""
    try:
        return next(csv.reader([text], delimiter=separator, skipinitialspace=True, strict=True), [])
    except csv.Error:
        return None


def _records(lines: list[str], at: int, separator: str, width: int) -> Iterator[tuple[int, list[str] | None]]:
    """Rows and the numbers of their first lines; None for a line that is no row, nor the beginning of a longer one."""
    while at < len(lines):
        for end in range(at + 1, min(at + 1 + _MOST_LINES, len(lines)) + 1):
            cells = _cells("".join(lines[at:end]), separator)
            if cells is not None and (end == at + 1 or len(cells) >= width):
                break
        else:
            cells, end = None, at + 1
        yield at + 1, cells
        at = end


def _columns(path: Path, number: int, header: list[str]) -> tuple[int, dict[str, int]]:
    """The number of columns, and where each of those we know is."""
    names = [name.strip().strip('"').casefold() for name in header]
    columns = {}
    for column, synonyms in COLUMNS.items():
        name = next((name for name in synonyms if name in names), None)
        if name is not None:
            if names.count(name) > 1:
                raise ValueError(f"{path}: column {name} occurs twice in line {number}; rename or remove one")
            columns[column] = names.index(name)
    missing = [column for column in ("path", "lat", "lon") if column not in columns]
    if missing:
        raise ValueError(
            f"{path}: missing columns {', '.join(missing)}; line {number} must be path, lat, lon[, country, city], "
            f"and is {', '.join(names)[:80] or 'nothing'}"
        )
    return len(names), columns


def _row(line: int, cells: list[str], separator: str, width: int, columns: dict[str, int]) -> Row:
    while len(cells) > width and not cells[-1].strip():
        cells = cells[:-1]
    values = {name: cells[at].strip() for name, at in columns.items() if at < len(cells)}
    if len(cells) > width:
        too_many = f"{len(cells)} cells for {width} columns; quote cells that hold {separator!r}"
        return Row(line, values.get("path", "")[:200], problem=too_many)
    if separator != ",":
        values |= {name: values[name].replace(",", ".") for name in ("lat", "lon") if name in values}
    return Row(line, **{"path": "", **values})
