"""The command line: photos in, answers out; what is sent to whom; errors in a line; JSON alone on standard output."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import partial, partialmethod
from pathlib import Path
from types import SimpleNamespace

import click
import pandas as pd
import pytest
from cli_fakes import ANSWER, ASKS, GPS, KEYS, LOOKS, Scripted, Services, TinyWorld, check_sent, tagged
from click.testing import CliRunner
from models import untrained
from PIL import Image
from pillow_heif import register_heif_opener

from reverse_lib import runner
from reverse_lib.__main__ import main
from reverse_lib.environment import FULL, TINY
from reverse_lib.evaluation import METRICS
from reverse_lib.geo import Answer
from reverse_lib.models import checkpoint, save_checkpoint
from reverse_lib.photos.listing import LAYOUTS
from reverse_lib.search import SearchCache
from reverse_lib.search.live import SERVICES
from reverse_lib.show.answers import LEVELS, coarse, without_details
from reverse_lib.trajectory import TOOLS, Step, Trajectory

ROOT = Path(__file__).parent.parent


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def cli(monkeypatch):
    """`invoke` with a scripted agent and a small world, and no keys in the environment; `cli.made` are the agents."""
    made, wanted = [], SimpleNamespace(interface=TINY, turns=None)

    def load_agent(path, tools):
        made.append(Scripted(tools, wanted.interface, wanted.turns))
        made[-1].path = path
        return made[-1]

    def repo_exists(hub, name):
        if name == "offline/model":
            raise ConnectionError("Name or service not known\nmore")
        return name == "Qwen/Qwen3-VL-4B-Instruct"

    for name in (*KEYS, "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(checkpoint, "load_agent", load_agent)
    monkeypatch.setattr("reverse_lib.world.World", TinyWorld)
    monkeypatch.setattr(TinyWorld, "down", False)
    monkeypatch.setattr("huggingface_hub.HfApi.repo_exists", repo_exists)

    run = partial(invoke)
    run.made, run.wanted = made, wanted
    return run


@pytest.fixture
def photo(tmp_path):
    """A function: a picture file of the format that its suffix names."""
    register_heif_opener()

    def make(name):
        Image.new("RGB", (64, 48), "teal").save(tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def album(tmp_path):
    """A folder of two tagged photos, and a list with two bad rows besides."""
    root = tmp_path / "holiday"
    root.mkdir()
    (root / "a.jpg").write_bytes(tagged())
    (root / "b.jpg").write_bytes(tagged())
    (root / "places.csv").write_text("path,lat,lon\na.jpg,48.86,2.35\nb.jpg,-33.87,151.21\nc.jpg,1,2\nb.jpg,1,2\n")
    return root


@pytest.fixture
def services(monkeypatch):
    """The server, with every key set and each live service pointed at it."""
    made = Services()
    quick = {"wait_s": 0.01, "per_minute": 60_000, "timeout_s": 60, "attempts": 1}
    for kind in (kind for kinds in SERVICES.values() for kind in kinds):
        monkeypatch.setattr(kind, "__init__", partialmethod(kind.__init__, made.url, **quick))
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{made.url}/v1")
    yield made
    made.http.shutdown()
    made.http.server_close()


def folder_of(album, *options):
    return "evaluate", "--benchmark", "folder", "--root", album, *options


def world_of(photos, *options):
    return "evaluate", "--benchmark", "world", "--photos", photos, *options


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.heic"])
def test_any_common_photo_gets_an_answer_a_story_and_a_plain_word_on_the_tiny_model(cli, photo, name):
    result = cli("geolocate", photo(name))
    assert result.exit_code == 0, result.output
    assert f"{name}: France, Paris, 48.86, 2.35" in result.stdout
    assert "searches for “Rue Lepic Paris”" in result.stdout and "trusts: [1] Paris, France" in result.stdout
    assert "→ trusted" in result.stdout and "+++" not in result.stdout
    assert "knows only the miniature world" in result.stdout


def test_json_is_one_object_with_answer_and_trajectory_whose_id_says_nothing_of_the_file_name(cli, photo):
    result = cli("geolocate", "--json", photo("eiffel_tower.png"), photo("b.jpg"))
    answer = json.loads(result.stdout)
    assert [Path(row["photo"]).name for row in answer["photos"]] == ["eiffel_tower.png", "b.jpg"]
    assert answer["photos"][0]["answer"] == {"country": "France", "city": "Paris", "lat": 48.86, "lon": 2.35}
    assert len(answer["photos"][0]["trajectory"]["steps"]) == 3
    assert "eiffel" not in json.dumps(answer["photos"][0]["trajectory"])
    assert "miniature world" in answer["note"]


def test_a_map_is_written_where_asked_and_one_that_cannot_be_costs_a_line_and_not_the_answer(cli, photo, tmp_path):
    target = tmp_path / "new" / "map.html"
    result = cli("geolocate", photo("a.png"), "--map", target)
    assert result.exit_code == 0 and "48.86, 2.35" in target.read_text() and str(target) in result.stderr
    (tmp_path / "file").touch()
    result = cli("geolocate", tmp_path / "a.png", "--map", tmp_path / "file" / "map.html")
    assert result.exit_code == 1 and "France, Paris" in result.stdout
    assert "map.html" in result.stderr and "name a file that can be written" in result.stderr


def test_a_broken_photo_is_one_line_on_standard_error_and_status_2_and_good_ones_are_answered(cli, tmp_path, photo):
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "broken.jpg").write_bytes(photo("a.jpg").read_bytes()[:200])
    (tmp_path / "copy.jpg").write_bytes(photo("a.jpg").read_bytes())
    result = cli("geolocate", tmp_path / "broken.jpg", tmp_path / "missing.png")
    assert result.exit_code == 2 and result.stdout == "" and "Traceback" not in result.output and not cli.made
    assert "Error:" in result.stderr and "broken.jpg" in result.stderr and "missing.png" in result.stderr
    result = cli("geolocate", tmp_path / "notes.txt", tmp_path / "a.jpg", tmp_path / "copy.jpg")
    assert result.exit_code == 2 and "notes.txt" in result.stderr
    assert "a.jpg: France, Paris" in result.stdout and "copy.jpg: France, Paris" in result.stdout


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no/such", "neither a folder nor a model on huggingface.co"),
        ("offline/model", "no such folder, and huggingface.co can't be asked for it (Name or service not known)"),
        ("nosuch", "no such folder"),
        ("./no/such", "no such folder"),
        ("data/models/nosuch", "no such folder"),
        ("README.md", "no such folder"),
        ("tests", "no config.json in this folder"),
        ("openai:m", "m: no key; set the environment variable OPENAI"),
    ],
)
def test_a_model_that_is_not_there_is_named_at_once(cli, photo, model, message):
    result = cli("geolocate", photo("a.png"), "--model", model)
    assert result.exit_code == 1 and f"--model {model}: {message}" in result.stderr and not cli.made


def test_ctrl_c_ends_with_one_line_and_status_130(cli, photo, monkeypatch):
    monkeypatch.setattr(Scripted, "__call__", lambda self, conversations: signal.raise_signal(signal.SIGINT))
    result = cli("geolocate", photo("a.png"))
    assert result.exit_code == 130 and result.stderr.endswith("Stopped.\n") and "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "words", "answer"),
    [
        (["--coarse"], "France", {"country": "France", "city": None, "lat": None, "lon": None}),
        (["--coarse", "country"], "France", {"country": "France", "city": None, "lat": None, "lon": None}),
        (["--coarse=region"], "France, near 49, 2", {"country": "France", "city": None, "lat": 49.0, "lon": 2.0}),
    ],
)
def test_a_coarse_answer_tells_nothing_finer_in_words_json_or_map(cli, album, tmp_path, arguments, words, answer):
    finer = ("Paris", "48.8", "2.35", "Rue Lepic", "b.example", "A sign")
    target = tmp_path / "map.html"
    for rest in ([album / "a.jpg"], ["--map", target, album / "a.jpg"]):
        result = cli("geolocate", *arguments, *rest)
        assert result.exit_code == 0, result.output
        assert f"a.jpg: {words}\n" in result.stdout and not any(word in result.output for word in finer)
    page = target.read_text()
    assert "France" in page and not any(word in page for word in finer if not word[0].isdigit())
    whole = Trajectory("p", [Step(ASKS.replace("{}", "")), Step(ANSWER.format(""))], end="answered")
    mapped = json.dumps(without_details(whole, "region" if answer["lat"] else "country").to_dict())
    assert "France" in mapped and not any(word in mapped for word in finer)
    result = cli("geolocate", "--json", *arguments, album / "a.jpg")
    (row,) = json.loads(result.stdout)["photos"]
    assert row["answer"] == answer and row["trajectory"] is None and row["end"] == "answered"
    assert not any(word in result.output for word in finer)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("country", "expected"),
    [("france ", "France"), ("Rue Lepic 12", "France"), ("Gaul", "France"), ("Spain", "Spain")],
)
def test_what_stands_where_the_country_belongs_is_told_only_if_it_is_one(country, expected, level):
    answer = coarse(Answer(country, "Paris", *GPS), level)
    assert (answer.country, answer.city) == (expected, "")
    assert answer.lat == int(answer.lat) and answer.lon == int(answer.lon)
    if level == "country":  # the same for every place in it
        assert answer == coarse(Answer(expected, "", -12.3, 45.6), level)
    else:
        assert (answer.lat, answer.lon) == (49, 2)


def test_a_coarse_answer_at_sea_without_a_country_is_none_and_other_levels_are_refused(cli, album):
    for country, lat, lon in (("Atlantis", -60, -140), ("Bouvet Island", -54.4, 3.4)):  # the second has no town
        assert coarse(Answer(country, "", lat, lon), "country") is None
    assert coarse(None, "country") is None
    assert coarse(Answer("France", "", -0.2, -0.4), "region") == Answer("France", "", 0, 0)
    with pytest.raises(ValueError, match="level 'street': choose country or region"):
        coarse(Answer("France", "", 1, 2), "street")
    cli.wanted.turns = ["<think>Waves.</think><answer>X, Y, -60, -140</answer>"]
    result = cli("geolocate", album / "a.jpg", "--coarse", "--map", album / "map.html")
    assert result.exit_code == 0 and "a.jpg: no country" in result.stdout
    result = cli("geolocate", album / "a.jpg", "--coarse=street")
    assert result.exit_code == 2 and "'street' is not one of 'country', 'region'" in result.stderr


def test_the_options_name_every_benchmark():
    (option,) = [option for option in main.commands["evaluate"].params if option.name == "benchmark"]
    assert isinstance(option.type, click.Choice) and tuple(option.type.choices) == ("world", *LAYOUTS)


def test_evaluate_prints_one_json_object_with_every_metric_and_the_rest_goes_to_standard_error(cli):
    result = cli(*world_of(3, "--world-seed", 5, "--live", "--json"))
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["n"] == 3 and list(answer["metrics"]) == list(METRICS)
    assert answer["metrics"]["within_1km"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert answer["metrics"]["calls_text"]["value"] == 1.0
    assert "photo" in result.stderr and "nothing is sent" in result.stderr


def test_tools_can_be_taken_away(cli):
    result = cli(*world_of(2, "--tools", "none", "--json"))
    assert json.loads(result.stdout)["metrics"]["calls_text"]["value"] == 0.0
    cli(*world_of(1, "--tools", "text,zoom"))
    assert [agent.tools for agent in cli.made] == [(), ("image_zoom_in_tool", "text_search_tool")]


@pytest.mark.parametrize(
    ("benchmark", "arguments", "message"),
    [
        ("world", ["--tools", "zoom,maps"], "'maps' is unknown; use all, none, or some of zoom,image,text"),
        ("world", ["--split", "test"], "split 'test' is unknown"),
        ("world", ["--photos", "0"], "0 is not in the range"),
        ("world", ["--root", "."], "--root: the world needs no folder"),
        ("moon", [], "'moon' is not one of 'world', 'im2gps3k', 'yfcc4k', 'folder'"),
        ("im2gps3k", [], "benchmark im2gps3k: say where the photos are with --root DIR"),
        ("folder", ["--root", "/nowhere"], "/nowhere: no CSV file there"),
        ("folder", ["--root", ".", "--split", "val"], "--split: folder has no splits"),
        ("folder", ["--root", "README.md"], "README.md: missing columns path, lat, lon"),
        ("folder", ["--root", ".", "--live"], "for image_search_tool set GOOGLE_API_KEY"),
        ("folder", ["--root", ".", "--live"], "set TAVILY_API_KEY or SERPER_API_KEY"),
    ],
)
def test_options_that_do_not_go_together_are_refused_with_a_remedy_and_status_2(cli, benchmark, arguments, message):
    result = cli("evaluate", "--benchmark", benchmark, *arguments)
    assert result.exit_code == 2 and message in result.stderr and result.stdout == ""
    assert "Traceback" not in result.output and not cli.made


@pytest.mark.parametrize(
    ("benchmark", "file", "text"),
    [
        ("im2gps3k", "im2gps3k_places365.csv", "IMG_ID,LAT,LON\na.jpg,48.86,2.35\nb.jpg,-33.87,151.21\nc.jpg,1,2\n"),
        ("yfcc4k", "yfcc4k.tsv", "\n".join(
            "\t".join([str(i), photo, *[""] * 10, lon, lat, "16"])
            for i, (photo, lat, lon) in enumerate([("a", "48.86", "2.35"), ("b", "-33.87", "151.21"), ("c", "1", "2")])
        )),
        ("folder", "MP16.csv", "IMG_ID;LAT;LON;country\na.jpg;48,86;2,35;France\nb.jpg;-33,87;151,21;\nc.jpg;1;2;\n"),
    ],
)  # fmt: skip
def test_each_benchmark_on_disk_gives_one_json_object_with_what_it_leaves_out(cli, album, benchmark, file, text):
    (album / "places.csv").unlink()
    (album / file).write_text(text)
    result = cli("evaluate", "--benchmark", benchmark, "--root", album, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert list(report) == ["n", "metrics", "listed", "skipped", "unserved"]
    assert list(report["metrics"]) == list(METRICS)
    assert (report["n"], report["listed"], report["unserved"]) == (2, 3, 0)
    assert report["metrics"]["within_25km"]["value"] == 0.5 and report["metrics"]["calls_image"]["value"] == 1
    assert report["metrics"]["country"]["value"] == (1 if benchmark == "folder" else None)  # where it is listed
    (skipped,) = report["skipped"]
    assert skipped["kind"] == "missing" and skipped["line"] == (3 if benchmark == "yfcc4k" else 4)
    assert f"left out: line {skipped['line']}: {skipped['path']}: no such file in" in result.stderr
    assert "2 of 3 listed photos were evaluated (missing 1)" in result.stderr
    assert "within_25km would be 0.333" in result.stderr  # one of three
    assert ("is published with" in result.stderr) == (benchmark != "folder")


def test_a_draw_of_photos_counts_only_what_was_drawn(cli, album):
    result = cli(*folder_of(album, "--photos", 3, "--json"))
    report = json.loads(result.stdout)
    assert report["listed"] == 3 == report["n"] + len(report["skipped"]) and "published" not in result.stderr


def test_a_list_without_a_usable_photo_is_a_failure_of_one_line_after_its_rows(cli, album):
    (album / "places.csv").write_text("path,lat,lon\nx.jpg,1,2\na.jpg,99,2\n")
    result = cli(*folder_of(album))
    assert result.exit_code == 1 and result.stderr.endswith("none of 2 listed photos can be used\n")
    assert "line 2: x.jpg" in result.stderr and "line 3: a.jpg" in result.stderr and not cli.made


def test_suspicious_rows_are_told_and_kept_and_a_long_column_of_bad_ones_is_short_on_the_screen_alone(cli, album):
    (album / "places.csv").write_text("path,lat,lon\na.jpg,0,0.0\n" + "".join(f"x{i}.jpg,1,2\n" for i in range(80)))
    result = cli(*folder_of(album, "--output", album / "out", "--json"))
    assert "kept, but look: line 2: a.jpg: 0, 0 lies in the sea" in result.stderr
    assert json.loads(result.stdout)["n"] == 1
    assert result.stderr.count("no such file in") == 50 and "30 rows more" in result.stderr
    assert len(json.loads(result.stdout)["skipped"]) == 80 == len(pd.read_csv(album / "out" / "skipped.csv"))


def test_a_search_service_that_is_down_is_a_failure_and_no_score(cli, monkeypatch):
    monkeypatch.setattr(TinyWorld, "down", True)
    result = cli(*world_of(2, "--tools", "text"))
    assert result.exit_code == 1 and result.stdout == ""
    assert "2 of 2 photos left out: their search service failed" in result.stderr
    assert "no photo can be scored; check the search service" in result.stderr


def test_the_output_folder_holds_a_table_every_trajectory_and_the_summary(cli, album):
    out = album / "out"
    result = cli(*folder_of(album, "--output", out, "--json"))
    north, south, turn = map(math.radians, (GPS[0], -33.87, 151.21 - GPS[1]))
    cosine = math.sin(north) * math.sin(south) + math.cos(north) * math.cos(south) * math.cos(turn)
    sydney_km = 6371.0088 * math.acos(cosine)  # the spherical law of cosines
    table = pd.read_parquet(out / "results.parquet")
    assert list(table["photo_id"]) == ["a.jpg", "b.jpg"] and list(table["km"].round(3)) == [0, round(sydney_km, 3)]
    assert len((out / "trajectories.jsonl").read_text().splitlines()) == 2
    assert json.loads((out / "summary.json").read_text()) == json.loads(result.stdout)
    assert list(pd.read_csv(out / "skipped.csv")["kind"]) == ["missing", "duplicate"]


def test_an_interrupted_run_goes_on_where_it_stopped_and_the_folder_of_another_is_refused(cli, tmp_path, monkeypatch):
    command = world_of(70, "--tools", "none", "--output", tmp_path / "out")
    with monkeypatch.context() as patch:
        answers = Scripted.__call__

        def stops(self, conversations):
            if self.asked >= 64:
                raise KeyboardInterrupt
            return answers(self, conversations)

        patch.setattr(Scripted, "__call__", stops)
        result = cli(*command)
    assert result.exit_code == 130 and "Traceback" not in result.output and result.stdout == ""
    assert f"Stopped; what was written to {tmp_path / 'out'} stays, and the same command goes on." in result.stderr
    result = cli(*command, "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["n"] == 70
    assert [agent.asked for agent in cli.made] == [64, 6]
    result = cli(*command, "--tools", "all")
    assert result.exit_code == 2 and "--output" in result.stderr and "holds another run" in result.stderr


def test_an_output_that_cannot_be_written_is_one_line(cli, album, services):
    (album / "file").touch()
    result = cli(*world_of(1, "--output", album / "file" / "out"))
    assert result.exit_code == 1 and "Traceback" not in result.output and "file/out" in result.stderr
    (album / "out").mkdir()
    (album / "out" / "search_cache").write_text("no cache")
    result = cli(*folder_of(album, "--live", "--output", album / "out"))
    assert result.exit_code == 2 and "--output: " in result.stderr and "search_cache" in result.stderr


def test_live_search_says_what_goes_to_whom_sends_no_more_and_asks_nothing_twice(cli, album, services):
    cli.wanted.interface = FULL
    command = folder_of(album, "--live", "--output", album / "out", "--json")
    result = cli(*command)
    assert result.exit_code == 0, result.output
    for words in (
        "text searches send the agent's own words to Tavily (api.tavily.com), with the key in TAVILY_API_KEY",
        "image searches send the region cut out, as a new JPEG of at most 1,024 px to Google Cloud Vision",
        "no file name, place or metadata is sent",
    ):
        assert words in result.stderr
    assert not any(value in result.output for value in KEYS.values())
    assert sorted(path for path, _, _ in services.sent) == ["/search"] * 2 + ["/v1/images:annotate"] * 2
    check_sent(services, pictures=2)
    with SearchCache.open(album / "out" / "search_cache") as cache:
        assert cache.text("a.jpg", "Rue Lepic Paris").results[0].title == "Rue Lepic"
    for name in ("run.json", "trajectories.jsonl"):
        (album / "out" / name).unlink()
    again = cli(*command)
    assert len(services.sent) == 4 and json.loads(again.stdout)["n"] == 2


def test_without_live_a_large_model_is_offered_no_search_of_real_photos_and_not_called_tiny(cli, album, services):
    cli.wanted.interface, model = FULL, "Qwen/Qwen3-VL-4B-Instruct"
    cli.wanted.turns = [ANSWER]
    result = cli(*folder_of(album, "--model", model, "--json"))
    assert "Without --live nothing is searched" in result.stderr and services.sent == []
    assert cli.made[0].tools == (TOOLS[0],) and cli.made[0].path == model
    result = cli("geolocate", album / "a.jpg", "--model", model)
    assert result.exit_code == 0 and "miniature world" not in result.output


def test_one_tool_needs_one_key(cli, album, services, monkeypatch):
    monkeypatch.delenv("TAVILY_API_KEY"), monkeypatch.delenv("GOOGLE_API_KEY")
    cli.wanted.interface = FULL
    services.answer = lambda path: {"organic": []}
    result = cli(*folder_of(album, "--live", "--tools", "text", "--json"))
    assert result.exit_code == 0 and "to Serper (google.serper.dev), with the key in SERPER_API_KEY" in result.stderr
    assert [path for path, _, _ in services.sent] == ["/search"] * 2


def test_a_model_on_a_server_is_evaluated_and_sees_pixels_only(cli, album, services):
    result = cli(*folder_of(album, "--model", "openai:some/model", "--json"))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["metrics"]["within_25km"]["value"] == 0.5
    assert f"are sent to {services.url}/v1, with the key in OPENAI_API_KEY" in result.stderr
    assert KEYS["OPENAI_API_KEY"] not in result.output
    assert {json.loads(body)["model"] for _, _, body in services.sent} == {"some/model"}
    assert [path for path, _, _ in services.sent] == ["/v1/chat/completions"] * 2
    check_sent(services, pictures=2)


def test_a_server_that_refuses_is_one_line_and_status_1(cli, album, services):
    services.status = 401
    result = cli(*folder_of(album, "--model", "openai:m", "--output", album / "out"))
    assert result.exit_code == 1 and "Traceback" not in result.output and result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert "m at http" in last and "HTTP 401" in last and last.endswith("the same command goes on")


@pytest.mark.parametrize("how", ["live", "server"])
def test_no_metadata_leaves_with_a_photo_and_nothing_of_it_is_kept(cli, album, services, monkeypatch, tmp_path, how):
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    before = sorted(tmp_path.rglob("*"))
    cli.wanted.interface = FULL
    options = ["--live"] if how == "live" else ["--model", "openai:m"]
    result = cli("geolocate", album / "a.jpg", "--json", *options)
    assert result.exit_code == 0, result.output
    check_sent(services, pictures=1)
    assert len(services.sent) == (2 if how == "live" else 1)
    assert sorted(tmp_path.rglob("*")) == before and "secret-note" not in result.output
    assert "are sent to" in result.stderr or "no file name, place or metadata is sent" in result.stderr
    assert "what is sent is not" in cli("geolocate", "--coarse", album / "a.jpg", *options).stderr


def test_settings_are_read_as_literals_and_anything_else_as_text_and_a_failing_notebook_is_status_1(monkeypatch):
    settings = {}

    def fails(profile, only, start_from, overrides):
        settings.update(overrides)
        raise runner.NotebookError("03_sft: cell In [4] raised ValueError: x")

    monkeypatch.setattr(runner, "run", fails)
    result = invoke("run", "--set", "grpo.steps=5", "--set", "model.device=cuda", "--set", "coldstart.minutes=.5")
    assert settings == {"grpo.steps": 5, "model.device": "cuda", "coldstart.minutes": 0.5}
    assert result.exit_code == 1 and "03_sft: cell In [4]" in result.stderr and "Traceback" not in result.output
    result = invoke("run", "--set", "grpo.steps")
    assert result.exit_code == 2 and "write NAME=VALUE, for example grpo.steps=5" in result.stderr
    monkeypatch.undo()
    result = invoke("run", "--profile", "huge")
    assert result.exit_code == 2 and "choose one of smoke, cpu, reference, gpu" in result.stderr


def test_help_of_the_real_program_lists_its_commands_without_torch():
    code = "import sys; from reverse_lib.__main__ import main\n"
    code += "try: main(['--help'])\nfinally: assert not {'torch', 'pandas', 'papermill'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in ("run", "geolocate", "evaluate", "bench"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a tiny model of random weights, as a training stage leaves it."""
    model, processor = untrained()
    return save_checkpoint(tmp_path_factory.mktemp("models") / "tiny", model, processor, TINY)


