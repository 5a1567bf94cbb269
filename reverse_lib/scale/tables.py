"""The tables of the released data set: their schemas, and reading and writing them in batches.

What differs from the paper's code: only the named Parquet file is read, never a pickle beside it; a row that doesn't
fit its schema is named with its number and the reason instead of failing somewhere later; memory holds a batch.
"""

import os
import secrets
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from reverse_lib.trajectory import TOOLS

BATCH_ROWS = 1000
_TEXT, _INT = pa.string(), pa.int64()
_MESSAGES = pa.list_(pa.struct([("role", _TEXT), ("content", _TEXT)]))
_CREATE = pa.struct([("create_kwargs", pa.struct([("image", _TEXT)]))])
_EXTRA_INFO = pa.struct(
    [
        ("answer", _TEXT),
        ("index", _INT),
        ("img_id", _TEXT),
        ("part", _TEXT),
        ("difficulty", _TEXT),
        ("km", pa.float64()),
        ("need_tools_kwargs", pa.bool_()),
        ("split", _TEXT),
        ("tools_kwargs", pa.struct([(tool, _CREATE) for tool in TOOLS])),
    ]
)
SFT = pa.schema([("messages", _MESSAGES), ("images", pa.list_(pa.struct([("image", _TEXT)])))])
RL = pa.schema(
    [
        ("data_source", _TEXT),
        ("prompt", _MESSAGES),
        ("images", pa.list_(pa.struct([("image_url", _TEXT)]))),
        ("ability", _TEXT),
        ("reward_model", pa.struct([("ground_truth", _TEXT), ("style", _TEXT)])),
        ("agent_name", _TEXT),
        ("extra_info", _EXTRA_INFO),
    ]
)
_USEFUL_RESULTS = pa.list_(pa.struct([("turn", _INT), ("tool", _TEXT), ("indices", pa.list_(_INT))]))
RL_LABELLED = pa.schema(  # as validation rows are, whose extra_info says which results were useful
    [*list(RL)[:-1], ("extra_info", pa.struct([*_EXTRA_INFO, ("useful_results", _USEFUL_RESULTS)]))]
)
_LABELS = [("is_geo_useful", pa.bool_()), ("useful_indices", _TEXT), ("n_useful", _INT), ("call_turn", _INT)]
IMAGE_CACHE = pa.schema(
    [("image_id", _TEXT), ("image_path", _TEXT), ("bbox", _TEXT), ("call_idx", _INT), ("result_pos", _INT)]
    + [(f"result_{name}", _TEXT) for name in ("title", "link", "source", "thumbnail")]
    + [*_LABELS, ("part", _TEXT)]
)
TEXT_CACHE = pa.schema(
    [("image_id", _TEXT), ("image_path", _TEXT), ("call_idx", _INT), ("query", _TEXT), ("result_index", _INT)]
    + [(f"result_{name}", _TEXT) for name in ("title", "url", "content")]
    + [*_LABELS, ("part", _TEXT)]
)


class InteropError(ValueError):
    """A file or, in strict reading, a row that can't be used; the message names it, the reason and a remedy."""


class Problem(NamedTuple):
    """A row that was left out."""

    file: str
    row: int  # from 1, of a Parquet table; the line, of JSONL
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}: {self.reason}"


