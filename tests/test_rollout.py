"""Records, conversations, rollouts and interfaces."""

import json

import pytest
from environment_fakes import ANSWER, IMAGE, TEXT, ZOOM, FakeSearch, Scripted, call_text, make, photo, picture, same
from hypothesis import given
from hypothesis import strategies as st

from reverse_lib.environment import (
    FULL,
    TINY,
    UNREADABLE,
    Interface,
    Reply,
    conversation,
    initial_messages,
    rollout,
    with_photo,
)
from reverse_lib.evaluation import to_frame
from reverse_lib.geo import BoxError, as_box
from reverse_lib.photos import Photo
from reverse_lib.profiles import Budgets
from reverse_lib.reward import score
from reverse_lib.show.story import narrate
from reverse_lib.trajectory import TOOLS, Trajectory, load_trajectories, save_trajectories


@pytest.fixture
def search():
    return FakeSearch()


def test_the_record_holds_turns_and_calls_and_the_truth(search):
    environment = make(search, photos=[photo(regions=((10, 20, 30, 40),))])
    texts = [call_text(ZOOM, bbox_2d=[10, 20, 30, 40]), call_text(TEXT, query="Valencia"), ANSWER]
    assert [environment.respond(text) is None for text in texts] == [False, False, True]
    record = environment.trajectory(agent="me")
    assert [step.text for step in record.steps] == texts
    assert [step.observation and step.observation.tool for step in record.steps] == [ZOOM, TEXT, None]
    assert (record.lat, record.lon, record.country, record.city) == (39.47, -0.38, "Spain", "Valencia")
    assert record.regions == [[10, 20, 30, 40]] and record.evidence == ["https://e.org/p1"]
    assert (record.agent, record.end, record.km) == ("me", "answered", 0.0)


def test_a_turn_with_two_calls_is_told_so_and_makes_neither(search):
    environment = make(search)
    second = '<tool_call>{"name": "text_search_tool", "arguments": {"query": "b"}}</tool_call>'
    message = environment.respond(call_text(TEXT, query="a") + second)
    assert (message["role"], message["name"]) == ("tool", UNREADABLE) and search.asked == []
    assert "Error: " in message["content"][0]["text"]


def test_a_service_that_failed_shows_in_the_end_of_a_rollout_without_an_answer(search):
    failing = call_text(TEXT, query="down")
    for script, end in (((failing, *["I give up"] * 3), "service_error"), ((failing, ANSWER), "answered")):
        (record,) = rollout(Scripted(script), [photo("p0")], search)
        assert record.end == end


def test_a_reply_keeps_its_tokens_in_the_conversation_and_its_costs_are_added_up(search):
    def agent(conversations):
        turn = sum(message["role"] == "assistant" for message in conversations[0])
        text = ANSWER if turn else call_text(TEXT, query="a")
        return [Reply(text, (1, 2, turn), 0.5, {"cost": 2.0}) for _ in conversations]

    runs = []
    (record,) = rollout(agent, [photo()], search, on_finished=lambda trajectory, run: runs.append(run))
    assert [m.get("token_ids") for m in runs[0].messages if m["role"] == "assistant"] == [(1, 2, 0), (1, 2, 1)]
    assert (runs[0].seconds, runs[0].tokens, record.extra["usage"]) == (1.0, 6, {"cost": 4.0})
    rollout(lambda c: [ANSWER for _ in c], [photo()], search, on_finished=lambda trajectory, run: runs.append(run))
    assert runs[1].tokens is None and runs[1].seconds > 0 and "token_ids" not in runs[1].messages[-1]


def test_nothing_follows_a_last_reply_nor_one_that_could_not_be_written(search):
    call = call_text(TEXT, query="a")
    (record,) = rollout(lambda c: [Reply(call, last=True) for _ in c], [photo()], search)
    assert [step.observation for step in record.steps] == [None] and record.end == "budget"
    agent = iter([[call], [None]])
    (record,) = rollout(lambda c: next(agent), [photo()], search)
    assert [step.observation.tool for step in record.steps] == [TEXT] and record.answer is None


def test_photos_are_opened_once_for_all_rollouts_that_hold_them_and_regions_drawn_once():
    opened = []

    class Watched(Photo):
        def load(self):
            opened.append(self.photo_id)
            return super().load()

    shared, agent = Watched("p1", picture()), Scripted(SCRIPT)
    rollout(agent, [shared] * 3, ByBox())
    assert opened == ["p1"]
    pictures = [b["image"] for _, messages in agent.seen for m in messages for b in m["content"] if "image" in b]
    assert len(pictures) > 6 and len(set(map(id, pictures))) == 2  # the photo and the zoom


class Blind(Scripted):
    """An agent that looks at no picture."""

    reads_pixels = False


class ByBox(FakeSearch):
    """A search that answers by the box alone."""

    reads_pixels = False