@pytest.fixture(scope="module")
def street(world):
    """A photo of the miniature world, and the box of a landmark in it."""
    marks = [(photo, mark) for photo in world.photos("test-new", 40) for mark in photo.marks]
    return next((photo, list(mark.bbox_2d)) for photo, mark in marks if mark.kind == "landmark" and mark.informative)


def test_a_real_checkpoint_answers_alike_for_a_photo_in_any_container_and_never_tells_its_gps(
    monkeypatch, saved, world, street, tmp_path
):
    monkeypatch.setattr("reverse_lib.world.World", lambda seed: world)
    register_heif_opener()
    image, exif = street[0].load(), Image.Exif()
    exif[0x0112] = 6
    exif[0x8825] = {1: "N", 2: (12.0, 34.0, 56.0), 3: "E", 4: (98.0, 7.0, 6.0)}
    turned = image.transpose(Image.Transpose.ROTATE_90)
    image.save(tmp_path / "a.png")
    turned.save(tmp_path / "b.webp", lossless=True, exif=exif)
    turned.save(tmp_path / "c.jpg", quality=95, exif=exif)
    image.save(tmp_path / "d.heic", quality=95, exif=exif.tobytes())
    (tmp_path / "e.jpg").write_bytes((tmp_path / "c.jpg").read_bytes()[:3000])
    paths = [str(tmp_path / name) for name in ("a.png", "b.webp", "c.jpg", "d.heic", "e.jpg")]
    result = invoke("geolocate", *paths, "--model", saved, "--json")
    assert result.exit_code == 2 and "e.jpg: damaged or truncated" in result.stderr
    rows = json.loads(result.stdout)["photos"]
    assert [row["photo"] for row in rows] == paths[:4]
    steps = [row["trajectory"]["steps"] for row in rows]
    assert steps[0] == steps[1] and all(step[0]["text"] for step in steps)
    assert all(row["trajectory"]["lat"] is None for row in rows)
    assert "12.58" not in result.output and "98.1" not in result.output