def photo_id_of(path: object) -> str:
    """The photo's id for a path of the data set: relative to `images/`, with forward slashes.

    Args:
        path: Absolute, as in the caches, or relative. What follows the last folder called "images" counts, and the
            whole of a path without one.

    Raises:
        ValueError: It is no path, or leads out of the folder.
    """
    if not isinstance(path, str) or not path.strip():
        raise ValueError(f"image path {path!r:.200}: not a path")
    parts = [part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", ".")]
    if "images" in parts[:-1]:
        parts = parts[len(parts) - 1 - parts[-2::-1].index("images") :]
    if not parts or ".." in parts or "\0" in path:
        raise ValueError(f"image path {path!r:.200}: doesn't stay inside images/")
    return "/".join(parts)


def open_table(path: str | os.PathLike, schema: pa.Schema) -> pq.ParquetFile:
    """Opens a Parquet file whose columns are read as they are needed, by the batch.

    Raises:
        FileNotFoundError: There is none.
        InteropError: It is no Parquet file, or its columns are others.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check DATA_ROOT and the name of the table")
    try:
        file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise InteropError(f"{path}: not a readable Parquet file ({error}); download it again") from error
    names = set(file.schema_arrow.names)
    missing, unknown = [n for n in schema.names if n not in names], sorted(names - set(schema.names))
    if missing or unknown:
        file.close()
        wrong = f"has no column {missing[0]!r}" if missing else f"has the unknown column {unknown[0]!r}"
        raise InteropError(f"{path}: {wrong}; expected {', '.join(schema.names)}")
    for field in schema:
        found = file.schema_arrow.field(field.name).type
        if pa.types.is_nested(found) != pa.types.is_nested(field.type) or not _readable(found, field.type):
            file.close()
            raise InteropError(f"{path}: column {field.name!r} is {found}, expected {field.type}; convert it")
    return file


def rl_schema(path: str | os.PathLike) -> pa.Schema:
    """Which of the two kinds of RL table a file is; errors as in `open_table`."""
    with open_table(path, RL) as file:
        info = file.schema_arrow.field("extra_info").type
        labelled = pa.types.is_struct(info) and info.get_field_index("useful_results") >= 0
        return RL_LABELLED if labelled else RL


def read_table(path: str | os.PathLike, schema: pa.Schema) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    """Reads a table row by row.

    Args:
        path: The file.
        schema: What it should hold.

    Yields:
        Row number from 1, the row, and what is wrong with it or None.

    Raises:
        FileNotFoundError, InteropError: As `open_table`, or when the file turns out damaged.
    """
    number = 0
    with open_table(path, schema) as file:
        try:
            for batch in file.iter_batches(BATCH_ROWS, columns=schema.names):
                for row in batch.to_pylist():
                    number += 1
                    row = {name: row[name] for name in schema.names}
                    yield number, row, next(_faults(row, schema), None)
        except (pa.ArrowException, OSError) as error:
            raise InteropError(f"{path}: damaged after row {number} ({error}); download it again") from error


def write_table(path: str | os.PathLike, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> int:
    """Writes rows in batches; returns how many. The old file stays until the new one is whole.

    Raises:
        InteropError: A row doesn't fit the schema; it is named.
    """
    path, count, rows = Path(path), 0, iter(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with pq.ParquetWriter(partial, schema) as writer:
            while chunk := list(islice(rows, BATCH_ROWS)):
                for row in chunk:
                    count += 1
                    for fault in _faults(row, schema):
                        raise InteropError(f"{path}, row {count}: {fault}; correct it before writing")
                writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _faults(row: dict[str, Any], schema: pa.Schema) -> Iterator[str]:
    for field in schema:
        yield from _misfits(row.get(field.name), field.type, field.name)


def _misfits(value: Any, wanted: pa.DataType, name: str) -> Iterator[str]:
    """What of a value doesn't fit a type. Numbers and texts may be null, lists and structs may not, but for a tool's
    arguments: not every row has every tool."""
    if value is None:
        nullable = not pa.types.is_nested(wanted) or name.startswith(_NULLABLE)
        yield from [] if nullable else [f"{name} is null"]
    elif pa.types.is_list(wanted):
        if not isinstance(value, list):
            yield f"{name} holds {type(value).__name__}, expected a list"
            return
        for place, item in enumerate(value):
            yield from _misfits(item, wanted.value_type, f"{name}[{place}]")
    elif pa.types.is_struct(wanted):
        if not isinstance(value, dict):
            yield f"{name} holds {type(value).__name__}, expected {wanted}"
            return
        known = {field.name for field in wanted}
        yield from (f"{name} has the unknown field {key!r}" for key in value if key not in known)
        for field in wanted:
            yield from _misfits(value.get(field.name), field.type, f"{name}.{field.name}")
    elif not isinstance(value, _PYTHON[str(wanted)]) or (isinstance(value, bool) and not pa.types.is_boolean(wanted)):
        yield f"{name} holds {type(value).__name__} {value!r:.80}, expected {wanted}"


def _readable(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of a column are Python objects of the wanted type; of lists and structs the rows are looked at."""
    if pa.types.is_dictionary(found):
        found = found.value_type
    kinds = (pa.types.is_integer, pa.types.is_boolean, lambda kind: kind in (pa.string(), pa.large_string()))
    return pa.types.is_nested(wanted) or pa.types.is_null(found) or any(is_(found) and is_(wanted) for is_ in kinds)


_NULLABLE = ("extra_info.tools_kwargs", "extra_info.useful_results")
_PYTHON = {"string": str, "int64": int, "bool": bool, "double": (int, float)}
