"""The released data set becomes trajectories, photos and a search cache, and ours are written in its schema."""

import json
import pickle
import re

import pyarrow.parquet as pq
import pytest
from released_files import (
    FOLDER,
    PAGES,
    conversation,
    image_row,
    make_root,
    response,
    rl_row,
    said,
    sft_row,
    text_row,
    write,
)

from reverse_lib.environment import FULL, rollout
from reverse_lib.scale import ReleasedData, write_annotations, write_caches, write_rl, write_sft
from reverse_lib.scale.released import CACHES, IMAGE, RL, SFT, TEXT, ZOOM, ReleasedError, photo_id_of, steps_of
from reverse_lib.search import SearchCache, SearchResult
from reverse_lib.trajectory import Trajectory
from reverse_lib.world import ScriptedTeacher

A = "part00_images/a_0.jpg"


@pytest.fixture
def root(tmp_path):
    return make_root(tmp_path / "data")


def test_conversations_become_steps_with_results_and_labels(root):
    first, second = ReleasedData(root).sft()
    assert (first.photo_id, first.end) == (A, "answered")
    zoom, image, text, last = first.steps
    assert (zoom.observation.tool, zoom.observation.status, zoom.observation.text) == (ZOOM, "ok", "")
    assert zoom.observation.arguments == {"bbox_2d": [0, 0, 500, 500]}
    assert [result["title"] for result in image.observation.results] == ["Torre dell'Elefante", "A tower [3] elsewhere"]
    assert image.observation.results[1]["url"] == "https://www.flickr.com/photos/2"
    assert image.observation.labelled and image.observation.useful == {1}
    pages = [(result["url"], result["snippet"]) for result in text.observation.results]  # indented or not
    assert pages[0] == ("https://guide.example/cagliari", "The tower, 39.22 N. Built in 1307.")
    assert pages[1] == ("https://zoo.example/", "Big animals.")
    assert text.observation.useful == {1} and last.observation is None
    assert (first.answer.lat, first.answer.lon, first.lat) == (39.2181, 9.1161, None)
    reminder = second.steps[3].observation
    assert (reminder.tool, reminder.status, reminder.text) == ("unreadable_turn", "model_error", "Go on.")
    assert Trajectory.from_dict(json.loads(json.dumps(first.to_dict()))) == first


def test_results_numbered_anew_are_not_labelled():
    steps = steps_of([*conversation()[2:7], response(PAGES + "\n" + PAGES), conversation()[-1]])
    assert len(steps[2].observation.results) == 4 and not steps[2].observation.labelled


def test_a_call_made_again_is_a_repeated_one():
    steps = steps_of([*conversation()[2:6], *conversation()[4:]])
    assert [step.observation.repeated for step in steps[:4]] == [False, False, True, False]


def test_rl_rows_become_photos_with_places_latitude_first(root):
    first, second = ReleasedData(root).rl()
    assert (first.lat, first.lon, first.country, first.city) == (39.215, 9.11, "Italy", "Cagliari")
    assert (first.extra["difficulty"], first.extra["km"], first.extra["index"]) == ("easy", 0.74, 0)
    assert (second.lat, second.lon, second.country, second.city) == (-1.5, 2.0, "", "Old Town, Upper")
    assert second.extra["km"] is None and first.steps == []
    row = rl_row(0)
    row["extra_info"]["useful_results"] = [{"turn": 2, "tool": IMAGE, "indices": [1, 3]}]
    write(root / "rl/val_rl.parquet", [row])
    (task,) = ReleasedData(root, strict=True).rl("val_rl")  # validation rows say more
    assert task.extra["useful_results"] == [{"turn": 2, "tool": IMAGE, "indices": [1, 3]}]


