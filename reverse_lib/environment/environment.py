"""What an agent acts in: one photo, three tools, budgets, and a record of every turn. No engine, no torch.

What differs from the paper's code: a repeated call advances (`call=1`) and is marked, members of a group that ask the
same see the same, several queries are numbered through, budgets answer in words, and nothing survives `reset`. A tool
never raises for what a model wrote: any argument that JSON can carry is accepted or refused in words, and the call is
recorded as `model_error`. A failing service is recorded as `service_error`, never as a miss.

    environment = GeoEnvironment(search, {photo.photo_id: photo})
    environment.reset("photo-1")                                        # the photo, as blocks of a message
    environment.respond('<think>…</think><tool_call>…</tool_call>')     # what comes back; None when it is over
    environment.trajectory()
    environment.text_search_tool(query="Valencia Spain")                # or a tool on its own
"""

import functools
import inspect
import logging
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from weakref import WeakValueDictionary

from PIL import Image

from reverse_lib.environment.interface import (
    NO_RESULTS,
    TINY,
    Interface,
    image_block,
    one_line,
    result_text,
    show_photo,
    show_zoom,
    text_block,
    tool_message,
)
from reverse_lib.geo import BoxError, as_box
from reverse_lib.photos import Photo, PhotoError, crop
from reverse_lib.profiles import Budgets
from reverse_lib.search import SearchAnswer, SearchBackend, SearchResult, ServiceError, normalise_query
from reverse_lib.trajectory import TOOLS, Observation, Step, Trajectory, Turn, parse_turn

MAX_QUERY_CHARS = 300
MAX_QUERIES = 5
NO_TURNS = "no turns left: answer now"
UNREADABLE = "unreadable_turn"  # stands for the tool in the record of a turn that neither calls nor answers
_BUDGETS = {
    "image_zoom_in_tool": ("zoom", "zooms"),
    "image_search_tool": ("image", "image searches"),
    "text_search_tool": ("text", "text searches"),
}
_PIXELS_KEPT = 50_000_000  # of photos and regions drawn by an album
_logger = logging.getLogger(__name__)


class ArgumentError(ValueError):
    """An argument the model wrote can't be used; the text is meant for the model."""


class OverBudget(Exception):
    """The calls to a tool are used up."""


