"""The command line: any photo in, an answer out; errors in a line; JSON on standard output and nothing else there."""

import json
import os
import shutil
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from models import untrained
from PIL import Image
from pillow_heif import register_heif_opener

from reverse_lib.__main__ import main
from reverse_lib.environment import FULL, TINY
from reverse_lib.evaluation import METRICS
from reverse_lib.geo import Answer
from reverse_lib.models import save_checkpoint
from reverse_lib.photos import Photo
from reverse_lib.search import SearchAnswer, SearchResult
from reverse_lib.trajectory import format_turn
from reverse_lib.world import World

PNG = BytesIO()
Image.new("RGB", (64, 48), "teal").save(PNG, "png")
PNG = PNG.getvalue()
ROOT = Path(__file__).parent.parent


ANSWER = Answer("France", "Paris", 48.86, 2.35)


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
        asked.model, asked.settings = path, settings
        return Scripted(asked.interface, settings.get("tools", ("text_search_tool",)))

    monkeypatch.setattr("reverse_lib.models.checkpoint.load_agent", load_agent)
    monkeypatch.setattr("reverse_lib.world.World", TinyWorld)
    monkeypatch.setattr("huggingface_hub.HfApi.repo_exists", lambda self, name: name == "Qwen/Qwen3-VL-4B-Instruct")

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


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no/such", "neither a folder nor a model on huggingface.co"),
        ("nosuch", "no such folder"),
        ("./no/such", "no such folder"),
        ("data/models/nosuch", "no such folder"),
        ("README.md", "no such folder"),
        ("tests", "no config.json in this folder"),
    ],
)
def test_a_model_that_is_not_there_is_named_at_once(cli, photo, model, message):
    result = cli("geolocate", photo("a.png"), "--model", model)
    assert result.exit_code == 1 and f"--model {model}: {message}" in result.stderr and cli.asked.model is None


def test_a_model_id_that_nobody_can_be_asked_for_is_named_with_the_reason(cli, photo, monkeypatch):
    def offline(self, name):
        raise ConnectionError("Name or service not known\nmore")

    monkeypatch.setattr("huggingface_hub.HfApi.repo_exists", offline)
    result = cli("geolocate", photo("a.png"), "--model", "someone/model")
    assert result.exit_code == 1 and "can't be asked for it (Name or service not known)" in result.stderr


def test_copies_of_a_photo_are_each_answered(cli, photo, tmp_path):
    (tmp_path / "copy.png").write_bytes(photo("a.png").read_bytes())
    result = cli("geolocate", tmp_path / "a.png", tmp_path / "copy.png")
    assert result.exit_code == 0, result.output
    assert "a.png: France, Paris" in result.stdout and "copy.png: France, Paris" in result.stdout


def test_a_map_that_cannot_be_written_costs_one_line_and_not_the_answer(cli, photo, tmp_path):
    (tmp_path / "file").touch()
    result = cli("geolocate", photo("a.png"), "--map", tmp_path / "file" / "map.html")
    assert result.exit_code == 1 and "France, Paris" in result.stdout
    assert "map.html" in result.stderr and "name a file that can be written" in result.stderr


def test_ctrl_c_ends_with_one_line_and_status_130(cli, photo, monkeypatch):
    monkeypatch.setattr(Scripted, "__call__", lambda self, conversations: signal.raise_signal(signal.SIGINT))
    result = cli("geolocate", photo("a.png"))
    assert result.exit_code == 130 and result.stderr.endswith("Stopped.\n") and "Traceback" not in result.output


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
        (["--benchmark", "moon"], "'moon' is not one of 'world', 'im2gps3k', 'yfcc4k', 'folder'"),
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
    assert result.exit_code == 2 and "choose one of smoke, cpu, reference, gpu" in result.stderr
    result = CliRunner().invoke(main, ["run", "--set", "grpo.steps"])
    assert result.exit_code == 2 and "write NAME=VALUE, for example grpo.steps=5" in result.stderr


