"""The released search caches as a `SearchCache`, and back.

A released row is one result of one call. Its call is recorded once, with all results; what a record has no field for
(numbers of photos, calls and positions, thumbnails, the box or query as it was written) is kept as the record's facts,
so that writing gives the rows that were read, in their order. Of rows with the same photo, call and position the useful
one is kept, else the first. Position -1 is a search that found nothing. A call with several queries, "a | b", is
recorded under each of them, because a model may ask either.

Records that are not from the data set get numbers of their own. Useful is what is labelled so; the tables have no word
for a result that nobody has judged, and write it as not useful.
"""

import hashlib
import json
import math
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from reverse_lib.scale.tables import IMAGE_CACHE, TEXT_CACHE, Problem, photo_id_of, read_table, write_table
from reverse_lib.search import (
    IMAGE,
    TEXT,
    Call,
    SearchCache,
    SearchResult,
    fields_of,
    filter_results,
    key_of,
    normalise_query,
)

BACKEND = "released data"  # who answered, in our records
SEPARATOR = " | "  # between the queries of one call
_ASKED = {IMAGE: "bbox", TEXT: "query"}
_POSITION = {IMAGE: "result_pos", TEXT: "result_index"}
_RESULT = {  # column -> field of a result
    IMAGE: {"result_title": "title", "result_link": "url", "result_source": "source"},
    TEXT: {"result_title": "title", "result_url": "url", "result_content": "snippet"},
}
_OF_CALL = ("image_id", "image_path", "call_idx", "useful_indices", "n_useful", "call_turn", "part")
_MOST_ROWS = 2**32  # of one call; packs call and row into one number


def read_cache(
    cache: SearchCache, tool: str, path: Path, schema: pa.Schema, note: Callable[[Problem], None]
) -> dict[str, int]:
    """Records one of the two tables; `ReleasedData.caches` is the way in.

    Args:
        cache: Opened for recording.
        tool: Whose searches they are.
        path: The table.
        schema: Its schema.
        note: Called with each row that is left out.

    Returns:
        Counts: rows, duplicates, empty, blocked, problems.
    """
    dropped = _duplicates(path, tool, schema)
    counts = {"rows": 0, "duplicates": len(dropped), "empty": 0, "blocked": 0, "problems": 0}
    rank = 0

    def good_rows() -> Iterator[tuple[int, dict]]:
        nonlocal rank
        for number, row, fault in read_table(path, schema):
            counts["rows"] += 1
            if reason := _reason(row, tool, fault):
                counts["problems"] += 1
                note(Problem(str(path), number, reason))
            if reason or number in dropped:
                continue
            counts["empty"] += row[_POSITION[tool]] == -1
            yield rank, row
            rank += 1

    with cache.batch():
        for _, rows in groupby(good_rows(), key=lambda pair: [pair[1][name] for name in (*_OF_CALL, _ASKED[tool])]):
            counts["blocked"] += _record(cache, tool, list(rows))
    return counts


def write_caches(
    cache: SearchCache, image_table: str | os.PathLike, text_table: str | os.PathLike, images_root: str = "images"
) -> tuple[int, int]:
    """Writes both tables; returns their numbers of rows.

    Args:
        cache: Opened. What its block list names is left out.
        image_table: File for the image searches.
        text_table: File for the text searches.
        images_root: What goes before a photo's id to make its path, for records that are not from the data set.
    """
    sizes = []
    for tool, path, schema in ((IMAGE, image_table, IMAGE_CACHE), (TEXT, text_table, TEXT_CACHE)):
        sizes.append(write_table(path, schema, _ordered_rows(cache, tool, images_root)))
    return sizes[0], sizes[1]


