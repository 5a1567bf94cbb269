"""Live services against a local server that answers in their documented shapes, and services through the cache."""

import base64
import io
import json
import logging
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from reverse_lib.search import (
    BlockList,
    GoogleVision,
    LiveSearch,
    RecordedSearch,
    SearchAnswer,
    SearchBackend,
    SearchCache,
    SearchResult,
    Serper,
    ServiceError,
    Tavily,
    drift,
    training_search,
)

KEY = "planted-key-5f3a"
VARIABLES = ("TAVILY_API_KEY", "SERPER_API_KEY", "GOOGLE_API_KEY")
TAVILY = {
    "query": "Valencia Spain",
    "answer": None,
    "results": [
        {"title": "Valencia", "url": "https://guide.example/v", "content": "39.47, -0.38", "score": 0.9},
        {"title": "A photo", "url": "https://www.flickr.com/photos/1", "content": "", "score": 0.8},
    ],
    "response_time": 1.2,
}
SERPER = {
    "searchParameters": {"q": "Valencia Spain", "type": "search"},
    "organic": [{"title": "Valencia", "link": "https://guide.example/v", "snippet": "A city", "position": 1}],
}
VISION = {
    "responses": [
        {
            "webDetection": {
                "webEntities": [{"entityId": "/m/1", "score": 0.7, "description": "Lonja"}],
                "pagesWithMatchingImages": [
                    {
                        "url": "https://guide.example/l",
                        "pageTitle": "<b>La Lonja</b> de la Seda",
                        "partialMatchingImages": [{"url": "https://i.example/1.jpg"}],
                    }
                ],
                "bestGuessLabels": [{"label": "lonja"}],
            }
        }
    ]
}


class Server:
    """Answers each request with the next prepared (status, body); a body may be a function that writes itself."""

    def __init__(self):
        self.answers, self.requests = [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(
                    (self.path, {key.lower(): value for key, value in self.headers.items()}, body, time.monotonic())
                )
                status, answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                if callable(answer):
                    return answer(self)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "https://elsewhere.example/")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, KEY)
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


QUICK = {"wait_s": 0.01, "per_minute": 60_000, "timeout_s": 0.5}


def tavily(server, **limits):
    return Tavily(server.url, **QUICK | limits)


