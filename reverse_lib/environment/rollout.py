"""Letting agents act: many photos at a time, each in an environment of its own. Everything that acts goes through here.

An agent is anything that can be called with conversations (lists of messages) and returns a `Reply`, or its text, for
each. Evaluation, annotation, chat and reinforcement learning differ in the agent and in what they keep, not in the
loop. Conversations go to the agent in batches; one that says how many it takes at a time (`concurrency`, such as a
server) is asked for each on its own instead, so that none waits for another. As soon as a rollout ends the next photo
takes its place. Tools and searches run one after the other. The order of the results is the order of the photos.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from reverse_lib.environment.environment import Album, GeoEnvironment
from reverse_lib.environment.interface import TINY, Interface, assistant_message, initial_messages, with_photo
from reverse_lib.photos import Photo, PhotoError
from reverse_lib.profiles import Budgets
from reverse_lib.search import SearchBackend
from reverse_lib.trajectory import TOOLS, Trajectory


class AgentError(RuntimeError):
    """An agent failed, and went on failing; whatever it was asked is unanswered."""


class AgentRefused(AgentError):
    """An agent refuses this one conversation (a content filter, its length); others may go on."""


@dataclass(frozen=True)
class Reply:
    """One turn of an agent.

    Attributes:
        text: What it wrote, tags included.
        token_ids: The tokens it wrote, its end token included; None where nobody knows.
        seconds: What it took; None leaves it to the clock, a batch's time shared evenly.
        usage: Further sums to keep, such as tokens and cost by a server's count.
        last: Whether nothing can follow, because the agent has no room left to write.
    """

    text: str
    token_ids: tuple[int, ...] | None = None
    seconds: float | None = None
    usage: Mapping[str, float] | None = None
    last: bool = False


@dataclass(eq=False)
class Rollout:
    """A rollout under way, or ended.

    Attributes:
        environment: What it acts in.
        messages: The conversation so far. A turn's tokens stand beside its text as `token_ids`, where they are known.
        seconds: That the agent took.
        tokens: That the agent wrote; None as soon as those of one turn are not known.
        usage: Sums over the turns, where the agent counts.
    """

    index: int
    photo_id: str
    environment: GeoEnvironment
    messages: list[dict]
    seconds: float = 0.0
    tokens: int | None = 0
    usage: Counter = field(default_factory=Counter)

    def go_on(self, reply: Reply | None) -> bool:
        """Take in a turn, None for an agent that can't write another; True if a further one is due."""
        if reply is None:
            return False
        self.seconds += reply.seconds or 0.0
        self.usage.update(reply.usage or {})
        known = reply.token_ids is not None and self.tokens is not None
        self.tokens = self.tokens + len(reply.token_ids) if known else None
        tokens = {} if reply.token_ids is None else {"token_ids": tuple(reply.token_ids)}
        self.messages.append(assistant_message(reply.text) | tokens)
        answer = self.environment.respond(reply.text, last=reply.last)
        if answer is not None:
            self.messages.append(answer)
        return answer is not None


