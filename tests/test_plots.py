"""Figures: what is drawn equals the table it was given, and boxes sit where the photo has them."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from reverse_lib import plots, training_plots
from reverse_lib.evaluation import summarize, to_frame


def errors(*km):
    return pd.DataFrame({"km": np.array(km, float)})


def texts(figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_the_error_curve_marks_the_share_within_each_threshold():
    figure = plots.error_curve(errors(0.5, 13, 100, 500, 5000, np.nan, 3000, 9000))
    assert texts(figure).split() == ["12%", "25%", "38%", "50%", "50%"]
    curve = figure.axes[0].lines[0]
    assert curve.get_ydata()[-1] == 7 / 8  # an unread answer is never reached
    assert (np.diff(curve.get_ydata()) >= 0).all()


def test_the_band_of_the_error_curve_encloses_it_and_has_the_binomial_width():
    figure = plots.error_curve(errors(*[10] * 50, *[1000] * 50), samples=2000)
    vertices = figure.axes[0].collections[0].get_paths()[0].vertices
    at_100_km = vertices[np.abs(np.log(vertices[:, 0] / 100)) < 0.03][:, 1]
    assert at_100_km.min() == pytest.approx(0.4, abs=0.03) and at_100_km.max() == pytest.approx(0.6, abs=0.03)


def test_several_runs_are_told_apart_by_name_and_colour():
    figure = plots.error_curve({"SFT": errors(1, 2), "GRPO": errors(3, 4)})
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["SFT (n = 2)", "GRPO (n = 2)"]
    assert len({line.get_color() for line in legend.get_lines()}) == 2


def test_bars_are_as_high_as_the_summary_says(make_trajectory):
    right, wrong = make_trajectory("a"), make_trajectory("b", answer="Spain, Madrid, 40.42, -3.70")
    figure = plots.bars({"stage": summarize(to_frame([right, wrong]))}, ["within_25km", "country", "parsed"])
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.5, 0.5, 1.0]


def test_training_curves_draw_each_key_once_and_say_where_nothing_was_logged():
    logs = [{"step": step, "loss": 1 / step} for step in (1, 2, 4)] + [{"step": 5, "other": 1.0}]
    figure = training_plots.training_curves(logs, ["loss", "kl", "reward", "entropy"])
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == ["loss", "kl", "reward", "entropy"]
    assert shown[0].lines[0].get_xydata().tolist() == [[1, 1], [2, 0.5], [4, 0.25]]
    assert texts(figure) == "\n".join(["nothing logged"] * 3)


def test_the_funnel_states_numbers_and_shares_of_the_first():
    figure = plots.funnel({"all": 1200, "answered": 900, "within 200 km": 300})
    assert texts(figure).split("\n") == ["1,200  (100%)", "900  (75%)", "300  (25%)"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["all", "answered", "within 200 km"]
    assert plots.funnel({}).axes


def test_a_bar_list_writes_each_value_behind_a_bar_of_that_length():
    figure = plots.bar_list({"easy": 1200, "hard": 0}, "Photos by difficulty")
    assert (
        texts(figure).split("\n") == ["1,200", "0"] and figure.axes[0].get_title(loc="left") == "Photos by difficulty"
    )
    assert [bar.get_width() for bar in figure.axes[0].patches] == [1200, 0]
    assert texts(plots.bar_list({"the same box": 0.5}, "Hits", ["50 %"])) == "50 %"


def test_a_box_in_thousandths_is_drawn_at_its_pixels():
    figure = plots.photo_with_boxes(Image.new("RGB", (640, 480)), boxes=[[100, 250, 600, 750]])
    outline = figure.axes[0].patches[-1]
    assert (outline.get_xy(), outline.get_width(), outline.get_height()) == ((64, 120), 320, 240)


def test_the_trajectory_figure_tells_every_turn_and_numbers_its_boxes(make_trajectory):
    figure = plots.trajectory_figure(make_trajectory(), Image.new("RGB", (64, 48)))
    story = texts(figure)
    for part in ("turn 1", "informative region", "searches for “Paris France”", "trusts: [2] Paris, France"):
        assert part in story
    assert "km from Paris, France" in figure.axes[0].get_title(loc="left")


@pytest.mark.parametrize("box", [["a", 1, 2, 3], [1, 2], "all", None, [float("nan"), 0, 1, 1]])
def test_a_malformed_box_and_odd_characters_do_not_stop_the_figure(make_trajectory, box):
    trajectory = make_trajectory(answer="Fr$nce, P$ris_^{, 48.85, 2.35")
    call = f'{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {box!r}}}}}'.replace("'", '"')
    trajectory.steps[0].text = f"<think>$x^ \\frac</think><tool_call>{call}</tool_call>"
    assert plots.trajectory_figure(trajectory, Image.new("RGB", (64, 48)))._repr_png_()[:4] == b"\x89PNG"


def test_figures_show_themselves_without_pyplot():
    import matplotlib.pyplot as plt

    assert plots.funnel({"all": 1})._repr_png_()[:4] == b"\x89PNG"
    assert plt.get_fignums() == []
