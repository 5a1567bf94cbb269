"""Letting an agent act in many environments at a time; `environment.rollout` is the way in.

Conversations go to the agent in batches. As soon as one ends the next photo takes its place, so that no batch waits for
its slowest member only. The order of the results is the order of the photos.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from reverse_lib.interface import Interface, assistant_message, initial_messages, tool_message, with_photo
from reverse_lib.trajectory import Trajectory, parse_turn


@dataclass(eq=False)
class Running:
    """A rollout under way: its place in the order, its world, its messages and what the agent wrote."""

    index: int
    photo_id: str
    environment: Any  # a GeoEnvironment
    messages: list[dict]
    texts: list[str] = field(default_factory=list)

    def go_on(self, text: str, turns: int) -> bool:
        """Take in a turn; True if another one is due."""
        self.texts.append(text)
        turn = parse_turn(text)
        if (turn.answer is not None and turn.tool_call is None) or len(self.texts) >= turns:
            return False
        if turn.tool_call is None and not self.environment._may_nudge():
            return False
        self.messages.append(assistant_message(text))
        self.messages.append(tool_message(*self.environment._reply(turn)))
        return True


def run_batched(
    agent: Callable,
    photo_ids: Sequence[str],
    new_environment: Callable[[], Any],
    interface: Interface,
    turns: int,
    batch_size: int,
    progress: Callable[[int], object] | None,
) -> list[Trajectory]:
    """The loop behind `environment.rollout`, whose docstring tells what the arguments mean."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    name = str(getattr(agent, "name", "") or type(agent).__name__)
    waiting = deque(enumerate(photo_ids))
    finished: dict[int, Trajectory] = {}
    active: list[Running] = []
    while waiting or active:
        while waiting and len(active) < batch_size:
            index, photo_id = waiting.popleft()
            environment = new_environment()
            messages = with_photo(initial_messages(interface), environment.reset(photo_id=photo_id))
            active.append(Running(index, photo_id, environment, messages))
        texts = ask(agent, active)
        running = [one for one, text in zip(active, texts, strict=True) if one.go_on(text, turns)]
        ended = [one for one in active if one not in running]
        finished.update({one.index: one.environment._trajectory(one.texts, agent=name) for one in ended})
        active = running
        if progress is not None and ended:
            progress(len(ended))
    return [finished[index] for index in range(len(photo_ids))]


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
