"""A chat server as an agent: the same rollouts as a local agent, limits kept, and failures that stay failures."""

import base64
import io
import json
import logging
import threading
import time
import traceback

import pytest
from environment_fakes import ANSWER, IMAGE, TEXT, ZOOM, FakeSearch, Scripted, call_text, photo
from fake_endpoint import KEY, coloured, events, natively, raw, say, status, streamed, turn_of
from PIL import Image

from reverse_lib.environment import (
    FULL,
    TINY,
    UNREADABLE,
    AgentError,
    AgentRefused,
    initial_messages,
    rollout,
    tool_functions,
    with_photo,
)
from reverse_lib.environment.interface import image_block
from reverse_lib.evaluation import evaluate
from reverse_lib.models import Endpoint, from_environment, load_processor
from reverse_lib.models.endpoint import NATIVE_NOTE, read_completion, turn_text
from reverse_lib.profiles import Budgets, EndpointConfig
from reverse_lib.trajectory import TOOLS, load_trajectories, parse_turn, save_trajectories

SCRIPT = (
    call_text(ZOOM, bbox_2d=[100, 100, 300, 200]),
    call_text(TEXT, query="València <b>"),
    "<think>[2]</think><useful>[2]</useful>" + call_text(IMAGE, bbox_2d=[0, 0, 500, 500]).split("</think>")[1],
    "Hm.",
    '<think>Hm.</think><tool_call>{"name": "maps_tool", "arguments": {}}</tool_call>',
    ANSWER,
)


def make(server, interface=FULL, tools=TOOLS, **settings):
    return Endpoint(EndpointConfig(server.url, "fake-model", **{"image_format": "PNG"} | settings), interface, tools)


def ask(endpoint, text="Where?"):
    """The reply to a conversation of one message."""
    return endpoint([[{"role": "user", "content": text}]])[0]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("calling", ["native", "prompt", "template"])
def test_a_rollout_on_a_server_is_the_rollout_of_a_local_agent(server, calling, stream):
    say_it = natively if calling == "native" else say
    server.answer = lambda body: say_it(SCRIPT[turn_of(body)])
    endpoint = make(server, calling=calling, stream=stream, price_in=2.0, price_out=10.0)
    (ours,) = rollout(endpoint, [photo()], FakeSearch(), FULL)
    (local,) = rollout(Scripted(SCRIPT), [photo("p0")], FakeSearch(), FULL)
    assert ours.steps == local.steps and len(ours.steps) == 6 and ours.end == "answered"
    assert [step.observation.tool for step in ours.steps[3:5]] == [UNREADABLE, UNREADABLE]
    assert "tool_call_name" in ours.steps[4].observation.text and type(ours.steps[0].text) is str
    assert ours.agent == "fake-model"
    spent = ours.extra["usage"]
    assert (spent["requests"], spent["tokens_in"], spent["tokens_out"]) == (6, 600, 120)
    assert spent["cost"] == pytest.approx(600 * 2e-6 + 120 * 10e-6)
    assert dict(endpoint.usage) == pytest.approx(spent)


def test_native_requests_offer_tools_and_give_calls_back_as_structures(server):
    server.answer = lambda body: natively(SCRIPT[turn_of(body)])
    rollout(make(server), [photo()], FakeSearch(), FULL)
    system, user, call, result, crop, *rest = server.bodies[-1]["messages"]
    assert system["content"] == f"{FULL.system_prompt}\n\n{NATIVE_NOTE}"
    assert [block["type"] for block in user["content"]] == ["text", "image_url"]
    assert call["content"] == "<think>Look.</think>" and call["tool_calls"][0]["function"]["name"] == ZOOM
    assert json.loads(call["tool_calls"][0]["function"]["arguments"]) == {"bbox_2d": [100, 100, 300, 200]}
    assert result["tool_call_id"] == call["tool_calls"][0]["id"] and "next message" in result["content"]
    assert crop["role"] == "user" and [block["type"] for block in crop["content"]] == ["image_url"]
    assert rest[-1] == {"role": "user", "content": rest[-1]["content"]}  # the nudge answers no call
    ids = [message["tool_calls"][0]["id"] for message in server.bodies[-1]["messages"] if "tool_calls" in message]
    assert len(ids) == len(set(ids)) == 3
    offered = server.bodies[0]["tools"]
    assert [schema["function"]["name"] for schema in offered] == sorted(TOOLS)
    assert all(set(schema["function"]) == {"name", "description", "parameters"} for schema in offered)
    assert server.bodies[0]["model"] == "fake-model" and server.bodies[0]["max_tokens"] == 2048
    assert server.headers[0]["authorization"] == f"Bearer {KEY}" and server.headers[0]["path"] == "/v1/chat/completions"


