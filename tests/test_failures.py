"""Why answers are wrong: one trajectory by hand for each cause, and errors planted in the scripted teacher."""

import dataclasses

import pandas as pd
import pytest
from teacher_helpers import FAULTLESS

from reverse_lib.environment import rollout
from reverse_lib.evaluation import CAUSES, causes, count_causes, to_frame
from reverse_lib.evaluation.failures import cause
from reverse_lib.evaluation.metrics import share
from reverse_lib.profiles import Budgets
from reverse_lib.search import Failing
from reverse_lib.trajectory import Observation
from reverse_lib.world import ScriptedTeacher

MADRID = "Spain, Madrid, 40.42, -3.70"
ELSEWHERE = [600, 600, 700, 700]


@pytest.fixture
def wrong(make_trajectory):
    """A function: the hand-made trajectory with a wrong answer, some things in it changed.

    It zooms into the annotated region and searches; of two results the second is useful, and is trusted.
    """

    def make(zoom=None, useful=(False, True), trusts="[2]", labelled=True, answer=MADRID, **fields):
        trajectory = make_trajectory(answer=answer, **fields)
        look, search, last = trajectory.steps
        if zoom:
            look.text = look.text.replace("[100, 200, 300, 400]", str(zoom))
            look.observation.arguments["bbox_2d"] = zoom
        for result, flag in zip(search.observation.results, useful, strict=True):
            result["useful"] = flag
        search.observation.labelled = labelled
        last.text = last.text.replace("<useful>[2]</useful>", f"<useful>{trusts}</useful>" if trusts else "")
        return trajectory

    return make


RIGHT = "France, Paris, 48.85, 2.35"
USELESS = {"useful": (False, False)}
UNLABELLED = {"useful": (None, None), "labelled": False}
BARE = {"regions": [], "evidence": [], **USELESS}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"zoom": ELSEWHERE, **USELESS, "answer": RIGHT}, "none"),
        ({"answer": "France, Paris, 49.08, 2.35"}, "none"),  # 24.8 km
        ({"answer": "France, Paris, 49.09, 2.35"}, "wrong answer"),  # 25.9 km
        ({"zoom": ELSEWHERE, **USELESS, "trusts": "[]"}, "wrong region"),
        ({"zoom": ELSEWHERE, **USELESS, "trusts": "[1]"}, "wrong region"),
        ({"zoom": [0, 100, 400, 500], **USELESS}, "useless query"),  # twice as wide and high: IoU 4/16
        ({"zoom": [0, 0, 500, 500], **USELESS}, "wrong region"),  # IoU 4/25
        ({**USELESS, "trusts": "[]"}, "useless query"),
        ({**USELESS, "trusts": "[1]"}, "useless query"),
        ({**USELESS, "regions": []}, "useless query"),  # known evidence, no annotated region: the query alone is left
        ({"trusts": "[]"}, "evidence not trusted"),
        ({"trusts": None}, "evidence not trusted"),
        ({"trusts": "[1]"}, "distractor trusted"),
        ({"trusts": "[1, 2]"}, "distractor trusted"),
        ({}, "wrong answer"),
        ({"zoom": ELSEWHERE}, "wrong answer"),
        ({**BARE, "trusts": "[1]"}, "nothing searchable"),
        ({"answer": None}, "format"),
        ({"answer": "somewhere in France"}, "format"),
        (UNLABELLED, "not labelled"),
        ({**UNLABELLED, "regions": [], "evidence": []}, "not labelled"),
        ({**UNLABELLED, "zoom": ELSEWHERE}, "wrong region"),  # the region is still known
    ],
)
def test_the_cause_is_the_first_link_that_broke(wrong, changes, expected):
    assert cause(wrong(**changes)) == expected


def test_a_search_that_was_never_made_or_brought_nothing_is_a_useless_query(wrong):
    empty, unsearched, bare, blind = wrong(), wrong(), wrong(**BARE), wrong()
    empty.steps[1].observation = Observation("text_search_tool", {"query": "Paris"}, "miss", "No results")
    assert cause(empty) == "useless query"
    for trajectory in (unsearched, bare, blind):
        trajectory.steps[2].text = trajectory.steps[2].text.replace("<useful>[2]</useful>", "")
        del trajectory.steps[1]
    assert cause(unsearched) == "useless query" and cause(bare) == "nothing searchable"
    del blind.steps[0]
    assert cause(blind) == "wrong region"


def test_evidence_of_an_earlier_search_counts_for_the_whole_photo(wrong):
    twice = wrong(trusts="[]")
    again = dataclasses.replace(twice.steps[1].observation, results=[dict(twice.steps[1].observation.results[0])])
    middle = dataclasses.replace(twice.steps[1], observation=again)
    middle.text = middle.text.replace("</think>", "</think><useful>[2]</useful>")
    twice.steps.insert(2, middle)
    assert cause(twice) == "wrong answer"
    middle.text = middle.text.replace("<useful>[2]", "<useful>[1, 2]")
    assert cause(twice) == "distractor trusted"


