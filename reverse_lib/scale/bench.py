"""How fast and how small the search cache is, against the obvious way, both measured in the same run.

The obvious way is what the paper's code does and what one would write first: a dict of lists, kept as a pickle for the
next start, all of it in every process. Here it answers by the same rules as the cache: the same best call, as many
useful results and others, in an order drawn from (seed, photo, tool, arguments, call). It is spared the check of boxes
and of leaked hosts.

Opening, look-ups and memory are measured in two fresh processes at once, as workers of a training run are; what is
shown is the median over processes and repetitions. Look-ups are counted by processor time, since a machine shared with
others slows both sides, but not in equal parts. Memory is what a process has to itself: resident pages but those of
files, which processes share and the system takes back when it needs them.
"""

import gc
import math
import multiprocessing
import pickle
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
from rich.table import Table
from tqdm import tqdm

from reverse_lib.geo import box_iou
from reverse_lib.profiles import CacheLimits
from reverse_lib.search import IMAGE, TEXT, Call, SearchAnswer, SearchCache, SearchResult, query_similarity

RESULTS_A_CALL = 9
RESULTS_A_PHOTO = 4 * RESULTS_A_CALL  # two image searches, two text searches
PROCESSES = 2
LEAST_BYTES = 100_000  # less is lost in what Python keeps in reserve


@dataclass(frozen=True)
class Workload:
    """What is measured."""

    photos: int = 10_000  # each with two image and two text searches of nine results
    lookups: int = 10_000  # asked of each tool, of photos drawn at random; near a recorded call, never equal to it
    repeats: int = 3  # pairs of processes that measure each side
    seed: int = 0  # of what is recorded and what is asked


def recorded(photo: int, seed: int = 0) -> Iterator[Call]:
    """The searches recorded for one photo: unique pages with titles, addresses and, for words, an excerpt of a page."""
    generator = random.Random(f"{seed}-{photo}")
    left, top = generator.randint(0, 300), generator.randint(0, 300)
    boxes = [[left, top, left + 300.0, top + 250.0], [left + 380.0, top + 100.0, left + 650.0, top + 600.0]]
    queries = [" ".join(generator.choices(_WORDS, k=4)) for _ in range(2)]
    for tool, arguments in ((IMAGE, boxes), (TEXT, queries)):
        for number, argument in enumerate(arguments):
            results = []
            for place in range(RESULTS_A_CALL):
                page = f"{photo}-{number}-{place}"
                host, title = generator.choice(_HOSTS), f"{' '.join(generator.choices(_WORDS, k=7))} {page}"
                more = {"source": host} if tool == IMAGE else {"snippet": f"{generator.choice(_PASSAGES)} {page}."}
                url, useful = f"https://www.{host}/places/{page}", place < number + 2
                results.append(SearchResult(title, url, useful=useful, **more))
            yield Call(tool, f"part00/{photo:08d}.jpg", argument, tuple(results), time=1.0)


def asked(call: Call) -> list[float] | str:
    """What a model asks that is answered by a recorded call: a box a little off, a query with one more word."""
    if call.tool == TEXT:
        return f"{call.arguments} location"
    x1, y1, x2, y2 = call.arguments
    return [x1 + 9, y1 + 4, x2 - 5, y2 + 7]