def test_a_server_without_tool_calls_is_told_the_tools_in_the_prompt(server):
    server.answer = lambda body: say(SCRIPT[turn_of(body)])
    rollout(make(server, calling="prompt", tools=[TEXT]), [photo()], FakeSearch(), FULL, tools=[TEXT])
    body = server.bodies[-1]
    assert "tools" not in body and {message["role"] for message in body["messages"]} == {"system", "user", "assistant"}
    added = body["messages"][0]["content"].removeprefix(FULL.system_prompt)
    assert f'"name": "{TEXT}"' in added and IMAGE not in added
    assert [block["text"] for block in body["messages"][5]["content"]][::2] == ["<tool_response>", "</tool_response>"]


def test_a_chat_template_on_the_server_renders_what_a_local_checkpoint_reads(server):
    server.answer = lambda body: say(SCRIPT[turn_of(body)])
    agent = Scripted(SCRIPT)
    rollout(make(server, calling="template"), [photo("p0")], FakeSearch(), TINY)
    rollout(agent, [photo("p0")], FakeSearch(), TINY)
    template = load_processor("data/models/agent").apply_chat_template
    for body, (_, messages) in zip(server.bodies, agent.seen, strict=True):
        assert body["tool_choice"] == "none"
        for message in body["messages"]:
            if isinstance(message["content"], list):
                blocks = message["content"]
                message["content"] = [block if block["type"] == "text" else {"type": "image"} for block in blocks]
        sides = (messages, tool_functions()), (body["messages"], body["tools"])
        local, there = (template(m, tools=tools, tokenize=False, add_generation_prompt=True) for m, tools in sides)
        assert there == local


def test_pictures_go_inline_as_pixels_alone(server):
    exif = Image.Exif()
    exif[0x010E] = "GPS secret of the owner"
    data = io.BytesIO()
    Image.new("RGB", (3000, 600), "teal").save(data, "JPEG", exif=exif, comment=b"secret")
    messages = with_photo(initial_messages(FULL), [image_block(Image.open(data))])
    server.answer = lambda body: say(ANSWER)
    for kind in ("JPEG", "PNG"):
        make(server, image_px=1024, image_format=kind)([messages])
        url = server.bodies[-1]["messages"][1]["content"][1]["image_url"]["url"]
        head, _, content = url.partition(",")
        sent = base64.b64decode(content)
        assert head == f"data:image/{kind.lower()};base64" and b"secret" not in sent and b"Exif" not in sent
        assert Image.open(io.BytesIO(sent)).size == (1024, 205)


def test_an_endpoint_is_evaluated_like_any_agent(server):
    server.answer = lambda body: say(ANSWER if turn_of(body) else call_text(TEXT, query="Valencia"))
    photos = [coloured(i) for i in range(12)]
    frame = evaluate(make(server, concurrency=3), photos, FakeSearch(), FULL, Budgets(turns=4), batch_size=5)
    assert frame["photo_id"].tolist() == [one.photo_id for one in photos]
    assert frame["km"].tolist() == [0.0] * 12 and frame["calls_text"].tolist() == [1] * 12
    assert server.most_in_flight <= 3 and sum(server.asked.values()) == 24
    assert set(server.asked.values()) == {2}


