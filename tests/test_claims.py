"""The paper's claims: verdicts follow the intervals; and the reference run, what is kept of it and said of it."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from reverse_lib.evaluation import CACHED, DIRECT, LIVE, METRICS, compare, evaluate, markdown, replicate, summarize
from reverse_lib.evaluation.claims import ASKED_ONCE, CLAIMS, FAILS, HOLDS, UNDECIDED, Claim, _rounded
from reverse_lib.models import load_agent
from reverse_lib.profiles import FULL, START, VARIANTS, get_profile
from reverse_lib.training.ablations import choose
from reverse_lib.trajectory import TOOLS

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "outputs" / "reference"
README = (ROOT / "README.md").read_text()


def run(variant, seed, km, reward=0.5):
    """Answers to len(km) photos, each so far off."""
    blank = dict.fromkeys(METRICS, 0.0) | {"pred_country": "", "country": "", "end": "answered"}
    rows = [blank | {"photo_id": f"p{i}", "km": float(error), "reward": reward} for i, error in enumerate(km)]
    return pd.DataFrame(rows).assign(variant=variant, seed=seed)


def near(n, right):
    """`right` of n photos within 25 km."""
    return [1.0] * right + [900.0] * (n - right)


def judged(before, after, **claim):
    runs = pd.concat([*before, *after])
    rule = Claim("says", "paper", "within_25km", before[0]["variant"].iloc[0], after[0]["variant"].iloc[0], **claim)
    (row,) = replicate(runs, [rule]).to_dict("records")
    return row


def metrics_of(notebook):
    return json.loads((KEPT / f"{notebook}.metrics.json").read_text())


def test_a_clear_rise_holds_a_clear_fall_does_not_and_a_tie_is_undecided():
    low, high = [run(START, 0, near(60, 10))], [run(FULL, 0, near(60, 40))]
    assert judged(low, high)["verdict"] == HOLDS and judged(low, high)["value"] == pytest.approx(0.5)
    assert judged(low, high, rises=False)["verdict"] == FAILS
    assert judged([run(START, 0, near(60, 40))], [run(FULL, 0, near(60, 10))])["verdict"] == FAILS
    tie = judged(low, [run(FULL, 0, near(60, 11))])
    assert tie["verdict"] == UNDECIDED and tie["low"] <= 0 <= tie["high"]
    nothing = judged(low, [run(FULL, 0, near(60, 10))])
    assert nothing["verdict"] == UNDECIDED and np.isnan(nothing["needed"])


def test_the_photos_that_would_decide_it_do():
    rng = np.random.default_rng(0)

    def pair(n):
        first = rng.random(n) < 0.4
        second = np.where(rng.random(n) < 0.16, ~first, first) | (rng.random(n) < 0.03)
        return [run(START, 0, np.where(first, 1, 900))], [run(FULL, 0, np.where(second, 1, 900))]

    small = judged(*pair(80))
    assert small["verdict"] == UNDECIDED and small["needed"] > 80
    # the same photos again and again: the difference stays, its interval shrinks
    times = int(np.ceil(1.2 * small["needed"] / 80))
    rng = np.random.default_rng(0)
    again = [pd.concat(runs * times).assign(photo_id=[f"p{i}" for i in range(80 * times)]) for runs in pair(80)]
    row = judged([again[0]], [again[1]])
    assert row["low"] * row["high"] > 0


def test_seeds_are_averaged_and_a_checkpoint_that_was_only_asked_counts_once():
    before = [run(START, seed, near(40, 10)) for seed in range(3)]
    after = [run(FULL, seed, near(40, 10 + 5 * seed)) for seed in range(3)]
    row = judged(before, after)
    assert row["value"] == pytest.approx(5 / 40) and (row["n"], row["seeds"]) == (40, 3)
    asked = judged([run(DIRECT, 0, near(40, 0))], before[:1])
    assert asked["seeds"] == 1 and asked["verdict"] == HOLDS


def test_the_claims_are_about_variants_that_exist_and_what_was_not_run_is_left_out():
    known = {*VARIANTS, DIRECT, LIVE, CACHED}
    assert not VARIANTS[START].trained and VARIANTS[FULL].trained
    for claim in CLAIMS:
        assert {claim.before, claim.after} <= known and claim.metric in METRICS
    assert len({claim.says for claim in CLAIMS}) == len(CLAIMS)
    assert replicate(pd.concat([run(FULL, 0, near(10, 5))])).empty
    two = replicate(pd.concat([run(FULL, 0, near(20, 9)), run("no tools", 0, near(20, 0))]))
    assert two["says"].tolist() == ["all tools place more than none"]


def test_the_reference_run_trains_what_the_claims_compare():
    compared = {name for claim in CLAIMS for name in (claim.before, claim.after)}
    made = set(choose(get_profile("reference").ablation.variants))
    assert compared - set(ASKED_ONCE) == made


def test_the_table_reads_in_points_and_names_what_would_decide():
    runs = pd.concat([run(START, 0, near(60, 10)), run(FULL, 0, near(60, 11)), run("no tools", 0, near(60, 0), 0.1)])
    text = markdown(replicate(runs))
    head, _, *rows = text.strip().splitlines()
    assert head.count("|") == 6 and all(row.count("|") == 6 for row in rows)
    (rl,) = (row for row in rows if "RL places more" in row)
    assert "+1.7 points (" in rl and "| 60 × 1 |" in rl and "undecided at this size; about" in rl
    (none,) = (row for row in rows if "than none" in row)
    assert none.endswith("| holds |") and "paper" in none


@pytest.mark.parametrize(("number", "shown"), [(99.2, 100), (101, 110), (1234, 1300), (38, 38), (10_001, 11_000)])
def test_the_number_of_photos_is_rounded_up_to_two_digits(number, shown):
    assert _rounded(number) == shown


@pytest.fixture(scope="module")
def runs():
    return pd.read_parquet(KEPT / "ablations.parquet")


def test_metrics_figures_and_a_map_are_kept_and_small():
    assert metrics_of("05_evaluation") and metrics_of("06_ablations")
    figures = re.findall(r"outputs/reference/(figures/\S+\.png)", (ROOT / ".gitignore").read_text())
    assert len(figures) >= 5
    for name in figures:
        assert Image.open(KEPT / name).width > 500, name
    assert (KEPT / "maps" / "05_error_map.html").stat().st_size < 3e6


def test_every_notebook_says_when_and_on_what_it_was_run():
    notes = json.loads((KEPT / "run.json").read_text())
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} <= set(notes)
    for name, note in notes.items():
        assert note["profile"] == "reference" and note["seeds"] == {"training": 0, "world": 0}, name
        assert note["seconds"] > 0 and note["finished"].startswith("20") and note["commit"]
        assert note["hardware"]["cpu"] and note["packages"]["torch"] and note["python"]


def test_the_table_of_claims_follows_from_the_runs_and_the_front_page_shows_it(runs):
    text = markdown(replicate(runs))
    assert (KEPT / "replication.md").read_text() == text
    assert text.strip() in README
    assert len(text.strip().splitlines()) - 2 == len(CLAIMS)


def test_the_runs_are_of_one_list_of_photos_and_of_three_seeds(runs):
    listed = {(name, seed): sorted(rows["photo_id"]) for (name, seed), rows in runs.groupby(["variant", "seed"])}
    first = next(iter(listed.values()))
    assert all(photos == first for photos in listed.values()) and len(first) == len(set(first)) == 300
    claimed = {name for claim in CLAIMS for name in (claim.before, claim.after)}
    assert set(runs["variant"]) == claimed
    for name in claimed - {*ASKED_ONCE}:
        assert {seed for variant, seed in listed if variant == name} == {0, 1, 2}, name


@pytest.mark.parametrize(
    ("metric", "seeds"),
    [("reward", [0]), ("reward", [1]), ("reward", [2]), ("within_25km", [0, 1, 2]), ("evidence_mcc", [0, 1, 2])],
)
def test_reinforcement_learning_raised_reward_with_every_seed_and_accuracy_and_trust_over_all(runs, metric, seeds):
    tables = dict(iter(runs.groupby(["variant", "seed"])))
    before, after = ([tables[variant, seed] for seed in seeds] for variant in (START, FULL))
    change = compare(before, after, [metric]).loc[metric]
    assert change["shown"] and change["low"] > 0, change.to_dict()


def test_the_cold_start_writes_turns_as_it_should_and_places_what_direct_fine_tuning_cannot(runs):
    by_variant = {name: summarize(rows)["value"] for name, rows in runs.query("seed == 0").groupby("variant")}
    start, direct = by_variant[START], by_variant[DIRECT]
    assert start["format"] >= 0.95
    assert start["within_25km"] >= 2 * direct["within_25km"] and start["within_25km"] > 0.2
    assert start["within_25km"] < 0.7  # leaves something to learn


def test_collating_takes_little_of_a_supervised_step():
    assert 0 < metrics_of("03_sft")["pipeline_share"] < 0.15


def test_what_is_ours_takes_little_of_a_step_and_training_no_more_than_eight_minutes():
    metrics = metrics_of("04_grpo")
    speed = metrics["speed"]
    assert 60 < metrics["seconds"] < 480
    assert 0 < speed["tools"] < speed["own"] < 0.03
    assert speed["generate"] + speed["update"] + speed["own"] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("model", "variant"), [("sft", DIRECT), ("coldstart", START)])
def test_the_shipped_supervised_models_answer_as_those_of_the_run(world, runs, model, variant):
    agent = load_agent(ROOT / "data" / "models" / model, tools=() if variant == DIRECT else TOOLS)
    photos = world.photos("test-new", 300)[:40]
    frame = evaluate(agent, photos, world.live, agent.interface, tools=agent.tools).set_index("photo_id")
    kept = runs.query("variant == @variant and seed == 0").set_index("photo_id").loc[frame.index]
    same = (frame["km"] - kept["km"]).abs() < 1  # the kept answers are of weights in float32
    assert same.mean() >= 0.9, same.mean()


def test_the_shipped_agent_is_as_good_at_everything_as_when_notebook_04_had_trained_it(world):
    after = metrics_of("04_grpo")["after"]
    agent = load_agent(ROOT / "data" / "models" / "agent")
    value = summarize(evaluate(agent, world.photos("test-new", 300), world.live, agent.interface))["value"]
    names = ["reward", "within_25km", "within_2500km", "evidence_mcc", "box_iou", "query_hit", "calls_image"]
    assert value[names].to_dict() == pytest.approx({name: after[name] for name in names}, abs=0.02)


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
