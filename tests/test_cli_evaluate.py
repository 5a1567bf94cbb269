"""Evaluation from the command line, what it sends to whom, and answers that tell no more than they should."""

import json
import math
import tempfile
from functools import partial
from types import SimpleNamespace

import click
import pandas as pd
import pytest
from cli_fakes import ANSWER, GPS, KEYS, TURNS, Scripted, Services, TinyWorld, check_sent, tagged
from click.testing import CliRunner

from reverse_lib.__main__ import main
from reverse_lib.environment import FULL, TINY
from reverse_lib.evaluation import METRICS
from reverse_lib.geo import Answer
from reverse_lib.models import checkpoint
from reverse_lib.photos.listing import LAYOUTS
from reverse_lib.search import GoogleVision, SearchCache, Serper, Tavily
from reverse_lib.search.live import choice
from reverse_lib.show.coarse import LEVELS, coarse, without_details
from reverse_lib.trajectory import TOOLS, Step, Trajectory


@pytest.fixture
def cli(monkeypatch, tmp_path):
    """A function: run a command line with a scripted agent and a small world; no keys in the environment."""
    agents = SimpleNamespace(interface=TINY, made=[])

    def load_agent(path, tools):
        agents.made.append(Scripted(tools, agents.interface))
        return agents.made[-1]

    for name in (*KEYS, "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(checkpoint, "load_agent", load_agent)
    monkeypatch.setattr("reverse_lib.world.World", TinyWorld)
    monkeypatch.setattr(TinyWorld, "down", False)

    def run(*arguments):
        return CliRunner().invoke(main, [str(a) for a in arguments])

    run.agents = agents
    return run


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
    known = {kind: partial(kind, made.url, **quick) for kind in (Tavily, Serper, GoogleVision)}
    for name in ("TEXT", "IMAGE"):
        offers = tuple((known[kind], *rest) for kind, *rest in getattr(choice, name))
        monkeypatch.setitem(choice._OFFERS, {"TEXT": "text_search_tool", "IMAGE": "image_search_tool"}[name], offers)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    yield made
    made.http.shutdown()
    made.http.server_close()


def test_the_options_name_every_benchmark():
    (option,) = [one for one in main.commands["evaluate"].params if one.name == "benchmark"]
    assert isinstance(option.type, click.Choice) and tuple(option.type.choices) == ("world", *LAYOUTS)


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
    told = json.loads(result.stdout)
    assert list(told) == ["n", "metrics", "listed", "skipped", "unserved"] and list(told["metrics"]) == list(METRICS)
    assert (told["n"], told["listed"], told["unserved"]) == (2, 3, 0)
    assert told["metrics"]["within_25km"]["value"] == 0.5 and told["metrics"]["calls_image"]["value"] == 1
    (skipped,) = told["skipped"]
    assert skipped["kind"] == "missing" and skipped["line"] == (3 if benchmark == "yfcc4k" else 4)
    assert f"left out: line {skipped['line']}: {skipped['path']}: no such file in" in result.stderr
    assert "2 of 3 listed photos were evaluated (missing 1)" in result.stderr
    assert "within_25km would be 0.333" in result.stderr  # one of three
    assert ("is published with" in result.stderr) == (benchmark != "folder")


def test_a_draw_of_photos_counts_only_what_was_drawn(cli, album):
    result = cli("evaluate", "--benchmark", "folder", "--root", album, "--photos", 3, "--json")
    told = json.loads(result.stdout)
    assert told["listed"] == 3 == told["n"] + len(told["skipped"]) and "published" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmark", "world", "--root", "."], "--root: the world needs no folder"),
        (["--benchmark", "folder", "--root", ".", "--split", "val"], "--split: folder has no splits"),
        (["--benchmark", "im2gps3k"], "benchmark im2gps3k: say where the photos are with --root DIR"),
        (["--benchmark", "folder", "--root", "README.md"], "README.md: missing columns path, lat, lon"),
        (["--benchmark", "folder", "--root", ".", "--live"], "for image_search_tool set GOOGLE_API_KEY"),
        (["--benchmark", "folder", "--root", ".", "--live"], "set TAVILY_API_KEY or SERPER_API_KEY"),
    ],
)
def test_options_that_do_not_go_together_are_refused_with_status_2(cli, arguments, message):
    result = cli("evaluate", *arguments)
    assert result.exit_code == 2 and message in result.stderr and result.stdout == "" and not cli.agents.made


