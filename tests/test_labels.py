"""Evidence labels: where each comes from, what a judge may say, how well methods agree, and where it paid to look."""

import copy
import json
import math

import pytest
from environment_fakes import ANSWER, IMAGE, TEXT, ZOOM
from fake_endpoint import say

from reverse_lib.annotation import agreement_table, carried, cited, declared, judged, label, searches, useful_regions
from reverse_lib.annotation.labels import agreement
from reverse_lib.annotation.regions import Region, searched_boxes
from reverse_lib.annotation.teachers import AnnotationStopped
from reverse_lib.environment import NO_TURNS, AgentError, AgentRefused, rollout
from reverse_lib.geo import box_iou
from reverse_lib.models import Endpoint
from reverse_lib.profiles import EndpointConfig
from reverse_lib.trajectory import Observation, Step, Trajectory
from reverse_lib.world import ScriptedJudge, ScriptedTeacher

SIGN, NEAR, SHOP = [100, 100, 200, 200], [110, 100, 210, 200], [600, 600, 900, 900]
CALL = '<tool_call>{"name": "text_search_tool", "arguments": {"query": "q"}}</tool_call>'


def call(tool=TEXT, n=3, box=SIGN, useful=None, status="ok"):
    """A tool call that brought `n` results; labelled where the useful ones are given."""
    results = [
        {"title": f"T{i}", "url": f"https://e.org/{i}", "useful": None if useful is None else i in useful}
        for i in range(1, n + 1)
        if tool != ZOOM and status == "ok"
    ]
    text = "\n".join(f"[{i}] T{i}" for i in range(1, n + 1)) + f"\n{NO_TURNS}"
    arguments = {"query": "q"} if tool == TEXT else {"bbox_2d": box}
    status = "miss" if tool != ZOOM and not n else status
    return Observation(tool, arguments, status, text, results, labelled=useful is not None)


def row(*turns, photo_id="p", lat=1.5):
    """A trajectory of (text, observation) pairs that ends with an answer."""
    steps = [Step(text, observation) for text, observation in turns]
    return Trajectory(photo_id, [*steps, Step(ANSWER)], lat=lat, lon=2.5, country="Spain", city="Vigo")


def after(think, useful=None):
    return f"<think>{think}</think>" + (f"<useful>{useful}</useful>" if useful is not None else "")


def methods(trajectory):
    """Of each call, how it was labelled, and what is useful."""
    return [(step.observation.label_method, step.observation.useful) for step in trajectory.steps if step.observation]


ROWS = [
    row(("<think>Hm.</think>" + CALL, call()), (after("[1] and [3] fit", "[3]") + CALL, call(n=2))),
    row(("", call(IMAGE)), (after("So [2].", "[1, 7]") + CALL, call()), (after("None.", "[0]") + CALL, call(n=0))),
]
MANY = [row(("", call(n=2 + i))) for i in range(6)]


class Judge:
    """Gives prepared answers (an error is raised), and remembers what it was asked."""

    name = "judge"

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, conversations):
        self.asked += conversations
        answers = [self.answers.pop(0) if self.answers else "<useful>[1]</useful>" for _ in conversations]
        if errors := [answer for answer in answers if isinstance(answer, Exception)]:
            raise errors[0]
        return answers


def test_what_the_turn_after_a_search_says_is_read_and_silence_is_no_label():
    assert declared(ROWS) == {(0, 1): (False, False, True), (1, 1): (True, False, False)}
    assert cited(ROWS) == {(0, 1): (True, False, True), (1, 1): (False, True, False)}
    assert cited(ROWS, after=" and ") == {(0, 1): (False, False, True)}
    assert carried(ROWS) == {} and list(searches(ROWS[1])) == [1, 2]  # the last one brought nothing


def test_each_search_is_labelled_by_the_first_method_that_says_something_and_names_it():
    judge = Judge("<useful>[2]</useful>", "<think>All?</think> Yes: <useful>[1, 3]</useful>")
    rows = [*ROWS, row(("", call()), (after("[2] fits.") + CALL, call(n=0)))]
    made = label(rows, judge)
    assert [methods(trajectory) for trajectory in made] == [
        [("declared", {3}), ("judge", {2})],
        [("declared", {1}), ("judge", {1, 3}), ("", set())],
        [("cited", {2}), ("", set())],
    ]
    assert all(s.observation.labelled == bool(s.observation.results) for t in made for s in t.steps if s.observation)
    assert made[0].evidence == ["https://e.org/3", "https://e.org/2"]
    assert made[1].evidence == ["https://e.org/1", "https://e.org/3"]  # image searches are no evidence of text
    assert carried(rows) == {} and rows[0].evidence == []  # copies
    assert methods(label(ROWS)[0]) == [("declared", {3}), ("", set())]  # nobody labels the last one


def test_labels_that_came_with_the_results_stay_and_say_so():
    rows = [row(("", call(useful=(2,))), (after("[1]", "[1]") + CALL, call()))]
    made = label(rows, Judge("<useful>[]</useful>"))
    assert methods(made[0]) == [("world", {2}), ("judge", set())]
    assert carried(made) == {(0, 1): (False, True, False), (0, 2): (False, False, False)}


