"""A teacher at work: what is finished is on disk at once and never asked again, whatever kills the run."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from environment_fakes import ANSWER, TEXT, FakeSearch, Scripted, call_text
from fake_endpoint import KEY, coloured, natively, status, turn_of

from reverse_lib.annotation import annotate, answered_directly, hard_luck, sample_counts, without_nudges
from reverse_lib.annotation.samples import let_down
from reverse_lib.annotation.teachers import AnnotationStopped
from reverse_lib.environment import FULL, TINY, UNREADABLE, AgentError, AgentRefused, rollout
from reverse_lib.models import Endpoint
from reverse_lib.photos import Photo, PhotoError
from reverse_lib.profiles import TEACHER_BUDGETS, AnnotationConfig, EndpointConfig
from reverse_lib.trajectory import Journal, Step, filter_trajectories, load_trajectories

TESTS = Path(__file__).parent
PHOTOS = [coloured(i) for i in range(8)]
IDS = [photo.photo_id for photo in PHOTOS]
SCRIPT = (call_text(TEXT, query="Valencia"), ANSWER)


class Teacher(Scripted):
    """Works through a script, each photo on its own, but raises what it is told to on some of them."""

    concurrency = 1

    def __init__(self, *scripts, errors=()):
        super().__init__(*(scripts or (SCRIPT,)))
        self.errors = dict(errors)

    def respond_for(self, photo_ids, conversations):
        for photo_id in photo_ids:
            if photo_id in self.errors:
                self.seen.append((photo_id, []))
                raise self.errors[photo_id]
        return super().respond_for(photo_ids, conversations)

    @property
    def asked(self):
        return [photo_id for photo_id, _ in self.seen]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "new" / "a.jsonl"


def endpoint(server, **settings):
    return Endpoint(EndpointConfig(server.url, "kimi", retries=1, price_out=1e4, **settings))


def test_every_photo_gets_a_trajectory_in_order_with_its_cost_and_the_file_holds_the_same(server, file):
    counts, server.answer = [], lambda body: natively(SCRIPT[turn_of(body)])
    done = annotate(endpoint(server), PHOTOS, FakeSearch(), file, progress=counts.append)
    assert [row.photo_id for row in done.trajectories] == IDS
    assert done.trajectories == sorted(load_trajectories(file), key=lambda row: row.photo_id)
    assert all(row.extra["n_nudges"] == 0 and row.km == 0.0 and row.agent == "kimi" for row in done.trajectories)
    assert done.trajectories[0].extra["interface"] == "full"
    assert done.usage()["requests"] == 16 and done.usage()["cost"] == pytest.approx(16 * 20 * 1e4 / 1e6)
    assert counts[0] == 0 and sum(counts) == 8 and not done.left_out and not done.resumed


def test_what_is_done_is_never_asked_again(file):
    counts, teacher = [], Teacher()
    annotate(Teacher(), PHOTOS[:3], FakeSearch(), file)
    done = annotate(teacher, PHOTOS, FakeSearch(), file, progress=counts.append)
    assert sorted(teacher.asked) == sorted(2 * IDS[3:]) and done.resumed == 3 and counts[0] == 3 and sum(counts) == 8
    assert [row.photo_id for row in done.trajectories] == IDS and done.usage() == {}
    again = annotate(Teacher(), [PHOTOS[0]] * 2, FakeSearch(), file)
    assert again.resumed == 1 and len(again.trajectories) == 2 and len(load_trajectories(file)) == 9


KILLED = """
import os, signal, sys
sys.path[:0] = [{tests!r}, {root!r}]
from environment_fakes import ANSWER, TEXT, FakeSearch, Scripted, call_text
from fake_endpoint import coloured
from reverse_lib.annotation import annotate
class Killed(Scripted):
    concurrency = 1
    def respond_for(self, photo_ids, conversations):
        if photo_ids == ["p3"] and len(conversations[0]) > 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().respond_for(photo_ids, conversations)