def test_a_list_without_a_usable_photo_is_a_failure_of_one_line_after_its_rows(cli, album):
    (album / "places.csv").write_text("path,lat,lon\nx.jpg,1,2\na.jpg,99,2\n")
    result = cli("evaluate", "--benchmark", "folder", "--root", album)
    assert result.exit_code == 1 and result.stderr.endswith("none of 2 listed photos can be used\n")
    assert "line 2: x.jpg" in result.stderr and "line 3: a.jpg" in result.stderr and not cli.agents.made


def test_a_search_service_that_is_down_is_a_failure_and_no_score(cli, monkeypatch):
    monkeypatch.setattr(TinyWorld, "down", True)
    monkeypatch.setattr(Scripted, "turn", lambda self, calls: TURNS[1].replace("<useful>[]</useful>", ""))
    result = cli("evaluate", "--benchmark", "world", "--photos", 2, "--tools", "text")
    assert result.exit_code == 1 and result.stdout == ""
    assert "2 of 2 photos left out: their search service failed" in result.stderr
    assert "no photo can be scored; check the search service" in result.stderr


def test_suspicious_coordinates_are_told_and_kept(cli, album):
    (album / "places.csv").write_text("path,lat,lon\na.jpg,0,0.0\nb.jpg,1,2\n")
    result = cli("evaluate", "--benchmark", "folder", "--root", album, "--json")
    assert "kept, but look: line 2: a.jpg: 0, 0 lies in the sea" in result.stderr
    assert json.loads(result.stdout)["n"] == 2


def test_a_long_column_of_bad_rows_is_shortened_on_the_screen_but_not_in_the_output(cli, album):
    (album / "places.csv").write_text("path,lat,lon\na.jpg,1,2\n" + "".join(f"x{i}.jpg,1,2\n" for i in range(80)))
    out = album / "out"
    result = cli("evaluate", "--benchmark", "folder", "--root", album, "--output", out, "--json")
    assert result.stderr.count("no such file in") == 50 and "30 rows more" in result.stderr
    assert len(json.loads(result.stdout)["skipped"]) == 80 == len(pd.read_csv(out / "skipped.csv"))


def test_the_output_folder_holds_a_table_every_trajectory_and_the_summary(cli, album):
    out = album / "out"
    result = cli("evaluate", "--benchmark", "folder", "--root", album, "--output", out, "--json")
    north, south, turn = map(math.radians, (GPS[0], -33.87, 151.21 - GPS[1]))
    cosine = math.sin(north) * math.sin(south) + math.cos(north) * math.cos(south) * math.cos(turn)
    sydney_km = 6371.0088 * math.acos(cosine)  # the spherical law of cosines
    table = pd.read_parquet(out / "results.parquet")
    assert list(table["photo_id"]) == ["a.jpg", "b.jpg"] and list(table["km"].round(3)) == [0, round(sydney_km, 3)]
    assert len((out / "trajectories.jsonl").read_text().splitlines()) == 2
    assert json.loads((out / "summary.json").read_text()) == json.loads(result.stdout)
    assert list(pd.read_csv(out / "skipped.csv")["kind"]) == ["missing", "duplicate"]


