"""The command line: any photo in, an answer out; errors in a line; JSON on standard output and nothing else there."""

import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from PIL import Image
from pillow_heif import register_heif_opener

from reverse_lib import policy
from reverse_lib.__main__ import main
from reverse_lib.environment import FULL, TINY
from reverse_lib.evaluation import METRICS
from reverse_lib.photos import Photo
from reverse_lib.search import SearchAnswer, SearchResult

PNG = BytesIO()
Image.new("RGB", (64, 48), "teal").save(PNG, "png")
PNG = PNG.getvalue()
ROOT = Path(__file__).parent.parent


class Scripted:
    """An agent that searches for Paris if it may, then answers Paris."""

    def __init__(self, interface=TINY, tools=("text_search_tool",)):
        self.interface, self.tools, self.name = interface, tools, "scripted"

    def __call__(self, conversations):
        return [self.turn(any(message["role"] == "tool" for message in talk)) for talk in conversations]

    def turn(self, searched):
        if searched or "text_search_tool" not in self.tools:
            useful = "<useful>[1]</useful>" if searched else ""
            return f"<think>[1] Paris, France+++</think>{useful}<answer>France, Paris, 48.86, 2.35</answer>"
        return (
            '<think>A sign.</think><tool_call>{"name": "text_search_tool", "arguments": {"query": "Paris"}}</tool_call>'
        )


class TinyWorld:
    """Stands in for the miniature world: one page, and photos of Paris."""

    def __init__(self, seed=0, places=200):
        self.seed, self.live = seed, self

    def photos(self, split, n):
        if split != "test-new":
            raise ValueError(f"split {split!r} is unknown; use test-new")
        return [Photo(f"seed{self.seed}-{i}", PNG, 48.86, 2.35, "France", "Paris") for i in range(n)]

    def text(self, photo_id, query, call=0):
        page = SearchResult("Paris, France", "https://b.example", snippet="48.86, 2.35", useful=True)
        return SearchAnswer((page,), frozenset({1}))

    def image(self, photo_id, bbox_2d, call=0, crop=None):
        return None

    def evidence(self, photo_id):
        return []


@pytest.fixture
def cli(monkeypatch):
    """A function: run a command line with a scripted agent and a world of one page."""
    asked = SimpleNamespace(model=None, settings=None, interface=TINY)

    def load_agent(path, **settings):
        if str(path) == "no/such":
            raise OSError("no such folder")
        asked.model, asked.settings = path, settings
        return Scripted(asked.interface, settings.get("tools", ("text_search_tool",)))

    monkeypatch.setattr(policy, "load_agent", load_agent)
    monkeypatch.setattr("reverse_lib.world.World", TinyWorld)

    def run(*arguments):
        return CliRunner().invoke(main, [str(a) for a in arguments])

    run.asked = asked
    return run


@pytest.fixture
def photo(tmp_path):
    """A function: a picture file of the format that its suffix names."""
    register_heif_opener()

    def make(name):
        Image.new("RGB", (64, 48), "teal").save(tmp_path / name)
        return tmp_path / name

    return make


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.heic"])
def test_any_common_photo_gets_an_answer_a_story_and_a_plain_word_on_the_tiny_model(cli, photo, name):
    result = cli("geolocate", photo(name))
    assert result.exit_code == 0, result.output
    assert f"{name}: France, Paris, 48.86, 2.35" in result.stdout
    assert "searches for “Paris”" in result.stdout and "trusts: [1] Paris, France" in result.stdout
    assert "→ trusted" in result.stdout and "+++" not in result.stdout
    assert "knows only the miniature world" in result.stdout


def test_a_large_model_is_not_called_tiny(cli, photo):
    cli.asked.interface = FULL
    result = cli("geolocate", photo("a.png"), "--model", "Qwen/Qwen3-VL-4B-Instruct")
    assert result.exit_code == 0 and "miniature world" not in result.stdout
    assert cli.asked.model == "Qwen/Qwen3-VL-4B-Instruct"


def test_json_is_one_object_with_answer_and_trajectory(cli, photo):
    result = cli("geolocate", "--json", photo("a.png"), photo("b.jpg"))
    answer = json.loads(result.stdout)
    assert [Path(row["photo"]).name for row in answer["photos"]] == ["a.png", "b.jpg"]
    assert answer["photos"][0]["answer"] == {"country": "France", "city": "Paris", "lat": 48.86, "lon": 2.35}
    assert len(answer["photos"][0]["trajectory"]["steps"]) == 2
    assert "miniature world" in answer["note"]


def test_the_photo_id_says_nothing_of_the_file_name(cli, photo):
    trajectory = json.loads(cli("geolocate", "--json", photo("eiffel_tower.png")).stdout)["photos"][0]["trajectory"]
    assert "eiffel" not in json.dumps(trajectory)


def test_a_map_is_written_where_asked(cli, photo, tmp_path):
    target = tmp_path / "new" / "map.html"
    result = cli("geolocate", photo("a.png"), "--map", target)
    assert result.exit_code == 0
    assert "48.86, 2.35" in target.read_text() and str(target) in result.stderr


