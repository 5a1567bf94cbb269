"""Live services against a local server that answers in each service's documented shape, and misbehaves on demand."""

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
    GoogleVision,
    LiveSearch,
    SearchBackend,
    SearchCache,
    SearchResult,
    Serper,
    ServiceError,
    Tavily,
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
    assert len(tavily(server)("q")) == 2 and len(server.requests) == 2


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