def test_an_interrupted_run_goes_on_where_it_stopped(cli, tmp_path, monkeypatch):
    command = ["evaluate", "--benchmark", "world", "--photos", 140, "--tools", "none", "--output", tmp_path / "out"]
    with monkeypatch.context() as patch:
        answers = Scripted.__call__

        def stops(self, conversations):
            if self.asked >= 128:
                raise KeyboardInterrupt
            return answers(self, conversations)

        patch.setattr(Scripted, "__call__", stops)
        result = cli(*command)
    assert result.exit_code == 130 and "Traceback" not in result.output and result.stdout == ""
    assert f"Stopped; what was written to {tmp_path / 'out'} stays, and the same command goes on." in result.stderr
    result = cli(*command, "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["n"] == 140
    assert [agent.asked for agent in cli.agents.made] == [128, 12]


def test_the_folder_of_another_run_is_refused(cli, tmp_path):
    command = ["evaluate", "--benchmark", "world", "--photos", 2, "--output", tmp_path / "out"]
    assert cli(*command).exit_code == 0
    result = cli(*command, "--tools", "none")
    assert result.exit_code == 2 and "--output" in result.stderr and "holds another run" in result.stderr


def test_an_output_that_cannot_be_written_is_one_line(cli, album, services):
    (album / "file").touch()
    result = cli("evaluate", "--benchmark", "world", "--photos", 1, "--output", album / "file" / "out")
    assert result.exit_code == 1 and "Traceback" not in result.output and "file/out" in result.stderr
    (album / "out").mkdir()
    (album / "out" / "search_cache").write_text("no cache")
    result = cli("evaluate", "--benchmark", "folder", "--root", album, "--live", "--output", album / "out")
    assert result.exit_code == 2 and "--output: " in result.stderr and "search_cache" in result.stderr


def test_live_search_says_what_goes_to_whom_sends_no_more_and_asks_nothing_twice(cli, album, services):
    cli.agents.interface = FULL
    command = ["evaluate", "--benchmark", "folder", "--root", album, "--live", "--output", album / "out", "--json"]
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


def test_without_live_a_large_model_is_offered_no_search_of_real_photos(cli, album, services):
    cli.agents.interface = FULL
    result = cli("evaluate", "--benchmark", "folder", "--root", album, "--json")
    told = json.loads(result.stdout)
    assert told["metrics"]["calls_text"]["value"] == told["metrics"]["calls_image"]["value"] == 0
    assert "Without --live nothing is searched" in result.stderr and services.sent == []
    assert cli.agents.made[0].tools == (TOOLS[0],)


def test_live_of_the_world_is_its_own_engine(cli, services):
    result = cli("evaluate", "--benchmark", "world", "--photos", 1, "--live", "--json")
    assert result.exit_code == 0 and "nothing is sent" in result.stderr and services.sent == []


def test_one_tool_needs_one_key(cli, album, services, monkeypatch):
    monkeypatch.delenv("TAVILY_API_KEY"), monkeypatch.delenv("GOOGLE_API_KEY")
    cli.agents.interface = FULL
    services.answer = lambda path: {"organic": []}
    result = cli("evaluate", "--benchmark", "folder", "--root", album, "--live", "--tools", "text", "--json")
    assert result.exit_code == 0 and "to Serper (google.serper.dev), with the key in SERPER_API_KEY" in result.stderr
    assert [path for path, _, _ in services.sent] == ["/search"] * 2


@pytest.fixture
def endpoint(services, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", f"{services.url}/v1")
    return services


def test_a_model_on_a_server_is_evaluated_and_sees_pixels_only(cli, album, endpoint):
    result = cli("evaluate", "--benchmark", "folder", "--root", album, "--model", "openai:some/model", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["metrics"]["within_25km"]["value"] == 0.5
    assert f"are sent to {endpoint.url}/v1, with the key in OPENAI_API_KEY" in result.stderr
    assert KEYS["OPENAI_API_KEY"] not in result.output
    assert {json.loads(body)["model"] for _, _, body in endpoint.sent} == {"some/model"}
    assert [path for path, _, _ in endpoint.sent] == ["/v1/chat/completions"] * 2
    check_sent(endpoint, pictures=2)


def test_a_server_that_refuses_is_one_line_and_status_1(cli, album, endpoint):
    endpoint.status = 401
    command = ["evaluate", "--benchmark", "folder", "--root", album, "--model", "openai:m", "--output", album / "out"]
    result = cli(*command)
    assert result.exit_code == 1 and "Traceback" not in result.output and result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert "m at http" in last and "HTTP 401" in last and last.endswith("the same command goes on")


def test_a_server_without_a_key_is_named(cli, album):
    result = cli("evaluate", "--benchmark", "folder", "--root", album, "--model", "openai:m")
    assert result.exit_code == 1 and "--model openai:m: m: no key; set the environment variable OPENAI" in result.stderr


@pytest.mark.parametrize("how", ["live", "server"])
def test_no_metadata_leaves_with_a_photo_and_nothing_of_it_is_kept(cli, album, endpoint, monkeypatch, tmp_path, how):
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    before = sorted(tmp_path.rglob("*"))
    cli.agents.interface = FULL
    options = ["--live"] if how == "live" else ["--model", "openai:m"]
    result = cli("geolocate", album / "a.jpg", "--json", *options)
    assert result.exit_code == 0, result.output
    check_sent(endpoint, pictures=1)
    assert len(endpoint.sent) == (2 if how == "live" else 1)
    assert sorted(tmp_path.rglob("*")) == before and "secret-note" not in result.output
    assert "are sent to" in result.stderr or "no file name, place or metadata is sent" in result.stderr
    assert "what is sent is not" in cli("geolocate", "--coarse", album / "a.jpg", *options).stderr


FINER = ("Paris", "48.8", "2.35", "Rue Lepic", "b.example", "A sign")


@pytest.mark.parametrize(
    ("arguments", "told", "answer"),
    [
        (["--coarse"], "France", {"country": "France", "city": None, "lat": None, "lon": None}),
        (["--coarse", "country"], "France", {"country": "France", "city": None, "lat": None, "lon": None}),
        (["--coarse=region"], "France, near 49, 2", {"country": "France", "city": None, "lat": 49.0, "lon": 2.0}),
    ],
)
def test_a_coarse_answer_tells_nothing_finer_in_words_json_or_map(cli, album, tmp_path, arguments, told, answer):
    target = tmp_path / "map.html"
    for rest in ([album / "a.jpg"], ["--map", target, album / "a.jpg"]):
        result = cli("geolocate", *arguments, *rest)
        assert result.exit_code == 0, result.output
        assert f"a.jpg: {told}\n" in result.stdout and not any(word in result.output for word in FINER)
    page = target.read_text()
    assert "France" in page and not any(word in page for word in FINER if not word[0].isdigit())
    whole = Trajectory("p", [Step(TURNS[1]), Step(ANSWER.format(""))], end="answered")
    mapped = json.dumps(without_details(whole, "region" if answer["lat"] else "country").to_dict())
    assert "France" in mapped and not any(word in mapped for word in FINER)
    result = cli("geolocate", "--json", *arguments, album / "a.jpg")
    (row,) = json.loads(result.stdout)["photos"]
    assert row["answer"] == answer and row["trajectory"] is None and row["end"] == "answered"
    assert not any(word in result.output for word in FINER)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("country", "expected"),
    [
        ("france ", "France"),
        ("Rue Lepic 12", "France"),
        ("Gaul", "France"),
        ("Spain", "Spain"),
    ],
)
def test_what_stands_where_the_country_belongs_is_told_only_if_it_is_one(country, expected, level):
    answer = coarse(Answer(country, "Paris", *GPS), level)
    assert (answer.country, answer.city) == (expected, "")
    assert answer.lat == int(answer.lat) and answer.lon == int(answer.lon)
    if level == "country":  # the same for every place in it
        assert answer == coarse(Answer(expected, "", -12.3, 45.6), level)
    else:
        assert (answer.lat, answer.lon) == (49, 2)


def test_a_coarse_answer_at_sea_without_a_country_is_none(cli, album, monkeypatch):
    assert coarse(Answer("Atlantis", "", -60, -140), "region") is None and coarse(None, "country") is None
    assert coarse(Answer("France", "", -0.2, -0.4), "region") == Answer("France", "", 0, 0)
    with pytest.raises(ValueError, match="level 'street': choose country or region"):
        coarse(Answer("France", "", 1, 2), "street")
    nowhere = "<think>Waves.</think><answer>X, Y, -60, -140</answer>"
    monkeypatch.setattr(Scripted, "turn", lambda self, calls: nowhere)
    result = cli("geolocate", album / "a.jpg", "--coarse", "--map", album / "map.html")
    assert result.exit_code == 0 and "a.jpg: no country" in result.stdout


def test_a_coarse_level_that_is_none_is_refused(cli, album):
    result = cli("geolocate", album / "a.jpg", "--coarse=street")
    assert result.exit_code == 2 and "'street' is not one of 'country', 'region'" in result.stderr
