"""Files of trajectories (JSONL, Parquet), a journal that survives a kill, and files that are whole or not there.

Differs from the paper's public code: a file that can't be read says which line is broken and what to do.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reverse_lib.trajectory.record import Trajectory

_COLUMNS = [item.name for item in dataclasses.fields(Trajectory)]
_PARQUET_JSON = ("steps", "regions", "evidence", "extra")  # nested fields, kept as JSON text columns


def load_trajectories(path: str | os.PathLike[str]) -> list[Trajectory]:
    """Reads a `.jsonl` (a trajectory a line; blank lines are skipped) or `.parquet` file of trajectories.

    Raises:
        FileNotFoundError: if the file is not there.
        ValueError: if a line or row is broken; names file, line and remedy.
    """
    path = Path(path)
    unit = "line" if _suffix(path) == ".jsonl" else "row"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of trajectories; check the name, or write it first")
    rows = []
    for number, texts in enumerate(path.read_bytes().split(b"\n") if unit == "line" else _parquet_rows(path), 1):
        if unit == "line" and not texts.strip():
            continue
        try:
            record = json.loads(texts) if unit == "line" else texts | {k: json.loads(texts[k]) for k in _PARQUET_JSON}
            rows.append(Trajectory.from_dict(record))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path}, {unit} {number}: not a trajectory ({error}); repair or delete that {unit}, "
                "or write the file again with save_trajectories"
            ) from error
    return rows


def save_trajectories(path: str | os.PathLike[str], rows: Iterable[Trajectory]) -> None:
    """Writes trajectories as JSONL or Parquet, by the suffix. Atomic: the old file stays until the new one is whole.

    Args:
        path: target, `.jsonl` or `.parquet`; missing folders are made.
        rows: the trajectories, also a generator.

    Raises:
        ValueError: for another suffix, or a row that JSON can't hold (a NaN, a set); names the row.
    """
    path = Path(path)
    write = _write_jsonl if _suffix(path) == ".jsonl" else _write_parquet
    with atomic_file(path) as partial:
        write(partial, (_record(row, number) for number, row in enumerate(rows, 1)))


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file that has its name only when it is whole, also for who looks on from another process.

    Args:
        path: The file; missing folders are made. What is there stays as it is if the block raises.

    Yields:
        A path beside it, to write to; it is on disk and takes the file's place when the block ends.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


class Journal:
    """A JSONL file that grows by whole lines: a row is on disk as soon as it is appended, what was paid for stays.

    Args:
        path: The file, `.jsonl`; made, with its folder, by the first row.

    Attributes:
        rows: What the file held when it was opened.
        set_aside: What was done about a last line that a kill had cut short; "" if there was none.

    Raises:
        ValueError: It has another suffix, or a line before the last is no JSON object; names the line.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        if self.path.suffix.lower() != ".jsonl":
            raise ValueError(f"{self.path}: rows are appended to JSON lines only; name the file .jsonl")
        self.rows: list[dict[str, Any]] = []
        self.set_aside = self._read(self.path.read_bytes()) if self.path.is_file() else ""

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row; when this returns it is on disk.

        Raises:
            OSError: It could not be written; the file ends with the row before.
            ValueError: JSON can't hold it.
        """
        line = json.dumps(row, allow_nan=False).encode("ascii") + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                if file.write(line) != len(line):
                    raise OSError(f"{self.path}: no room for a row of {len(line):,} bytes; free some space")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise

    def _read(self, data: bytes) -> str:
        lines = data.splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                self.rows.append(row)
            elif number == len(lines):
                return self._set_aside(line, len(data) - len(line))
            else:
                raise ValueError(f"{self.path}, line {number}: not a JSON object; repair or delete that line")
        if data and not data.endswith(b"\n"):
            with open(self.path, "ab") as file:
                file.write(b"\n")
        return ""

    def _set_aside(self, torn: bytes, size: int) -> str:
        """Moves a last line that was cut short to a file of its own."""
        aside = self.path.with_name(f"{self.path.name}.torn")
        with open(aside, "ab") as file:
            file.write(torn.rstrip(b"\n") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.truncate(self.path, size)
        return f"{self.path}: the last line was cut short ({len(torn):,} bytes) and is set aside in {aside}"


def _record(row: Trajectory, number: int) -> dict[str, Any]:
    """Returns a row as JSON types, checked that it can be read again; `number` counts from 1, for the message."""
    try:
        record = json.loads(json.dumps(row.to_dict(), allow_nan=False, default=lambda array: array.tolist()))
        Trajectory.from_dict(record)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = f"row {number}, photo {row.photo_id!r}: can't be saved ({error}); correct that field"
        raise ValueError(reason) from error
    return record


def _write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="ascii") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def _write_parquet(path: Path, records: Iterator[dict[str, Any]]) -> None:
    """Writes the records as one table; nested fields become JSON text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.float64() if name in ("lat", "lon") else pa.large_string()) for name in _COLUMNS])
    packed = [record | {name: json.dumps(record[name]) for name in _PARQUET_JSON} for record in records]
    pq.write_table(pa.Table.from_pylist(packed, schema=schema), path, compression="zstd")


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows, nested fields as JSON text."""
    import pyarrow.parquet as pq  # only here: everything else works without pyarrow

    try:
        table = pq.read_table(path, partitioning=None)  # else a folder called "seed=0" would become a column
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error}); write it again") from error
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing:
        raise ValueError(f"{path}: not a file of trajectories, it has no column {', '.join(missing)}; see Trajectory")
    return table.select(_COLUMNS).to_pylist()


def _suffix(path: Path) -> str:
    """Returns the file's format, `.jsonl` or `.parquet`."""
    suffix = path.suffix.lower()
    if suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"{path}: unknown format {suffix!r}; name the file .jsonl or .parquet")
    return suffix
