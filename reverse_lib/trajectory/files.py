"""The record of one rollout, and what is decided from it: quality filters, curriculum, citations, JSONL and Parquet.

A trajectory holds facts only: what the model wrote, what each tool returned, and the truth about the photo. Scores are
computed from it by pure functions (`reverse_lib.rewards`), so they can change without a new rollout. The grammar of a
turn lives in `reverse_lib.grammar`, the record itself in `reverse_lib.records`; both are re-exported here.

Differs from the paper's public code: filters count what they drop instead of dropping silently, and a file that can't
be read says which line is broken and what to do.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from reverse_lib.geo import Answer
from reverse_lib.trajectory.grammar import SEARCH_TOOLS, TOOLS, TURN_ERRORS, ToolCall, Turn, format_turn, parse_turn
from reverse_lib.trajectory.record import STATUSES, Observation, Step, Trajectory

__all__ = [
    "SEARCH_TOOLS",
    "STATUSES",
    "TOOLS",
    "TURN_ERRORS",
    "Answer",
    "FilterRules",
    "Observation",
    "Step",
    "ToolCall",
    "Trajectory",
    "Turn",
    "cited_indices",
    "curriculum",
    "curriculum_order",
    "filter_trajectories",
    "format_turn",
    "load_trajectories",
    "parse_turn",
    "save_trajectories",
]

EASY_KM, MEDIUM_KM = 25.0, 200.0  # limits of the curriculum, facts of the paper's data pipeline

_CITATION = re.compile(r"\[\s*([0-9]{1,4}(?:\s*,\s*[0-9]{1,4})*)\s*\]")
_CHUNK_ROWS = 1000
_COLUMNS = tuple(item.name for item in dataclasses.fields(Trajectory))
_PARQUET_JSON = ("steps", "regions", "evidence", "extra")  # nested fields, kept as JSON text columns


def load_trajectories(path: str | os.PathLike[str]) -> list[Trajectory]:
    """Reads a `.jsonl` (a trajectory a line; blank lines are skipped) or `.parquet` file of trajectories.

    Raises:
        FileNotFoundError: if the file is not there.
        ValueError: if a line or row is broken; names file, line and remedy.
    """
    path = Path(path)
    suffix = _suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of trajectories; check the name, or write it first")
    rows = []
    for place, read in _read_jsonl(path) if suffix == ".jsonl" else _read_parquet(path):
        try:
            rows.append(Trajectory.from_dict(read()))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path}, {place}: not a trajectory ({error}); repair or delete that {place.split()[0]}, "
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
    suffix = _suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            if suffix == ".jsonl":
                for number, row in enumerate(rows, 1):
                    file.write(json.dumps(_record(row, number)).encode("ascii") + b"\n")
            else:
                _write_parquet(file, rows)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class FilterRules:
    """What a teacher's trajectory must keep to be learned from. None switches a rule off."""

    max_km: float | None = 200.0  # error of the answer
    min_calls: int = 1  # tool calls
    max_nudges: int | None = 5  # reminders to follow the format, extra["n_nudges"]
    allow_errors: bool = False  # tool calls that failed, by the model's or the service's fault
    max_full_image_share: float | None = 0.9  # 0..1, area of an image search's box over the photo's


def filter_trajectories(
    rows: Iterable[Trajectory], rules: FilterRules | None = None
) -> tuple[list[Trajectory], dict[str, int]]:
    """Keeps the trajectories that pass every rule (paper: data pipeline).

    Args:
        rows: trajectories.
        rules: limits; the paper's when None.

    Returns:
        The kept ones in their order, and the funnel: how many were left after each rule, in the order applied,
        beginning with `all`.
    """
    kept = list(rows)
    counts = {"all": len(kept)}
    for name, passes in _stages(rules or FilterRules()):
        kept = [row for row in kept if passes(row)]
        counts[name] = len(kept)
    return kept, counts


def curriculum(trajectory: Trajectory) -> str:
    """Names how hard the photo was for who answered: `easy` (≤ 25 km), `medium` (≤ 200 km), `hard`, or `unknown`."""
    km = trajectory.km
    if km is None:
        return "unknown"
    return "easy" if km <= EASY_KM else "medium" if km <= MEDIUM_KM else "hard"


def curriculum_order(levels: Sequence[str], draws: int, easy_share: float, seed: int) -> list[int]:
    """Says which photo is drawn when: first the easy ones alone, then all of them.

    Args:
        levels: How hard each photo is, in the words of `curriculum`.
        draws: Photos to draw.
        easy_share: Of the draws that are made from the easy photos, where there are any.
        seed: Of the order.

    Returns:
        Indices into `levels`; within a phase no photo comes again before every other had its turn.
    """
    generator = np.random.default_rng(seed)
    easy = [i for i, level in enumerate(levels) if level == "easy"]
    order: list[int] = []
    first = round(draws * easy_share) if easy else 0
    for pool, until in ((easy, first), (range(len(levels)), draws)):
        while len(order) < until:
            order += generator.permutation(pool).tolist()[: until - len(order)]
    return order


