"""The review panel without a browser: its widgets are moved as a reviewer would, and the file is read."""

import copy
import re

import pytest
from ipywidgets import HTML
from models import drawn_photo

from reverse_lib.annotation import ReviewLog, read_review
from reverse_lib.photos import Photo
from reverse_lib.show import ReviewPanel
from reverse_lib.world import in_words

ATTACK = "<script>alert(1)</script>"


@pytest.fixture
def rows(make_trajectory):
    return [make_trajectory(f"p{i}") for i in range(1, 4)]


@pytest.fixture
def photos():
    return [Photo(f"p{i}", drawn_photo().source) for i in (3, 2, 1)]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "ann.jsonl"


@pytest.fixture
def panel(rows, photos, file):
    return ReviewPanel(rows, photos, file, "ann")


def widgets(panel) -> list:
    """The panel and every widget in it, as they stand."""
    found, todo = [], [panel]
    while todo:
        found.append(todo.pop(0))
        todo = [*getattr(found[-1], "children", ()), *todo]
    return found


def shown(panel) -> str:
    """All the HTML that the panel shows."""
    return "\n".join(widget.value for widget in widgets(panel) if isinstance(widget, HTML))


def test_ticks_are_prefilled_with_the_labels_and_say_by_which_method(rows, photos, file):
    rows[0].steps[1].observation.label_method = "judge"
    panel = ReviewPanel(rows, photos, file, "ann")
    assert {place: box.value for place, box in panel.ticks.items()} == {(2, 1): False, (2, 2): True}
    assert "✗ no evidence (judge)" in shown(panel) and "✓ evidence (judge) · trusted by the agent" in shown(panel)
    bare = ReviewPanel(rows, photos, file, "ann", prefill=False)
    assert [box.value for box in bare.ticks.values()] == [False, False]
    assert "evidence (judge)" not in shown(bare) and "trusted by the agent" in shown(bare)


def test_what_was_ticked_is_in_the_file_and_the_next_undecided_one_is_shown(panel, file):
    panel.ticks[2, 1].value, panel.ticks[2, 2].value = True, False
    panel.note.value = "a twin"
    panel.verdicts["accept"].click()
    (decision,) = read_review(file)
    assert (decision.photo_id, decision.verdict, decision.note) == ("p1", "accept", "a twin")
    assert decision.labels == {2: (True, False)} and decision.boxes == {"region 1": [100, 200, 300, 400]}
    assert panel.choice.value == 1 and panel.note.value == "" and panel.ticks[2, 2].value
    assert "<b>1 of 3 decided</b>: 1 accepted, 0 rejected, 0 skipped" in panel.progress.value
    panel.verdicts["skip"].click()
    panel.verdicts["reject"].click()
    assert [one.verdict for one in read_review(file)] == ["accept", "skip", "reject"]
    assert "Everything is decided." in panel.message.value


def test_reopening_continues_where_it_stopped_with_ticks_boxes_and_note_restored(panel, rows, photos, file):
    panel.ticks[2, 1].value = True
    panel.boxes.typed.value = "10, 20, 30, 40"
    panel.boxes.add.click()
    panel.note.value = "look again"
    panel.verdicts["reject"].click()
    again = ReviewPanel(rows, photos, file, "ann")
    assert again.choice.value == 1
    again.previous.click()
    assert [box.value for box in again.ticks.values()] == [True, True] and again.note.value == "look again"
    assert again.boxes.kept == {"region 1": [10, 20, 30, 40], "new 1": [400, 400, 600, 600]}
    assert again.choice.label == "✗ 1 of 3 · p1 · rejected" and "p1: rejected, recorded at" in again.message.value


def test_next_undecided_passes_over_what_is_decided_and_wraps(panel):
    panel.verdicts["accept"].click()
    panel.verdicts["skip"].click()
    panel.previous.click()
    assert panel.choice.value == 1
    panel.next_undecided.click()
    assert panel.choice.value == 2
    panel.following.click()
    assert panel.choice.value == 0
    panel.next_undecided.click()
    assert panel.choice.value == 2


