"""An OpenAI-compatible chat server on this machine, which says what a test tells it to and misbehaves on demand."""

import io
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

from reverse_lib.photos import Photo

KEY = "planted-key-7c2e"
_CALL = re.compile(r'(.*)<tool_call>\{"name": "(\w+)", "arguments": (.*)\}</tool_call>', re.DOTALL)


def say(content, calls=(), finish="stop", tokens=(100, 20), **message):
    """A reply in the documented shape; `calls` are names with arguments as text."""
    functions = [{"name": name, "arguments": arguments} for name, arguments in calls]
    if functions:
        message["tool_calls"] = [{"id": f"c{i}", "type": "function", "function": f} for i, f in enumerate(functions)]
    message = {"role": "assistant", "content": content, **message}
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "fake", "usage": usage}
    return head | {"choices": [{"index": 0, "finish_reason": finish, "message": message}]}


def natively(text):
    """A turn of our grammar as a service with tool calls would give it."""
    match = _CALL.fullmatch(text)
    return say(match[1], [(match[2], match[3])], "tool_calls") if match else say(text)


def status(number, message="no", headers=()):
    """An error reply."""
    return raw(json.dumps({"error": {"message": message}}).encode(), number=number, headers=headers)


def raw(data, kind="application/json", promised=None, number=200, headers=()):
    """Bytes as they are; `promised` bytes are announced, which may be more than come."""

    def send(handler, body):
        handler.send_response(number)
        usual = {"Content-Type": kind, "Content-Length": promised or len(data), "Connection": "close"}
        for name, value in (usual | dict(headers)).items():
            handler.send_header(name, str(value))
        handler.end_headers()
        handler.wfile.write(data)

    return send


def events(*chunks, done=True):
    """A streamed reply of these chunks; without `done` it just ends."""
    lines = "".join(f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n\n" for chunk in chunks)
    return raw((lines + "data: [DONE]\n\n" * done).encode(), "text/event-stream")


def streamed(reply):
    """The chunks of a reply: its text letter by letter, its calls in halves, its usage at the end."""
    choice = reply["choices"][0]
    deltas = [{"content": letter} for letter in choice["message"]["content"] or ""]
    for i, call in enumerate(choice["message"].get("tool_calls", ())):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        half = len(arguments) // 2
        for function in ({"name": name, "arguments": arguments[:half]}, {"arguments": arguments[half:]}):
            deltas.append({"tool_calls": [{"index": i, "function": function}]})
    chunks = [{"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]}
    return [*chunks, end, {"choices": [], "usage": reply["usage"]}]


class FakeEndpoint:
    """A server whose `answer`, a function of the request's body, gives each reply: a dict, or one of the above.

    `queue` goes first: replies for the next requests, whatever they ask.
    """

    def __init__(self, answer=None):
        self.answer, self.queue = answer or (lambda body: say("Hm.")), []
        self.bodies, self.headers, self.asked = [], [], Counter()
        self.in_flight = self.most_in_flight = 0
        self.released = threading.Event()  # lets slow replies go, at the end of a test
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.bodies.append(body)
                    outer.headers.append({"path": self.path} | {k.lower(): v for k, v in self.headers.items()})
                    outer.asked[picture_of(body)] += 1
                    outer.in_flight += 1
                    outer.most_in_flight = max(outer.most_in_flight, outer.in_flight)
                    reply = outer.queue.pop(0) if outer.queue else None
                try:
                    reply = outer.answer(body) if reply is None else reply
                finally:
                    with lock:
                        outer.in_flight -= 1
                if isinstance(reply, dict):
                    chunks = streamed(reply) if body.get("stream") else None
                    reply = events(*chunks) if chunks else raw(json.dumps(reply).encode())
                reply(self, body)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):  # a client that went away
                pass

        self.http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def slow(self, handler, body):
        """A reply that does not come before the test ends."""
        self.released.wait(10)

    def close(self):
        self.released.set()
        self.http.shutdown()
        self.http.server_close()


def turn_of(body):
    """How many turns the model has written in a conversation."""
    return sum(message["role"] == "assistant" for message in body["messages"])


def picture_of(body):
    """The photo of a conversation, as sent; "" if there is none."""
    content = body["messages"][1]["content"] if len(body["messages"]) > 1 else ""
    urls = [block["image_url"]["url"] for block in content if isinstance(block, dict) and "image_url" in block]
    return urls[0] if urls else ""


def coloured(number):
    """A photo that differs from that of another number."""
    data = io.BytesIO()
    Image.new("RGB", (64, 48), (number % 256, 7 * number % 256, 99)).save(data, "PNG")
    return Photo(f"p{number}", data.getvalue(), lat=39.47, lon=-0.38, country="Spain", city="Valencia")
