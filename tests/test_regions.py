import pytest

from reverse_lib.annotation import useful_regions
from reverse_lib.annotation.regions import Region, searched_boxes
from reverse_lib.environment import rollout
from reverse_lib.geo import box_iou
from reverse_lib.trajectory import TOOLS, Observation, Step, Trajectory
from reverse_lib.world import ScriptedTeacher

ZOOM, IMAGE, TEXT = TOOLS
SIGN, NEAR, SHOP = [100, 100, 200, 200], [110, 100, 210, 200], [600, 600, 900, 900]


def saw(tool, box=None, useful=(), status="ok", labelled=True, n=3):
    arguments = {"query": "q"} if tool == TEXT else {"bbox_2d": box}
    results = [{"title": str(i), "url": str(i), "useful": i in useful} for i in range(1, n + 1)] if tool != ZOOM else []
    return Observation(tool, arguments, status, "", results if status == "ok" else [], labelled=labelled)


def trajectory(*observations, photo_id="p"):
    return Trajectory(photo_id, [Step("", observation) for observation in (*observations, None)])


def test_evidence_is_credited_to_the_box_it_came_from():
    row = trajectory(
        saw(ZOOM, SIGN), saw(TEXT), saw(TEXT, useful=(2,)), saw(IMAGE, SHOP), saw(TEXT, useful=(1,)), saw(ZOOM, NEAR)
    )
    assert searched_boxes(row) == [(SIGN, True), (SHOP, True)]  # the last zoom was followed by nothing
    assert searched_boxes(trajectory(saw(TEXT, useful=(1,)))) == []


def test_overlapping_boxes_are_one_region_and_say_how_often_they_paid():
    rows = [
        trajectory(saw(IMAGE, SIGN, useful=(1,))),
        trajectory(saw(IMAGE, NEAR)),
        trajectory(saw(ZOOM, SIGN), saw(TEXT, useful=(1,))),
        trajectory(saw(IMAGE, SHOP)),
        trajectory(saw(IMAGE, SHOP, useful=(3,)), photo_id="other"),
    ]
    found = useful_regions(rows)
    assert found == {"p": [Region((103, 100, 203, 200), 3, 2)], "other": [Region((600, 600, 900, 900), 1, 1)]}
    assert [region.paid for region in useful_regions(rows, min_iou=1.0)["p"]] == [2]


def test_failed_calls_and_broken_boxes_are_no_tries():
    row = trajectory(saw(IMAGE, SIGN, status="service_error"), saw(IMAGE, "here", status="miss"), saw(ZOOM, [1, 2]))
    assert searched_boxes(row) == [] and useful_regions([row]) == {"p": []}


def test_searches_nobody_labelled_are_refused_by_photo():
    with pytest.raises(ValueError, match="photo p7: a search without labels"):
        useful_regions([trajectory(saw(IMAGE, SIGN, labelled=False), photo_id="p7")])


def test_in_the_miniature_world_the_regions_found_are_the_informative_ones(world):
    photos = world.photos("train", 60)
    found = useful_regions(rollout(ScriptedTeacher(world), photos, world.live))
    pairs = [
        (regions[0].bbox_2d, photo.regions[0])
        for photo in photos
        if (regions := found[photo.photo_id]) and photo.regions
    ]
    assert len(pairs) > 25 and sum(box_iou(a, b) > 0.4 for a, b in pairs) > 0.9 * len(pairs)