def test_photos_have_places_and_files_and_missing_ones_are_listed(root):
    write(root / "rl/some.parquet", [rl_row(0), rl_row(2, "part00_images/gone.jpg"), rl_row(3)], RL)
    data = ReleasedData(root)
    (photo,) = data.photos("some")
    assert (photo.photo_id, photo.lat, photo.lon, photo.city) == (A, 39.215, 9.11, "Cagliari")
    assert photo.load().size == (40, 30)
    assert [(problem.row, "gone.jpg" in problem.reason) for problem in data.problems] == [(2, True)]


def annotation(**more):
    return {
        "id": "a.jpg", "gt_lat": 39.215, "gt_lon": 9.11, "gt_country": "Italy", "gt_city": "Cagliari", "n_nudges": 2,
        "useful_results": [{"turn": 4, "tool": IMAGE, "indices": [2]}, {"turn": 6, "tool": TEXT, "indices": []}],
        "messages": conversation(), "images": [f"{FOLDER}/part00_images/a_0.jpg", f"{FOLDER}/part00_images/a_1.jpg"],
    } | more  # fmt: skip


def test_annotations_become_trajectories_with_the_labels_beside_the_conversation(root):
    blocks = [{"type": "text", "text": "<image>\nimage_id: 0"}, {"type": "text", "text": "Where?"}]
    messages = [conversation()[0], {"role": "user", "content": blocks}, *conversation()[2:]]
    messages[3] = response("<image>\nimage_id: 1")
    second = annotation(gt_country="Unknown", gt_city=None, images=[{"image_url": "/x/images/c.jpg"}])
    del second["useful_results"]
    lines = [annotation(), second | {"messages": messages}]
    (root / "part00.jsonl").write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    first, second = ReleasedData(root, strict=True).annotations("part00.jsonl")
    assert (first.photo_id, first.km, first.extra["n_nudges"]) == (A, pytest.approx(0.63, abs=0.01), 2)
    assert [step.observation.useful for step in first.steps[1:3]] == [{2}, set()]  # not what the model marked
    assert (second.photo_id, second.country, second.city) == ("c.jpg", "", "")
    assert second.steps[0].observation.text == "" and not second.steps[1].observation.labelled


def test_our_own_trajectories_become_rows_of_the_released_kind(world, tmp_path):
    rows = rollout(ScriptedTeacher(world), world.photos("train", 3), world.live, FULL)
    assert write_sft(tmp_path / "sft/own.parquet", rows) == write_annotations(tmp_path / "own.jsonl", rows) == 3
    table = pq.read_table(tmp_path / "sft/own.parquet")
    assert table.schema.equals(SFT) and table.to_pylist()[0]["messages"][0]["content"] == FULL.system_prompt
    data = ReleasedData(tmp_path, strict=True)
    for row, sft, annotated in zip(rows, data.sft("own"), data.annotations("own.jsonl"), strict=True):
        assert (annotated.lat, annotated.lon, annotated.city) == (row.lat, row.lon, row.city)
        for own in (sft, annotated):
            assert own.photo_id == row.photo_id and own.end == row.end
            assert [step.text for step in own.steps] == [step.text for step in row.steps]
            for step, before in zip(own.steps, row.steps, strict=True):
                assert (step.observation and step.observation.status) == (
                    before.observation and before.observation.status
                )
    labels = [[step.observation.useful for step in row.steps if step.observation] for row in rows]
    annotated = list(data.annotations("own.jsonl"))
    assert labels == [[step.observation.useful for step in row.steps if step.observation] for row in annotated]


