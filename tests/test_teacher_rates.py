"""The scripted teacher in numbers: how frequent each error is, what passes the filters, how fast it works."""

import re
import time
from collections import Counter

import pytest
from teacher_helpers import FAULTLESS, IMAGE, Searches, calls_of, informative, one_of

from reverse_lib.environment import rollout
from reverse_lib.search import SearchCache
from reverse_lib.trajectory import TOOLS, cited_indices, filter_trajectories
from reverse_lib.world import ScriptedTeacher
from reverse_lib.world.pages import states_position


@pytest.fixture(scope="module")
def photos(world):
    return world.photos("train", 400)


@pytest.fixture(scope="module")
def timed(world, photos):
    """What the teacher writes over the live engine, and the seconds of processor time that took."""
    world.live.image(photos[0].photo_id, [100, 100, 300, 200])  # opens the engine's index
    start = time.process_time()
    return rollout(ScriptedTeacher(world), photos, world.live), time.process_time() - start


@pytest.fixture
def trajectories(timed):
    return timed[0]


def has_text(photo):
    return informative(photo) is not None and bool(informative(photo).text)


def wide(box, truth) -> bool:
    area = (box[2] - box[0]) * (box[3] - box[1])
    return area > 1.4 * (truth[2] - truth[0]) * (truth[3] - truth[1])


SIGNS = {  # rate -> whether a trajectory on a photo with a readable region and a decoy shows that error
    "country_error": lambda t, p: p.place.country not in t.turns()[0].think,
    "overlooks": lambda t, p: re.search(one_of("nothing"), t.turns()[0].think),
    "gives_up": lambda t, p: len(t.steps) == 2,
    "vague_query": lambda t, p: t.steps[1].observation.arguments["query"].startswith(("sign ", "board ")),
    "bare_query": lambda t, p: t.steps[1].observation.arguments["query"] == p.place.name,
    "misreads": lambda t, p: t.turns()[1].think != f"It reads {informative(p).text}.",
    "decoy_box": lambda t, p: re.search(one_of("see", k="(jersey|poster|restaurant|mural)"), t.turns()[0].think),
    "sloppy_box": lambda t, p: wide(t.steps[0].observation.arguments["bbox_2d"], informative(p).bbox_2d),
    "image_first": lambda t, p: calls_of(t)[0].name == IMAGE,
    "double_checks": lambda t, p: any(re.search(one_of("check", i=r"\d"), turn.think) for turn in t.turns()),
}


@pytest.mark.parametrize("rate", SIGNS)
def test_each_rate_makes_its_own_error_in_its_share_of_photos_and_none_without_it(world, photos, rate):
    readable = [p for p in photos if has_text(p) and len(p.marks) > 1][:60]
    for share, low, high in [(0.0, 0, 0), (1.0, 57, 60), (0.3, 8, 29)]:
        teacher = ScriptedTeacher(world, seed=1, **{**FAULTLESS, rate: share})
        rows = rollout(teacher, readable, world.live if rate == "double_checks" else Searches())
        hits = sum(bool(SIGNS[rate](*pair)) for pair in zip(rows, readable, strict=True))
        assert low <= hits <= high, (rate, share, hits)


def lists_of(trajectories):
    """For each list that was judged: which results fit by country and name and state a position, which are trusted,
    and how many state a position."""
    for trajectory in trajectories:
        for step, turn in zip(trajectory.steps, trajectory.turns()[1:], strict=False):
            flags = re.findall(r"\[\d\] [^\[\]~+]+([~+])([~+])([~+])(?= )", turn.think)
            stated = [states_position(result["snippet"]) for result in step.observation.results]
            fits, trusted = [], []
            for (country, name, verdict), known in zip(flags, stated, strict=True):
                fits.append(country == name == "+" and known)
                trusted.append(verdict == "+")
                assert known or not trusted[-1]
            yield fits, trusted, sum(stated)


def test_wrong_verdicts_are_as_frequent_as_their_rate(world, photos):
    judged = list(lists_of(rollout(ScriptedTeacher(world, hasty=0.0), photos, world.live)))
    against = sum(a != b for fits, trusted, _ in judged for a, b in zip(fits, trusted, strict=True))
    stated = sum(n for _, _, n in judged)
    assert stated > 1000
    assert 0.018 <= against / stated <= 0.042  # 3 %


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.5, 0.4, 0.6), (1.0, 1, 1)])
def test_a_hasty_teacher_trusts_no_more_than_the_first_fitting_result(world, photos, share, low, high):
    rows = rollout(ScriptedTeacher(world, **{**FAULTLESS, "hasty": share}), photos, world.live)
    several = [(fits, trusted) for fits, trusted, _ in lists_of(rows) if sum(fits) > 1]
    for fits, trusted in several:
        first = [i == fits.index(True) for i in range(len(fits))]
        assert trusted in (fits, first)
    assert len(several) > 100
    assert low <= sum(fits != trusted for fits, trusted in several) / len(several) <= high


def test_between_60_and_75_percent_of_its_trajectories_pass_the_filters(trajectories):
    kept, counts = filter_trajectories(trajectories)
    assert 0.6 <= len(kept) / len(trajectories) <= 0.75, counts
    assert counts["answered"] == len(trajectories)


def test_it_makes_one_to_six_calls_where_it_searches_at_all(trajectories):
    calls = Counter(len(calls_of(trajectory)) for trajectory in trajectories)
    assert set(calls) == set(range(7)), calls
    assert max(calls.values()) < 0.5 * len(trajectories)


def test_its_words_are_short_and_cite_every_result_that_it_was_shown(trajectories):
    lengths = [len(turn.think) for trajectory in trajectories for turn in trajectory.turns()]
    assert max(lengths) < 450
    for trajectory in trajectories:
        for step, turn in zip(trajectory.steps, trajectory.turns()[1:], strict=False):
            shown = len(step.observation.results)
            assert cited_indices(turn.think, shown) == set(range(1, shown + 1))


def test_it_is_fast_enough_live_and_from_the_cache_where_the_same_searches_find_the_same(
    world, photos, timed, tmp_path
):
    live, seconds = timed
    with SearchCache.open(tmp_path / "cache", mode="w", shown=6) as cache, cache.batch():
        for trajectory in live:
            cache.record_trajectory(trajectory)
    with SearchCache.open(tmp_path / "cache", shown=6) as cache:
        start = time.process_time()
        again = rollout(ScriptedTeacher(world), photos, cache)
        cached_rate = len(photos) / (time.process_time() - start)
    live_rate = len(photos) / seconds
    assert live_rate > 10 and cached_rate > 60, (live_rate, cached_rate)
    assert sum(a.steps[0] == b.steps[0] for a, b in zip(live, again, strict=True)) > 0.5 * len(photos)
    statuses = Counter(step.observation.status for row in again for step in row.steps if step.observation)
    assert statuses["miss"] < 0.05 * statuses["ok"]  # another order shown may lead to a call that was never recorded


class Seeing:
    """The same teacher, shown every picture."""

    def __init__(self, teacher):
        self.name, self.respond_for = teacher.name, teacher.respond_for


def test_its_trajectories_are_the_same_with_and_without_pictures(world, photos):
    teacher = ScriptedTeacher(world)
    for tools, some in ((TOOLS, photos[:40]), (TOOLS[:1], photos[:8])):
        assert rollout(teacher, some, world.live, tools=tools) == rollout(
            Seeing(teacher), some, world.live, tools=tools
        )