def test_undo_goes_back_to_the_trajectory_and_keeps_its_ticks_on_show(panel, rows, photos, file):
    panel.ticks[2, 1].value = True
    panel.verdicts["accept"].click()
    panel.undo.click()
    assert read_review(file) == [] and panel.choice.value == 0 and "p1: no longer accepted." in panel.message.value
    assert [box.value for box in panel.ticks.values()] == [True, True]
    assert "<b>0 of 3 decided</b>" in panel.progress.value
    panel.undo.click()
    assert "nothing to take back" in panel.message.value
    assert [box.value for box in ReviewPanel(rows, photos, file, "ann").ticks.values()] == [False, True]


def test_what_was_changed_and_not_decided_is_kept_and_called_so(panel, file):
    panel.ticks[2, 1].value = True
    panel.following.click()
    assert panel.message.value == "" and not panel.ticks[2, 1].value
    panel.choice.value = 0
    assert panel.ticks[2, 1].value and "not recorded yet" in panel.message.value and not file.exists()


def test_boxes_move_by_sliders_and_by_typing_and_a_broken_one_stays_where_it_was(panel):
    boxes = panel.boxes
    assert boxes.chooser.options == ("region 1", "turn 1") and boxes.kept == {"region 1": [100, 200, 300, 400]}
    before = panel.photo.value
    boxes.across.value = (50, 350)
    assert boxes.kept == {"region 1": [50, 200, 350, 400]} and boxes.typed.value == "50, 200, 350, 400"
    assert panel.photo.value != before
    boxes.down.value = (0, 999)
    boxes.typed.value = "[60 70 80.4 90]"
    assert boxes.kept == {"region 1": [60, 70, 80, 90]} and boxes.across.value == (60, 80)
    for broken, message in (("60, 70, 80", "four numbers"), ("80 70 60 90", "x1 &lt; x2"), ("1 2 3 1001", "0..1000")):
        boxes.typed.value = broken
        assert message in boxes.message.value and boxes.kept == {"region 1": [60, 70, 80, 90]}
    boxes.down.value = (90, 90)
    assert "y1 &lt; y2" in boxes.message.value


def test_the_box_of_a_search_counts_once_it_is_ticked_or_moved(panel, file):
    boxes = panel.boxes
    boxes.chooser.value = "turn 1"
    assert boxes.across.value == (100, 300) and not boxes.keep.value
    boxes.keep.value = True
    boxes.chooser.value = "region 1"
    assert boxes.keep.value
    boxes.keep.value = False
    assert boxes.kept == {"turn 1": [100, 200, 300, 400]}
    panel.verdicts["accept"].click()
    assert read_review(file)[0].boxes == {"turn 1": [100, 200, 300, 400]}
    panel.boxes.chooser.value = "turn 1"
    panel.boxes.down.value = (210, 410)
    assert panel.boxes.kept["turn 1"] == [100, 210, 300, 410]


def test_a_photo_without_any_box_can_be_given_one(rows, photos, file):
    rows[0].regions = []
    rows[0].steps[0].observation.arguments["bbox_2d"] = "the sign"
    boxes = ReviewPanel(rows, photos, file, "ann").boxes
    assert boxes.across.disabled and boxes.kept == {}
    boxes.add.click()
    assert boxes.kept == {"new 1": [400, 400, 600, 600]} and not boxes.across.disabled


def test_a_full_disk_is_said_and_the_panel_stays(panel, file, monkeypatch):
    panel.verdicts["reject"].click()
    panel.ticks[2, 1].value = True
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        for button, message in ((panel.verdicts["accept"], "Not recorded: "), (panel.undo, "Not taken back: ")):
            button.click()
            assert message in panel.message.value and "No space left" in panel.message.value
    assert panel.choice.value == 1 and panel.ticks[2, 1].value and "<b>1 of 3 decided</b>" in panel.progress.value
    assert list(panel.record.decisions.values()) == read_review(file)
    panel.verdicts["accept"].click()
    assert panel.choice.value == 2


def test_a_line_cut_short_and_a_changed_trajectory_are_said(panel, rows, photos, file):
    panel.verdicts["accept"].click()
    panel.verdicts["accept"].click()
    file.write_bytes(file.read_bytes()[:-20])
    changed = copy.deepcopy(rows)
    changed[0].steps[1].observation.results[0]["snippet"] = "0, 0"
    panel = ReviewPanel(changed, photos, file, "ann")
    assert "the last line was cut short" in panel.message.value
    assert "Changed since they were decided, so undecided again: p1." in panel.message.value
    assert panel.choice.value == 0 and "<b>0 of 3 decided</b>" in panel.progress.value


