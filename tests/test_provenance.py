"""What a figure was made with stands beside it, for each notebook by itself."""

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime

import pytest
import torch

from reverse_lib import runner as provenance
from reverse_lib.profiles import get_profile
from reverse_lib.runner import note_run, surroundings


def test_a_run_names_its_seeds_settings_time_machine_and_versions(tmp_path):
    profile = get_profile("cpu", **{"seed": 3, "world.seed": 4})
    file = note_run(tmp_path, profile, {"seed": 3, "world.seed": 4}, "03_sft", seconds=12.34)
    (row,) = json.loads(file.read_text()).values()
    assert row["seeds"] == {"training": 3, "world": 4} and row["overrides"] == {"seed": 3, "world.seed": 4}
    assert row["seconds"] == 12.3 and row["profile"] == "cpu"
    assert abs((datetime.now(UTC) - datetime.fromisoformat(row["finished"])).total_seconds()) < 120
    assert row["packages"]["torch"] == torch.__version__ and set(row["packages"]) >= {"transformers", "trl", "numpy"}
    assert row["hardware"]["cores"] >= 1 and row["hardware"]["cpu"] and isinstance(row["hardware"]["gpus"], list)


def test_another_notebook_is_added_and_one_that_ran_again_replaced(tmp_path):
    profile = get_profile("smoke")
    for name, seconds in (("03_sft", 1), ("01_annotation", 2), ("03_sft", 3)):
        file = note_run(tmp_path, profile, {}, name, seconds)
    kept = json.loads(file.read_text())
    assert list(kept) == ["01_annotation", "03_sft"] and kept["03_sft"]["seconds"] == 3


def test_a_damaged_file_is_begun_anew(tmp_path):
    (tmp_path / "run.json").write_text('{"03_sft": ')
    assert list(json.loads(note_run(tmp_path, get_profile("smoke"), {}, "00_quickstart", 1).read_text())) == [
        "00_quickstart"
    ]


def test_without_git_and_a_graphics_card_there_is_nothing_to_say(monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = surroundings()
    assert found["commit"] == "" and found["hardware"]["gpus"] == [] and found["packages"]


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
    clean = provenance._commit(code.parent)
    assert re.fullmatch("[0-9a-f]{12}", clean)
    result.write_text("2")
    assert provenance._commit(code.parent) == clean
    code.write_text("2")
    assert provenance._commit(code.parent) == f"{clean}-dirty"
