"""The released data set goes into our records and out again unchanged, and verl can load what we write for it.

The files are made here, in the schemas of the released ones and with their oddities.
"""

import csv
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from released_files import (
    FOLDER,
    IMAGE,
    IMAGE_ROWS,
    PAGES,
    TEXT,
    TEXT_ROWS,
    ZOOM,
    conversation,
    image_row,
    make_root,
    response,
    rl_row,
    said,
    sft_row,
    table,
    text_row,
)

from reverse_lib.environment import FULL, rollout
from reverse_lib.photos import Photo
from reverse_lib.photos import listing as benchmarks
from reverse_lib.scale import ReleasedData, write_annotations, write_caches, write_rl, write_sft
from reverse_lib.scale.released import write_photo_list
from reverse_lib.scale.tables import IMAGE_CACHE, RL, SFT, TEXT_CACHE, InteropError, photo_id_of
from reverse_lib.search import SearchCache, SearchResult
from reverse_lib.search.results import BlockList
from reverse_lib.trajectory import Trajectory, load_trajectories, save_trajectories
from reverse_lib.world import ScriptedTeacher

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def root(tmp_path):
    return make_root(tmp_path / "data")


def rewrite(path, rows, schema):
    pq.write_table(table(rows, schema), path)


def test_conversations_become_steps_with_results_and_labels(root):
    first, second = ReleasedData(root).sft()
    assert first.photo_id == "part00_images/a_0.jpg" and first.end == "answered"
    zoom, image, text, last = first.steps
    assert (zoom.observation.tool, zoom.observation.status, zoom.observation.text) == (ZOOM, "ok", "")
    assert zoom.observation.arguments == {"bbox_2d": [0, 0, 500, 500]}
    assert [result["title"] for result in image.observation.results] == ["Torre dell'Elefante", "A tower [3] elsewhere"]
    assert image.observation.results[1]["url"] == "https://www.flickr.com/photos/2"
    assert image.observation.labelled and image.observation.useful == {1}
    found = text.observation.results[0]
    assert (found["url"], found["snippet"]) == ("https://guide.example/cagliari", "The tower, 39.22 N. Built in 1307.")
    assert text.observation.useful == {1} and last.observation is None
    assert (first.answer.lat, first.answer.lon, first.lat) == (39.2181, 9.1161, None)
    reminder = second.steps[3].observation
    assert (reminder.tool, reminder.status, reminder.text) == ("unreadable_turn", "model_error", "Go on.")


def test_results_numbered_anew_are_not_labelled():
    from reverse_lib.scale.messages import steps_of

    twice = PAGES + "\n" + PAGES
    steps = steps_of([*conversation()[2:7], response(twice), conversation()[-1]])
    assert len(steps[2].observation.results) == 4 and not steps[2].observation.labelled


def test_rl_rows_become_photos_with_places_latitude_first(root):
    first, second = ReleasedData(root).rl()
    assert (first.lat, first.lon, first.country, first.city) == (39.215, 9.11, "Italy", "Cagliari")
    assert (first.extra["difficulty"], first.extra["km"], first.extra["index"]) == ("easy", 0.74, 0)
    assert (second.lat, second.lon, second.country, second.city) == (-1.5, 2.0, "", "Old Town, Upper")
    assert second.extra["km"] is None and first.steps == []


def test_what_is_read_is_written_again_row_for_row(root, tmp_path):
    data = ReleasedData(root, strict=True)
    for name, source, write, schema in (
        ("sft/train_sft_coldstart_v5.parquet", data.sft, write_sft, SFT),
        ("rl/train_rl_v5_full.parquet", data.rl, write_rl, RL),
    ):
        records = list(source())
        save_trajectories(tmp_path / "kept.jsonl", records)  # what is kept survives our own files too
        assert load_trajectories(tmp_path / "kept.jsonl") == records
        write(tmp_path / "again.parquet", load_trajectories(tmp_path / "kept.jsonl"))
        assert pq.read_table(tmp_path / "again.parquet").equals(pq.read_table(root / name))
        assert pq.read_schema(tmp_path / "again.parquet").equals(schema)
        write(root / name, records)
        assert list(source()) == records


