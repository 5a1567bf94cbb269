"""Ablations: every variant is trained as it says, runs are kept, and differences are paired."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from environment_fakes import Scripted
from grpo_scripts import AGENT
from models import GUESS

from reverse_lib.environment import rollout
from reverse_lib.evaluation import METRICS, effects, evaluate
from reverse_lib.profiles import FULL, START, VARIANTS, AblationConfig, GrpoConfig, Variant, get_profile
from reverse_lib.search import SearchCache
from reverse_lib.training import ablations, grpo
from reverse_lib.training.ablations import load_runs, make_runs
from reverse_lib.trajectory import TOOLS, load_trajectories, save_trajectories
from reverse_lib.world import ScriptedTeacher

CONFIG = GrpoConfig(steps=1, prompts_per_step=1, group_size=2, max_completion_tokens=40, max_turn_tokens=8)


@pytest.fixture(scope="session")
def searched(world):
    """What notebook 01 leaves: four rollouts to train from."""
    rows = rollout(ScriptedTeacher(world), world.photos("train", 4), world.live)
    for row in rows:
        row.extra |= {"sample": "search", "difficulty": "easy"}
    return rows


@pytest.fixture
def profile(tmp_path, searched):
    """A function: a profile for some variants, with all that earlier notebooks leave."""

    def make(variants, name="runs", seeds=2, processes=1, config=CONFIG):
        chosen = AblationConfig(True, ", ".join(variants), seeds=seeds, photos=2, processes=processes)
        p = replace(get_profile("cpu"), outputs=str(tmp_path / name), grpo=config, ablation=chosen)
        p.path("checkpoints", "coldstart").symlink_to(AGENT)
        save_trajectories(p.path("trajectories.jsonl"), searched)
        with SearchCache.open(p.path("search_cache"), mode="w") as cache:
            cache.record_trajectory(searched[0])
        return p

    return make


@pytest.fixture
def at_once(monkeypatch):
    """Agents answer at once and training is only noted; how a model writes and learns is tested elsewhere."""
    trained = []

    def train(model, processor, photos, search, interface, config, folder, seed, tools, weights, levels):
        assert len(photos) == len(levels) == 4 and config.steps == CONFIG.steps
        trained.append((config.credit, seed, tools, weights.trust))

    monkeypatch.setattr(ablations, "Agent", lambda *_, **__: Scripted([GUESS]))
    monkeypatch.setattr(grpo, "train_grpo", train)
    return trained


def test_the_list_covers_credit_each_process_reward_and_each_tool():
    changed = [(v.credit, v.weights.trust, v.weights.look, v.weights.query, v.tools) for v in VARIANTS.values()]
    assert len(set(changed)) == len(VARIANTS) - 1  # before RL differs from the full method by training alone
    assert {v.tools for v in VARIANTS.values()} == {TOOLS, (), *((tool,) for tool in TOOLS)}
    off = [name for v in VARIANTS.values() for name in ("trust", "look", "query") if getattr(v.weights, name) == 0]
    assert sorted(off) == ["look", "query", "trust"] and VARIANTS["trajectory credit"].credit == "trajectory"
    assert VARIANTS["turn credit"].credit == "turn"


def test_every_variant_is_trained_with_every_seed_as_it_says_once_and_kept(profile, world, at_once):
    names, done = (START, FULL, "trajectory credit", "no evidence reward", "no tools"), []
    p = profile(names)
    folder = make_runs(p, world, evaluate, lambda *run: done.append(run))
    assert done == [(START, 0), *((name, seed) for name in names[1:] for seed in (0, 1))]
    expected = [("segment", TOOLS, 0.3), ("trajectory", TOOLS, 0.3), ("segment", TOOLS, 0.0), ("segment", (), 0.3)]
    assert at_once == [(credit, seed, tools, trust) for credit, tools, trust in expected for seed in (0, 1)]
    runs = load_runs(folder)
    assert runs.groupby(["variant", "seed"]).size().tolist() == [2] * 10  # an untrained one stands for every seed
    assert list(runs["photo_id"][:2]) == [photo.photo_id for photo in world.photos("test-new", 2)]
    assert len(load_trajectories(folder / f"{FULL}, seed 1.jsonl")) == 2
    (folder / f"{FULL}, seed 0.parquet").unlink()
    left = load_runs(folder).groupby(["variant", "seed"]).size().to_dict()
    assert (FULL, 0) not in left and left[START, 1] == left[FULL, 1] == 2
    make_runs(p, world, evaluate, lambda *run: done.append(run))
    assert done[9:] == [(FULL, 0)]
    (folder / f"{FULL}, seed 0.parquet").unlink()
    other = replace(p, grpo=replace(CONFIG, learning_rate=1.0))
    with pytest.raises(ValueError, match="holds runs of other settings"):
        make_runs(other, world, evaluate)
    assert load_runs(folder.parent).empty


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


def test_runs_are_made_side_by_side_as_one_process_makes_them(profile, world, monkeypatch, capfd):
    monkeypatch.setattr(
        ablations, "set_threads", lambda: 2
    )  # this process keeps its own: two are slow beside other work
    beside, alone = profile((START, "zoom only"), "beside", 1, 2), profile((START, "zoom only"), "alone", 1)
    done, runs = [], []
    for p in (alone, beside):
        capfd.readouterr()
        runs.append(load_runs(make_runs(p, world, evaluate, lambda *run: done.append(run))))
        assert p == alone or "%|" not in capfd.readouterr().err  # bars would stand in red in the notebook
    assert sorted(done) == sorted([(START, 0), ("zoom only", 0)] * 2)
    columns = ["variant", "seed", "photo_id", "reward", "tokens"]
    assert runs[0].groupby("variant").size().to_dict() == {START: 2, "zoom only": 2}
    pd.testing.assert_frame_equal(runs[0][columns], runs[1][columns])
    assert not list(beside.folder.rglob("ablations/*/search_cache")), "only needed while a run is trained"


def test_what_an_earlier_notebook_did_not_leave_is_named(tmp_path, world):
    p = replace(get_profile("cpu"), outputs=str(tmp_path), ablation=AblationConfig(True, START))
    with pytest.raises(FileNotFoundError, match="coldstart: not there yet; notebook 03_sft makes it"):
        make_runs(p, world, evaluate)


def test_variants_are_chosen_by_name_and_an_unknown_name_is_an_error():
    assert ablations.choose() == dict(VARIANTS)
    assert list(ablations.choose("zoom only, full method")) == ["zoom only", FULL]
    with pytest.raises(ValueError, match="no variant 'zoom'; there are before RL, full method"):
        ablations.choose("full method, zoom")


def test_a_variant_is_the_full_method_but_for_what_it_names():
    assert Variant() == VARIANTS[FULL]
