"""The released data set is read into our records, ours are written in its schema, and verl can load what we write.

The files are made here, in the schemas of the released ones and with their oddities.
"""

import importlib.util
import json
import pickle
import re
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from reverse_lib import scale
from reverse_lib.environment import FULL, rollout
from reverse_lib.photos import Photo
from reverse_lib.reward import score
from reverse_lib.scale import ReleasedData, compute_score, write_annotations, write_caches, write_rl, write_sft
from reverse_lib.scale.released import CACHES, IMAGE, RL, SFT, TEXT, ZOOM, ReleasedError, photo_id_of, steps_of
from reverse_lib.search import SearchCache, SearchResult
from reverse_lib.trajectory import TOOLS, Trajectory
from reverse_lib.world import ScriptedTeacher

FOLDER = "/mnt/somewhere/REVERSE/images"  # absolute, as the keys of the released caches are
A, B = "part00_images/a_0.jpg", "part00_images/b_0.jpg"
TRUTH = "39.2150, 9.1100, Italy, Cagliari"
CALL = '<tool_call>{{"name": "{}", "arguments": {}}}</tool_call>'
SIGNS = """Image search results for region [100, 100, 400, 300]:
[1] Torre dell'Elefante
    Source: Sardegna Turismo
    Link: https://guide.example/torre
[2] A tower [3] elsewhere
    Source: Flickr
    Link: https://www.flickr.com/photos/2"""
PAGES = """Web search results for: Torre dell'Elefante Cagliari

[1] Cagliari
URL: https://guide.example/cagliari
The tower, 39.22 N.
Built in 1307.
[2] Elephants
    URL: https://zoo.example/
    Big animals."""


def response(text):
    return {"role": "user", "content": f"<tool_response>\n{text}\n</tool_response>"}


def said(text):
    return {"role": "assistant", "content": text}


def conversation(*more, answer="Italy, Cagliari, 39.2181, 9.1161"):
    """System, question, a zoom, an image search, a text search, an answer."""
    return [
        {"role": "system", "content": "You are a geolocation expert."},
        {"role": "user", "content": "<image>\nWhere is this?"},
        said("<think>A tower.</think>" + CALL.format(ZOOM, '{"bbox_2d": [0, 0, 500, 500]}')),
        response("<image>"),
        said("<think>Old.</think>\n" + CALL.format(IMAGE, '{"bbox_2d": [100, 100, 400, 300], "goal": "tower"}')),
        response(SIGNS),
        said("<think>[1]</think>\n <useful>[1]</useful>" + CALL.format(TEXT, '{"query": "Torre dell\'Elefante"}')),
        response(PAGES),
        *more,
        said(f"<think>So.</think><useful>[1]</useful><answer>{answer}</answer>"),
    ]


def sft_row(*more, photo=A):
    return {"messages": conversation(*more), "images": [{"image": f"images/{photo}"}, {"image": "images/a_1.jpg"}]}


def rl_row(number, photo=A, truth=TRUTH, km=0.74, **more):
    info = {"answer": truth, "index": number, "img_id": photo, "part": "part00", "difficulty": "easy", "km": km}
    tools = {tool: {"create_kwargs": {"image": f"images/{photo}"}} for tool in TOOLS}
    return {
        "data_source": "coldstart",
        "prompt": conversation()[:2],
        "images": [{"image_url": f"images/{photo}"}],
        "ability": "geoloc",
        "reward_model": {"ground_truth": truth, "style": "rule"},
        "agent_name": "tool_agent",
        "extra_info": info | {"need_tools_kwargs": True, "split": "train", "tools_kwargs": tools} | more,
    }


def cache_row(title, useful, call, photo, **columns):
    row = {"image_id": "a.jpg", "image_path": f"{FOLDER}/{photo}", "call_idx": call, "result_title": title}
    row |= {"is_geo_useful": useful, "useful_indices": "[1]", "n_useful": 1, "call_turn": 3, "part": "part00"}
    return row | columns


def image_row(position, title, useful=False, call=0, photo=A, bbox="[100.0, 100.0, 400.0, 300.0]", **columns):
    texts = {"result_link": title and f"https://guide.example/{title}", "result_source": title and "Guide"}
    asked = {"bbox": bbox, "result_pos": position, "result_thumbnail": ""}
    return cache_row(title, useful, call, photo, **(asked | texts | columns))


def text_row(position, title, useful=False, call=0, query="Torre Cagliari | Sardinia tower"):
    texts = {"result_url": title and f"https://w.example/{title}", "result_content": title and "a\n  b\x1f é"}
    return cache_row(title, useful, call, A, query=query, result_index=position, **texts)