def annotation(**more):
    return {
        "id": "a.jpg", "gt_lat": 39.215, "gt_lon": 9.11, "gt_country": "Italy", "gt_city": "Cagliari",
        "pred_lat": 39.2181, "pred_lon": 9.1161, "km": 0.63, "masked": 0.0, "n_tool_calls": 3, "n_crop_calls": 1,
        "n_search_calls": 1, "n_tavily_calls": 1, "n_nudges": 2, "max_turns_exceeded": False,
        "useful_results": [{"turn": 4, "tool": IMAGE, "indices": [2]}, {"turn": 6, "tool": TEXT, "indices": []}],
        "messages": conversation(), "images": [f"{FOLDER}/part00_images/a_0.jpg", f"{FOLDER}/part00_images/a_1.jpg"],
    } | more  # fmt: skip


def test_annotations_are_read_and_written_line_for_line(root, tmp_path):
    first = annotation()
    blocks = [{"type": "text", "text": "<image>\nimage_id: 0"}, {"type": "text", "text": "Where?"}]
    second = annotation(
        gt_country="Unknown", gt_city=None, km=None, masked=1.0, images=[{"image_url": "/x/images/c.jpg"}]
    )
    second["messages"] = [second["messages"][0], {"role": "user", "content": blocks}, *second["messages"][2:]]
    del second["useful_results"]
    lines = [first, second]
    (root / "part00.jsonl").write_text("\n\n".join(json.dumps(line) for line in lines) + "\n")
    data = ReleasedData(root, strict=True)
    records = list(data.annotations("part00.jsonl"))
    assert [record.photo_id for record in records] == ["part00_images/a_0.jpg", "c.jpg"]
    assert records[0].km == pytest.approx(0.63, abs=0.01) and records[0].extra["n_nudges"] == 2
    assert [step.observation.useful for step in records[0].steps[1:3]] == [{2}, set()]  # not what the model marked
    assert write_annotations(tmp_path / "again.jsonl", records) == 2
    assert [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()] == lines
    write_annotations(root / "again.jsonl", records)
    assert list(data.annotations("again.jsonl")) == records


def test_a_record_that_was_changed_is_written_as_it_is_now(root, tmp_path):
    records = list(ReleasedData(root).rl())
    records[1].city, records[1].lat = "Elsewhere", 3.25
    write_rl(tmp_path / "again.parquet", records)
    row = pq.read_table(tmp_path / "again.parquet").to_pylist()[1]
    assert row["reward_model"]["ground_truth"] == row["extra_info"]["answer"] == "3.2500, 2.0000, Unknown, Elsewhere"
    (first, second) = ReleasedData(root).sft()
    second.steps.pop()
    write_sft(tmp_path / "again.parquet", [second])
    assert pq.read_table(tmp_path / "again.parquet").to_pylist()[0]["messages"] == sft_row(
        said("Hm."), {"role": "user", "content": "Go on."}
    )["messages"][:-1]  # fmt: skip


def imported(root, folder, **settings):
    cache = SearchCache.open(folder, mode="w", **settings)
    data = ReleasedData(root)
    return cache, data, data.caches(cache)


def test_cached_searches_are_answered_under_ids_relative_to_the_images(root, tmp_path):
    cache, data, counts = imported(root, tmp_path / "cache")
    with cache:
        assert data.problems == []
        assert counts == {"rows": 11, "duplicates": 1, "empty": 2, "blocked": 0, "problems": 0}
        assert cache.photo_ids() == ["part00_images/a_0.jpg", "part00_images/b_0.tiff"]
        answer = cache.image("part00_images/a_0.jpg", [100, 100, 400, 300])
        titles = {result.title: result.useful for result in answer.results}
        assert titles == {"tower of the first": True, "arch": False, "tower": True}  # of calls 0 and 3
        assert cache.image("part00_images/a_0.jpg", [0, 0, 90, 1000]).results == ()
        for query in ("cagliari torre", "Sardinia tower"):  # either of "a | b"
            found = cache.text("part00_images/a_0.jpg", query)
            assert found.match == 1.0 and {result.title for result in found.results} == {"cagliari", "zoo"}
        assert cache.text("part00_images/a_0.jpg", "nothing").results == ()
        assert cache.evidence("part00_images/a_0.jpg") == ["https://w.example/cagliari"]


