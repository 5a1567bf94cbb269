import base64
import io
import re

import pytest
from models import drawn_photo
from PIL import Image

from reverse_lib.environment import TINY
from reverse_lib.trajectory import Observation, Step
from reverse_lib.widgets import TrajectoryViewer, turn_html


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
    page = turn_html(make_trajectory(), 2, image, TINY)
    first, second = page.split("[1] ")[1].split("[2] ")
    assert "Paris, Texas" in first and "✗ no evidence, not trusted" in first
    assert "Paris, France" in second and "✓ evidence, trusted" in second


def test_the_answer_says_how_far_off_it_is(make_trajectory, image):
    assert "km from Paris, France" in turn_html(make_trajectory(), 3, image, TINY)


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
    assert "Turn 1 of 3 · reward +0.10 · advantage +1.00" in viewer.page.value
    viewer.turn.value = 3
    assert "Turn 3 of 3 · reward +0.30" in viewer.page.value
    viewer.rollout.value = 1
    assert "Turn 1 of 2 · reward +0.40 · advantage -4.00" in viewer.page.value and viewer.turn.max == 2


def test_without_a_front_end_every_turn_can_be_unfolded(make_trajectory, image, monkeypatch):
    viewer = TrajectoryViewer({"<a>": make_trajectory(), "b": make_trajectory()}, image, TINY, [[1, 2, 3], [4, 5, 6]])
    bundle = viewer._repr_mimebundle_()
    page = bundle["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in bundle and len(page) < 400_000
    monkeypatch.setenv("REVERSE_NO_FRONT_END", "1")
    assert viewer._repr_mimebundle_() == {"text/html": page}  # what an executed notebook keeps
    assert page.count("<details") == page.count("</details>") == 2 and "&lt;a&gt;" in page and "<a>" not in page
    assert [f"reward +{n}.00" in page for n in range(1, 8)] == [True] * 6 + [False]


def test_a_viewer_of_nothing_is_refused(image):
    with pytest.raises(ValueError, match="at least one rollout"):
        TrajectoryViewer({}, image, TINY)
