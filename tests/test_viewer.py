"""Turns as HTML and the viewer that steps through them: boxes, labels and rewards in their places, all escaped."""

import base64
import io
import re
from dataclasses import replace

import pytest
from models import drawn_photo
from PIL import Image

from reverse_lib.environment import TINY
from reverse_lib.reward import score
from reverse_lib.show import TrajectoryViewer, tokens_html
from reverse_lib.show.style import PLAIN, RIGHT, WRONG
from reverse_lib.show.viewer import crop_html, photo_html, score_html, written
from reverse_lib.trajectory import Observation, Step


@pytest.fixture(scope="module")
def image():
    return drawn_photo().load()


def pictures(page):
    found = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in found]


def test_a_zoom_shows_its_box_on_the_photo_and_the_crop(make_trajectory, image):
    photo, crop, *_ = pictures(TrajectoryViewer({"a": make_trajectory()}, image, TINY)._repr_html_())
    assert photo.size == (440, 330) and crop.size == TINY.zoom_px
    left, top = 44, 66  # of the box [100, 200, 300, 400]
    assert photo.getpixel((left, top + 20))[2] > 150 > photo.getpixel((left, top + 20))[0]


@pytest.mark.parametrize(
    ("useful", "trusted", "colour", "words"),
    [
        (True, [1], RIGHT, "✓ evidence (judge), trusted"),
        (True, [], WRONG, "✓ evidence (judge), not trusted"),
        (False, [1], WRONG, "✗ no evidence (judge), trusted"),
        (False, [], RIGHT, "✗ no evidence (judge), not trusted"),
        (None, [1], PLAIN, "unlabelled, trusted"),
    ],
)
def test_a_result_and_its_bar_say_whether_trust_and_label_agree(make_trajectory, image, useful, trusted, colour, words):
    trajectory = make_trajectory()
    trajectory.steps[1].observation.results = [{"title": "t", "useful": useful}]
    trajectory.steps[1].observation.label_method = "judge"
    trajectory.steps[2].text = f"<think>.</think><useful>{trusted}</useful><answer>France, Paris, 48, 2</answer>"
    page = TrajectoryViewer({"a": trajectory}, image, TINY)._repr_html_()
    assert re.findall(r"border-left:4px solid (#\w+)", page) == [colour] and f">{words}<" in page


def test_every_box_has_its_colour_and_its_label_and_what_is_no_box_is_left_out(image):
    boxes = [([100, 200, 300, 400], RIGHT, ""), ([500, 500, 800, 800], PLAIN, "turn 1")]
    boxes += [(none, WRONG, "") for none in ("here", None, [1, 2], [9, 9, 9, 9])]
    (photo,), (plain,), (nothing,) = (pictures(photo_html(image, some, 440)) for some in (boxes, [], boxes[2:]))
    red, green, blue = photo.getpixel((44, 86))
    assert green > 130 > red
    red, _, blue = photo.getpixel((220, 200))
    assert blue > 130 > red
    assert photo.getpixel((222, 275)) != plain.getpixel((222, 275))  # the label, below the second box
    assert nothing.tobytes() == plain.tobytes()


@pytest.mark.parametrize("box", [[0, 0, 1000, 1000], [0, 0, 1, 1000], [0, 0, 1000, 1], [100, 200, 300, 400]])
def test_a_region_is_shown_as_large_as_fits(image, box):
    (region,) = pictures(crop_html(image, box, 400, 120))
    assert region.width <= 400 and region.height <= 120 and (region.width == 400 or region.height == 120)
    assert crop_html(image, [1, 2, 3]) == ""


def test_the_answer_says_how_far_it_is_from_the_truth_by_the_names_that_has(make_trajectory):
    names = {
        "Paris, France": ("Paris", "France"),
        "France": ("", "France"),
        "Paris": ("Paris", ""),
        "the truth": ("", ""),
    }
    for place, (city, country) in names.items():
        trajectory = make_trajectory(city=city, country=country)
        assert written(trajectory, trajectory.turns()[2])[2].endswith(f" km from {place}")


def test_what_a_page_or_a_model_wrote_is_escaped(make_trajectory, image):
    attack = "<script>alert(1)</script>\ud800"
    trajectory = make_trajectory()
    trajectory.steps[1].observation.results[0]["title"] = attack
    trajectory.steps[0] = Step(f"<think>{attack}</think>", Observation("unreadable_turn", {}, "model_error", attack))
    page = TrajectoryViewer({attack: trajectory, "b": trajectory}, image, TINY)._repr_html_()
    assert "<script" not in page and page.count("&lt;script&gt;") >= 4 and page.encode()


