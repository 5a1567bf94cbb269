"""A service through the cache: what is asked, what is kept, what is told apart, and how far the two drift."""

import time

import pytest

from reverse_lib.search import (
    BlockList,
    RecordedSearch,
    SearchAnswer,
    SearchBackend,
    SearchCache,
    SearchResult,
    ServiceError,
    drift,
    training_search,
)

BOX, DAY_S = [100, 200, 300, 400], 86_400


def page(name, useful=None):
    return SearchResult(name, f"https://{name}.example", "", "", useful)


class Live:
    """A service whose pages can be set, and which counts what it is asked."""

    def __init__(self, *pages, useful=(), labelled=False):
        self.pages, self.useful, self.labelled, self.asked, self.down = pages, useful, labelled, [], False

    def _answer(self, *asked):
        self.asked.append(asked)
        if self.down:
            raise ServiceError("down")
        return SearchAnswer(self.pages, frozenset(self.useful), labelled=self.labelled) if self.pages else None

    def text(self, photo_id, query, call=0):
        return self._answer(photo_id, query)

    def image(self, photo_id, bbox_2d, call=0, crop=None):
        return self._answer(photo_id, tuple(bbox_2d), crop)

    def evidence(self, photo_id):
        return ["https://known.example"]


@pytest.fixture
def cache(tmp_path):
    with SearchCache.open(tmp_path / "cache", mode="w") as made:
        yield made


def test_a_call_is_asked_once_and_then_answered_from_disk(cache):
    live = Live(page("a"), page("b"), useful={2}, labelled=True)
    search = RecordedSearch(cache, live, backend="tavily")
    assert isinstance(search, SearchBackend)
    first, again = search.text("p", "Valencia Spain"), search.text("p", "valencia, SPAIN")
    assert first == search.text("p", "Valencia Spain") and len(live.asked) == 1
    assert {r.url: r.useful for r in again.results} == {"https://a.example": False, "https://b.example": True}
    search.image("p", BOX, crop="pixels")
    search.image("p", [102, 200, 300, 400], crop="pixels")
    assert live.asked[1:] == [("p", tuple(BOX), "pixels")]
    assert search.evidence("p") == ["https://b.example", "https://known.example"]


def test_who_answered_and_when_stands_beside_each_record(cache):
    before = time.time()
    RecordedSearch(cache, Live(page("a")), backend="serper").text("p", "Vigo")
    cache.record_text("p", "by hand", [], time=12.5)
    origins = {call.arguments: (call.backend, call.time) for call in cache.calls()}
    assert origins["by hand"] == ("", 12.5)
    assert origins["Vigo"][0] == "serper" and before <= origins["Vigo"][1] <= time.time()


def test_offline_never_asks(cache):
    cache.record_text("p", "Vigo", [page("a")])
    live = Live(page("b"))
    search = RecordedSearch(cache, live, mode="offline")
    assert search.text("p", "Vigo").results[0].url == "https://a.example"
    assert search.text("p", "unknown") is None and search.image("p", BOX) is None
    assert live.asked == [] and search.reads_pixels is False
    assert RecordedSearch(cache, None, mode="offline").evidence("p") == []


def test_refresh_always_asks_and_replaces(cache):
    cache.record_text("p", "Vigo", [page("old", True)])
    search = RecordedSearch(cache, Live(page("new")), mode="refresh", backend="x")
    assert search.text("p", "Vigo").results[0].url == "https://new.example"
    (call,) = cache.calls()
    assert [r.url for r in call.results] == ["https://new.example"] and call.backend == "x"


def test_a_record_that_is_too_old_is_asked_again(tmp_path):
    live = Live(page("new"))
    with SearchCache.open(tmp_path / "c", mode="w", max_age_days=30) as cache:
        cache.record_text("p", "old query", [page("old")], time=time.time() - 31 * DAY_S)
        cache.record_text("p", "young", [page("young")], time=time.time() - 29 * DAY_S)
        assert cache.text("p", "old query") is None and cache.text("p", "young") is not None
        search = RecordedSearch(cache, live)
        fresh = {result.url for result in search.text("p", "old query").results}
        assert "https://new.example" in fresh and search.text("p", "young") is not None
        assert len(live.asked) == 1 and cache.text("p", "old query") is not None


