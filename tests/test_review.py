"""Human review: what is on disk and when, what a decision does to a trajectory, and what two reviewers agree on."""

import copy
import json
import math
import os
from datetime import UTC, datetime

import pytest

from reverse_lib.annotation import (
    Decision,
    ReviewLog,
    apply_review,
    carried,
    changed_photos,
    merge_reviews,
    read_review,
    review_key,
)
from reverse_lib.annotation.labels import as_flags
from reverse_lib.annotation.review import METHOD
from reverse_lib.trajectory import load_trajectories, save_trajectories

BOX, NEAR, FAR = [100, 200, 300, 400], [110, 200, 310, 400], [600, 600, 900, 900]
TICKED = {2: (True, False)}  # the other way round than the trajectory's own labels


@pytest.fixture
def rows(make_trajectory):
    return [make_trajectory(f"p{i}") for i in range(1, 5)]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "reviews" / "ann.jsonl"


def test_a_decision_is_synced_to_disk_before_decide_returns(rows, file, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (fsync(descriptor), synced.append(file.read_text())))
    before = datetime.now(UTC).replace(microsecond=0)
    decision = ReviewLog(file, "ann").decide(rows[0], "accept", TICKED, {"region 1": BOX}, "sure")
    assert len(synced) == 1 and synced[0].endswith("\n")
    assert json.loads(synced[0]) == {
        "photo_id": "p1",
        "digest": review_key(rows[0])[1],
        "reviewer": "ann",
        "time": decision.time,
        "verdict": "accept",
        "labels": [{"turn": 2, "shown": 2, "useful": [1]}],
        "boxes": {"region 1": BOX},
        "note": "sure",
    }
    assert before <= datetime.fromisoformat(decision.time) <= datetime.now(UTC)


def test_opening_the_file_again_goes_on_where_it_stopped(rows, file):
    log = ReviewLog(file, "ann")
    log.decide(rows[0], "accept", TICKED)
    log.decide(rows[1], "skip")
    log.decide(rows[1], "reject", note="twin")  # a later word counts
    again = ReviewLog(file, "ann")
    assert again.decisions == log.decisions and list(again.decisions) == [review_key(rows[0]), review_key(rows[1])]
    assert again.decisions[review_key(rows[0])].labels == TICKED
    assert again.progress(map(review_key, rows)) == {"accept": 1, "reject": 1, "undecided": 2}
    assert read_review(file) == list(log.decisions.values())


def test_undo_appends_and_brings_the_word_before_back(rows, file):
    log = ReviewLog(file, "ann")
    first = log.decide(rows[0], "accept")
    log.decide(rows[0], "reject")
    last = log.decide(rows[1], "skip")
    written = file.read_bytes()
    assert log.undo() == last and read_review(file)[0].verdict == "reject"
    reopened = ReviewLog(file, "ann")
    assert reopened.undo().verdict == "reject" and read_review(file) == [first]
    assert reopened.undo() == first and reopened.undo() is None and read_review(file) == []
    assert file.read_bytes().startswith(written) and len(file.read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"verdict": "maybe"}, "verdict 'maybe'"),
        ({"boxes": {"region 1": [1, 2, 3]}}, "boxes .*four numbers"),
        ({"boxes": []}, r"boxes is \[\], expected an object"),
        ({"labels": [{"turn": 2, "shown": 2, "useful": [3]}]}, "positions in order from 1 to shown"),
        ({"labels": [{"turn": True, "shown": 2, "useful": []}]}, "positions in order"),
        ({"photo_id": 7}, "photo_id is 7, expected text"),
        ({"mood": "good"}, "unknown field 'mood'"),
    ],
)
def test_a_broken_row_is_named_with_file_and_number(rows, file, row, message):
    log = ReviewLog(file, "ann")
    log.decide(rows[0], "accept", TICKED)
    good = json.loads(file.read_text())
    file.write_text("\n".join(json.dumps(one) for one in (good, good | row, good)) + "\n")
    with pytest.raises(ValueError, match=rf"ann\.jsonl, row 2: no decision \(.*{message}"):
        ReviewLog(file, "ann")


