"""The data set released with the paper: read from its folder, and our own rows written in its schema.

    data = ReleasedData("REVERSE")                    # images/, sft/, rl/, rl_cache/
    trajectories, photos = list(data.sft()), data.photos()
    data.caches(cache)                                # a SearchCache opened for recording
    write_sft("train.parquet", trajectories)

A conversation there is a list of messages: system and question, then what the model wrote, each followed by a user
message with what its tool returned inside `<tool_response>` tags, or with a reminder to follow the format. Pictures are
the word `<image>`. A tool's result is text; it is read into results, so that they can be labelled. Ground truth is
`lat, lon, country, city`; answers are `Country, City, lat, lon`.

Differs from the paper's code: only the named file is read, never a pickle beside it; no path leads out of `images/`; a
row that can't be used is named with its number and the reason, counted and left out. A call with several queries,
`a | b`, is recorded under each of them, because a model may ask either.
"""

import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from reverse_lib.environment import FULL, UNREADABLE, Interface, how_it_ended, result_row
from reverse_lib.geo import as_box
from reverse_lib.photos import Photo
from reverse_lib.search import SearchCache, SearchResult, filter_results, normalise_query
from reverse_lib.trajectory import SEARCH_TOOLS, TOOLS, Observation, Step, ToolCall, Trajectory, curriculum, parse_turn

_logger = logging.getLogger(__name__)
ZOOM, IMAGE, TEXT = TOOLS
UNKNOWN = "Unknown"  # how the data set writes a country or city nobody knows
PICTURE = "<image>"
BACKEND = "released data"  # who answered, in our records
SEPARATOR = " | "  # between the queries of one call
EMPTY = -1  # the position of a search without results
SERVICE_FAILURES = (  # what the paper's tools, and ours, say when a service failed
    "Image search failed",
    "Tavily search failed",
    "all API keys exhausted",
    "COS upload",
    "the search service is not available",
)
CACHE_FILES = {IMAGE: "image_search_cache.parquet", TEXT: "text_search_cache.parquet"}
_BATCH_ROWS = 1000
_RESPONSE = re.compile(r"\s*<tool_response>\n?(.*?)\n?</tool_response>\s*", re.DOTALL)
_PICTURE = re.compile(r"<image>(?:\s*\nimage_id: ?\d+)?")
_NUMBERED = re.compile(r"\[(\d{1,4})\] ?(.*)")
_HEADERS = ("Web search results for:", "Image search results for")
_FIELDS = {"Source:": "source", "Link:": "url", "URL:": "url"}
_COUNTS = {"n_crop_calls": ZOOM, "n_search_calls": IMAGE, "n_tavily_calls": TEXT}

_TYPES = dict.fromkeys("index call_idx result_pos result_index n_useful call_turn".split(), pa.int64())
_TYPES |= {"km": pa.float64(), "need_tools_kwargs": pa.bool_(), "is_geo_useful": pa.bool_()}


def _columns(names: str, **more: pa.DataType) -> dict[str, pa.DataType]:
    """Columns, or fields of a struct, in order; text where _TYPES says nothing else."""
    return {name: _TYPES.get(name, pa.string()) for name in names.split()} | more


_MESSAGES = pa.list_(pa.struct(_columns("role content")))
_PHOTO = pa.struct({"create_kwargs": pa.struct(_columns("image"))})
_INFO = pa.struct(
    _columns(
        "answer index img_id part difficulty km need_tools_kwargs split",
        tools_kwargs=pa.struct(dict.fromkeys(TOOLS, _PHOTO)),
    )
)
SFT = pa.schema({"messages": _MESSAGES, "images": pa.list_(pa.struct(_columns("image")))})
RL = pa.schema(
    _columns("data_source", prompt=_MESSAGES, images=pa.list_(pa.struct(_columns("image_url"))))
    | _columns("ability", reward_model=pa.struct(_columns("ground_truth style")))
    | _columns("agent_name", extra_info=_INFO)
)
_LABELS = "is_geo_useful useful_indices n_useful call_turn part"
_RESULTS = {
    IMAGE: "bbox call_idx result_pos result_title result_link result_source result_thumbnail",
    TEXT: "call_idx query result_index result_title result_url result_content",
}
CACHES = {tool: pa.schema(_columns(f"image_id image_path {names} {_LABELS}")) for tool, names in _RESULTS.items()}
_ASKED = {IMAGE: "bbox", TEXT: "query"}
_POSITION = {IMAGE: "result_pos", TEXT: "result_index"}
_RESULT = {  # column -> field of a result
    IMAGE: {"result_title": "title", "result_link": "url", "result_source": "source"},
    TEXT: {"result_title": "title", "result_url": "url", "result_content": "snippet"},
}