def test_nothing_found_is_kept_as_an_answer_and_a_failure_is_not(cache):
    live = Live()
    search = RecordedSearch(cache, live)
    assert search.text("p", "nothing").results == ()
    live.down = True
    assert search.text("p", "nothing").results == ()
    with pytest.raises(ServiceError):
        search.text("p", "else")
    assert [call.arguments for call in cache.calls()] == ["nothing"]


def test_modes_that_cannot_work_are_refused(tmp_path, cache):
    with pytest.raises(ValueError, match="mode 'live': choose one of offline, record, refresh"):
        RecordedSearch(cache, Live(), mode="live")
    with pytest.raises(ValueError, match="needs a live service"):
        RecordedSearch(cache, None)
    cache.record_text("p", "q", [])
    with SearchCache.open(tmp_path / "cache") as reading, pytest.raises(ValueError, match="mode='w'"):
        RecordedSearch(reading, Live(), mode="refresh")


def test_drift_counts_changed_addresses_and_lost_evidence(cache):
    cache.record_text("p", "Vigo", [page("a", True), page("b", False), page("c", True)], backend="x", time=5.0)
    cache.record_image("p", BOX, [page("a", True)])
    cache.record_text("p", "same", [page("a"), page("d")])
    found = drift(cache.calls(), Live(page("a"), page("d")), crop_of=lambda photo_id, box: (photo_id, box[0]))
    by = found.set_index("asked")
    assert by.loc["Vigo", ["cached", "live", "changed", "useful", "lost"]].tolist() == [3, 2, 3 / 4, 2, 1]
    assert by.loc["Vigo", ["backend", "time", "tool"]].tolist() == ["x", 5.0, "text_search_tool"]
    assert by.loc["same", "changed"] == 0 and by.loc["same", "useful"] == 0
    assert by.loc[str([float(v) for v in BOX]), ["changed", "lost"]].tolist() == [0.5, 0]
    assert list(drift([], Live())) == list(found)


def test_leaked_pages_count_on_neither_side(cache):
    cache.record_text("p", "Vigo", [page("a")])
    live = Live(page("a"), SearchResult("x", "https://flickr.com/1"), SearchResult("y", "https://mine.example/2"))
    assert drift(cache.calls(), live)["changed"].item() == 0.5
    assert drift(cache.calls(), live, blocked=BlockList.extended(["mine.example"]))["changed"].item() == 0


def test_the_miniature_web_does_not_drift_from_itself(world, cache):
    photo = world.photos("train", 1)[0]
    RecordedSearch(cache, world.live, backend="miniature web").text(photo.photo_id, photo.place.name)
    found = drift(cache.calls(), world.live)
    assert found["changed"].tolist() == [0.0] and found["lost"].tolist() == [0]


def test_training_offline_uses_the_recorded_cache_alone(tmp_path, cache):
    cache.record_text("p", "Vigo Spain", [page("a")])
    live = Live(page("b"))
    opened, search = training_search("offline", cache.path, tmp_path, live, shown=6)
    with opened:
        assert search.text("p", "Vigo").match == 0.5 and search.text("p", "Lugo") is None and live.asked == []


def test_training_in_record_mode_asks_for_what_nobody_asked_before_and_leaves_the_recorded_cache_alone(tmp_path, cache):
    cache.record_text("p", "Vigo Spain", [page("a")])
    live = Live(page("b"))
    for _ in range(2):  # a second run starts from what was recorded again
        opened, search = training_search("record", cache.path, tmp_path / "run", live, shown=6, backend="web")
        with opened:
            assert search.text("p", "vigo, spain").results[0].url == "https://a.example"
            assert [search.text("p", "Vigo").results[0].url for _ in range(2)] == ["https://b.example"] * 2
            assert {call.backend for call in opened.calls()} == {"", "web"}
    assert len(live.asked) == 2 and [call.arguments for call in cache.calls()] == ["Vigo Spain"]


def test_another_mode_of_training_is_refused(tmp_path, cache):
    with pytest.raises(ValueError, match="search='live': choose 'offline' or 'record'"):
        training_search("live", cache.path, tmp_path, Live(), shown=6)
