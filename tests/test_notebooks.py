"""The notebooks as `reverse_lib run` runs them, in profile smoke, and what their metrics say.

Each notebook has a check in CHECKS. A check gets the metrics and the folder of outputs; the notebooks named in NEEDS
run first, once a session, so that one test alone works too.
"""

import io
import json
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from browsing import chromium, drawn_data, legend
from PIL import Image
from rich.console import Console

from reverse_lib.environment import TINY
from reverse_lib.evaluation import claims as replication
from reverse_lib.evaluation import failures
from reverse_lib.models import load_interface
from reverse_lib.profiles import VARIANTS
from reverse_lib.runner import NotebookError, run
from reverse_lib.search import SearchCache
from reverse_lib.training.common import read_rows
from reverse_lib.trajectory import SEARCH_TOOLS, load_trajectories
from reverse_lib.world import World

NEEDS = {
    "02_search_cache": ["01_annotation"],
    "03_sft": ["01_annotation"],
    "04_grpo": ["01_annotation", "02_search_cache", "03_sft"],
    "05_evaluation": ["04_grpo"],
    "06_ablations": ["04_grpo"],
}


def coloured(picture: bytes) -> int:
    """How many pixels of a PNG are neither white nor grey nor black: what is drawn between the axes."""
    rgb = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), int)  # (height, width, 3)
    return int((rgb.max(2) - rgb.min(2) > 20).sum())


def check_figure(folder, name: str, least_px: int) -> None:
    """A figure is there, wide enough to read, and not empty."""
    path = folder / "figures" / f"{name}.png"
    assert Image.open(path).width >= least_px and coloured(path.read_bytes()) > 500, name


@contextmanager
def opened(folder, name: str):
    """A map in a browser, where it shows colours and asks for nothing from elsewhere."""
    page, asked = chromium().new_page(viewport={"width": 1200, "height": 800}), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((folder / "maps" / f"{name}.html").as_uri())
    page.locator(".leaflet-land-pane canvas").first.wait_for()
    assert coloured(page.screenshot()) > 10_000
    yield page
    assert [url for url in asked if url.startswith("http")] == []
    page.close()


def check_quickstart(metrics, folder):
    assert metrics["photos"] == 8 and 0 <= metrics["within_25km"] <= metrics["parsed"] <= 1
    assert metrics["parsed"] >= 0.5  # the shipped agent answers, even where it is wrong
    assert metrics["first_photo_km"] is None or 0 <= metrics["first_photo_km"] < 20_016
    assert -0.15 <= metrics["first_photo_reward"] <= 1
    assert 0 < metrics["seconds_per_photo"] < 60
    assert metrics["own_photo_turns"] >= 1
    (stage,) = drawn_data((folder / "maps" / "00_answer.html").read_text())["stages"]
    assert ["km" in row for row in stage["rows"]] == [True] * (metrics["first_photo_km"] is not None)
    for name, least in (("00_trajectory", 800), ("00_eight_photos", 1000)):
        check_figure(folder, name, least)
    with opened(folder, "00_answer") as page:
        assert page.locator(".leaflet-container").count() == 1


