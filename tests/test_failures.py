"""Why answers are wrong: one trajectory by hand for each cause, and errors planted in the scripted teacher."""

import dataclasses

import numpy as np
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
def planted(world):
    """A function: the causes of 60 photos of a teacher that errs in the given way only, and the photos."""
    photos = world.photos("val", 60)

    def run(search=None, agent=None, **errors):
        teacher = ScriptedTeacher(world, **{**FAULTLESS, **errors})
        done = rollout(agent(teacher) if agent else teacher, photos, search or world.live, budgets=Budgets(nudges=0))
        frame = to_frame(done)
        return causes(frame), frame, photos

    return run


class Twisted:
    """The teacher, with its last turn changed."""

    reads_pixels, name = False, "twisted"

    def __init__(self, teacher, change):
        self.teacher, self.change = teacher, change

    def respond_for(self, photo_ids, conversations):
        texts = self.teacher.respond_for(photo_ids, conversations)
        return [self.change(text) if "<answer>" in text else text for text in texts]


def test_trajectories_of_the_teacher_each_have_exactly_one_cause(world):
    photos = world.photos("val", 120)
    frame = to_frame(rollout(ScriptedTeacher(world), photos, world.live))
    found = causes(frame)
    table = count_causes({"teacher": frame})
    assert found.isin(list(CAUSES)).all() and table["count"].sum() == 120
    assert ((found == "none") == (frame["km"] <= 25)).all()
    bare = np.array([not photo.regions for photo in photos])
    assert (found[bare & (frame["km"] > 25)] == "nothing searchable").all()
    assert not (found[~bare] == "nothing searchable").any()
    assert (table.droplevel(0).loc[["wrong region", "useless query", "nothing searchable"], "count"] > 0).all()


def test_a_faultless_teacher_fails_where_nothing_is_searchable_and_almost_nowhere_else(planted):
    found, _, photos = planted()
    failed = found[found != "none"]
    assert (failed == "nothing searchable").sum() >= len(failed) - 2
    assert (found == "nothing searchable").sum() == sum(not photo.regions for photo in photos)


def test_a_teacher_that_sees_nothing_or_only_decoys_looked_at_the_wrong_region(planted):
    overlooks, frame, photos = planted(overlooks=1.0)
    annotated = np.array([bool(photo.regions) for photo in photos])
    assert set(overlooks[annotated & (frame["km"] > 25)]) == {"wrong region"}
    decoys, frame, photos = planted(decoy_box=1.0, gives_up=1.0)
    fooled = np.array([any(not mark.informative for mark in photo.marks) for photo in photos]) & annotated
    assert set(decoys[fooled & (frame["km"] > 25)]) == {"wrong region"} and fooled.sum() > 20


def test_a_teacher_that_gives_up_after_one_look_asked_nothing_useful(planted):
    found, frame, photos = planted(gives_up=1.0, sloppy_box=1.0)
    zoomed = np.array([bool(photo.regions) for photo in photos]) & (frame["calls_zoom"] > 0)
    assert set(found[zoomed & (frame["km"] > 25)]) == {"useless query"} and zoomed.sum() > 20


def test_verdicts_turned_round_are_distractors_trusted_and_a_wrong_country_hides_the_evidence(planted):
    found, frame, _ = planted(wrong_verdict=1.0)
    assert (found == "distractor trusted").mean() > 0.7
    found, frame, _ = planted(country_error=1.0)
    assert (found == "evidence not trusted").mean() > 0.5 and not (found == "wrong answer").any()


def test_a_miscopied_position_is_a_wrong_answer_and_a_broken_one_is_format(planted):
    def far(text):
        return text[: text.index("<answer>")] + "<answer>Chile, Santiago, -33.45, -70.66</answer>"

    found, frame, _ = planted(agent=lambda teacher: Twisted(teacher, far))
    trusted = (frame["evidence_recall"] > 0) & (frame["evidence_precision"] == 1)
    assert set(found[trusted]) == {"wrong answer"} and trusted.sum() > 30
    found, _, _ = planted(agent=lambda teacher: Twisted(teacher, lambda text: text.replace("</answer>", "")))
    assert set(found) == {"format"}


def test_a_dead_service_is_named_for_every_photo_that_asked_it(planted, world):
    found, frame, _ = planted(search=Failing(world.live))
    asked = frame["calls_text"] + frame["calls_image"] > 0
    assert set(found[asked]) == {"service error"} and "service error" not in set(found[~asked])