def cited_indices(text: str, n: int) -> set[int]:
    """Finds the results that a reasoning cites as `[2]` or `[1, 3]`.

    Args:
        text: the think part of the turn after a search.
        n: number of results shown.

    Returns:
        1-based positions. A lone position out of range is dropped; a list with one is taken for something else, a box
        for example, and dropped whole.
    """
    cited: set[int] = set()
    for match in _CITATION.finditer(text):
        positions = {int(number) for number in match[1].split(",")}
        if all(1 <= position <= n for position in positions):
            cited |= positions
    return cited


def _stages(rules: FilterRules) -> Iterator[tuple[str, Callable[[Trajectory], bool]]]:
    """Yields the name and the test of each rule that is switched on."""
    yield "answered", lambda row: row.answer is not None
    if rules.max_km is not None:
        yield f"within {rules.max_km:g} km", lambda row: row.km is not None and row.km <= rules.max_km
    if rules.min_calls > 0:
        name = f"at least {rules.min_calls} call" + "s" * (rules.min_calls > 1)
        yield name, lambda row: len(_observations(row)) >= rules.min_calls
    if rules.max_nudges is not None:
        yield f"at most {rules.max_nudges} nudges", lambda row: row.extra.get("n_nudges", 0) <= rules.max_nudges
    if not rules.allow_errors:
        yield "no errors", lambda row: all(seen.status in ("ok", "miss") for seen in _observations(row))
    if rules.max_full_image_share is not None:
        yield (
            "no full-image search",
            lambda row: all(_box_share(seen) <= rules.max_full_image_share for seen in _observations(row)),
        )


def _observations(row: Trajectory) -> list[Observation]:
    """Returns what came back from the tool calls of a rollout, in order."""
    return [step.observation for step in row.steps if step.observation is not None]


def _box_share(observation: Observation) -> float:
    """Returns the share of the photo that an image search's box covers, 0 for another tool or an unreadable box."""
    box = observation.arguments.get("bbox_2d")
    if observation.tool != "image_search_tool" or not isinstance(box, list | tuple) or len(box) != 4:
        return 0.0
    if not all(isinstance(edge, int | float) and math.isfinite(edge) for edge in box):
        return 0.0
    left, top, right, bottom = (min(max(edge, 0), 1000) for edge in box)
    return max(right - left, 0) * max(bottom - top, 0) / 1e6


def _record(row: Any, number: int) -> dict[str, Any]:
    """Returns a row as JSON types, checked that it can be read again; `number` counts from 1, for the message."""
    if not isinstance(row, Trajectory):
        raise ValueError(f"row {number}: {type(row).__name__} is not a Trajectory; build one with Trajectory.from_dict")
    try:
        record = json.loads(json.dumps(row.to_dict(), allow_nan=False, default=_plain))
        Trajectory.from_dict(record)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"row {number}, photo {row.photo_id!r}: can't be saved ({error}); correct that field"
        ) from error
    return record


def _plain(value: Any) -> Any:
    """Turns NumPy scalars and arrays into Python's own."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r:.80}")


def _no_constant(name: str) -> float:
    """Refuses what Python's JSON accepts beyond JSON."""
    raise ValueError(f"{name} is not JSON, write null")


def _loads(text: str | bytes) -> Any:
    """Reads strict JSON."""
    return json.loads(text, parse_constant=_no_constant)


def _read_jsonl(path: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yields `line N` and a function that parses it, line by line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                yield f"line {number}", lambda line=line: _loads(line.decode("utf-8"))


def _read_parquet(path: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yields `row N` and a function that returns its dictionary."""
    import pyarrow.parquet as pq  # only here: everything else works without pyarrow

    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error}); write it again") from error
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing:
        raise ValueError(f"{path}: not a file of trajectories, it has no column {', '.join(missing)}; see Trajectory")
    number = 0
    for batch in table.select(list(_COLUMNS)).to_batches():
        for row in batch.to_pylist():
            number += 1
            yield f"row {number}", lambda row=row: _unpack(row)


def _unpack(row: dict[str, Any]) -> dict[str, Any]:
    """Parses the JSON text columns of a Parquet row."""
    for name in _PARQUET_JSON:
        if not isinstance(row[name], str):
            raise ValueError(f"column {name} holds {type(row[name]).__name__}, expected JSON text")
    return {name: _loads(value) if name in _PARQUET_JSON else value for name, value in row.items()}


def _write_parquet(file: BinaryIO, rows: Iterable[Trajectory]) -> None:
    """Writes the rows as one table; nested fields become JSON text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.float64() if name in ("lat", "lon") else pa.large_string()) for name in _COLUMNS])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for start, chunk in enumerate(_chunks(rows)):
            records = []
            for number, row in enumerate(chunk, start * _CHUNK_ROWS + 1):
                record = _record(row, number)
                records.append({k: json.dumps(v) if k in _PARQUET_JSON else v for k, v in record.items()})
            writer.write_table(pa.Table.from_pylist(records, schema=schema))


def _chunks(rows: Iterable[Trajectory]) -> Iterator[list[Trajectory]]:
    """Cuts rows into lists that become one row group each."""
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, _CHUNK_ROWS)):
        yield chunk


def _suffix(path: Path) -> str:
    """Returns the file's format, `.jsonl` or `.parquet`."""
    suffix = path.suffix.lower()
    if suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"{path}: unknown format {suffix!r}; name the file .jsonl or .parquet")
    return suffix
