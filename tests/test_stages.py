"""Stages side by side: which are found, what they are asked with, and tables whose numbers can be checked by hand."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from reverse_lib.evaluation import stages, summarize, to_frame
from reverse_lib.profiles import get_profile
from reverse_lib.trajectory import TOOLS


@pytest.fixture
def profile(tmp_path):
    """The smoke profile with its models and results in an empty folder."""
    models = {f"model.{name}": str(tmp_path / name) for name in ("base", "agent")}
    return get_profile("smoke", outputs=str(tmp_path / "out"), **models)


def checkpoint(folder) -> None:
    Path(folder).mkdir(parents=True)
    (Path(folder) / "config.json").write_text("{}")


def test_every_stage_without_a_checkpoint_is_named_with_what_brings_it(profile):
    found, missing = stages.find_stages(profile)
    assert [stage.key for stage in found] == ["teacher"]
    names = ["base", "direct SFT", "cold start", "GRPO", "shipped agent"]
    assert [sentence.split(":")[0] for sentence in missing] == names
    assert "run notebook 03_sft first" in missing[1] and "run notebook 04_grpo first" in missing[3]
    assert str(profile.folder / "checkpoints" / "grpo") in missing[3]


def test_stages_come_in_the_order_of_training_and_direct_sft_gets_no_tools(profile):
    for name in ("grpo", "sft", "coldstart"):
        checkpoint(profile.folder / "checkpoints" / name)
    checkpoint(profile.model.base)
    (Path(profile.model.agent)).mkdir()  # a folder, but no checkpoint in it
    found, missing = stages.find_stages(profile)
    assert [stage.key for stage in found] == ["base", "sft", "coldstart", "grpo", "teacher"]
    assert [stage.tools for stage in found] == [TOOLS, (), TOOLS, TOOLS, TOOLS]
    assert len(missing) == 1 and missing[0].startswith("shipped agent: no checkpoint in")


def test_a_supervised_stage_that_was_not_trained_here_is_the_one_shipped_beside_the_agent(profile):
    shipped = Path(profile.model.agent).parent
    checkpoint(shipped / "sft")
    checkpoint(shipped / "coldstart")
    checkpoint(trained := profile.folder / "checkpoints" / "coldstart")
    found, missing = stages.find_stages(profile)
    models = {stage.key: stage.model for stage in found}
    assert models == {"sft": str(shipped / "sft"), "coldstart": str(trained), "teacher": ""}
    assert [sentence.split(":")[0] for sentence in missing] == ["base", "GRPO", "shipped agent"]


def test_a_model_id_is_taken_and_the_same_checkpoint_is_evaluated_once(profile):
    checkpoint(profile.folder / "checkpoints" / "grpo")
    grpo = str(profile.folder / "checkpoints" / "grpo")
    model = dataclasses.replace(profile.model, base="Qwen/Qwen3-VL-4B-Instruct", agent=grpo)
    found, missing = stages.find_stages(dataclasses.replace(profile, model=model))
    assert [stage.key for stage in found] == ["base", "grpo", "teacher"]
    assert not any(sentence.startswith("shipped agent") for sentence in missing)
    model = dataclasses.replace(profile.model, agent="someone/agent")
    found, missing = stages.find_stages(dataclasses.replace(profile, model=model))
    assert [stage.key for stage in found] == ["grpo", "agent", "teacher"] and len(missing) == 3


def test_photos_are_described_by_their_informative_region_and_their_namesakes(world):
    photos = world.photos("test-new", 60)
    described = stages.describe(photos, world)
    assert set(described["region"]) == set(stages.REGIONS)
    for photo, row in zip(photos, described.itertuples(), strict=True):
        assert (row.region == "none") == (not photo.regions)
        namesakes = [p for p in world.places if p.name == photo.place.name and p is not photo.place]
        assert row.twin == bool(namesakes) and row.split == "test-new"
    assert described["twin"].any() and not described["twin"].all()


def test_the_teacher_is_evaluated_on_both_splits_and_counted(world):
    profile = get_profile("smoke", **{"evaluation.photos": 6})
    done = []
    frame, seconds = stages.evaluate_stage(stages.Stage("teacher", "teacher", ""), world, profile, done.append)
    assert sum(done) == len(frame) == 12 and seconds > 0
    assert frame["split"].tolist() == ["test-new"] * 6 + ["test-seen"] * 6
    assert frame["photo_id"].tolist() == [p.photo_id for split in stages.TEST_SPLITS for p in world.photos(split, 6)]
    assert frame["parsed"].all() and (frame["km"] < 25).any()


def test_a_table_shows_shares_in_percent_and_what_nothing_is_known_of_as_a_dash(make_trajectory):
    right, wrong = make_trajectory("p1"), make_trajectory("p2", answer="Australia, Sydney, -33.87, 151.21")
    searched = summarize(to_frame([right, wrong]))
    table = stages.side_by_side({"searched": searched})
    assert table.loc["within 25 km", "searched"] == "50 % (0–100)"
    assert table.loc["evidence MCC", "searched"] == "1.00 (1.00–1.00)"
    assert table.loc["text searches a photo", "searched"] == "1.00 (1.00–1.00)"
    silent = make_trajectory("p3")
    silent.steps = silent.steps[-1:]
    alone = stages.side_by_side({"direct": summarize(to_frame([silent]))}, ["evidence_mcc", "median_km"])
    assert alone["direct"].tolist() == ["–", "1 (1–1)"]
    summary = pd.DataFrame({"value": [0.02], "low": [-0.1], "high": [0.14], "n": [9]}, index=["evidence_mcc"])
    assert stages.side_by_side({"a": summary}, ["evidence_mcc"]).iloc[0, 0] == "0.02 (−0.10 to 0.14)"


def test_failures_are_split_by_region_and_by_twin(make_trajectory):
    far = "Australia, Sydney, -33.87, 151.21"
    frame = to_frame([make_trajectory("p1"), make_trajectory("p2"), make_trajectory("p3", answer=far)])
    frame = frame.assign(region=["board", "sign", "sign"], twin=[False, False, True])
    table = stages.where_it_fails(frame, samples=50)
    assert table.index.tolist() == ["sign", "board", "has a twin", "has no twin"]
    assert table["photos"].tolist() == [2, 1, 1, 2]
    assert [cell.split(" %")[0] for cell in table["within 25 km"]] == ["50", "100", "0", "100"]
    assert table.loc["has a twin", "median error, km"] == "16,961"


def test_the_stage_to_show_follows_from_what_was_trained_and_from_no_figure():
    made = [stages.Stage(key, key, "") for key in ("base", "sft", "coldstart", "grpo", "agent", "teacher")]
    assert stages.last_stage(made).key == "grpo"
    assert stages.last_stage([stage for stage in made if stage.key != "grpo"]).key == "agent"
    with pytest.raises(ValueError, match="no trained agent among base, sft"):
        stages.last_stage(made[:2])


def test_examples_are_the_best_the_median_and_the_worst_by_reward():
    rewards, km = [0.2, 0.9, 0.5, 0.0, 0.0], [9.0, 1.0, 2.0, 8.0, None]
    columns = {"photo_id": list("abcde"), "reward": rewards, "km": km, "trajectory": list("ABCDE")}
    assert stages.examples(pd.DataFrame(columns)) == {"best": "B", "median": "A", "worst": "E"}
