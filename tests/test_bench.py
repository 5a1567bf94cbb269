"""The benchmark, in small: both sides give the same answers, and its tables hold finite numbers."""

import json
import math

import pytest
from click.testing import CliRunner

from reverse_lib import scale
from reverse_lib.__main__ import main
from reverse_lib.scale import bench
from reverse_lib.search import IMAGE, SearchCache

TINY = bench.Workload(photos=40, lookups=25, repeats=1)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The cache and the obvious way with the same searches."""
    calls = [call for photo in range(TINY.photos) for call in bench.recorded(photo)]
    with SearchCache.open(tmp_path_factory.mktemp("bench"), mode="w") as cache:
        with cache.batch():
            for call in calls:
                record = cache.record_image if call.tool == IMAGE else cache.record_text
                record(call.photo_id, call.arguments, call.results)
        yield cache, bench.ObviousCache(calls)


def content(answer):
    return answer and (set(answer.results), {answer.results[place - 1] for place in answer.useful}, answer.match)


def test_both_sides_give_the_same_answers(both):
    cache, obvious = both
    matches = []
    for call in (call for photo in range(40) for call in bench.recorded(photo)):
        for arguments in (call.arguments, bench.asked(call)):
            name = "image" if call.tool == IMAGE else "text"
            ours, theirs = (getattr(side, name)(call.photo_id, arguments) for side in both)
            assert content(ours) == content(theirs) and set(ours.results) == set(call.results)
            matches.append(ours.match)
    assert matches[::2] == [1.0] * 160 and all(0.7 < match < 1 for match in matches[1::2])
    assert cache.text("part00/00000001.jpg", "nothing") is obvious.text("part00/00000001.jpg", "nothing") is None
    assert obvious.image("part00/00000001.jpg", [900, 900, 1000, 1000]) is None and obvious.text("x", "y") is None


def test_the_searches_are_what_the_workload_says():
    calls = [call for photo in range(3) for call in bench.recorded(photo)]
    results = [result for call in calls for result in call.results]
    assert len({result.url for result in results}) == len(results) == 3 * bench.RESULTS_A_PHOTO == 108
    assert all(result.useful is not None for result in results)
    assert list(bench.recorded(1)) == list(bench.recorded(1)) != list(bench.recorded(1, seed=1))


def test_the_comparison_has_a_finite_number_in_every_place():
    table = bench.compare_caches(TINY)
    assert list(table.columns) == ["cache", "obvious", "ratio", "goal", "met"] and len(table) == 7
    numbers = table[table.index.str.contains("second|opening|file")][["cache", "obvious", "ratio"]].to_numpy()
    assert (numbers > 0).all() and (numbers < math.inf).all()


def test_the_scale_and_the_command_print_every_size(monkeypatch):
    table = bench.grow_caches([36, 40], TINY)
    assert table["results"].tolist() == [36, 72]
    assert (table[["open_ms", "image_per_s", "text_per_s", "recorded_per_s", "file_mb"]].to_numpy() > 0).all()
    monkeypatch.setattr(scale, "grow_caches", lambda sizes, work, progress: table.assign(results=list(sizes)))
    monkeypatch.setattr(
        scale, "compare_caches", lambda work, progress: bench._judged([("opening, ms", 1.0, work.photos, "20 x")])
    )
    runner = CliRunner()
    printed = json.loads(runner.invoke(main, ["bench", "--json", "--photos", "20", "--results", "100000"]).stdout)
    assert [row["results"] for row in printed["scale"]] == [10_000, 100_000]
    assert printed["compared"] == [
        {"measure": "opening, ms", "cache": 1.0, "obvious": 20, "ratio": 20.0, "goal": "20 x", "met": True}
    ]
    shown = runner.invoke(main, ["bench", "--photos", "19", "--results", "100000"], terminal_width=200).stdout
    assert "opening, ms" in shown and "19.00" in shown and " no " in shown and "100,000" in shown


def test_a_side_is_judged_by_its_goal():
    rows = [("opening, ms", 19.0, 950.0, "50 x, < 20 ms"), ("opening, ms", 21.0, 5000.0, "50 x, < 20 ms"),
            ("look-ups a second", 19_000.0, 10.0, "20,000"), ("recorded a second", 20_000, 1.0, "20,000"),
            ("file, MB", 1, 2, "")]  # fmt: skip
    assert bench._judged(rows)["met"].tolist() == [True, False, False, True, None]