class Album:
    """Photos by id. Each is opened once for all rollouts that hold it, and each region is drawn once."""

    def __init__(self, photos: Iterable[Photo] = ()):
        self._photos: dict[str, Photo] = {}
        self._opened: WeakValueDictionary[str, Image.Image] = WeakValueDictionary()  # while any rollout holds them
        self._opening: dict[str, Future[Image.Image]] = {}
        self._drawn: OrderedDict[tuple, Image.Image] = OrderedDict()
        self._pixels = 0
        self._pool: ThreadPoolExecutor | None = None
        self.add(photos)

    def add(self, photos: Iterable[Photo]) -> None:
        """Take in photos.

        Raises:
            ValueError: Two photos share an id.
        """
        for photo in photos:
            if self._photos.setdefault(photo.photo_id, photo) != photo:
                raise ValueError(f"two photos are called {photo.photo_id!r}; give each an id of its own")

    def __getitem__(self, photo_id: str) -> Photo:
        """The photo; KeyError if there is none of that id."""
        return self._photos[photo_id]

    def open(self, photo_id: str) -> Image.Image:
        """A photo's pixels.

        Raises:
            PhotoError: It can't be read.
        """
        image = self._opened.get(photo_id)
        if image is None:
            opening = self._opening.pop(photo_id, None)
            image = self._opened[photo_id] = opening.result() if opening else self._photos[photo_id].load()
        return image

    def draw(self, photo_id: str, image: Image.Image, show: Callable, *arguments) -> Image.Image:
        """What `show(image, *arguments)` draws of a photo; one that was drawn lately is not drawn again."""
        key = photo_id, show.__name__, repr(arguments)
        if key not in self._drawn:
            self._drawn[key] = picture = show(image, *arguments)
            self._pixels += picture.width * picture.height
            while self._pixels > _PIXELS_KEPT and len(self._drawn) > 1:
                _, oldest = self._drawn.popitem(last=False)
                self._pixels -= oldest.width * oldest.height
        self._drawn.move_to_end(key)
        return self._drawn[key]

    def open_ahead(self, photos: Iterable[Photo]) -> None:
        """Begin to open photos in a thread of its own; those asked for before are forgotten."""
        self._pool = self._pool or ThreadPoolExecutor(1)
        self.add(photos := list(photos))
        self._opening = {photo.photo_id: self._pool.submit(photo.load) for photo in photos}

    def close(self) -> None:
        """End the thread; what has not begun is not opened."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _tool(method: Callable) -> Callable:
    """Turn a method into a tool: checked arguments, limits, one record a call, no exception for what a model wrote."""
    tool, (_, *parameters) = method.__name__, inspect.signature(method).parameters.values()
    required = {parameter.name: parameter.default is parameter.empty for parameter in parameters}
    takes = ", ".join(name if needed else f"{name} (optional)" for name, needed in required.items())

    @functools.wraps(method)
    def call(self, /, **arguments):
        def run() -> str | list[dict]:
            for name, needed in required.items():
                if needed and name not in arguments:
                    raise ArgumentError(f"{name} is missing; {tool} takes {takes}")
            for name in arguments:
                if name not in required:
                    raise ArgumentError(f"unknown argument {one_line(name)[:40]}; {tool} takes {takes}")
            return method(self, **arguments)

        return self._record(tool, arguments, run)

    return call


class GeoEnvironment:
    """One rollout's world; `reset` starts each.

    Args:
        search: Answers image and text searches.
        photos: Photos by photo id, or an album of them.
        interface: How things are shown to the model.
        budgets: Calls a tool and turns a rollout.
        tools: Names out of TOOLS, the tools that turns may call.
        pixels: False shows no pictures: a block only says that there is one, and the photo is loaded when a search
            asks for pixels, if ever. The record is the same.

    Attributes:
        log: What came of each call and of each turn that could not be read.

    Raises:
        ValueError: The name of a tool is unknown.
        RuntimeError: From any method, before a photo was set by `reset`.
    """

    def __init__(
        self,
        search: SearchBackend,
        photos: Mapping[str, Photo] | Album,
        interface: Interface = TINY,
        budgets: Budgets | None = None,
        tools: Sequence[str] = TOOLS,
        pixels: bool = True,
    ):
        self._search, self._album = search, photos if isinstance(photos, Album) else Album(photos.values())
        self._interface, self._budgets, self._pixels = interface, budgets or Budgets(), pixels
        self._tools = _named(tools)
        self._clear()

    def reset(self, photo_id: str) -> list[dict]:
        """Start a rollout on one photo; everything of the rollout before is forgotten.

        Returns:
            The photo as blocks to append to the user message.

        Raises:
            ValueError: The photo is unknown.
            PhotoError: The photo can't be read (without `pixels`, this is found out by the first image search).
        """
        self._clear()
        try:
            self._photo = self._album[photo_id]
        except KeyError:
            raise ValueError(f"reset: photo {photo_id!r} is not among the photos this environment was given") from None
        try:
            return [self._picture(show_photo)]
        except PhotoError:
            self._clear()
            raise

    def respond(self, text: str, last: bool = False) -> dict | None:
        """Take in one turn of the agent.

        Args:
            text: What it wrote, exactly as decoded.
            last: Whether nothing can follow.

        Returns:
            The message that answers it; None if the rollout is over: answered, out of turns or of nudges.
        """
        turn = parse_turn(text)
        self._steps.append(Step(text, None))
        answered = turn.answer is not None and turn.tool_call is None
        nudged = sum(entry.tool == UNREADABLE for entry in self.log)
        if last or answered or len(self._steps) >= self._budgets.turns:
            return None
        if turn.tool_call is None and nudged >= self._budgets.nudges:
            return None
        tool, content = self._call(turn)
        self._steps[-1] = Step(text, self.log[-1])
        return tool_message(tool, content)

    def trajectory(self, agent: str = "") -> Trajectory:
        """The rollout as a record.

        Args:
            agent: Who wrote its turns.
        """
        photo = self._current()
        return Trajectory(
            photo_id=photo.photo_id,
            steps=list(self._steps),
            lat=photo.lat,
            lon=photo.lon,
            country=photo.country,
            city=photo.city,
            regions=[list(region) for region in photo.regions],
            evidence=list(self._search.evidence(photo.photo_id)),
            agent=agent,
            end=how_it_ended(self._steps),
            extra={"interface": self._interface.name},
        )

    @_tool
    def image_zoom_in_tool(self, bbox_2d: list[int], label: str = "") -> list:
        """Look at a region of the photo enlarged.

        Args:
            bbox_2d: The region as [x1, y1, x2, y2], each 0 to 1000 across the original photo.
            label: What you expect to see there.

        Returns:
            The enlarged region.
        """
        box = as_box(bbox_2d)
        _check_text("label", label)
        self._begin([("zoom", *box)])
        blocks = [self._picture(show_zoom, box)]
        self._entry.status = "ok"
        if self._interface.result_style == "full":
            self._entry.text = f"Zoomed into region {box}"
            blocks.append(text_block(self._entry.text))
        return blocks

    @_tool
    def image_search_tool(self, bbox_2d: list[int], goal: str = "") -> str:
        """Find pages with pictures that look like a region of the photo.

        Args:
            bbox_2d: The region as [x1, y1, x2, y2], each 0 to 1000 across the original photo.
            goal: What you hope to find.

        Returns:
            A numbered list of results.
        """
        box = as_box(bbox_2d)
        _check_text("goal", goal)
        (count,) = self._begin([("image", *box)])
        region = crop(self._loaded(), box) if getattr(self._search, "reads_pixels", True) else None
        answer = self._search.image(self._photo.photo_id, box, call=count, crop=region)
        return self._show([answer], f"Image search results for region {box}:", "image")

    @_tool
    def text_search_tool(self, query: str | list[str]) -> str:
        """Search the web for pages by words.

        Args:
            query: One query, or a list of queries.

        Returns:
            A numbered list of results.
        """
        queries = _queries(query)
        counts = self._begin([("text", normalise_query(text)) for text in queries])
        answers = [
            self._search.text(self._photo.photo_id, text, call=count)
            for text, count in zip(queries, counts, strict=True)
        ]
        return self._show(answers, f"Web search results for: {' | '.join(map(one_line, queries))}", "text")

    def _clear(self) -> None:
        self._photo: Photo | None = None
        self._image: Image.Image | None = None
        self.log: list[Observation] = []
        self._steps: list[Step] = []
        self._entry: Observation | None = None  # of the call under way
        self._keys: list[tuple] = []  # its tool and normalised arguments, one key a query
        self._counts: Counter = Counter()  # calls so far, by key; a failed service doesn't count
        self._spent: Counter = Counter()  # calls so far that reached the tool, by tool

    def _current(self) -> Photo:
        if self._photo is None:
            raise RuntimeError("no photo yet; call reset(photo_id) first")
        return self._photo

    def _picture(self, show: Callable, *region) -> dict:
        """A content block with the photo, or a region of it, as the model sees it."""
        if not self._pixels:
            return {"type": "image"}
        return image_block(self._album.draw(self._photo.photo_id, self._loaded(), show, *region, self._interface))

    def _loaded(self) -> Image.Image:
        """The photo's pixels, from when they are first needed."""
        if self._image is None:
            self._image = self._album.open(self._photo.photo_id)
        return self._image

    def _call(self, turn: Turn) -> tuple[str, str | list[dict]]:
        """The tool that a turn without an answer is taken to call, and what comes back."""
        call = turn.tool_call
        if call is None:
            problem = f"Error: {', '.join(turn.errors) or 'action_missing'}; write one tool call or one answer"
            return UNREADABLE, self._record(UNREADABLE, {}, problem=problem)
        if call.name in self._tools:
            return call.name, getattr(self, call.name)(**call.arguments)
        problem = str({"error": f"Tool {call.name} not found."})
        return call.name, self._record(call.name, call.arguments, problem=problem)

    def _record(
        self, tool: str, arguments: Mapping, run: Callable[[], str | list[dict]] | None = None, problem: str = ""
    ) -> str | list[dict]:
        """Run a tool, or tell the problem where there is none to run, and log the call.

        What the model got wrong, or a service failed at, is answered in words.
        """
        photo_id = self._current().photo_id
        self._entry = entry = Observation(tool=tool, arguments=_plain(arguments), status="model_error", text=problem)
        content = None
        if len(self.log) >= self._budgets.turns - 1:
            entry.text = NO_TURNS
        elif run is not None:
            try:
                content = run()
            except (ArgumentError, BoxError) as error:
                entry.text = f"Error: {error}"
            except OverBudget as refusal:
                entry.text = str(refusal)
            except ServiceError as error:
                _logger.warning("%s on photo %s: %s", tool, photo_id, error)
                entry.status = "service_error"
                entry.text = "Error: the search service is not available; go on without it"
                self._counts.subtract(self._keys)
        self.log.append(entry)
        return self._with_notice(entry.text if content is None else content)

    def _with_notice(self, content: str | list[dict]) -> str | list[dict]:
        """Say so when only the answer is left to write."""
        entry = self._entry
        if len(self.log) != self._budgets.turns - 1:
            return content
        entry.text = f"{entry.text}\n{NO_TURNS}" if entry.text else NO_TURNS
        if isinstance(content, str):
            return entry.text
        return [block for block in content if block["type"] == "image"] + [text_block(entry.text)]

    def _begin(self, keys: list[tuple]) -> list[int]:
        """Count a call whose arguments are sound; returns how often each key was asked before."""
        entry = self._entry
        budget, noun = _BUDGETS[entry.tool]
        if self._spent[entry.tool] >= getattr(self._budgets, budget):
            raise OverBudget(f"no {noun} left: answer now")
        before = [self._counts[key] for key in keys]
        self._spent[entry.tool] += 1
        self._counts.update(keys)
        self._keys = keys
        entry.repeated = all(before)
        return before

    def _show(self, answers: Sequence[SearchAnswer | None], header: str, kind: str) -> str:
        """Record and render what a search brought; the lists of several queries follow each other, numbered through."""
        entry = self._entry
        hits = [answer for answer in answers if answer is not None]
        places = sorted((place, i) for i, answer in enumerate(hits) for place in range(len(answer.results)))
        shares = Counter(i for _, i in places[: self._interface.max_results])  # as even as possible
        results, labels = [], []
        for answer, share in ((answer, shares[i]) for i, answer in enumerate(hits)):
            results += answer.results[:share]
            unknown = False if answer.labelled else None
            labels += [i in answer.useful or unknown for i in range(1, share + 1)]
        entry.match = min((answer.match for answer in hits if answer.match is not None), default=None)
        entry.status, entry.text = "miss", NO_RESULTS
        if results:
            entry.status = "ok"
            entry.text, shown = result_text(header, results, self._interface, kind)
            entry.labelled = all(answer.labelled for answer in hits)
            entry.results = [result_row(result, label) for result, label in zip(results[:shown], labels, strict=False)]
        return entry.text