def test_caches_are_written_again_row_for_row_without_the_duplicate(root, tmp_path):
    cache, _, _ = imported(root, tmp_path / "first")
    with cache:
        calls = list(cache.calls())
        assert write_caches(cache, tmp_path / "i.parquet", tmp_path / "t.parquet") == (7, 3)
    kept = [row for row in IMAGE_ROWS if row is not IMAGE_ROWS[1]]
    assert pq.read_table(tmp_path / "i.parquet").equals(table(kept, IMAGE_CACHE))
    assert pq.read_table(tmp_path / "t.parquet").equals(table(TEXT_ROWS, TEXT_CACHE))
    for name, file in (("image", "i"), ("text", "t")):
        os.replace(tmp_path / f"{file}.parquet", root / f"rl_cache/{name}_search_cache.parquet")
    again, _, counts = imported(root, tmp_path / "second")
    with again:
        assert list(again.calls()) == calls and counts["duplicates"] == 0
        again_counts = ReleasedData(root).caches(again)  # a second time into the same cache changes nothing
        assert list(again.calls()) == calls and again_counts == counts


def test_labels_given_and_results_found_since_are_written_too(root, tmp_path):
    cache, _, _ = imported(root, tmp_path / "cache")
    with cache:
        more = [
            SearchResult("arch", "https://guide.example/arch", "Guide", "", True),
            SearchResult("new", "https://n.example"),
        ]
        cache.record_image("part00_images/a_0.jpg", [100, 100, 400, 300], more)
        write_caches(cache, tmp_path / "i.parquet", tmp_path / "t.parquet")
    rows = pq.read_table(tmp_path / "i.parquet").to_pylist()
    assert [row["is_geo_useful"] for row in rows if row["result_title"] == "arch"] == [True, True]
    (new,) = (row for row in rows if row["result_title"] == "new")
    assert (new["call_idx"], new["result_pos"], new["result_link"]) == (3, 3, "https://n.example")


def test_records_of_our_own_become_tables_that_are_read_back(tmp_path):
    with SearchCache.open(tmp_path / "own", mode="w") as cache:
        cache.record_text("p/1.jpg", "Vigo", [SearchResult("t", "https://u.example", "", "s", True)])
        cache.record_text("p/1.jpg", "Lugo", [])
        cache.record_image(
            "p/1.jpg", [0, 0, 10, 20.5], [SearchResult("a", "b", "c"), SearchResult("d", "e", "f", "", False)]
        )
        write_caches(
            cache, tmp_path / "rl_cache/image_search_cache.parquet", tmp_path / "rl_cache/text_search_cache.parquet"
        )
    tables = [pq.read_table(tmp_path / f"rl_cache/{name}_search_cache.parquet") for name in ("image", "text")]
    assert sorted(row["result_index"] for row in tables[1].to_pylist()) == [-1, 1]
    assert sorted(row["call_idx"] for row in tables[1].to_pylist()) == [0, 1]
    assert tables[0].to_pylist()[1] == {
        "image_id": "1.jpg", "image_path": "images/p/1.jpg", "bbox": "[0.0, 0.0, 10.0, 20.5]", "call_idx": 0,
        "result_pos": 2, "result_title": "d", "result_link": "e", "result_source": "f", "result_thumbnail": "",
        "is_geo_useful": False, "useful_indices": "[]", "n_useful": 0, "call_turn": -1, "part": "",
    }  # fmt: skip
    cache, _, _ = imported(tmp_path, tmp_path / "again")
    with cache:
        assert [result.title for result in cache.text("p/1.jpg", "vigo").results] == ["t"]
        write_caches(cache, tmp_path / "i.parquet", tmp_path / "t.parquet")
    for name, one in zip("it", tables, strict=True):
        assert pq.read_table(tmp_path / f"{name}.parquet").equals(one)


def test_leaked_pages_are_dropped_and_counted_unless_the_reader_keeps_them(root, tmp_path):
    rows = [image_row(1, "x", result_link="https://www.flickr.com/photos/1"), image_row(2, "y")]
    rewrite(root / "rl_cache/image_search_cache.parquet", rows, IMAGE_CACHE)
    cache, _, counts = imported(root, tmp_path / "strict")
    with cache:
        assert counts["blocked"] == 1 and cache.stats()["image_results"] == 1
    cache, _, counts = imported(root, tmp_path / "all", blocked_hosts=BlockList(()))
    with cache:
        write_caches(cache, tmp_path / "i.parquet", tmp_path / "t.parquet")
    assert counts["blocked"] == 0 and pq.read_table(tmp_path / "i.parquet").equals(table(rows, IMAGE_CACHE))


