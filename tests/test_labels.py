"""Evidence labels: where each comes from, what a judge may say, and how well methods agree."""

import json
import math

import numpy as np
import pytest
from environment_fakes import ANSWER, IMAGE, TEXT, ZOOM
from fake_endpoint import KEY, FakeEndpoint, say, status
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, precision_score, recall_score

from reverse_lib.annotation import agreement_table, carried, cited, declared, judged, label
from reverse_lib.annotation.labels import agreement
from reverse_lib.annotation.regions import searched_boxes
from reverse_lib.annotation.teachers import AnnotationStopped
from reverse_lib.environment import NO_TURNS, rollout
from reverse_lib.models import Endpoint, EndpointConfig
from reverse_lib.trajectory import Observation, Step, Trajectory, load_trajectories, save_trajectories
from reverse_lib.world import ScriptedJudge, ScriptedTeacher


def search(n=3, tool=TEXT, **fields):
    results = [
        {"title": f"T{i}", "url": f"https://e.org/{i}", "source": "", "snippet": "", "useful": None} for i in range(n)
    ]
    arguments = {"query": "q"} if tool == TEXT else {"bbox_2d": [0, 0, 9, 9]}
    text = "\n".join(f"[{i + 1}] T{i}" for i in range(n)) + f"\n{NO_TURNS}"
    return Observation(tool, arguments, "ok" if n else "miss", text, results, **fields)


def row(*turns, lat=1.5, **fields):
    """A trajectory of (text, observation) pairs that ends with an answer."""
    steps = [Step(text, seen) for text, seen in turns]
    return Trajectory("p", [*steps, Step(ANSWER)], lat=lat, lon=2.5, country="Spain", city="Vigo", **fields)


def after(think, useful=None):
    return f"<think>{think}</think>" + (f"<useful>{useful}</useful>" if useful is not None else "")


CALL = '<tool_call>{"name": "text_search_tool", "arguments": {"query": "q"}}</tool_call>'
ROWS = [
    row(("<think>Hm.</think>" + CALL, search()), (after("[1] and [3] fit", "[3]") + CALL, search(2))),
    row(
        ("", search(3, IMAGE)), (after("So [2].", "[1, 7]") + CALL, search()), (after("None.", "[0]") + CALL, search(0))
    ),
]


def test_what_the_turn_after_a_search_says_is_read_and_silence_is_no_label():
    assert declared(ROWS) == {(0, 1): (False, False, True), (1, 1): (True, False, False)}
    assert cited(ROWS) == {(0, 1): (True, False, True), (1, 1): (False, True, False)}
    assert cited(ROWS, after=" and ") == {(0, 1): (False, False, True)}
    assert carried(ROWS) == {}


class Judge:
    """Gives prepared answers, and remembers what it was asked."""

    name = "judge"

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, conversations):
        self.asked += conversations
        return [self.answers.pop(0) for _ in conversations]


def test_each_search_is_labelled_by_the_first_method_that_says_something_and_names_it():
    judge = Judge("<useful>[2]</useful>", "<think>All?</think> Yes: <useful>[1, 3]</useful>")
    rows = [*ROWS, row(("", search()), (after("[2] fits.") + CALL, search(0)))]
    made = label(rows, judge)
    assert [methods(trajectory) for trajectory in made] == [
        [("declared", {3}), ("judge", {2})],
        [("declared", {1}), ("judge", {1, 3}), ("", set())],
        [("cited", {2}), ("", set())],
    ]
    assert all(s.observation.labelled == bool(s.observation.results) for t in made for s in t.steps if s.observation)
    assert made[0].evidence == ["https://e.org/2", "https://e.org/1"]
    assert made[1].evidence == ["https://e.org/0", "https://e.org/2"]  # image searches are no evidence of text
    assert carried(rows) == {} and rows[0].evidence == []  # copies
    assert methods(label(ROWS)[0]) == [("declared", {3}), ("", set())]  # nobody labels the last one


def methods(trajectory):
    """Of each call, how it was labelled, and what is useful."""
    return [(step.observation.label_method, step.observation.useful) for step in trajectory.steps if step.observation]


