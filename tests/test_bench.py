"""The benchmark, in small: both sides give the same answers, and its tables hold finite numbers."""

import json
import math

import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from reverse_lib import scale
from reverse_lib.__main__ import main
from reverse_lib.geo import box_iou
from reverse_lib.scale import bench
from reverse_lib.search import IMAGE, BlockList, SearchCache, SearchResult, filter_results
from reverse_lib.search import results as search

TINY = bench.Workload(photos=40, lookups=25, repeats=1)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The cache and the obvious way with the same searches, the latter through its tables and a pickle."""
    root = tmp_path_factory.mktemp("bench")
    with SearchCache.open(root / "cache", mode="w") as cache:
        with cache.batch():
            for call in (call for photo in range(40) for call in bench.recorded(photo)):
                record = cache.record_image if call.tool == IMAGE else cache.record_text
                record(call.photo_id, call.arguments, call.results)
        bench.ObviousCache.from_parquet(*bench.write_tables(root, TINY)).save(root / "obvious.pickle")
        yield cache, bench.ObviousCache.open(root / "obvious.pickle")


def told(answer):
    return answer and (set(answer.results), {answer.results[place - 1] for place in answer.useful}, answer.match)


def test_both_sides_give_the_same_answers(both):
    cache, obvious = both
    answers = []
    for call in (call for photo in range(40) for call in bench.recorded(photo)):
        for asks in (call.arguments, bench.asked(call)):
            name = "image" if call.tool == IMAGE else "text"
            ours = getattr(cache, name)(call.photo_id, asks)
            assert told(ours) == told(getattr(obvious, name)(call.photo_id, asks)) and set(ours.results) == set(
                call.results
            )
            answers.append(ours.match)
    assert answers[::2] == [1.0] * 160 and all(0.7 < match < 1 for match in answers[1::2])
    assert (
        told(cache.text("part00/00000001.jpg", "nothing"))
        is told(obvious.text("part00/00000001.jpg", "nothing"))
        is None
    )
    assert obvious.image("part00/00000001.jpg", [900, 900, 1000, 1000]) is None and obvious.text("x", "y") is None


def test_the_searches_are_what_the_workload_says():
    calls = [call for photo in range(3) for call in bench.recorded(photo)]
    assert len(calls) == 3 * bench.CALLS_A_PHOTO and bench.RESULTS_A_PHOTO == 36
    results = [result for call in calls for result in call.results]
    assert len({result.url for result in results}) == len(results) == 108
    assert all(result.useful is not None for result in results)
    assert bench.recorded(1) == bench.recorded(1) != bench.recorded(1, seed=1)
    for call in calls[:2]:
        assert 0.9 < box_iou(call.arguments, bench.asked(call)) < 1


def test_the_comparison_has_a_finite_number_in_every_place():
    table = bench.compare_caches(TINY)
    assert list(table.columns) == ["cache", "obvious", "ratio", "goal", "met"] and len(table) == 7
    assert all(math.isfinite(value) and value >= 0 for value in table["cache"])
    assert all(math.isfinite(value) and value > 0 for value in table.loc[table["goal"] != "", "obvious"])
    timed = table[table.index.str.contains("second|opening|file")]
    assert (timed[["cache", "obvious", "ratio"]].to_numpy() > 0).all()


def test_the_scale_and_the_command_print_every_size(monkeypatch):
    table = bench.grow_caches([36, 40], TINY)
    assert table["results"].tolist() == [36, 72]
    assert (table[["open_ms", "image_per_s", "text_per_s", "recorded_per_s", "file_mb"]].to_numpy() > 0).all()
    monkeypatch.setattr(scale, "grow_caches", lambda sizes, work, progress: table.assign(results=list(sizes)))
    monkeypatch.setattr(
        scale, "compare_caches", lambda work, progress: bench._judged([("opening, ms", 1.0, work.photos, "20 x")])
    )
    runner = CliRunner()
    found = json.loads(runner.invoke(main, ["bench", "--json", "--photos", "20", "--results", "100000"]).stdout)
    assert [row["results"] for row in found["scale"]] == [10_000, 100_000]
    assert found["compared"] == [
        {"measure": "opening, ms", "cache": 1.0, "obvious": 20, "ratio": 20.0, "goal": "20 x", "met": True}
    ]
    shown = runner.invoke(main, ["bench", "--photos", "19", "--results", "100000"], terminal_width=200).stdout
    assert "opening, ms" in shown and "19.00" in shown and " no " in shown and "100,000" in shown


def test_a_side_is_judged_by_its_goal():
    rows = [("opening, ms", 19.0, 950.0, "50 x, < 20 ms"), ("opening, ms", 21.0, 5000.0, "50 x, < 20 ms"),
            ("look-ups a second", 9.0, 10.0, "1 x"), ("recorded a second", 20_000, 1.0, "20,000"),
            ("file, MB", 1, 2, "")]  # fmt: skip
    assert bench._judged(rows)["met"].tolist() == [True, False, False, True, None]


def test_nothing_to_measure_is_refused_by_name():
    with pytest.raises(ValueError, match="repeats=0: nothing to measure; give at least 1"):
        bench.Workload(repeats=0)


def slowly_normalised(text):
    text = "".join(char for char in text if char not in search._APOSTROPHES)
    text = search._fold(search._fold(text))
    return " ".join("".join(map(search._query_char, text)).split())


@given(st.text(st.characters(max_codepoint=127), max_size=40))
def test_ascii_queries_are_normalised_the_quick_way_as_the_slow_way(text):
    assert search.normalise_query(text) == slowly_normalised(text)


PIECES = ["flickr.com", "Flickr", "flic", ".kr", "%6b", "\\", "/", "//", "https:", "www.", " ", "\t", "mine.example",
          "mine", ".example", "ｆlickr", "。", "a", "@", ":80", "?u=", "fluidr.com", "\u200b"]  # fmt: skip
ADDRESSES = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)


@example([SearchResult("t", "https://flic%6br.com/1")])
@example([SearchResult("t", "https://fluidr\u200b.com/1")])
@example([SearchResult("t", "https:\\\\mine.example")])
@example([SearchResult("t", "https://mine .example/1"), SearchResult("t", "", " FLICKR ")])
@given(st.lists(st.builds(SearchResult, st.just("t"), ADDRESSES, ADDRESSES), max_size=4))
def test_what_is_cleared_at_one_glance_holds_nothing_listed(results):
    blocked = BlockList.extended(["mine.example"])
    assert filter_results(results, blocked) == [result for result in results if not blocked.blocks(result)]
    ordinary = SearchResult("t", "https://guide.example/a b", "Guide to Towns")
    assert blocked.clears([ordinary]) and not blocked.clears([ordinary, SearchResult("t", "https://flickr.com/1")])


def test_what_older_lists_let_pass_is_looked_at_again_after_it_was_added_to(tmp_path):
    leaked, fine = SearchResult("l", "https://bad.example/1"), SearchResult("f", "https://good.example/1")
    with SearchCache.open(tmp_path / "c", mode="w") as cache:
        cache.record_text("p", "q", [leaked])
    with SearchCache.open(tmp_path / "c", mode="w", blocked_hosts=["bad.example"]) as cache:
        cache.record_text("p", "q", [fine])
        assert cache.text("p", "q").results == (fine,)
    with SearchCache.open(tmp_path / "c") as cache:
        assert set(cache.text("p", "q").results) == {fine, leaked}