def test_settings_are_read_as_literals_and_anything_else_as_text(monkeypatch):
    from reverse_lib import runner

    seen = {}
    monkeypatch.setattr(runner, "run", lambda *a, **k: seen.update(a[3]) or [])
    arguments = ["run", "--set", "grpo.steps=5", "--set", "model.device=cuda", "--set", "coldstart.minutes=.5"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert seen == {"grpo.steps": 5, "model.device": "cuda", "coldstart.minutes": 0.5}


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


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with a tiny model of random weights, as a training stage leaves it."""
    model, processor = untrained()
    return save_checkpoint(tmp_path_factory.mktemp("models") / "tiny", model, processor, TINY)


@pytest.fixture(scope="module")
def street():
    """A photo of the miniature world with a landmark in it."""
    photos = World().photos("test-new", 40)
    return next(photo for photo in photos if any(m.kind == "landmark" and m.informative for m in photo.marks))


def test_a_real_checkpoint_answers_alike_for_a_photo_in_any_container_and_never_tells_its_gps(
    checkpoint, street, tmp_path
):
    register_heif_opener()
    image, exif = street.load(), Image.Exif()
    exif[0x0112] = 6
    exif[0x8825] = {1: "N", 2: (12.0, 34.0, 56.0), 3: "E", 4: (98.0, 7.0, 6.0)}
    turned = image.transpose(Image.Transpose.ROTATE_90)
    image.save(tmp_path / "a.png")
    turned.save(tmp_path / "b.webp", lossless=True, exif=exif)
    turned.save(tmp_path / "c.jpg", quality=95, exif=exif)
    image.save(tmp_path / "d.heic", quality=95, exif=exif.tobytes())
    (tmp_path / "e.jpg").write_bytes((tmp_path / "c.jpg").read_bytes()[:3000])
    paths = [str(tmp_path / name) for name in ("a.png", "b.webp", "c.jpg", "d.heic", "e.jpg")]
    result = CliRunner().invoke(main, ["geolocate", *paths, "--model", str(checkpoint), "--json"])
    assert result.exit_code == 2 and "e.jpg: damaged or truncated" in result.stderr
    rows = json.loads(result.stdout)["photos"]
    assert [row["photo"] for row in rows] == paths[:4]
    steps = [row["trajectory"]["steps"] for row in rows]
    assert steps[0] == steps[1] and all(step[0]["text"] for step in steps)
    assert all(row["trajectory"]["lat"] is None for row in rows)
    assert "12.58" not in result.output and "98.1" not in result.output


def test_the_real_program_puts_one_object_on_standard_output_and_no_chatter_anywhere(checkpoint):
    arguments = ["evaluate", "--benchmark", "world", "--world-seed", "3", "--photos", "2", "--tools", "none", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "reverse_lib", *arguments, "--model", str(checkpoint)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["n"] == 2 and list(answer["metrics"]) == list(METRICS)
    assert "Loading" not in done.stderr and "arning" not in done.stderr
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line]
    assert lines and all("photo/s" in line or "s/photo" in line for line in lines), done.stderr


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: os.truncate(folder / "model.safetensors", 5000), "--model"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{}"), "config.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json in this folder"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "preprocessor_config.json"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "has no chat template"),
        (lambda folder: (folder / "interface.json").write_text("{"), "interface.json: not an interface"),
        (lambda folder: (folder / "interface.json").write_text("{}"), "interface.json: not an interface"),
    ],
)
def test_a_damaged_checkpoint_is_one_line_that_names_it(checkpoint, photo, tmp_path, damage, message):
    damage(Path(shutil.copytree(checkpoint, tmp_path / "model")))
    result = CliRunner().invoke(main, ["geolocate", str(photo("a.png")), "--model", str(tmp_path / "model")])
    assert result.exit_code == 1 and result.stdout == ""
    assert message in result.stderr and str(tmp_path / "model") in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_checkpoint_without_interface_is_said_to_be_prompted_like_a_large_model(cli, photo, checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "model")
    (tmp_path / "model" / "interface.json").unlink()
    result = cli("geolocate", photo("a.png"), "--model", tmp_path / "model")
    assert result.exit_code == 0 and "has no interface.json" in result.stderr


def test_a_world_photo_saved_as_a_file_searches_the_same_web_but_without_labels(monkeypatch, street, tmp_path):
    mark = next(m for m in street.marks if m.kind == "landmark" and m.informative)
    box = list(mark.bbox_2d)
    call = f'<tool_call>{{"name": "image_search_tool", "arguments": {{"bbox_2d": {box}}}}}</tool_call>'

    class Looks(Scripted):
        def turn(self, searched):
            return format_turn("Nothing.", [], answer=ANSWER) if searched else f"<think>A landmark.</think>{call}"

    monkeypatch.setattr("reverse_lib.models.checkpoint.load_agent", lambda path, **settings: Looks())
    street.load().save(tmp_path / "a.png")
    result = CliRunner().invoke(main, ["geolocate", str(tmp_path / "a.png"), "--json"])
    (row,) = json.loads(result.stdout)["photos"]
    shown = row["trajectory"]["steps"][0]["observation"]
    known = World().live.image(street.photo_id, box)
    assert known.useful and {r["url"] for r in shown["results"]} == {r.url for r in known.results}
    assert shown["labelled"] is False and all(r["useful"] is None for r in shown["results"])
    assert row["end"] == "answered" and row["answer"]["city"] == "Paris"