IMAGE_ROWS = [
    image_row(2, "late", call=1, photo=B),  # neither sorted by photo, nor by position
    image_row(1, "tower", useful=False),
    image_row(2, "arch"),
    image_row(1, "first", call=1, photo=B, result_source=None),
    image_row(1, "tower of the first", useful=True),  # a duplicate of the second row, and the useful one
    image_row(-1, "", call=2, bbox="[0, 0, 90.5, 1000]"),
    image_row(2, "arch", call=3),  # the same box again
    image_row(1, "tower", useful=True, call=3, result_thumbnail="https://t.example/1.png"),
]
TEXT_ROWS = [text_row(1, "cagliari", useful=True), text_row(2, "zoo"), text_row(-1, "", call=1, query="???! nothing")]


def write(path, rows, schema=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


@pytest.fixture
def root(tmp_path):
    """A folder as it is downloaded."""
    root = tmp_path / "data"
    nudge = {"role": "user", "content": "Go on."}
    write(root / "sft/train_sft_coldstart_v5.parquet", [sft_row(), sft_row(said("Hm."), nudge)], SFT)
    rows = [rl_row(0), rl_row(1, B, "-1.5, 2, Unknown, Old Town, Upper", None)]
    write(root / "rl/train_rl_v5_full.parquet", rows, RL)
    write(root / "rl_cache/image_search_cache.parquet", IMAGE_ROWS, CACHES[IMAGE])
    write(root / "rl_cache/text_search_cache.parquet", TEXT_ROWS, CACHES[TEXT])
    (root / "images/part00_images").mkdir(parents=True)
    Image.new("RGB", (40, 30), "teal").save(root / "images" / A)
    return root


def test_conversations_become_steps_with_results_and_labels(root):
    first, second = ReleasedData(root).sft()
    assert (first.photo_id, first.end, first.lat) == (A, "answered", None)
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
    reminder = second.steps[3].observation
    assert (reminder.tool, reminder.status, reminder.text) == ("unreadable_turn", "model_error", "Go on.")
    assert Trajectory.from_dict(json.loads(json.dumps(first.to_dict()))) == first


def test_results_numbered_anew_are_not_labelled_and_a_call_made_again_is_a_repeated_one():
    steps = steps_of([*conversation()[2:6], *conversation()[4:7], response(f"{PAGES}\n{PAGES}"), conversation()[-1]])
    assert [step.observation.repeated for step in steps[:4]] == [False, False, True, False]
    assert len(steps[3].observation.results) == 4 and not steps[3].observation.labelled


def test_rl_rows_become_places_latitude_first_and_photos_where_their_files_are(root):
    row = rl_row(2, useful_results=[{"turn": 2, "tool": IMAGE, "indices": [1, 3]}])  # as validation rows say
    write(root / "rl/val_rl.parquet", [row, rl_row(3, B, "-1.5, 2, Unknown, Old Town, Upper", None), rl_row(4)])
    data = ReleasedData(root)
    first, second, _ = data.rl("val_rl")
    assert (first.lat, first.lon, first.country, first.city, first.steps) == (39.215, 9.11, "Italy", "Cagliari", [])
    assert (first.extra["difficulty"], first.extra["km"], first.extra["index"]) == ("easy", 0.74, 2)
    assert first.extra["useful_results"] == row["extra_info"]["useful_results"]
    assert (second.lat, second.lon, second.country, second.city) == (-1.5, 2.0, "", "Old Town, Upper")
    (photo,) = data.photos("val_rl")
    assert (photo.photo_id, photo.lat, photo.city, photo.load().size) == (A, 39.215, "Cagliari", (40, 30))
    assert [(problem.row, B in problem.reason) for problem in data.problems] == [(2, True)]
    write_rl(root / "again.parquet", data.rl("val_rl"))
    again = pq.read_table(root / "again.parquet").to_pylist()
    assert [row["extra_info"]["km"] for row in again] == [0.74, None, 0.74]
    assert again[1]["reward_model"]["ground_truth"] == "-1.5000, 2.0000, Unknown, Old Town, Upper"


def annotation(**more):
    return {
        "id": "a.jpg", "gt_lat": 39.215, "gt_lon": 9.11, "gt_country": "Italy", "gt_city": "Cagliari", "n_nudges": 2,
        "useful_results": [{"turn": 4, "tool": IMAGE, "indices": [2]}, {"turn": 6, "tool": TEXT, "indices": []}],
        "messages": conversation(), "images": [f"{FOLDER}/{A}", f"{FOLDER}/a_1.jpg"],
    } | more  # fmt: skip


def test_annotations_become_trajectories_with_the_labels_beside_the_conversation(root):
    blocks = [{"type": "text", "text": "<image>\nimage_id: 0"}, {"type": "text", "text": "Where?"}]
    messages = [conversation()[0], {"role": "user", "content": blocks}, *conversation()[2:]]
    messages[3] = response("<image>\nimage_id: 1")
    second = annotation(gt_country="Unknown", gt_city=None, images=[{"image_url": "/x/images/c.jpg"}])
    del second["useful_results"]
    lines = [annotation(), second | {"messages": messages}]
    (root / "part00.jsonl").write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    first, second = ReleasedData(root).annotations("part00.jsonl")
    assert (first.photo_id, first.km, first.extra["n_nudges"]) == (A, pytest.approx(0.63, abs=0.01), 2)
    assert [step.observation.useful for step in first.steps[1:3]] == [{2}, set()]  # not what the model marked
    assert (second.photo_id, second.country, second.city) == ("c.jpg", "", "")
    assert second.steps[0].observation.text == "" and not second.steps[1].observation.labelled


def test_our_own_trajectories_become_rows_of_the_released_kind(world, tmp_path):
    def texts(rows):
        return [[step.text for step in row.steps] for row in rows]

    def facts(row):
        seen = [step.observation and (step.observation.status, step.observation.useful) for step in row.steps]
        return row.photo_id, row.end, row.lat, row.lon, row.city, seen

    rows = rollout(ScriptedTeacher(world), world.photos("train", 3), world.live, FULL)
    assert write_sft(tmp_path / "sft/own.parquet", rows) == write_annotations(tmp_path / "own.jsonl", rows) == 3
    table = pq.read_table(tmp_path / "sft/own.parquet")
    assert table.schema.equals(SFT) and table.to_pylist()[0]["messages"][0]["content"] == FULL.system_prompt
    data = ReleasedData(tmp_path)
    annotated = list(data.annotations("own.jsonl"))
    assert texts(data.sft("own")) == texts(annotated) == texts(rows)
    assert list(map(facts, annotated)) == list(map(facts, rows)) and data.problems == []


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
    assert [row[f"n_{name}_calls"] for name in ("tool", "crop", "search", "tavily")] == [2, 1, 0, 1]
    assert (row["id"], row["gt_city"], row["pred_lat"], row["max_turns_exceeded"]) == ("p1", "Paris", 48.85, False)
    assert row["masked"] == 0.0 and row["km"] == trajectory.km


def imported(root, folder):
    cache, data = SearchCache.open(folder, mode="w"), ReleasedData(root)
    return cache, data, data.caches(cache)


def test_cached_searches_are_answered_under_ids_relative_to_the_images(root, tmp_path):
    cache, data, counts = imported(root, tmp_path / "cache")
    with cache:
        assert data.problems == []
        assert counts == {"rows": 11, "duplicates": 1, "empty": 2, "blocked": 0, "problems": 0}
        assert cache.photo_ids() == [A, B]
        titles = {result.title: result.useful for result in cache.image(A, [100, 100, 400, 300]).results}
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
    results = [SearchResult("a", "b", "c"), SearchResult("d", "e", "f", "", False)]
    with SearchCache.open(tmp_path / "own", mode="w") as cache:
        cache.record_text("p/1.jpg", "Vigo", [SearchResult("t", "https://u.example", "", "s", True)])
        cache.record_text("p/1.jpg", "Lugo", [])
        cache.record_image("p/1.jpg", [0, 0, 10, 20], results)
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


def test_an_empty_cache_becomes_empty_tables_and_these_an_empty_cache(tmp_path):
    with SearchCache.open(tmp_path / "own", mode="w") as cache:
        write_caches(cache, tmp_path / "rl_cache")
    cache, data, counts = imported(tmp_path, tmp_path / "again")
    with cache:
        assert cache.photo_ids() == [] and not any(counts.values()) and data.problems == []


class Malice:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def test_a_pickle_beside_a_table_is_never_read(root, tmp_path):
    for table in list(root.rglob("*.parquet")):
        for ending in (".parquet.cache.pkl", ".cache.pkl", ".pkl", ".parquet.pkl", ".pickle"):
            table.with_suffix(ending).write_bytes(pickle.dumps(Malice()))
    cache, data, _ = imported(root, tmp_path / "cache")
    cache.close()
    assert len(list(data.sft())) + len(list(data.rl())) == 4


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


def test_bad_rows_of_a_cache_are_named_counted_and_skipped_and_leaked_pages_dropped(root, tmp_path):
    path = root / "rl_cache/image_search_cache.parquet"
    good = [image_row(1, "good"), image_row(2, "x", result_link="https://www.flickr.com/photos/1")]
    write(path, [*(row for row, _ in BAD_IMAGE_ROWS), *good], CACHES[IMAGE])
    write(root / "rl_cache/text_search_cache.parquet", [text_row(1, "x", query="?!"), text_row(1, "y", call=1)])
    cache, data, counts = imported(root, tmp_path / "cache")
    with cache:
        assert cache.stats()["image_results"] == 1 and counts["blocked"] == 1
        assert (counts["rows"], counts["problems"]) == (len(BAD_IMAGE_ROWS) + 4, len(BAD_IMAGE_ROWS) + 1)
    for number, (problem, (_, reason)) in enumerate(zip(data.problems, BAD_IMAGE_ROWS, strict=False), 1):
        assert (problem.file, problem.row) == (str(path), number) and reason in problem.reason
    assert str(data.problems[-1]).endswith("text_search_cache.parquet, row 1: query '?!': has no word")


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
    assert re.search(r"4 rows left out; the first is .*bad.parquet, row 2: has 2 times", caplog.text)
    truths = ["Italy, Cagliari, 39.2, 9.1", "91, 0, a, b", "1, 2"]
    write(root / "rl/bad.parquet", [rl_row(0, truth=truth) for truth in truths], RL)
    assert list(data.rl("bad")) == []
    for truth, problem in zip(truths, data.problems[-3:], strict=True):
        assert f"ground truth '{truth}': expected 'lat, lon, country, city'" in problem.reason
    assert "no place on Earth" in data.problems[-2].reason


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


def test_paths_become_ids_relative_to_the_images():
    ids = {"/mnt/x/images/part00/a.jpg": "part00/a.jpg", "images/a.tif": "a.tif", A: A, "/images/images": "images"}
    ids |= {"C:\\data\\images\\a b.jpg": "a b.jpg"}
    assert {path: photo_id_of(path) for path in ids} == ids


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verl")
    with SearchCache.open(folder / "cache", mode="w") as cache:
        cache.record_text("p/1.jpg", "Vigo", [SearchResult("t", "https://u.example", "", "s", True)])
        cache.record_image("p/1.jpg", [0, 0, 10, 20], [SearchResult("a", "b", "c")])
        photos = [Photo("p/1.jpg", None, 42.24, -8.72, "Spain", "Vigo"), Photo("p/2.jpg", None, 0.0, 0.0)]
        return scale.export_verl(folder / "verl", photos, cache, split="val")


def test_exported_rows_have_exactly_the_released_schema(exported, tmp_path):
    rows = pq.read_table(exported["rl"])
    assert rows.schema.equals(RL)
    row, second = rows.to_pylist()
    assert row["reward_model"] == {"ground_truth": "42.2400, -8.7200, Spain, Vigo", "style": "rule"}
    assert row["prompt"][0] == {"role": "system", "content": FULL.system_prompt}
    assert row["prompt"][1] == {"role": "user", "content": f"<image>\n{FULL.question}"}
    assert row["images"] == [{"image_url": "images/p/1.jpg"}] and row["agent_name"] == "tool_agent"
    info = row["extra_info"]
    assert (info["index"], info["split"], info["difficulty"], info["km"]) == (0, "val", "unknown", None)
    assert info["tools_kwargs"][TEXT] == {"create_kwargs": {"image": "images/p/1.jpg"}}
    assert second["reward_model"]["ground_truth"] == "0.0000, 0.0000, Unknown, Unknown"
    assert second["extra_info"]["index"] == 1
    assert pq.read_table(exported["image_cache"]).num_rows == pq.read_table(exported["text_cache"]).num_rows == 1
    with pytest.raises(ReleasedError, match="x: its place is unknown"):
        write_rl(tmp_path / "no.parquet", [Photo("x", None)])
    assert not (tmp_path / "no.parquet").exists()


def test_the_tool_configuration_names_the_three_tools_and_their_parameters(exported):
    listed = yaml.safe_load(exported["tools"].read_text())["tools"]
    tools = {tool["tool_schema"]["function"]["name"]: tool for tool in listed}
    parameters = {name: tool["tool_schema"]["function"]["parameters"] for name, tool in tools.items()}
    assert [(name, list(schema["properties"]), schema["required"]) for name, schema in parameters.items()] == [
        (ZOOM, ["bbox_2d", "label"], ["bbox_2d"]),
        (IMAGE, ["bbox_2d", "goal"], ["bbox_2d"]),
        (TEXT, ["query"], ["query"]),
    ]
    for schema in parameters.values():  # verl reads a single type and a description
        assert all(isinstance(part["type"], str) and part["description"] for part in schema["properties"].values())
    assert tools[IMAGE]["config"]["cache_path"] == str(exported["image_cache"])
    assert tools[IMAGE]["config"]["iou_threshold"] == 0.7 and tools[TEXT]["config"]["n_pos_limit"] == 3
    assert tools[TEXT]["class_name"] == "verl.tools.text_search_tool.TextSearchTool"


def solution(*more, template="\nuser\n{}\nassistant\n", **settings):
    """The text that verl decodes: what followed the prompt, with what is left of the chat template."""
    forms = {"assistant": "{}", "user": template}
    return "".join(forms[m["role"]].format(m["content"]) for m in conversation(*more, **settings)[2:])


TAGGED = "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(("template", "end"), [("\nuser\n{}\nassistant\n", ""), (TAGGED, "<|im_end|>")])
def test_the_exported_reward_is_ours(exported, template, end):
    spec = importlib.util.spec_from_file_location("custom_module", exported["reward"])  # as verl loads it
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ours = score(Trajectory("p", steps_of(conversation()[2:]), 39.215, 9.11))
    text = solution(template=template) + end
    parts = module.compute_score(data_source="coldstart", solution_str=text, ground_truth=TRUTH, extra_info=None)
    assert (parts["accuracy"], parts["format"]) == (ours.accuracy, ours.format) == (1.0, 1.0)
    assert parts["score"] == pytest.approx(0.7) and parts["process"] == 0.0 and parts["answered"] == 1.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>x</think><answer>Italy, Rome, 39.215, 9.11</answer>", (1.0, 1.0)),
        ("<think>x</think><answer>39.215, 9.11, Italy, Cagliari</answer>", (0.0, 0.0)),  # the order of the truth
        ("<answer>Italy, Rome, 39.215, 9.11</answer>", (1.0, 0.0)),
        ("<think>x</think> so <answer>Italy, Rome, 39.215, 9.11</answer>", (1.0, 0.8)),
        (solution().replace("<useful>[1]</useful>", ""), (1.0, 0.8)),
        (solution(answer="Italy, Cagliari, 39.215, 12.02"), (0.594, 1.0)),  # 250.7 km: just beyond the 200 km knot
        (solution(said("<answer>Italy, Rome, 1, 1</answer>")), (0.0, 0.0)),
        ("", (0.0, 0.0)),
        ("\nuser\n<tool_response>\nx\n</tool_response>\nassistant\n" * 3, (0.0, 0.0)),
        ("\n" * 300_000, (0.0, 0.0)),  # hours, were the time quadratic
        ("user\n<tool_response>" * 100_000, (0.0, 0.0)),
    ],
)
def test_the_exported_reward_of_known_texts(text, expected):
    parts = compute_score("coldstart", text, TRUTH, {"index": 3}, reward_model=None)
    assert (parts["accuracy"], parts["format"]) == pytest.approx(expected, abs=0.03)
    assert parts["score"] == pytest.approx(0.6 * parts["accuracy"] + 0.1 * parts["format"] + 0.3 * parts["process"])


def test_calls_the_model_got_wrong_cost_and_a_failed_service_is_counted_and_no_nan():
    def reward_after(told):
        call = "<think>x</think>" + CALL.format(TEXT, '{"query": ""}')
        answer = "<think>y</think><answer>Italy, Rome, 39.215, 9.11</answer>"
        return compute_score("c", f"{call}\nuser\n{response(told)['content']}\nassistant\n{answer}", TRUTH)

    wrong, failed = reward_after("Error: query is empty"), reward_after("Tavily search failed: no key")
    assert wrong["process"] == pytest.approx(-0.05) and wrong["format"] == 1.0
    assert failed["service_error"] == 1.0 and failed["score"] == pytest.approx(0.7)
    with pytest.raises(ValueError, match="ground truth 'here'"):
        compute_score("c", "", "here")


def test_the_reward_file_says_what_is_missing(exported, tmp_path):
    done = subprocess.run([sys.executable, "-I", exported["reward"]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "put the folder that holds reverse_lib on PYTHONPATH" in done.stderr