def check_annotation(metrics, folder):
    funnel, saved = metrics["funnel"], metrics["saved"]
    assert metrics["photos"] == funnel["all"] == sum(metrics["difficulty"].values()) == 24
    left = list(funnel.values())
    assert left == sorted(left, reverse=True) and 0.4 < metrics["kept_share"] == left[-1] / 24 < 1
    assert left[-1] == saved["search"] and 1 <= saved["direct"] <= saved["direct_candidates"]
    assert saved["direct"] <= 0.15 * sum(saved[kind] for kind in ("search", "direct", "vain", "failing")) + 1
    assert saved["failing"] == round(saved["search"] * 0.05 / 0.65) == 1
    assert 1 <= saved["vain"] <= round(saved["search"] * 0.15 / 0.65)
    assert metrics["difficulty"]["easy"] > metrics["difficulty"]["hard"] > 0 == metrics["difficulty"]["unknown"]
    for labels in metrics["labels"].values():
        assert list(labels) == ["mentioned", "used", "declared", "judge"]
        assert labels["mentioned"]["recall"] == 1 and abs(labels["mentioned"]["kappa"]) < 1e-9
        assert labels["judge"]["kappa"] > 0.7 and labels["used"]["covered"] < labels["declared"]["covered"] == 1
        assert labels["used"]["recall"] < labels["declared"]["recall"]
    assert metrics["labels"]["kept"]["declared"]["kappa"] > 0.7
    assert metrics["labels"]["kept"]["declared"]["kappa"] >= metrics["labels"]["all"]["declared"]["kappa"]
    assert 0.7 < metrics["median_box_iou"] <= 1
    assert set(metrics["label_methods"]) == {"world"} and metrics["regions"] > 0 and metrics["skipped"] == {}
    page = (folder / "01_annotation.ipynb").read_text()
    assert "Accept" in page or "accept" in page  # the review panel, unfolded
    check_world(metrics, folder)
    rows = load_trajectories(folder / "trajectories.jsonl")
    kinds = [row.extra["sample"] for row in rows]
    assert Counter(kinds) == Counter({kind: saved[kind] for kind in ("search", "direct", "vain", "failing")})
    for row in rows:
        if row.extra["sample"] == "search":
            assert row.km <= 200 and row.steps[0].observation is not None
            assert row.extra["difficulty"] == ("easy" if row.km <= 25 else "medium")
        elif row.extra["sample"] == "failing":
            assert any(step.observation and step.observation.status == "service_error" for step in row.steps)
            assert row.answer.country == row.country
        elif row.extra["sample"] == "vain":
            assert any(step.observation and step.observation.tool in SEARCH_TOOLS for step in row.steps)
            assert not any(
                result["useful"] for step in row.steps if step.observation for result in step.observation.results
            )
            assert row.answer.country == row.country and not any(turn.useful for turn in row.turns())
        else:
            assert len(row.steps) == 1 and not row.regions and row.answer.country == row.country


def check_world(metrics, folder):
    """The part of 01_annotation that shows the miniature world."""
    calls = {int(number): count for number, count in metrics["calls"].items()}
    assert sum(calls.values()) == 24 and max(calls) <= 6 and calls[1] > 0 < calls[2]
    assert 0.15 <= metrics["twin_share"] < 0.5
    rows = [row for row in metrics["engine"] if row["box"] == "loose"]
    good, bad = ([row for row in rows if row["informative"] == wanted] for wanted in (True, False))
    assert {row["region"] for row in good} == {"sign", "board", "landmark"}
    found = [
        sum(row["right"] * row["photos"] for row in some) / sum(row["photos"] for row in some) for some in (good, bad)
    ]
    assert found[0] > 0.6 and found[1] < 0.3
    (whole,) = (row for row in metrics["engine"] if row["region"] == "photo")
    assert whole["photos"] == 24 and whole["right"] < 0.3 and whole["shown"] is None
    for name in ("photos", "engine"):
        check_figure(folder, f"01_{name}", 1760)
    for name in ("funnel", "curriculum"):
        check_figure(folder, f"01_{name}", 500)
    groups = drawn_data((folder / "maps" / "01_twins.html").read_text())["groups"]
    assert sum(len(group["places"]) for group in groups) == 40
    with opened(folder, "01_twins") as page:
        assert page.locator(".leaflet-container").count() == 1