class ReleasedError(ValueError):
    """A file or a task that can't be used; the message names it and the reason."""


class Problem(NamedTuple):
    """A row that was left out."""

    file: str
    row: int  # from 1, of a Parquet table; the line, of JSONL
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}: {self.reason}"


@dataclass
class ReleasedData:
    """The released data set.

    Attributes:
        root: Its folder, DATA_ROOT, with `images/`, `sft/`, `rl/` and `rl_cache/`.
        problems: Rows left out so far, because they can't be used; how many a file has is logged too.
    """

    root: str | os.PathLike
    problems: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root = Path(self.root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder; give DATA_ROOT, where the data set is")

    def sft(self, name: str = "train_sft_coldstart_v5") -> Iterator[Trajectory]:
        """Reads `sft/NAME.parquet`. The truth about its photos isn't in it.

        Raises:
            FileNotFoundError, ReleasedError: The table can't be read.
        """
        path = self.root / "sft" / f"{name}.parquet"
        return self._read(path, _table_rows(path, SFT.names), _from_sft)

    def rl(self, name: str = "train_rl_v5_full") -> Iterator[Trajectory]:
        """Reads `rl/NAME.parquet`: photos with their places, as trajectories without steps; errors as in `sft`.

        What `extra_info` says (difficulty, km, …) is in `extra`.
        """
        return self._rl(name, _from_rl)

    def photos(self, name: str = "train_rl_v5_full") -> list[Photo]:
        """The photos of an RL table with their places. Their files are not opened; those missing are problems."""

        def photo_of(row: dict) -> Photo:
            task = _from_rl(row)
            source = self.root / "images" / task.photo_id
            if not source.is_file():
                raise ValueError(f"no such photo: {source}")
            return Photo(task.photo_id, source, task.lat, task.lon, task.country, task.city)

        return list({photo.photo_id: photo for photo in self._rl(name, photo_of)}.values())

    def annotations(self, path: str | os.PathLike) -> Iterator[Trajectory]:
        """Reads a JSONL file of annotated trajectories, relative to the root; errors as in `sft`."""
        path = self.root / path
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file of annotations; check the name")
        with path.open("rb") as file:
            lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
            yield from self._read(path, lines, lambda line: _from_annotation(json.loads(line)))

    def caches(self, cache: SearchCache, folder: str | os.PathLike = "rl_cache") -> dict[str, int]:
        """Records both search caches; memory holds a table.

        Args:
            cache: Opened for recording. What its block list names is dropped, and counted.
            folder: Where the tables are, relative to the root.

        Returns:
            Counts: rows, duplicates (rows of the same photo, call and position: the useful one is kept, else the
            first), empty (searches that found nothing), blocked (results dropped) and problems.

        Raises:
            FileNotFoundError, ReleasedError: A table can't be read.
        """
        counts, before = Counter(rows=0, duplicates=0, empty=0, blocked=0), len(self.problems)
        for tool, name in CACHE_FILES.items():
            self._record(cache, tool, self.root / folder / name, counts)
        problems = len(self.problems) - before
        return {**counts, "rows": counts["rows"] + problems, "problems": problems}

    def _record(self, cache: SearchCache, tool: str, path: Path, counts: Counter) -> None:
        columns = ["image_path", "call_idx", _ASKED[tool], _POSITION[tool], "is_geo_useful", *_RESULT[tool]]
        kept: dict[tuple, tuple[tuple, SearchResult]] = {}  # (photo, call, position) -> arguments, result
        for key, asked, result in self._read(path, _table_rows(path, columns), lambda row: _from_cache(row, tool)):
            counts["rows"] += 1
            counts["duplicates"] += key in kept
            if key not in kept or (result.useful and not kept[key][1].useful):
                kept[key] = asked, result
        calls: dict[tuple, list[SearchResult]] = defaultdict(list)
        for (photo_id, _, position), (asked, result) in kept.items():
            calls[photo_id, asked] += [] if position == EMPTY else [result]
            counts["empty"] += position == EMPTY
        record = cache.record_image if tool == IMAGE else cache.record_text
        with cache.batch():
            for (photo_id, asked), results in calls.items():
                counts["blocked"] += len(results) - len(filter_results(results, cache.blocked))
                for argument in asked:
                    record(photo_id, argument, results, backend=BACKEND, time=0.0)

    def _rl(self, name: str, read: Callable[[dict], Any]) -> Iterator[Any]:
        path = self.root / "rl" / f"{name}.parquet"
        return self._read(path, _table_rows(path, ["images", "reward_model", "extra_info"]), read)

    def _read(self, path: Path, rows: Iterable[tuple[int, Any]], read: Callable[[Any], Any]) -> Iterator[Any]:
        """What `read` makes of each row; one that it refuses is a problem."""
        before = len(self.problems)
        for number, row in rows:
            try:
                value = read(row)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                reason = f"has no {error}" if isinstance(error, KeyError) else str(error)
                self.problems.append(Problem(str(path), number, reason))
            else:
                yield value
        if left_out := [problem for problem in self.problems[before:] if problem.file == str(path)]:
            _logger.warning("%d rows left out; the first is %s", len(left_out), left_out[0])


def write_sft(path: str | os.PathLike, trajectories: Iterable[Trajectory], interface: Interface = FULL) -> int:
    """Writes an SFT table; returns the number of rows. A zoom's picture is named after the photo's.

    The prompt before each is the interface's, as in the other tables.
    """
    return _write(path, SFT, (_sft_row(trajectory, interface) for trajectory in trajectories))


def write_rl(
    path: str | os.PathLike, tasks: Iterable[Trajectory | Photo], interface: Interface = FULL, split: str = "train"
) -> int:
    """Writes an RL table of photos, or of trajectories, whose steps are not needed; returns the number of rows.

    Raises:
        ReleasedError: The place of one is unknown.
    """
    return _write(path, RL, (_rl_row(number, task, interface, split) for number, task in enumerate(tasks)))


def write_annotations(path: str | os.PathLike, trajectories: Iterable[Trajectory], interface: Interface = FULL) -> int:
    """Writes an annotation file, a line a trajectory, as the paper's own builders read it; returns how many."""
    rows = [_annotation_row(trajectory, interface) for trajectory in trajectories]
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(lines), encoding="utf-8", newline="\n")
    return len(rows)