SCRIPT = (call_text(ZOOM, bbox_2d=[10, 20, 30, 40]), call_text(IMAGE, bbox_2d=[0, 0, 500, 500]), ANSWER)


def test_an_agent_that_reads_no_pixels_leaves_the_same_record_as_one_that_does():
    seeing, blind = Scripted(SCRIPT), Blind(SCRIPT)
    rows = [rollout(agent, [photo(), photo("p2")], FakeSearch()) for agent in (seeing, blind)]
    assert rows[0] == rows[1] and len(rows[0][0].steps) == 3
    pictures = [block for _, messages in blind.seen for message in messages for block in message["content"]]
    pictures = [block for block in pictures if block["type"] == "image"]
    assert pictures and all(block == {"type": "image"} for block in pictures)


def test_without_pixels_only_a_search_that_looks_at_them_loads_the_photo():
    loaded = []

    class Watched(Photo):
        def load(self):
            loaded.append(self.photo_id)
            return super().load()

    watched = Watched("p1", picture())
    for search, times, size in ((ByBox(), 0, None), (FakeSearch(), 1, (320, 240))):
        loaded.clear()
        rollout(Blind(SCRIPT), [watched], search)
        assert len(loaded) == times
        ((_, _, _, crop),) = search.asked
        assert (crop and crop.size) == size
    rollout(Scripted(SCRIPT), [watched], ByBox())
    assert loaded == ["p1", "p1"]


HARD_SCRIPT = (
    call_text(ZOOM, bbox_2d=[100, 100, 300.4, 200]),
    call_text(ZOOM, bbox_2d=[300, 100, 100, 200]),
    call_text(TEXT, query="Valencia"),
    "<think>[2]</think><useful>[2]</useful>" + call_text(IMAGE, bbox_2d=[0, 0, 500, 500]).split("</think>")[1],
    call_text(TEXT, query="down"),
    call_text(TEXT, query="nothing"),
    ANSWER,
)


@pytest.mark.parametrize("interface", [TINY, FULL], ids=["tiny", "full"])
@pytest.mark.parametrize("turns", [10, 4, 2])
def test_a_record_renders_exactly_the_messages_the_agent_saw(search, tmp_path, interface, turns):
    agent = Scripted(HARD_SCRIPT)
    (record,) = rollout(agent, [photo()], search, interface, Budgets(turns=turns))
    save_trajectories(tmp_path / "t.jsonl", [record])
    (record,) = load_trajectories(tmp_path / "t.jsonl")
    messages = conversation(record, photo().load(), interface)
    for _, seen in agent.seen:
        assert same(messages[: len(seen)], seen)
    assert len(agent.seen[-1][1]) + 1 == len(messages)
    assert messages[-1] == {"role": "assistant", "content": [{"type": "text", "text": record.steps[-1].text}]}
    assert all(isinstance(message["content"], list) for message in messages)


def test_the_conversation_begins_with_question_and_photo(search):
    prompt = initial_messages(TINY)
    blocks = make(search).reset(photo_id="p1")
    messages = with_photo(prompt, blocks)
    assert [message["role"] for message in messages] == ["system", "user"]
    assert [block["type"] for block in messages[1]["content"]] == ["text", "image"]
    assert messages[1]["content"][0]["text"] == "Where is this?"
    assert len(prompt[1]["content"]) == 1


def test_rollouts_end_as_answered_format_or_budget(search):
    endless = (call_text(TEXT, query="a"),)
    agent = Scripted((call_text(TEXT, query="b"), ANSWER), ("I don't know.",), endless)
    photos = [photo(f"p{i}") for i in range(6)]
    progress = []
    records = rollout(agent, photos, search, budgets=Budgets(turns=4), batch_size=2, progress=progress.append)
    assert [record.end for record in records] == ["answered", "format", "budget"] * 2
    assert [len(record.steps) for record in records] == [2, 3, 4] * 2
    assert [record.photo_id for record in records] == [one.photo_id for one in photos]
    assert records[2].steps[3].observation is None and records[2].answer is None
    assert all(record.agent == "scripted" for record in records)
    assert max(agent.batches) == 2 and sum(progress) == 6


def test_a_turn_that_cannot_be_read_is_answered_counted_and_paid_for(search):
    broken = "<think>Hm.</think><tool_call>{</tool_call>"
    agent = Scripted(("<think>Sure.</think><answer>Spain</answer>", broken, call_text(TEXT, query="a"), ANSWER))
    (record,) = rollout(agent, [photo("p0")], search)
    seen = [step.observation for step in record.steps]
    assert [one and one.tool for one in seen] == [UNREADABLE, UNREADABLE, TEXT, None]
    assert [one.status for one in seen[:3]] == ["model_error", "model_error", "ok"]
    assert "answer_invalid" in seen[0].text and "tool_call_json" in seen[1].text
    told = [message["content"][0]["text"] for message in agent.seen[-1][1] if message["role"] == "tool"]
    assert told[:2] == [seen[0].text, seen[1].text]
    assert record.end == "answered" and score(record).errors == pytest.approx(-0.1)
    assert Trajectory.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    assert to_frame([record])["unreadable"].item() == 2
    assert any("is told: Error" in line for line in narrate(record))