def test_annotations_are_written_as_the_papers_builders_read_them(make_trajectory, tmp_path):
    trajectory = make_trajectory()
    trajectory.steps[1].observation.text = "Web search results for: x\n[1] T\n    URL: https://t.example\n    Text."
    write_annotations(tmp_path / "own.jsonl", [trajectory])
    row = json.loads((tmp_path / "own.jsonl").read_text())
    messages = row["messages"]
    assert "[1] T\nURL: https://t.example\n    Text." in messages[5]["content"]
    pictures = re.findall(r"<image>\nimage_id: (\d+)", "".join(message["content"] for message in messages))
    assert pictures == ["0", "1"] and row["images"] == ["images/p1", "images/p1_zoom1.jpg"]
    (search,) = row["useful_results"]
    assert search == {"turn": 4, "tool": TEXT, "indices": [2]} and TEXT in messages[4]["content"]
    counts = {name: row[name] for name in ("n_tool_calls", "n_crop_calls", "n_search_calls", "n_tavily_calls")}
    assert list(counts.values()) == [2, 1, 0, 1] and row["masked"] == 0.0 and row["km"] < 1
    assert (row["id"], row["gt_city"], row["pred_lat"], row["max_turns_exceeded"]) == ("p1", "Paris", 48.85, False)


def test_tasks_of_the_data_set_are_written_with_their_difficulty(root, tmp_path):
    assert write_rl(tmp_path / "again.parquet", ReleasedData(root).rl()) == 2
    first, second = pq.read_table(tmp_path / "again.parquet").to_pylist()
    info = first["extra_info"]
    assert (info["difficulty"], info["km"], info["index"]) == ("easy", 0.74, 0)
    assert second["reward_model"]["ground_truth"] == "-1.5000, 2.0000, Unknown, Old Town, Upper"


def imported(root, folder, **settings):
    cache, data = SearchCache.open(folder, mode="w", **settings), ReleasedData(root)
    return cache, data, data.caches(cache)


def test_cached_searches_are_answered_under_ids_relative_to_the_images(root, tmp_path):
    cache, data, counts = imported(root, tmp_path / "cache")
    with cache:
        assert data.problems == []
        assert counts == {"rows": 11, "duplicates": 1, "empty": 2, "blocked": 0, "problems": 0}
        assert cache.photo_ids() == [A, "part00_images/b_0.jpg"]
        answer = cache.image(A, [100, 100, 400, 300])
        titles = {result.title: result.useful for result in answer.results}
        assert titles == {"tower of the first": True, "arch": False, "tower": True}  # of calls 0 and 3
        assert cache.image(A, [0, 0, 90, 1000]).results == ()
        for query in ("cagliari torre", "Sardinia tower"):  # either of "a | b"
            answer = cache.text(A, query)
            assert answer.match == 1.0 and {result.title for result in answer.results} == {"cagliari", "zoo"}
        assert cache.text(A, "nothing").results == ()
        assert cache.evidence(A) == ["https://w.example/cagliari"]
        calls = list(cache.calls())
        again = ReleasedData(root).caches(cache)  # a second time into the same cache changes nothing
        assert list(cache.calls()) == calls and again == counts


def test_searches_of_our_own_become_tables_that_are_read_back(tmp_path):
    with SearchCache.open(tmp_path / "own", mode="w") as cache:
        cache.record_text("p/1.jpg", "Vigo", [SearchResult("t", "https://u.example", "", "s", True)])
        cache.record_text("p/1.jpg", "Lugo", [])
        cache.record_image(
            "p/1.jpg", [0, 0, 10, 20], [SearchResult("a", "b", "c"), SearchResult("d", "e", "f", "", False)]
        )
        files = write_caches(cache, tmp_path / "rl_cache")
    images, texts = (pq.read_table(files[tool]) for tool in (IMAGE, TEXT))
    assert images.schema.equals(CACHES[IMAGE]) and texts.schema.equals(CACHES[TEXT])
    assert sorted(texts["result_index"].to_pylist()) == [-1, 1] and sorted(texts["call_idx"].to_pylist()) == [0, 1]
    assert images.to_pylist()[1] == {
        "image_id": "1.jpg", "image_path": "images/p/1.jpg", "bbox": "[0.0, 0.0, 10.0, 20.0]", "call_idx": 0,
        "result_pos": 2, "result_title": "d", "result_link": "e", "result_source": "f", "result_thumbnail": "",
        "is_geo_useful": False, "useful_indices": "[]", "n_useful": 0, "call_turn": -1, "part": "",
    }  # fmt: skip
    cache, _, _ = imported(tmp_path, tmp_path / "again")
    with cache:
        assert [result.title for result in cache.text("p/1.jpg", "vigo").results] == ["t"]
        files = write_caches(cache, tmp_path / "again_cache")
    assert pq.read_table(files[IMAGE]).equals(images) and pq.read_table(files[TEXT]).equals(texts)