def check_search_cache(metrics, folder):
    hits, differs = metrics["hit_rates"], metrics["cached_differs_from_live"]
    for name in ("hit_rates", "drift"):
        check_figure(folder, f"02_{name}", 500)
    assert hits["the same box"] == hits["the same query"] == hits["query in capitals, with a comma"] == 1
    boxes = [hits[f"box off by up to {percent} %"] for percent in (5, 10, 20, 30)]
    assert boxes[0] == 1 >= boxes[1] > 0.9 > boxes[2] > boxes[3]
    assert hits["query, a letter missing in the name"] < hits["query without its last word"]
    assert differs["the same query"] < 0.1 < differs["query without its first word"] <= 1
    assert metrics["changed_since"] == {"image_search_tool": 0, "text_search_tool": 0} == metrics["lost_since"]
    only = metrics["evidence_only_in_cache"]
    assert only["the same box"] == only["the same query"] == 0 and set(only) == set(differs)
    assert all(metrics[name] is True for name in ("same_in_group", "same_again", "same_results_as_call_1"))
    assert metrics["lookups_per_s"] > 100 and 0 < metrics["size_mb"] < 5
    with SearchCache.open(folder / "search_cache") as cache:
        stats = cache.stats()
        searching = {row.photo_id for row in load_trajectories(folder / "trajectories.jsonl") if len(row.steps) > 1}
        assert searching <= set(cache.photo_ids())
    assert stats["image_calls"] + stats["text_calls"] == metrics["records"] < metrics["searches"]
    assert stats["photos"] == metrics["photos"] and stats["unlabelled"] == 0 < stats["useful"]


def check_sft(metrics, folder):
    assert metrics["samples"] == {"direct": 16, "coldstart": 16}
    for stage in ("direct", "coldstart"):
        assert metrics["last_loss"][stage] < metrics["first_loss"][stage]
    assert metrics["changed_parameters"] == metrics["trainable_parameters"] > 40
    by_hand = metrics["by_hand"]  # the trainer computes in bfloat16, its first logged loss is of the first step
    assert by_hand["loss"] == pytest.approx(by_hand["trainer"], rel=0.02) and by_hand["after"] < by_hand["loss"]
    assert metrics["learned_tokens"] > 50 and metrics["tokens_per_s"] > metrics["samples_per_s"] > 0
    assert 0 < metrics["pipeline_share"] < 1 and set(metrics["stages"]) == {"test-seen", "test-new"}
    for tables in metrics["stages"].values():
        assert list(tables) == ["base", "direct SFT", "cold start"] and {t["n"] for t in tables.values()} == {8}
        assert all(0 <= table["metrics"]["parsed"]["value"] <= 1 for table in tables.values())
        assert tables["direct SFT"]["metrics"]["query_hit"]["value"] is None  # without tools no query is answered
    for name in ("loss", "stages"):
        check_figure(folder, f"03_{name}", 500)
    for stage in ("sft", "coldstart"):
        assert load_interface(folder / "checkpoints" / stage) == TINY
        assert (folder / "checkpoints" / stage / "model.safetensors").stat().st_size > 7_000_000


def check_grpo(metrics, folder):
    assert metrics["steps"] == 2 and metrics["changed_parameters"] > 40
    components = ("reward", "accuracy", "format", "look", "query", "trust", "errors")
    assert metrics["logged"] == sorted(f"rewards/{name}/mean" for name in components)
    assert metrics["total_is_weighted_sum"] is True and metrics["turns_sum_to_total"] is True
    by_hand, by_trainer = metrics["by_hand"], metrics["by_trainer"]
    assert by_hand["loss"] == pytest.approx(by_trainer["loss"], abs=1e-4)
    assert by_hand["gradient"] == pytest.approx(by_trainer["gradient"], rel=0.1, abs=1e-6)  # it attends in bfloat16
    assert by_trainer["cosine"] > 0.99 or by_hand["gradient"] == 0
    assert (metrics["credit_differs"] > 0) == (metrics["group_spread"] > 0)
    speed = metrics["speed"]
    assert speed["tokens_per_s"] > speed["rollouts_per_s"] > 0
    assert (
        speed["generate"] + speed["own"] + speed["update"] == pytest.approx(1) and speed["tools"] < speed["own"] < 0.2
    )
    gain = metrics["gains"]["reward"]
    assert gain["low"] <= gain["value"] <= gain["high"] and gain["n"] == metrics["photos"] == 8
    assert gain["value"] == pytest.approx(metrics["after"]["reward"] - metrics["before"]["reward"], abs=1e-9)
    page = (folder / "04_grpo.ipynb").read_text()
    assert page.count("Turn 1 of") >= 4 + 2  # the viewers: a group, and one photo before and after
    rows = read_rows(folder / "checkpoints" / "grpo" / "metrics.jsonl")
    assert [row["step"] for row in rows if "reward" in row] == [1, 2]
    for name in ("group", "curves", "before_after"):
        check_figure(folder, f"04_{name}", 600)


