"""The environment: its three tools, what it logs, repetition, budgets, and what TRL sees of it."""

import inspect
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from environment_fakes import ANSWER, IMAGE, TEXT, ZOOM, FakeSearch, call_text, make, photo, picture
from PIL import Image

from reverse_lib.environment import FULL, TINY, GeoEnvironment, Interface, show_photo, show_zoom, tool_functions
from reverse_lib.environment.environment import environment_class
from reverse_lib.profiles import Budgets
from reverse_lib.search import SearchAnswer, SearchResult
from reverse_lib.trajectory import TOOLS

ROOT = Path(__file__).parent.parent


@pytest.fixture
def search():
    return FakeSearch()


def test_the_public_functions_of_the_class_are_reset_and_the_chosen_tools(search):
    for tools in [TOOLS, (TEXT,), (ZOOM, IMAGE), ()]:
        environment = GeoEnvironment(search, {}, tools=tools)
        found = [name for name, _ in inspect.getmembers(type(environment), predicate=inspect.isfunction)]
        assert sorted(name for name in found if not name.startswith("_")) == sorted(("reset", *tools))
        assert isinstance(environment, GeoEnvironment)
        assert type(environment) is environment_class(tools)


def test_a_subclass_keeps_its_own_methods_when_tools_are_disabled(search):
    class Training(GeoEnvironment):
        def _finish(self):
            return "finished"

    environment = Training(search, {"p1": photo()}, tools=[TEXT])
    assert isinstance(environment, Training) and environment._finish() == "finished"
    assert environment.image_zoom_in_tool is None and type(environment).__name__ == "Training"


def test_an_unknown_tool_name_is_refused_by_name(search):
    for tools in (["magic"], "text_search_tool"):
        with pytest.raises(ValueError, match="names out of image_zoom_in_tool"):
            GeoEnvironment(search, {}, tools=tools)


def test_schemas_of_bound_methods_equal_those_of_tool_functions_in_trl_order(search):
    get_json_schema = pytest.importorskip("transformers.utils").get_json_schema
    for tools in [TOOLS, (TEXT,), (ZOOM, IMAGE)]:
        environment = make(search, tools=tools)
        members = inspect.getmembers(type(environment), predicate=inspect.isfunction)
        bound = [getattr(environment, name) for name, _ in members if not name.startswith("_") and name != "reset"]
        assert [get_json_schema(f) for f in tool_functions(tools)] == [get_json_schema(f) for f in bound]
    zoom = get_json_schema(environment_class().image_zoom_in_tool)["function"]
    assert zoom["parameters"]["required"] == ["bbox_2d"]
    assert zoom["parameters"]["properties"]["bbox_2d"]["items"] == {"type": "integer"}
    assert set(zoom["parameters"]["properties"]) == {"bbox_2d", "label"}
    assert "original photo" in zoom["parameters"]["properties"]["bbox_2d"]["description"]


def test_reset_ignores_the_rest_of_a_dataset_row_and_returns_the_photo(search):
    environment = GeoEnvironment(search, {"p1": photo()})
    (block,) = environment.reset(photo_id="p1", prompt=[{"role": "user"}], images=[], answer="42", environment=None)
    assert block["type"] == "image" and block["image"].size == (256, 192)


def test_reset_names_a_photo_it_does_not_know(search):
    environment = make(search)
    with pytest.raises(ValueError, match="'p9'"):
        environment.reset(photo_id="p9")
    with pytest.raises(ValueError, match="column photo_id"):
        environment.reset(prompt="x")
    with pytest.raises(RuntimeError, match="reset"):
        environment.text_search_tool(query="after a failed reset no old photo is left")


def test_a_zoom_is_cut_from_the_original_and_is_twice_as_wide_as_the_photo_shows_it(search):
    environment = make(search)
    (block,) = environment.image_zoom_in_tool(bbox_2d=[500, 500, 1000, 600])  # 320 x 48 px of 640 x 480
    zoom = np.asarray(block["image"]).astype(int)  # (32, 448, 3)
    assert zoom.shape == (32, 448, 3)
    wide = round(2 * 320 * 32 / 48)  # 427 px of picture, then grey
    assert (zoom[:, wide:] == 127).all()
    assert abs(zoom[:, 0, 0].mean() - 127.5) < 3 and abs(zoom[:, wide - 1, 0].mean() - 255) < 3
    assert abs(zoom[0, :wide, 1].mean() - 127.5) < 3 and abs(zoom[-1, :wide, 1].mean() - 153) < 3