agent = Killed((call_text(TEXT, query="Valencia"), ANSWER))
annotate(agent, [coloured(i) for i in range(8)], FakeSearch(), {file!r})
"""


def test_a_killed_run_goes_on_without_paying_twice_and_sets_a_half_line_aside(file):
    code = KILLED.format(tests=str(TESTS), root=str(TESTS.parent), file=str(file))
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == -signal.SIGKILL
    whole = file.read_bytes()
    assert len(whole.splitlines()) == 3 and whole.endswith(b"\n")
    file.write_bytes(whole + b'{"photo_id": "p3", "steps": [{"te')
    teacher = Teacher()
    done = annotate(teacher, PHOTOS, FakeSearch(), file)
    assert done.resumed == 3 and set(teacher.asked) == set(IDS[3:]) and file.read_bytes().startswith(whole)
    assert len(done.trajectories) == len(load_trajectories(file)) == 8
    assert file.with_name("a.jsonl.torn").read_bytes() == b'{"photo_id": "p3", "steps": [{"te\n'


def test_a_failing_agent_stops_the_run_which_keeps_what_is_done_but_no_key_and_says_how_to_go_on(server, file):
    teacher, answer = endpoint(server, concurrency=1), lambda body: natively(SCRIPT[turn_of(body)])
    server.answer = lambda body: answer(body) if len(server.asked) <= 3 else status(401, f"bad {KEY}")
    with pytest.raises(AnnotationStopped, match=rf"3 of 8 photos .* kept in {file}; .* run the same again") as stopped:
        annotate(teacher, PHOTOS, FakeSearch(), file)
    rows = load_trajectories(file)
    assert [row.photo_id for row in rows] == IDS[:3] and all(row.end == "answered" for row in rows)
    assert KEY.encode() not in file.read_bytes()
    assert KEY not in str(stopped.value) and KEY not in repr(stopped.value.__cause__)
    server.answer = answer
    assert annotate(teacher, PHOTOS, FakeSearch(), file).resumed == 3 and len(load_trajectories(file)) == 8


def test_answers_under_way_when_another_conversation_fails_are_kept(file):
    together, failed = threading.Barrier(4, timeout=60), threading.Event()

    class Four(Teacher):
        concurrency = 4

        def respond_for(self, photo_ids, conversations):
            if together.wait() == 0:
                failed.set()
                raise AgentError("HTTP 401")
            failed.wait(60)
            return super().respond_for(photo_ids, conversations)

    with pytest.raises(AnnotationStopped, match="HTTP 401"):
        annotate(Four((ANSWER,)), PHOTOS[:4], FakeSearch(), file)
    assert len(load_trajectories(file)) == 3


def test_a_refused_photo_and_an_unreadable_one_are_left_out_by_name_and_asked_again_the_next_time(file):
    bad = Photo("bad", b"no picture at all", lat=1.0, lon=1.0)
    refusing = Teacher(errors={"p0": AgentRefused("not this one")})
    done = annotate(refusing, [*PHOTOS[:2], bad, *PHOTOS[2:]], FakeSearch(), file)
    assert [row.photo_id for row in done.trajectories] == IDS[1:]
    assert "not this one" in done.left_out["p0"] and "bad" in done.left_out and len(done.left_out) == 2
    done = annotate(Teacher(), PHOTOS, FakeSearch(), file)
    assert done.resumed == 7 and len(done.trajectories) == 8 and not done.left_out


def test_too_many_refusals_in_a_row_stop_the_run(file):
    refusing = Teacher(errors=dict.fromkeys(IDS, AgentRefused("what is this")) | {"p1": PhotoError("broken")})
    with pytest.raises(AnnotationStopped, match="what is this.*0 of 8 photos"):
        annotate(refusing, PHOTOS, FakeSearch(), file)
    assert refusing.asked == IDS[:5]


def test_a_search_service_that_stays_down_stops_the_run_before_it_is_paid_for_in_vain(file):
    with pytest.raises(AnnotationStopped, match="search service failed on 5 photos in a row. 5 of 8 photos"):
        annotate(Teacher((call_text(TEXT, query="down"), ANSWER)), PHOTOS, FakeSearch(), file)
    assert [row.steps[0].observation.status for row in load_trajectories(file)] == ["service_error"] * 5


def test_a_teacher_is_nudged_five_times_at_most_and_the_nudges_are_counted(file):
    teacher = Teacher(["Hm."] * 5 + [ANSWER], ["Hm."])
    last_moment, never = annotate(teacher, PHOTOS[:2], FakeSearch(), file).trajectories
    assert last_moment.end == "answered" and last_moment.extra["n_nudges"] == 5 and len(last_moment.steps) == 6
    assert never.end == "format" and len(never.steps) == 6
    assert never.extra["n_nudges"] == TEACHER_BUDGETS.nudges == 5


def test_without_nudges_a_rollout_reads_as_if_each_turn_had_been_readable(file):
    script = ("Hm.", call_text(TEXT, query="Valencia"), "<think>Oh.</think>", ANSWER)
    (row,) = annotate(Scripted(script), PHOTOS[:1], FakeSearch(), file).trajectories
    clean = without_nudges(row)
    (plain,) = rollout(Scripted(script[1::2]), PHOTOS[:1], FakeSearch())
    assert clean.steps == plain.steps and row.extra["n_nudges"] == clean.extra["n_nudges"] == 2
    assert row.steps[0].observation.tool == UNREADABLE and clean.km == 0.0
    assert filter_trajectories([row])[1]["no errors"] == 0 and filter_trajectories([clean])[0] == [clean]
    clean.extra["n_nudges"] = 6
    assert not filter_trajectories([clean])[0]


def test_each_teacher_and_each_interface_has_a_file_of_its_own(file, tmp_path):
    done = annotate(Scripted(SCRIPT), PHOTOS, FakeSearch(), file)  # any agent is a teacher
    assert [row.photo_id for row in done.trajectories] == IDS
    assert done.trajectories[0].extra["interface"] == TINY.name
    other = Scripted(SCRIPT)
    other.name = "another"
    with pytest.raises(ValueError, match="row 1: made with the teacher 'scripted', not 'another'; give each teacher"):
        annotate(other, PHOTOS, FakeSearch(), file)
    with pytest.raises(ValueError, match="interface 'tiny', not 'full'"):
        annotate(Scripted(SCRIPT), PHOTOS, FakeSearch(), file, interface=FULL)
    with pytest.raises(ValueError, match="name the file .jsonl"):
        annotate(other, PHOTOS, FakeSearch(), tmp_path / "a.parquet")
    (tmp_path / "t.jsonl").write_text(json.dumps({"photo": "p"}) + "\n")
    with pytest.raises(ValueError, match="row 1: not a trajectory .*'photo'"):
        annotate(Scripted((ANSWER,)), PHOTOS, FakeSearch(), tmp_path / "t.jsonl")


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


def test_a_journal_refuses_a_broken_line_in_its_middle_and_holds_whole_lines_on_a_full_disk(tmp_path, monkeypatch):
    (tmp_path / "broken.jsonl").write_bytes(b'{"a": 1}\nnope\n{"a": 2}\n')
    with pytest.raises(ValueError, match="line 2: not a JSON object; repair or delete"):
        Journal(tmp_path / "broken.jsonl")
    journal = Journal(tmp_path / "j.jsonl")
    journal.append({"a": 1})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        journal.append({"a": 2})
    assert (tmp_path / "j.jsonl").read_bytes() == b'{"a": 1}\n'


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
    scripts = [(call_text(TEXT, query="Valencia"), answer) for answer in (ANSWER.replace("Spain", "Chile"), ANSWER)]
    rows, tried = hard_luck(kind, 2, Scripted(*scripts), PHOTOS * 2, FakeSearch(), TINY)
    assert tried == 8 and [row.photo_id for row in rows] == ["p1", "p3"]  # four photos a sample; odd ones are right
    assert all(row.extra["sample"] == kind and row.extra["difficulty"] == "easy" for row in rows)
    assert {row.steps[0].observation.status for row in rows} == {status}
    assert not any(row.steps[0].observation.useful for row in rows)
