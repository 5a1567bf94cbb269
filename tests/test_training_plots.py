import pandas as pd
from PIL import Image

from reverse_lib.reward import score, turn_advantages, turn_rewards
from reverse_lib.show import training_plots


def test_tokens_that_carry_loss_are_blue_runs_are_counted_and_markup_is_escaped():
    page = training_plots.tokens_html(["<b>", "img", "img", "img", "\n", "yes"], [False] * 5 + [True])
    assert "&lt;b&gt;" in page and "<b>" not in page
    assert page.count("img") == 1 and "img ×3" in page and "⏎" in page
    assert page.count("#cfe3f5") == 1 and page.index("#cfe3f5") < page.index("yes")


def test_a_grid_says_how_many_tokens_a_picture_costs():
    figure = training_plots.patch_grid([Image.new("RGB", (160, 128)), Image.new("RGB", (224, 32))])
    assert [axes.get_title("left") for axes in figure.axes] == ["160×128 px, 20 tokens", "224×32 px, 7 tokens"]


def test_a_group_shows_reward_and_advantage_of_each_turn(make_trajectory):
    group = [make_trajectory(), make_trajectory(answer=None)]
    rewards = [turn_rewards(score(trajectory)) for trajectory in group]
    advantages = turn_advantages(rewards, 2)
    (axes,) = training_plots.group_figure(group, rewards, advantages).axes
    texts = [text.get_text() for text in axes.texts]
    assert texts[0] == f"zoom\nr +0.06   A {advantages[0][0]:+.1f}" and texts[1].startswith("text search")
    assert texts[2].startswith("answer") and texts[6].startswith("unreadable")
    assert texts[3].endswith(f"R {sum(rewards[0]):.2f}") and "no answer (format)" in texts[7]
    blue, orange = (axes.patches[i].get_facecolor() for i in (2, 5))
    assert blue[2] > blue[0] and orange[0] > orange[2]


def test_effects_stand_where_they_are_and_those_not_shown_are_grey():
    index = pd.MultiIndex.from_product([["no tools", "zoom only"], ["reward"]], names=["variant", "metric"])
    effects = pd.DataFrame({"value": [-0.2, 0.01], "low": [-0.3, -0.1], "high": [-0.1, 0.1]}, index)
    figure = training_plots.effects_figure(effects.assign(shown=[True, False]), ["reward"])
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
    curves = training_plots.LiveCurves(["loss"], every=2, title="SFT", total=10)
    for step in range(1, 6):
        curves({"step": step, "loss": 1 / step})
    assert [title.split(",")[0] for title in drawn] == ["SFT: step 2", "SFT: step 4"]
    assert all("s left" in title for title in drawn)