def test_a_zoom_wider_than_the_canvas_is_scaled_to_its_width():
    image = Image.open(io.BytesIO(picture()))
    zoom = np.asarray(show_zoom(image, [0, 0, 1000, 50], TINY)).astype(int)  # 640 x 24 px -> 448 x 8
    assert abs(zoom[:8, 447, 0].mean() - 255) < 3
    assert (zoom[8:] == 127).all()


def test_an_interface_may_keep_the_aspect_and_refuses_a_stretch_that_is_none(search):
    kept = replace(TINY, zoom_stretch=1.0)
    zoom = np.asarray(show_zoom(Image.open(io.BytesIO(picture())), [500, 500, 1000, 600], kept)).astype(int)
    assert (zoom[:, 213:] == 127).all() and abs(zoom[:, 212, 0].mean() - 255) < 4
    assert Interface.from_dict(kept.to_dict()) == kept
    with pytest.raises(ValueError, match="zoom_stretch=0"):
        replace(TINY, zoom_stretch=0)


def test_full_zooms_are_twice_as_large_up_to_1024_px_and_say_which_region(search):
    environment = make(search, FULL)
    image, text = environment.image_zoom_in_tool(bbox_2d=[0, 0, 250, 500], label="sign")
    assert image["image"].size == (320, 480)
    assert text == {"type": "text", "text": "Zoomed into region [0, 0, 250, 500]"}
    assert environment.image_zoom_in_tool(bbox_2d=[0, 0, 1000, 1000])[0]["image"].size == (1024, 768)


@pytest.mark.parametrize("box", [[0, 500, 1000, 501], [500, 0, 501, 1000], [999, 999, 1000, 1000]])
def test_a_sliver_never_becomes_a_picture_that_an_image_processor_refuses(box):
    image = Image.open(io.BytesIO(picture()))
    zoom = show_zoom(image, box, FULL)
    assert min(zoom.size) >= 32 and max(zoom.size) / min(zoom.size) <= 100
    assert show_zoom(image, box, TINY).size == (448, 32)
    panorama = show_photo(Image.new("RGB", (20000, 40)), FULL)
    assert panorama.size == (20000, 200)


def test_image_search_hands_the_crop_of_the_original_to_the_backend(search):
    environment = make(search)
    shown = environment.image_search_tool(bbox_2d=[250, 0, 750, 1000], goal="the tower")
    assert shown == "[1] picture 1: snippet 1\n[2] picture 2: snippet 2"
    photo_id, box, call, crop = search.asked[0]
    assert (photo_id, box, call) == ("p1", (250, 0, 750, 1000), 0)
    assert crop.size == (320, 480)


def test_the_log_keeps_labels_match_and_results_in_the_order_shown(search):
    environment = make(search)
    environment.text_search_tool(query="Valencia")
    (entry,) = environment.log
    assert (entry.tool, entry.arguments, entry.status) == (TEXT, {"query": "Valencia"}, "ok")
    assert (entry.labelled, entry.match, entry.repeated, entry.useful) == (True, 0.8, False, {2})
    assert entry.results[1] == {
        "title": "Valencia 2",
        "url": "https://e.org/Valencia/2",
        "source": "e.org",
        "snippet": "snippet 2",
        "useful": True,
    }
    assert entry.results[0]["useful"] is False


def test_labels_of_an_unlabelled_answer_are_unknown_not_negative(search):
    answer = SearchAnswer((SearchResult("A", "u"), SearchResult("B", "v")), frozenset(), labelled=False)
    search.text = lambda *_, **__: answer
    environment = make(search)
    environment.text_search_tool(query="x")
    assert [result["useful"] for result in environment.log[0].results] == [None, None]
    assert environment.log[0].labelled is False and environment.log[0].match is None


def test_full_results_have_a_header_with_the_models_own_query(search):
    environment = make(search, FULL)
    shown = environment.text_search_tool(query="  Plaça de l'Ajuntament  ")
    assert shown.splitlines() == [
        "Web search results for: Plaça de l'Ajuntament",
        "[1] Plaça de l'Ajuntament 1",
        "    URL: https://e.org/Plaça de l'Ajuntament/1",
        "    snippet 1",
        "[2] Plaça de l'Ajuntament 2",
        "    URL: https://e.org/Plaça de l'Ajuntament/2",
        "    snippet 2",
    ]
    shown = environment.image_search_tool(bbox_2d=[1, 2, 3, 4])
    assert shown.splitlines()[:4] == [
        "Image search results for region [1, 2, 3, 4]:",
        "[1] picture 1",
        "    Source: e.org",
        "    Link: https://e.org/picture/1",
    ]


