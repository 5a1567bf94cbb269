"""Lists of photos as people keep them: a row a photo, with its file and place, read line by line and never guessed at.

Commas, semicolons and tabs separate cells, with decimal commas where the comma is no separator. Text is UTF-8, with or
without a byte order mark, or UTF-16 with one. A row that can't be read is a row all the same, with its line and what is
wrong with it, so that whoever counts rows counts it too. A file of any length takes the memory of its longest row.

    for row in read_rows("places.csv"): print(row.line, row.path, row.lat, row.lon, row.problem)
"""

import csv
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reverse_lib.photos.photo import reason_of

COLUMNS = {  # the names each column goes by, in lower case, the best first
    "path": "path file filename file_name image_path img_path image photo img_id image_id photo_id id name".split(),
    "lat": ["lat", "latitude", "gt_lat"],
    "lon": ["lon", "longitude", "lng", "long", "gt_lon"],
    "country": ["country", "gt_country"],
    "city": ["city", "gt_city", "town"],
}
_NEEDED = ("path", "lat", "lon")
_SEPARATORS = ",;\t"
_MOST_CHARS = 1_000_000  # of a line
_MOST_LINES = 20  # of a row whose cells hold line breaks
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # a byte that was none, under "surrogateescape"

Line = tuple[int, str]  # its number, from 1, and its text


@dataclass(frozen=True)
class Row:
    """A row as written; nothing in it is checked.

    Attributes:
        line: Number of its first line, from 1.
        path: What names the photo: a path or an id.
        lat: Latitude.
        lon: Longitude.
        country: "" where the list has no such column.
        city: The same.
        problem: Why the row can't be read, with a remedy; "" if it can.
    """

    line: int
    path: str
    lat: str = ""
    lon: str = ""
    country: str = ""
    city: str = ""
    problem: str = ""


def read_rows(path: str | os.PathLike) -> Iterator[Row]:
    """The rows of a list with a header that names path, lat, lon and, optionally, country and city (see `COLUMNS`).

    Args:
        path: The list.

    Yields:
        Every row that isn't blank, in order.

    Raises:
        ValueError: The file can't be read as text, or its first line doesn't name the columns; says which.
    """
    lines = read_lines(path)
    number, header = next((line for line in lines if line[1].strip(" \t\r\n,;")), (1, ""))
    separator = max(_SEPARATORS, key=header.count)
    width, columns = _columns(path, number, _cells(header, separator) or [])
    for first, cells in _records(lines, separator, width):
        if cells is None:
            yield Row(first, "", problem="not readable as CSV; check its quotation marks, and cells of enormous length")
        elif any(cell.strip() for cell in cells):
            yield _row(first, cells, separator, width, columns)


def read_columns(path: str | os.PathLike, positions: Sequence[int]) -> Iterator[Row]:
    """The rows of a list without a header, tabs between cells, no quotation marks.

    Args:
        path: The list.
        positions: Of the photo's id, its longitude and its latitude, from 0.

    Yields:
        Every row that isn't blank, in order.

    Raises:
        ValueError: The file can't be read as text.
    """
    for number, text in read_lines(path):
        cells = [cell.strip() for cell in text.rstrip("\r\n").split("\t")]
        if not any(cells):
            continue
        photo, lon, lat = (cells[at] if at < len(cells) else "" for at in positions)
        short = f"{len(cells)} cells; at least {max(positions) + 1} are needed" if len(cells) <= max(positions) else ""
        yield Row(number, photo, lat, lon, problem=short)


def read_lines(path: str | os.PathLike) -> Iterator[Line]:
    """The lines of a text file with their numbers, line ends kept.

    Raises:
        ValueError: The file can't be opened, or a line is not text; names it.
    """
    try:
        with open(path, "rb") as file:
            wide = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
        how = {"encoding": "utf-16"} if wide else {"encoding": "utf-8-sig", "errors": "surrogateescape"}
        with open(path, newline="", **how) as file:
            for number, text in enumerate(iter(lambda: file.readline(_MOST_CHARS), ""), 1):
                _check_text(path, number, text)
                yield number, text
    except UnicodeError as error:
        raise ValueError(f"{path}: not the UTF-16 that its first bytes announce; save it as 'CSV UTF-8'") from error
    except OSError as error:
        raise ValueError(f"{path}: can't be read ({reason_of(error)}); give the path of a list of photos") from error


def _check_text(path: str | os.PathLike, number: int, text: str) -> None:
    if len(text) >= _MOST_CHARS:
        raise ValueError(f"{path}: line {number} has over {_MOST_CHARS:,} characters; give a list with a photo a line")
    if not text.isascii() and (found := _NOT_UTF8.search(text)):
        byte = ord(found[0]) - 0xDC00
        raise ValueError(f"{path}: line {number} is not UTF-8 (byte 0x{byte:02X}); save the list as 'CSV UTF-8'")


def _cells(text: str, separator: str) -> list[str] | None:
    """The cells of one row; None if it is no CSV, or not all of it."""
    try:
        return next(csv.reader([text], delimiter=separator, skipinitialspace=True, strict=True), [])
    except csv.Error:
        return None


def _records(lines: Iterator[Line], separator: str, width: int) -> Iterator[tuple[int, list[str] | None]]:
    """Rows and the numbers of their first lines; None for a line that is no row, nor the beginning of a longer one."""
    waiting: deque[Line] = deque()

    def following() -> Line | None:
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
        known = next((name for name in synonyms if name in names), None)
        if known is not None:
            if names.count(known) > 1:
                raise ValueError(f"{path}: column {known} occurs twice in line {number}; rename or remove one")
            columns[column] = names.index(known)
    missing = [column for column in _NEEDED if column not in columns]
    if missing:
        written = ", ".join(names)[:80] or "nothing"
        raise ValueError(
            f"{path}: missing columns {', '.join(missing)}; line {number} must be path, lat, lon[, country, city], "
            f"and is {written}"
        )
    return len(names), columns


def _row(line: int, cells: list[str], separator: str, width: int, columns: dict[str, int]) -> Row:
    while len(cells) > width and not cells[-1].strip():
        cells = cells[:-1]
    found = {name: cells[at].strip() for name, at in columns.items() if at < len(cells)}
    if len(cells) > width:
        too_many = f"{len(cells)} cells for {width} columns; quote cells that hold {separator!r}"
        return Row(line, found.get("path", "")[:200], problem=too_many)
    if separator != ",":
        found |= {name: found[name].replace(",", ".") for name in ("lat", "lon") if name in found}
    return Row(line, **{"path": "", **found})
