"""A teacher at work: what is finished is on disk at once and never asked again, whatever kills the run."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from environment_fakes import ANSWER, TEXT, FakeSearch, Scripted, call_text
from fake_endpoint import KEY, FakeEndpoint, coloured, natively, picture_of, say, status, turn_of

from reverse_lib.annotation import annotate, answered_directly, hard_luck, sample_counts, without_nudges
from reverse_lib.annotation.samples import let_down
from reverse_lib.annotation.teachers import TEACHER_BUDGETS, AnnotationStopped
from reverse_lib.environment import FULL, TINY, UNREADABLE, rollout
from reverse_lib.models import Endpoint, EndpointConfig
from reverse_lib.photos import Photo
from reverse_lib.profiles import AnnotationConfig
from reverse_lib.trajectory import FilterRules, Journal, Step, filter_trajectories, load_trajectories

TESTS = Path(__file__).parent
PHOTOS = [coloured(i) for i in range(8)]
SEARCH_THEN_ANSWER = (call_text(TEXT, query="Valencia"), ANSWER)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = FakeEndpoint(lambda body: natively(SEARCH_THEN_ANSWER[turn_of(body)]))
    yield made
    made.close()


def teacher(server, **settings):
    config = EndpointConfig(server.url, "kimi", **{"timeout_s": 5, "retries": 1, "price_out": 1e4} | settings)
    return Endpoint(config, sleep=lambda seconds: None)


def test_every_photo_gets_a_trajectory_in_order_with_its_cost_and_the_file_holds_the_same(server, tmp_path):
    file, seen = tmp_path / "new" / "a.jsonl", []
    done = annotate(teacher(server), PHOTOS, FakeSearch(), file, progress=seen.append)
    assert [row.photo_id for row in done.trajectories] == [photo.photo_id for photo in PHOTOS]
    assert done.trajectories == sorted(load_trajectories(file), key=lambda row: row.photo_id)
    assert all(row.extra["n_nudges"] == 0 and row.km == 0.0 and row.agent == "kimi" for row in done.trajectories)
    assert done.trajectories[0].extra["interface"] == "full"
    assert done.usage()["requests"] == 16 and done.usage()["cost"] == pytest.approx(16 * 20 * 1e4 / 1e6)
    assert seen[0] == 0 and sum(seen) == 8 and not done.left_out and not done.resumed


def test_what_is_done_is_never_asked_again(server, tmp_path):
    file, seen = tmp_path / "a.jsonl", []
    annotate(teacher(server), PHOTOS[:3], FakeSearch(), file)
    before = dict(server.asked)
    done = annotate(teacher(server), PHOTOS, FakeSearch(), file, progress=seen.append)
    assert all(server.asked[picture] == count for picture, count in before.items())
    assert len(server.asked) == 8 and set(server.asked.values()) == {2}
    assert done.resumed == 3 and seen[0] == 3 and sum(seen) == 8
    assert [row.photo_id for row in done.trajectories] == [photo.photo_id for photo in PHOTOS]
    again = annotate(teacher(server), [PHOTOS[0]] * 2, FakeSearch(), file)
    assert again.resumed == 1 and len(again.trajectories) == 2 and len(load_trajectories(file)) == 9


KILLED = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from fake_endpoint import coloured
from environment_fakes import FakeSearch
from reverse_lib.annotation import annotate
from reverse_lib.models import Endpoint, EndpointConfig
config = EndpointConfig({url!r}, "kimi", concurrency=1, timeout_s=30)
annotate(Endpoint(config), [coloured(i) for i in range(8)], FakeSearch(), {file!r})
"""


