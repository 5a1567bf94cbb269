"""How fast and how small the search cache is, against the obvious way, both measured in the same run.

The obvious way is what the paper's code does and what one would write first: the released Parquet tables through pandas
into a dict of lists, kept as a pickle for the next start. It holds everything in every process. Here it answers by the
same rules as the cache: the same best call, as many useful results and others, in an order drawn from (seed, photo,
tool, arguments, call). It is spared the check of boxes and of leaked hosts.

Opening, look-ups and memory are measured in two fresh processes at once, as workers of a training run are; what is
shown is the median over processes and repetitions. Look-ups are counted by processor time. Memory is what a process has
to itself: resident pages but those of files, which processes share and the system takes back when it needs them.

    print(compare())                    # 10,000 photos, 360,000 results
    print(scale((10**4, 10**5, 10**6)))
"""

import gc
import json
import multiprocessing
import os
import pickle
import random
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
from rich.table import Table
from tqdm import tqdm

from reverse_lib.search import IMAGE, TEXT, Call, SearchAnswer, SearchCache, SearchResult, query_similarity

RESULTS_A_CALL = 9
CALLS_A_PHOTO = 4  # two image searches, two text searches
RESULTS_A_PHOTO = RESULTS_A_CALL * CALLS_A_PHOTO
PROCESSES = 2
_CHUNK_PHOTOS = 500
_MB = 1e6
_LEAST_BYTES = 100_000  # less is lost in what Python keeps in reserve


