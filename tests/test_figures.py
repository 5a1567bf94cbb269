"""Figures: what is drawn equals the table it was given, and boxes sit where the photo has them."""

from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_hex
from models import drawn_photo
from PIL import Image

from reverse_lib import show
from reverse_lib.environment import TINY, show_zoom
from reverse_lib.evaluation import (
    METRICS,
    calibrate,
    count_causes,
    coverage,
    published,
    risk_coverage,
    summarize,
    to_frame,
)
from reverse_lib.reward import score, turn_advantages, turn_rewards
from reverse_lib.show.story import narrate
from reverse_lib.show.style import RIGHT, WRONG


def errors(*km):
    return pd.DataFrame({"km": np.array(km, float)})


def texts(figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_error_curve_marks_the_share_within_each_threshold_of_the_photos_whose_service_did_not_fail():
    frame = errors(0.5, 13, 100, 500, 5000, np.nan, 3000, 9000, np.nan).assign(end=["answered"] * 8 + ["service_error"])
    figure = show.error_curve(frame)
    assert texts(figure).split() == ["12%", "25%", "38%", "50%", "50%"]
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == "photos (n = 8)"
    curve = figure.axes[0].lines[0]
    assert curve.get_ydata()[-1] == 7 / 8  # an unread answer is never reached
    assert (np.diff(curve.get_ydata()) >= 0).all()


def test_several_error_curves_have_names_colours_and_bands_of_the_binomial_width():
    figure = show.error_curve({"SFT": errors(*[10] * 50, *[1000] * 50), "GRPO": errors(3, 4)}, samples=2000)
    vertices = figure.axes[0].collections[0].get_paths()[0].vertices
    at_100_km = vertices[np.abs(np.log(vertices[:, 0] / 100)) < 0.03][:, 1]
    assert at_100_km.min() == pytest.approx(0.4, abs=0.03) and at_100_km.max() == pytest.approx(0.6, abs=0.03)
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["SFT (n = 100)", "GRPO (n = 2)"]
    assert len({line.get_color() for line in legend.get_lines()}) == 2


def test_bars_are_as_high_as_the_summary_says(make_trajectory):
    right, wrong = make_trajectory("a"), make_trajectory("b", answer="Spain, Madrid, 40.42, -3.70")
    figure = show.bars({"stage": summarize(to_frame([right, wrong]))}, ["within_25km", "country", "parsed"])
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.5, 0.5, 1.0]


def summary(**values):
    """A summary with these metrics, each with an interval of ±0.1, and 0.5 for the others."""
    rows = {name: {"value": x, "low": x - 0.1, "high": x + 0.1, "n": 9} for name, x in values.items()}
    return pd.DataFrame.from_dict(
        rows | {name: {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9} for name in METRICS if name not in rows},
        orient="index",
    )


def test_published_figures_are_marked_beside_the_bars_of_the_distances_they_report_and_named_with_their_source():
    others = published("im2gps3k").loc[["REVERSE 4B", "GeoCLIP"]]
    metrics = [f"within_{km}km" for km in (1, 25, 200)]
    figure = show.bars({"cold start": summary(), "GRPO": summary()}, metrics, published=others)
    marks = {line.get_label(): line.get_xydata() for line in figure.axes[0].lines if line.get_label() in others.index}
    assert marks["REVERSE 4B"][:, 1].tolist() == [0.225, 0.483]  # nothing is reported for 200 km
    assert marks["GeoCLIP"][:, 1].tolist() == [0.141, 0.345, 0.507]
    assert (marks["GeoCLIP"][:, 0] > np.arange(3) + 0.4).all() and (marks["GeoCLIP"][:, 0] < np.arange(3) + 0.6).all()
    assert legend(figure) == ["cold start", "GRPO", "REVERSE 4B", "GeoCLIP"]
    assert "arXiv 2605.26861" in figure.get_supxlabel()
    assert not show.bars({"GRPO": summary()}, metrics, published=published("world")).get_supxlabel()