def test_a_decision_that_does_not_fit_its_trajectory_is_refused_and_not_written(rows, file):
    log = ReviewLog(file, "ann")
    for arguments, message in (
        (("perhaps",), "verdict 'perhaps'; choose one of accept, reject, skip"),
        (("undo",), "verdict 'undo'"),
        (("accept", {1: (True, False)}), "turn 1, which brought 0"),
        (("accept", {2: (True, False, False)}), "labels of 3 results for turn 2, which brought 2"),
        (("accept", {}, {"new 1": [5, 5, 5, 9]}), "x1 < x2"),
    ):
        with pytest.raises(ValueError, match=message):
            log.decide(rows[0], *arguments)
    assert not file.exists()


def test_a_file_belongs_to_one_reviewer(rows, file, tmp_path):
    ReviewLog(file, "ann").decide(rows[0], "accept")
    with pytest.raises(ValueError, match="decisions of 'ann', not 'bob'"):
        ReviewLog(file, "bob")
    with pytest.raises(ValueError, match="reviewer is empty"):
        ReviewLog(tmp_path / "new.jsonl", " ")
    with pytest.raises(FileNotFoundError, match="no such file of decisions"):
        read_review(tmp_path / "missing.jsonl")


def test_a_digest_survives_saving_and_labelling_and_nothing_else(rows, tmp_path):
    row = rows[0]
    row.steps[1].observation.arguments["query"] = ["Paris, Île-de-France", "\u2028"]
    for suffix in ("jsonl", "parquet"):
        save_trajectories(tmp_path / f"rows.{suffix}", [row])
        assert review_key(load_trajectories(tmp_path / f"rows.{suffix}")[0])[1] == review_key(row)[1]
    labelled = copy.deepcopy(row)
    labelled.steps[1].observation.labelled, labelled.steps[1].observation.label_method = False, "judge"
    labelled.steps[1].observation.results[0]["useful"] = None
    labelled.regions, labelled.extra = [FAR], {"difficulty": "easy"}
    assert review_key(labelled)[1] == review_key(row)[1]
    others = [copy.deepcopy(row) for _ in range(5)]
    others[0].steps[1].observation.results[0]["snippet"] += "."
    others[1].steps[1].observation.results.reverse()
    others[2].lat = 48.0
    others[3].steps[0].text += " "
    others[4].steps[1].observation.arguments["query"] = "Paris"
    assert len({review_key(one)[1] for one in [row, *others]}) == 6


@pytest.mark.parametrize("labelled", [True, False])
def test_accepted_ones_carry_reviewed_labels_and_regions_rejected_ones_go_and_others_stay(rows, file, labelled):
    search, log = rows[0].steps[1].observation, ReviewLog(file, "ann")
    if not labelled:
        search.labelled, search.results[1]["useful"] = False, None
    log.decide(rows[0], "accept", TICKED, {"region 1": NEAR, "turn 1": FAR}, "a note")
    log.decide(rows[1], "reject", TICKED)
    log.decide(rows[2], "skip", TICKED)
    before = [row.to_dict() for row in rows]
    row, *others = apply_review(rows, read_review(file))
    assert row.photo_id == "p1" and row.regions == [NEAR, FAR] and others == rows[2:]
    assert row.steps[1].observation.label_method == METHOD == "review"
    assert carried([row]) == {(0, 2): (True, False)}
    assert row.evidence == ["https://a.example"]  # b.example, known before, was shown and not ticked
    assert row.extra["review"]["reviewer"] == "ann" and row.extra["review"]["note"] == "a note"
    assert [row.to_dict() for row in rows] == before
    assert review_key(row) == review_key(rows[0]) and apply_review([row], read_review(file)) == [row]


def test_a_changed_trajectory_is_not_matched_until_it_is_reviewed_again(rows, file):
    log = ReviewLog(file, "ann")
    for row in rows[:2]:
        log.decide(row, "accept", TICKED)
    changed = copy.deepcopy(rows[0])
    changed.steps[1].observation.results[0]["title"] = "Another page"
    given = [changed, rows[1]]
    assert changed_photos(given, log.decisions.values()) == ["p1"]
    with pytest.raises(ValueError, match="photo p1: the trajectory has changed since it was reviewed"):
        apply_review(given, read_review(file))
    log.decide(changed, "accept", TICKED)
    assert apply_review(given, read_review(file))[0].steps[1].observation.results[0]["title"] == "Another page"
    assert [row.photo_id for row in apply_review(rows[1:2], read_review(file))] == ["p2"]  # some of them is no change
    with pytest.raises(ValueError, match="photo p1: labels of 2 results for turn 9"):
        apply_review(rows, [Decision(*review_key(rows[0]), "ann", "", "accept", {9: (True, False)})])