def test_labels_that_came_with_the_results_stay_and_say_so():
    there = search(labelled=True)
    there.results[1]["useful"] = True
    rows = [row(("", there), (after("[1]", "[1]") + CALL, search()))]
    made = label(rows, Judge("<useful>[]</useful>"), carried_as="cache")
    assert methods(made[0]) == [("cache", {2}), ("judge", set())]
    assert carried(made, "judge") == {(0, 2): (False, False, False)} and len(carried(made)) == 2


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_methods_survive_a_file(tmp_path, suffix):
    made = label(ROWS, Judge("<useful>[2]</useful>", "no", "no"))
    save_trajectories(tmp_path / f"t.{suffix}", made)
    again = load_trajectories(tmp_path / f"t.{suffix}")
    assert again == made and again[0].steps[1].observation.label_method == "judge"


def test_the_judge_sees_truth_call_and_results_and_no_tools():
    judge = Judge("<useful>[1]</useful>")
    judged(ROWS, judge, only={(0, 2)})
    ((system, user),) = judge.asked
    (block,) = user["content"]
    assert block["text"] == (
        'The photo was taken here: Spain, Vigo, 1.5000, 2.5000\ntext_search_tool: {"query": "q"}\n'
        "Results:\n[1] T0\n[2] T1"
    )
    assert system["role"] == "system" and "<useful>[1, 3]</useful>" in system["content"][0]["text"]


@pytest.mark.parametrize(
    "broken",
    ["[1]", "<useful>1</useful>", "<useful>[4]</useful>", "<useful>[1, 1]</useful>", "<useful>[0]</useful>", ""]
    + ["<useful>[1]</useful><useful>[2]</useful>", '<useful>["1"]</useful>', "<useful>[1", "<useful>[true]</useful>"],
)
def test_an_answer_that_cannot_be_read_is_asked_for_once_more_and_then_labels_nothing(broken):
    judge = Judge(broken, "<useful>[2]</useful>")
    assert judged(ROWS, judge, only={(0, 1)}) == {(0, 1): (False, True, False)}
    first, second = judge.asked
    assert (
        second[:2] == first
        and second[2]["content"][0]["text"] == broken
        and "1 to 3" in second[3]["content"][0]["text"]
    )
    judge = Judge(broken, broken)
    assert judged(ROWS, judge, only={(0, 1)}) == {} and len(judge.asked) == 2


def test_a_photo_whose_place_nobody_knows_is_not_judged():
    assert judged([row(("", search()), lat=None)], Judge()) == {}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = FakeEndpoint()
    yield made
    made.close()


MANY = [row(("", search(2 + i))) for i in range(6)]


def endpoint(server, **settings):
    return Endpoint(EndpointConfig(server.url, "judge", **{"retries": 1} | settings), sleep=lambda seconds: None)


def test_any_endpoint_is_a_judge_and_is_not_asked_again_about_what_is_in_the_file(server, tmp_path):
    file = tmp_path / "judged.jsonl"
    server.answer = lambda body: say("<useful>[2]</useful>" if "[3]" in str(body["messages"]) else "I don't know")
    judge = endpoint(server)
    found = judged(MANY, judge, file)
    assert sorted(found) == [(i, 1) for i in range(1, 6)] and found[1, 1] == (False, True, False)
    assert len(server.bodies) == 7 == judge.usage.requests and not any("tools" in body for body in server.bodies)
    assert judged([*MANY, MANY[3]], judge, file) == found | {(6, 1): found[3, 1]}
    assert len(server.bodies) == 7
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 6 and sum(line["useful"] is None for line in lines) == 1
    assert {line["judge"] for line in lines} == {"judge"}
    assert judged(MANY[:2], Judge("<useful>[]</useful>", "<useful>[1]</useful>"), tmp_path / "other.jsonl") != found


def test_a_judge_that_fails_labels_nothing_wrongly_and_keeps_what_it_said(server, tmp_path):
    file = tmp_path / "judged.jsonl"
    server.answer = lambda body: say("<useful>[1]</useful>") if len(server.bodies) <= 3 else status(500)
    with pytest.raises(AnnotationStopped, match="HTTP 500.*2 attempts.*run it again"):
        judged(MANY, endpoint(server, concurrency=1), file)
    assert len(file.read_text().splitlines()) == 3
    server.answer = lambda body: say("<useful>[1]</useful>")
    asked = len(server.bodies)
    assert len(judged(MANY, endpoint(server), file)) == 6 and len(server.bodies) == asked + 3