def cut(handler):
    """Promises more than it sends."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"results": [')
    handler.wfile.flush()
    handler.connection.close()


def slow(handler):
    time.sleep(1.0)


def picture():
    exif = Image.Exif()
    exif[0x010E] = "GPS secret of the owner"
    image = Image.new("RGB", (3000, 600), "teal")
    data = io.BytesIO()
    image.save(data, "JPEG", exif=exif)
    return Image.open(data)


def test_tavily_in_its_documented_shape(server):
    server.answers = [(200, TAVILY)]
    found = tavily(
        server,
    )("Valencia Spain")
    assert found[0] == SearchResult("Valencia", "https://guide.example/v", "", "39.47, -0.38")
    path, headers, body, _ = server.requests[0]
    assert path == "/search" and headers["authorization"] == f"Bearer {KEY}"
    assert body == {"query": "Valencia Spain", "max_results": 10, "search_depth": "basic"}


def test_serper_in_its_documented_shape(server):
    server.answers = [(200, SERPER)]
    found = Serper(server.url, max_results=5, **QUICK)("Valencia Spain")
    assert found == [SearchResult("Valencia", "https://guide.example/v", "", "A city")]
    path, headers, body, _ = server.requests[0]
    assert path == "/search" and headers["x-api-key"] == KEY and body == {"q": "Valencia Spain", "num": 5}


def test_vision_sends_the_pixels_alone_small_and_inline(server):
    server.answers = [(200, VISION)]
    found = GoogleVision(server.url, **QUICK)("secret-photo-id", [111, 222, 333, 444], picture())
    assert found == [SearchResult("La Lonja de la Seda", "https://guide.example/l")]
    path, headers, body, _ = server.requests[0]
    assert path == "/v1/images:annotate" and headers["x-goog-api-key"] == KEY
    (request,) = body["requests"]
    assert request["features"] == [{"type": "WEB_DETECTION", "maxResults": 10}]
    sent = base64.b64decode(request["image"]["content"])
    assert Image.open(io.BytesIO(sent)).size == (1024, 205) and b"secret" not in sent and b"Exif" not in sent
    assert "secret-photo-id" not in json.dumps(body) and "111" not in json.dumps(request["features"])


def test_two_services_are_a_backend_and_leaked_hosts_are_filtered(server):
    server.answers = [(200, TAVILY), (200, VISION), (200, {"results": []}), (200, {"responses": [{}]})]
    search = LiveSearch(tavily(server), GoogleVision(server.url, **QUICK), blocked_hosts=["other.example"])
    assert isinstance(search, SearchBackend) and search.evidence("p") == []
    answer = search.text("p", "Valencia Spain")
    assert [one.url for one in answer.results] == ["https://guide.example/v"] and not answer.labelled
    assert len(search.image("p", [0, 0, 9, 9], crop=picture()).results) == 1
    assert search.text("p", "nothing") is None and search.image("p", [0, 0, 9, 9], crop=picture()) is None
    assert LiveSearch().text("p", "anything") is None and len(server.requests) == 4


@pytest.mark.parametrize("first", [(429, {}), (500, b"oops"), (503, {}), (200, cut), (200, slow)])
def test_what_may_be_gone_in_a_moment_is_tried_again(server, first):
    server.answers = [first, (200, TAVILY)]
    assert len(tavily(server)("q")) == 2 and len(server.requests) >= 2


@pytest.mark.parametrize(
    ("answer", "calls", "message"),
    [
        ((429, {}), 3, "Tavily: HTTP 429"),
        ((200, cut), 3, "Tavily: no answer"),
        ((401, {"detail": KEY}), 1, "Tavily: HTTP 401; check key"),
        ((302, {}), 1, "Tavily: HTTP 302"),
        ((200, b"<html>"), 1, "Tavily: the answer is no JSON object"),
        ((200, []), 1, "Tavily: the answer is no JSON object"),
        ((200, {"results": "none"}), 1, "'results' of the answer is no list"),
        ((200, {"results": [1]}), 1, "'results' of the answer is no list"),
        ((200, b'{"results": []}' + b" " * 6_000_000), 1, "longer than 5,000,000 bytes"),
    ],
)
def test_a_failure_is_a_service_error_and_never_a_miss(server, answer, calls, message):
    server.answers = [answer]
    search = LiveSearch(tavily(server, attempts=3))
    with pytest.raises(ServiceError, match=message):
        search.text("p", "q")
    assert len(server.requests) == calls


def test_a_picture_the_service_cannot_read_is_a_service_error(server):
    server.answers = [(200, {"responses": [{"error": {"code": 3, "message": "Bad image data."}}]})]
    with pytest.raises(ServiceError, match="reports an error for this picture"):
        GoogleVision(server.url, **QUICK)("p", [0, 0, 9, 9], picture())
    with pytest.raises(ValueError, match="needs the cut-out"):
        GoogleVision(server.url, **QUICK)("p", [0, 0, 9, 9], None)


def test_calls_a_minute_are_limited_also_between_threads(server):
    server.answers = [(200, TAVILY)]
    search = tavily(server, per_minute=600)
    threads = [threading.Thread(target=search, args=("q",)) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    times = sorted(request[3] for request in server.requests)
    assert len(times) == 4 and times[-1] - times[0] > 0.27  # three pauses of 0.1 s


def test_no_key_no_service_and_no_file_address(server, monkeypatch):
    monkeypatch.setenv("TAVILY_API_KEY", " ")
    with pytest.raises(ValueError, match="Tavily: no key; set the environment variable TAVILY_API_KEY"):
        tavily(server)
    with pytest.raises(ValueError, match="no http"):
        GoogleVision("file:///etc/passwd")


def test_the_key_is_in_nothing_that_is_written(server, caplog, tmp_path, capfd):
    caplog.set_level(logging.DEBUG)
    server.answers = [(200, TAVILY), (401, {"detail": KEY}), (200, cut)]
    search = tavily(server, attempts=2)
    written = [repr(search), str(vars(search)), str(search._http.headers)]
    found = LiveSearch(search).text("p", "Valencia Spain")
    with SearchCache.open(tmp_path / "cache", mode="w") as cache:
        cache.record_text("p", "Valencia Spain", found.results)
    for _ in range(2):
        try:
            search("q")
        except ServiceError as error:
            written += ["".join(traceback.format_exception(error)), repr(error.__context__), repr(error.__cause__)]
    written += [caplog.text, *capfd.readouterr()]
    files = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) == 12 and not any(KEY in text for text in written)
    assert files and not any(KEY.encode() in data for data in files)


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