def rollout(
    agent: Callable[[list[list[dict]]], Sequence[Reply | str | None]],
    photos: Iterable[Photo],
    search: SearchBackend,
    interface: Interface = TINY,
    budgets: Budgets | None = None,
    tools: Sequence[str] = TOOLS,
    batch_size: int = 32,
    progress: Callable[[int], object] | None = None,
    on_finished: Callable[[Trajectory, Rollout], object] | None = None,
    on_error: Callable[[str, Exception], bool] | None = None,
    album: Album | None = None,
) -> list[Trajectory]:
    """Let an agent work on photos, many conversations at a time.

    A rollout ends with an answer, or when its turns are used up. A turn that neither calls nor answers is told what
    could not be read, at most `budgets.nudges` times, and counts as a call that went wrong.

    Args:
        agent: Gets conversations and returns a `Reply`, or a text, for each; None for one that it has no room left to
            continue. Its `name`, if it has one, signs the trajectories. An agent that must know which photo it sees (a
            scripted teacher) has a method `respond_for(photo_ids, conversations)`, which is then called instead. One
            that looks at no picture says `reads_pixels = False`: it is shown none, and photos are not loaded for it.
            One that has a `concurrency` is asked for single conversations, so many at a time, in threads.
        photos: What to work on; a photo given twice is worked on twice.
        search: Answers the searches.
        interface: How things are shown.
        budgets: Limits of each rollout.
        tools: Names of the tools it may use.
        batch_size: Conversations at a time.
        progress: Called with the number of rollouts that just ended, such as `tqdm.update`.
        on_finished: Called with each trajectory, and its rollout, as soon as it ends.
        on_error: Called with a photo id and what keeps its rollout from going on: its file, or an agent that is asked
            for single conversations. True goes on without this photo; False, or no `on_error`, raises the error, after
            the answers under way have come in.
        album: Opens the photos; one of its own when None.

    Returns:
        A trajectory for each photo, in their order; none for a photo that was gone on without.

    Raises:
        ValueError: Two photos share an id, or the agent returned another number of replies than it was asked for.
        TypeError: The agent returned something else than replies or texts.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    photos, album = list(photos), album or Album()
    album.add(photos)
    waiting, trajectories = deque(enumerate(photo.photo_id for photo in photos)), {}
    name = str(getattr(agent, "name", "") or type(agent).__name__)
    seeing = getattr(agent, "reads_pixels", True)

    def tolerates(photo_id: str, error: Exception) -> bool:
        return on_error is not None and on_error(photo_id, error)

    def begin() -> list[Rollout]:
        """The rollout of the next photo; none if the photo can't be read and that is tolerated."""
        index, photo_id = waiting.popleft()
        environment = GeoEnvironment(search, album, interface, budgets, tools, seeing)
        try:
            blocks = environment.reset(photo_id)
        except PhotoError as error:
            if tolerates(photo_id, error):
                return []
            raise
        return [Rollout(index, photo_id, environment, with_photo(initial_messages(interface), blocks))]

    def end(run: Rollout) -> None:
        trajectories[run.index] = trajectory = run.environment.trajectory(name)
        if run.usage:
            trajectory.extra["usage"] = dict(run.usage)
        if on_finished is not None:
            on_finished(trajectory, run)
        if progress is not None:
            progress(1)

    width = min(batch_size, getattr(agent, "concurrency", 0))
    if width:
        _side_by_side(agent, width, waiting, begin, end, tolerates)
    else:
        _in_batches(agent, batch_size, waiting, begin, end)
    return [trajectories[index] for index in sorted(trajectories)]


def _in_batches(agent: Callable, size: int, waiting: deque, begin: Callable, end: Callable) -> None:
    active: list[Rollout] = []
    while waiting or active:
        while waiting and len(active) < size:
            active += begin()
        replies = _ask(agent, active) if active else []
        due = {run for run, reply in zip(active, replies, strict=True) if run.go_on(reply)}
        for run in active:
            if run not in due:
                end(run)
        active = [run for run in active if run in due]


def _side_by_side(
    agent: Callable, width: int, waiting: deque, begin: Callable, end: Callable, tolerates: Callable
) -> None:
    """Each conversation on its own. After a failure nothing more is asked, and answers under way are waited for."""
    pending: dict[Future, Rollout] = {}
    failure: Exception | None = None
    pool = ThreadPoolExecutor(width)
    try:
        while pending or (waiting and failure is None):
            try:
                while waiting and len(pending) < width and failure is None:
                    pending |= {pool.submit(_ask, agent, [run]): run for run in begin()}
            except PhotoError as error:
                failure = error
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                run = pending.pop(future)
                try:
                    if not run.go_on(future.result()[0]):
                        end(run)
                    elif failure is None:
                        pending[pool.submit(_ask, agent, [run])] = run
                except Exception as error:
                    failure = failure or (None if tolerates(run.photo_id, error) else error)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if failure is not None:
        raise failure


def _ask(agent: Callable, active: Sequence[Rollout]) -> list[Reply | None]:
    """A reply of the agent for each rollout, with its share of the time."""
    conversations, started = [list(run.messages) for run in active], time.perf_counter()
    if hasattr(agent, "respond_for"):
        replies = agent.respond_for([run.photo_id for run in active], conversations)
    else:
        replies = agent(conversations)
    if isinstance(replies, str) or len(replies) != len(active):
        raise ValueError(f"the agent returned {len(replies)} replies for {len(active)} conversations; one each is due")
    share = (time.perf_counter() - started) / len(active)
    return [_reply(reply, share) for reply in replies]


def _reply(reply: Reply | str | None, share_s: float) -> Reply | None:
    if isinstance(reply, str):
        return Reply(reply, seconds=share_s)
    if reply is None or (isinstance(reply, Reply) and reply.seconds is not None):
        return reply
    if not isinstance(reply, Reply):
        raise TypeError(f"the agent returned {type(reply).__name__} instead of a Reply or a text: {reply!r:.80}")
    return Reply(reply.text, reply.token_ids, share_s, reply.usage, reply.last)
