"""The reference run as it is kept: small, complete, and what the front page says follows from it."""

import json
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from PIL import Image

from reverse_lib import ablations, replication
from reverse_lib.ablations import FULL, START
from reverse_lib.metrics import summarize

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "outputs" / "reference"
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def runs():
    return pd.read_parquet(KEPT / "ablations.parquet")


def test_executed_notebooks_metrics_figures_and_a_map_are_kept_and_small():
    for name in ("05_evaluation", "06_ablations"):
        assert (KEPT / f"{name}.ipynb").stat().st_size < 2e6
        cells = nbformat.read(KEPT / f"{name}.ipynb", as_version=4).cells
        assert all(cell.execution_count for cell in cells if cell.cell_type == "code" and cell.source.strip())
        assert not [out for cell in cells for out in cell.get("outputs", []) if out.output_type == "error"]
        assert json.loads((KEPT / f"{name}.metrics.json").read_text())
    figures = sorted((KEPT / "figures").glob("*.png"))
    kept = [path for path in figures if f"figures/{path.name}" in (ROOT / ".gitignore").read_text()]
    assert len(kept) >= 5
    for path in kept:
        assert Image.open(path).width > 500, path
    assert (KEPT / "maps" / "05_error_map.html").stat().st_size < 3e6


def test_every_notebook_says_when_and_on_what_it_was_run():
    notes = json.loads((KEPT / "run.json").read_text())
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} <= set(notes)
    for name, note in notes.items():
        assert note["profile"] == "reference" and note["seeds"] == {"training": 0, "world": 0}, name
        assert note["seconds"] > 0 and note["finished"].startswith("20") and note["commit"]
        assert note["hardware"]["cpu"] and note["packages"]["torch"] and note["python"]


def test_the_table_of_claims_follows_from_the_runs_and_the_front_page_shows_it(runs):
    text = replication.markdown(replication.replicate(runs))
    assert (KEPT / "replication.md").read_text() == text
    assert text.strip() in README
    assert text.count(replication.PAPER) + text.count(replication.UNTESTED) == len(text.strip().splitlines()) - 2


def test_the_runs_are_of_one_list_of_photos_and_the_main_ones_of_three_seeds(runs):
    listed = {(name, seed): sorted(rows["photo_id"]) for (name, seed), rows in runs.groupby(["variant", "seed"])}
    first = next(iter(listed.values()))
    assert all(photos == first for photos in listed.values()) and len(first) == len(set(first)) == 300
    assert {seed for name, seed in listed if name == FULL} == {0, 1, 2}
    assert set(runs["variant"]) <= {*ablations.VARIANTS, *replication.ASKED_ONCE}


def test_reinforcement_learning_raised_the_reward_with_every_seed(runs):
    before = runs[runs["variant"] == START].query("seed == 0")
    for seed in range(3):
        after = runs[runs["variant"] == FULL].query("seed == @seed")
        change = ablations.compare(before, after, ["reward"]).loc["reward"]
        assert change["shown"] and change["low"] > 0, (seed, change.to_dict())


def test_the_shares_on_the_front_page_are_those_of_the_runs(runs):
    stated = re.search(r"(\d\d) % of photos of such places within 25 km", README)
    if stated is None:
        pytest.fail("README.md states no share within 25 km")
    means = [summarize(rows).loc["within_25km", "value"] for _, rows in runs[runs["variant"] == FULL].groupby("seed")]
    assert int(stated[1]) == round(100 * sum(means) / len(means))


def test_every_file_that_the_front_page_names_is_there():
    links = re.findall(r"\]\(([^)#\s]+)", README) + re.findall(
        r"`((?:outputs/reference|data|tests|notebooks)/[^`\s]*)`", README
    )
    for link in links:
        if not link.startswith("http"):
            assert (ROOT / link).exists(), link
    assert sum(link.endswith(".png") for link in links) >= 2
