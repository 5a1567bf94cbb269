"""The runner: order, parameters, progress, failures, time limits and interruption, on tiny notebooks made here."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from rich.console import Console

from reverse_lib import runner
from reverse_lib.profiles import PROFILES, get_profile, known_keys
from reverse_lib.runner import NotebookError, RunError, parameters_of, report, run, select

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
    nbformat.write(new_notebook(cells=[*first, *(new_code_cell(source) for source in cells)]), path)
    return path


def go(folder, console=None, **kwargs):
    overrides = {"outputs": str(folder / "out"), **kwargs.pop("overrides", {})}
    quiet = console or Console(file=io.StringIO())
    return run("smoke", overrides=overrides, notebooks=folder / "notebooks", console=quiet, **kwargs)


def test_notebooks_run_in_order_in_this_interpreter_from_the_repository_root(folder):
    finished = go(folder, overrides={"grpo.steps": 7, "letter": "z"})
    assert [item.name for item in finished] == ["00_first", "01_second"]
    metrics = finished[0].metrics
    assert metrics["letter"] == "z" and metrics["steps"] == 7
    assert metrics["python"] == sys.executable
    assert metrics["cwd"] == str(runner.ROOT)
    assert metrics["backend"] == "agg"
    executed = nbformat.read(folder / "out" / "00_first.ipynb", as_version=4)
    assert [cell.execution_count for cell in executed.cells if cell.cell_type == "code"] == [1, 2, 3]


def test_only_and_from_redo_just_what_is_asked(folder):
    go(folder, only="01")
    assert not (folder / "out" / "00_first.ipynb").exists()
    before = (folder / "out" / "01_second.ipynb").stat().st_mtime_ns
    go(folder, only=["00_first"])
    assert (folder / "out" / "01_second.ipynb").stat().st_mtime_ns == before
    assert [item.name for item in go(folder, start_from="01_second")] == ["01_second"]


def test_the_run_stops_at_the_first_failure_and_says_cell_error_and_where_to_look(folder):
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


def test_a_failed_notebook_leaves_no_metrics_of_an_earlier_run(folder):
    go(folder, only="00")
    write(folder / "notebooks" / "00_first.ipynb", ["1 / 0"])
    with pytest.raises(NotebookError, match="ZeroDivisionError"):
        go(folder, only="00")
    assert not (folder / "out" / "00_first.metrics.json").exists()


def test_the_time_limit_covers_the_whole_notebook(folder):
    write(folder / "notebooks" / "00_first.ipynb", ["import time; time.sleep(4)", "time.sleep(4)", "time.sleep(300)"])
    start = time.monotonic()
    with pytest.raises(NotebookError, match=r"time limit of 6 s used up in cell In \[4\]"):
        go(folder, overrides={"timeout_s": 6})
    assert time.monotonic() - start < 60, "not the whole minute of the third cell"


def test_a_kernel_that_dies_is_named(folder):
    write(folder / "notebooks" / "00_first.ipynb", ["import os; os.write(2, b'out of memory'); os._exit(9)"])
    with pytest.raises(NotebookError, match=r"00_first: the kernel died in cell In \[3\]") as caught:
        go(folder)
    assert "out of memory" in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"grpo.stepz": 5}, "grpo.stepz: neither a setting of a profile nor a parameter of 00_first, 01_second"),
        ({"grpo.steps": "many"}, "grpo.steps='many': expected int, got str"),
    ],
)
def test_an_unknown_or_mistyped_setting_is_refused_before_anything_runs(folder, overrides, message):
    with pytest.raises(ValueError) as caught:
        go(folder, overrides=overrides)
    assert message in str(caught.value)
    assert not (folder / "out").exists()


def test_a_parameter_that_a_notebook_lacks_is_an_error_not_a_warning(folder):
    write(folder / "notebooks" / "01_second.ipynb", ["1"], parameters='profil = "cpu"')
    with pytest.raises(RunError, match=r"01_second.ipynb: no parameter 'profile' .* it has \['profil'\]"):
        go(folder)


@pytest.mark.parametrize("parameters", [None, PARAMETERS])
def test_a_notebook_needs_exactly_one_parameters_cell(tmp_path, parameters):
    path = write(tmp_path / "00_x.ipynb", ["1"], parameters)
    notebook = nbformat.read(path, as_version=4)
    if parameters:
        notebook.cells.append(new_code_cell("y = 2", metadata={"tags": ["parameters"]}))
        nbformat.write(notebook, path)
    with pytest.raises(RunError, match="cells tagged `parameters`; tag exactly one"):
        parameters_of(path)


def test_a_notebook_can_be_named_by_number_or_name_and_a_wrong_name_lists_the_right_ones(folder):
    paths = sorted((folder / "notebooks").glob("*.ipynb"))
    assert select(paths, "01", None) == select(paths, "01_second.ipynb", None) == paths[1:]
    assert select(paths, None, None) == paths
    with pytest.raises(RunError, match="'07_x' fits 0 notebooks; choose one of 00_first, 01_second"):
        select(paths, "07_x", None)
    with pytest.raises(RunError, match="no notebooks"):
        select([], None, None)


def test_the_progress_line_shows_cells_time_and_rate(folder):
    console = Console(file=io.StringIO(), width=120)
    go(folder, console=console, only="00")
    line = console.file.getvalue()
    assert "00_first" in line and "3/3 cells" in line and "cells/min" in line and "0:00:" in line


def test_the_report_has_a_table_of_results_and_the_files_to_open(folder):
    finished = go(folder)
    for name in ("maps/errors.html", "figures/curve.png"):
        (folder / "out" / name).parent.mkdir()
        (folder / "out" / name).touch()
    console = Console(file=io.StringIO(), width=160)
    report(finished, folder / "out", console)
    text = console.file.getvalue()
    assert "0.41 (0.34 to 0.48)" in text and "01_second" in text
    assert all(
        str(folder / "out" / name) in text for name in ("maps/errors.html", "figures/curve.png", "00_first.ipynb")
    )


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


def test_the_environment_is_put_back_after_a_run(folder):
    before = dict(os.environ)
    go(folder, only="00")
    assert dict(os.environ) == before


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
    import numpy as np

    profile = get_profile("smoke", outputs=str(tmp_path))
    path = profile.save_metrics(
        "03_sft", {"loss": np.float32(0.5), "mcc": float("nan"), "curve": np.array([1, np.inf])}
    )
    assert path == tmp_path / "03_sft.metrics.json"
    assert json.loads(path.read_text()) == {"loss": 0.5, "mcc": None, "curve": [1, None]}
