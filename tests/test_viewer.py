import base64
import io
import re
from dataclasses import replace

import pytest
from models import drawn_photo
from PIL import Image

from reverse_lib.environment import TINY
from reverse_lib.reward import score
from reverse_lib.show import TrajectoryViewer
from reverse_lib.show.style import PLAIN, RIGHT, WRONG
from reverse_lib.show.viewer import crop_html, photo_html, score_html, tokens_html, turn_html
from reverse_lib.trajectory import Observation, Step


@pytest.fixture
def image():
    return drawn_photo().load()


def pictures(page):
    found = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in found]


def test_a_zoom_shows_its_box_on_the_photo_and_the_crop(make_trajectory, image):
    page = turn_html(make_trajectory(), 1, image, TINY, reward=0.06, advantage=-1.5)
    assert "Turn 1 of 3 · reward +0.06 · advantage -1.50" in page and "image_zoom_in_tool" in page
    photo, crop = pictures(page)
    assert photo.size == (440, 330) and crop.size == TINY.zoom_px
    left, top = 44, 66  # of the box [100, 200, 300, 400]
    assert photo.getpixel((left, top + 20))[2] > 150 > photo.getpixel((left, top + 20))[0]


def test_results_say_whether_they_are_evidence_and_were_trusted(make_trajectory, image):
    trajectory = make_trajectory()
    trajectory.steps[1].observation.label_method = "judge"
    page = turn_html(trajectory, 2, image, TINY)
    first, second = page.split("[1] ")[1].split("[2] ")
    assert "Paris, Texas" in first and "✗ no evidence (judge), not trusted" in first
    assert "Paris, France" in second and "✓ evidence (judge), trusted" in second


@pytest.mark.parametrize(
    ("useful", "trusted", "colour"),
    [(True, [1], RIGHT), (True, [], WRONG), (False, [1], WRONG), (False, [], RIGHT), (None, [1], PLAIN)],
)
def test_a_bar_says_whether_trust_and_label_agree(make_trajectory, image, useful, trusted, colour):
    trajectory = make_trajectory()
    trajectory.steps[1].observation.results = [{"title": "t", "useful": useful}]
    trajectory.steps[2].text = f"<think>.</think><useful>{trusted}</useful><answer>France, Paris, 48, 2</answer>"
    assert re.findall(r"border-left:4px solid (#\w+)", turn_html(trajectory, 2, image, TINY)) == [colour]


def test_every_box_has_its_colour_and_its_label_and_what_is_no_box_is_left_out(image):
    boxes = [([100, 200, 300, 400], RIGHT, ""), ([500, 500, 800, 800], PLAIN, "turn 1")]
    boxes += [(none, WRONG, "") for none in ("here", None, [1, 2], [9, 9, 9, 9])]
    (photo,) = pictures(photo_html(image, boxes, 440))
    (plain,) = pictures(photo_html(image, [], 440))
    red, green, blue = photo.getpixel((44, 86))
    assert green > 130 > red
    red, _, blue = photo.getpixel((220, 200))
    assert blue > 130 > red
    assert photo.getpixel((222, 275)) != plain.getpixel((222, 275))  # the label, below the second box
    assert pictures(photo_html(image, boxes[2:], 440))[0].tobytes() == plain.tobytes()


@pytest.mark.parametrize("box", [[0, 0, 1000, 1000], [0, 0, 1, 1000], [0, 0, 1000, 1], [100, 200, 300, 400]])
def test_a_region_is_shown_as_large_as_fits(image, box):
    (region,) = pictures(crop_html(image, box, 400, 120))
    assert region.width <= 400 and region.height <= 120 and (region.width == 400 or region.height == 120)
    assert crop_html(image, [1, 2, 3]) == ""


def test_the_answer_says_how_far_off_it_is(make_trajectory, image):
    assert "km from Paris, France" in turn_html(make_trajectory(), 3, image, TINY)


@pytest.mark.parametrize(
    ("names", "words"),
    [(("", "France"), "km from France"), (("Paris", ""), "km from Paris"), (("", ""), "km from the truth")],
)
def test_a_truth_without_some_names_is_told_by_those_it_has(make_trajectory, image, names, words):
    trajectory = make_trajectory()
    trajectory.city, trajectory.country = names
    assert f"{words}<" in turn_html(trajectory, 3, image, TINY)


def test_what_a_page_or_a_model_wrote_is_escaped(make_trajectory, image):
    trajectory = make_trajectory()
    attack = "<script>alert(1)</script>"
    trajectory.steps[1].observation.results[0]["title"] = attack
    trajectory.steps[0] = Step(f"<think>{attack}</think>", Observation("unreadable_turn", {}, "model_error", attack))
    for number in (1, 2):
        page = turn_html(trajectory, number, image, TINY)
        assert "<script" not in page and "&lt;script&gt;" in page


def test_the_viewer_steps_through_turns_and_rollouts(make_trajectory, image):
    one, other = make_trajectory(), make_trajectory(answer="Chile, Santiago, -33, -70")
    other.steps.pop(0)
    viewer = TrajectoryViewer({"a": one, "b": other}, image, TINY, [[0.1, 0.2, 0.3], [0.4, 0.5]], [[1, 2, 3], [-4, -5]])
    (page,), (chooser,) = viewer.pages, viewer.choosers
    assert "Turn 1 of 3 · reward +0.10 · advantage +1.00" in page.value
    viewer.turn.value = 3
    assert "Turn 3 of 3 · reward +0.30" in page.value
    chooser.value = 1
    assert "Turn 1 of 2 · reward +0.40 · advantage -4.00" in page.value and viewer.turn.max == 2