def write_caches(cache: SearchCache, folder: str | os.PathLike) -> dict[str, Path]:
    """Writes both tables into a folder; returns their files by tool.

    What the cache's block list names is left out; what nobody has judged is written as not useful.
    """
    files = {tool: Path(folder, name) for tool, name in CACHE_FILES.items()}
    for tool, path in files.items():
        _write(path, CACHES[tool], _cache_rows(cache, tool))
    return files


def photo_id_of(path: object) -> str:
    """The photo's id for a path of the data set, absolute as in the caches, or relative: with forward slashes, what
    follows the last folder called "images", and the whole of a path without one.

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


def place_of(ground_truth: str) -> tuple[float, float, str, str]:
    """Reads `lat, lon, country, city`; the last may hold commas, and a name nobody knows is "".

    Raises:
        ValueError: It is something else, or no place on Earth.
    """
    try:
        lat, lon, country, city = (part.strip() for part in ground_truth.split(",", 3))
        return *_degrees(lat, lon), _name(country), _name(city)
    except ValueError as error:
        raise ValueError(f"ground truth {ground_truth!r:.200}: expected 'lat, lon, country, city' ({error})") from error


def steps_of(messages: Sequence[dict], labels: Iterable[tuple[str, list[int]]] | None = None) -> list[Step]:
    """Reads the turns of a conversation: a step for each message of the model.

    Args:
        messages: From the model's first on; role and content (text) each.
        labels: Tool and 1-based useful positions of each search, in their order within the tool; where None, what the
            model marked in the turn after each search.

    Raises:
        ValueError: A message before the model's first, or a role that is neither user, tool nor assistant.
    """
    steps: list[Step] = []
    calls: list[tuple[str, dict]] = []
    for message in messages:
        role, text = message["role"], message["content"]
        if role == "assistant":
            steps.append(Step(text))
            continue
        if role not in ("user", "tool") or not steps:
            raise ValueError(f"a message of role {role!r} after {len(steps)} turns of the model")
        observation = _observation(parse_turn(steps[-1].text).tool_call, text)
        if steps[-1].observation is not None:
            steps[-1].observation.text += f"\n{observation.text}"
            continue
        steps[-1].observation = observation
        if observation.tool in TOOLS:
            observation.repeated = (observation.tool, observation.arguments) in calls
            calls.append((observation.tool, observation.arguments))
    _label(steps, None if labels is None else list(labels))
    return steps


def _table_rows(path: Path, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row numbers from 1, and rows with these columns of a table; memory holds a group of rows."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check DATA_ROOT and the name of the table")
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            if missing := [name for name in columns if name not in file.schema_arrow.names]:
                raise ReleasedError(f"{path}: has no column {missing[0]!r}; expected {', '.join(columns)}")
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError) as error:
        problem = f"not a readable Parquet file after row {number} ({error}); download it again"
        raise ReleasedError(f"{path}: {problem}") from error


def _from_sft(row: dict[str, Any]) -> Trajectory:
    if not row["messages"] or not row["images"]:
        raise ValueError("has no messages or no photo")
    pictures = sum(message["content"].count(PICTURE) for message in row["messages"])
    if pictures != len(row["images"]):
        raise ValueError(f"has {pictures} times {PICTURE} in its messages and {len(row['images'])} images")
    steps = steps_of(_from_first_turn(row["messages"]))
    return Trajectory(photo_id_of(row["images"][0]["image"]), steps, end=how_it_ended(steps))


def _from_rl(row: dict[str, Any]) -> Trajectory:
    lat, lon, country, city = place_of(row["reward_model"]["ground_truth"] or "")
    if not row["images"]:
        raise ValueError("has no photo")
    elsewhere = ("answer", "img_id", "tools_kwargs")
    extra = {name: value for name, value in row["extra_info"].items() if name not in elsewhere}
    return Trajectory(photo_id_of(row["images"][0]["image_url"]), [], lat, lon, country, city, extra=extra)


def _from_annotation(row: dict[str, Any]) -> Trajectory:
    if not row["images"] or not row["messages"]:
        raise ValueError("has no photo or no messages")
    path = row["images"][0]
    if isinstance(path, dict):
        path = path.get("image_url") or path.get("path")
    labels = [(search["tool"], search["indices"]) for search in row.get("useful_results", [])]
    steps = steps_of(_from_first_turn(row["messages"]), labels)
    lat, lon = row["gt_lat"], row["gt_lon"]
    if lat is not None and lon is not None:
        lat, lon = _degrees(lat, lon)
    country, city = _name(row.get("gt_country")), _name(row.get("gt_city"))
    extra = {"n_nudges": row.get("n_nudges", 0)}
    return Trajectory(photo_id_of(path), steps, lat, lon, country, city, end=how_it_ended(steps), extra=extra)


def _from_cache(row: dict[str, Any], tool: str) -> tuple[tuple[str, int, int], tuple, SearchResult]:
    """Photo, call and position; the box, or the queries, that the call is recorded under; the result, if any."""
    position, result = row[_POSITION[tool]], {name: row[column] or "" for column, name in _RESULT[tool].items()}
    if position is None or (position < 1 and position != EMPTY):
        raise ValueError(f"{_POSITION[tool]} {position}: expected a number from 1, or -1 for a search without results")
    asked = _box(row["bbox"]) if tool == IMAGE else _queries(row["query"])
    key = photo_id_of(row["image_path"]), row["call_idx"], position
    return key, asked, SearchResult(**result, useful=row["is_geo_useful"])


def _box(text: str | None) -> tuple[tuple[int, ...]]:
    try:
        return (tuple(as_box(json.loads(text))),)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"bbox {text!r:.80}: expected [x1, y1, x2, y2] as JSON ({error})") from error


def _queries(text: str | None) -> tuple[str, ...]:
    queries = tuple(query for query in (text or "").split(SEPARATOR) if normalise_query(query))
    if not queries:
        raise ValueError(f"query {text!r:.80}: has no word")
    return queries


def _from_first_turn(messages: list[dict]) -> list[dict]:
    """A conversation without its prompt."""
    turns = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise ValueError("the model says nothing in it")
    for message in messages[turns[0] :]:
        if not isinstance(message["content"], str):
            raise ValueError(f"a message without text: {message!r:.80}")
    return messages[turns[0] :]


def _observation(call: ToolCall | None, message: str) -> Observation:
    """What a tool's message, with or without its tags, says happened; `call` is None when nothing could be called."""
    match = _RESPONSE.fullmatch(message)
    text = match[1] if match else message
    if call is None:
        return Observation(UNREADABLE, {}, "model_error", text)
    if any(words in text for words in SERVICE_FAILURES):
        return Observation(call.name, call.arguments, "service_error", text)
    if text.startswith("Error") or text.endswith(": answer now"):
        return Observation(call.name, call.arguments, "model_error", text)
    if call.name == ZOOM:
        return Observation(ZOOM, call.arguments, "ok", _PICTURE.sub("", text, count=1).strip("\n"))
    results = [result_row(result, None) for _, result in _results(text)]
    return Observation(call.name, call.arguments, "ok" if results else "miss", text, results)