def test_tool_use_has_a_bar_a_tool_and_stage_with_its_interval():
    stages = {"base": summary(calls_zoom=1.53, calls_image=1.31, calls_text=1.07), "RL": summary(calls_zoom=0.07)}
    axes = show.tool_use(stages).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [1.53, 1.31, 1.07, 0.07, 0.5, 0.5]
    whiskers = [segment for collection in axes.collections for segment in collection.get_segments()]
    assert whiskers[0][:, 1].tolist() == pytest.approx([1.43, 1.63])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["zoom", "image search", "text search"]


def spread_table(n, seed, tag, factor=1.0):
    rng = np.random.default_rng(seed)
    spread = 10 ** rng.uniform(0, 3, n)
    table = pd.DataFrame({"km": factor * spread * rng.exponential(1, n), "spread_km": spread})
    return table.assign(photo_id=[f"{tag}{i}" for i in range(n)], backed=1.0, answers=8, samples=8)


def test_the_reliability_figure_puts_observed_against_promised_with_the_diagonal_and_chances_band():
    radius = calibrate(spread_table(99, 0, "v"))
    levels = [0.1, 0.5, 0.9]
    tables = {"seen": spread_table(80, 1, "t"), "new": spread_table(80, 2, "t", factor=3)}
    observed = {name: coverage(radius, table, levels) for name, table in tables.items()}
    axes = show.reliability(observed).axes[0]
    diagonal, *curves = [line for line in axes.lines if line.get_linestyle() != "None"]
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    for curve, rows in zip(curves, observed.values(), strict=True):
        assert curve.get_xdata() == pytest.approx(levels, abs=0.01)
        assert curve.get_ydata().tolist() == rows["value"].tolist()
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == observed["seen"].loc[0.1, "expected_low"]
    assert legend(show.reliability(observed["seen"]))[-1] == "observed (n = 80)"


def test_the_risk_coverage_figure_draws_the_curve_its_band_and_the_random_order():
    curve = risk_coverage(spread_table(60, 3, "t"), "spread_km", samples=200)
    figure = show.risk_coverage_figure({"GRPO": curve})
    line, level = figure.axes[0].lines
    assert line.get_ydata().tolist() == curve["risk"].tolist() and line.get_xdata()[-1] == 1
    assert set(level.get_ydata()) == {curve["risk"].iloc[-1]}
    area = curve.attrs["aurc"]
    assert legend(figure) == [f"GRPO, area {area['value']:.2f} ({area['low']:.2f}–{area['high']:.2f})"]


def test_the_figure_of_causes_has_a_point_a_cause_and_stage_and_leaves_out_successes_and_what_never_occurs(
    make_trajectory,
):
    wrong, right = make_trajectory("a", answer="Spain, Madrid, 40.42, -3.70"), make_trajectory("b")
    silent = make_trajectory("c", answer=None)
    frames = {"before": to_frame([wrong, silent]), "after": to_frame([right, wrong])}
    figure = show.failure_causes(count_causes(frames))
    axes = figure.axes[0]
    causes = ["evidence right, answer wrong", "no readable answer"]
    assert [label.get_text() for label in axes.get_yticklabels()] == causes
    before, after = (line for line in axes.lines if line.get_marker() in "os" and len(line.get_xdata()) == 2)
    assert before.get_xdata().tolist() == [0.5, 0.5] and after.get_xdata().tolist() == [0.5, 0]
    assert legend(figure) == ["before (n = 2)", "after (n = 2)"]
    assert show.failure_causes(count_causes({"all right": to_frame([right])})).axes


def test_training_curves_draw_each_key_once_and_say_where_nothing_was_logged():
    logs = [{"step": step, "loss": 1 / step} for step in (1, 2, 4)] + [{"step": 5, "other": 1.0}]
    figure = show.training_curves(logs, ["loss", "kl", "reward", "entropy"])
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == ["loss", "kl", "reward", "entropy"]
    assert shown[0].lines[0].get_xydata().tolist() == [[1, 1], [2, 0.5], [4, 0.25]]
    assert texts(figure) == "\n".join(["nothing logged"] * 3)


