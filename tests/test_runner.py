"""The runner: order, parameters, progress, failures, limits and provenance, on tiny notebooks made here; profiles."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook
from rich.console import Console

from reverse_lib import runner
from reverse_lib.profiles import PROFILES, get_profile, known_keys
from reverse_lib.runner import Finished, NotebookError, RunError, note_run, report, run, select

PARAMETERS = 'profile = "cpu"\noverrides = {}\nletter = "a"'
WRITES = """
import json, os, sys
from reverse_lib.profiles import get_profile
p = get_profile(profile, **overrides)
p.save_metrics(NAME, {"letter": letter, "steps": p.grpo.steps, "python": sys.executable, "cwd": os.getcwd(),
                      "backend": os.environ["MPLBACKEND"], "share": {"value": 0.41, "low": 0.34, "high": 0.48}})
"""


@pytest.fixture
def folder(tmp_path):
    """Two small notebooks that write metrics, in a folder of their own."""
    for name in ("00_first", "01_second"):
        write(tmp_path / "notebooks" / f"{name}.ipynb", [WRITES.replace("NAME", repr(name))])
    return tmp_path


def write(path, cells, parameters=PARAMETERS):
    path.parent.mkdir(exist_ok=True)
    first = [new_code_cell(parameters, metadata={"tags": ["parameters"]})] if parameters is not None else []
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    nbformat.write(new_notebook(cells=[*first, *(new_code_cell(source) for source in cells)], metadata=kernel), path)


def go(folder, console=None, overrides=(), **kwargs):
    overrides = {"outputs": str(folder / "out"), **dict(overrides)}
    quiet = console or Console(file=io.StringIO())
    return run("smoke", overrides=overrides, notebooks=folder / "notebooks", console=quiet, **kwargs)


def test_notebooks_run_in_order_in_this_interpreter_from_the_repository_root(folder):
    finished = go(folder, overrides={"grpo.steps": 7, "letter": "z"})
    assert [item.name for item in finished] == ["00_first", "01_second"]
    metrics = finished[0].metrics
    assert (metrics["letter"], metrics["steps"], metrics["backend"]) == ("z", 7, "agg")
    assert metrics["python"] == sys.executable and metrics["cwd"] == str(runner.ROOT)
    executed = nbformat.read(folder / "out" / "00_first.ipynb", as_version=4)
    assert [cell.execution_count for cell in executed.cells if cell.cell_type == "code"] == [1, 2, 3]


def test_only_and_from_redo_just_what_is_asked(folder):
    go(folder, only=["01"])
    assert not (folder / "out" / "00_first.ipynb").exists()
    before = (folder / "out" / "01_second.ipynb").stat().st_mtime_ns
    go(folder, only=["00_first"])
    assert (folder / "out" / "01_second.ipynb").stat().st_mtime_ns == before
    assert [item.name for item in go(folder, start_from="01_second")] == ["01_second"]


def test_the_run_stops_at_the_first_failure_and_says_cell_error_and_where_to_look(folder):
    (folder / "out").mkdir()
    (folder / "out" / "00_first.metrics.json").write_text("{}")
    write(folder / "notebooks" / "00_first.ipynb", ["x = 1", "# look here\nraise ValueError('no such photo')"])
    with pytest.raises(NotebookError) as caught:
        go(folder)
    message = str(caught.value)
    assert "00_first: cell In [4] raised ValueError: no such photo" in message  # with the injected parameters
    assert "    # look here" in message
    assert str(folder / "out" / "00_first.ipynb") in message
    assert not (folder / "out" / "01_second.ipynb").exists()
    executed = (folder / "out" / "00_first.ipynb").read_text()
    assert "no such photo" in executed
    assert not (folder / "out" / "00_first.metrics.json").exists()  # of an earlier run


def test_the_time_limit_covers_the_whole_notebook_and_not_each_cell(folder):
    write(folder / "notebooks" / "00_first.ipynb", ["import time; time.sleep(4)"] + ["time.sleep(4)"] * 3)
    with pytest.raises(NotebookError, match=r"time limit of 6 s used up in cell In \[\d\]"):
        go(folder, overrides={"timeout_s": 6})


def test_a_kernel_that_dies_is_named(folder):
    write(folder / "notebooks" / "00_first.ipynb", ["import os; os.write(2, b'out of memory'); os._exit(9)"])
    with pytest.raises(NotebookError, match=r"00_first: the kernel died in cell In \[3\]") as caught:
        go(folder)
    assert "out of memory" in str(caught.value)


def test_an_unknown_setting_and_a_parameter_that_a_notebook_lacks_are_errors_before_anything_runs(folder):
    for overrides, message in (
        ({"grpo.stepz": 5}, "grpo.stepz: neither a setting of a profile nor a parameter of 00_first, 01_second"),
        ({"grpo.steps": "many"}, "grpo.steps='many': expected int, got str"),
    ):
        with pytest.raises(ValueError, match=message):
            go(folder, overrides=overrides)
    for parameters, names in (('profil = "cpu"', r"\['profil'\]"), (None, r"\[\]")):
        write(folder / "notebooks" / "01_second.ipynb", ["1"], parameters)
        with pytest.raises(RunError, match=f"01_second.ipynb: no parameter 'profile' .* it has {names}"):
            go(folder)
    assert not (folder / "out").exists()


def test_a_notebook_can_be_named_by_number_or_name_and_a_wrong_name_lists_the_right_ones(folder):
    paths = sorted((folder / "notebooks").glob("*.ipynb"))
    assert select(paths, ["01"], None) == select(paths, ["01_second.ipynb"], None) == paths[1:]
    assert select(paths, (), None) == paths
    with pytest.raises(RunError, match="'07_x' fits 0 notebooks; choose one of 00_first, 01_second"):
        select(paths, ["07_x"], None)
    with pytest.raises(RunError, match="no notebooks"):
        select([], (), None)
    with pytest.raises(RunError, match="none of 00 comes after 01"):
        select(paths, ["00"], "01")


def test_a_run_shows_its_progress_then_a_table_and_the_files_to_open_and_notes_what_it_was_made_with(folder):
    progress, results = (Console(file=io.StringIO(), width=width) for width in (120, 160))
    environment = dict(os.environ)
    finished = go(folder, console=progress, overrides={"seed": 3})
    assert dict(os.environ) == environment
    line = progress.file.getvalue()
    assert "00_first" in line and "3/3 cells" in line and "cells/min" in line and "0:00:" in line
    for name in ("maps/errors.html", "figures/curve.png"):
        (folder / "out" / name).parent.mkdir()
        (folder / "out" / name).touch()
    report(finished, results)
    text = results.file.getvalue()
    assert "0.41 (0.34 to 0.48)" in text and "01_second" in text
    names = ("maps/errors.html", "figures/curve.png", "00_first.ipynb")
    assert all(str(folder / "out" / name) in text for name in names)
    notes = json.loads((folder / "out" / "run.json").read_text())
    assert list(notes) == ["00_first", "01_second"] and notes["00_first"]["overrides"]["seed"] == 3


def test_ctrl_c_ends_the_run_with_its_kernel_and_says_how_to_go_on(folder):
    pid_file = folder / "pid"
    source = f"import os, pathlib, time; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); time.sleep(120)"
    write(folder / "notebooks" / "00_first.ipynb", [source])
    code = (
        "import pathlib, sys; from reverse_lib import runner, __main__ as cli; folder = pathlib.Path(sys.argv.pop());"
        "original = runner.run;"
        "runner.run = lambda *a, **k: original(*a, notebooks=folder, **k); cli.main()"
    )
    command = [sys.executable, "-c", code, "run", "--profile", "smoke", "--set", f"outputs={folder / 'out'}"]
    command.append(str(folder / "notebooks"))
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=runner.ROOT)
    wait_for(lambda: pid_file.is_file() and pid_file.read_text())
    kernel = int(pid_file.read_text())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Stopped. What was finished stays; go on with --from." in errors and "Traceback" not in errors
    wait_for(lambda: not psutil.pid_exists(kernel) or psutil.Process(kernel).status() == psutil.STATUS_ZOMBIE)


def wait_for(condition, seconds=40):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def note(folder, name="03_sft", seconds=12.34, **overrides):
    note_run(folder, get_profile("cpu", **overrides), overrides, Finished(name, Path(), seconds, {}))
    return json.loads((folder / "run.json").read_text())


def test_a_note_names_seeds_settings_time_machine_and_versions_and_leaves_those_of_other_notebooks(tmp_path):
    (row,) = note(tmp_path, **{"seed": 3, "world.seed": 4}).values()
    assert row["seeds"] == {"training": 3, "world": 4} and row["overrides"] == {"seed": 3, "world.seed": 4}
    assert row["seconds"] == 12.3 and row["profile"] == "cpu"
    assert abs((datetime.now(UTC) - datetime.fromisoformat(row["finished"])).total_seconds()) < 120
    assert row["packages"]["torch"] == torch.__version__ and set(row["packages"]) >= {"transformers", "trl", "numpy"}
    hardware = row["hardware"]
    assert hardware["cores"] >= 1 and hardware["cpu"] and hardware["memory_gib"] > 0
    assert isinstance(hardware["gpus"], list)
    note(tmp_path, "01_annotation")
    notes = note(tmp_path, seconds=3)
    assert list(notes) == ["01_annotation", "03_sft"] and notes["03_sft"]["seconds"] == 3


def test_a_damaged_note_is_begun_anew_also_without_git_and_a_graphics_card(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    (tmp_path / "run.json").write_text('{"03_sft": ')
    (row,) = note(tmp_path).values()
    assert row["commit"] == "" and row["hardware"]["gpus"] == [] and row["packages"]


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_the_commit_is_dirty_by_changed_code_and_not_by_the_results_of_the_run_itself(tmp_path):
    def git(*command):
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", *who, *command], cwd=tmp_path, check=True, capture_output=True)

    code, result = tmp_path / "reverse_lib" / "geo.py", tmp_path / "outputs" / "reference" / "run.json"
    for file in (code, result):
        file.parent.mkdir(parents=True)
        file.write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    clean = runner._commit(code.parent)
    assert re.fullmatch("[0-9a-f]{12}", clean)
    result.write_text("2")
    assert runner._commit(code.parent) == clean
    code.write_text("2")
    assert runner._commit(code.parent) == f"{clean}-dirty"


def test_a_profile_can_be_changed_by_dotted_names_and_the_original_stays():
    changed = get_profile("cpu", **{"grpo.steps": 3, "coldstart.minutes": 2, "seed": 9})
    assert (changed.grpo.steps, changed.coldstart.minutes, changed.seed) == (3, 2.0, 9)
    assert isinstance(changed.coldstart.minutes, float)
    assert get_profile("cpu").grpo.steps == PROFILES["cpu"].grpo.steps != 3
    assert {"world.seed", "grpo.steps", "evaluation.photos", "timeout_s"} <= set(known_keys())


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("tiny", {}, "profile 'tiny' is unknown; choose one of smoke, cpu, reference, gpu, qwen3vl-4b"),
        ("cpu", {"grpo.speed": 1}, "unknown setting 'grpo.speed'; known: seed, outputs"),
        ("cpu", {"grpo": 1}, "unknown setting 'grpo'"),
        ("cpu", {"grpo.steps": 1.5}, "grpo.steps=1.5: expected int, got float"),
        ("cpu", {"grpo.steps": True}, "grpo.steps=True: expected int, got bool"),
    ],
)
def test_a_wrong_profile_setting_names_itself_and_the_known_ones(name, overrides, message):
    with pytest.raises(ValueError) as caught:
        get_profile(name, **overrides)
    assert message in str(caught.value)


def test_metrics_are_written_as_strict_json_with_null_for_nan(tmp_path):
    profile = get_profile("smoke", outputs=str(tmp_path))
    metrics = {"loss": np.float32(0.5), "mcc": float("nan"), "curve": np.array([1, np.inf])}
    path = profile.save_metrics("03_sft", metrics)
    assert path == tmp_path / "03_sft.metrics.json"
    assert json.loads(path.read_text()) == {"loss": 0.5, "mcc": None, "curve": [1, None]}