def test_so_many_conversations_are_asked_at_a_time_and_no_more_and_order_is_kept(server):
    together = threading.Barrier(3, timeout=10)

    def answer(body):
        together.wait()
        return say(body["messages"][-1]["content"][0]["text"])

    server.answer = answer
    endpoint = make(server, concurrency=3)
    texts = [f"conversation {i}" for i in range(9)]
    conversations = [[{"role": "user", "content": text}] for text in texts]
    assert [reply.text for reply in endpoint(conversations)] == texts
    assert server.most_in_flight == 3 and endpoint([]) == []


@pytest.mark.parametrize(
    ("finish", "fields", "expected"),
    [
        ("stop", {"content": ANSWER}, ANSWER),
        ("stop", {"content": "", "reasoning_content": "Sure."}, "<think>Sure.</think>"),
        ("stop", {"content": None, "reasoning": "A <useful> sign"}, "<think>A ‹useful> sign</think>"),
        ("stop", {"content": ANSWER, "reasoning_content": "Hidden."}, ANSWER),
        ("stop", {"content": "So.</think><answer>x</answer>"}, "<think>So.</think><answer>x</answer>"),
        ("stop", {"content": "I know it."}, "I know it."),
        ("length", {"content": "<think>It is lo"}, "<think>It is lo"),
    ],
)
def test_a_reply_stays_what_the_model_wrote_with_its_reasoning_as_the_think_part(server, finish, fields, expected):
    server.queue = [say(finish=finish, **fields)]
    assert ask(make(server)).text == expected


@pytest.mark.parametrize(
    ("content", "reasoning", "calls", "text", "errors"),
    [
        ("A sign.", "", [(TEXT, '{"query":"a"}')], '<think>A sign.</think><tool_call>{"name": "text_search_tool"', []),
        ("<useful>[1]</useful>", "Hm.", [(TEXT, '{"query":"a"}')], "<think>Hm.</think><useful>[1]</useful><tool_", []),
        ("", "", [(TEXT, '{"query":"a"}')], "<tool_call>", ["think_missing"]),
        ("", "Hm.", [("maps", "{}")], "<think>Hm.</think><tool_call>", ["tool_call_name"]),
        ("", "Hm.", [(TEXT, '{"query": ')], "<think>Hm.</think><tool_call>", ["tool_call_json"]),
        ("", "Hm.", [(TEXT, "")], "<think>Hm.</think><tool_call>", []),
        ("", "Hm.", [(TEXT, '{"query":"a"}')] * 2, "<think>Hm.</think><tool_call>", ["tool_call_repeated"]),
        ("", "Hm.", [(TEXT, '{"query":"</tool_call>"}')], "<think>Hm.</think><tool_call>", []),
    ],
)
def test_native_calls_are_written_in_our_grammar_and_wrong_ones_stay_wrong(content, reasoning, calls, text, errors):
    written = turn_text(content, reasoning, calls)
    turn = parse_turn(written)
    assert written.startswith(text) and [error for error in turn.errors if error != "action_missing"] == errors
    if not {"tool_call_name", "tool_call_json", "tool_call_repeated"} & set(errors):
        assert turn.tool_call.arguments == (json.loads(calls[0][1]) if calls[0][1] else {})


def test_reasoning_goes_back_where_the_service_wants_it(server):
    server.answer = lambda body: natively(SCRIPT[turn_of(body)])
    rollout(make(server, reasoning_field="reasoning_content"), [photo()], FakeSearch(), FULL)
    turn = next(m for m in server.bodies[-1]["messages"] if m["role"] == "assistant" and "[2]" in str(m))
    assert turn["reasoning_content"] == "[2]" and turn["content"] == "<useful>[2]</useful>"


BROKEN = b'{"choices": [{"message": {"content": "<think>'
START = {"choices": [{"index": 0, "delta": {"content": "<think>It is"}}]}