def test_the_real_program_puts_one_object_on_standard_output_and_no_chatter_anywhere(saved, world):
    command = [sys.executable, "-m", "reverse_lib", *world_of("2", "--tools", "none", "--json")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*command, "--model", str(saved)], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["n"] == 2 and list(answer["metrics"]) == list(METRICS)
    assert "Loading" not in done.stderr and "arning" not in done.stderr
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line]
    assert lines and all("photo/s" in line or "s/photo" in line for line in lines), done.stderr


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("model.safetensors", lambda path: os.truncate(path, 5000), "--model"),
        ("model.safetensors", Path.unlink, "model.safetensors"),
        ("config.json", lambda path: path.write_text("{}"), "config.json"),
        ("tokenizer.json", Path.unlink, "no tokenizer.json in this folder"),
        ("preprocessor_config.json", Path.unlink, "preprocessor_config.json"),
        ("chat_template.jinja", Path.unlink, "has no chat template"),
        ("interface.json", lambda path: path.write_text("{"), "interface.json: not an interface"),
        ("interface.json", lambda path: path.write_text("{}"), "interface.json: not an interface"),
    ],
)
def test_a_damaged_checkpoint_is_one_line_that_names_it(saved, photo, tmp_path, file, damage, message):
    folder = Path(shutil.copytree(saved, tmp_path / "model"))
    damage(folder / file)
    result = invoke("geolocate", photo("a.png"), "--model", folder)
    assert result.exit_code == 1 and result.stdout == ""
    assert message in result.stderr and str(folder) in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_checkpoint_without_interface_is_said_to_be_prompted_like_a_large_model(cli, photo, saved, tmp_path):
    shutil.copytree(saved, tmp_path / "model")
    (tmp_path / "model" / "interface.json").unlink()
    result = cli("geolocate", photo("a.png"), "--model", tmp_path / "model")
    assert result.exit_code == 0 and "has no interface.json" in result.stderr


def test_a_world_photo_saved_as_a_file_searches_the_same_web_but_without_labels(monkeypatch, world, street, tmp_path):
    photo, box = street
    turns = [LOOKS.replace("[100, 100, 600, 600]", str(box)), ANSWER]
    monkeypatch.setattr(checkpoint, "load_agent", lambda path, tools: Scripted(tools, TINY, turns))
    monkeypatch.setattr("reverse_lib.world.World", lambda seed: world)
    photo.load().save(tmp_path / "a.png")
    (row,) = json.loads(invoke("geolocate", tmp_path / "a.png", "--json").stdout)["photos"]
    shown = row["trajectory"]["steps"][0]["observation"]
    answer = world.live.image(photo.photo_id, box)
    assert answer.useful and {r["url"] for r in shown["results"]} == {r.url for r in answer.results}
    assert shown["labelled"] is False and all(r["useful"] is None for r in shown["results"])
    assert row["end"] == "answered" and row["answer"]["city"] == "Paris"
