"""Contact sheets and what an agent saw: the right pictures, boxes where they belong, impossible requests refused."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from reverse_lib.environment import TINY, show_zoom
from reverse_lib.show import contact_sheet, seen_pictures
from reverse_lib.show.pictures import DECOY, INFORMATIVE


def test_a_contact_sheet_draws_each_box_on_its_own_picture_in_pixels():
    pictures = [Image.new("RGB", size, colour) for size, colour in (((100, 50), "red"), ((200, 100), "blue"))]
    figure = contact_sheet(pictures, ["one", "two"], [[], [[100, 200, 600, 700]]], columns=3)
    one, two = figure.axes
    assert (one.get_title(loc="left"), two.get_title(loc="left")) == ("one", "two")
    assert (
        not one.patches and [patch.get_bbox().bounds for patch in two.patches] == [pytest.approx((20, 20, 100, 50))] * 2
    )
    assert tuple(two.images[0].get_array()[0, 0]) == (0, 0, 255)


def test_decoys_have_a_colour_of_their_own_and_a_legend_says_which():
    pictures = [Image.new("RGB", (100, 50))] * 2
    figure = contact_sheet(pictures, boxes=[[[0, 0, 500, 500]], []], decoys=[[], [[500, 0, 1000, 1000]]])
    drawn = [
        [(patch.get_bbox().bounds, to_hex(patch.get_edgecolor())) for patch in axes.patches] for axes in figure.axes
    ]
    assert drawn[0][1] == ((0, 0, 50, 25), INFORMATIVE.lower())
    assert drawn[1][1] == ((50, 0, 50, 50), DECOY.lower())
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["tells the place", "decoy"]
    assert [to_hex(patch.get_edgecolor()) for patch in legend.get_patches()] == [INFORMATIVE.lower(), DECOY.lower()]
    assert not contact_sheet(pictures, boxes=[[], []]).legends


def test_a_contact_sheet_leaves_unused_panels_blank():
    figure = contact_sheet([Image.new("RGB", (40, 30))] * 5, columns=4)
    assert len(figure.axes) == 8 and [len(axes.images) for axes in figure.axes] == [1] * 5 + [0] * 3
    assert not any(axes.axison for axes in figure.axes)
    assert figure.get_figwidth() == 12 and contact_sheet([Image.new("RGB", (40, 30))], columns=4).get_figwidth() == 3


def test_a_contact_sheet_of_nothing_or_with_titles_missing_is_refused():
    with pytest.raises(ValueError, match="1 titles for 2 pictures; give one each, or none"):
        contact_sheet([Image.new("RGB", (4, 3))] * 2, ["only one"])
    with pytest.raises(ValueError, match="for 0 pictures"):
        contact_sheet([])


def test_what_an_agent_saw_is_the_small_photo_and_its_zooms_cut_from_the_original(make_trajectory):
    photo = Image.effect_noise((640, 480), 80).convert("RGB")
    pictures, titles = seen_pictures(make_trajectory(), photo, TINY)
    assert [picture.size for picture in pictures] == [(256, 192), (448, 32)]
    assert titles == ["the photo, 256×192 px", "the zoom of turn 1, 448×32 px"]
    assert np.array_equal(np.asarray(pictures[1]), np.asarray(show_zoom(photo, [100, 200, 300, 400], TINY)))