def test_an_empty_cache_becomes_empty_tables_and_these_an_empty_cache(tmp_path):
    folder = tmp_path / "rl_cache"
    with SearchCache.open(tmp_path / "own", mode="w") as cache:
        assert write_caches(cache, folder / "image_search_cache.parquet", folder / "text_search_cache.parquet") == (
            0,
            0,
        )
    cache, data, counts = imported(tmp_path, tmp_path / "again")
    with cache:
        assert cache.photo_ids() == [] and not any(counts.values()) and data.problems == []


def test_rows_whose_structs_lack_fields_are_read_with_nothing_there(root):
    row = rl_row(0)
    for name in ("km", "difficulty"):
        del row["extra_info"][name]
    del row["extra_info"]["tools_kwargs"][ZOOM]
    pq.write_table(pa.Table.from_pylist([row]), root / "rl/val_rl.parquet")
    (task,) = ReleasedData(root, strict=True).rl("val_rl")
    assert task.extra["km"] is None and task.extra["difficulty"] is None
    write_rl(root / "rl/again.parquet", [task])
    info = pq.read_table(root / "rl/again.parquet").to_pylist()[0]["extra_info"]
    assert info["tools_kwargs"][ZOOM] is None and info["tools_kwargs"][TEXT] == row["extra_info"]["tools_kwargs"][TEXT]


def test_validation_rows_keep_their_labels(root):
    rows = [rl_row(0), rl_row(1)]
    rows[0]["extra_info"]["useful_results"] = [{"turn": 2, "tool": IMAGE, "indices": [1, 3]}]
    rows[1]["extra_info"]["useful_results"] = None
    pq.write_table(pa.Table.from_pylist(rows), root / "rl/val_rl.parquet")
    tasks = list(ReleasedData(root, strict=True).rl("val_rl"))
    assert tasks[0].extra["useful_results"] == [{"turn": 2, "tool": IMAGE, "indices": [1, 3]}]
    write_rl(root / "rl/again.parquet", tasks)
    assert pq.read_table(root / "rl/again.parquet").equals(pq.read_table(root / "rl/val_rl.parquet"))
    assert list(ReleasedData(root, strict=True).rl("again")) == tasks
    with pytest.raises(InteropError, match=r"row 2: extra_info has the unknown field 'useful_results'"):
        write_rl(root / "rl/mixed.parquet", [Photo("x", None, 1.0, 1.0), tasks[0]])


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_beside_a_table_is_never_read(root, tmp_path):
    for name in ("image", "text"):
        for ending in (".parquet.cache.pkl", ".cache.pkl", ".pkl", ".parquet.pkl", ".pickle"):
            (root / f"rl_cache/{name}_search_cache{ending}").write_bytes(pickle.dumps(Malice(tmp_path / "harm")))
    assert isinstance(pickle.loads(pickle.dumps(Malice(tmp_path / "proof"))).close(), type(None))
    cache, data, _ = imported(root, tmp_path / "cache")
    cache.close()
    assert len(list(data.sft())) + len(list(data.rl())) == 4
    assert (tmp_path / "proof").exists() and not (tmp_path / "harm").exists()


BAD_IMAGE_ROWS = [
    (image_row(0, "x"), "result_pos 0: expected a number from 1, or -1"),
    (
        image_row(-1, "") | {"result_title": "is one"},
        "-1 stands for a search without results, but there is one, 'is one'",
    ),
    (image_row(1, "x", bbox="[300, 0, 100, 50]"), "bbox '[300, 0, 100, 50]': expected"),
    (image_row(1, "x", bbox="[" * 100_000), "bbox '[[["),
    (image_row(1, "x", bbox=None), "bbox None: expected"),
    (image_row(1, "x", bbox="[0, 0, Infinity, 9]"), "bbox '[0, 0, Infinity, 9]': expected"),
    (image_row(1, "x", bbox=f"[0, 0, {10**400}, 9]"), "bbox '[0, 0, 1000"),
    (image_row(1, "x", bbox='{"a": 1}'), "bbox '{"),
    (image_row(1, "x", image_path="/d/images/../../etc/passwd"), "doesn't stay inside images/"),
    (image_row(1, "x", image_path=""), "image path '': not a path"),
    (image_row(1, "x", call_idx=None), "call_idx or is_geo_useful is null"),
]


