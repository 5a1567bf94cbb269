"""Maps: great circles, escaping, and the saved page itself in a headless Chromium without a network."""

import contextlib
import functools
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest

from reverse_lib.evaluation import to_frame
from reverse_lib.geo import haversine_km
from reverse_lib.maps import answer_map, error_map, great_circle, save_map, twins_map
from reverse_lib.plots import BAND_COLOURS, band
from reverse_lib.world import Place

PLACES = {
    "near": ((48.8566, 2.3522), "Paris", "France", "France, Paris, 48.86, 2.35"),
    "region": ((48.2082, 16.3738), "Vienna", "Austria", "Austria, Graz, 47.07, 15.44"),
    "country": ((41.9028, 12.4964), "Rome", "Italy", "Italy, Milan, 45.46, 9.19"),
    "twin": ((39.4699, -0.3763), "Valencia", "Spain", "Venezuela, Valencia, 10.16, -68.00"),
    "dateline": ((-36.8485, 174.7633), "Auckland", "New Zealand", "United States, Honolulu, 21.31, -157.86"),
    "silent": ((35.6762, 139.6503), "Tokyo", "Japan", None),
}
PACKAGE_URL = re.compile(r"https://cdn\.jsdelivr\.net/npm/((?:@[\w.-]+/)?[\w.-]+)@([\w.]+)/(.+)")
JQUERY_URL = re.compile(r"https://code\.jquery\.com/jquery-([\d.]+)(\.min)?\.js")


@pytest.fixture
def frame(make_trajectory):
    return to_frame([make_trajectory(name, *place[:1], place[3], *place[1:3]) for name, place in PLACES.items()])


@functools.cache
def npm_package(name: str, version: str) -> Path:
    """A package of the npm registry, unpacked in a folder that later runs use again."""
    folder = Path(tempfile.gettempdir()) / "reverse_lib_npm" / f"{name.replace('/', '_')}-{version}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
            command = ["npm", "pack", f"{name}@{version}", "--silent"]
            subprocess.run(command, check=True, capture_output=True, timeout=120, cwd=fresh)
            with tarfile.open(next(Path(fresh).glob("*.tgz"))) as archive:
                archive.extractall(Path(fresh) / "whole", filter="data")
            with contextlib.suppress(OSError):  # another process was quicker
                (Path(fresh) / "whole").rename(folder)
    return folder / "package"


def answer_request(route) -> None:
    """Serve the page itself and files of npm packages; whatever else a page asks for is refused."""
    url = route.request.url
    package, jquery = PACKAGE_URL.fullmatch(url), JQUERY_URL.fullmatch(url)
    if url.startswith("file:"):
        route.continue_()
    elif package:
        route.fulfill(path=npm_package(package[1], package[2]) / package[3])
    elif jquery:
        route.fulfill(path=npm_package("jquery", jquery[1]) / f"dist/jquery{jquery[2] or ''}.js")
    else:
        route.abort()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    missing = [tool for tool in ("chromium", "npm") if not shutil.which(tool)]
    if missing:
        reason = f"{' and '.join(missing)} not installed; on Debian: apt-get install {' '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def open_map(browser, tmp_path):
    """A function: save a map, open it, wait until it is drawn; errors of the page are in `page.problems`."""
    pages = []

    def open_(map_):
        path = save_map(map_, tmp_path / "maps" / "map.html")
        page = browser.new_page(viewport={"width": 1100, "height": 700})
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.route("**/*", answer_request)
        page.goto(path.as_uri())
        page.wait_for_function(f"() => typeof {map_.get_name()} === 'object' && {map_.get_name()}._loaded")
        page.wait_for_timeout(400)
        pages.append(page)
        return page

    yield open_
    for page in pages:
        page.close()


def layer(map_, name: str) -> str:
    """The JavaScript name of a layer of the map."""
    return next(child.get_name() for child in map_._children.values() if getattr(child, "layer_name", None) == name)


def click_dot(page, map_, lat: float, lon: float) -> None:
    """A real click at the pixel where a position is drawn."""
    at = page.evaluate(f"() => {map_.get_name()}.latLngToContainerPoint([{lat}, {lon}])")
    page.mouse.click(at["x"], at["y"])


def test_the_saved_map_shows_every_prediction_and_every_truth(open_map, frame):
    map_ = error_map(frame)
    page = open_map(map_)
    count = "() => {}.getLayers().length"
    assert page.evaluate(count.replace("{}", layer(map_, "answers"))) == 5
    assert page.evaluate(count.replace("{}", layer(map_, "where photos were taken"))) == 6
    assert page.evaluate(count.replace("{}", layer(map_, "great circles"))) == 5
    bounds = f"{map_.get_name()}.getBounds()"
    dots = f"{layer(map_, 'answers')}.getLayers()"
    assert page.evaluate(f"() => {dots}.every(dot => {bounds}.contains(dot.getLatLng()))"), "some answer is out of view"
    assert page.problems == []