def two_files(tmp_path, *decided):
    """Files of ann and bob; `decided` holds a trajectory and what either says, None for nothing."""
    paths = [tmp_path / f"{name}.jsonl" for name in ("ann", "bob")]
    for path, place in zip(paths, (1, 2), strict=True):
        log = ReviewLog(path, path.stem)
        for row in decided:
            if row[place]:
                log.decide(row[0], *row[place])
    return paths


def test_two_reviewers_agree_where_verdict_ticks_and_boxes_agree(rows, tmp_path):
    paths = two_files(
        tmp_path,
        (rows[0], ("accept", TICKED, {"region 1": BOX}, "clear"), ("accept", TICKED, {"turn 1": NEAR}, "yes")),
        (rows[1], ("reject",), ("reject", TICKED)),
        (rows[2], ("skip",), ("skip",)),
        (rows[3], ("skip",), None),
    )
    merged = merge_reviews(*paths)
    assert merged.disagreements.empty
    first, second = merged.decisions
    assert (first.photo_id, first.reviewer, first.verdict) == ("p1", "ann + bob", "accept")
    assert first.labels == TICKED and first.boxes == {"region 1": [105, 200, 305, 400]}
    assert first.note == "clear; yes" and second.verdict == "reject"
    reviewed = apply_review(rows, merged.decisions)
    assert [row.photo_id for row in reviewed] == ["p1", "p3", "p4"] and reviewed[0].regions == [[105, 200, 305, 400]]


def test_every_disagreement_is_listed_with_who_said_what(rows, tmp_path):
    paths = two_files(
        tmp_path,
        (rows[0], ("accept", TICKED, {"a": BOX}), ("reject",)),
        (rows[1], ("accept", {2: (True, True)}), ("accept", {2: (False, True)})),
        (rows[2], ("accept", TICKED, {"a": BOX, "b": FAR}), ("accept", TICKED, {"a": [250, 200, 450, 400]})),
        (rows[3], None, ("accept", TICKED)),
    )
    merged = merge_reviews(*paths)
    assert merged.decisions == [] and list(merged.disagreements.columns[-2:]) == ["ann", "bob"]
    assert set(merged.disagreements["digest"]) == {review_key(row)[1] for row in rows}
    assert merged.disagreements.drop(columns="digest").to_numpy().tolist() == [
        ["p1", "verdict", "", "accept", "reject"],
        ["p2", "result", "turn 2, result 1", "useful", "not useful"],
        ["p3", "box", "[100, 200, 300, 400]", "this box", "none; nearest has IoU 0.14"],  # 50 of 350 wide
        ["p3", "box", "[600, 600, 900, 900]", "this box", "none"],
        ["p3", "box", "[250, 200, 450, 400]", "none; nearest has IoU 0.14", "this box"],
        ["p4", "verdict", "", "undecided", "accept"],
    ]


def test_kappa_is_that_of_the_ticks_where_both_accepted(rows, tmp_path):
    search = rows[0].steps[1].observation
    search.results = [{"title": str(i), "url": f"https://{i}.example", "useful": None} for i in range(10)]
    accepts = [("accept", {2: as_flags(useful, 10)}) for useful in ((1, 2, 3, 4, 5), (1, 2, 3, 6))]
    rejects = ("accept", TICKED), ("reject", {2: (False, True)})  # not both accepted: not counted
    merged = merge_reviews(*two_files(tmp_path, (rows[0], *accepts), (rows[1], *rejects)))
    assert merged.kappa == pytest.approx(0.4)  # as worked by hand in test_labels
    assert list(merged.disagreements["where"]) == [f"turn 2, result {i}" for i in (4, 5, 6)] + [""]


def test_files_of_the_same_reviewer_or_of_nobody_are_refused(rows, tmp_path):
    ann, bob = two_files(tmp_path, (rows[0], ("accept",), ("reject",)))
    merged = merge_reviews(ann, bob)
    assert math.isnan(merged.kappa)
    with pytest.raises(ValueError, match="both by 'ann'"):
        merge_reviews(ann, ann)
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(ValueError, match="decisions by nobody"):
        merge_reviews(ann, empty)
