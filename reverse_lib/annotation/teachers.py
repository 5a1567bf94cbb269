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
from dataclasses import dataclass

from reverse_lib.environment import TINY, UNREADABLE, AgentError, AgentRefused, Interface, rollout
from reverse_lib.photos import Photo, PhotoError
from reverse_lib.profiles import FAILURES_IN_A_ROW, TEACHER_BUDGETS
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
        resumed: How many of the trajectories an earlier run had made.
    """

    trajectories: list[Trajectory]
    left_out: dict[str, str]
    resumed: int

    def usage(self) -> dict[str, float]:
        """Requests, tokens and cost of all trajectories, those of earlier runs too; empty for an agent without."""
        total: Counter = Counter()
        for trajectory in self.trajectories:
            total.update(trajectory.extra.get("usage", {}))
        return dict(total)


def annotate(
    teacher: Callable,
    photos: Sequence[Photo],
    search: SearchBackend,
    file: str | os.PathLike[str],
    interface: Interface | None = None,
    progress: Callable[[int], object] = lambda n: None,
) -> Annotation:
    """Lets a teacher work on photos, within `profiles.TEACHER_BUDGETS`, and keeps each trajectory as soon as it ends.

    Args:
        teacher: An agent as `environment.rollout` takes it.
        photos: What to annotate; a photo given twice gets two trajectories.
        search: Answers the teacher's searches.
        file: A `.jsonl` file of trajectories. What it holds of these photos is not asked again; others stay in it.
        interface: How things are shown; None for the teacher's own, or TINY.
        progress: Called with the number of trajectories that are there: first with the resumed ones, then one by one.

    Returns:
        The trajectories, and what is missing and why. `extra["n_nudges"]` of each counts its nudges.

    Raises:
        ValueError: The file belongs to another teacher or interface, or can't be read.
        AnnotationStopped: The endpoint failed, or photo after photo could not be read, was refused by the endpoint or
            let down by the search service (`profiles.FAILURES_IN_A_ROW`); what is done is in the file.
    """
    interface = interface or getattr(teacher, "interface", TINY)
    journal = Journal(file)
    earlier = _earlier(journal, str(getattr(teacher, "name", "") or type(teacher).__name__), interface)
    waiting = [photo for photo, row in zip(photos, _by_photo(earlier, photos), strict=True) if row is None]
    resumed = len(photos) - len(waiting)
    progress(resumed)
    finished: list[Trajectory] = []
    left_out: dict[str, str] = {}
    failures = 0  # in a row

    def keep(trajectory: Trajectory, _) -> None:
        nonlocal failures
        trajectory.extra["n_nudges"] = sum(observation.tool == UNREADABLE for observation in trajectory.observations)
        journal.append(trajectory.to_dict())
        finished.append(trajectory)
        progress(1)
        failures = failures + 1 if trajectory.service_failed else 0
        if failures >= FAILURES_IN_A_ROW:
            raise AnnotationStopped(f"the search service failed on {failures} photos in a row")

    def leave_out(photo_id: str, error: Exception) -> bool:
        nonlocal failures
        if not isinstance(error, PhotoError | AgentRefused):
            return False
        left_out[photo_id] = str(error)
        failures += 1
        return failures < FAILURES_IN_A_ROW

    try:
        rollout(teacher, waiting, search, interface, TEACHER_BUDGETS, on_finished=keep, on_error=leave_out)
    except (AgentError, PhotoError, AnnotationStopped) as error:
        raise AnnotationStopped(
            f"{error}. {resumed + len(finished)} of {len(photos)} photos are done and kept in {journal.path}; "
            "when that is put right, run the same again: it goes on from there and asks nothing twice"
        ) from error
    rows = [row for row in _by_photo([*earlier, *finished], photos) if row is not None]
    return Annotation(rows, left_out, resumed)


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