def test_leaked_pages_are_dropped_and_counted(root, tmp_path):
    rows = [image_row(1, "x", result_link="https://www.flickr.com/photos/1"), image_row(2, "y")]
    write(root / "rl_cache/image_search_cache.parquet", rows, CACHES[IMAGE])
    cache, _, counts = imported(root, tmp_path / "cache")
    with cache:
        assert counts["blocked"] == 1 and cache.stats()["image_results"] == 1


def test_an_empty_cache_becomes_empty_tables_and_these_an_empty_cache(tmp_path):
    with SearchCache.open(tmp_path / "own", mode="w") as cache:
        write_caches(cache, tmp_path / "rl_cache")
    cache, data, counts = imported(tmp_path, tmp_path / "again")
    with cache:
        assert cache.photo_ids() == [] and not any(counts.values()) and data.problems == []


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_beside_a_table_is_never_read(root, tmp_path):
    for name in ("image", "text"):
        for ending in (".parquet.cache.pkl", ".cache.pkl", ".pkl", ".parquet.pkl", ".pickle"):
            (root / f"rl_cache/{name}_search_cache{ending}").write_bytes(pickle.dumps(Malice(tmp_path / "harm")))
    pickle.loads(pickle.dumps(Malice(tmp_path / "proof"))).close()
    cache, data, _ = imported(root, tmp_path / "cache")
    cache.close()
    assert len(list(data.sft())) + len(list(data.rl())) == 4
    assert (tmp_path / "proof").exists() and not (tmp_path / "harm").exists()


BAD_IMAGE_ROWS = [
    (image_row(0, "x"), "result_pos 0: expected a number from 1, or -1"),
    (image_row(1, "x", bbox="[300, 0, 100, 50]"), "bbox '[300, 0, 100, 50]': expected"),
    (image_row(1, "x", bbox="[" * 100_000), "bbox '[[["),
    (image_row(1, "x", bbox=None), "bbox None: expected"),
    (image_row(1, "x", bbox="[0, 0, Infinity, 9]"), "bbox '[0, 0, Infinity, 9]': expected"),
    (image_row(1, "x", bbox=f"[0, 0, {10**400}, 9]"), "bbox '[0, 0, 1000"),
    (image_row(1, "x", bbox='{"a": 1}'), "bbox '{"),
    (image_row(1, "x", image_path="/d/images/../../etc/passwd"), "doesn't stay inside images/"),
    (image_row(1, "x", image_path=""), "image path '': not a path"),
]


def test_bad_rows_of_a_cache_are_named_counted_and_skipped(root, tmp_path):
    path = root / "rl_cache/image_search_cache.parquet"
    write(path, [image_row(1, "good"), *(row for row, _ in BAD_IMAGE_ROWS)], CACHES[IMAGE])
    write(root / "rl_cache/text_search_cache.parquet", [text_row(1, "x", query="?!"), text_row(1, "y", call=1)])
    cache, data, counts = imported(root, tmp_path / "cache")
    with cache:
        assert cache.stats()["image_results"] == 1
        assert (counts["rows"], counts["problems"]) == (len(BAD_IMAGE_ROWS) + 3, len(BAD_IMAGE_ROWS) + 1)
    assert [(problem.file, problem.row) for problem in data.problems[:-1]] == [
        (str(path), row) for row in range(2, len(BAD_IMAGE_ROWS) + 2)
    ]
    for problem, (_, reason) in zip(data.problems, BAD_IMAGE_ROWS, strict=False):
        assert reason in problem.reason
    assert str(data.problems[-1]).endswith("text_search_cache.parquet, row 1: query '?!': has no word")
    with SearchCache.open(tmp_path / "other", mode="w") as cache, pytest.raises(ReleasedError, match="row 2: result_p"):
        ReleasedData(root, strict=True).caches(cache)