def test_a_failed_service_comes_before_everything_else_and_a_photo_without_truth_has_no_failure(wrong, make_trajectory):
    failed = wrong(answer=RIGHT)
    failed.steps[1].observation.status = "service_error"
    assert cause(failed) == "service error"
    with pytest.raises(ValueError, match="p1: no failure without a truth"):
        cause(make_trajectory(truth=None))


def test_counts_are_complete_and_have_intervals(wrong):
    frame = to_frame([wrong(photo_id=f"p{i}", trusts=trusts) for i, trusts in enumerate(["[2]", "[2]", "[1]", "[]"])])
    table = count_causes({"before": frame, "after": frame[:2]})
    assert table.loc["before"].index.tolist() == list(CAUSES) and len(table) == 2 * len(CAUSES)
    assert table.loc["before", "count"].sum() == 4 and table.loc["after", "count"].sum() == 2
    row = table.loc[("before", "wrong answer")]
    assert (row["count"], row["n"]) == (2, 4) and row[["value", "low", "high"]].to_dict() == share(2, 4)
    empty = causes(pd.DataFrame({"trajectory": []}))
    assert len(empty) == 0 and empty.name == "cause"


@pytest.fixture(scope="module")
def photos(world):
    return world.photos("val", 60)


def answered(photos, agent, search):
    """The table of an agent's answers, with their causes."""
    frame = to_frame(rollout(agent, photos, search, budgets=Budgets(nudges=0)))
    return frame.assign(cause=causes(frame), searchable=[bool(photo.regions) for photo in photos])


def test_trajectories_of_the_teacher_each_have_exactly_one_cause(world, photos):
    frame = answered(photos, ScriptedTeacher(world), world.live)
    table = count_causes({"teacher": frame}).droplevel(0)
    assert frame["cause"].isin(list(CAUSES)).all() and table["count"].sum() == 60
    assert ((frame["cause"] == "none") == (frame["km"] <= 25)).all()
    missed = frame[frame["km"] > 25]
    assert ((missed["cause"] == "nothing searchable") == ~missed["searchable"]).all()
    assert (table.loc[["wrong region", "useless query", "nothing searchable"], "count"] > 0).all()


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ({"overlooks": 1.0}, "wrong region"),
        ({"decoy_box": 1.0, "gives_up": 1.0}, "wrong region"),
        ({"gives_up": 1.0, "sloppy_box": 1.0}, "useless query"),
        ({"wrong_verdict": 1.0}, "distractor trusted"),
        ({"country_error": 1.0}, "evidence not trusted"),
    ],
)
def test_an_error_planted_in_the_teacher_is_named_where_there_was_something_to_find(world, photos, errors, expected):
    frame = answered(photos, ScriptedTeacher(world, **{**FAULTLESS, **errors}), world.live)
    missed = frame[frame["searchable"] & (frame["km"] > 25)]
    assert len(missed) > 40 and (missed["cause"] == expected).mean() > 0.8
    assert not (frame["cause"] == "wrong answer").any()


class Twisted:
    """A faultless teacher, with its last turn changed."""

    reads_pixels, name = False, "twisted"

    def __init__(self, world, change):
        self.teacher, self.change = ScriptedTeacher(world, **FAULTLESS), change

    def respond_for(self, photo_ids, conversations):
        texts = self.teacher.respond_for(photo_ids, conversations)
        return [self.change(text) if "<answer>" in text else text for text in texts]


def test_a_faultless_teacher_fails_where_nothing_is_searchable_unless_its_answer_is_changed_or_a_service_is_dead(
    world, photos
):
    def far(text):
        return text[: text.index("<answer>")] + "<answer>Chile, Santiago, -33.45, -70.66</answer>"

    frame = answered(photos, Twisted(world, str), world.live)
    assert set(frame["cause"][frame["searchable"]]) == {"none"}
    assert set(frame["cause"][~frame["searchable"]]) == {"nothing searchable"}
    frame = answered(photos, Twisted(world, far), world.live)
    trusted = (frame["evidence_recall"] > 0) & (frame["evidence_precision"] == 1)
    assert set(frame["cause"][trusted]) == {"wrong answer"} and trusted.sum() > 30
    frame = answered(photos, Twisted(world, lambda text: text.replace("</answer>", "")), world.live)
    assert set(frame["cause"]) == {"format"}
    frame = answered(photos, Twisted(world, str), Failing(world.live))
    asked = frame["calls_text"] + frame["calls_image"] > 0
    assert set(frame["cause"][asked]) == {"service error"} and "service error" not in set(frame["cause"][~asked])