def test_a_broken_photo_is_one_line_on_standard_error_and_status_2(cli, tmp_path, photo):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photo("a.jpg").read_bytes()[:200])
    result = cli("geolocate", broken, tmp_path / "missing.png")
    assert result.exit_code == 2 and result.stdout == ""
    assert "Error:" in result.stderr and "broken.jpg" in result.stderr and "missing.png" in result.stderr
    assert "Traceback" not in result.output


def test_good_photos_are_answered_beside_a_broken_one_and_the_status_still_tells(cli, tmp_path, photo):
    (tmp_path / "notes.txt").write_text("no photo")
    result = cli("geolocate", tmp_path / "notes.txt", photo("a.png"))
    assert result.exit_code == 2
    assert "a.png: France, Paris" in result.stdout and "notes.txt" in result.stderr


def test_live_without_a_service_is_refused_with_a_remedy(cli, photo):
    result = cli("geolocate", photo("a.png"), "--live")
    assert result.exit_code == 2 and "no live search service is configured" in result.stderr


def test_a_model_that_cannot_be_loaded_is_named(cli, photo):
    result = cli("geolocate", photo("a.png"), "--model", "no/such")
    assert result.exit_code == 1 and "--model no/such: no such folder" in result.stderr


def test_evaluate_prints_one_json_object_with_every_metric_and_the_rest_goes_to_standard_error(cli):
    result = cli("evaluate", "--benchmark", "world", "--photos", 3, "--world-seed", 5, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["n"] == 3 and list(answer["metrics"]) == list(METRICS)
    assert answer["metrics"]["within_1km"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert answer["metrics"]["calls_text"]["value"] == 1.0
    assert "photo" in result.stderr


def test_tools_can_be_taken_away(cli):
    result = cli("evaluate", "--benchmark", "world", "--photos", 2, "--tools", "none", "--json")
    assert json.loads(result.stdout)["metrics"]["calls_text"]["value"] == 0.0
    assert cli.asked.settings["tools"] == ()
    cli("evaluate", "--benchmark", "world", "--photos", 1, "--tools", "text,zoom")
    assert cli.asked.settings["tools"] == ("image_zoom_in_tool", "text_search_tool")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--benchmark", "world", "--tools", "zoom,maps"],
            "'maps' is unknown; use all, none, or some of zoom,image,text",
        ),
        (["--benchmark", "world", "--split", "test"], "split 'test' is unknown"),
        (["--benchmark", "folder"], "say where the photos are with --root"),
        (["--benchmark", "folder", "--root", "/nowhere"], "/nowhere: no CSV file there"),
        (["--benchmark", "folder", "--live"], "no live search service is configured"),
        (["--benchmark", "moon"], "'moon' is not one of 'world', 'folder'"),
        (["--benchmark", "world", "--photos", "0"], "0 is not in the range"),
    ],
)
def test_a_wrong_option_of_evaluate_is_refused_with_a_remedy(cli, arguments, message):
    result = cli("evaluate", *arguments)
    assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.output


def test_a_folder_of_own_photos_is_evaluated_and_bad_rows_are_named(cli, photo, tmp_path):
    photo("a.png"), photo("b.png")
    (tmp_path / "places.csv").write_text("path,lat,lon\na.png,48.86,2.35\nb.png,-33.87,151.21\nc.png,1,2\n")
    result = cli("evaluate", "--benchmark", "folder", "--root", tmp_path, "--json")
    answer = json.loads(result.stdout)
    assert answer["n"] == 2 and answer["metrics"]["within_25km"]["value"] == 0.5
    assert answer["metrics"]["country"]["value"] is None  # the list names no countries
    assert "left out:" in result.stderr and "c.png" in result.stderr


def test_run_refuses_an_unknown_profile_and_setting_without_a_traceback():
    result = CliRunner().invoke(main, ["run", "--profile", "huge"])
    assert result.exit_code == 2 and "choose one of smoke, cpu, gpu" in result.stderr
    result = CliRunner().invoke(main, ["run", "--set", "grpo.steps"])
    assert result.exit_code == 2 and "write NAME=VALUE, for example grpo.steps=5" in result.stderr


def test_settings_are_read_as_literals_and_anything_else_as_text(monkeypatch):
    from reverse_lib import runner

    seen = {}
    monkeypatch.setattr(runner, "run", lambda *a, **k: seen.update(a[3]) or [])
    arguments = ["run", "--set", "grpo.steps=5", "--set", "evaluation.split=test-seen", "--set", "coldstart.minutes=.5"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert seen == {"grpo.steps": 5, "evaluation.split": "test-seen", "coldstart.minutes": 0.5}


def test_a_failing_notebook_ends_the_run_with_status_1_and_its_message(monkeypatch):
    from reverse_lib import runner

    def fails(*args, **kwargs):
        raise runner.NotebookError("03_sft: cell In [4] raised ValueError: x")

    monkeypatch.setattr(runner, "run", fails)
    result = CliRunner().invoke(main, ["run"])
    assert result.exit_code == 1 and "03_sft: cell In [4]" in result.stderr and "Traceback" not in result.output


def test_help_of_the_real_program_lists_its_commands_quickly_and_without_torch():
    code = "import sys; from reverse_lib.__main__ import main\n"
    code += "try: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in ("run", "geolocate", "evaluate"))
