"""What a student learns from besides searches that ended well: answering at once, and stopping when nothing helps.

The filters keep trajectories that called a tool and ended near the truth. A student that has seen nothing else searches
whatever it sees, and when its own searches find nothing asks the same again and again. So three kinds of samples join
what was kept ("search"), each up to a share of what is saved (`profiles.AnnotationConfig`): answers without a call
where the photo tells no more than its country ("direct"), right countries though no search brought evidence ("vain"),
and right countries though every search failed ("failing"). The paper has none of them.
"""

import copy
from collections.abc import Callable, Iterable, Sequence

from reverse_lib.environment import Interface, rollout
from reverse_lib.photos import Photo
from reverse_lib.profiles import AnnotationConfig
from reverse_lib.search import Failing, SearchBackend, Withholding
from reverse_lib.trajectory import SEARCH_TOOLS, Trajectory, curriculum

_HARDSHIPS = {"vain": Withholding, "failing": Failing}
_TRIES = 4  # photos for each sample that is wanted: not every trajectory is fit for one


def sample_counts(kept: int, config: AnnotationConfig) -> dict[str, int]:
    """How many samples of each further kind make up their share of what is saved.

    Args:
        kept: Trajectories that the filters kept, which are the rest.
        config: Names the shares.
    """
    shares = {"direct": config.direct_share, "vain": config.vain_share, "failing": config.failing_share}
    rest = 1 - sum(shares.values())
    return {kind: round(kept * share / rest) for kind, share in shares.items()}


def answered_directly(trajectory: Trajectory) -> bool:
    """Whether it answered without a call, with the right country, where nothing in the photo tells more."""
    calls = bool(trajectory.observations)
    return not calls and not trajectory.regions and _names_the_country(trajectory)


def let_down(trajectory: Trajectory) -> bool:
    """Whether it searched, found nothing that it trusted, and names the right country all the same."""
    searched = any(step.observation and step.observation.tool in SEARCH_TOOLS for step in trajectory.steps)
    trusted = any(turn.useful for turn in trajectory.turns())
    return searched and not trusted and _names_the_country(trajectory)


def hard_luck(
    kind: str, wanted: int, teacher: Callable, photos: Sequence[Photo], search: SearchBackend, interface: Interface
) -> tuple[list[Trajectory], int]:
    """Lets a teacher work where its searches let it down.

    Args:
        kind: "vain": the evidence is taken from what searches bring; "failing": every search fails.
        wanted: Samples at most.
        teacher: An agent as `environment.rollout` takes it.
        photos: Its photos; four for each sample that is wanted are tried.
        search: What would have answered.
        interface: How things are shown.

    Returns:
        The samples, and how many trajectories they were chosen from.
    """
    tried = rollout(teacher, photos[: _TRIES * wanted], _HARDSHIPS[kind](search), interface=interface)
    return as_samples([trajectory for trajectory in tried if let_down(trajectory)][:wanted], kind), len(tried)


def as_samples(trajectories: Iterable[Trajectory], kind: str) -> list[Trajectory]:
    """Copies that say in `extra` which "sample" they are ("search", "direct", "vain", "failing") and how hard."""
    samples = [copy.copy(trajectory) for trajectory in trajectories]
    for sample in samples:
        sample.extra = sample.extra | {"difficulty": curriculum(sample), "sample": kind}
    return samples


def _names_the_country(trajectory: Trajectory) -> bool:
    return trajectory.answer is not None and trajectory.answer.country == trajectory.country
