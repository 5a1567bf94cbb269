"""Photos and what is known about them: one at a time, or a folder with a list; and cutting regions out of them.

`load_photo` comes from `decoding`: RGB, upright, without metadata, or a `PhotoError`.

    image = load_photo("holiday.heic")
    photos, problems = load_folder("my_photos/index.csv")
"""

import csv
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from PIL import Image

from reverse_lib.decoding import PhotoError, load_photo, reason_of

__all__ = ["Photo", "PhotoError", "crop", "load_folder", "load_photo", "to_pixels"]


@dataclass(frozen=True)
class Photo:
    """A photo and what is known about it.

    Attributes:
        photo_id: Name in caches and trajectories; never an absolute path.
        source: File, or the file's content; `None` where a subclass makes the picture.
        lat: True latitude in degrees, `None` when unknown.
        lon: True longitude in degrees, `None` when unknown.
        country: True country, "" when unknown.
        city: True city, "" when unknown.
        regions: Boxes [x1, y1, x2, y2] in 0..1000 of the parts that tell the place.
    """

    photo_id: str
    source: Path | bytes | None
    lat: float | None = None
    lon: float | None = None
    country: str = ""
    city: str = ""
    regions: tuple[tuple[int, int, int, int], ...] = ()

    def load(self) -> Image.Image:
        """Returns the picture: RGB, upright, without metadata.

        Raises:
            PhotoError: If there is no source or `load_photo` refuses it.
        """
        if self.source is None:
            raise PhotoError(f"photo {self.photo_id!r}: has no source; give it a file or bytes")
        return load_photo(self.source)


def load_folder(csv_path: str | os.PathLike) -> tuple[list[Photo], list[str]]:
    """Reads a list of photos with columns path, lat, lon and, optionally, country and city.

    Paths are relative to the list. Commas, semicolons and tabs are understood, and decimal commas where the columns are
    not separated by commas. Pictures are not opened.

    Args:
        csv_path: The list, UTF-8 (or UTF-16 with a byte order mark).

    Returns:
        The photos in the order listed, and one message with a line number for each row left out: file missing,
        impossible coordinate, photo listed twice, wrong number of columns.

    Raises:
        PhotoError: If the list can't be read.
        ValueError: If columns are missing; the message names them.
    """
    path = Path(csv_path)
    lines = list(StringIO(_csv_text(path), newline=""))
    header_at = next((n for n, line in enumerate(lines) if line.strip(" \t\r\n,;")), len(lines))
    header = lines[header_at] if header_at < len(lines) else ""
    delimiter = max(",;\t", key=header.count)
    columns = _columns(path, next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), []))
    photos, problems, first_line = [], [], {}
    for line, cells in _rows(lines, header_at + 1, delimiter, problems):
        try:
            photo = _listed_photo(path.parent, _row(columns, cells, delimiter))
            key = os.path.realpath(photo.source)
            if key in first_line:
                raise PhotoError(f"{photo.photo_id}: already listed in line {first_line[key]}; remove one of the two")
        except PhotoError as error:
            problems.append(f"line {line}: {error}")
        else:
            first_line[key] = line
            photos.append(photo)
    return photos, problems


def to_pixels(bbox_2d: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """Turns a box in 0..1000 into the pixels it covers.

    Args:
        bbox_2d: [x1, y1, x2, y2] in 0..1000; corners may come in either order and are clipped to the picture.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.

    Returns:
        (left, top, right, bottom) with right and bottom exclusive, inside the picture and at least one pixel each way.

    Raises:
        ValueError: If the box isn't four finite numbers, or the picture has no pixels.
    """
    if width < 1 or height < 1:
        raise ValueError(f"picture of {width} x {height} pixels: has no pixels; give its real size")
    x1, y1, x2, y2 = _corners(bbox_2d)
    left, right = _span(x1, x2, width)
    top, bottom = _span(y1, y2, height)
    return left, top, right, bottom


def crop(image: Image.Image, bbox_2d: Sequence[float]) -> Image.Image:
    """Cuts a box out of a picture, at the picture's own resolution; arguments and errors as in `to_pixels`."""
    return image.crop(to_pixels(bbox_2d, *image.size))


def _corners(bbox_2d: Sequence[float]) -> list[float]:
    try:
        corners = [min(max(float(value), 0.0), 1000.0) if math.isfinite(value) else math.nan for value in bbox_2d]
    except (TypeError, ValueError, OverflowError):
        corners = []
    if len(corners) != 4 or any(map(math.isnan, corners)):
        raise ValueError(f"box {bbox_2d!r:.80}: not four finite numbers; give [x1, y1, x2, y2] in 0..1000")
    return corners


def _span(a: float, b: float, size_px: int) -> tuple[int, int]:
    first = min(math.floor(min(a, b) * size_px / 1000), size_px - 1)
    return first, max(math.ceil(max(a, b) * size_px / 1000), first + 1)


def _csv_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise PhotoError(f"{path}: not UTF-8 at byte {error.start:,}; save the list as 'CSV UTF-8'") from error
    except (OSError, ValueError) as error:
        raise PhotoError(f"{path}: can't be read ({reason_of(error)}); give the path of a CSV file") from error


def _columns(path: Path, header: list[str]) -> list[str]:
    names = [name.strip().strip('"').casefold() for name in header]
    missing = [name for name in ("path", "lat", "lon") if name not in names]
    if missing:
        raise ValueError(
            f"{path}: missing columns {', '.join(missing)}; the first line must be path, lat, lon[, country, city]"
        )
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: columns {', '.join(twice)} occur twice; rename or remove one")
    return names


def _rows(lines: list[str], start: int, delimiter: str, problems: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of the row's first line, cells) of each row that isn't blank."""
    reader = csv.reader(lines[start:], delimiter=delimiter, skipinitialspace=True)
    while True:
        line = start + reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            problems.append(f"line {line}: not readable as CSV ({error}); check its quotation marks")
            continue
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield line, cells


def _row(columns: list[str], cells: list[str], delimiter: str) -> dict[str, str]:
    while len(cells) > len(columns) and not cells[-1].strip():
        cells = cells[:-1]
    if len(cells) > len(columns):
        first = cells[0].strip()[:200]
        raise PhotoError(f"{first}: {len(cells)} cells for {len(columns)} columns; quote cells that hold {delimiter!r}")
    row = dict(zip(columns, cells, strict=False))
    return row | {name: row.get(name, "").replace(",", ".") for name in ("lat", "lon") if delimiter != ","}


def _listed_photo(folder: Path, row: dict[str, str]) -> Photo:
    written = row.get("path", "")
    path = next(
        (p for p in (folder / written, folder / written.strip()) if written.strip() and os.path.isfile(p)), None
    )
    if path is None:
        raise PhotoError(f"{written.strip()[:200] or 'empty path'}: no such file; paths are relative to {folder}")
    name = written.strip()
    lat, lon = _degrees(name, "lat", row.get("lat", ""), 90), _degrees(name, "lon", row.get("lon", ""), 180)
    return Photo(_photo_id(folder, path), path, lat, lon, row.get("country", "").strip(), row.get("city", "").strip())


def _photo_id(folder: Path, path: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive, on Windows
        return path.name


def _degrees(name: str, column: str, text: str, limit: int) -> float:
    try:
        value = float(text.strip()) if "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not abs(value) <= limit:
        raise PhotoError(
            f"{name}: {column} {text.strip()!r:.40} isn't a number of degrees within -{limit}..{limit}; correct it"
        )
    return value