def test_bad_rows_of_conversations_are_named_and_skipped(root, caplog):
    short, silent = sft_row(), sft_row()
    short["images"].pop()
    silent["messages"] = [*silent["messages"][:2], response("<image>")]
    rows = [sft_row(), short, silent, {"messages": None, "images": []}, sft_row(photo="../../x.jpg")]
    write(root / "sft/bad.parquet", rows, SFT)
    data = ReleasedData(root)
    assert len(list(data.sft("bad"))) == 1
    reasons = ["has 2 times <image> in its messages and 1 images", "the model says nothing", "no messages", "n't stay"]
    assert [problem.row for problem in data.problems] == [2, 3, 4, 5]
    assert all(reason in problem.reason for problem, reason in zip(data.problems, reasons, strict=True))
    assert "bad.parquet: 4 rows left out, the first: row 2, has 2 times" in caplog.text
    truths = ["Italy, Cagliari, 39.2, 9.1", "91, 0, a, b", "1, 2"]
    write(root / "rl/bad.parquet", [rl_row(0, truth=truth) for truth in truths], RL)
    assert list(data.rl("bad")) == []
    for truth, problem in zip(truths, data.problems[-3:], strict=True):
        assert f"ground truth '{truth}': expected 'lat, lon, country, city'" in problem.reason
    assert "no place on Earth" in data.problems[-2].reason
    with pytest.raises(ReleasedError, match=r"bad.parquet, row 1: ground truth 'Italy"):
        list(ReleasedData(root, strict=True).rl("bad"))


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b"\xff", b'{"id": 1}', b"[" * 100_000]
    + [json.dumps(annotation(**wrong)).encode() for wrong in (
        {"gt_lat": 99}, {"gt_lat": float("nan")}, {"images": []}, {"messages": [{"role": "user"}]}, {"messages": [1]},
        {"messages": [said(None)]}, {"messages": [said("x"), {"role": "critic", "content": "y"}]},
    )]
)  # fmt: skip
def test_a_bad_line_of_annotations_is_named_and_skipped(root, line):
    (root / "a.jsonl").write_bytes(line + b"\n" + json.dumps(annotation()).encode())
    data = ReleasedData(root)
    assert len(list(data.annotations("a.jsonl"))) == 1
    assert [(problem.row, bool(problem.reason)) for problem in data.problems] == [(1, True)]


def test_files_that_are_no_such_table_are_refused_by_name(root):
    data = ReleasedData(root)
    write(root / "sft/less.parquet", [{"messages": conversation()}])
    (root / "sft/junk.parquet").write_bytes(b"PAR1 no")
    for name, message in (("less", "has no column 'images'"), ("junk", "not a readable Parquet file")):
        with pytest.raises(ReleasedError, match=f"{name}.parquet: .*{message}"):
            list(data.sft(name))
    with pytest.raises(FileNotFoundError, match="none.parquet: no such file; check DATA_ROOT"):
        list(data.sft("none"))
    with pytest.raises(FileNotFoundError, match="none.jsonl: no such file of annotations"):
        list(data.annotations("none.jsonl"))
    with pytest.raises(FileNotFoundError, match="give DATA_ROOT"):
        ReleasedData(root / "nowhere")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/mnt/x/images/part00/a.jpg", "part00/a.jpg"),
        ("images/a.tif", "a.tif"),
        ("part00_images/a.jpg", "part00_images/a.jpg"),
        ("C:\\data\\images\\a b.jpg", "a b.jpg"),
        ("/images/images", "images"),
    ],
)
def test_paths_become_ids_relative_to_the_images(path, expected):
    assert photo_id_of(path) == expected