def test_a_killed_run_goes_on_without_paying_twice_and_sets_a_half_line_aside(server, tmp_path):
    file, script = tmp_path / "a.jsonl", SEARCH_THEN_ANSWER
    server.answer = lambda body: natively(script[turn_of(body)]) if len(server.bodies) <= 7 else server.slow
    code = KILLED.format(tests=str(TESTS), root=str(TESTS.parent), url=server.url, file=str(file))
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"})
    while len(server.bodies) < 8 and process.poll() is None:  # the fourth photo has made its search and waits
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    whole = file.read_bytes()
    assert len(whole.splitlines()) == 3 and whole.endswith(b"\n")
    file.write_bytes(whole + b'{"photo_id": "p3", "steps": [{"te')
    before = dict(server.asked)
    server.answer = lambda body: natively(script[turn_of(body)])
    done = annotate(teacher(server), PHOTOS, FakeSearch(), file)
    finished = [picture for picture, count in before.items() if count == 2][:3]
    assert [server.asked[picture] for picture in finished] == [2, 2, 2]
    assert done.resumed == 3 and len(done.trajectories) == 8 and file.read_bytes().startswith(whole)
    assert "cut short (33 bytes)" in done.set_aside and len(load_trajectories(file)) == 8
    assert (tmp_path / "a.jsonl.torn").read_bytes() == b'{"photo_id": "p3", "steps": [{"te\n'


def test_a_failing_endpoint_stops_the_run_keeps_what_is_done_and_says_how_to_go_on(server, tmp_path):
    file = tmp_path / "a.jsonl"
    server.answer = lambda body: (
        natively(SEARCH_THEN_ANSWER[turn_of(body)]) if len(server.asked) <= 3 else status(500, "down")
    )
    with pytest.raises(AnnotationStopped, match="HTTP 500 .down., 2 attempts in a row") as stopped:
        annotate(teacher(server, concurrency=1), PHOTOS, FakeSearch(), file)
    assert f"3 of 8 photos are done and kept in {file}" in str(stopped.value) and "run the same again" in str(
        stopped.value
    )
    rows = load_trajectories(file)
    assert [row.photo_id for row in rows] == ["p0", "p1", "p2"] and all(row.end == "answered" for row in rows)
    server.answer = lambda body: natively(SEARCH_THEN_ANSWER[turn_of(body)])
    assert annotate(teacher(server), PHOTOS, FakeSearch(), file).resumed == 3
    assert len(load_trajectories(file)) == 8


def test_answers_under_way_when_another_conversation_fails_are_kept(server, tmp_path):
    together = threading.Barrier(4, timeout=10)

    def answer(body):
        if turn_of(body) == 0:
            return say(call_text(TEXT, query="Valencia"))
        if together.wait() == 0:
            return status(401)
        time.sleep(0.2)  # the failure comes first
        return say(ANSWER)

    server.answer = answer
    with pytest.raises(AnnotationStopped, match="HTTP 401"):
        annotate(teacher(server, concurrency=4), PHOTOS[:4], FakeSearch(), tmp_path / "a.jsonl")
    assert len(load_trajectories(tmp_path / "a.jsonl")) == 3


def test_a_refused_photo_and_an_unreadable_one_are_left_out_by_name_and_asked_again_the_next_time(server, tmp_path):
    file = tmp_path / "a.jsonl"
    bad = Photo("bad", b"no picture at all", lat=1.0, lon=1.0)
    refused = []

    def answer(body):
        refused.append(picture_of(body)) if not refused else None
        return status(400, "not this one") if picture_of(body) in refused else say(ANSWER)

    server.answer = answer
    done = annotate(teacher(server, concurrency=1), [*PHOTOS[:2], bad, *PHOTOS[2:]], FakeSearch(), file)
    assert [row.photo_id for row in done.trajectories] == [f"p{i}" for i in range(1, 8)]
    assert "not this one" in done.left_out["p0"] and "bad" in done.left_out and len(done.left_out) == 2
    refused[:] = ["nobody"]
    done = annotate(teacher(server), PHOTOS, FakeSearch(), file)
    assert done.resumed == 7 and len(done.trajectories) == 8 and not done.left_out


def test_too_many_refusals_in_a_row_stop_the_run(server, tmp_path):
    server.answer = lambda body: status(400, "what is this")
    with pytest.raises(AnnotationStopped, match="what is this.*0 of 8 photos"):
        annotate(teacher(server, concurrency=1), PHOTOS, FakeSearch(), tmp_path / "a.jsonl", in_a_row=3)
    assert len(server.bodies) == 3


def test_a_search_service_that_stays_down_stops_the_run_before_it_is_paid_for_in_vain(server, tmp_path):
    file = tmp_path / "a.jsonl"
    server.answer = lambda body: say((call_text(TEXT, query="down"), ANSWER)[turn_of(body)])
    with pytest.raises(AnnotationStopped, match="search service failed on 2 photos in a row. 2 of 8 photos"):
        annotate(teacher(server, concurrency=1), PHOTOS, FakeSearch(), file, in_a_row=2)
    rows = load_trajectories(file)
    assert [row.steps[0].observation.status for row in rows] == ["service_error"] * 2