def _results(text: str) -> list[tuple[int, SearchResult]]:
    """The numbered results of a search's text: the number printed, and the result.

    A result is a line `[i] title`, followed by lines that begin with Source:, Link: or URL:, and then by an excerpt.
    """
    blocks: list[tuple[int, dict[str, str], list[str]]] = []  # number, fields, lines of the excerpt
    lines = text.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        head, stripped = _NUMBERED.fullmatch(line), line.strip()
        if head and following.strip().startswith(tuple(_FIELDS)):
            blocks.append((int(head[1]), {"title": head[2].strip()}, []))
        elif blocks and stripped and not line.startswith(_HEADERS):
            _, fields, excerpt = blocks[-1]
            word, _, rest = stripped.partition(" ")
            name = _FIELDS.get(word)
            if name and name not in fields and not excerpt:
                fields[name] = rest.strip()
            else:
                excerpt.append(stripped)
    return [(number, SearchResult(**{"url": ""} | fields, snippet=" ".join(words))) for number, fields, words in blocks]


def _label(steps: Sequence[Step], labels: list[tuple[str, list[int]]] | None) -> None:
    """Writes labels to results that are numbered 1, 2, ...; where numbers start again, nobody knows which was meant."""
    waiting = {tool: [useful for name, useful in labels or [] if name == tool] for tool in SEARCH_TOOLS}
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        search = step.observation
        if search is None or not search.owes_labels:
            continue
        if labels is None:
            useful = parse_turn(following.text).useful if following else None
        else:
            useful = waiting[search.tool].pop(0) if waiting[search.tool] else None
        numbers = [number for number, _ in _results(search.text)]
        if useful is not None and search.status == "ok" and numbers == list(range(1, len(search.results) + 1)):
            search.labelled = True
            for number, result in enumerate(search.results, 1):
                result["useful"] = number in useful