@pytest.mark.parametrize(
    ("stream", "first"),
    [
        (False, status(429)),
        (False, status(500)),
        (False, raw(BROKEN)),
        (False, raw(BROKEN, promised=1000)),
        (False, raw(b"<html>busy</html>", "text/html")),
        (False, raw(b"[]")),
        (False, raw(b'{"choices": []}')),
        (False, raw(b'{"choices": "none"}')),
        (False, raw(b'{"error": {"message": "overloaded"}, "choices": null}')),
        (False, raw(json.dumps(say("x", finish=None)).encode())),
        (False, raw(json.dumps(say(["x"])).encode())),
        (True, events(START)),
        (True, events(START, done=False)),
        (True, events(START, '{"choices": [{')),
        (True, events(START, {"error": {"message": "overloaded"}})),
        (True, events(START, {"choices": [{"delta": "x"}]})),
        (True, raw(f"data: {json.dumps(START)}\n\n".encode(), "text/event-stream", promised=1000)),
    ],
)
def test_what_may_be_gone_in_a_moment_is_asked_again_and_never_becomes_a_turn(server, stream, first):
    server.queue = [first, say(ANSWER)]
    endpoint = make(server, stream=stream)
    assert ask(endpoint).text == ANSWER and len(server.bodies) == 2
    assert endpoint.usage["retries"] == 1 and endpoint.usage["requests"] == 1
    server.queue, endpoint = [first] * 3, make(server, stream=stream, retries=2)
    with pytest.raises(AgentError, match="fake-model at http://127.*, 3 attempts in a row") as failure:
        ask(endpoint)
    assert not isinstance(failure.value, AgentRefused) and len(server.bodies) == 5
    assert endpoint.usage["retries"] == 3 and endpoint.usage["requests"] == 0


def test_a_server_that_stays_silent_has_failed(server):
    server.queue, server.answer = [server.slow], lambda body: say(ANSWER)
    endpoint = make(server, timeout_s=0.3)
    assert ask(endpoint).text == ANSWER and endpoint.usage["retries"] >= 1
    server.answer = lambda body: server.slow
    with pytest.raises(AgentError, match="no answer within 0.3 s, 2 attempts"):
        ask(make(server, timeout_s=0.3, retries=1))


def test_nobody_there_is_an_error_that_names_the_address(server):
    server.close()
    with pytest.raises(AgentError, match="127.0.0.1.*the connection failed or was cut, 2 attempts"):
        ask(make(server, retries=1))


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (status(401, f"bad key {KEY}"), AgentError, r"HTTP 401 \(bad key …\); check .*OPENAI_API_KEY"),
        (status(404, "no such\nmodel"), AgentError, r"HTTP 404 \(no such model\)"),
        (status(302, headers={"Location": "http://127.0.0.1:9/"}), AgentError, "HTTP 302"),
        (status(429, headers={"Retry-After": "86400"}), AgentError, "asks to wait .Retry-After: 86400.*go on later"),
        (status(400, "too long"), AgentRefused, "HTTP 400, this conversation is refused .too long."),
        (status(413), AgentRefused, "HTTP 413"),
        (say("", finish="content_filter"), AgentRefused, "content filter"),
    ],
)
def test_what_asking_again_cannot_help_is_an_error_at_once(server, reply, kind, message):
    server.queue = [reply]
    with pytest.raises(AgentError, match=message) as failure:
        ask(make(server))
    assert type(failure.value) is kind and len(server.bodies) == 1


def test_a_failure_ends_a_rollout_with_an_error_and_not_with_a_turn(server):
    server.answer = lambda body: status(500)
    with pytest.raises(AgentError, match="HTTP 500"):
        rollout(make(server, retries=1, concurrency=2), [coloured(i) for i in range(5)], FakeSearch(), FULL)
    assert len(server.bodies) == 4  # two conversations with two attempts each; no third one was begun


def test_a_server_that_says_when_to_come_back_is_left_alone_until_then(server):
    server.queue, server.answer = [status(429, headers={"Retry-After": "0.3"})], lambda body: say(ANSWER)
    started = time.monotonic()
    assert ask(make(server)).text == ANSWER and time.monotonic() - started >= 0.3


@pytest.mark.parametrize(("limit", "seconds"), [({"requests_per_min": 600}, 0.4), ({"tokens_per_min": 600_000}, 0.4)])
def test_limits_a_minute_hold_between_threads_and_conversations(server, limit, seconds):
    server.answer = lambda body: say(ANSWER, tokens=(900, 100))
    endpoint, started = make(server, concurrency=2, **limit), time.monotonic()
    for _ in range(3):  # a request in 0.1 s, or 1,000 tokens; the last ones are waited for by nobody
        endpoint([[{"role": "user", "content": "Where?"}]] * 2)
    assert time.monotonic() - started >= seconds