def test_what_a_page_a_model_or_a_reviewer_wrote_is_escaped(make_trajectory, tmp_path):
    row = make_trajectory(ATTACK, city=ATTACK, agent=ATTACK)
    row.steps[0].text = f"<think>{ATTACK}</think>"
    row.steps[0].observation.status, row.steps[0].observation.text = "model_error", ATTACK
    seen = row.steps[1].observation
    seen.results[0] |= {"title": ATTACK, "url": ATTACK, "snippet": ATTACK}
    seen.label_method = ATTACK
    panel = ReviewPanel([row], [Photo(ATTACK, drawn_photo().source)], tmp_path / "<i>.jsonl", ATTACK)
    panel.note.value = ATTACK
    for page in (panel.unfolded(), shown(panel)):
        assert "<script" not in page and "<i>" not in page and page.count("&lt;script&gt;") >= 9
    panel.verdicts["accept"].click()
    assert "<script" not in panel.message.value and "&lt;script&gt;" in panel.message.value


def test_without_a_front_end_every_turn_stands_there_with_its_ticks(panel, monkeypatch):
    panel.ticks[2, 1].value = True
    panel.verdicts["accept"].click()
    bundle = panel._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    monkeypatch.setenv("REVERSE_NO_FRONT_END", "1")
    page = panel._repr_mimebundle_()["text/html"]
    assert list(panel._repr_mimebundle_()) == ["text/html"] and page == bundle["text/html"]
    assert "<b>1 of 3 decided</b>" in page and page.count("<details") == page.count("</details>") == 3
    first, second, third = page.split("</details>")[:3]
    for part in (first, second, third):
        assert re.findall(r"<b>Turn (\d) of 3</b>", part) == ["1", "2", "3"]
        assert part.count("<img") == 2 and "answers</span> France, Paris, 48.85, 2.35" in part
    assert "✓ 1 of 3 · p1 · accepted" in first and first.count("☑") == 2
    assert "· 2 of 3 · p2 · undecided" in second and second.count("☑") == second.count("☐") == 1
    assert "<details open" in second and "<details open" not in first + third


def test_of_very_many_trajectories_those_at_hand_are_written_out(make_trajectory, photos, file):
    panel = ReviewPanel([make_trajectory("p1", city=f"City {i}") for i in range(30)], photos, file, "ann")
    panel.choice.value = 7
    page = panel.unfolded()
    assert page.count("<details") == 20 and "<p>10 more are not written out here.</p>" in page
    assert "City 7," in page and "City 26," in page and "City 6," not in page


def test_a_photo_that_cannot_be_read_is_said_and_the_rest_can_be_reviewed(rows, file, tmp_path):
    broken = tmp_path / "p1.jpg"
    broken.write_bytes(b"no photo")
    panel = ReviewPanel(rows[:1], [Photo("p1", broken)], file, "ann")
    assert "p1.jpg" in panel.photo.value and "<img" not in panel.photo.value + panel.unfolded()
    panel.verdicts["reject"].click()
    assert read_review(file)[0].verdict == "reject"


def test_a_teachers_shorthand_is_put_into_words(rows, photos, file):
    rows[0].steps[2].text = rows[0].steps[2].text.replace("Use [2].", "[2] Paris, France+++ Use [2]")
    page = shown(ReviewPanel(rows, photos, file, "ann", in_words))
    assert "country ✓, name ✓ → trusted" in page


def test_a_panel_needs_trajectories_photos_and_a_file_of_its_own(rows, photos, file):
    with pytest.raises(ValueError, match="no trajectories"):
        ReviewPanel([], photos, file, "ann")
    with pytest.raises(ValueError, match="no photo 'p1' among those given"):
        ReviewPanel(rows, photos[:2], file, "ann")
    ReviewLog(file, "bob").decide(rows[0], "accept")
    with pytest.raises(ValueError, match="decisions of 'bob', not 'ann'"):
        ReviewPanel(rows, photos, file, "ann")