def test_a_teacher_is_nudged_five_times_at_most_and_the_nudges_are_counted(server, tmp_path):
    server.answer = lambda body: say("Hm." if turn_of(body) < 5 else ANSWER)
    (row,) = annotate(teacher(server), PHOTOS[:1], FakeSearch(), tmp_path / "a.jsonl").trajectories
    assert row.end == "answered" and row.extra["n_nudges"] == 5 and len(row.steps) == 6
    server.answer = lambda body: say("Hm.")
    (row,) = annotate(teacher(server), PHOTOS[1:2], FakeSearch(), tmp_path / "a.jsonl").trajectories
    assert row.end == "format" and row.extra["n_nudges"] == TEACHER_BUDGETS.nudges == 5 and len(row.steps) == 6


def test_without_nudges_a_rollout_reads_as_if_each_turn_had_been_readable(tmp_path):
    script = ("Hm.", call_text(TEXT, query="Valencia"), "<think>Oh.</think>", ANSWER)
    photos = PHOTOS[:1]
    (row,) = annotate(Scripted(script), photos, FakeSearch(), tmp_path / "a.jsonl").trajectories
    clean = without_nudges(row)
    (plain,) = rollout(Scripted(script[1::2]), photos, FakeSearch())
    assert clean.steps == plain.steps and row.extra["n_nudges"] == clean.extra["n_nudges"] == 2
    assert row.steps[0].observation.tool == UNREADABLE and clean.km == 0.0
    assert filter_trajectories([row])[1]["no errors"] == 0 and filter_trajectories([clean])[0] == [clean]
    assert not filter_trajectories([clean], FilterRules(max_nudges=1))[0]


def test_any_agent_is_a_teacher_and_each_has_a_file_of_its_own(tmp_path):
    file = tmp_path / "a.jsonl"
    done = annotate(Scripted(SEARCH_THEN_ANSWER), PHOTOS, FakeSearch(), file, batch_size=3)
    assert [row.photo_id for row in done.trajectories] == [photo.photo_id for photo in PHOTOS] and done.usage() == {}
    assert done.trajectories[0].extra["interface"] == TINY.name
    other = Scripted(SEARCH_THEN_ANSWER)
    other.name = "another"
    with pytest.raises(ValueError, match="row 1: made with the teacher 'scripted', not 'another'; give each teacher"):
        annotate(other, PHOTOS, FakeSearch(), file)
    with pytest.raises(ValueError, match="interface 'tiny', not 'full'"):
        annotate(Scripted(SEARCH_THEN_ANSWER), PHOTOS, FakeSearch(), file, interface=FULL)
    with pytest.raises(ValueError, match="name the file .jsonl"):
        annotate(other, PHOTOS, FakeSearch(), tmp_path / "a.parquet")


def test_a_finished_trajectory_is_in_the_file_before_the_next_answer_comes(tmp_path):
    file, held = tmp_path / "a.jsonl", []

    class Watching(Scripted):
        def respond_for(self, photo_ids, conversations):
            held.append(len(load_trajectories(file)) if file.exists() else 0)
            return super().respond_for(photo_ids, conversations)

    annotate(Watching((ANSWER,)), PHOTOS, FakeSearch(), file, batch_size=2)
    assert held == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("data", "rows", "kept", "torn"),
    [
        (b'{"a": 1}\n{"a": 2}\n', 2, b'{"a": 1}\n{"a": 2}\n', None),
        (b'{"a": 1}\n{"a": 2}', 2, b'{"a": 1}\n{"a": 2}\n', None),
        (b'{"a": 1}\n{"a": ', 1, b'{"a": 1}\n', b'{"a": \n'),
        (b'{"a": 1}\n\n{"a"\n', 1, b'{"a": 1}\n\n', b'{"a"\n'),
        (b'{"a": 1}\n\x00\x00\x00', 1, b'{"a": 1}\n', b"\x00\x00\x00\n"),
        (b"[1]", 0, b"", b"[1]\n"),
        (b"", 0, b"", None),
    ],
)
def test_a_journal_mends_its_end_and_nothing_else(tmp_path, data, rows, kept, torn):
    file, aside = tmp_path / "j.jsonl", tmp_path / "j.jsonl.torn"
    file.write_bytes(data)
    journal = Journal(file)
    assert len(journal.rows) == rows and file.read_bytes() == kept
    assert (aside.read_bytes() if aside.exists() else None) == torn and bool(journal.set_aside) == bool(torn)
    journal.append({"a": 3, "é": None})
    assert file.read_bytes().endswith(b'{"a": 3, "\\u00e9": null}\n') and len(Journal(file).rows) == rows + 1