def test_several_queries_are_numbered_through_and_their_labels_move_along(search):
    environment = make(search)
    shown = environment.text_search_tool(query=["one", "nothing", "two", "One!"])
    assert shown.splitlines() == [
        "[1] one 1: snippet 1",
        "[2] one 2: snippet 2",
        "[3] two 1: snippet 1",
        "[4] two 2: snippet 2",
    ]
    assert environment.log[0].useful == {2, 4}
    assert [asked[1] for asked in search.asked] == ["one", "nothing", "two"]


def test_several_queries_share_the_places_fairly(search):
    results = {
        q: tuple(SearchResult(f"{q}{i}", f"{q}{i}") for i in range(n)) for q, n in {"a": 9, "b": 2, "c": 9}.items()
    }
    search.text = lambda photo_id, query, call=0: SearchAnswer(results[query], frozenset({1}))
    environment = make(search)  # TINY shows 6
    assert (
        environment.text_search_tool(query=["a", "b", "c"]).split()
        == "[1] a0 [2] a1 [3] b0 [4] b1 [5] c0 [6] c1".split()
    )
    assert environment.log[0].useful == {1, 3, 5}


def test_a_miss_is_told_as_no_results_in_every_interface(search):
    for interface in (TINY, FULL):
        environment = make(search, interface)
        assert environment.text_search_tool(query="nothing") == "No results"
        entry = environment.log[0]
        assert (entry.status, entry.results, entry.labelled) == ("miss", [], False)


def test_an_empty_answer_is_a_miss(search):
    search.text = lambda *_, **__: SearchAnswer((), frozenset())
    environment = make(search)
    assert environment.text_search_tool(query="x") == "No results"
    assert environment.log[0].status == "miss"


def test_a_failing_service_is_an_error_and_tells_the_model_no_secret(search):
    environment = make(search)
    shown = environment.text_search_tool(query="down")
    entry = environment.log[0]
    assert entry.status == "service_error" and entry.text == shown
    assert "not available" in shown and "SECRET" not in shown
    environment.text_search_tool(query="down")
    assert environment.log[1].repeated is False  # a retry after a failure is no repetition
    assert [asked[2] for asked in search.asked] == [0, 0]


def test_an_error_in_our_own_backend_is_raised_and_leaves_no_entry(search):
    def broken(*_, **__):
        raise ValueError("a bug")

    search.text = broken
    environment = make(search)
    with pytest.raises(ValueError, match="a bug"):
        environment.text_search_tool(query="x")
    assert environment.log == []


def test_a_repeated_call_is_marked_and_asks_for_the_next_answer(search):
    environment = make(search)
    for query in ["Valencia, Spain", "valencia spain!", "VALENCIA  SPAIN"]:
        environment.text_search_tool(query=query)
    for label in ["a", "b"]:
        environment.image_search_tool(bbox_2d=[1, 2, 300, 400], goal=label)
    environment.image_zoom_in_tool(bbox_2d=[1, 2, 300, 400])
    environment.image_zoom_in_tool(bbox_2d=[1.2, 2, 300, 400.0])
    assert [asked[2] for asked in search.asked] == [0, 1, 2, 0, 1]
    assert [entry.repeated for entry in environment.log] == [False, True, True, False, True, False, True]


def test_wrapping_a_query_in_a_list_does_not_hide_a_repetition(search):
    environment = make(search)
    for query in ["a", ["a"], ["a", "b"], ["b", "a"]]:
        environment.text_search_tool(query=query)
    assert [entry.repeated for entry in environment.log] == [False, True, False, True]


def test_members_of_a_group_see_the_same_for_the_same_call():
    shown = []
    for _ in range(2):
        environment = make(FakeSearch())
        environment.text_search_tool(query="other") if shown else None
        shown.append(environment.text_search_tool(query="Valencia"))
    assert shown[0] == shown[1]


_SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, str(Path("tests")))
from test_environment import digest
print(digest(sys.argv[1]))
"""


def digest(path) -> str:
    """Everything the model is shown for three calls on a cache, as one text."""
    import hashlib

    from reverse_lib.search import SearchCache

    with SearchCache.open(path, mode="r", seed=3) as cache:
        environment = make(cache)
        zoom = environment.image_zoom_in_tool(bbox_2d=[100, 100, 400, 200])[0]["image"]
        texts = [environment.text_search_tool(query="Valencia Spain") for _ in range(2)]
        texts.append(environment.image_search_tool(bbox_2d=[100, 100, 400, 400]))
    assert "page" in texts[0] and "No results" not in texts
    return hashlib.sha256(zoom.tobytes() + "\n".join(texts).encode()).hexdigest()


def test_another_process_sees_the_same_for_the_same_call(tmp_path):
    from reverse_lib.search import SearchCache

    found = [SearchResult(f"page {i}", f"https://e.org/{i}", "e.org", "", useful=i < 4) for i in range(12)]
    with SearchCache.open(tmp_path / "cache", mode="w", seed=3) as cache:
        cache.record_text("p1", "valencia spain", found)
        cache.record_image("p1", [100, 100, 400, 400], found)
    command = [sys.executable, "-c", _SCRIPT, str(tmp_path / "cache")]
    other = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert other.stdout.strip() == digest(tmp_path / "cache")


def test_reset_leaks_nothing_of_the_rollout_before(search):
    environment = make(search, budgets=Budgets(zoom=1, image=1, text=1, turns=4))
    fresh = {name: value for name, value in vars(environment).items() if name not in ("_photo", "_image")}
    before = json.dumps({name: repr(value) for name, value in fresh.items()}, sort_keys=True)
    for _ in range(3):
        environment.text_search_tool(query="Valencia")
        environment.image_search_tool(bbox_2d=[0, 0, 10, 10])
    environment.reset(photo_id="p2")
    after = {name: repr(value) for name, value in vars(environment).items() if name not in ("_photo", "_image")}
    assert json.dumps(after, sort_keys=True) == before
    search.asked.clear()
    environment.text_search_tool(query="Valencia")
    assert search.asked == [("p2", "Valencia", 0)]
    assert environment.log[0].repeated is False
    assert environment._trajectory([call_text(TEXT, query="Valencia"), ANSWER]).photo_id == "p2"


@pytest.mark.parametrize(
    ("tool", "limit", "message"),
    [
        (ZOOM, 5, "no zooms left: answer now"),
        (IMAGE, 3, "no image searches left: answer now"),
        (TEXT, 5, "no text searches left: answer now"),
    ],
)
def test_each_tool_has_its_own_budget_and_says_when_it_is_used_up(search, tool, limit, message):
    environment = make(search, budgets=Budgets(turns=20))
    arguments = [{"query": f"q{i}"} if tool == TEXT else {"bbox_2d": [i, 0, 500, 500]} for i in range(limit + 1)]
    shown = [getattr(environment, tool)(**one) for one in arguments]
    assert message not in map(str, shown[:limit]) and shown[limit] == message
    assert [entry.status for entry in environment.log] == ["ok"] * limit + ["model_error"]
    other = (
        environment.text_search_tool(query="z") if tool != TEXT else environment.image_search_tool(bbox_2d=[0, 0, 9, 9])
    )
    assert other.startswith("[1]")


def test_malformed_calls_cost_a_turn_but_no_call_of_the_tool(search):
    environment = make(search, budgets=Budgets(text=1, turns=5))
    environment.text_search_tool()
    environment.text_search_tool(query="")
    assert environment.text_search_tool(query="Valencia").startswith("[1]")


def test_the_last_call_says_that_only_the_answer_is_left_and_further_calls_are_refused(search):
    environment = make(search, budgets=Budgets(turns=3))
    assert "turns" not in environment.text_search_tool(query="a")
    assert environment.text_search_tool(query="b").splitlines()[-1] == "no turns left: answer now"
    assert environment.text_search_tool(query="c") == "no turns left: answer now"
    assert [entry.status for entry in environment.log] == ["ok", "ok", "model_error"]
    assert environment.log[1].useful == {2} and len(search.asked) == 2


def test_the_notice_stands_beside_a_zoom(search):
    image, text = make(search, budgets=Budgets(turns=2)).image_zoom_in_tool(bbox_2d=[0, 0, 100, 100])
    assert image["type"] == "image" and text["text"] == "no turns left: answer now"


@pytest.mark.parametrize("fields", [{"turns": 0}, {"zoom": -1}, {"text": 1.5}, {"image": True}])
def test_impossible_budgets_are_refused_by_name(fields):
    with pytest.raises(ValueError, match=f"Budgets.{next(iter(fields))}="):
        Budgets(**fields)