def check_evaluation(metrics, folder):
    stages = metrics["stages"]
    assert {"base", "agent", "teacher"} <= set(stages) and len(stages) + len(metrics["missing"]) == 6
    for key, stage in stages.items():
        assert stage["seconds_per_photo"] == pytest.approx(stage["seconds"] / 16)
        assert metrics["within_25km"][key]["value"] == stage["test-new"]["within_25km"]["value"]
        for split in ("test-new", "test-seen"):
            rows = stage[split]
            shares = [rows[f"within_{km}km"]["value"] for km in (1, 25, 200, 750, 2500)]
            assert shares == sorted(shares) and rows["reward"]["n"] == metrics["photos_each_split"] == 8
            assert all(row["low"] <= row["value"] <= row["high"] for row in rows.values() if row["n"])
            if key == "sft":
                assert rows["evidence_mcc"]["n"] == 0  # no tools: whatever it calls is refused
    assert (
        stages["teacher"]["test-new"]["within_25km"]["value"] > 0.5 < stages["teacher"]["test-new"]["box_iou"]["value"]
    )
    assert metrics["shown"] == "grpo"
    causes = metrics["causes"]
    assert sum(causes.values()) == 8 and set(causes) <= set(failures.CAUSES)
    assert [row["level"] for row in metrics["coverage"]] == [0.5, 0.9] and 0 <= metrics["aurc"]["value"] <= 1
    answered = 8 * stages[metrics["shown"]]["test-new"]["parsed"]["value"]
    on_map = drawn_data((folder / "maps" / "05_error_map.html").read_text())
    rows = on_map["stages"][on_map["first"]]["rows"]
    assert len(rows) == 8 and sum("to" in row for row in rows) == answered
    with opened(folder, "05_error_map") as page:
        assert sum(int(number) for number in legend(page).values()) == 8
        offered = page.locator(".leaflet-control-layers-base label").all_inner_texts()
        assert {text.strip() for text in offered} == {row["name"] for row in on_map["stages"]}
    for name in ("error_curve", "stages", "seen_and_new", "tools", "causes", "best", "median"):
        check_figure(folder, f"05_{name}", 900)


def check_ablations(metrics, folder):
    assert metrics["photos"] == 8 and metrics["stage"] == "grpo"
    assert set(metrics["tools"]) == {"all three", "no zoom", "no image search", "no text search", "none"}
    assert metrics["tools"]["none"]["evidence_mcc"] is None  # a tool that is not offered brings nothing
    assert all(metrics["tools"][name]["query_hit"] is None for name in ("none", "no text search"))
    for name, row in metrics["lost_25km"].items():
        change = metrics["tools"][name]["within_25km"] - metrics["tools"]["all three"]["within_25km"]
        assert row["value"] == pytest.approx(change, abs=1e-9) and row["low"] <= row["value"] <= row["high"]
    assert metrics["runs"] == 3  # three variants, one seed
    assert set(metrics["effects"]) == {
        f"{variant}: {metric}"
        for variant in ("before RL", "trajectory credit")
        for metric in ("within_25km", "evidence_mcc", "box_iou", "query_hit", "reward")
    }
    assert all(row["seeds"] == 1 for row in metrics["effects"].values())
    claims = metrics["claims"]
    assert [row["metric"] for row in claims.values()] == [
        "within_25km",
        "within_25km",
        "calls_text",
        "calls_zoom",
        "within_25km",
    ]
    for row in claims.values():
        assert row["n"] == 4 and row["low"] <= row["value"] <= row["high"]
        assert row["verdict"] == replication.UNDECIDED  # four photos show nothing
    kept = pd.read_parquet(folder / "ablations.parquet")
    assert set(kept["variant"]) - set(VARIANTS) == {replication.DIRECT, replication.LIVE, replication.CACHED}
    assert (folder / "replication.md").read_text() == replication.markdown(replication.replicate(kept, samples=200))
    check_figure(folder, "06_tools", 900)
    assert Image.open(folder / "figures" / "06_effects.png").width > 900  # grey, where nothing is shown


