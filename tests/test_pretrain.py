"""The base model's training: samples that say what is true, heads that read, masks that cover the last turn only."""

import numpy as np
import pytest
import torch
from models import untrained
from PIL import Image

from reverse_lib import lettering, pretrain, skills, tiny, vision
from reverse_lib.teacher import judge, read_results
from reverse_lib.trajectory import parse_turn
from reverse_lib.world import World


@pytest.fixture(scope="module")
def world():
    return World(skills.FIRST_SEED, 40)


@pytest.fixture(scope="module")
def pool():
    return skills.draw_samples(skills.FIRST_SEED, 24, places=40)


@pytest.fixture(scope="module")
def drills(world, pool):
    return skills.SkillDrills(*pool, world, seed=0)


def test_patches_equal_those_of_the_image_processor():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 128, 160, 3), dtype=np.uint8)
    ours, grid = vision.patchify(pixels)
    theirs = tiny.image_processor()(images=[Image.fromarray(p) for p in pixels], return_tensors="pt")
    torch.testing.assert_close(ours, theirs["pixel_values"], atol=1e-5, rtol=0)
    assert grid.tolist() == theirs["image_grid_thw"].tolist() == [[1, 8, 10], [1, 8, 10]]


def test_letters_stand_where_a_drawn_crop_says(world):
    rng = np.random.default_rng(1)
    backdrop = np.full((128, 160, 3), 90, np.uint8)
    crop = lettering.draw_crop(rng, ["Valencia"], world.countries, backdrop)
    while crop.text != "Valencia":
        crop = lettering.draw_crop(rng, ["Valencia"], world.countries, backdrop)
    assert crop.image.shape == (32, 224, 3) and len(crop.centres_px) == 8
    assert (np.diff(crop.centres_px) > 0).all() and 0 < crop.centres_px[0] < crop.centres_px[-1] < 224
    width = np.abs(np.diff(crop.image[8:24].astype(int).mean(-1), axis=1)).mean(0)  # edges a column
    first, last = int(crop.centres_px[0]), int(crop.centres_px[-1])
    assert width[first:last].mean() > 3 * width[min(last + 30, 215) :].mean()


def test_the_same_seed_draws_the_same_crop(world):
    backdrop = np.zeros((128, 160, 3), np.uint8)
    one, two = (lettering.draw_crop(np.random.default_rng(5), world.names, world.countries, backdrop) for _ in "ab")
    assert one.text == two.text and np.array_equal(one.image, two.image)


def test_held_out_names_are_about_one_in_twelve_and_appear_in_no_sample(world, pool):
    share = np.mean([skills.held_out(name) for name in world.names])
    assert 0.06 < share < 0.11
    photos, crops = pool
    assert not any(skills.held_out(photo.name) for photo in photos)
    assert not any(skills.held_out(crop.text) for crop in crops)


def test_a_judged_list_says_what_the_teacher_would_say(drills):
    for _ in range(40):
        sample = drills.judging()
        turn = parse_turn(sample.messages[-1]["content"], after_search=True)
        listed = sample.messages[-2]["content"][0]["text"]
        country = parse_turn(sample.messages[2]["content"]).think.partition("?")[0]
        read = parse_turn(sample.messages[-3]["content"]).think
        name = read.removeprefix("It reads ").removesuffix(".") if read.startswith("It reads") else ""
        expected = [row.number for row in read_results(listed) if judge(row, country, name).trusted]
        assert turn.errors == [] and turn.useful == expected
        if expected:
            row = next(row for row in read_results(listed) if row.number == expected[0])
            assert row.position == f"{turn.answer.lat:.2f}, {turn.answer.lon:.2f}"


def test_pointing_points_at_the_informative_region(drills):
    turns = [parse_turn(drills.pointing().messages[-1]["content"]) for _ in range(30)]
    boxes = {p.bbox_2d and tuple(round(v / 10) * 10 for v in p.bbox_2d) for p in drills.photos}
    assert {turn.tool_call and tuple(turn.tool_call.arguments["bbox_2d"]) for turn in turns} <= boxes


def test_only_the_last_turn_of_a_drill_is_learned(drills):
    _, processor = untrained()
    tokenizer = processor.tokenizer
    for kind in (drills.pointing, drills.reading, drills.judging, drills.copying):
        samples = [kind() for _ in range(3)]
        inputs, weights = pretrain.encode_skills(tokenizer, samples)
        for ids, weight, sample in zip(inputs["input_ids"], weights, samples, strict=True):
            learned = tokenizer.decode(ids[weight > 0].tolist())
            assert learned == sample.messages[-1]["content"] + "<|im_end|>"


def test_the_heads_find_the_region_they_are_told_of():
    heads = vision.VisionHeads(4, countries=3)
    tokens = torch.zeros(1, 20, 12)
    with torch.no_grad():
        heads.kind.weight.zero_(), heads.kind.bias.zero_(), heads.box.weight.zero_()
        heads.kind.weight[2, 0], heads.norm.weight[:], heads.box.bias[:] = 9.0, 1.0, torch.tensor([-9.0, 0.0, 9.0, 0.0])
    tokens[0, 7, 0] = 5.0
    kind, box = vision.find_regions(heads, tokens)
    assert kind.tolist() == [2] and box[0].round().tolist() == [0, 500, 1000, 500]
    assert vision.cell_of((0, 0, 10, 10)) == 0 and vision.cell_of((990, 990, 1000, 1000)) == 19


def test_vision_and_skill_training_lower_their_losses(world, pool):
    model, processor = untrained()
    drills = skills.SkillDrills(*pool, world, seed=1)
    heads = vision.VisionHeads(192, len(world.countries))
    batches = skills.vision_batches(*pool, world, batch=8, seed=0)
    rows = vision.train_vision(model.model.visual, heads, batches, seconds=8, log_every=1, report=lambda _: None)
    first, last = (sum(v for k, v in row.items() if k not in ("step", "seconds")) for row in (rows[0], rows[-1]))
    assert last < first
    skill_rows = pretrain.train_skills(
        model, processor.tokenizer, drills, 8, batch=8, shares=(1, 0, 0, 0), log_every=1, report=lambda _: None
    )
    assert skill_rows[-1]["pointing"] < skill_rows[0]["pointing"]