def test_a_journal_with_a_broken_line_in_its_middle_is_refused_by_line(tmp_path):
    (tmp_path / "j.jsonl").write_bytes(b'{"a": 1}\nnope\n{"a": 2}\n')
    with pytest.raises(ValueError, match="line 2: not a JSON object; repair or delete"):
        Journal(tmp_path / "j.jsonl")
    (tmp_path / "t.jsonl").write_text(json.dumps({"photo": "p"}) + "\n")
    with pytest.raises(ValueError, match="row 1: not a trajectory .*'photo'"):
        annotate(Scripted((ANSWER,)), PHOTOS, FakeSearch(), tmp_path / "t.jsonl")


def test_a_row_that_does_not_fit_on_the_disk_leaves_whole_lines(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "j.jsonl")
    journal.append({"a": 1})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        journal.append({"a": 2})
    assert (tmp_path / "j.jsonl").read_bytes() == b'{"a": 1}\n'


def test_the_key_is_in_no_file_of_an_annotation(server, tmp_path):
    server.answer = lambda body: (
        natively(SEARCH_THEN_ANSWER[turn_of(body)]) if len(server.asked) <= 3 else status(401, f"bad {KEY}")
    )
    with pytest.raises(AnnotationStopped) as stopped:
        annotate(teacher(server, concurrency=1), PHOTOS, FakeSearch(), tmp_path / "a.jsonl")
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not any(KEY.encode() in data for data in files)
    assert KEY not in str(stopped.value) and KEY not in repr(stopped.value.__cause__)


def test_a_direct_answer_names_the_right_country_without_a_call_where_no_region_tells_more(make_trajectory):
    direct = make_trajectory(regions=[])
    direct.steps = direct.steps[-1:]
    assert answered_directly(direct) and not answered_directly(make_trajectory(regions=[]))
    for changed in ({"regions": [[1, 2, 3, 4]]}, {"country": "Spain"}, {"steps": [Step("<think>Hm.</think>")]}):
        assert not answered_directly(dataclasses.replace(direct, **changed))


def test_let_down_is_who_searched_trusted_nothing_and_still_names_the_right_country(make_trajectory):
    trusting = make_trajectory()
    zoom, search, last = trusting.steps
    doubting = dataclasses.replace(trusting, steps=[zoom, search, Step(last.text.replace("[2]", "[]"))])
    assert let_down(doubting) and not let_down(trusting)
    assert not let_down(dataclasses.replace(doubting, country="Spain"))
    assert not let_down(dataclasses.replace(doubting, steps=[zoom, doubting.steps[-1]]))  # it did not ask


def test_further_samples_make_up_their_shares_of_what_is_saved():
    counts = sample_counts(650, AnnotationConfig(direct_share=0.15, vain_share=0.15, failing_share=0.05))
    assert counts == {"direct": 150, "vain": 150, "failing": 50}


@pytest.mark.parametrize(("kind", "status"), [("vain", "ok"), ("failing", "service_error")])
def test_hard_luck_is_what_a_teacher_does_right_when_searches_let_it_down(kind, status):
    right, wrong = ANSWER, ANSWER.replace("Spain", "Chile")
    agent = Scripted(*[(call_text(TEXT, query="Valencia"), answer) for answer in (wrong, right)])
    rows, tried = hard_luck(kind, 2, agent, PHOTOS * 2, FakeSearch(), TINY)
    assert tried == 8 and [row.photo_id for row in rows] == ["p1", "p3"]  # four photos a sample; odd ones are right
    assert all(row.extra["sample"] == kind and row.extra["difficulty"] == "easy" for row in rows)
    assert {row.steps[0].observation.status for row in rows} == {status}
    assert not any(row.steps[0].observation.useful for row in rows)
