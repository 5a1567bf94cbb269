"""The search cache as one Parquet file of its own, a row a result, for other programs and for moving between machines.

The tables of the released data set are another form, see `reverse_lib.interop`.
"""

import json
import os
from typing import TYPE_CHECKING

from reverse_lib.search.replay import IMAGE, fields_of
from reverse_lib.search.results import SearchResult, filter_results
from reverse_lib.search.store import CacheError

if TYPE_CHECKING:
    from reverse_lib.search.cache import SearchCache

_TYPES = dict.fromkeys(("photo_id", "tool", "arguments"), "string") | {"position": "int32"}
_TYPES |= dict.fromkeys(("title", "url", "source", "snippet"), "string") | {"useful": "bool"}
_ORIGIN = {"backend": "string", "time": "double"}  # of the call; older files have none


def to_parquet(cache: "SearchCache", path: str | os.PathLike) -> int:
    """Does the work of `SearchCache.to_parquet`."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = []
    for call in cache.calls():
        kept = filter_results(call.results, cache.blocked)
        for position, result in enumerate(kept, 1) if kept else [(0, SearchResult("", ""))]:
            asked = [call.photo_id, call.tool, json.dumps(call.arguments), position]
            rows.append([*asked, *fields_of(result), call.backend, call.time])
    types = _TYPES | _ORIGIN
    columns = zip(types.items(), zip(*rows, strict=True) if rows else [()] * len(types), strict=True)
    try:
        table = pa.table({name: pa.array(values, kind) for (name, kind), values in columns})
    except UnicodeEncodeError as error:
        raise CacheError(f"{path}: a photo id isn't valid Unicode ({error}); record it under another id") from error
    partial = f"{os.fspath(path)}.{os.getpid()}.partial"
    parquet.write_table(table, partial)
    os.replace(partial, path)
    return len(rows)


def from_parquet(cache: "SearchCache", path: str | os.PathLike) -> int:
    """Does the work of `SearchCache.from_parquet`."""
    import pyarrow as pa
    from pyarrow import parquet

    calls: dict[tuple[str, str, str], list[tuple[int, SearchResult, dict]]] = {}
    try:
        table = parquet.read_table(path)
        for row in table.select([*_TYPES, *_ORIGIN.keys() & set(table.column_names)]).to_pylist():
            photo_id, tool, arguments, position, *fields = (row[name] for name in _TYPES)
            origin = {name: row[name] for name in _ORIGIN if row.get(name) is not None}
            found = calls.setdefault((photo_id, tool, arguments), [])
            found.append((position, SearchResult(*fields), origin))
        parsed = [(tool, photo_id, json.loads(text), found) for (photo_id, tool, text), found in calls.items()]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise CacheError(f"{path}: not records written by to_parquet ({error}); export them again") from error
    with cache.batch():
        for tool, photo_id, arguments, found in parsed:
            record = cache.record_image if tool == IMAGE else cache.record_text
            record(photo_id, arguments, [result for at, result, _ in found if at > 0], **found[0][2])
    return len(parsed)
