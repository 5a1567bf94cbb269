"""What the agent acts in: one photo, three tools, budgets, and a log of every call. No engine, no torch.

The same class serves TRL's `environment_factory`, our own `rollout` and a chat. What differs from the paper's code:
a repeated call advances (`call=1`) and is marked, members of a group that ask the same see the same, several queries
are numbered through, budgets answer in words, and nothing survives `reset`. A tool method never raises for what a
model wrote: it returns a readable message and logs the call as `model_error`. A failing service is logged as
`service_error`, never as a miss.

    environment = GeoEnvironment(search, {photo.photo_id: photo})
    environment.reset(photo_id="…")
    environment.text_search_tool(query="Valencia Spain")

Under TRL set `max_tool_calling_iterations = budgets.turns - 1`: the last turn is for the answer.
"""

import functools
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from PIL import Image

from reverse_lib.environment.calls import (
    UNREADABLE,
    ArgumentError,
    OverBudget,
    as_queries,
    check_names,
    check_text,
    how_it_ended,
    logged,
    not_found,
    one_line,
    pair,
    shares,
    tool,
    unreadable,
)
from reverse_lib.environment.interface import (
    FULL,
    INTERFACES,
    NO_RESULTS,
    TINY,
    Interface,
    conversation,
    image_block,
    initial_messages,
    result_text,
    show_photo,
    show_zoom,
    text_block,
    with_photo,
)
from reverse_lib.environment.rollouts import Run, run_all
from reverse_lib.geo import BoxError, as_box
from reverse_lib.photos import Photo, PhotoError, crop
from reverse_lib.profiles import Budgets
from reverse_lib.search import SearchAnswer, SearchBackend, ServiceError, normalise_query
from reverse_lib.trajectory import TOOLS, Observation, ToolCall, Trajectory, Turn

__all__ = [
    "FULL",
    "INTERFACES",
    "TINY",
    "Budgets",
    "GeoEnvironment",
    "Interface",
    "conversation",
    "environment_class",
    "initial_messages",
    "rollout",
    "tool_functions",
    "with_photo",
]

NO_TURNS = "no turns left: answer now"
_BUDGET_OF = {"image_zoom_in_tool": "zoom", "image_search_tool": "image", "text_search_tool": "text"}
_NOUN_OF = {"image_zoom_in_tool": "zooms", "image_search_tool": "image searches", "text_search_tool": "text searches"}
_logger = logging.getLogger(__name__)


