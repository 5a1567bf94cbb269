"""How the base is made: samples that say what is true, heads that read, masks that cover the last turn only; and what
the shipped base can do on names and photos it has never seen."""

import dataclasses
import json
import shutil
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from models import untrained
from PIL import Image

from reverse_lib.environment import TINY, Reply
from reverse_lib.models import load_agent, right_padded
from reverse_lib.trajectory import parse_turn
from reverse_lib.world import World
from reverse_lib.world.base import __main__ as command
from reverse_lib.world.base import architecture, drills, recipe, vision
from reverse_lib.world.teacher import judge, read_results


@pytest.fixture(scope="module")
def world():
    return World(drills.FIRST_SEED, 40)


@pytest.fixture(scope="module")
def pool():
    """Photos and crops as trained on."""
    return drills.draw_samples(drills.FIRST_SEED, 24, places=40, drawn=40)


@pytest.fixture(scope="module")
def unseen():
    """Photos and crops with held-out names, of a world that is not trained on."""
    return recipe.unseen_pool(120, 40)


@pytest.fixture(scope="module")
def turns(world, pool):
    """Drills of names that are read without error."""
    turns = drills.SkillDrills(*pool, world, seed=0)
    turns.misread = 0.0
    return turns


def test_patches_equal_those_of_the_image_processor():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 128, 160, 3), dtype=np.uint8)
    ours, grid = vision.patchify(pixels)
    theirs = architecture.image_processor()(images=[Image.fromarray(p) for p in pixels], return_tensors="pt")
    torch.testing.assert_close(ours, theirs["pixel_values"], atol=1e-5, rtol=0)
    assert grid.tolist() == theirs["image_grid_thw"].tolist() == [[1, 8, 10], [1, 8, 10]]


def test_letters_stand_where_a_drawn_crop_says(world):
    rng = np.random.default_rng(1)
    backdrop = np.full((192, 256, 3), 90, np.uint8)
    letters, gaps = [], []
    for _ in range(20):
        crop = drills.draw_crop(rng, ["I I I I I"], world.countries, backdrop)
        if crop.text != "I I I I I":  # random letters, now and then
            continue
        assert crop.image.shape == (32, 448, 3) and len(crop.centres_px) == 9
        assert (np.diff(crop.centres_px) > 0).all() and 0 < crop.centres_px[0] < crop.centres_px[-1] < 448
        columns = crop.image[12:20].astype(float).mean((0, 2))  # grey of the middle of the letters
        at = columns[crop.centres_px.round().astype(int)]
        letters.append(np.abs(at[:-1:2] - at[1::2]).mean()), gaps.append(np.abs(np.diff(at[1::2])).mean())
    assert len(letters) > 10 and np.mean(np.array(letters) > 3 * np.array(gaps)) > 0.85


def test_the_same_seed_draws_the_same_crop(world):
    backdrop = np.zeros((128, 160, 3), np.uint8)
    one, two = (drills.draw_crop(np.random.default_rng(5), world.names, world.countries, backdrop) for _ in "ab")
    assert one.text == two.text and np.array_equal(one.image, two.image)


def test_held_out_names_are_about_one_in_twelve_and_appear_in_no_sample(world, pool):
    share = np.mean([drills.held_out(name) for name in world.names])
    assert 0.06 < share < 0.11
    photos, crops = pool
    assert not any(drills.held_out(photo.name) for photo in photos)
    names = set(world.names) | {place.name for place in world.places}
    assert not any(drills.held_out(crop.text) for crop in crops if crop.text in names)  # others are random letters


def test_a_judged_list_says_what_the_teacher_would_say(turns):
    for _ in range(40):
        sample = turns.judging()
        turn = parse_turn(sample.messages[-1]["content"], after_search=True)
        listed = sample.messages[-2]["content"][0]["text"]
        guess = parse_turn(sample.messages[2]["content"]).think
        country = next(country.name for country in turns.countries if country.name in guess)
        read = parse_turn(sample.messages[-3]["content"]).think
        name = read.removeprefix("It reads ").removesuffix(".") if read.startswith("It reads") else ""
        expected = [row.number for row in read_results(listed) if judge(row, country, name).trusted]
        assert turn.errors == [] and turn.useful == expected
        if expected:
            row = next(row for row in read_results(listed) if row.number == expected[0])
            assert row.position == f"{turn.answer.lat:.2f}, {turn.answer.lon:.2f}"


