"""Letting an agent act in many environments at a time; `environment.rollout` is the way in.

Conversations go to the agent in batches. An agent that says how many it takes at a time (`concurrency`, such as an
`endpoint.Endpoint`) is asked for each on its own instead, so that none waits for another. As soon as one ends the next
photo takes its place. Tools and searches run one after the other. The order of the results is the order of the photos.
"""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from reverse_lib.environment.interface import Interface, assistant_message, initial_messages, tool_message, with_photo
from reverse_lib.photos import PhotoError
from reverse_lib.trajectory import Trajectory, parse_turn


class AgentError(RuntimeError):
    """An agent failed, and went on failing; whatever it was asked is unanswered."""


class AgentRefused(AgentError):
    """An agent refuses this one conversation (a content filter, its length); others may go on."""


@dataclass(eq=False)
class Running:
    """A rollout under way: its place in the order, its world, its messages, what the agent wrote and what it cost."""

    index: int
    photo_id: str
    environment: Any  # a GeoEnvironment
    messages: list[dict]
    texts: list[str] = field(default_factory=list)
    usage: dict[str, float] = field(default_factory=dict)  # sums over the turns, where the agent counts

    def go_on(self, text: str, turns: int) -> bool:
        """Take in a turn; True if another one is due."""
        for name, value in text.usage.to_dict().items() if hasattr(text, "usage") else ():
            self.usage[name] = self.usage.get(name, 0) + value
        text = str(text)
        self.texts.append(text)
        turn = parse_turn(text)
        if (turn.answer is not None and turn.tool_call is None) or len(self.texts) >= turns:
            return False
        if turn.tool_call is None and not self.environment._may_nudge():
            return False
        self.messages.append(assistant_message(text))
        self.messages.append(tool_message(*self.environment._reply(turn)))
        return True


@dataclass
class Run:
    """All rollouts of one call: those that wait, and those that ended. `environment.rollout` tells what fields mean."""

    agent: Callable
    waiting: deque[tuple[int, str]]
    new_environment: Callable[[], Any]
    interface: Interface
    turns: int
    progress: Callable[[int], object] | None = None
    on_finished: Callable[[Trajectory], object] | None = None
    on_error: Callable[[str, Exception], bool] | None = None
    finished: dict[int, Trajectory] = field(default_factory=dict)

    def begin(self) -> list[Running]:
        """The rollout of the next photo; none if the photo can't be read and that is tolerated."""
        index, photo_id = self.waiting.popleft()
        environment = self.new_environment()
        try:
            blocks = environment.reset(photo_id=photo_id)
        except PhotoError as error:
            if self.tolerates(photo_id, error):
                return []
            raise
        return [Running(index, photo_id, environment, with_photo(initial_messages(self.interface), blocks))]

    def end(self, one: Running) -> None:
        """Make the record of a rollout that ended."""
        name = str(getattr(self.agent, "name", "") or type(self.agent).__name__)
        trajectory = one.environment._trajectory(one.texts, agent=name)
        if one.usage:
            trajectory.extra["usage"] = one.usage
        self.finished[one.index] = trajectory
        if self.on_finished is not None:
            self.on_finished(trajectory)
        if self.progress is not None:
            self.progress(1)

    def tolerates(self, photo_id: str, error: Exception) -> bool:
        """Whether to go on without a photo."""
        return self.on_error is not None and self.on_error(photo_id, error)


def run_all(run: Run, batch_size: int) -> list[Trajectory]:
    """The loop behind `environment.rollout`; at most `batch_size` rollouts at a time."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    count, concurrency = len(run.waiting), getattr(run.agent, "concurrency", 0)
    if concurrency:
        _side_by_side(run, min(batch_size, concurrency))
    else:
        _in_batches(run, batch_size)
    return [run.finished[index] for index in range(count) if index in run.finished]


def _in_batches(run: Run, size: int) -> None:
    active: list[Running] = []
    while run.waiting or active:
        while run.waiting and len(active) < size:
            active += run.begin()
        texts = ask(run.agent, active) if active else []
        running = [one for one, text in zip(active, texts, strict=True) if one.go_on(text, run.turns)]
        for one in active:
            if one not in running:
                run.end(one)
        active = running


def _side_by_side(run: Run, width: int) -> None:
    """Each conversation on its own. After a failure nothing more is asked, and answers under way are waited for."""
    pending: dict[Future, Running] = {}
    failure: Exception | None = None
    pool = ThreadPoolExecutor(width)
    try:
        while pending or (run.waiting and failure is None):
            try:
                while run.waiting and len(pending) < width and failure is None:
                    pending |= {pool.submit(ask, run.agent, [one]): one for one in run.begin()}
            except PhotoError as error:
                failure = error
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                one = pending.pop(future)
                try:
                    if not one.go_on(future.result()[0], run.turns):
                        run.end(one)
                    elif failure is None:
                        pending[pool.submit(ask, run.agent, [one])] = one
                except Exception as error:
                    failure = failure or (None if run.tolerates(one.photo_id, error) else error)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if failure is not None:
        raise failure


def ask(agent: Callable, active: Iterable[Running]) -> list[str]:
    """One text from the agent for each running rollout.

    Raises:
        ValueError: It returned another number of texts.
        TypeError: It returned something else than text.
    """
    active = list(active)
    conversations = [list(one.messages) for one in active]
    if hasattr(agent, "respond_for"):
        texts = agent.respond_for([one.photo_id for one in active], conversations)
    else:
        texts = agent(conversations)
    if isinstance(texts, str) or len(texts) != len(active):
        raise ValueError(f"the agent returned {len(texts)} texts for {len(active)} conversations; one each is due")
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"the agent returned {type(text).__name__} instead of text: {text!r:.80}")
    return list(texts)