def tabs(page: str) -> list[str]:
    return re.findall(r'<label><input type="radio" name="[\w-]+"( checked)?> ([^<]*)</label>', page)


def test_the_viewer_has_every_turn_of_every_rollout_one_of_them_shown(make_trajectory, image):
    long, short = make_trajectory(), make_trajectory(answer="Chile, Santiago, -33, -70")
    short.steps.pop(0)
    viewer = TrajectoryViewer(
        {"a": long, "b": short}, image, TINY, [[0.1, 0.2, 0.3], [0.4, 0.5]], [[1, 2, 3], [-4, -5]]
    )
    page = viewer._repr_html_()
    labels = [(" checked", "a"), (" checked", "turn 1"), ("", "turn 2"), ("", "turn 3")]
    assert tabs(page) == [*labels, ("", "b"), (" checked", "turn 1"), ("", "turn 2")]
    titles = re.findall(r"Turn (\d of \d) · reward \+(\d.\d\d) · advantage (.\d)", page)
    firsts = [("1 of 3", "0.10", "+1"), ("2 of 3", "0.20", "+2"), ("3 of 3", "0.30", "+3")]
    assert titles == [*firsts, ("1 of 2", "0.40", "-4"), ("2 of 2", "0.50", "-5")]
    groups = [set(re.findall(r'name="([\w-]+)"', text)) for text in (page, viewer._repr_html_())]
    assert len(groups[0]) == 3 and not groups[0] & groups[1]  # shown twice, each is stepped through on its own
    assert len(page) < 400_000


def test_a_score_is_shown_with_its_parts_and_each_turn_with_its_own(make_trajectory, image):
    trajectory = make_trajectory()
    page = TrajectoryViewer({"a": trajectory}, image, TINY, scores=[score(trajectory)])._repr_html_()
    first, second, third = re.sub("<[^>]+>", "", page).split("reward 0.88 ")[1:]
    assert "accuracy 1.00 · format 1.00 · process 0.60 (look 0.20, query 0.10, trust 0.30, errors 0.00)" in first
    assert "process look +0.20" in first and "query +" not in first and "process query +0.10" in second
    nothing = replace(score(trajectory), total=-0.004, process=-0.0, errors=-0.15)
    assert "reward 0.00" in score_html(nothing) and ">errors</span> -0.15" in score_html(nothing)
    assert "-0.00" not in score_html(nothing)


def test_rollouts_side_by_side_are_stepped_through_together_the_shorter_one_stays_at_its_end(make_trajectory, image):
    short, long = make_trajectory(answer="Chile, Santiago, -33, -70"), make_trajectory()
    short.steps.pop(0)
    page = TrajectoryViewer({"<cold>": short, "GRPO": long}, image, TINY, side_by_side=True)._repr_html_()
    assert [label for _, label in tabs(page)] == ["turn 1", "turn 2", "turn 3"]
    steps = [re.findall(r"<b>(&lt;cold&gt;|GRPO)</b>|Turn (\d of \d)", step) for step in page.split("repeat(2,")[1:]]
    shown = [["&lt;cold&gt;", f"{min(k, 2)} of 2", "GRPO", f"{k} of 3"] for k in (1, 2, 3)]
    assert [[name or turn for name, turn in step] for step in steps] == shown


@pytest.mark.parametrize(
    ("ids", "more", "message"),
    [
        ([], {}, "at least one rollout"),
        (["p1", "p2"], {}, "rollouts on p1, p2; give those on one photo"),
        (["p1"], {"rewards": [[1, 2, 3], [4]]}, "2 rewards for 1 rollouts"),
    ],
)
def test_what_a_viewer_cannot_show_is_refused(make_trajectory, image, ids, more, message):
    with pytest.raises(ValueError, match=message):
        TrajectoryViewer({photo_id: make_trajectory(photo_id) for photo_id in ids}, image, TINY, **more)


def test_tokens_that_carry_loss_are_blue_runs_are_counted_and_markup_is_escaped():
    page = tokens_html(["<b>", "img", "img", "img", "\n", "yes"], [False] * 5 + [True])
    assert "&lt;b&gt;" in page and "<b>" not in page
    assert page.count("img") == 1 and "img ×3" in page and "⏎" in page
    assert page.count("#cfe3f5") == 1 and page.index("#cfe3f5") < page.index("yes")
