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
import math
import os
import posixpath
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
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
_MOST_CHARS = 1_000_000  # of a line
_MOST_LINES = 20  # of a row whose cells hold line breaks
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # a byte that was none, under "surrogateescape"


def _rows_table(rows: Iterable[tuple] = ()) -> pd.DataFrame:
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
    if name not in LAYOUTS:
        raise ValueError(f"benchmark {name!r}: choose one of {', '.join(LAYOUTS)}")
    if root is None:
        raise ValueError(f"benchmark {name}: say where the photos are with --root DIR, or with its CSV")
    table = _list_in(Path(root), name)
    rows = _yfcc_rows(table) if name == "yfcc4k" else read_rows(table)
    return _listing(rows, table.parent, LAYOUTS[name][1], n, check, progress)


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
        n, check, progress: As in `load`.

    Returns:
        The photos, with their paths as ids, and the bad rows as a table.

    Raises:
        ValueError: There is no list, or it can't be read; tells what to do.
    """
    table = _list_in(Path(root), "folder") if csv is None else Path(csv)
    return _listing(read_rows(table), Path(root), LAYOUTS["folder"][1], n, check, progress)


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
    return Listing(photos, _rows_table(skipped), _rows_table(suspicious))


def _drawn(rows: Iterable[Row], n: int | None) -> Iterable[Row]:
    """All rows, or n of them by a hash of their names, in the order listed."""
    if n is None:
        return rows
    if n < 1:
        raise ValueError(f"n={n}: ask for at least one photo")
    chosen = heapq.nsmallest(n, rows, key=lambda row: (hashlib.sha256(row.path.encode()).digest(), row.line))
    return sorted(chosen)


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


def _open(photo: Photo) -> None:
    try:
        photo.load()
    except PhotoError as error:
        raise _Unusable("unreadable", str(error).removeprefix(f"{photo.source}: ")) from error


def read_rows(path: str | os.PathLike) -> Iterator[Row]:
    """The rows of a list whose first line names its columns (see `COLUMNS`); blank ones are left out.

    Not pandas': every row keeps the number of its line, also after cells that hold line breaks, a quotation mark never
    closed costs its own line and not the rest of the file, and a file of any length takes the memory of its longest
    row.

    Raises:
        ValueError: The file can't be read as text, or its first line doesn't name the columns; says which.
    """
    lines = read_lines(path)
    number, header = next((line for line in lines if line[1].strip(" \t\r\n,;")), (1, ""))
    separator = max(",;\t", key=header.count)
    width, columns = _columns(path, number, _cells(header, separator) or [])
    for first, cells in _records(lines, separator, width):
        if cells is None:
            yield Row(first, "", problem="not readable as CSV; check its quotation marks, and cells of enormous length")
        elif any(cell.strip() for cell in cells):
            yield _row(first, cells, separator, width, columns)


def _yfcc_rows(path: Path) -> Iterator[Row]:
    """The rows of YFCC4k's list: tabs between cells, no quotation marks, no header but in later copies."""
    lines = ((number, [cell.strip() for cell in text.split("\t")]) for number, text in read_lines(path))
    rows = (row for row in lines if any(row[1]))
    sample = list(islice(rows, 100))
    if not sample or {"lat", "latitude"} & set(re.split("[,;\t]", "\t".join(sample[0][1]).casefold())):
        yield from read_rows(path)
        return
    photo, lon, lat = max(_YFCC_LAYOUTS, key=lambda layout: sum(_fits(cells, layout) for _, cells in sample))
    for number, cells in chain(sample, rows):
        short = f"{len(cells)} cells; at least {lat + 1} are needed" if len(cells) <= lat else ""
        cells = cells + [""] * (lat + 1 - len(cells))
        yield Row(number, cells[photo], cells[lat], cells[lon], problem=short)


def _fits(cells: list[str], layout: tuple[int, int, int]) -> bool:
    """Whether a row has coordinates where a layout says."""
    _, lon, lat = layout
    return len(cells) > lat and _degrees(cells[lat], 90) is not None and _degrees(cells[lon], 180) is not None


def read_lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers, from 1, line ends kept.

    Raises:
        ValueError: The file can't be opened, or a line is not text; names it.
    """
    try:
        with open(path, "rb") as file:
            wide = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
        how = {"encoding": "utf-16"} if wide else {"encoding": "utf-8-sig", "errors": "surrogateescape"}
        with open(path, newline="", **how) as file:
            for number, text in enumerate(iter(lambda: file.readline(_MOST_CHARS), ""), 1):
                if len(text) >= _MOST_CHARS:
                    fault, remedy = f"has over {_MOST_CHARS:,} characters", "give a list with a photo a line"
                    raise ValueError(f"{path}: line {number} {fault}; {remedy}")
                if not text.isascii() and (odd := _NOT_UTF8.search(text)):
                    fault, remedy = f"is not UTF-8 (byte 0x{ord(odd[0]) - 0xDC00:02X})", "save the list as 'CSV UTF-8'"
                    raise ValueError(f"{path}: line {number} {fault}; {remedy}")
                yield number, text
    except UnicodeError as error:
        raise ValueError(f"{path}: not the UTF-16 that its first bytes announce; save it as 'CSV UTF-8'") from error
    except OSError as error:
        raise ValueError(f"{path}: can't be read ({reason_of(error)}); give the path of a list of photos") from error


def _cells(text: str, separator: str) -> list[str] | None:
    """The cells of one row; None if it is no CSV, or not all of it."""
    try:
        return next(csv.reader([text], delimiter=separator, skipinitialspace=True, strict=True), [])
    except csv.Error:
        return None


def _records(lines: Iterator[tuple[int, str]], separator: str, width: int) -> Iterator[tuple[int, list[str] | None]]:
    """Rows and the numbers of their first lines; None for a line that is no row, nor the beginning of a longer one."""
    waiting: deque[tuple[int, str]] = deque()

    def following() -> tuple[int, str] | None:
        return waiting.popleft() if waiting else next(lines, None)

    while line := following():
        number, text = line
        cells, ahead = _cells(text, separator), []
        while cells is None and len(ahead) < _MOST_LINES and (more := following()):
            ahead.append(more)
            text += more[1]
            joined = _cells(text, separator)
            cells = joined if joined and len(joined) >= width else None
        if cells is None:
            waiting.extendleft(reversed(ahead))
        yield number, cells


def _columns(path: str | os.PathLike, number: int, header: list[str]) -> tuple[int, dict[str, int]]:
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