def test_replies_without_counted_tokens_are_counted_as_such(server):
    server.queue = [{name: value for name, value in say(ANSWER).items() if name != "usage"}]
    endpoint = make(server, price_in=5.0)
    assert ask(endpoint).usage["uncounted"] == 1
    assert (endpoint.usage["requests"], endpoint.usage["tokens_in"], endpoint.usage["cost"]) == (1, 0, 0.0)


def test_without_tools_is_the_same_account_with_another_prompt(server):
    server.answer = lambda body: say("[1]")
    endpoint = make(server)
    endpoint.without_tools()([initial_messages(FULL)])
    assert "tools" not in server.bodies[0] and server.bodies[0]["messages"][0]["content"] == FULL.system_prompt
    assert endpoint.usage["requests"] == 1 and endpoint.tools == TOOLS


def test_the_environment_names_server_model_and_key(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_MODEL", "m1")
    server.answer = lambda body: say(ANSWER)
    assert ask(from_environment(temperature=None, extra={"seed": 3})).text == ANSWER
    assert server.bodies[0]["model"] == "m1" and server.bodies[0]["seed"] == 3 and "temperature" not in server.bodies[0]
    monkeypatch.setenv("OTHER_KEY", "another")
    ask(from_environment(model="m2", key_env="OTHER_KEY", max_tokens=0))
    assert server.headers[-1]["authorization"] == "Bearer another" and "max_tokens" not in server.bodies[-1]
    ask(from_environment(model="m2", key_env=""))
    assert KEY not in str(server.headers[-1])
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ValueError, match="m1: no key; set the environment variable OPENAI_API_KEY, or key_env=''"):
        from_environment()
    monkeypatch.delenv("OPENAI_MODEL")
    with pytest.raises(ValueError, match="model is empty; name a model, or set OPENAI_MODEL"):
        from_environment()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": "file:///etc"}, "file:///etc.*http"),
        ({"calling": "guess"}, "'guess': choose one of native, prompt, template"),
        ({"image_format": "GIF"}, "'GIF': choose one of JPEG, PNG"),
        ({"concurrency": 0}, "concurrency=0: give a number of at least 1"),
        ({"retries": -1}, "retries=-1: give a number of at least 0"),
        ({"price_in": float("nan")}, "price_in=nan"),
        ({"timeout_s": 0}, "timeout_s=0"),
    ],
)
def test_an_impossible_setting_is_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        EndpointConfig(**{"base_url": "http://127.0.0.1/v1", "model": "m"} | settings)


def test_a_stream_with_two_calls_says_what_the_whole_reply_says():
    reply = say("", [(TEXT, "{}"), (ZOOM, '{"bbox_2d": []}')], "tool_calls")
    assert read_completion(streamed(reply)) == read_completion([reply])


def test_the_key_is_in_nothing_that_is_written(server, caplog, tmp_path, capfd):
    caplog.set_level(logging.DEBUG)
    server.answer = lambda body: natively(SCRIPT[turn_of(body)])
    endpoint = make(server, retries=1)
    rows = rollout(endpoint, [photo()], FakeSearch(), FULL)
    save_trajectories(tmp_path / "rows.jsonl", rows)
    assert load_trajectories(tmp_path / "rows.jsonl") == rows
    written = [repr(endpoint), (tmp_path / "rows.jsonl").read_text()]
    for reply in (status(401, f"key {KEY}"), status(500, KEY), raw(BROKEN, promised=999), status(400, KEY)):
        server.queue = [reply] * 2
        with pytest.raises(AgentError) as failure:
            ask(endpoint)
        written.append("".join(traceback.format_exception(failure.value)))
        server.queue = []
    written += [caplog.text, *capfd.readouterr()]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}" and len(written) == 9
    assert not [text for text in written if KEY in text]
