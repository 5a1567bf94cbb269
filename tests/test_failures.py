"""Why answers are wrong: one trajectory by hand for each cause, and errors planted in the scripted teacher."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from teacher_helpers import FAULTLESS

from reverse_lib.environment import rollout
from reverse_lib.evaluation import CAUSES, failures, to_frame
from reverse_lib.evaluation.failures import cause
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
        made = make_trajectory(answer=answer, **fields)
        if zoom:
            made.steps[0].text = made.steps[0].text.replace("[100, 200, 300, 400]", str(zoom))
            made.steps[0].observation.arguments["bbox_2d"] = zoom
        shown = made.steps[1].observation
        for result, flag in zip(shown.results, useful, strict=True):
            result["useful"] = flag
        shown.labelled = labelled
        made.steps[2].text = made.steps[2].text.replace("<useful>[2]", f"<useful>{trusts}")
        return made

    return make


def without_search(trajectory):
    trajectory.steps = [trajectory.steps[0], trajectory.steps[2]]
    trajectory.steps[1].text = trajectory.steps[1].text.replace("<useful>[2]</useful>", "")
    return trajectory


def test_an_answer_within_25_km_has_no_cause_whatever_else_went_wrong(wrong):
    assert cause(wrong(zoom=ELSEWHERE, useful=(False, False), answer="France, Paris, 48.85, 2.35")) == "none"
    assert cause(wrong(answer="France, Paris, 49.08, 2.35")) == "none"  # 24.8 km
    assert cause(wrong(answer="France, Paris, 49.09, 2.35")) == "wrong answer"  # 25.9 km


def test_looking_elsewhere_or_nowhere_and_finding_nothing_is_the_wrong_region(wrong):
    assert cause(wrong(zoom=ELSEWHERE, useful=(False, False), trusts="[]")) == "wrong region"
    assert cause(wrong(zoom=ELSEWHERE, useful=(False, False), trusts="[1]")) == "wrong region"
    nowhere = wrong()
    nowhere.steps = [without_search(nowhere).steps[1]]
    assert cause(nowhere) == "wrong region"


def test_a_box_twice_as_wide_and_high_still_looks_at_the_region_and_a_larger_one_does_not(wrong):
    assert cause(wrong(zoom=[0, 100, 400, 500], useful=(False, False))) == "useless query"  # IoU 4/16
    assert cause(wrong(zoom=[0, 0, 500, 500], useful=(False, False))) == "wrong region"  # IoU 4/25


def test_the_right_region_without_useful_results_or_without_any_search_is_a_useless_query(wrong):
    assert cause(wrong(useful=(False, False), trusts="[]")) == "useless query"
    assert cause(wrong(useful=(False, False), trusts="[1]")) == "useless query"
    assert cause(without_search(wrong())) == "useless query"
    empty = wrong()
    empty.steps[1].observation = Observation("text_search_tool", {"query": "Paris"}, "miss", "No results")
    assert cause(empty) == "useless query"


def test_useful_evidence_that_is_shown_and_not_called_useful_is_not_trusted(wrong):
    assert cause(wrong(trusts="[]")) == "evidence not trusted"
    silent = wrong()
    silent.steps[2].text = silent.steps[2].text.replace("<useful>[2]</useful>", "")
    assert cause(silent) == "evidence not trusted"


def test_a_result_that_is_not_useful_and_called_so_is_a_distractor_also_beside_a_useful_one(wrong):
    assert cause(wrong(trusts="[1]")) == "distractor trusted"
    assert cause(wrong(trusts="[1, 2]")) == "distractor trusted"


def test_the_right_evidence_and_another_answer_is_a_wrong_answer_wherever_it_looked(wrong):
    assert cause(wrong()) == "wrong answer"
    assert cause(wrong(zoom=ELSEWHERE)) == "wrong answer"


def test_evidence_of_an_earlier_search_counts_for_the_whole_photo(wrong):
    twice = wrong(trusts="[]")
    again = dataclasses.replace(twice.steps[1].observation, results=[dict(twice.steps[1].observation.results[0])])
    middle = dataclasses.replace(twice.steps[1], observation=again)
    middle.text = middle.text.replace("</think>", "</think><useful>[2]</useful>")
    twice.steps.insert(2, middle)
    assert cause(twice) == "wrong answer"
    middle.text = middle.text.replace("<useful>[2]", "<useful>[1, 2]")
    assert cause(twice) == "distractor trusted"


def test_nothing_annotated_and_nothing_useful_is_nothing_searchable_whatever_was_trusted(wrong):
    bare = dict(regions=[], evidence=[], useful=(False, False))
    assert cause(wrong(**bare, trusts="[1]")) == "nothing searchable"
    assert cause(without_search(wrong(**bare))) == "nothing searchable"


def test_known_evidence_without_annotated_regions_leaves_only_the_query_to_blame(wrong):
    assert cause(wrong(regions=[], useful=(False, False))) == "useless query"


def test_an_unreadable_answer_is_a_matter_of_format(wrong):
    assert cause(wrong(answer=None)) == "format"
    assert cause(wrong(answer="somewhere in France")) == "format"


def test_a_failed_service_comes_before_everything_else(wrong):
    failed = wrong(answer="France, Paris, 48.85, 2.35")
    failed.steps[1].observation.status = "service_error"
    assert cause(failed) == "service error"


def test_results_that_nobody_labelled_are_said_to_be_so_but_the_region_is_still_known(wrong):
    unknown = dict(useful=(None, None), labelled=False)
    assert cause(wrong(**unknown)) == "not labelled"
    assert cause(wrong(**unknown, regions=[], evidence=[])) == "not labelled"
    assert cause(wrong(**unknown, zoom=ELSEWHERE)) == "wrong region"


def test_a_photo_without_truth_has_no_failure(make_trajectory):
    with pytest.raises(ValueError, match="p1: no failure without a truth"):
        cause(make_trajectory(truth=None))


def test_counts_are_complete_and_intervals_are_wilsons(wrong):
    frame = to_frame([wrong(photo_id=f"p{i}", trusts=trusts) for i, trusts in enumerate(["[2]", "[2]", "[1]", "[]"])])
    table = failures.count_causes({"before": frame, "after": frame[:2]})
    assert table.loc["before"].index.tolist() == list(CAUSES) and len(table) == 2 * len(CAUSES)
    assert table.loc["before", "count"].sum() == 4 and table.loc["after", "count"].sum() == 2
    row = table.loc[("before", "wrong answer")]
    z, n, p = 1.959964, 4, 0.5
    middle, half = (
        (p + z**2 / (2 * n)) / (1 + z**2 / n),
        z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5,
    )
    assert (row["count"], row["value"], row["n"]) == (2, 0.5, 4)
    assert (row["low"], row["high"]) == pytest.approx((middle - half, middle + half), abs=1e-6)


@pytest.fixture(scope="module")
def planted(world):
    """A function: the causes of 60 photos of a teacher that errs in the given way only, and the photos."""
    photos = world.photos("val", 60)

    def run(search=None, agent=None, **errors):
        teacher = ScriptedTeacher(world, **{**FAULTLESS, **errors})
        done = rollout(agent(teacher) if agent else teacher, photos, search or world.live, budgets=Budgets(nudges=0))
        frame = to_frame(done)
        return failures.causes(frame), frame, photos

    return run


class Twisted:
    """The teacher, with its last turn changed."""

    reads_pixels, name = False, "twisted"

    def __init__(self, teacher, change):
        self.teacher, self.change = teacher, change

    def respond_for(self, photo_ids, conversations):
        texts = self.teacher.respond_for(photo_ids, conversations)
        return [self.change(text) if "<answer>" in text else text for text in texts]


def test_hundreds_of_the_teachers_trajectories_each_have_exactly_one_cause(world):
    photos = world.photos("val", 200)
    frame = to_frame(rollout(ScriptedTeacher(world), photos, world.live))
    found = failures.causes(frame)
    table = failures.count_causes({"teacher": frame})
    assert found.isin(list(CAUSES)).all() and table["count"].sum() == 200
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


def test_the_causes_keep_the_tables_index():
    empty = failures.causes(pd.DataFrame({"trajectory": []}))
    assert len(empty) == 0 and empty.name == "cause"