def tool_functions(tools: Sequence[str] = TOOLS) -> list[Callable]:
    """The tools for `apply_chat_template(tools=…)`, in alphabetical order.

    Raises:
        ValueError: A name is unknown.
    """
    return [getattr(GeoEnvironment, name) for name in sorted(_named(tools))]


def result_row(result: SearchResult, useful: bool | None) -> dict:
    """A result as a record keeps it."""
    fields = {name: getattr(result, name) for name in ("title", "url", "source", "snippet")}
    return fields | {"useful": useful}


def how_it_ended(steps: Sequence[Step]) -> str:
    """How a rollout ended, in the words of `Trajectory.end`."""
    last = parse_turn(steps[-1].text) if steps else None
    if last and last.answer is not None and last.tool_call is None:
        return "answered"
    if any(step.observation and step.observation.status == "service_error" for step in steps):
        return "service_error"
    return "budget" if last and last.tool_call is not None else "format"


def _named(tools: Sequence[str]) -> tuple[str, ...]:
    if isinstance(tools, str) or not set(tools) <= set(TOOLS):
        raise ValueError(f"tools={tools!r}: give a list of names out of {', '.join(TOOLS)}")
    return tuple(name for name in TOOLS if name in tools)


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ArgumentError(f"{name} must be text")


