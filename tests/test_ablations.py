"""Ablations: every variant is trained as it says, runs are kept, and differences are paired."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from models import GUESS, KnownSearch, Scripted, drawn_photo, untrained

from reverse_lib.environment import TINY, rollout
from reverse_lib.evaluation import METRICS, effects, evaluate
from reverse_lib.models import Agent, save_checkpoint
from reverse_lib.profiles import FULL, START, VARIANTS, AblationConfig, GrpoConfig, Variant, get_profile
from reverse_lib.search import SearchCache
from reverse_lib.training import ablations, grpo
from reverse_lib.training.ablations import ablate
from reverse_lib.trajectory import TOOLS, load_trajectories, save_trajectories
from reverse_lib.world import ScriptedTeacher

CONFIG = GrpoConfig(steps=1, prompts_per_step=1, group_size=2, max_completion_tokens=40, max_turn_tokens=8)


@pytest.fixture
def start(tmp_path):
    model, processor = untrained()
    return save_checkpoint(tmp_path / "start", model, processor, TINY)


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    """Agents that answer at once; how a model writes is tested elsewhere."""
    monkeypatch.setattr(ablations, "Agent", lambda *_, **__: Scripted([GUESS]))


def photos(n, prefix):
    return [drawn_photo(f"{prefix}-{i}") for i in range(n)]


def run(start, folder, variants, config=CONFIG, on_run=None):
    train, test, search = photos(2, "train"), photos(3, "test"), KnownSearch()
    return ablate(start, train, search, test, search, config, folder, evaluate, variants, seeds=(0, 1), on_run=on_run)


def test_the_list_covers_credit_each_process_reward_and_each_tool():
    changed = [(v.credit, v.weights.trust, v.weights.look, v.weights.query, v.tools) for v in VARIANTS.values()]
    assert len(set(changed)) == len(VARIANTS) - 1  # before RL differs from the full method by training alone
    assert {v.tools for v in VARIANTS.values()} == {TOOLS, (), *((tool,) for tool in TOOLS)}
    off = [name for v in VARIANTS.values() for name in ("trust", "look", "query") if getattr(v.weights, name) == 0]
    assert sorted(off) == ["look", "query", "trust"] and VARIANTS["trajectory credit"].credit == "trajectory"
    assert VARIANTS["turn credit"].credit == "turn"


def test_every_variant_is_trained_with_every_seed_as_it_says(start, tmp_path, monkeypatch):
    trained = []

    def train(model, processor, photos, search, interface, config, folder, seed, tools, weights, levels):
        assert len(photos) == 2 and config.steps == CONFIG.steps
        trained.append((config.credit, seed, tools, weights.trust))

    monkeypatch.setattr(grpo, "train_grpo", train)
    names = (START, FULL, "trajectory credit", "no evidence reward", "no tools")
    results = run(start, tmp_path / "runs", {name: VARIANTS[name] for name in names})
    expected = [("segment", TOOLS, 0.3), ("trajectory", TOOLS, 0.3), ("segment", TOOLS, 0.0), ("segment", (), 0.3)]
    assert trained == [(credit, seed, tools, trust) for credit, tools, trust in expected for seed in (0, 1)]
    assert results.groupby(["variant", "seed"]).size().tolist() == [3] * 10
    assert list(results["photo_id"][:3]) == ["test-0", "test-1", "test-2"]
    assert len(load_trajectories(tmp_path / "runs" / f"{FULL}, seed 1.jsonl")) == 3


def test_a_finished_run_is_not_made_again_and_other_settings_are_refused(start, tmp_path):
    made = []
    variants = {START: VARIANTS[START], "zoom only": VARIANTS["zoom only"]}  # really trained here
    first = run(start, tmp_path / "runs", variants, on_run=lambda *run: made.append(run))
    assert made == [(START, 0), ("zoom only", 0), ("zoom only", 1)]
    (tmp_path / "runs" / "zoom only, seed 1.parquet").unlink()
    again = run(start, tmp_path / "runs", variants, on_run=lambda *run: made.append(run))
    assert made[3:] == [("zoom only", 1)]
    again["seconds"] = first["seconds"]  # one run was made again, and took its own time
    pd.testing.assert_frame_equal(first.drop(columns="seconds"), again.drop(columns="seconds"))
    other = GrpoConfig(**vars(CONFIG) | {"learning_rate": 1.0})
    with pytest.raises(ValueError, match="holds runs of other settings"):
        run(start, tmp_path / "runs", variants, config=other)


def table(name, seed, rewards):
    blank = dict.fromkeys(METRICS, 0.0) | {"km": 1.0, "pred_country": "", "country": "", "end": "answered"}
    rows = [blank | {"photo_id": f"p{i}", "reward": value} for i, value in enumerate(rewards)]
    return pd.DataFrame(rows).assign(variant=name, seed=seed)


def test_effects_are_paired_by_photo_and_averaged_over_seeds():
    base = np.random.default_rng(0).random(40)
    parts = [table(FULL, seed, base + seed) for seed in (0, 1)]
    parts += [table("worse", seed, (base + seed - 0.1 - 0.02 * seed)[::-1])[::-1] for seed in (0, 1)]
    for part in parts[2:]:
        part["photo_id"] = [f"p{i}" for i in range(40)]
    found = effects(pd.concat(parts, ignore_index=True), metrics=["reward"])
    row = found.loc[("worse", "reward")]
    assert row["value"] == pytest.approx(-0.11) and row["low"] == pytest.approx(-0.11) and row["shown"]


def test_variants_that_share_no_seed_are_left_out_and_others_compared_on_those_they_share():
    runs = [table(FULL, seed, [0.5, 0.5 + seed]) for seed in (0, 1)]
    runs += [table("one seed", 1, [0.5, 1.7]), table("another seed", 7, [0.0, 0.0])]
    found = effects(pd.concat(runs, ignore_index=True), metrics=["reward"])
    assert list(found.index) == [("one seed", "reward")] and found["seeds"].tolist() == [1]
    assert found["value"].tolist() == pytest.approx([0.1])
    assert effects(runs[0]).empty


def test_finished_runs_are_read_again_and_an_untrained_one_stands_for_every_seed(start, tmp_path, monkeypatch):
    monkeypatch.setattr(grpo, "train_grpo", lambda *_, **__: None)
    assert ablations.load_runs(tmp_path / "nowhere").empty
    made = run(start, tmp_path / "runs", {name: VARIANTS[name] for name in (START, FULL)})
    pd.testing.assert_frame_equal(ablations.load_runs(tmp_path / "runs"), made)
    (tmp_path / "runs" / f"{FULL}, seed 0.parquet").unlink()
    left = ablations.load_runs(tmp_path / "runs")
    assert left.groupby(["variant", "seed"]).size().to_dict() == {(START, 0): 3, (START, 1): 3, (FULL, 1): 3}


def test_runs_of_a_profile_are_made_side_by_side_once_and_as_one_process_does(
    start, tmp_path, world, monkeypatch, capfd
):
    monkeypatch.setattr(ablations, "Agent", Agent)  # another process knows of no script

    def profile(name, processes):
        chosen = AblationConfig(True, f"{START}, zoom only", seeds=1, photos=2, processes=processes)
        return dataclasses.replace(get_profile("cpu"), outputs=str(tmp_path / name), grpo=CONFIG, ablation=chosen)

    beside, alone = profile("beside", 2), profile("alone", 1)
    with pytest.raises(FileNotFoundError, match="coldstart: not there yet; notebook 03_sft makes it"):
        ablations.make_runs(beside, world, evaluate)
    rows = rollout(ScriptedTeacher(world), world.photos("train", 4), world.live)
    for row in rows:
        row.extra |= {"sample": "search", "difficulty": "easy"}
    for p in (beside, alone):
        p.path("checkpoints", "coldstart").symlink_to(start)
        save_trajectories(p.path("trajectories.jsonl"), rows)
        with SearchCache.open(p.path("search_cache"), mode="w") as cache:
            cache.record_trajectory(rows[0])
    done, runs = [], {}
    for p in (beside, alone):
        capfd.readouterr()
        runs[p] = ablations.load_runs(ablations.make_runs(p, world, evaluate, lambda *run: done.append(run)))
        assert p == alone or "%|" not in capfd.readouterr().err  # bars would stand in red in the notebook
    assert sorted(done) == sorted([(START, 0), ("zoom only", 0)] * 2)
    made = ["variant", "seed", "photo_id", "reward", "tokens"]
    assert runs[beside].groupby("variant").size().to_dict() == {START: 2, "zoom only": 2}
    pd.testing.assert_frame_equal(runs[beside][made], runs[alone][made])
    assert not list(beside.folder.rglob("ablations/*/search_cache")), "only needed while a run is trained"
    ablations.make_runs(beside, world, evaluate, lambda *run: done.append(run))
    assert len(done) == 4


def test_variants_are_chosen_by_name_and_an_unknown_name_is_an_error():
    assert ablations.choose() == dict(VARIANTS)
    assert list(ablations.choose("zoom only, full method")) == ["zoom only", FULL]
    with pytest.raises(ValueError, match="no variant 'zoom'; there are before RL, full method"):
        ablations.choose("full method, zoom")


def test_a_variant_is_the_full_method_but_for_what_it_names():
    assert Variant() == VARIANTS[FULL]