def test_names_are_compared_in_short_lists_before_long_ones_and_beside_pictures(tmp_path, monkeypatch, pool):
    longest = {}
    builder = recipe.Builder(tmp_path, recipe.Recipe(), "words")
    builder.drills = drills.SkillDrills(*pool, builder.world, seed=0)

    def speak(minutes, lr, shares):
        lists = [read_results(builder.drills.judging().messages[-2]["content"][0]["text"]) for _ in range(40)]
        longest[name] = max(map(len, lists)) if "judging" in shares else 0

    monkeypatch.setattr(builder, "speak", speak)
    for name in recipe.PARTS["words"] + recipe.PARTS["both"]:
        builder.step(name, pool)
    assert longest == {"copying": 0, "comparing": 2, "judging": 6, "naming": 2, "pointing": 2, "skills": 6}


def test_pointing_points_at_the_informative_region(turns):
    calls = [parse_turn(turns.pointing().messages[-1]["content"]).tool_call for _ in range(30)]
    boxes = {p.bbox_2d and tuple(round(v / 10) * 10 for v in p.bbox_2d) for p in turns.photos}
    assert {call and tuple(call.arguments["bbox_2d"]) for call in calls} <= boxes


def test_only_the_last_turn_of_a_drill_is_learned(turns):
    _, processor = untrained()
    tokenizer = processor.tokenizer
    for kind in (turns.pointing, turns.reading, turns.judging, turns.copying):
        samples = [kind() for _ in range(3)]
        inputs, weights = recipe.encode_skills(tokenizer, samples)
        for ids, weight, sample in zip(inputs["input_ids"], weights, samples, strict=True):
            learned = tokenizer.decode(ids[weight > 0].tolist())
            assert learned == sample.messages[-1]["content"] + "<|im_end|>"


def test_the_heads_find_the_region_they_are_told_of():
    heads = vision.VisionHeads(4, countries=3)
    across, down = vision.CELLS
    tokens = torch.zeros(1, across * down, 12)
    with torch.no_grad():
        heads.kind.weight.zero_(), heads.kind.bias.zero_(), heads.box.weight.zero_(), heads.box.bias.zero_()
        heads.kind.weight[2, 0], heads.norm.weight[:] = 9.0, 1.0
        bins = heads.box.bias.view(4, vision.BINS)
        bins[0, 3], bins[1, [10, 11]], bins[2, 50], bins[3, 20] = 30.0, 30.0, 30.0, 30.0
    tokens[0, 7, 0] = 5.0
    kind, box = vision.find_regions(heads, tokens)
    assert kind.tolist() == [2] and box[0].round().tolist() == [60, 210, 1000, 400]
    assert vision.cells_of((0, 0, 10, 10)).tolist() == [0]
    assert vision.cells_of((990, 990, 1000, 1000)).tolist() == [across * down - 1]
    assert vision.cells_of((0, 0, 1000, 1000)).tolist() == list(range(across * down))
    side, up = 1000 // across, 1000 // down
    assert vision.cells_of((side // 2, 0, 2 * side, up)).tolist() == [0, 1]
    assert vision.cells_of((side * 9 // 10, 0, 2 * side, up)).tolist() == [1]


def test_a_varied_photo_keeps_its_boxes_on_their_regions_and_drops_what_is_cut_off():
    rng, image = np.random.default_rng(0), np.zeros((192, 256, 3), np.uint8)
    middle, corner = (300, 400, 520, 500), (0, 0, 90, 90)
    image[77:96, 77:133], image[:17, :23] = (0, 200, 0), (200, 0, 0)
    photo = drills.PhotoSample(image, 0, 1, middle, [(1, middle), (4, corner)])
    kept, whole, brightness = 0, 0, set()
    for _ in range(60):
        varied = drills.vary(rng, photo)
        assert varied.image.shape == image.shape and varied.image.dtype == np.uint8
        ys, xs = np.nonzero(varied.image[..., 1] > 0.5 * varied.image[..., 1].max())
        found = np.array([xs.min() / 256, ys.min() / 192, (xs.max() + 1) / 256, (ys.max() + 1) / 192]) * 1000
        assert varied.marks[0] == (1, varied.bbox_2d) and np.abs(found - varied.bbox_2d).max() < 15
        seen = (varied.image[..., 0] > 50).sum()  # of the corner's region
        assert (len(varied.marks) == 2) == (seen > 0) or seen < 0.9 * 17 * 23
        kept, whole = kept + (len(varied.marks) == 2), whole + (varied.bbox_2d == middle)
        brightness.add(int(varied.image.max()))
    assert 5 < kept < 60 and 5 < whole < 30 and len(brightness) > 20
    assert (photo.bbox_2d, photo.image[80, 80].tolist()) == (middle, [0, 200, 0])


@pytest.mark.parametrize(("compiler", "warned"), [("g++", False), ("/nowhere/c++", True)])
def test_fused_eyes_have_the_losses_and_gradients_of_plain_ones_and_need_no_compiler(pool, compiler, warned, caplog):
    torch._dynamo.reset()
    how = {"cpp.cxx": (None, compiler), "force_disable_caches": warned}
    model, _ = untrained()
    visual, heads = model.model.visual, vision.VisionHeads(model.config.text_config.hidden_size, 80)
    batch, found = next(drills.vision_batches(*pool, (0, 4), seed=0)), []
    for fused in (False, True):
        if fused:
            vision.fuse(visual.blocks[:1])  # one stands for all: compiling takes its time
        visual.zero_grad(), heads.zero_grad()
        with torch._inductor.config.patch(how):
            loss = sum(vision.vision_losses(visual, heads, batch).values())
            loss.backward()
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in visual.parameters() if p.grad is not None])))
    (loss, slope), (fused_loss, fused_slope) = found
    assert fused_loss == pytest.approx(loss, rel=0.01)
    assert torch.nn.functional.cosine_similarity(slope, fused_slope, 0) > 0.99
    assert ("InvalidCxxCompiler" in caplog.text) == (warned or shutil.which(compiler) is None)