def test_bad_rows_of_a_cache_are_named_counted_and_skipped(root, tmp_path):
    path = root / "rl_cache/image_search_cache.parquet"
    rewrite(path, [image_row(1, "good"), *(row for row, _ in BAD_IMAGE_ROWS)], IMAGE_CACHE)
    rewrite(
        root / "rl_cache/text_search_cache.parquet",
        [text_row(1, "x", query="?!"), text_row(1, "y", call=1)],
        TEXT_CACHE,
    )
    cache, data, counts = imported(root, tmp_path / "cache")
    with cache:
        assert cache.stats()["image_results"] == 1 and counts["problems"] == len(BAD_IMAGE_ROWS) + 1
    assert [(problem.file, problem.row) for problem in data.problems[:-1]] == [
        (str(path), row) for row in range(2, len(BAD_IMAGE_ROWS) + 2)
    ]
    for problem, (_, reason) in zip(data.problems, BAD_IMAGE_ROWS, strict=False):
        assert reason in problem.reason
    assert str(data.problems[-1]).endswith("text_search_cache.parquet, row 1: query '?!': has no word")
    with (
        SearchCache.open(tmp_path / "other", mode="w") as cache,
        pytest.raises(InteropError, match="row 2: result_pos 0"),
    ):
        ReleasedData(root, strict=True).caches(cache)


def test_bad_rows_of_conversations_are_named_and_skipped(root, caplog):
    short, silent = sft_row(), sft_row()
    short["images"].pop()
    silent["messages"] = silent["messages"][:2]
    rows = [sft_row(), short, silent, {"messages": None, "images": []}, sft_row(photo="../../x.jpg")]
    rewrite(root / "sft/bad.parquet", rows, SFT)
    data = ReleasedData(root)
    assert len(list(data.sft("bad"))) == 1
    reasons = [
        "has 2 times <image> in its messages and 1 images",
        "the model says nothing",
        "messages is null",
        "doesn't stay",
    ]
    assert [problem.row for problem in data.problems] == [2, 3, 4, 5]
    assert all(reason in problem.reason for problem, reason in zip(data.problems, reasons, strict=True))
    assert "bad.parquet: 4 rows left out, the first: row 2, has 2 times" in caplog.text
    rewrite(
        root / "rl/bad.parquet", [rl_row(0, truth="Italy, Cagliari, 39.2, 9.1"), rl_row(1, truth="91, 0, a, b")], RL
    )
    assert list(data.rl("bad")) == []
    assert "expected" not in data.problems[-1].reason and "no place on Earth" in data.problems[-1].reason
    with pytest.raises(InteropError, match=r"bad.parquet, row 1: latitude 'Italy'"):
        list(ReleasedData(root, strict=True).rl("bad"))


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b"\xff", b'{"id": 1}', b'{"km": NaN}', json.dumps(annotation(gt_lat=99)).encode(),
             json.dumps(annotation(images=[])).encode(), json.dumps(annotation(messages=[{"role": "user"}])).encode(),
             json.dumps(annotation(messages=[1])).encode(), b"[" * 100_000]
)  # fmt: skip
def test_a_bad_line_of_annotations_is_named_and_skipped(root, line):
    (root / "a.jsonl").write_bytes(line + b"\n" + json.dumps(annotation()).encode())
    data = ReleasedData(root)
    assert len(list(data.annotations("a.jsonl"))) == 1
    assert [(problem.row, bool(problem.reason)) for problem in data.problems] == [(1, True)]


def test_tables_of_another_shape_are_refused_by_name(root):
    data = ReleasedData(root)
    good = table([sft_row()], SFT)
    pq.write_table(good.drop_columns("images"), root / "sft/less.parquet")
    pq.write_table(good.append_column("km", pa.array([1.0])), root / "sft/more.parquet")
    pq.write_table(good.set_column(0, "messages", pa.array(["text"])), root / "sft/other.parquet")
    (root / "sft/junk.parquet").write_bytes(b"PAR1 no")
    for name, message in (
        ("less", "has no column 'images'"),
        ("more", "has the unknown column 'km'"),
        ("other", "column 'messages' is string, expected list"),
        ("junk", "not a readable Parquet file"),
    ):
        with pytest.raises(InteropError, match=f"{name}.parquet: .*{message}"):
            list(data.sft(name))
    with pytest.raises(FileNotFoundError, match="none.parquet: no such file; check DATA_ROOT"):
        list(data.sft("none"))
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


