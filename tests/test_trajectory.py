"""The record of a rollout against its files, the filters against a funnel made by hand."""

import json
import math
import os
import time

import numpy as np
import pytest

from reverse_lib.geo import Answer
from reverse_lib.trajectory import (
    SEARCH_TOOLS,
    TOOLS,
    Observation,
    Step,
    Trajectory,
    cited_indices,
    curriculum,
    filter_trajectories,
    load_trajectories,
    save_trajectories,
)

ANSWER = "<answer>France, Paris, 48.85, 2.35</answer>"
CALL = '<tool_call>{"name": "text_search_tool", "arguments": {"query": "Paris"}}</tool_call>'


def observation(tool="text_search_tool", status="ok", **facts):
    return Observation(tool, {"query": "x"}, status, "[1] A", **facts)


def rollout(*steps, **facts):
    return Trajectory("p1", [Step(*step) for step in steps], **{"lat": 48.8566, "lon": 2.3522, **facts})


def answered(answer=ANSWER, calls=1, seen=None, **facts):
    steps = [(f"<think>a</think>{CALL}", seen or observation())] * calls
    return rollout(*steps, (f"<think>a</think><useful>[]</useful>{answer}",), **facts)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("status", ["ok", "miss", "model_error", "service_error"])
def test_labels_are_owed_after_a_search_that_ran_and_after_nothing_else(tool, status):
    owed = tool in SEARCH_TOOLS and status in ("ok", "miss")
    turns = answered(seen=observation(tool, status)).turns()
    assert [turn.errors for turn in turns] == [[], [] if owed else ["useful_unexpected"]]


def test_the_answer_is_the_last_turns_and_two_answers_are_none():
    assert answered().answer == Answer("France", "Paris", 48.85, 2.35)
    assert rollout((f"<think>a</think>{ANSWER}",), (f"<think>a</think>{CALL}", observation())).answer is None
    assert rollout((f"<think>a</think>{ANSWER}",), (f"<think>a</think>{ANSWER}",)).answer is None
    assert rollout((f"<think>a</think>{CALL}{ANSWER}", observation()), (f"<think>a</think>{ANSWER}",)).answer is None
    assert rollout().answer is None


def test_the_distance_needs_an_answer_and_a_truth():
    assert answered().km == pytest.approx(0.751, abs=0.001)
    assert answered(lat=51.5074, lon=-0.1278).km == pytest.approx(344.11, abs=0.01)
    assert answered(lat=None).km is None
    assert answered(lat=math.nan).km is None
    assert answered(answer="").km is None


def test_useful_positions_count_from_one():
    results = [{"useful": False}, {"useful": True}, {"useful": None}, {}, {"useful": np.True_}]
    assert observation(results=results).useful == {2, 5}


def full_row():
    shown = observation(results=[{"title": "\x85", "useful": None}], match=0.5)
    facts = {"lat": 0.0, "lon": -180, "country": "日本", "evidence": ("https://a.example/é",)}
    extra = {"n_nudges": 2, "nested": {"a": [None, True, 1.5, np.float32(0.5), np.int64(3)]}}
    boxes = ((1, 2, 3, 4), np.array([5, 6, 7, 8]))
    return Trajectory(
        "p\u2028é\n", [Step(f"<think>\ud83d \u2028</think>{CALL}", shown)], regions=boxes, extra=extra, **facts
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".JSONL"])
@pytest.mark.parametrize(
    "rows", [[], [full_row(), answered(lat=None, lon=None), Trajectory("empty")]], ids=["none", "three"]
)
def test_files_give_back_what_was_saved(tmp_path, suffix, rows):
    path = tmp_path / "new" / "seed=0" / f"rows{suffix}"
    save_trajectories(path, iter(rows))
    assert load_trajectories(str(path)) == rows
    if path.suffix != ".parquet":  # one strict ASCII line a row
        lines = path.read_text("ascii").splitlines()
        assert [json.loads(line)["photo_id"] for line in lines] == [row.photo_id for row in rows]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b"{", "Expecting"),
        (b'{"photo_id": "p", "steps": [', "Expecting"),
        (b"[]", "the row: .*dict"),
        (b"\xff", "utf-8"),
        (b"[" * 100_000, "recursion"),
        (b"{}", "photo_id: Field required"),
        (b'{"photo_id": 3}', "photo_id: .*, not 3"),
        (b'{"photo_id": "p", "photo": 1}', "photo: Unexpected"),
        (b'{"photo_id": "p", "lat": "48 N"}', "lat: .*, not '48 N'"),
        (b'{"photo_id": "p", "lat": 91, "lon": 1}', "lat 91"),
        (b'{"photo_id": "p", "regions": [3]}', "regions.0: "),
        (b'{"photo_id": "p", "steps": [{}]}', "steps.0.text: Field required"),
        (b'{"photo_id": "p", "steps": ["a"]}', "steps.0: "),
        (b'{"photo_id": "p", "steps": [{"text": "a", "observation": {"tool": "x"}}]}', "steps.0.observation.arguments"),
    ],
)
def test_a_broken_line_is_reported_with_file_line_and_remedy(tmp_path, broken, reason):
    path = tmp_path / "rows.jsonl"
    save_trajectories(path, [answered()])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n" + broken + b"\n")
    with pytest.raises(ValueError, match=reason) as caught:
        load_trajectories(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert "repair or delete that line" in str(caught.value)


def test_an_unknown_status_or_result_is_reported():
    row = answered().to_dict()
    row["steps"][0]["observation"]["status"] = "OK"
    with pytest.raises(ValueError, match="steps.0.observation.status: .*'ok', 'miss', .*, not 'OK'"):
        Trajectory.from_dict(row)
    row["steps"][0]["observation"].update(status="ok", results=["a"])
    with pytest.raises(ValueError, match="steps.0.observation.results.0: .*, not 'a'"):
        Trajectory.from_dict(row)


def test_broken_parquet_is_reported(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="rows.parquet: not a readable Parquet file"):
        load_trajectories(path)
    pq.write_table(pa.table({"photo_id": ["p"]}), path)
    with pytest.raises(ValueError, match="no column steps"):
        load_trajectories(path)
    save_trajectories(path, [answered(), answered()])
    table = pq.ParquetFile(path).read()
    steps = pa.array([table["steps"][0].as_py(), "{"], pa.large_string())
    pq.write_table(table.set_column(table.column_names.index("steps"), "steps", steps), path)
    with pytest.raises(ValueError, match="rows.parquet, row 2: .*repair or delete that row"):
        load_trajectories(path)


def test_missing_files_and_unknown_formats_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.jsonl: no such file of trajectories"):
        load_trajectories(tmp_path / "nothing.jsonl")
    for act in (load_trajectories, lambda path: save_trajectories(path, [])):
        with pytest.raises(ValueError, match=r"rows.csv: unknown format '.csv'; name the file .jsonl or .parquet"):
            act(tmp_path / "rows.csv")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (Trajectory("p", extra={"a": math.nan}), "row 2, photo 'p'"),
        (Trajectory("p", extra={"a": {1}}), "set"),
        (Trajectory(7), "photo_id"),
    ],
)
def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path, name, row, reason):
    path = tmp_path / name
    save_trajectories(path, [answered()])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=reason):
        save_trajectories(path, [answered(), row])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_save_replaces_the_file_only_when_it_is_whole(tmp_path, name):
    path = tmp_path / name
    save_trajectories(path, [answered()])

    def rows():
        yield Trajectory("new")
        assert load_trajectories(path) == [answered()]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_trajectories(path, rows())
    assert load_trajectories(path) == [answered()] and os.listdir(tmp_path) == [name]
    with path.open("rb") as reader:  # who reads the old file goes on reading the old file
        before = path.read_bytes()
        save_trajectories(path, [Trajectory("new")])
        assert reader.read() == before and load_trajectories(path) == [Trajectory("new")]