def test_after_so_many_nudges_the_next_turn_that_cannot_be_read_ends_the_rollout_as_does_the_last_turn(search):
    for nudges in (0, 1, 4):
        (record,) = rollout(Scripted(("Hm.",)), [photo("p0")], search, budgets=Budgets(nudges=nudges))
        assert len(record.steps) == nudges + 1 and record.end == "format" and record.steps[-1].observation is None
    (record,) = rollout(Scripted(("Hm.",)), [photo("p0")], search, budgets=Budgets(turns=3, nudges=9))
    assert len(record.steps) == 3 and record.end == "format"
    assert [step.observation and "answer now" in step.observation.text for step in record.steps] == [False, True, None]


def test_a_batch_changes_nothing_and_a_freed_place_is_taken_at_once(search):
    scripts = ((ANSWER,), HARD_SCRIPT)
    runs = []
    for size in (1, 2, 32):
        agent = Scripted(*scripts)
        runs.append(
            [record.to_dict() for record in rollout(agent, [photo(f"p{i}") for i in range(5)], search, batch_size=size)]
        )
    assert runs[0] == runs[1] == runs[2]


def test_a_disabled_tool_is_answered_as_trl_answers_and_counted_as_the_models_error(search):
    agent = Scripted((call_text(ZOOM, bbox_2d=[0, 0, 9, 9]), call_text(TEXT, query="a"), ANSWER))
    (record,) = rollout(agent, [photo()], search, tools=[TEXT])
    first = record.steps[0].observation
    assert (first.status, first.text) == ("model_error", "{'error': 'Tool image_zoom_in_tool not found.'}")
    assert record.steps[1].observation.status == "ok" and record.end == "answered"
    assert same(conversation(record, photo().load(), TINY)[: len(agent.seen[-1][1])], agent.seen[-1][1])


def test_any_callable_is_an_agent_and_a_wrong_number_of_texts_is_an_error(search):
    records = rollout(lambda conversations: [ANSWER] * len(conversations), [photo(), photo("p2")], search)
    assert [record.end for record in records] == ["answered", "answered"]
    assert records[0].agent == "function"
    with pytest.raises(ValueError, match="1 replies for 2 conversations"):
        rollout(lambda conversations: [ANSWER], [photo(), photo("p2")], search)
    with pytest.raises(TypeError, match="int instead of a Reply or a text"):
        rollout(lambda conversations: [5], [photo()], search)


def test_two_photos_with_one_id_are_refused(search):
    with pytest.raises(ValueError, match="'p1'"):
        rollout(lambda c: [ANSWER] * len(c), [photo(), Photo("p1", picture(), lat=1.0, lon=1.0)], search)


def test_an_agent_that_spoils_its_conversation_spoils_no_other_turn(search):
    def agent(conversations):
        turns = [sum(message["role"] == "assistant" for message in messages) for messages in conversations]
        for messages in conversations:
            messages.clear()
        return [ANSWER if turn else call_text(TEXT, query="a") for turn in turns]

    (record,) = rollout(agent, [photo()], search)
    assert [bool(step.observation) for step in record.steps] == [True, False]


def test_interfaces_survive_json_and_refuse_unknown_fields():
    for interface in (TINY, FULL):
        row = json.loads(json.dumps(interface.to_dict()))
        assert Interface.from_dict(row) == interface
    with pytest.raises(TypeError, match="'colour'"):
        Interface.from_dict({**TINY.to_dict(), "colour": 1})
    with pytest.raises(TypeError, match="missing .* 'question'"):
        Interface.from_dict({"name": "x", "system_prompt": ""})
    with pytest.raises(ValueError, match="'table'"):
        Interface("x", "", "", result_style="table")


def test_the_full_prompt_states_the_budgets_and_the_grammar():
    for words in ("at most 10 turns", "At most 5 times", "At most 3 times", "<useful>[1, 3]</useful>", "0 to 1000"):
        assert words in FULL.system_prompt
    assert all(name in FULL.system_prompt for name in TOOLS)
    assert len(FULL.system_prompt) < 4000


@given(st.lists(st.integers(0, 1000) | st.floats(0, 1000), min_size=4, max_size=4))
def test_a_box_is_accepted_exactly_when_its_rounded_corners_are_in_order(box):
    x1, y1, x2, y2 = map(round, box)
    if x1 < x2 and y1 < y2:
        assert as_box(box) == [x1, y1, x2, y2]
    else:
        with pytest.raises(BoxError):
            as_box(box)
