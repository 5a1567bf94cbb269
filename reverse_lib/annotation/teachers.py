"""A teacher at work on photos: every finished trajectory is on disk at once, and nothing is asked or paid for twice.

The teacher is any agent: the scripted one of the miniature world, a checkpoint, or a `models.Endpoint`. What differs
from the paper's code: a run that was killed goes on where it was, and a service that fails stops the run with what is
done kept, rather than writing an answer that nobody gave.

    done = annotate(from_environment(), photos, search, "outputs/mine/annotations.jsonl")
    kept, funnel = filter_trajectories(without_nudges(row) for row in done.trajectories)
"""

import dataclasses
import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from reverse_lib.environment import TINY, UNREADABLE, AgentError, AgentRefused, Interface, Rollout, rollout
from reverse_lib.photos import Photo, PhotoError
from reverse_lib.profiles import TEACHER_BUDGETS
from reverse_lib.search import SearchBackend
from reverse_lib.trajectory import Journal, Trajectory


class AnnotationStopped(RuntimeError):
    """The run stopped before its end; what was done is kept, and the text says how to go on."""


@dataclass(frozen=True)
class Annotation:
    """What a teacher made of photos.

    Attributes:
        trajectories: In the order of the photos.
        left_out: Photos without a trajectory and why, by id: unreadable ones, and those that the endpoint refused. They
            are asked again the next time.
        resumed: Trajectories that an earlier run had made.
        set_aside: What was done about a line that a kill cut short; "" if there was none.
    """

    trajectories: list[Trajectory]
    left_out: dict[str, str] = field(default_factory=dict)
    resumed: int = 0
    set_aside: str = ""

    def usage(self) -> dict[str, float]:
        """Requests, tokens and cost of all trajectories, those of earlier runs too; empty for an agent without."""
        total: Counter = Counter()
        for trajectory in self.trajectories:
            total.update(trajectory.extra.get("usage", {}))
        return dict(total)


class _Keeper:
    """Writes what ends well, and says when too much in a row does not."""

    def __init__(self, journal: Journal, in_a_row: int, progress: Callable[[int], object]):
        self.journal, self.in_a_row, self.progress = journal, in_a_row, progress
        self.made: list[Trajectory] = []
        self.left_out: dict[str, str] = {}
        self.failures = 0

    def finished(self, trajectory: Trajectory, _run: Rollout) -> None:
        observations = trajectory.observations
        trajectory.extra["n_nudges"] = sum(observation.tool == UNREADABLE for observation in observations)
        self.journal.append(trajectory.to_dict())
        self.made.append(trajectory)
        self.progress(1)
        was_let_down = any(observation.status == "service_error" for observation in observations)
        self.failures = self.failures + 1 if was_let_down else 0
        if self.failures >= self.in_a_row:
            raise AnnotationStopped(f"the search service failed on {self.failures} photos in a row")

    def failed(self, photo_id: str, error: Exception) -> bool:
        if not isinstance(error, PhotoError | AgentRefused):
            return False
        self.left_out[photo_id] = str(error)
        self.failures += 1
        return self.failures < self.in_a_row


def annotate(
    teacher: Callable,
    photos: Sequence[Photo],
    search: SearchBackend,
    file: str | os.PathLike[str],
    interface: Interface | None = None,
    batch_size: int = 32,
    in_a_row: int = 5,
    progress: Callable[[int], object] = lambda n: None,
) -> Annotation:
    """Lets a teacher work on photos, within `profiles.TEACHER_BUDGETS`, and keeps each trajectory as soon as it ends.

    Args:
        teacher: An agent as `environment.rollout` takes it.
        photos: What to annotate; a photo given twice gets two trajectories.
        search: Answers the teacher's searches.
        file: A `.jsonl` file of trajectories. What it holds of these photos is not asked again; others stay in it.
        interface: How things are shown; None for the teacher's own, or TINY.
        batch_size: Conversations at a time.
        in_a_row: So many photos in a row that can't be read, are refused by the endpoint or let down by the search
            service stop the run.
        progress: Called with the number of trajectories that are there: first with the resumed ones, then one by one.

    Returns:
        The trajectories, and what is missing and why. `extra["n_nudges"]` of each counts its nudges.

    Raises:
        ValueError: The file belongs to another teacher or interface, or can't be read.
        AnnotationStopped: The endpoint failed, or too much in a row did; what is done is in the file.
    """
    interface = interface or getattr(teacher, "interface", TINY)
    journal = Journal(file)
    earlier = _earlier(journal, str(getattr(teacher, "name", "") or type(teacher).__name__), interface)
    waiting = [photo for photo, row in zip(photos, _by_photo(earlier, photos), strict=True) if row is None]
    resumed, keeper = len(photos) - len(waiting), _Keeper(journal, in_a_row, progress)
    progress(resumed)
    settings = dict(interface=interface, budgets=TEACHER_BUDGETS, batch_size=batch_size)
    try:
        rollout(teacher, waiting, search, **settings, on_finished=keeper.finished, on_error=keeper.failed)
    except (AgentError, PhotoError, AnnotationStopped) as error:
        raise AnnotationStopped(
            f"{error}. {resumed + len(keeper.made)} of {len(photos)} photos are done and kept in {journal.path}; "
            "when that is put right, run the same again: it goes on from there and asks nothing twice"
        ) from error
    rows = [row for row in _by_photo([*earlier, *keeper.made], photos) if row is not None]
    return Annotation(rows, keeper.left_out, resumed, journal.set_aside)


def without_nudges(trajectory: Trajectory) -> Trajectory:
    """The same rollout as if each turn had been readable at once, for a student to learn from.

    Turns that neither call nor answer are left out with what was said to them; `extra["n_nudges"]` keeps their number,
    so that `filter_trajectories` still sees it. A last turn that could not be read stays.
    """
    steps = [step for step in trajectory.steps if step.observation is None or step.observation.tool != UNREADABLE]
    return dataclasses.replace(trajectory, steps=steps, extra=dict(trajectory.extra))


def _earlier(journal: Journal, teacher: str, interface: Interface) -> list[Trajectory]:
    """The trajectories of earlier runs, all by this teacher and under this interface."""
    trajectories = []
    for number, row in enumerate(journal.rows, 1):
        try:
            trajectory = Trajectory.from_dict(row)
        except ValueError as error:
            raise ValueError(f"{journal.path}, row {number}: not a trajectory ({error}); name another file") from error
        for what, value, wanted in (
            ("teacher", trajectory.agent, teacher),
            ("interface", trajectory.extra.get("interface"), interface.name),
        ):
            if value != wanted:
                raise ValueError(
                    f"{journal.path}, row {number}: made with the {what} {value!r}, not {wanted!r}; "
                    f"give each {what} a file of its own"
                )
        trajectories.append(trajectory)
    return trajectories


def _by_photo(trajectories: Iterable[Trajectory], photos: Sequence[Photo]) -> list[Trajectory | None]:
    """For each photo the next of its trajectories; None where there is no more."""
    waiting: dict[str, deque[Trajectory]] = defaultdict(deque)
    for trajectory in trajectories:
        waiting[trajectory.photo_id].append(trajectory)
    return [waiting[photo.photo_id].popleft() if waiting[photo.photo_id] else None for photo in photos]