CHECKS = {
    "00_quickstart": check_quickstart,
    "01_annotation": check_annotation,
    "02_search_cache": check_search_cache,
    "03_sft": check_sft,
    "04_grpo": check_grpo,
    "05_evaluation": check_evaluation,
    "06_ablations": check_ablations,
}


@pytest.fixture(scope="session")
def executed(tmp_path_factory):
    """A function: runs a notebook, and before it those it needs, once; returns its metrics and the outputs' folder."""
    folder = tmp_path_factory.mktemp("outputs")
    own_photo = folder / "my photo.jpg"
    Image.effect_noise((900, 600), 90).convert("RGB").save(own_photo)
    own = {"00_quickstart": {"photo_path": str(own_photo)}}
    done = {}

    def metrics_of(name):
        for earlier in NEEDS.get(name, []):
            metrics_of(earlier)
        if name not in done:
            overrides = {"outputs": str(folder)} | own.get(name, {})
            (finished,) = run("smoke", only=[name], overrides=overrides, console=Console(quiet=True))
            done[name] = json.loads((folder / f"{name}.metrics.json").read_text())
            assert finished.metrics == done[name]
        return done[name], folder

    return metrics_of


@pytest.mark.parametrize("name", CHECKS)
def test_a_notebook_runs_and_its_metrics_are_right(name, executed):
    CHECKS[name](*executed(name))


def test_annotation_and_cache_run_on_a_users_folder_and_name_its_bad_rows(tmp_path):
    lines = ["path,lat,lon,country,city"]
    for number, photo in enumerate(World(0, 40).photos("val", 4)):
        photo.load().save(tmp_path / f"{number}.jpg", quality=95)
        lines.append(f"{number}.jpg,{photo.lat},{photo.lon},{photo.country},{photo.city}")
    lines += ["gone.jpg,1,2,,", "0.jpg,1,2,,", "1.jpg,100,2,,"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    own = {"outputs": str(tmp_path / "out"), "photo_folder": str(tmp_path)}
    teacher = {"teacher_name": "data/models/agent"}
    (annotated,) = run("smoke", only=["01_annotation"], overrides=own | teacher, console=Console(quiet=True))
    assert annotated.metrics["photos"] == 4
    assert annotated.metrics["skipped"] == {"missing": 1, "duplicate": 1, "coordinates": 1}
    rows = load_trajectories(tmp_path / "out" / "trajectories.jsonl")
    assert {row.photo_id for row in rows} <= {f"{number}.jpg" for number in range(4)}
    labelled = [s.observation for row in rows for s in row.steps if s.observation and s.observation.labelled]
    assert {seen.label_method for seen in labelled} <= {"declared", "cited"}
    (cached,) = run("smoke", only=["02_search_cache"], overrides=own, console=Console(quiet=True))
    assert cached.metrics["same_in_group"] is True
    with SearchCache.open(tmp_path / "out" / "search_cache") as cache:
        assert set(cache.photo_ids()) <= {f"{number}.jpg" for number in range(4)}


def test_the_search_cache_without_trajectories_says_which_notebook_makes_them(tmp_path):
    with pytest.raises(NotebookError, match=r"trajectories\.jsonl: not there yet; notebook 01_annotation makes it"):
        run("smoke", only=["02"], overrides={"outputs": str(tmp_path)}, console=Console(quiet=True))