class GeoEnvironment:
    """One rollout's world. Reused for many rollouts, one after the other; `reset` starts each.

    Every public method but `reset` is a tool, which is how TRL finds them; `tools` selects some of the three.

    Args:
        search: Answers image and text searches.
        photos: Photos by photo id.
        interface: How things are shown to the model.
        budgets: Calls a tool and turns a rollout.
        tools: Names out of TOOLS; None keeps the class's own (all three).
        pixels: False shows no pictures: a block only says that there is one, and the photo is loaded when a search
            asks for pixels, if ever. The log is the same.
    """

    _tools: tuple[str, ...] = TOOLS

    def __new__(cls, search=None, photos=None, interface=TINY, budgets=None, tools=None, pixels=True):
        return super().__new__(cls if tools is None else environment_class(tools, cls))

    def __init__(
        self,
        search: SearchBackend,
        photos: Mapping[str, Photo],
        interface: Interface = TINY,
        budgets: Budgets | None = None,
        tools: Sequence[str] | None = None,
        pixels: bool = True,
    ):
        self._search, self._photos = search, photos
        self._interface, self._budgets, self._pixels = interface, budgets or Budgets(), pixels
        self._clear()

    def reset(self, **row) -> list[dict]:
        """Start a rollout on one photo; everything of the rollout before is forgotten.

        Args:
            **row: A dataset row; only `photo_id` is used.

        Returns:
            The photo as blocks to append to the user message.

        Raises:
            ValueError: `photo_id` is missing or unknown.
            PhotoError: The photo can't be read (without `pixels`, this is found out by the first image search).
        """
        self._clear()
        photo_id = row.get("photo_id")
        if not isinstance(photo_id, str):
            raise ValueError(f"reset: photo_id={photo_id!r}: give each dataset row a column photo_id of strings")
        try:
            photo = self._photos[photo_id]
        except KeyError:
            raise ValueError(f"reset: photo {photo_id!r} is not among the photos this environment was given") from None
        self._photo = photo
        try:
            return [self._picture(show_photo)]
        except PhotoError:
            self._clear()
            raise

    @tool
    def image_zoom_in_tool(self, bbox_2d: list[int], label: str = "") -> list:
        """Look at a region of the photo enlarged.

        Args:
            bbox_2d: The region as [x1, y1, x2, y2], each 0 to 1000 across the original photo.
            label: What you expect to see there.

        Returns:
            The enlarged region.
        """
        box = as_box(bbox_2d)
        check_text("label", label)
        self._begin([("zoom", *box)])
        blocks = [self._picture(show_zoom, box)]
        self._entry.status = "ok"
        if self._interface.result_style == "full":
            self._entry.text = f"Zoomed into region {box}"
            blocks.append(text_block(self._entry.text))
        return blocks

    @tool
    def image_search_tool(self, bbox_2d: list[int], goal: str = "") -> str:
        """Find pages with pictures that look like a region of the photo.

        Args:
            bbox_2d: The region as [x1, y1, x2, y2], each 0 to 1000 across the original photo.
            goal: What you hope to find.

        Returns:
            A numbered list of results.
        """
        box = as_box(bbox_2d)
        check_text("goal", goal)
        (count,) = self._begin([("image", *box)])
        region = crop(self._loaded(), box) if getattr(self._search, "reads_pixels", True) else None
        answer = self._search.image(self._photo.photo_id, box, call=count, crop=region)
        return self._show([answer], f"Image search results for region {box}:", "image")

    @tool
    def text_search_tool(self, query: str | list[str]) -> str:
        """Search the web for pages by words.

        Args:
            query: One query, or a list of queries.

        Returns:
            A numbered list of results.
        """
        queries = as_queries(query)
        counts = self._begin([("text", normalise_query(text)) for text in queries])
        answers = [
            self._search.text(self._photo.photo_id, text, call=count)
            for text, count in zip(queries, counts, strict=True)
        ]
        return self._show(answers, f"Web search results for: {' | '.join(map(one_line, queries))}", "text")

    def _clear(self) -> None:
        self._photo: Photo | None = None
        self._image: Image.Image | None = None
        self._log: list[Observation] = []
        self._entry: Observation | None = None  # of the call under way
        self._keys: list[tuple] = []  # its tool and normalised arguments, one key a query
        self._counts: Counter = Counter()  # calls so far, by key; a failed service doesn't count
        self._spent: Counter = Counter()  # calls so far that reached the tool, by tool

    def _picture(self, show: Callable, *region) -> dict:
        """A content block with the photo, or a region of it, as the model sees it."""
        return image_block(show(self._loaded(), *region, self._interface)) if self._pixels else {"type": "image"}

    def _loaded(self) -> Image.Image:
        """The photo's pixels, from when they are first needed."""
        if self._image is None:
            self._image = self._photo.load()
        return self._image

    def _answer(self, method: Callable, given: Mapping, required: Mapping[str, bool]) -> str | list[dict]:
        """Run a tool. What the model got wrong, or a service failed at, is answered in words."""
        entry = self._entry
        if len(self._log) >= self._budgets.turns - 1:
            entry.text = NO_TURNS
            return entry.text
        try:
            check_names(entry.tool, given, required)
            return method(self, **given)
        except (ArgumentError, BoxError) as error:
            entry.text = f"Error: {error}"
        except OverBudget as refusal:
            entry.text = str(refusal)
        except ServiceError as error:
            _logger.warning("%s on photo %s: %s", entry.tool, self._photo.photo_id, error)
            entry.status = "service_error"
            entry.text = "Error: the search service is not available; go on without it"
            self._counts.subtract(self._keys)
        return entry.text

    def _with_notice(self, content: str | list[dict]) -> str | list[dict]:
        """Say so when only the answer is left to write."""
        entry = self._log[-1]
        if len(self._log) != self._budgets.turns - 1:
            return content
        entry.text = f"{entry.text}\n{NO_TURNS}" if entry.text else NO_TURNS
        if isinstance(content, str):
            return entry.text
        return [block for block in content if block["type"] == "image"] + [text_block(entry.text)]

    def _begin(self, keys: list[tuple]) -> list[int]:
        """Count a call whose arguments are sound; returns how often each key was asked before."""
        entry = self._entry
        if self._spent[entry.tool] >= getattr(self._budgets, _BUDGET_OF[entry.tool]):
            raise OverBudget(f"no {_NOUN_OF[entry.tool]} left: answer now")
        before = [self._counts[key] for key in keys]
        self._spent[entry.tool] += 1
        self._counts.update(keys)
        self._keys = keys
        entry.repeated = all(before)
        return before

    def _show(self, answers: Sequence[SearchAnswer | None], header: str, kind: str) -> str:
        """Log and render what a search brought; the lists of several queries follow each other, numbered through."""
        entry = self._entry
        found = [answer for answer in answers if answer is not None]
        counts = shares([len(answer.results) for answer in found], self._interface.max_results)
        results, labels = [], []
        for answer, share in zip(found, counts, strict=True):
            results += answer.results[:share]
            unknown = False if answer.labelled else None
            labels += [i in answer.useful or unknown for i in range(1, share + 1)]
        matches = [answer.match for answer in found if answer.match is not None]
        entry.match = min(matches, default=None)
        entry.status, entry.text = "miss", NO_RESULTS
        if results:
            entry.status = "ok"
            entry.text, shown = result_text(header, results, self._interface, kind)
            entry.labelled = all(answer.labelled for answer in found)
            entry.results = [logged(result, label) for result, label in zip(results[:shown], labels, strict=False)]
        return entry.text

    def _reply(self, turn: Turn) -> tuple[str, list[dict]]:
        """The tool that a turn without an answer is taken to call, and the blocks that come back."""
        if turn.tool_call is not None:
            return turn.tool_call.name, self._call(turn.tool_call)
        return UNREADABLE, [text_block(self._refuse(turn))]

    def _may_nudge(self) -> bool:
        """Whether another turn that can't be read will be answered."""
        return sum(entry.tool == UNREADABLE for entry in self._log) < self._budgets.nudges

    def _refuse(self, turn: Turn) -> str:
        """Log a turn in which no call and no answer could be read as the model's error; returns what it is told."""
        if self._photo is None:
            raise RuntimeError("no photo yet; call reset(photo_id=…) first")
        exhausted = len(self._log) >= self._budgets.turns - 1
        text = NO_TURNS if exhausted else unreadable(turn)
        self._log.append(Observation(tool=UNREADABLE, arguments={}, status="model_error", text=text))
        return self._with_notice(text)

    def _call(self, call: ToolCall) -> list[dict]:
        """One tool call by name, as TRL would make it; returns blocks."""
        if call.name in self._tools:
            content = getattr(self, call.name)(**call.arguments)
        else:
            content = not_found(call.name)
        return content if isinstance(content, list) else [text_block(content)]

    def _trajectory(self, texts: Sequence[str], agent: str = "") -> Trajectory:
        """The rollout as a record.

        Args:
            texts: What the model wrote, a turn each, exactly as decoded.
            agent: Who wrote it.

        Raises:
            RuntimeError: No photo was set.
            ValueError: The texts' tool calls are not the calls in the log.
        """
        if self._photo is None:
            raise RuntimeError("_trajectory: no rollout yet; call reset(photo_id=…) first")
        photo = self._photo
        try:
            steps, surplus = pair(texts, self._log, self._tools, self._budgets.turns)
        except ValueError as error:
            raise ValueError(f"photo {photo.photo_id}: {error}") from None
        extra = {"interface": self._interface.name} | ({"surplus_calls": surplus} if surplus else {})
        return Trajectory(
            photo_id=photo.photo_id,
            steps=steps,
            lat=photo.lat,
            lon=photo.lon,
            country=photo.country,
            city=photo.city,
            regions=[list(region) for region in photo.regions],
            evidence=list(self._search.evidence(photo.photo_id)),
            agent=agent,
            end=how_it_ended(steps),
            extra=extra,
        )