@dataclass(frozen=True)
class Workload:
    """What is measured.

    Attributes:
        photos: Each with two image and two text searches of nine results.
        lookups: Searches asked of each tool, of photos drawn at random; all are near a recorded one, none equals it.
        repeats: Pairs of processes that measure each side.
        seed: Of what is recorded and what is asked.
    """

    photos: int = 10_000
    lookups: int = 10_000
    repeats: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("photos", "lookups", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: nothing to measure; give at least 1")


def recorded(photo: int, seed: int = 0) -> list[Call]:
    """The searches recorded for one photo: unique pages with titles, addresses and, for words, an excerpt of a page."""
    generator = random.Random(f"{seed}-{photo}")
    left, top = generator.randint(0, 300), generator.randint(0, 300)
    boxes = [[left, top, left + 300.0, top + 250.0], [left + 380.0, top + 100.0, left + 650.0, top + 600.0]]
    queries = [" ".join(generator.choices(_WORDS, k=4)) for _ in range(2)]
    return [
        Call(tool, f"part00/{photo:08d}.jpg", asked, tuple(_results(tool, photo, number, generator)), time=1.0)
        for tool, asks in ((IMAGE, boxes), (TEXT, queries))
        for number, asked in enumerate(asks)
    ]


def asked(call: Call) -> list[float] | str:
    """What a model asks that is answered by a recorded call: a box a little off, a query with one more word."""
    if call.tool == TEXT:
        return f"{call.arguments} location"
    x1, y1, x2, y2 = call.arguments
    return [x1 + 9, y1 + 4, x2 - 5, y2 + 7]


class ObviousCache:
    """Everything in memory: photo id -> tool -> calls, each a dict with its arguments and a list of results."""

    def __init__(self, photos: dict[str, dict[str, list[dict]]], seed: int = 0) -> None:
        """Keeps what `from_parquet` or `open` has read.

        Args:
            photos: The calls.
            seed: Draws samples and orders.
        """
        self.photos, self.seed = photos, seed

    @classmethod
    def from_parquet(cls, image_table: Path, text_table: Path) -> "ObviousCache":
        """Reads the released tables."""
        photos: dict[str, dict[str, list[dict]]] = {}
        for tool, table in ((IMAGE, image_table), (TEXT, text_table)):
            calls: dict[tuple[str, int], dict] = {}
            for row in pd.read_parquet(table).itertuples(index=False):
                call = calls.get((row.image_path, row.call_idx))
                if call is None:
                    call = calls[row.image_path, row.call_idx] = {
                        "asked": json.loads(row.bbox) if tool == IMAGE else row.query,
                        "results": [],
                    }
                    photos.setdefault(row.image_path, {}).setdefault(tool, []).append(call)
                source, snippet = (row.result_source, "") if tool == IMAGE else ("", row.result_content)
                url = row.result_link if tool == IMAGE else row.result_url
                fields = dict(title=row.result_title, url=url, source=source, snippet=snippet)
                call["results"].append(fields | {"useful": bool(row.is_geo_useful)})
        return cls(photos)

    @classmethod
    def open(cls, path: Path) -> "ObviousCache":
        """Reads the pickle that `save` wrote a moment ago; a pickle of anyone else's could run anything."""
        with path.open("rb") as file:
            return cls(pickle.load(file))

    def save(self, path: Path) -> None:
        """Writes the pickle."""
        with path.open("wb") as file:
            pickle.dump(self.photos, file, protocol=pickle.HIGHEST_PROTOCOL)

    def image(self, photo_id: str, bbox_2d: Sequence[float], call: int = 0) -> SearchAnswer | None:
        """Answers from the recorded box with the best IoU."""
        return self._answer(IMAGE, photo_id, bbox_2d, call, lambda known: _iou(known, bbox_2d), 0.7)

    def text(self, photo_id: str, query: str, call: int = 0) -> SearchAnswer | None:
        """Answers from the recorded query with the best Jaccard similarity."""
        return self._answer(TEXT, photo_id, query, call, lambda known: query_similarity(known, query), 0.5)

    def _answer(self, tool: str, photo_id: str, asked, call: int, score, least: float) -> SearchAnswer | None:
        match, best = 0.0, None
        for one in self.photos.get(photo_id, {}).get(tool, []):
            found = score(one["asked"])
            if found > match:
                match, best = found, one
        if match < least:
            return None
        results = [SearchResult(**result) for result in best["results"]]
        generator = random.Random(f"{self.seed} {tool} {photo_id} {asked} {call}")
        useful = [result for result in results if result.useful]
        others = [result for result in results if not result.useful]
        shown = generator.sample(useful, min(3, len(useful)))
        shown += generator.sample(others, min(10 - len(shown), len(others)))
        generator.shuffle(shown)
        places = frozenset(place for place, result in enumerate(shown, 1) if result.useful)
        return SearchAnswer(tuple(shown), places, match)


def compare_caches(work: Workload | None = None, progress: bool = False) -> pd.DataFrame:
    """Measures the cache and the obvious way on the same searches, in the same run.

    Args:
        work: What is measured.
        progress: Whether to show a bar.

    Returns:
        A row a measure; columns cache, obvious, ratio (how many times better the cache is), goal and met.
    """
    work = work or Workload()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        recording_s = _record(root / "cache", work, progress)
        building_s = _build_obvious(root, work)
        sides = {"cache": root / "cache", "obvious": root / "obvious.pickle"}
        found = {side: [] for side in sides}
        for _ in range(work.repeats):
            for side, path in sides.items():
                found[side] += _in_processes(side, path, work)
        sizes = {side: _size(path) / _MB for side, path in sides.items()}
    cache, obvious = ({key: statistics.median(one[key] for one in rows) for key in rows[0]} for rows in found.values())
    if not cache["answers"] == obvious["answers"] == 2 * work.lookups + 1:
        raise RuntimeError(f"answers: {cache['answers']:.0f} of the cache, {obvious['answers']:.0f} of the other side")
    results = work.photos * RESULTS_A_PHOTO
    rows = [
        ("opening and first answer, ms", cache["open_ms"], obvious["open_ms"], "50 x, < 20 ms"),
        ("memory of a process, MB", cache["memory_mb"], obvious["memory_mb"], "20 x"),
        ("resident, with shared pages, MB", cache["resident_mb"], obvious["resident_mb"], ""),
        ("image look-ups a second", cache["image_per_s"], obvious["image_per_s"], "1 x"),
        ("text look-ups a second", cache["text_per_s"], obvious["text_per_s"], "1 x"),
        ("results recorded a second", results / recording_s, results / building_s, "20,000"),
        ("file, MB", sizes["cache"], sizes["obvious"], ""),
    ]
    return _judged(rows)


def grow_caches(
    results: Iterable[int] = (10**4, 10**5, 10**6), work: Workload | None = None, progress: bool = False
) -> pd.DataFrame:
    """Measures how opening and memory grow with what is recorded; they should not.

    Args:
        results: How many; rounded up to whole photos of 36. 10**7 take minutes and 4 GB of temporary space.
        work: Look-ups, repetitions and seed; its photos are not looked at.
        progress: Whether to show a bar.

    Returns:
        A row a size: results, open_ms, image_per_s, text_per_s, memory_mb, resident_mb, recorded_per_s, file_mb.
    """
    work, rows = work or Workload(), []
    for count in results:
        sized = Workload(-(-count // RESULTS_A_PHOTO), work.lookups, work.repeats, work.seed)
        with tempfile.TemporaryDirectory() as folder:
            path, actual = Path(folder) / "cache", sized.photos * RESULTS_A_PHOTO
            recording_s = _record(path, sized, progress)
            found = [one for _ in range(sized.repeats) for one in _in_processes("cache", path, sized)]
            medians = {key: statistics.median(one[key] for one in found) for key in found[0]}
            more = {"recorded_per_s": actual / recording_s, "file_mb": _size(path) / _MB}
            rows.append({"results": actual} | medians | more)
    return pd.DataFrame(rows).drop(columns="answers")


def rich_table(frame: pd.DataFrame, title: str) -> Table:
    """A measured table for a terminal."""
    frame = frame.reset_index() if frame.index.name else frame
    table = Table(title=title)
    for name in frame:
        table.add_column(name, justify="left" if name in ("measure", "goal", "met") else "right")
    for row in frame.itertuples(index=False):
        table.add_row(*map(_cell, row))
    return table


def write_tables(folder: Path, work: Workload) -> tuple[Path, Path]:
    """Writes what is recorded as the tables of the released data set (the columns that count)."""
    paths = folder / "image_search_cache.parquet", folder / "text_search_cache.parquet"
    names = (
        ("bbox", "result_pos", "result_link", "result_source"),
        ("query", "result_index", "result_url", "result_content"),
    )
    for tool, path, (argument, position, url, more) in zip((IMAGE, TEXT), paths, names, strict=True):
        rows = []
        for photo in range(work.photos):
            for number, call in enumerate(one for one in recorded(photo, work.seed) if one.tool == tool):
                text = json.dumps(call.arguments) if tool == IMAGE else call.arguments
                for place, result in enumerate(call.results, 1):
                    last = result.source if tool == IMAGE else result.snippet
                    rows.append([call.photo_id, number, text, place, result.title, result.url, last, result.useful])
        columns = ["image_path", "call_idx", argument, position, "result_title", url, more, "is_geo_useful"]
        pd.DataFrame(rows, columns=columns).to_parquet(path, index=False)
    return paths


def _results(tool: str, photo: int, number: int, generator: random.Random) -> Iterator[SearchResult]:
    for place in range(RESULTS_A_CALL):
        page = f"{photo}-{number}-{place}"
        host, title = generator.choice(_HOSTS), " ".join(generator.choices(_WORDS, k=7))
        source = host if tool == IMAGE else ""
        snippet = f"{generator.choice(_PASSAGES)} {page}." if tool == TEXT else ""
        yield SearchResult(f"{title} {page}", f"https://www.{host}/places/{page}", source, snippet, place < number + 2)


def _record(path: Path, work: Workload, progress: bool) -> float:
    """Records everything; returns the seconds it took, without those spent on making it up."""
    seconds = 0.0
    bar = tqdm(total=work.photos * RESULTS_A_PHOTO, unit="result", unit_scale=True, disable=not progress)
    with bar, SearchCache.open(path, mode="w") as cache, cache.batch():
        for first in range(0, work.photos, _CHUNK_PHOTOS):
            photos = range(first, min(first + _CHUNK_PHOTOS, work.photos))
            calls = [call for photo in photos for call in recorded(photo, work.seed)]
            start = time.perf_counter()
            for call in calls:
                record = cache.record_image if call.tool == IMAGE else cache.record_text
                record(call.photo_id, call.arguments, call.results, time=call.time)
            if photos.stop == work.photos:
                cache.commit()
            seconds += time.perf_counter() - start
            bar.update(len(photos) * RESULTS_A_PHOTO)
    return seconds


def _build_obvious(root: Path, work: Workload) -> float:
    """Writes the tables and the pickle; returns the seconds from the tables to the pickle."""
    tables = write_tables(root, work)
    start = time.perf_counter()
    ObviousCache.from_parquet(*tables).save(root / "obvious.pickle")
    return time.perf_counter() - start


def _in_processes(side: str, path: Path, work: Workload) -> list[dict[str, float]]:
    """Measures one side in fresh processes at once."""
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(PROCESSES)
    pipes = [context.Pipe(duplex=False) for _ in range(PROCESSES)]
    running = [context.Process(target=_measure, args=(send, together, side, path, work)) for _, send in pipes]
    for process in running:
        process.start()
    for _, send in pipes:
        send.close()  # so that a process that dies is an end of file, not a wait for ever
    try:
        return [receive.recv() for receive, _ in pipes]
    finally:
        for process in running:
            process.join()


def _measure(send, together, side: str, path: Path, work: Workload) -> None:
    """Opens, asks, and tells how long it took and how much memory it holds; runs in a process of its own."""
    generator = random.Random(work.seed)
    questions = {IMAGE: [], TEXT: []}
    for _ in range(work.lookups):
        for call in recorded(generator.randrange(work.photos), work.seed)[generator.randrange(2) :: 2]:
            questions[call.tool].append((call.photo_id, asked(call)))
    images, texts = questions.values()
    before = _memory()
    start = time.perf_counter()
    search = SearchCache.open(path) if side == "cache" else ObviousCache.open(path)
    first = search.image(*images[0])
    found = {"open_ms": 1e3 * (time.perf_counter() - start), "answers": float(first is not None)}
    for name, ask, asks in (("image_per_s", search.image, images), ("text_per_s", search.text, texts)):
        start = time.process_time()  # a machine shared with others slows both sides, but not in equal parts
        found["answers"] += sum(ask(*question) is not None for question in asks)
        found[name] = len(asks) / (time.process_time() - start)
    together.wait()  # both hold what they hold
    grown = [max(now - then, _LEAST_BYTES) for now, then in zip(_memory(), before, strict=True)]
    found["memory_mb"], found["resident_mb"] = (number / _MB for number in grown)
    together.wait()
    send.send(found)


def _memory() -> tuple[int, int]:
    """Bytes the process has to itself, and all that are resident."""
    gc.collect()
    found = psutil.Process().memory_full_info()
    return found.rss - found.shared if hasattr(found, "shared") else found.uss, found.rss


def _judged(rows: Sequence[tuple[str, float, float, str]]) -> pd.DataFrame:
    """Adds how many times better the cache is, and whether that is what was asked for."""
    judged = []
    for measure, cache, obvious, goal in rows:
        ratio = cache / obvious if "second" in measure else obvious / cache
        least = {"50 x, < 20 ms": ratio >= 50 and cache < 20, "20 x": ratio >= 20, "1 x": ratio >= 1}
        met = {"20,000": cache >= 20_000, "": None}.get(goal, least.get(goal))
        judged.append((measure, cache, obvious, ratio, goal, met))
    return pd.DataFrame(judged, columns="measure cache obvious ratio goal met".split()).set_index("measure")


def _cell(value: object) -> str:
    if value is None or value is True or value is False:
        return {None: "", True: "yes", False: "no"}[value]
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def _size(path: Path) -> int:
    return sum(os.path.getsize(file) for file in ([path] if path.is_file() else path.rglob("*")))


def _iou(a: Sequence[float], b: Sequence[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


_LETTERS = random.Random(0)
_WORDS = ["".join(_LETTERS.choices("aeinorstlu", k=_LETTERS.randint(3, 9))) for _ in range(4000)]
_HOSTS = [f"{word}.example" for word in _WORDS[:500]]
_PASSAGES = [" ".join(_LETTERS.choices(_WORDS, k=32)) for _ in range(1000)]  # about 220 characters
