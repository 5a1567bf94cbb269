"""The reference run as it is kept: small, complete, and what the front page says follows from it."""

import json
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from PIL import Image

from reverse_lib.evaluation import claims as replication
from reverse_lib.evaluation import compare, evaluate, summarize
from reverse_lib.models import load_agent
from reverse_lib.profiles import FULL, START
from reverse_lib.trajectory import TOOLS
from reverse_lib.world import World

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


def test_the_runs_are_of_one_list_of_photos_and_of_three_seeds(runs):
    listed = {(name, seed): sorted(rows["photo_id"]) for (name, seed), rows in runs.groupby(["variant", "seed"])}
    first = next(iter(listed.values()))
    assert all(photos == first for photos in listed.values()) and len(first) == len(set(first)) == 300
    claimed = {name for claim in replication.CLAIMS for name in (claim.before, claim.after)}
    assert set(runs["variant"]) == claimed
    for name in claimed - {*replication.ASKED_ONCE}:
        assert {seed for variant, seed in listed if variant == name} == {0, 1, 2}, name


def test_reinforcement_learning_raised_the_reward_with_every_seed(runs):
    before = runs[runs["variant"] == START].query("seed == 0")
    for seed in range(3):
        after = runs[runs["variant"] == FULL].query("seed == @seed")
        change = compare(before, after, ["reward"]).loc["reward"]
        assert change["shown"] and change["low"] > 0, (seed, change.to_dict())


@pytest.mark.parametrize("metric", ["within_25km", "evidence_mcc"])
def test_pooled_over_the_seeds_it_raised_accuracy_and_trust(runs, metric):
    by_variant = {name: [one for _, one in rows.groupby("seed")] for name, rows in runs.groupby("variant")}
    change = compare(by_variant[START], by_variant[FULL], [metric]).loc[metric]
    assert change["shown"] and change["low"] > 0, change.to_dict()


def test_the_cold_start_writes_turns_as_it_should_and_places_what_direct_fine_tuning_cannot(runs):
    by_variant = {name: summarize(rows)["value"] for name, rows in runs.query("seed == 0").groupby("variant")}
    start, direct = by_variant[START], by_variant[replication.DIRECT]
    assert start["format"] >= 0.95
    assert start["within_25km"] >= 2 * direct["within_25km"] and start["within_25km"] > 0.2
    assert start["within_25km"] < 0.7  # leaves something to learn


def test_collating_takes_little_of_a_supervised_step():
    assert 0 < json.loads((KEPT / "03_sft.metrics.json").read_text())["pipeline_share"] < 0.15


def test_what_is_ours_takes_little_of_a_step_and_training_no_more_than_eight_minutes():
    found = json.loads((KEPT / "04_grpo.metrics.json").read_text())
    assert 60 < found["seconds"] < 480
    speed = found["speed"]
    assert 0 < speed["tools"] < speed["own"] < 0.03
    assert speed["generate"] + speed["update"] + speed["own"] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("model", "variant"), [("sft", replication.DIRECT), ("coldstart", START)])
def test_the_shipped_supervised_models_answer_as_those_of_the_run(runs, model, variant):
    world, count = World(0, 200), 40
    agent = load_agent(ROOT / "data" / "models" / model, tools=() if variant == replication.DIRECT else TOOLS)
    photos = world.photos("test-new", 300)[:count]
    found = evaluate(agent, photos, world.live, agent.interface, tools=agent.tools).set_index("photo_id")
    kept = runs.query("variant == @variant and seed == 0").set_index("photo_id").loc[found.index]
    same = (found["km"] - kept["km"]).abs() < 1  # the kept answers are of weights in float32
    assert same.mean() >= 0.9, same.mean()


def test_the_shipped_agent_is_as_good_at_everything_as_when_notebook_04_had_trained_it():
    world, after = World(0, 200), json.loads((KEPT / "04_grpo.metrics.json").read_text())["after"]
    agent = load_agent(ROOT / "data" / "models" / "agent")
    found = summarize(evaluate(agent, world.photos("test-new", 300), world.live, agent.interface))["value"]
    names = ["reward", "within_25km", "within_2500km", "evidence_mcc", "box_iou", "query_hit", "calls_image"]
    assert found[names].to_dict() == pytest.approx({name: after[name] for name in names}, abs=0.02)


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