def funnel():
    whole = Observation("image_search_tool", {"bbox_2d": [0, 0, 1000, 950]}, "ok", "")
    part = Observation("image_search_tool", {"bbox_2d": [0, 0, 1000, 890]}, "ok", "")
    return [
        answered(city="good"),
        answered(seen=part, city="part"),
        answered("Paris", city="unparsed"),
        answered(lat=51.5074, lon=-0.1278, city="344 km off"),
        answered(lat=None, city="no truth"),
        answered(calls=0, city="no call"),
        answered(extra={"n_nudges": 6}, city="nudged"),
        answered(seen=observation(status="model_error"), city="its error"),
        answered(seen=observation(status="service_error"), city="service error"),
        answered(seen=observation(status="miss"), city="miss"),
        answered(seen=whole, city="whole photo"),
    ]


def test_filters_count_what_each_rule_leaves():
    kept, counts = filter_trajectories(iter(funnel()))
    assert [row.city for row in kept] == ["good", "part", "miss"]
    assert list(counts.items()) == [
        ("all", 11),
        ("answered", 10),
        ("within 200 km", 8),
        ("at least 1 call", 7),
        ("at most 5 nudges", 6),
        ("no errors", 4),
        ("no full-image search", 3),
    ]


def test_the_largest_error_can_be_chosen():
    kept, counts = filter_trajectories(funnel(), max_km=500)
    assert [row.city for row in kept] == ["good", "part", "344 km off", "miss"] and counts["within 500 km"] == 9


@pytest.mark.parametrize("box", [None, "all", [0, 0, 1000], [0, 0, "1000", 1000], [math.nan] * 4, [1000, 1000, 0, 0]])
def test_a_box_that_cannot_be_read_is_not_the_whole_photo(box):
    row = answered(seen=Observation("image_search_tool", {"bbox_2d": box}, "ok", ""))
    assert filter_trajectories([row])[0] == [row]


def test_the_curriculum_goes_by_the_error_of_who_answered():
    south = [f"<answer>France, Paris, {48.8566 - km / 111.195}, 2.3522</answer>" for km in (24.9, 25.1, 199.9, 200.1)]
    assert [curriculum(answered(line)) for line in south] == ["easy", "medium", "medium", "hard"]
    assert curriculum(answered("")) == curriculum(answered(lat=None)) == "unknown"


@pytest.mark.parametrize(
    ("text", "cited"),
    [
        ("I trust [2] and [ 3 ].", {2, 3}),
        ("[1, 3] agree, [1] again", {1, 3}),
        ("[0], [7], [-1], [1.5], [x], [², ٣], 2, (3)", set()),
        ("the box [2, 3, 500, 600]", set()),
        ("[[1]] and [2](https://a.example)", {1, 2}),
        ("", set()),
    ],
)
def test_citations_are_positions_that_were_shown(text, cited):
    assert cited_indices(text, 6) == cited


@pytest.mark.parametrize("unit", ["[", "[1,", "[1 ", "[ ", "1,"])
def test_a_megabyte_of_brackets_cites_nothing_at_once(unit):
    start = time.process_time()
    assert cited_indices(unit * (1_000_000 // len(unit)), 6) == set()
    assert cited_indices("[" + unit[1:] * 400_000, 6) == set()
    assert time.process_time() - start < 20, "0.1 s of an idle core"