def test_fused_layers_learn_drills_of_any_length_as_plain_ones(turns):
    torch._dynamo.reset()
    model, processor = untrained()
    layers = model.model.language_model.layers
    batches = [
        recipe.encode_skills(processor.tokenizer, [draw() for _ in range(4)]) for draw in (turns.copying, turns.judging)
    ]
    assert len({inputs["input_ids"].shape[1] for inputs, _ in batches}) == 2
    found = []
    for fused in (False, True):
        if fused:
            vision.fuse(layers[:1], many_sizes=True)
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16), right_padded(model):
            losses = [recipe.skill_loss(model, *batch) for batch in batches]
        sum(losses).backward()
        slopes = torch.cat([p.grad.flatten() for p in layers.parameters()])
        found.append((sum(losses).item(), slopes))
    assert found[1][0] == pytest.approx(found[0][0], rel=0.01)
    assert torch.nn.functional.cosine_similarity(found[0][1], found[1][1], 0) > 0.99


def test_the_loss_of_a_box_is_least_where_the_box_is():
    heads = vision.VisionHeads(4, countries=3)
    tokens = torch.zeros(1, vision.CELLS[0] * vision.CELLS[1], 12)
    sample = drills.PhotoSample(np.zeros(1), 0, 1, (100, 200, 300, 400), [(1, (100, 200, 300, 400))])

    def loss_at(bins):
        with torch.no_grad():
            heads.box.weight.zero_(), heads.box.bias.zero_()
            heads.box.bias.view(4, vision.BINS)[range(4), bins] = 4.0
        return vision.photo_loss(heads, tokens, [sample])["box"].item()

    right = loss_at([5, 10, 15, 20])
    assert all(right < loss_at([5 + a, 10 + b, 15, 20]) for a, b in ((1, 0), (0, -1), (3, 0)))


def test_a_drawn_crop_is_read_and_searched_for(turns):
    turn = parse_turn(turns.reading().messages[-1]["content"])
    name = turn.think.removeprefix("It reads ").removesuffix(".")
    assert name in {crop.text for crop in turns.crops} and turn.think == f"It reads {name}."
    assert turn.tool_call.arguments["query"].startswith(f"{name} ")


def test_a_name_read_with_one_letter_wrong_still_finds_its_results(world, pool):
    turns, different = drills.SkillDrills(*pool, world, seed=0), 0
    turns.misread = 1.0
    for _ in range(40):
        sample = turns.judging()
        read = parse_turn(sample.messages[-3]["content"]).think
        turn = parse_turn(sample.messages[-1]["content"], after_search=True)
        if not read.startswith("It reads") or not turn.useful:
            continue
        name, right = read.removeprefix("It reads ").removesuffix("."), turn.answer.city
        assert len(name) == len(right) and sum(a != b for a, b in zip(name, right, strict=True)) <= 1
        assert right in sample.messages[-2]["content"][0]["text"]
        different += name != right
    assert different >= 5


