"""Stand-ins for the command line's tests: an agent, a world, photos with metadata, and a server for all services."""

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

from PIL import Image

from reverse_lib.photos import Photo
from reverse_lib.search import SearchAnswer, SearchResult, ServiceError

KEYS = {name: f"planted-{name}" for name in ("TAVILY_API_KEY", "SERPER_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY")}
GPS = (48.86, 2.35)
SECRETS = (b"Exif", b"secret-note", b"holiday", b"places.csv", b"2.35")  # metadata, names and the truth
CALL = '<think>A sign.</think>{}<tool_call>{{"name": "{}", "arguments": {}}}</tool_call>'
LOOKS = CALL.format("", "image_search_tool", '{"bbox_2d": [100, 100, 600, 600]}')
ASKS = CALL.format("{}", "text_search_tool", '{"query": "Rue Lepic Paris"}')
ANSWER = "<think>[1] Paris, France+++</think>{}<answer>France, Paris, 48.86, 2.35</answer>"


class Scripted:
    """An agent that makes the searches it may, by picture and then by text, trusts what the latter finds, and answers.

    `turns` is what it writes, one a turn, with room for labels; `asked` counts its turns.
    """

    name = "scripted"

    def __init__(self, tools, interface, turns=None):
        self.tools, self.interface, self.asked = tools, interface, 0
        self.turns = turns or [turn for turn in (LOOKS, ASKS) if any(f'"{tool}"' in turn for tool in tools)] + [ANSWER]

    def __call__(self, conversations):
        self.asked += len(conversations)
        return [self.turn(sum(message["role"] == "tool" for message in talk)) for talk in conversations]

    def turn(self, results):
        before = self.turns[results - 1] if results else ""
        trusted = "" if not results else "<useful>[1]</useful>" if "text_search" in before else "<useful>[]</useful>"
        return self.turns[min(results, len(self.turns) - 1)].replace("{}", trusted)


class TinyWorld:
    """Stands in for the miniature world: its photos are of Paris, its web is one page, or `down`."""

    down = False

    def __init__(self, seed=0, places=200):
        self.seed, self.live = seed, self

    def photos(self, split, n):
        if split != "test-new":
            raise ValueError(f"split {split!r} is unknown; use test-new")
        return [Photo(f"seed{self.seed}-{i}", SMALL, *GPS, "France", "Paris") for i in range(n)]

    def text(self, photo_id, query, call=0):
        if TinyWorld.down:
            raise ServiceError("text search: down")
        return SearchAnswer((SearchResult("Paris, France", "https://b.example", snippet="48.86"),), frozenset({1}))

    def image(self, photo_id, bbox_2d, call=0, crop=None):
        return None

    def evidence(self, photo_id):
        return []


def picture(kind="png", exif=None, size=(320, 240)) -> bytes:
    data = BytesIO()
    image = Image.effect_noise(size, 40)
    image.convert("RGB").save(data, kind, **({"exif": exif} if exif else {}))
    return data.getvalue()


SMALL = picture(size=(32, 24))


def tagged() -> bytes:
    """A JPEG with a position, and a description that can be searched for."""
    exif = Image.Exif()
    exif[0x010E] = "secret-note"
    exif[0x8825] = {1: "N", 2: (48.0, 51.0, 36.0), 3: "E", 4: (2.0, 21.0, 0.0)}
    data = picture("jpeg", exif)
    assert b"secret-note" in data and 0x8825 in Image.open(BytesIO(data)).getexif()
    return data


class Services:
    """A server that answers as Tavily, Google Vision and an OpenAI endpoint do, and keeps what it was sent."""

    def __init__(self):
        self.sent, self.status = [], 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.sent.append((self.path, dict(self.headers), body))
                data = json.dumps(outer.answer(self.path)).encode()
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, path):
        if path == "/search":
            return {"results": [{"title": "Rue Lepic", "url": "https://b.example/l", "content": "Paris"}]}
        if path == "/v1/images:annotate":
            return {"responses": [{"webDetection": {}}]}
        message = {"role": "assistant", "content": ANSWER.format("")}
        usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}

    def pictures(self) -> list[bytes]:
        """Every picture that came, decoded."""
        texts = [text for _, _, body in self.sent for text in re.findall(rb"[A-Za-z0-9+/]{400,}={0,2}", body)]
        return [base64.b64decode(text) for text in texts]


def check_sent(services, pictures):
    """Nothing of metadata, names or the truth was sent, in the clear or within a picture."""
    assert len(services.pictures()) == pictures
    for data in services.pictures():
        image = Image.open(BytesIO(data))
        assert not any(secret in data for secret in SECRETS) and not image.getexif()
        assert image.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    for _, _, body in services.sent:
        assert not any(secret in body for secret in (*SECRETS, b"a.jpg", b"b.jpg"))
