"""Rows of JSON that are on disk as soon as they are appended: what was paid for survives a kill.

A kill can cut the last line short; it is set aside, so that whole lines are all that is ever read.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """A JSONL file that grows by whole lines.

    Args:
        path: The file, `.jsonl`; made, with its folder, by the first row.

    Attributes:
        rows: What the file held when it was opened.
        set_aside: What was done about a last line that was cut short; "" if there was none.

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
            row = _row(line)
            if row is not None:
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


def _row(line: bytes) -> dict[str, Any] | None:
    """A line as an object, None if it is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
