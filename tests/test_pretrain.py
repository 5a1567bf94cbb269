"""The base model's training: samples that say what is true, heads that read, masks that cover the last turn only."""

from functools import partial

import numpy as np
import pytest
import torch
from models import untrained
from PIL import Image

from reverse_lib import lettering, policy, pretrain, skills, tiny, vision
from reverse_lib.environment import TINY
from reverse_lib.teacher import judge, read_results, spell, unspell
from reverse_lib.trajectory import parse_turn
from reverse_lib.world import World


@pytest.fixture(scope="module")
def world():
    return World(skills.FIRST_SEED, 40)


@pytest.fixture(scope="module")
def pool():
    return skills.draw_samples(skills.FIRST_SEED, 24, places=40, drawn=40)


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
    assert crop.image.shape == (32, 448, 3) and len(crop.centres_px) == 8
    assert (np.diff(crop.centres_px) > 0).all() and 0 < crop.centres_px[0] < crop.centres_px[-1] < 448
    width = np.abs(np.diff(crop.image[8:24].astype(int).mean(-1), axis=1)).mean(0)  # edges a column
    first, last = int(crop.centres_px[0]), int(crop.centres_px[-1])
    assert width[first:last].mean() > 3 * width[min(last + 60, 430) :].mean()


def test_the_same_seed_draws_the_same_crop(world):
    backdrop = np.zeros((128, 160, 3), np.uint8)
    one, two = (lettering.draw_crop(np.random.default_rng(5), world.names, world.countries, backdrop) for _ in "ab")
    assert one.text == two.text and np.array_equal(one.image, two.image)


def test_held_out_names_are_about_one_in_twelve_and_appear_in_no_sample(world, pool):
    share = np.mean([skills.held_out(name) for name in world.names])
    assert 0.06 < share < 0.11
    photos, crops = pool
    assert not any(skills.held_out(photo.name) for photo in photos)
    names = set(world.names) | {place.name for place in world.places}
    assert not any(skills.held_out(crop.text) for crop in crops if crop.text in names)  # others are random letters


def test_a_judged_list_says_what_the_teacher_would_say(drills):
    for _ in range(40):
        sample = drills.judging()
        turn = parse_turn(sample.messages[-1]["content"], after_search=True)
        listed = sample.messages[-2]["content"][0]["text"]
        guess = parse_turn(sample.messages[2]["content"]).think
        country = next(country.name for country in drills.countries if country.name in guess)
        read = parse_turn(sample.messages[-3]["content"]).think
        name = unspell(read.removeprefix("It reads ").removesuffix(".")) if read.startswith("It reads") else ""
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
    for kind in (drills.pointing, drills.reading, drills.judging, drills.copying, drills.spelling):
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


def test_a_drawn_crop_is_read_letter_by_letter_and_searched_for_whole(drills):
    turn = parse_turn(drills.reading().messages[-1]["content"])
    name = unspell(turn.think.removeprefix("It reads ").removesuffix("."))
    assert name in {crop.text for crop in drills.crops} and turn.think == f"It reads {spell(name)}."
    assert turn.tool_call.arguments["query"].startswith(f"{name} ")


def test_a_spelled_name_has_a_token_a_letter(world):
    texts = [f"It reads {spell(name)}." for name in world.names[:400]]
    tokenizer = tiny.train_tokenizer(texts, ["reads"])
    ids = tokenizer("It reads V-a-l-e-n-c-i-a.")["input_ids"]
    assert [tokenizer.decode([i]) for i in ids[-9:]] == ["V", "-a", "-l", "-e", "-n", "-c", "-i", "-a", "."]


def test_vision_and_skill_training_lower_their_losses(world, pool):
    model, processor = untrained()
    drills = skills.SkillDrills(*pool, world, seed=1)
    heads = vision.VisionHeads(192, len(world.countries))
    batches = skills.vision_batches(*pool, (8, 16), seed=0)
    rows = vision.train_vision(model.model.visual, heads, batches, seconds=8, log_every=1, report=lambda _: None)
    totals = [sum(v for k, v in row.items() if k not in ("step", "seconds")) for row in rows]
    assert np.mean(totals[-3:]) < totals[0]
    skill_rows = pretrain.train_skills(
        model, processor.tokenizer, drills, 8, {"pointing": 1.0}, batch=8, log_every=1, report=lambda _: None
    )
    assert np.mean([row["pointing"] for row in skill_rows[-3:]]) < skill_rows[0]["pointing"]


def test_the_base_is_built_in_one_go_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    recipe = pretrain.Recipe(*[0.01] * len(pretrain.STEPS), worlds=1, places=40, photos=48, drawn=40)
    monkeypatch.setattr(pretrain, "draw_pool", partial(skills.draw_pool, workers=1))
    monkeypatch.setattr(pretrain.Builder, "measure", lambda self: {"read": 0.0})
    assert pretrain.build_base(tmp_path, recipe) == {"read": 0.0}
    steps = []
    monkeypatch.setattr(pretrain.Builder, "see", lambda self, *_: steps.append("see"))
    monkeypatch.setattr(pretrain.Builder, "speak", lambda self, *_, **shares: steps.append(sorted(shares)))
    progress = torch.load(tmp_path / pretrain.PROGRESS)
    torch.save(progress | {"done": ["reading", "looking", "copying"]}, tmp_path / pretrain.PROGRESS)
    pretrain.build_base(tmp_path, recipe)
    assert steps == [
        ["copying", "judging", "spelling"],
        ["reading"],
        ["copying", "judging", "pointing", "reading", "spelling"],
    ]
    assert policy.load_agent(tmp_path).interface == TINY