def test_a_name_has_a_token_a_letter_and_other_words_one(world):
    tokenizer = architecture.make_tokenizer(drills.whole_words(world))
    for text in ("It reads Ogden. ", "[1] Ogden, New Zealand: 41.21, -112.00", "\u00e9~\n"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text

    def pieces(text):
        return [tokenizer.decode([token]) for token in tokenizer(text)["input_ids"]]

    assert pieces("It reads Ogden.") == ["It", " reads", " ", *"Ogden", "."]
    assert pieces("Ogden New Zealand 12") == [*"Ogden", " New Zealand", " ", "1", "2"]
    assert pieces("Map of Maple, Spain+~~") == ["Map", " of", " ", *"Maple", ", ", "Spain", "+", "~", "~"]
    assert len(tokenizer) < 700 and len(set(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))) == len(tokenizer)


def test_vision_and_skill_training_lower_their_losses(world, pool, monkeypatch):
    monkeypatch.setattr(vision, "time", SimpleNamespace(monotonic=count().__next__))  # a second a look at the clock
    model, processor = untrained()
    batches = drills.vision_batches(*pool, (8, 16), seed=0)
    heads = vision.VisionHeads(192, len(world.countries))
    rows = vision.train_vision(model.model.visual, heads, batches, 32, log_every=1, report=lambda _: None)
    totals = [sum(value for name, value in row.items() if name not in ("step", "seconds")) for row in rows]
    assert len(rows) == 16 and totals[-1] < 0.9 * totals[0]
    turns, how = drills.SkillDrills(*pool, world, seed=1), {"batch": 8, "log_every": 1, "report": lambda _: None}
    rows = recipe.train_skills(model, processor.tokenizer, turns, 32, {"pointing": 1.0}, **how)
    assert rows[-1]["pointing"] < 0.9 * rows[0]["pointing"] and rows[-1]["step"] == 16


def test_linear_layers_step_by_muon_and_all_else_by_adamw():
    model, _ = untrained()
    matrices = vision.linear_weights(model)
    inside = {id(p) for p in matrices}
    names = [name for name, p in model.named_parameters() if id(p) in inside]
    assert len(names) == len(matrices) and all(p.ndim == 2 for p in matrices)
    assert any("q_proj" in n for n in names) and any("visual" in n and "qkv" in n for n in names)
    assert not any("embed" in n or "lm_head" in n for n in names)
    model.model.visual.requires_grad_(False)
    descend = vision.Descent(matrices, list(model.parameters()), lr=0.01)
    muon, adamw = descend.optimisers
    assert isinstance(muon, torch.optim.Muon) and isinstance(adamw, torch.optim.AdamW)
    stepped = [p for optimiser in descend.optimisers for group in optimiser.param_groups for p in group["params"]]
    assert {id(p) for p in stepped} == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(stepped) == len({id(p) for p in stepped})
    matrix, still = model.model.language_model.layers[0].mlp.up_proj.weight, matrices[0]
    before = matrix.detach().clone(), still.detach().clone()
    descend((matrix**2).sum() + model.lm_head.weight.sum(), rate=0.5)
    assert torch.equal(still, before[1]) and matrix.grad is None
    size = (matrix - before[0]).square().mean().sqrt()
    assert 0.1 < size / (0.01 * 0.5) < 0.3  # about 0.2 of the rate, as a step of AdamW has it


def test_the_base_is_built_in_one_go_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    quick = recipe.Recipe(*[0.001] * 8, worlds=1, places=40, photos=24, drawn=16)
    assert [field.name for field in dataclasses.fields(quick)][:8] == [s for p in recipe.PARTS.values() for s in p]
    monkeypatch.setattr(recipe, "draw_pool", partial(drills.draw_pool, workers=1))
    monkeypatch.setattr(recipe.Builder, "measure", lambda self: {"read": 0.0})
    assert recipe.build_base(tmp_path, quick) == {"read": 0.0}
    parts = {part: torch.load(tmp_path / f"{part}.pt") for part in recipe.PARTS}
    assert {part: state["done"] for part, state in parts.items()} == {p: list(s) for p, s in recipe.PARTS.items()}
    tower = "model.visual.patch_embed.proj.weight"
    assert torch.equal(parts["both"]["model"][tower], parts["eyes"]["model"][tower])
    assert not torch.equal(parts["words"]["model"][tower], parts["eyes"]["model"][tower])

    steps = []
    monkeypatch.setattr(recipe.Builder, "see", lambda self, *_: steps.append("see"))
    monkeypatch.setattr(recipe.Builder, "speak", lambda self, minutes, lr, shares: steps.append(sorted(shares)))
    torch.save(parts["both"] | {"done": ["naming"]}, tmp_path / "both.pt")
    recipe.build_base(tmp_path, quick)
    assert steps == [["copying", "judging", "pointing", "reading"]] * 2
    assert load_agent(tmp_path).interface == TINY