def test_a_click_on_an_answer_opens_its_popup_with_answer_truth_distance_and_story(open_map, frame):
    map_ = error_map(frame)
    page = open_map(map_)
    assert page.locator(".leaflet-popup").count() == 0
    click_dot(page, map_, 10.16, -68.00)
    popup = page.locator(".leaflet-popup-content")
    popup.wait_for(timeout=5000)
    text = popup.inner_text()
    km = float(haversine_km(39.4699, -0.3763, 10.16, -68.0))
    for part in (
        "Photo twin",
        f"{km:,.0f} km off",
        "Venezuela, Valencia, 10.16, -68.00",
        "Valencia, Spain (39.47, -0.38)",
    ):
        assert part in text
    assert "searches for “Paris France”" in text and "trusts: [2] Paris, France" in text
    if os.environ.get("MAP_SCREENSHOT"):
        page.wait_for_timeout(600)
        page.screenshot(path=os.environ["MAP_SCREENSHOT"])


def test_what_a_model_or_page_wrote_can_neither_run_as_script_nor_break_the_page(open_map, make_trajectory):
    evil = '</script><img src=x onerror="window.hacked=1">${window.hacked=1}`\'\\'
    trajectory = make_trajectory(evil, city=evil, country=evil)
    trajectory.steps[1].observation.results[0]["title"] = evil
    page = open_map(map_ := error_map(to_frame([trajectory])))
    click_dot(page, map_, 48.85, 2.35)
    popup = page.locator(".leaflet-popup-content")
    popup.wait_for(timeout=5000)
    assert page.evaluate("() => window.hacked") is None
    assert page.problems == []
    assert popup.locator("h4").inner_text() == f"Photo {evil}"
    assert f"[1] {evil}" in popup.inner_text()


def test_the_map_of_one_answer_opens_with_its_story(open_map, make_trajectory):
    map_ = answer_map(make_trajectory(truth=None), in_words=str.upper)
    page = open_map(map_)
    popup = page.locator(".leaflet-popup-content")
    popup.wait_for(timeout=5000)
    assert "a place nobody told" in popup.inner_text()
    assert "IT READS PARIS." in popup.inner_text()
    assert page.evaluate(f"() => {layer(map_, 'answers')}.getLayers().length") == 1
    assert page.evaluate(f"() => {layer(map_, 'great circles')}.getLayers().length") == 0
    assert page.problems == []


def test_a_map_of_photos_without_any_answer_still_opens(open_map, make_trajectory):
    map_ = answer_map([make_trajectory(answer=None)])
    assert open_map(map_).problems == []


def test_a_map_of_twins_joins_those_of_one_name_and_tells_who_else_bears_it(open_map):
    valencias = [
        ("Spain", 39.47, -0.38, 814_208),
        ("Venezuela", 10.16, -68.0, 1_385_083),
        ("Ecuador", -0.95, -79.35, 12),
    ]
    rows = [("Valencia", *row) for row in valencias] + [("Kyoto", "Japan", 35.01, 135.77, 1_459_640)]
    places = [
        Place(i, name, country, "", "", lat, lon, people, name)
        for i, (name, country, lat, lon, people) in enumerate(rows)
    ]
    map_ = twins_map(places)
    page = open_map(map_)
    assert page.evaluate(f"() => {layer(map_, 'places')}.getLayers().length") == 4
    assert page.evaluate(f"() => {layer(map_, 'one name')}.getLayers().length") == 2
    click_dot(page, map_, 10.16, -68.0)
    popup = page.locator(".leaflet-popup-content")
    popup.wait_for(timeout=5000)
    text = " ".join(popup.inner_text().split())
    assert "Valencia, Venezuela people 1,385,083 also Spain also Ecuador" in text
    assert page.problems == []


def test_the_legend_counts_answers_by_error_band(frame):
    page = error_map(frame).get_root().render()
    legend = re.search(r'<div class="legend">(.*?)</div></div>', page, re.DOTALL)[1]
    counts = dict(re.findall(r"</i>([^<]+)<span>(\d*)</span>", legend))
    assert counts["within 1 km"] == "1" and counts["25–200 km"] == "1" and counts["beyond 2,500 km"] == "2"
    assert counts["no readable answer"] == "1"


def test_each_line_has_the_colour_of_its_error_band(frame):
    page = error_map(frame).get_root().render()
    drawn = re.findall(r'L\.polyline\(.*?"color": "(#\w+)"', page, re.DOTALL)
    assert drawn == [BAND_COLOURS[band(km)] for km in frame["km"].dropna()]


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


def test_a_map_asks_only_for_leaflet_and_jquery(frame):
    page = error_map(frame).get_root().render()
    asked = re.findall(r'(?:src|href)="(https?://[^"]+)"', page)
    assert len(asked) == 3 and all("leaflet@" in url or "jquery" in url for url in asked)