def test_photos_have_places_and_files_also_in_tiff_and_missing_ones_are_listed(root, tmp_path):
    upright = Image.new("RGB", (40, 20), "navy")
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    upright.save(root / "images/part00_images/b_0.tiff", exif=exif)
    rows = [rl_row(0), rl_row(1, "part00_images/b_0.tiff"), rl_row(2, "part00_images/gone.jpg"), rl_row(3)]
    rewrite(root / "rl/train_rl_v5_full.parquet", rows, RL)
    data = ReleasedData(root)
    jpeg, tiff = data.photos()
    assert (jpeg.photo_id, jpeg.lat, jpeg.lon, jpeg.city) == ("part00_images/a_0.jpg", 39.215, 9.11, "Cagliari")
    assert tiff.load().size == (20, 40) and tiff.load().getpixel((3, 3)) == (0, 0, 128)
    assert [(problem.row, "gone.jpg" in problem.reason) for problem in data.problems] == [(3, True)]
    assert write_photo_list(root / "photos.csv", [jpeg]) == 1
    with (root / "photos.csv").open() as file:
        assert list(csv.reader(file))[1] == ["images/part00_images/a_0.jpg", "39.215", "9.11", "Italy", "Cagliari"]
    listing = benchmarks.folder(root, root / "photos.csv")
    listed = listing.photos
    assert listing.skipped.empty and (listed[0].lat, listed[0].lon, listed[0].country) == (39.215, 9.11, "Italy")


def test_a_big_table_is_read_without_holding_it():
    code = """if True:
        import tempfile
        from pathlib import Path
        import pyarrow as pa, pyarrow.parquet as pq
        from reverse_lib.interop.tables import SFT, read_table
        rows = [{"messages": [{"role": "user", "content": f"{n} " * 800}], "images": []} for n in range(20_000)]
        table = pa.Table.from_pylist(rows, schema=SFT)
        path, held = Path(tempfile.mkdtemp()) / "big.parquet", table.nbytes
        pq.write_table(table, path, use_dictionary=False, row_group_size=10**6)  # one row group, as pandas writes it
        del rows, table
        pool = pa.proxy_memory_pool(pa.default_memory_pool())
        pa.set_memory_pool(pool)
        count = sum(1 for _ in read_table(path, SFT))
        path.unlink()
        print(count, held // 2**20, pool.max_memory() // 2**20)
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    rows, held_mb, memory_mb = map(int, done.stdout.split())
    assert rows == 20_000 and held_mb > 80 and 0 < memory_mb < held_mb / 3, (done.stdout, done.stderr)


def test_our_own_trajectories_become_rows_of_the_released_kind(world, tmp_path):
    photos = world.photos("train", 3)
    rows = rollout(ScriptedTeacher(world), photos, world.live, FULL)
    assert any(step.observation for row in rows for step in row.steps)
    assert write_sft(tmp_path / "sft/own.parquet", rows) == 3
    first = pq.read_table(tmp_path / "sft/own.parquet")
    again = list(ReleasedData(tmp_path, strict=True).sft("own"))
    assert [row.photo_id for row in again] == [row.photo_id for row in rows]
    assert [[step.text for step in row.steps] for row in again] == [[step.text for step in row.steps] for row in rows]
    write_sft(tmp_path / "again.parquet", again)
    assert pq.read_table(tmp_path / "again.parquet").equals(first)
    assert "You find out where a photo was taken" in first.to_pylist()[0]["messages"][0]["content"]
    write_annotations(tmp_path / "own.jsonl", rows)
    for row, one in zip(rows, ReleasedData(tmp_path, strict=True).annotations("own.jsonl"), strict=True):
        assert (one.lat, one.lon, one.country, one.city) == (row.lat, row.lon, row.country, row.city)
        assert [s.observation and s.observation.status for s in one.steps] == [
            s.observation and s.observation.status for s in row.steps
        ]


def test_trajectories_of_the_data_set_are_trajectories_like_any_other(root):
    (first, _) = ReleasedData(root).sft()
    assert isinstance(first, Trajectory) and Trajectory.from_dict(json.loads(json.dumps(first.to_dict()))) == first