def test_long_lists_where_nothing_fits_what_was_seen_are_no_rarity():
    turns = drills.SkillDrills([], [], World(drills.FIRST_SEED, 40), seed=3)
    lists = [turns._results(country, "Nowhere", by_look=True) for country in turns.countries * 20]
    long = [(home, rows) for home, rows in zip(turns.countries * 20, lists, strict=True) if len(rows) > 3]
    nothing = [rows for home, rows in long if all(row.country != home.name for row in rows)]
    assert len(nothing) > 0.15 * len(long)


class Parrot:
    """Knows every answer but those that it is told to forget."""

    def __init__(self, monkeypatch, forget=lambda text: False):
        self.forget, self.true = forget, []
        draw = recipe._answered
        monkeypatch.setattr(recipe, "_answered", lambda agent, samples: draw(self.learn(samples), samples))

    def learn(self, samples):
        self.true = [sample.messages[-1]["content"] for sample in samples]
        return self

    def __call__(self, conversations):
        assert all(message["role"] != "assistant" for message in conversations[0][-1:])
        return [Reply("" if self.forget(text) else text) for text in self.true]


def test_who_answers_every_drill_has_every_skill(unseen, monkeypatch):
    skills_of = recipe.measure_base(Parrot(monkeypatch), unseen, n=24)
    assert skills_of.pop("judge_mcc") > 0.8  # a list without a useful result has none
    assert set(skills_of.values()) == {1.0}
    assert set(skills_of) == {"read", "point", "judge_exact", "copy", "answer", "read_photo"}


def test_who_never_points_has_all_skills_but_pointing(unseen, monkeypatch):
    mute = Parrot(monkeypatch, lambda text: "bbox_2d" in text)
    skills_of = recipe.measure_base(mute, unseen, n=24)
    assert skills_of["point"] == 0.0 and skills_of["read"] == skills_of["answer"] == 1.0


def test_names_on_measured_crops_are_held_out_from_training(unseen):
    photos, crops = unseen
    assert len({crop.text for crop in crops}) > 20 and len(photos) > 100
    named = [crop.text for crop in crops if crop.centres_px is None]
    assert named and all(drills.held_out(name) for name in named)
    assert {p.photo_id for p in photos}.isdisjoint(p.photo_id for p in drills.draw_samples(drills.FIRST_SEED, 20)[0])


def test_the_shipped_base_can_read_point_judge_and_copy_what_it_has_never_seen(unseen):
    measured = recipe.measure_base(load_agent("data/models/base"), unseen, n=64)
    # the goals on 512 drills are 0.70, 0.90, 0.50 and 0.95 (model card); 64 drills may miss them by chance
    assert measured["read_photo"] >= 0.6 and measured["point"] >= 0.75
    assert measured["judge_mcc"] >= 0.9 and measured["copy"] >= 0.9


def test_the_command_measured_every_goal_on_the_base_that_is_shipped_and_the_card_says_so():
    found = json.loads(Path("data/models/base/skills.json").read_text())
    assert found["read_photo"] >= 0.70 and found["point"] >= 0.90
    assert found["judge_mcc"] >= 0.50 and found["copy"] >= 0.95
    rows = [line for line in Path("data/models/README.md").read_text().splitlines() if line.startswith("| ")]
    named = {"a crop cut": "read_photo", "any crop": "read", "pointing, IoU": "point", "MCC": "judge_mcc"}
    for skill, name in named.items():
        row = next(line for line in rows if skill in line)
        assert f"| {found[name]:.2f} |" in row, row


def test_skills_are_measured_by_a_flag_and_a_folder_without_a_model_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "measure_base", lambda agent: {"read": agent.interface.photo_px[0]})
    shown = CliRunner().invoke(command.main, ["--measure", "data/models/base"])
    assert json.loads(shown.stdout) == {"read": TINY.photo_px[0]}
    failed = CliRunner().invoke(command.main, ["--measure", str(tmp_path / "none")])
    assert failed.exit_code == 1 and str(tmp_path / "none") in failed.output