def environment_class(
    tools: Sequence[str] = TOOLS, base: type[GeoEnvironment] = GeoEnvironment
) -> type[GeoEnvironment]:
    """An environment class with only these tools; the others are None, so TRL does not offer them.

    Args:
        tools: Names out of TOOLS, in any order; none for answering without tools.
        base: GeoEnvironment or a subclass of it.

    Raises:
        ValueError: A name is unknown.
    """
    if isinstance(tools, str) or not set(tools) <= set(TOOLS):
        raise ValueError(f"tools={tools!r}: give a list of names out of {', '.join(TOOLS)}")
    return _with_tools(tuple(name for name in TOOLS if name in tools), base)


@functools.cache
def _with_tools(tools: tuple[str, ...], base: type[GeoEnvironment]) -> type[GeoEnvironment]:
    if tools == base._tools:
        return base
    if lost := set(tools) - set(base._tools):
        raise ValueError(f"{base.__name__} has no {sorted(lost)[0]} any more; start from the class with all tools")
    body = {"_tools": tools, "__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    return type(base.__name__, (base,), body | dict.fromkeys(set(base._tools) - set(tools)))


def tool_functions(tools: Sequence[str] = TOOLS) -> list[Callable]:
    """The tools for `apply_chat_template(tools=…)`, alphabetical as TRL lists those of an environment."""
    chosen = environment_class(tools)
    return [getattr(chosen, name) for name in sorted(chosen._tools)]


def rollout(
    agent: Callable[[list[list[dict]]], list[str]],
    photos: Iterable[Photo],
    search: SearchBackend,
    interface: Interface = TINY,
    budgets: Budgets | None = None,
    tools: Sequence[str] = TOOLS,
    batch_size: int = 32,
    progress: Callable[[int], object] | None = None,
    on_finished: Callable[[Trajectory], object] | None = None,
    on_error: Callable[[str, Exception], bool] | None = None,
) -> list[Trajectory]:
    """Let an agent work on photos, many conversations at a time.

    A rollout ends with an answer, or when its turns are used up. A turn that neither calls nor answers is told what
    could not be read, at most `budgets.nudges` times, and counts as a call that went wrong. As soon as a rollout ends,
    the next photo takes its place in the batch.

    Args:
        agent: Gets conversations (lists of messages) and returns a text for each. Its `name`, if it has one, signs
            the trajectories. An agent that must know which photo it sees (a scripted teacher) has a method
            `respond_for(photo_ids, conversations)`, which is then called instead. One that looks at no picture says
            `reads_pixels = False`: it is shown none, and photos are not loaded for it. One that has a `concurrency`
            is asked for single conversations, so many at a time, in threads.
        photos: What to work on; a photo given twice is worked on twice.
        search: Answers the searches.
        interface: How things are shown.
        budgets: Limits of each rollout.
        tools: Names of the tools it may use.
        batch_size: Conversations at a time.
        progress: Called with the number of rollouts that just ended, such as `tqdm.update`.
        on_finished: Called with each trajectory as soon as its rollout ends.
        on_error: Called with a photo id and what keeps its rollout from going on: its file, or an agent that is asked
            for single conversations. True goes on without this photo; False, or no `on_error`, raises the error, after
            the answers under way have come in.

    Returns:
        A trajectory for each photo, in their order; none for a photo that was gone on without.

    Raises:
        ValueError: Two photos share an id, or the agent returned another number of texts than it was asked for.
        TypeError: The agent returned something else than text.
    """
    photos, budgets = list(photos), budgets or Budgets()
    known: dict[str, Photo] = {}
    for photo in photos:
        if known.setdefault(photo.photo_id, photo) != photo:
            raise ValueError(f"two photos are called {photo.photo_id!r}; give each an id of its own")

    def new_environment() -> GeoEnvironment:
        return GeoEnvironment(search, known, interface, budgets, tools, pixels=getattr(agent, "reads_pixels", True))

    waiting = deque(enumerate(photo.photo_id for photo in photos))
    run = Run(agent, waiting, new_environment, interface, budgets.turns, progress, on_finished, on_error)
    return run_all(run, batch_size)