def _messages(trajectory: Trajectory, interface: Interface) -> list[dict[str, str]]:
    """A conversation in the data set's form."""
    messages = _prompt(interface)
    for step in trajectory.steps:
        messages.append({"role": "assistant", "content": step.text})
        observation = step.observation
        if observation is None:
            continue
        text = observation.text
        if observation.tool == ZOOM and observation.status == "ok":
            text = f"{PICTURE}\n{text}" if text else PICTURE
        if observation.tool != UNREADABLE:
            text = f"<tool_response>\n{text}\n</tool_response>"
        messages.append({"role": "user", "content": text})
    return messages


def _prompt(interface: Interface) -> list[dict[str, str]]:
    """System and user message: text, with a word for the photo."""
    question = f"{PICTURE}\n{interface.question}"
    return [{"role": "system", "content": interface.system_prompt}, {"role": "user", "content": question}]


def _pictures(trajectory: Trajectory, messages: Iterable[dict]) -> list[str]:
    """Paths of the photo and of the zooms, as many as the messages show."""
    path = PurePosixPath("images", trajectory.photo_id)
    shown = sum(message["content"].count(PICTURE) for message in messages)
    return [str(path), *(f"{path.with_suffix('')}_zoom{number}.jpg" for number in range(1, shown))]


def _sft_row(trajectory: Trajectory, interface: Interface) -> dict[str, Any]:
    messages = _messages(trajectory, interface)
    return {"messages": messages, "images": [{"image": path} for path in _pictures(trajectory, messages)]}