class ObviousCache:
    """Everything in memory: (photo id, tool) -> calls, each its arguments and a list of results as dicts."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self.calls: dict[tuple, list] = defaultdict(list)
        for call in calls:
            self.calls[call.photo_id, call.tool].append((call.arguments, [dict(vars(one)) for one in call.results]))

    def image(self, photo_id: str, bbox_2d: list[float], call: int = 0) -> SearchAnswer | None:
        """Answers from the recorded box with the best IoU."""
        return self._answer(IMAGE, photo_id, bbox_2d, call, box_iou, CacheLimits.min_iou)

    def text(self, photo_id: str, query: str, call: int = 0) -> SearchAnswer | None:
        """Answers from the recorded query with the best Jaccard similarity."""
        return self._answer(TEXT, photo_id, query, call, query_similarity, CacheLimits.min_similarity)

    def _answer(self, tool: str, photo_id: str, arguments, call: int, score, least: float) -> SearchAnswer | None:
        scored = [(score(known, arguments), results) for known, results in self.calls.get((photo_id, tool), ())]
        match, fields = max(scored, key=lambda pair: pair[0], default=(0.0, []))
        if match < least:
            return None
        results = [SearchResult(**one) for one in fields]
        generator = random.Random(f"0 {tool} {photo_id} {arguments} {call}")
        useful = [result for result in results if result.useful]
        others = [result for result in results if not result.useful]
        shown = generator.sample(useful, min(CacheLimits.max_useful, len(useful)))
        shown += generator.sample(others, min(CacheLimits.shown - len(shown), len(others)))
        generator.shuffle(shown)
        places = frozenset(place for place, result in enumerate(shown, 1) if result.useful)
        return SearchAnswer(tuple(shown), places, match)


def compare_caches(work: Workload | None = None, progress: bool = False) -> pd.DataFrame:
    """Measures the cache and the obvious way on the same searches, in the same run.

    Args:
        work: What is measured.
        progress: Whether to show a bar.

    Returns:
        Index measure; columns cache, obvious, ratio (how many times better the cache is), goal and met.
    """
    work = work or Workload()
    with tempfile.TemporaryDirectory() as folder:
        cache_path, pickle_path = Path(folder) / "cache", Path(folder) / "obvious.pickle"
        recorded_per_s = _record(cache_path, work, progress)
        calls = [call for photo in range(work.photos) for call in recorded(photo, work.seed)]
        start = time.perf_counter()
        pickle_path.write_bytes(pickle.dumps(ObviousCache(calls), protocol=pickle.HIGHEST_PROTOCOL))
        pickled_per_s = work.photos * RESULTS_A_PHOTO / (time.perf_counter() - start)
        cache, obvious = _measured(cache_path, work), _measured(pickle_path, work)
    rows = [
        ("opening and first answer, ms", cache["open_ms"], obvious["open_ms"], "50 x, < 20 ms"),
        ("memory of a process, MB", cache["memory_mb"], obvious["memory_mb"], "20 x"),
        ("resident, with shared pages, MB", cache["resident_mb"], obvious["resident_mb"], ""),
        ("image look-ups a second", cache["image_per_s"], obvious["image_per_s"], "20,000"),
        ("text look-ups a second", cache["text_per_s"], obvious["text_per_s"], "20,000"),
        ("results recorded a second", recorded_per_s, pickled_per_s, "20,000"),
        ("file, MB", cache["file_mb"], obvious["file_mb"], ""),
    ]
    return _judged(rows)


def grow_caches(
    results: Iterable[int] = (10**4, 10**5, 10**6), work: Workload | None = None, progress: bool = False
) -> pd.DataFrame:
    """Measures how opening and memory grow with what is recorded; they should not.

    Args:
        results: How many; rounded up to whole photos of 36. 10**7 take minutes and 5 GB of temporary space.
        work: Look-ups, repetitions and seed; its photos are not looked at.
        progress: Whether to show a bar.

    Returns:
        A row a size.
    """
    work, rows = work or Workload(), []
    for count in results:
        sized = Workload(math.ceil(count / RESULTS_A_PHOTO), work.lookups, work.repeats, work.seed)
        with tempfile.TemporaryDirectory() as folder:
            recorded_per_s = _record(Path(folder) / "cache", sized, progress)
            measured = _measured(Path(folder) / "cache", sized)
        rows.append({"results": sized.photos * RESULTS_A_PHOTO} | measured | {"recorded_per_s": recorded_per_s})
    return pd.DataFrame(rows)


def rich_table(frame: pd.DataFrame, title: str) -> Table:
    """A measured table for a terminal."""
    table = Table(title=title)
    for name in frame:
        table.add_column(name, justify="left" if name in ("measure", "goal", "met") else "right")
    for row in frame.itertuples(index=False):
        table.add_row(*map(_cell, row))
    return table


def _cell(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return {None: "", True: "yes", False: "no"}.get(value, value)


def _record(path: Path, work: Workload, progress: bool) -> float:
    """Records everything; returns results a second, without the time spent on making them up."""
    seconds, total = 0.0, work.photos * RESULTS_A_PHOTO
    bar = tqdm(total=total, unit="result", unit_scale=True, disable=not progress)
    with bar, SearchCache.open(path, mode="w") as cache, cache.batch():
        for first in range(0, work.photos, 500):
            photos = range(first, min(first + 500, work.photos))
            calls = [call for photo in photos for call in recorded(photo, work.seed)]
            start = time.perf_counter()
            for call in calls:
                record = cache.record_image if call.tool == IMAGE else cache.record_text
                record(call.photo_id, call.arguments, call.results, time=call.time)
            cache.commit()
            seconds += time.perf_counter() - start
            bar.update(len(photos) * RESULTS_A_PHOTO)
    return total / seconds


def _measured(path: Path, work: Workload) -> dict[str, float]:
    """What fresh processes measure of one side, at once; medians."""
    context, rows = multiprocessing.get_context("spawn"), []
    for _ in range(work.repeats):
        together = context.Barrier(PROCESSES)
        pipes = [context.Pipe(duplex=False) for _ in range(PROCESSES)]
        running = [context.Process(target=_measure, args=(send, together, path, work)) for _, send in pipes]
        for process, (_, send) in zip(running, pipes, strict=True):
            process.start()
            send.close()  # so that a process that dies is an end of file, not a wait for ever
        try:
            rows += [receive.recv() for receive, _ in pipes]
        finally:
            for process in running:
                process.join()
    files = [path] if path.is_file() else list(path.rglob("*"))
    return pd.DataFrame(rows).median().to_dict() | {"file_mb": sum(file.stat().st_size for file in files) / 1e6}


def _measure(send, together, path: Path, work: Workload) -> None:
    """Opens, asks, and tells how long it took and how much memory it holds; runs in a process of its own."""
    generator = random.Random(work.seed)
    questions = {IMAGE: [], TEXT: []}
    for _ in range(work.lookups):
        calls = list(recorded(generator.randrange(work.photos), work.seed))
        for call in calls[generator.randrange(2) :: 2]:
            questions[call.tool].append((call.photo_id, asked(call)))
    before, start = _memory(), time.perf_counter()
    search = SearchCache.open(path) if path.is_dir() else pickle.loads(path.read_bytes())  # a pickle of our own
    search.image(*questions[IMAGE][0])
    measured = {"open_ms": 1e3 * (time.perf_counter() - start)}
    for name, ask, tool in (("image_per_s", search.image, IMAGE), ("text_per_s", search.text, TEXT)):
        start = time.process_time()
        answers = [ask(*question) is not None for question in questions[tool]]
        measured[name] = len(answers) / (time.process_time() - start)
        if not all(answers):
            raise RuntimeError(f"{path}: {len(answers) - sum(answers)} of {len(answers)} searches had no answer")
    together.wait()  # both hold what they hold
    grown = [max(now - then, LEAST_BYTES) / 1e6 for now, then in zip(_memory(), before, strict=True)]
    together.wait()
    send.send(measured | {"memory_mb": grown[0], "resident_mb": grown[1]})


def _memory() -> tuple[int, int]:
    """Bytes the process has to itself, and all that are resident."""
    gc.collect()
    memory = psutil.Process().memory_full_info()
    return memory.rss - memory.shared if hasattr(memory, "shared") else memory.uss, memory.rss


def _judged(rows: Iterable[tuple[str, float, float, str]]) -> pd.DataFrame:
    """Adds how many times better the cache is, and whether that is what was asked for."""
    judged = []
    for measure, cache, obvious, goal in rows:
        ratio = cache / obvious if "second" in measure else obvious / cache
        met = {"50 x, < 20 ms": ratio >= 50 and cache < 20, "20 x": ratio >= 20, "20,000": cache >= 20_000}.get(goal)
        judged.append((measure, cache, obvious, ratio, goal, met))
    return pd.DataFrame(judged, columns="measure cache obvious ratio goal met".split()).set_index("measure")


_LETTERS = random.Random(0)
_WORDS = ["".join(_LETTERS.choices("aeinorstlu", k=_LETTERS.randint(3, 9))) for _ in range(4000)]
_HOSTS = [f"{word}.example" for word in _WORDS[:500]]
_PASSAGES = [" ".join(_LETTERS.choices(_WORDS, k=32)) for _ in range(1000)]  # about 220 characters