def test_a_refused_search_stays_unlabelled_and_too_many_in_a_row_stop_the_judge(server, tmp_path):
    server.queue = [status(400)]
    server.answer = lambda body: say("<useful>[1]</useful>")
    assert len(judged(MANY, endpoint(server, concurrency=1), tmp_path / "j.jsonl")) == 5
    assert len((tmp_path / "j.jsonl").read_text().splitlines()) == 5
    server.answer = lambda body: status(400)
    with pytest.raises(AnnotationStopped, match="refused"):
        judged(MANY, endpoint(server, concurrency=1), in_a_row=2)
    assert len(server.bodies) <= 6 + 3


flags = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30)


@given(st.lists(flags, max_size=4))
def test_agreement_is_that_of_scikit_learn(searches):
    ours = {(0, i): tuple(a for a, _ in one) for i, one in enumerate(searches)}
    theirs = {(0, i): tuple(b for _, b in one) for i, one in enumerate(searches)}
    a, b = (np.array([flag for one in labels.values() for flag in one], bool) for labels in (ours, theirs))
    found = agreement(ours, theirs)
    assert found["n"] == len(a)
    if len(a):
        assert found["precision"] == pytest.approx(precision_score(b, a, zero_division=np.nan), nan_ok=True)
        assert found["recall"] == pytest.approx(recall_score(b, a, zero_division=np.nan), nan_ok=True)
        both_constant = len(set(a)) == len(set(b)) == 1 and a[0] == b[0]
        assert math.isnan(found["kappa"]) if both_constant else found["kappa"] == pytest.approx(cohen_kappa_score(a, b))


def test_agreement_counts_the_searches_that_both_label():
    a = {(0, 0): (True, False), (0, 1): (True, True), (2, 0): (True,)}
    b = {(0, 0): (True, True), (2, 0): (False,), (3, 0): (True,)}
    assert agreement(a, b) == pytest.approx({"precision": 0.5, "recall": 0.5, "kappa": -0.5, "n": 3, "covered": 2 / 3})
    table = agreement_table({"a": a, "b": b, "none": {}})
    assert list(table.index) == [("a", "b"), ("a", "none"), ("b", "none")]
    assert table.loc[("a", "b"), "covered"] == pytest.approx(2 / 3) and table.loc[("a", "none"), "n"] == 0
    with pytest.raises(ValueError, match=r"search \(0, 0\): 2 and 1 results"):
        agreement(a, {(0, 0): (True,)})


@pytest.fixture(scope="module")
def annotated(world):
    return rollout(ScriptedTeacher(world), world.photos("train", 120), world.live)


def test_in_the_miniature_world_truth_is_known_and_methods_are_as_good_as_they_should_be(annotated):
    truth = carried(annotated)
    searches = [o for t in annotated for o in (s.observation for s in t.steps) if o and o.results]
    assert len(truth) == len(searches) > 100
    perfect, usual, poor = (
        agreement(judged(annotated, ScriptedJudge(wrong=wrong, unreadable=0)), truth)["kappa"]
        for wrong in (0, 0.05, 0.5)
    )
    assert perfect > 0.95 and 0.8 < usual < perfect and poor < 0.6
    assert agreement(cited(annotated), truth)["kappa"] < 0.1 < agreement(declared(annotated), truth)["kappa"]


def test_the_scripted_judge_is_unreadable_now_and_then_and_the_same_each_time(annotated):
    often = judged(annotated, ScriptedJudge(unreadable=0.7))
    assert often == judged(annotated[::-1][::-1], ScriptedJudge(unreadable=0.7))
    assert 0.3 < len(often) / len(carried(annotated)) < 0.7  # 1 - 0.7² = 0.51 are read at the first or second time
    assert judged(annotated, ScriptedJudge(seed=1)) != judged(annotated, ScriptedJudge())


def test_labelled_trajectories_tell_where_it_paid_to_look(annotated):
    blank = [
        Trajectory.from_dict(json.loads(json.dumps(one.to_dict()).replace('"labelled": true', '"labelled": false')))
        for one in annotated
    ]
    looked = next(one for one in blank if any(s.observation and s.observation.tool == IMAGE for s in one.steps))
    with pytest.raises(ValueError, match="without labels"):
        searched_boxes(looked)
    made = label(blank, ScriptedJudge())
    assert all(searched_boxes(one) is not None for one in made)
    assert {
        o.label_method for t in made for o in (s.observation for s in t.steps) if o and o.tool != ZOOM and o.results
    } == {"declared"}