def _reason(row: dict[str, Any], tool: str, fault: str | None) -> str:
    """Why a row can't be recorded; "" if it can."""
    position, found = row[_POSITION[tool]], [row[name] for name in _RESULT[tool] if row[name]]
    if fault:
        return fault
    if row["call_idx"] is None or row["is_geo_useful"] is None:
        return "call_idx or is_geo_useful is null"
    if position is None or (position < 1 and position != -1):
        return f"{_POSITION[tool]} {position}: expected a number from 1, or -1 for a search without results"
    if position == -1 and found:
        return f"{_POSITION[tool]} -1 stands for a search without results, but there is one, {found[0]!r:.80}"
    try:
        photo_id_of(row["image_path"])
        _asked(row, tool)
    except ValueError as error:
        return str(error)
    return ""


def _asked(row: dict[str, Any], tool: str) -> list:
    """The box, or the queries: what the call is recorded under."""
    text = row[_ASKED[tool]]
    if tool == TEXT:
        queries = [query for query in (text or "").split(SEPARATOR) if normalise_query(query)]
        if not queries:
            raise ValueError(f"query {text!r:.80}: has no word")
        return list({normalise_query(query): query for query in reversed(queries)}.values())[::-1]
    try:
        box = [float(edge) for edge in json.loads(text)]
    except (TypeError, ValueError, OverflowError, RecursionError):
        box = []
    if (
        len(box) != 4
        or not all(map(math.isfinite, box))
        or not (box[0] < box[2] and box[1] < box[3] and max(box[0], box[1]) < 1000 and min(box[2:]) > 0)
    ):
        raise ValueError(f"bbox {text!r:.80}: expected [x1, y1, x2, y2] in 0..1000 with x1 < x2 and y1 < y2")
    return [box]


def _texts(row: dict[str, Any], tool: str) -> list[str]:
    return [row[name] or "" for name in _RESULT[tool]]


def _record(cache: SearchCache, tool: str, rows: list[tuple[int, dict]]) -> int:
    """Records neighbouring rows of one call; returns how many results the block list has dropped."""
    first, results, kept = rows[0][1], [], []
    for rank, row in rows:
        position, useful = row[_POSITION[tool]], row["is_geo_useful"]
        fields = dict(zip(_RESULT[tool].values(), _texts(row, tool), strict=True))
        result = SearchResult(**fields, useful=useful)
        if position > 0:
            results.append(result)
        nulls = [name for name in _RESULT[tool] if row[name] is None]
        name = _name(result) if position > 0 else None
        kept.append([rank, position, name, useful, row.get("result_thumbnail"), nulls])
    call = {name: first[name] for name in _OF_CALL} | {"asked": first[_ASKED[tool]], "rows": kept}
    asked, photo_id = _asked(first, tool), photo_id_of(first["image_path"])
    record = cache.record_image if tool == IMAGE else cache.record_text
    for number, one in enumerate(asked):
        facts = (call,) if number == 0 else ({"same_as": asked[0]},)
        record(photo_id, one, results, backend=BACKEND, time=0.0, facts=facts)
    return len(results) - len(filter_results(results, cache.blocked))