def test_the_judge_sees_truth_call_and_results_and_no_tools():
    judge, with_tools = Judge(), Judge()
    with_tools.without_tools = lambda: judge
    judged(ROWS, with_tools, only={(0, 2)})
    ((system, user),) = judge.asked
    (block,) = user["content"]
    assert block["text"] == (
        'The photo was taken here: Spain, Vigo, 1.5000, 2.5000\ntext_search_tool: {"query": "q"}\n'
        "Results:\n[1] T1\n[2] T2"
    )
    assert system["role"] == "system" and "<useful>[1, 3]</useful>" in system["content"][0]["text"]
    assert judged([row(("", call()), lat=None)], judge) == {} and len(judge.asked) == 1  # a place nobody knows


@pytest.mark.parametrize(
    "broken",
    ["[1]", "<useful>1</useful>", "<useful>[4]</useful>", "<useful>[1, 1]</useful>", "<useful>[0]</useful>", ""]
    + ["<useful>[1]</useful><useful>[2]</useful>", '<useful>["1"]</useful>', "<useful>[1", "<useful>[true]</useful>"],
)
def test_an_answer_that_cannot_be_read_is_asked_for_once_more_and_then_labels_nothing(broken):
    judge = Judge(broken, "<useful>[2]</useful>")
    assert judged(ROWS, judge, only={(0, 1)}) == {(0, 1): (False, True, False)}
    first, second = judge.asked
    assert second[:2] == first and second[2]["content"][0]["text"] == broken
    assert "1 to 3" in second[3]["content"][0]["text"]
    judge = Judge(broken, broken)
    assert judged(ROWS, judge, only={(0, 1)}) == {} and len(judge.asked) == 2


def test_a_judge_is_not_asked_again_about_what_is_in_the_file(tmp_path):
    file, judge = tmp_path / "judged.jsonl", Judge("What?", "I don't know.")
    labels = judged(MANY, judge, file)
    assert sorted(labels) == [(i, 1) for i in range(1, 6)] and labels[1, 1] == (True, False, False)
    assert len(judge.asked) == 7
    assert judged([*MANY, MANY[3]], judge, file) == labels | {(6, 1): labels[3, 1]} and len(judge.asked) == 7
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["useful"] for line in lines] == [None, *[[1]] * 5] and {line["judge"] for line in lines} == {"judge"}
    other = Judge()
    other.name = "another"
    assert len(judged(MANY, other, file)) == 6 == len(other.asked)


def test_a_chat_server_is_a_judge_and_is_shown_no_tools(server):
    server.answer = lambda body: say("<useful>[2]</useful>" if "[3]" in str(body["messages"]) else "Hm.")
    labels = judged(MANY, Endpoint(EndpointConfig(server.url, "judge")))
    assert sorted(labels) == [(i, 1) for i in range(1, 6)] and labels[1, 1] == (False, True, False)
    assert len(server.bodies) == 7 and not any("tools" in body for body in server.bodies)


def test_a_judge_that_fails_labels_nothing_wrongly_and_keeps_what_it_said(tmp_path):
    file, good = tmp_path / "judged.jsonl", "<useful>[1]</useful>"
    with pytest.raises(AnnotationStopped, match="HTTP 500.*run it again"):
        judged(MANY, Judge(good, good, good, AgentError("HTTP 500")), file)
    kept = len(file.read_text().splitlines())
    judge = Judge()
    judge.concurrency = 3
    assert kept >= 3 and len(judged(MANY, judge, file)) == 6 and len(judge.asked) == 6 - kept


def test_a_refused_search_stays_unlabelled_and_too_many_in_a_row_stop_the_judge(tmp_path):
    refusal = AgentRefused("refused")
    assert len(judged(MANY, Judge(refusal), tmp_path / "j.jsonl")) == 5
    assert len((tmp_path / "j.jsonl").read_text().splitlines()) == 5
    refusing = Judge(*[refusal] * 6)
    with pytest.raises(AnnotationStopped, match="refused"):
        judged(MANY, refusing)
    assert judged(MANY, Judge(*[refusal] * 4)).keys() == {(4, 1), (5, 1)}


def test_kappa_is_that_worked_by_hand_and_is_unknown_where_both_always_say_one_thing():
    """Of ten results both say yes to 3, no to 4, the first alone to 2, the second alone to 1.

    Observed 0.7; by chance 0.5 · 0.4 + 0.5 · 0.6 = 0.5; kappa (0.7 - 0.5) / (1 - 0.5) = 0.4.
    """
    ours, theirs = [True] * 5 + [False] * 5, [True] * 3 + [False] * 2 + [True] + [False] * 4
    expected = {"precision": 3 / 5, "recall": 3 / 4, "kappa": 0.4, "n": 10, "covered": 1}
    assert agreement({(0, 1): tuple(ours)}, {(0, 1): tuple(theirs)}) == pytest.approx(expected)
    nothing = agreement({(0, 1): (False, False)}, {(0, 1): (False, False)})
    assert all(math.isnan(nothing[name]) for name in ("precision", "recall", "kappa")) and nothing["n"] == 2