def _queries(value: object) -> list[str]:
    """The distinct queries of a text search, each on one line."""
    texts = value if isinstance(value, list | tuple) else [value]
    if len(texts) > MAX_QUERIES:
        raise ArgumentError(f"too many queries: give at most {MAX_QUERIES} at once")
    queries: dict[str, str] = {}
    for text in texts or [""]:
        if not isinstance(text, str):
            raise ArgumentError("query must be text, or a list of texts")
        if len(text) > MAX_QUERY_CHARS:
            raise ArgumentError(f"query is too long: use at most {MAX_QUERY_CHARS} characters")
        text = one_line(text)
        if not normalise_query(text):
            raise ArgumentError("query is empty: give at least one word")
        queries.setdefault(normalise_query(text), text)
    return list(queries.values())


def _plain(value: object, depth: int = 0) -> object:
    """A copy of an argument made of JSON types, cut to a size worth keeping in a log."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value[:1000].encode("utf-8", "replace").decode()
    if isinstance(value, int):
        return int(value) if value.bit_length() < 64 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if depth < 3 and isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value[:20]]
    if depth < 3 and isinstance(value, dict):
        return {str(_plain(key, 3))[:40]: _plain(item, depth + 1) for key, item in list(value.items())[:20]}
    return f"({type(value).__name__})"