def test_a_bar_list_writes_each_value_behind_a_bar_of_that_length_a_funnel_its_share_of_the_first():
    figure = show.bar_list({"easy": 1200, "hard": 0}, "Photos by difficulty")
    assert texts(figure).split("\n") == ["1,200", "0"] and figure.get_suptitle() == "Photos by difficulty"
    assert [bar.get_width() for bar in figure.axes[0].patches] == [1200, 0]
    assert texts(show.bar_list({"the same box": 0.5}, "Hits", ["50 %"])) == "50 %"
    figure = show.funnel({"all": 1200, "answered": 900, "within 200 km": 300})
    assert texts(figure).split("\n") == ["1,200  (100%)", "900  (75%)", "300  (25%)"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["all", "answered", "within 200 km"]
    assert show.funnel({}).axes
    title = "The same calls now: what changed since they were recorded"
    figure = show.bar_list({"a name that takes a third of the picture": 1.0}, title)
    figure.savefig(BytesIO())
    (written,) = [text for text in figure.texts if text.get_text() == title]
    assert written.get_window_extent().x1 < figure.bbox.x1  # not cut off


def test_the_trajectory_figure_tells_every_turn_and_draws_its_boxes_in_thousandths_at_their_pixels(make_trajectory):
    figure = show.trajectory_figure(make_trajectory(), drawn_photo())
    story = texts(figure)
    for part in ("turn 1", "informative region", "searches for “Paris France”", "trusts: [2] Paris, France"):
        assert part in story
    assert "km from Paris, France" in figure.axes[0].get_title(loc="left")
    photo = show.photo_with_boxes(drawn_photo().load(), boxes=[[100, 200, 300, 400]])
    for outline in (*figure.axes[0].patches, *photo.axes[0].patches):  # the photo has 640×480 px, each box a rim
        assert (outline.get_xy(), outline.get_width(), outline.get_height()) == ((64, 96), 128, 96)


@pytest.mark.parametrize("box", [["a", 1, 2, 3], "all", [float("nan"), 0, 1, 1]])
def test_a_malformed_box_and_odd_characters_do_not_stop_the_figure(make_trajectory, box):
    trajectory = make_trajectory(answer="Fr$nce, P$ris_^{, 48.85, 2.35")
    call = f'{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {box!r}}}}}'.replace("'", '"')
    trajectory.steps[0].text = f"<think>$x^ \\frac</think><tool_call>{call}</tool_call>"
    assert show.trajectory_figure(trajectory, drawn_photo())._repr_png_()[:4] == b"\x89PNG"
    assert pyplot.get_fignums() == []  # made without pyplot, none stays open


def test_a_grid_says_how_many_tokens_a_picture_costs():
    figure = show.patch_grid([Image.new("RGB", (160, 128)), Image.new("RGB", (224, 32))])
    assert [axes.get_title("left") for axes in figure.axes] == ["160×128 px, 20 tokens", "224×32 px, 7 tokens"]


def test_a_group_shows_reward_and_advantage_of_each_turn(make_trajectory):
    group = [make_trajectory(), make_trajectory(answer=None)]
    rewards = [turn_rewards(score(trajectory)) for trajectory in group]
    advantages = turn_advantages(rewards, 2)
    (axes,) = show.group_figure(group, rewards, advantages).axes
    texts = [text.get_text() for text in axes.texts]
    assert texts[0] == f"zoom\nr +0.06   A {advantages[0][0]:+.1f}" and texts[1].startswith("text search")
    assert texts[2].startswith("answer") and texts[6].startswith("unreadable")
    assert texts[3].endswith(f"R {sum(rewards[0]):.2f}") and "no answer (format)" in texts[7]
    blue, orange = (axes.patches[i].get_facecolor() for i in (2, 5))
    assert blue[2] > blue[0] and orange[0] > orange[2]


def test_effects_stand_where_they_are_and_those_not_shown_are_grey():
    index = pd.MultiIndex.from_product([["no tools", "zoom only"], ["reward"]], names=["variant", "metric"])
    effects = pd.DataFrame({"value": [-0.2, 0.01], "low": [-0.3, -0.1], "high": [-0.1, 0.1]}, index)
    figure = show.effects_figure(effects.assign(shown=[True, False]), ["reward"])
    (panel,) = figure.axes
    dots = panel.collections[-1]
    assert dots.get_offsets().tolist() == [[-0.2, 0.0], [0.01, 1.0]]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["no tools", "zoom only"]
    lost, unclear = dots.get_facecolors()[:, :3]
    assert lost[0] > lost[2] and max(unclear) - min(unclear) < 0.1
    low, high = panel.collections[0].get_segments()[0][:, 0]
    assert (low, high) == (-0.3, -0.1)


def test_live_curves_draw_every_so_many_rows_and_tell_the_time_left(monkeypatch):
    drawn = []

    class Handle:
        def update(self, figure):
            drawn.append(figure.get_suptitle())

    monkeypatch.setattr("IPython.display.display", lambda *_, **__: Handle())
    curves = show.LiveCurves(["loss"], every=2, title="SFT", total=10)
    for step in range(1, 6):
        curves({"step": step, "loss": 1 / step})
    assert [title.split(",")[0] for title in drawn] == ["SFT: step 2", "SFT: step 4"]
    assert all("s left" in title for title in drawn)


def test_a_contact_sheet_draws_each_box_on_its_own_picture_and_says_which_are_decoys():
    pictures = [Image.new("RGB", size, colour) for size, colour in (((100, 50), "red"), ((200, 100), "blue"))]
    boxes, decoys = [[], [[100, 200, 600, 700]]], [[[500, 0, 1000, 1000]], []]
    figure = show.contact_sheet(pictures, ["one", "two"], boxes, decoys=decoys)
    one, two = figure.axes
    assert (one.get_title(loc="left"), two.get_title(loc="left")) == ("one", "two")
    assert tuple(two.images[0].get_array()[0, 0]) == (0, 0, 255)
    for axes, bounds, colour in ((one, (50, 0, 50, 50), WRONG), (two, (20, 20, 100, 50), RIGHT)):
        assert [patch.get_bbox().bounds for patch in axes.patches] == [pytest.approx(bounds)] * 2
        assert to_hex(axes.patches[1].get_edgecolor()) == colour.lower()
    assert legend(figure) == ["tells the place", "decoy"]
    colours = [to_hex(patch.get_edgecolor()) for patch in figure.legends[0].get_patches()]
    assert colours == [RIGHT.lower(), WRONG.lower()] and not show.contact_sheet(pictures, boxes=boxes).legends


def test_a_contact_sheet_leaves_unused_panels_blank_and_a_short_one_is_narrow():
    figure = show.contact_sheet([Image.new("RGB", (40, 30))] * 5)
    assert [len(axes.images) for axes in figure.axes] == [1] * 5 + [0] * 3
    assert not any(axes.axison for axes in figure.axes)
    assert show.contact_sheet([Image.new("RGB", (40, 30))]).get_figwidth() == figure.get_figwidth() / 4 == 3


def test_what_an_agent_saw_is_the_small_photo_and_its_zooms_cut_from_the_original(make_trajectory):
    photo = Image.effect_noise((640, 480), 80).convert("RGB")
    pictures, titles = show.seen_pictures(make_trajectory(), photo, TINY)
    assert [picture.size for picture in pictures] == [(256, 192), (448, 32)]
    assert titles == ["the photo, 256×192 px", "the zoom of turn 1, 448×32 px"]
    assert np.array_equal(np.asarray(pictures[1]), np.asarray(show_zoom(photo, [100, 200, 300, 400], TINY)))


def test_a_story_gives_thoughts_of_several_lines_a_line_each(make_trajectory):
    story = narrate(make_trajectory(), in_words=lambda think: think.replace(" ", "\n"))
    assert [line.strip() for line in story[:4]] == ["1. thinks:", "France?", "A", "sign."]