def _rl_row(number: int, task: Trajectory | Photo, interface: Interface, split: str) -> dict[str, Any]:
    if task.lat is None:
        raise ReleasedError(f"{task.photo_id}: its place is unknown, so nothing could be rewarded; leave it out")
    if isinstance(task, Photo):
        task = Trajectory(task.photo_id, [], task.lat, task.lon, task.country, task.city)
    path, arguments = f"images/{task.photo_id}", {"create_kwargs": {"image": f"images/{task.photo_id}"}}
    truth = f"{task.lat:.4f}, {task.lon:.4f}, {task.country or UNKNOWN}, {task.city or UNKNOWN}"
    return {
        "data_source": "coldstart",
        "prompt": _prompt(interface),
        "images": [{"image_url": path}],
        "ability": "geoloc",
        "reward_model": {"ground_truth": truth, "style": "rule"},
        "agent_name": "tool_agent",
        "extra_info": {
            "answer": truth,
            "index": number,
            "img_id": PurePosixPath(path).name,
            "part": "",
            "difficulty": task.extra.get("difficulty") or curriculum(task),
            "km": task.extra.get("km", task.km),
            "need_tools_kwargs": True,
            "split": split,
            "tools_kwargs": dict.fromkeys(TOOLS, arguments),
        },
    }


def _annotation_row(trajectory: Trajectory, interface: Interface) -> dict[str, Any]:
    messages = _messages(trajectory, interface)
    pictures, numbers = _pictures(trajectory, messages), count()
    for message in messages:
        if message["role"] == "user":  # the paper's builders want addresses not indented, and pictures numbered
            text = message["content"].replace("\n    URL: ", "\nURL: ")
            message["content"] = _PICTURE.sub(lambda _: f"{PICTURE}\nimage_id: {next(numbers)}", text)
    turns = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    observations = [(at, o) for at, o in zip(turns, (s.observation for s in trajectory.steps), strict=True) if o]
    calls = Counter(observation.tool for _, observation in observations if observation.tool in TOOLS)
    answer, km = trajectory.answer, trajectory.km
    return {
        "id": PurePosixPath(trajectory.photo_id).name,
        "gt_lat": trajectory.lat,
        "gt_lon": trajectory.lon,
        "gt_country": trajectory.country or UNKNOWN,
        "gt_city": trajectory.city or UNKNOWN,
        "pred_lat": answer and answer.lat,
        "pred_lon": answer and answer.lon,
        "km": km,
        "masked": float(km is None),
        "n_tool_calls": calls.total(),
        **{name: calls[tool] for name, tool in _COUNTS.items()},
        "n_nudges": trajectory.extra.get("n_nudges", 0),
        "max_turns_exceeded": trajectory.end == "budget",
        "useful_results": [  # "turn" is the place, from 0, of the message that called
            {"turn": at, "tool": observation.tool, "indices": sorted(observation.useful)}
            for at, observation in observations
            if observation.labelled
        ],
        "messages": messages,
        "images": pictures,
    }


def _cache_rows(cache: SearchCache, tool: str) -> Iterator[dict[str, Any]]:
    calls: Counter = Counter()  # of each photo, so far
    for call in cache.calls():
        if call.tool != tool:
            continue
        results = filter_results(call.results, cache.blocked)
        useful = [position for position, result in enumerate(results, 1) if result.useful]
        row = {
            "image_id": PurePosixPath(call.photo_id).name,
            "image_path": f"images/{call.photo_id}",
            _ASKED[tool]: json.dumps(call.arguments) if tool == IMAGE else call.arguments,
            "call_idx": calls[call.photo_id],
            "useful_indices": json.dumps(useful),
            "n_useful": len(useful),
            "call_turn": -1,
            "part": "",
        } | ({"result_thumbnail": ""} if tool == IMAGE else {})
        calls[call.photo_id] += 1
        for position, result in enumerate(results, 1) if results else [(EMPTY, SearchResult("", ""))]:
            texts = {column: getattr(result, name) for column, name in _RESULT[tool].items()}
            yield row | texts | {_POSITION[tool]: position, "is_geo_useful": bool(result.useful)}


def _write(path: str | os.PathLike, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> int:
    """Writes a table, once all rows are made; returns how many they are."""
    rows = iter(rows)
    chunks = iter(lambda: list(islice(rows, _BATCH_ROWS)), [])
    table = pa.Table.from_batches([pa.RecordBatch.from_pylist(chunk, schema) for chunk in chunks], schema)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return table.num_rows


def _name(text: str | None) -> str:
    return "" if text in (None, UNKNOWN) else text


def _degrees(lat: str | float, lon: str | float) -> tuple[float, float]:
    lat, lon = float(lat), float(lon)
    if not (abs(lat) <= 90 and abs(lon) <= 180):
        raise ValueError(f"latitude {lat} and longitude {lon}: no place on Earth, in degrees")
    return lat, lon