def test_a_score_is_shown_with_its_parts_and_each_turn_with_its_own(make_trajectory, image):
    trajectory = make_trajectory()
    viewer = TrajectoryViewer({"a": trajectory}, image, TINY, scores=[score(trajectory)])
    text = re.sub("<[^>]+>", "", viewer.pages[0].value)
    assert "reward 0.88 · accuracy 1.00 · format 1.00 · process 0.60" in text  # 0.6 · 1 + 0.1 · 1 + 0.3 · 0.6
    assert "(look 0.20, query 0.10, trust 0.30, errors 0.00)" in text
    assert "process look +0.20" in text and "query +" not in text
    viewer.turn.value = 2
    assert "process query +0.10" in re.sub("<[^>]+>", "", viewer.pages[0].value)
    assert viewer.unfolded().count("<b>reward 0.88</b>") == 1
    nothing = replace(score(trajectory), total=-0.004, process=-0.0, errors=-0.15)
    assert "reward 0.00" in score_html(nothing) and ">errors</span> -0.15" in score_html(nothing)
    assert "-0.00" not in score_html(nothing)


def test_one_slider_steps_two_stages_side_by_side(make_trajectory, image):
    short, long = make_trajectory(), make_trajectory()
    short.steps.pop(0)
    stages = {"cold start": [short], "GRPO": [long, short]}
    viewer = TrajectoryViewer(stages, image, TINY, {"GRPO": [[0.1, 0.2, 0.3], [0.7, 0.8]]})
    left, right = viewer.pages
    assert "Turn 1 of 2<" in left.value and "Turn 1 of 3 · reward +0.10" in right.value and viewer.turn.max == 3
    viewer.turn.value = 3
    assert "Turn 2 of 2<" in left.value and "Turn 3 of 3 · reward +0.30" in right.value  # the shorter one has ended
    viewer.choosers[1].value = 1
    assert viewer.turn.max == 2 and "Turn 1 of 2<" in left.value and "Turn 1 of 2 · reward +0.70" in right.value


def test_without_a_front_end_two_stages_stand_side_by_side_with_all_their_turns(make_trajectory, image, monkeypatch):
    monkeypatch.setenv("REVERSE_NO_FRONT_END", "1")
    short, long = make_trajectory(answer="Chile, Santiago, -33, -70"), make_trajectory()
    short.steps.pop(0)
    page = TrajectoryViewer({"<cold>": [short], "GRPO": [long, short]}, image, TINY)._repr_mimebundle_()["text/html"]
    first, second = page.split("</details>")[:2]
    assert "&lt;cold&gt; | GRPO, rollout 1</summary>" in first and "<cold>" not in page
    assert "> | GRPO" not in second and "GRPO, rollout 2</summary>" in second
    assert first.count("repeat(2,") == second.count("repeat(2,") == 1
    turns = re.findall(r"Turn (\d of \d)", first)
    assert turns == ["1 of 2", "1 of 3", "2 of 2", "2 of 3", "3 of 3"]  # a line of the grid a turn
    assert first.index("Chile, Santiago") < first.index("3 of 3") and second.count("Turn ") == 2


def test_without_a_front_end_every_turn_can_be_unfolded(make_trajectory, image, monkeypatch):
    viewer = TrajectoryViewer({"<a>": make_trajectory(), "b": make_trajectory()}, image, TINY, [[1, 2, 3], [4, 5, 6]])
    bundle = viewer._repr_mimebundle_()
    page = bundle["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in bundle and len(page) < 400_000
    monkeypatch.setenv("REVERSE_NO_FRONT_END", "1")
    assert viewer._repr_mimebundle_() == {"text/html": page}  # what an executed notebook keeps
    assert page.count("<details") == page.count("</details>") == 2 and "&lt;a&gt;" in page and "<a>" not in page
    assert [f"reward +{n}.00" in page for n in range(1, 8)] == [True] * 6 + [False]


@pytest.mark.parametrize(
    ("ids", "more", "message"),
    [
        ({}, {}, "at least one rollout"),
        ({"a": []}, {}, "at least one rollout"),
        ({"a": ["p1"], "b": ["p2"]}, {}, "rollouts on p1, p2; give those on one photo"),
        ({"a": ["p1"]}, {"rewards": {"a": [[1, 2, 3], [4]]}}, "2 rewards for 1 rollouts"),
        ({"a": ["p1"]}, {"advantages": [[1, 2, 3]]}, "advantages must be given by stage"),
    ],
)
def test_what_a_viewer_cannot_show_is_refused(make_trajectory, image, ids, more, message):
    stages = {stage: [make_trajectory(photo_id) for photo_id in some] for stage, some in ids.items()}
    with pytest.raises(ValueError, match=message):
        TrajectoryViewer(stages, image, TINY, **more)


def test_tokens_that_carry_loss_are_blue_runs_are_counted_and_markup_is_escaped():
    page = tokens_html(["<b>", "img", "img", "img", "\n", "yes"], [False] * 5 + [True])
    assert "&lt;b&gt;" in page and "<b>" not in page
    assert page.count("img") == 1 and "img ×3" in page and "⏎" in page
    assert page.count("#cfe3f5") == 1 and page.index("#cfe3f5") < page.index("yes")