def test_agreement_counts_the_searches_that_both_label():
    a = {(0, 1): (True, False), (0, 2): (True, True), (2, 1): (True,)}
    b = {(0, 1): (True, True), (2, 1): (False,), (3, 1): (True,)}
    expected = {"precision": 0.5, "recall": 0.5, "kappa": -0.5, "n": 3, "covered": 2 / 3}
    assert agreement(a, b) == pytest.approx(expected)
    table = agreement_table({"a": a, "b": b, "none": {}})
    assert list(table.index) == [("a", "b"), ("a", "none"), ("b", "none")] and list(table.columns) == list(expected)
    assert table.loc[("a", "b"), "covered"] == pytest.approx(2 / 3) and table.loc[("a", "none"), "n"] == 0
    with pytest.raises(ValueError, match=r"search \(0, 1\): 2 and 1 results"):
        agreement(a, {(0, 1): (True,)})


@pytest.fixture(scope="module")
def annotated(world):
    return rollout(ScriptedTeacher(world), world.photos("train", 120), world.live)


def test_in_the_miniature_world_truth_is_known_and_methods_are_as_good_as_they_should_be(annotated):
    truth = carried(annotated)
    assert len(truth) == sum(len(searches(trajectory)) for trajectory in annotated) > 100
    judges = [ScriptedJudge(wrong=wrong, unreadable=0) for wrong in (0, 0.05, 0.5)]
    perfect, usual, poor = (agreement(judged(annotated, judge), truth)["kappa"] for judge in judges)
    assert perfect > 0.95 and 0.8 < usual < perfect and poor < 0.6
    assert agreement(cited(annotated), truth)["kappa"] < 0.1 < agreement(declared(annotated), truth)["kappa"]


def test_the_scripted_judge_is_unreadable_now_and_then_and_the_same_each_time(annotated):
    often = judged(annotated, ScriptedJudge(unreadable=0.7))
    assert often == judged(annotated, ScriptedJudge(unreadable=0.7))
    assert 0.3 < len(often) / len(carried(annotated)) < 0.7  # 1 - 0.7² = 0.51 are read at the first or second time
    assert judged(annotated, ScriptedJudge(seed=1)) != judged(annotated, ScriptedJudge())


def looked(*observations, photo_id="p"):
    return row(*(("", observation) for observation in observations), photo_id=photo_id)


def test_evidence_is_credited_to_the_box_it_came_from():
    zoom = call(ZOOM, box=SIGN)
    found, nothing = call(useful=(1,)), call(useful=())
    trajectory = looked(zoom, nothing, found, call(IMAGE, box=SHOP, useful=()), found, call(ZOOM, box=NEAR))
    assert searched_boxes(trajectory) == [(SIGN, True), (SHOP, True)]  # the last zoom was followed by nothing
    assert searched_boxes(looked(found)) == []


def test_overlapping_boxes_are_one_region_and_say_how_often_they_paid():
    rows = [
        looked(call(IMAGE, box=SIGN, useful=(1,))),
        looked(call(IMAGE, box=NEAR, useful=())),
        looked(call(ZOOM, box=SIGN), call(useful=(1,))),
        looked(call(IMAGE, box=SHOP, useful=())),
        looked(call(IMAGE, box=SHOP, useful=(3,)), photo_id="other"),
    ]
    regions = useful_regions(rows)
    assert regions == {"p": [Region((103, 100, 203, 200), 3, 2)], "other": [Region((600, 600, 900, 900), 1, 1)]}


def test_failed_calls_and_broken_boxes_are_no_tries_and_searches_nobody_labelled_are_refused_by_photo():
    failed = call(IMAGE, status="service_error", useful=())
    trajectory = looked(failed, call(IMAGE, box="here", n=0), call(ZOOM, box=[1, 2]))
    assert searched_boxes(trajectory) == [] and useful_regions([trajectory]) == {"p": []}
    with pytest.raises(ValueError, match="photo p7: a search without labels"):
        useful_regions([looked(call(IMAGE), photo_id="p7")])


def test_in_the_miniature_world_it_paid_to_look_at_the_informative_regions_by_any_labels(world, annotated):
    blank = copy.deepcopy(annotated)
    for search in (search for trajectory in blank for search in searches(trajectory).values()):
        search.labelled = False
    relabelled = label(blank, ScriptedJudge())
    assert {search.label_method for t in relabelled for search in searches(t).values()} == {"declared"}
    photos = world.photos("train", 120)
    for trajectories, least in ((annotated, 0.9), (relabelled, 0.8)):
        regions = useful_regions(trajectories)
        pairs = [(regions[p.photo_id][0].bbox_2d, p.regions[0]) for p in photos if regions[p.photo_id] and p.regions]
        assert len(pairs) > 50 and sum(box_iou(a, b) > 0.4 for a, b in pairs) > least * len(pairs)