def _ordered_rows(cache: SearchCache, tool: str, images_root: str) -> Iterator[dict[str, Any]]:
    """Rows in the order in which they were read, those that never were read after them; memory holds their order."""
    keys, ranks, places, own = cache.keys(tool), array("q"), array("q"), []
    following: dict[str, int] = {}  # photo -> the number of its next call
    for number, key in enumerate(keys):
        call = cache.call_at(tool, key)
        for entry in call.facts:
            following[call.photo_id] = max(following.get(call.photo_id, 0), (entry.get("call_idx") or 0) + 1)
        if not call.facts:
            own.append((call.photo_id, key))
        for at, (rank, _) in enumerate(_rows_of(call, cache)):
            ranks.append(rank)
            places.append(number * _MOST_ROWS + at)
    order = np.asarray(places)[np.argsort(ranks, kind="stable")].tolist()
    for number, group in groupby(order, key=lambda place: place // _MOST_ROWS):
        rows = list(_rows_of(cache.call_at(tool, keys[number]), cache))
        yield from (rows[place % _MOST_ROWS][1] for place in group)
    for photo_id, key in sorted(own):
        call_idx = following.get(photo_id, 0)
        following[photo_id] = call_idx + 1
        yield from _own_rows(cache.call_at(tool, key), cache, images_root, call_idx)


def _rows_of(call: Call, cache: SearchCache) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of one record that was read from a table, each with its place there."""
    shown = {_name(result): result for result in filter_results(call.results, cache.blocked)}
    entries = [entry for entry in call.facts if "rows" in entry]
    labels = _labels(entries)
    for entry in entries:
        for rank, position, name, useful, thumbnail, nulls in entry["rows"]:
            if name is None or name in shown:
                result = shown.get(name)
                if result is not None and bool(result.useful) != labels[name]:
                    useful = bool(result.useful)  # judged anew since
                yield rank, _row(call.tool, entry, position, result, useful, thumbnail, nulls)
    if entries:
        rank, last = entries[-1]["rows"][-1][0], max(row[1] for entry in entries for row in entry["rows"])
        new = [result for name, result in shown.items() if name not in labels]
        for position, result in enumerate(new, max(last, 0) + 1):
            yield rank, _row(call.tool, entries[-1], position, result, bool(result.useful), "", [])


def _own_rows(call: Call, cache: SearchCache, images_root: str, call_idx: int) -> Iterator[dict[str, Any]]:
    """The rows of one record that is not from a table."""
    shown = filter_results(call.results, cache.blocked)
    useful = [position for position, result in enumerate(shown, 1) if result.useful]
    entry = {
        "image_id": PurePosixPath(call.photo_id).name,
        "image_path": str(PurePosixPath(images_root, call.photo_id)),
        "asked": json.dumps(call.arguments) if call.tool == IMAGE else call.arguments,
        "call_idx": call_idx,
        "useful_indices": json.dumps(useful),
        "n_useful": len(useful),
        "call_turn": -1,
        "part": "",
    }
    for position, result in enumerate(shown, 1):
        yield _row(call.tool, entry, position, result, bool(result.useful), "", [])
    if not shown:
        yield _row(call.tool, entry, -1, None, False, "", [])


def _row(
    tool: str, entry: dict, position: int, result: SearchResult | None, useful: bool, thumbnail: str | None, nulls: list
) -> dict[str, Any]:
    texts = {column: getattr(result, name) if result else "" for column, name in _RESULT[tool].items()}
    texts |= dict.fromkeys(nulls) | ({"result_thumbnail": thumbnail} if tool == IMAGE else {})
    asked = {_ASKED[tool]: entry["asked"], _POSITION[tool]: position, "is_geo_useful": useful}
    return {name: entry[name] for name in _OF_CALL} | texts | asked


def _labels(entries: Iterable[dict]) -> dict[str, bool]:
    """What the rows say of each result: useful if one of them says so."""
    labels: dict[str, bool] = {}
    for entry in entries:
        for _, _, name, useful, *_ in entry["rows"]:
            if name is not None:
                labels[name] = labels.get(name, False) or useful
    return labels


def _name(result: SearchResult) -> str:
    """Names a result within its record."""
    return hashlib.sha256("\0".join(fields_of(result)[:4]).encode("utf-8", "replace")).hexdigest()[:12]


def _duplicates(path: Path, tool: str, schema: pa.Schema) -> set[int]:
    """Numbers of the rows to leave out, because a more useful one, or an earlier one, stands for them."""
    seen = {name: array(kind) for name, kind in (("photo", "Q"), ("call", "q"), ("position", "q"), ("useless", "b"))}
    numbers = array("q")
    for number, row, fault in read_table(path, schema):
        if not _reason(row, tool, fault):
            photo = int.from_bytes(key_of(row["image_path"])[:8], "big")
            values = photo, row["call_idx"], row[_POSITION[tool]], not row["is_geo_useful"]
            for column, value in zip(seen.values(), values, strict=True):
                column.append(value)
            numbers.append(number)
    frame = pd.DataFrame({name: np.asarray(column) for name, column in seen.items()}, index=np.asarray(numbers))
    best = frame.sort_values(list(seen), kind="stable")
    return set(best.index[best.duplicated(["photo", "call", "position"])].tolist())
