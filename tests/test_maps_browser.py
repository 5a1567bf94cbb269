"""Saved maps opened in a headless Chromium that may fetch nothing: what is drawn, what clicks show, what cannot run."""

import io
import re

import numpy as np
import pytest
from browsing import chromium, legend
from PIL import Image

from reverse_lib.evaluation import to_frame
from reverse_lib.geo import haversine_km
from reverse_lib.photos import Photo
from reverse_lib.show import answer_map, error_map, save_map, twins_map
from reverse_lib.show.maps import LAYERS
from reverse_lib.show.style import BAND_COLOURS
from reverse_lib.world.places import Place

PLACES = {
    "near": ((48.8566, 2.3522), "Paris", "France", "France, Paris, 48.86, 2.35"),
    "region": ((48.2082, 16.3738), "Vienna", "Austria", "Austria, Graz, 47.07, 15.44"),
    "country": ((41.9028, 12.4964), "Rome", "Italy", "Italy, Milan, 45.46, 9.19"),
    "twin": ((39.4699, -0.3763), "Valencia", "Spain", "Venezuela, Valencia, 10.16, -68.00"),
    "dateline": ((-36.8485, 174.7633), "Auckland", "New Zealand", "United States, Honolulu, 21.31, -157.86"),
    "silent": ((35.6762, 139.6503), "Tokyo", "Japan", None),
}


@pytest.fixture
def frame(make_trajectory):
    return to_frame([make_trajectory(name, *place[:1], place[3], *place[1:3]) for name, place in PLACES.items()])


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def open_map(browser, tmp_path):
    """A function: save a map and open it; its errors are in `page.problems`, what it asked for in `page.asked`."""
    pages = []

    def answer(page, route):
        url = route.request.url
        if url.startswith("file:"):
            return route.continue_()
        page.asked.append(url)
        return route.abort()

    def open_(map_, width=1200, height=800):
        path = save_map(map_, tmp_path / "maps" / "map.html")
        page = browser.new_page(viewport={"width": width, "height": height})
        page.problems, page.asked, page.bytes = [], [], path.stat().st_size
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.route(re.compile("^(?!data:)"), lambda route: answer(page, route))
        page.goto(path.as_uri())
        page.wait_for_function(f"() => typeof {map_.get_name()} === 'object' && {map_.get_name()}._loaded")
        frames(page)
        pages.append(page)
        return page

    yield open_
    for page in pages:
        page.close()


def png(image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def frames(page) -> None:
    """Wait until what was changed is drawn."""
    page.evaluate("() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")


def settle(page) -> None:
    """Wait until the opened card has not moved for twenty frames: the map pans to bring it into view."""
    page.evaluate(
        """() => new Promise((settled) => {
            let before = "", still = 0;
            const look = () => {
                const {x, y} = document.querySelector(".leaflet-popup").getBoundingClientRect();
                still = `${x},${y}` === before ? still + 1 : 0;
                before = `${x},${y}`;
                still < 20 ? requestAnimationFrame(look) : settled();
            };
            look();
        })"""
    )


def layer(map_, name: str) -> str:
    """The JavaScript name of a layer of the map."""
    return next(child.get_name() for child in map_._children.values() if getattr(child, "layer_name", None) == name)


def count(page, map_, key: str) -> int:
    """How many things a layer holds; a cluster counts the photos in it."""
    inner = "(one) => one.getLayers && one.getLayers().length > 1 && !one.feature ? one.getLayers().length : 1"
    return page.evaluate(f"() => {layer(map_, LAYERS[key])}.getLayers().map({inner}).reduce((a, b) => a + b, 0)")


def switch(page, name: str) -> None:
    """Click on a layer or stage in the control."""
    page.locator(".leaflet-control-layers label", has_text=re.compile(rf"^\s*{re.escape(name)}\s*$")).click()
    frames(page)


def click_at(page, map_, lat: float, lon: float, zoom: float | None = None) -> None:
    """A real click at the pixel where a position is drawn."""
    if zoom is not None:
        page.evaluate(f"() => {map_.get_name()}.setView([{lat}, {lon}], {zoom}, {{animate: false}}) && 0")
        frames(page)
    at = page.evaluate(f"() => {map_.get_name()}.latLngToContainerPoint([{lat}, {lon}])")
    page.mouse.click(at["x"], at["y"])


def card(page) -> str:
    page.locator(".leaflet-popup .card").wait_for(timeout=60_000)
    return " ".join(page.locator(".leaflet-popup .card").inner_text().split())


def test_a_map_shows_land_every_photo_and_every_line_without_a_network(open_map, frame):
    map_ = error_map(frame)
    page = open_map(map_)
    assert (count(page, map_, "photos"), count(page, map_, "lines")) == (6, 5)
    assert [count(page, map_, key) for key in ("answers", "countries", "heat")] == [0, 0, 0]
    bounds = f"{map_.get_name()}.getBounds()"
    points = [*zip(frame["lat"], frame["lon"], strict=True)] + [
        (row.pred_lat, row.pred_lon) for row in frame.itertuples() if row.parsed
    ]
    assert all(page.evaluate(f"() => {bounds}.contains([{lat}, {lon}])") for lat, lon in points)
    assert page.asked == [] and page.problems == []
    page.evaluate(
        f"() => {map_.get_name()}.setView([46.6, 2.5], 5, {{animate: false}}) && 0"
    )  # France, the sea west of it
    look = "([x, y]) => [...document.querySelector('.leaflet-land-pane canvas').getContext('2d')"
    scale = ".getImageData(x, y, 1, 1).data]"
    middle = page.evaluate("() => { const c = document.querySelector('.leaflet-land-pane canvas');"
                           " return [c.width / 2, c.height / 2] }")  # fmt: skip
    assert page.evaluate(look + scale, middle) == [0xE9, 0xEC, 0xEF, 255]
    assert page.evaluate(look + scale, [middle[0] - 400, middle[1]]) == [0, 0, 0, 0]


def test_lines_have_the_colours_of_their_error_bands_and_the_legend_counts_them(open_map, frame):
    map_ = error_map(frame)
    page = open_map(map_)
    lines = page.evaluate(f"() => {layer(map_, LAYERS['lines'])}.getLayers().map((line) => line.options.color)")
    assert lines == [BAND_COLOURS[i] for i in (0, 2, 3, 5, 5)]
    assert legend(page) == {
        "within 1 km": "1", "1–25 km": "0", "25–200 km": "1", "200–750 km": "1", "750–2,500 km": "0",
        "beyond 2,500 km": "2", "no readable answer": "1",
    }  # fmt: skip
    assert page.locator(".legend b").inner_text() == "6 photos"


def test_lines_follow_great_circles_and_are_cut_at_the_date_line(open_map, frame):
    page = open_map(error_map(frame))

    def ways(*ends):
        lines = page.evaluate("([a, b]) => reverseMaps.greatCircle(a, b)", ends)
        assert np.isfinite(np.concatenate(lines)).all()
        assert lines[0][0] == pytest.approx(ends[0]) and lines[-1][-1] == pytest.approx(ends[1])
        return lines

    (line,) = ways((40.64, -73.78), (55.97, 37.41))  # New York to Moscow
    lat, lon = np.array(line).T
    steps_km = haversine_km(lat[:-1], lon[:-1], lat[1:], lon[1:])
    assert steps_km.max() <= 301 and lat.max() > 64
    assert steps_km.sum() == pytest.approx(float(haversine_km(*line[0], *line[-1])), rel=1e-6)
    assert ways((48, 2), (45.76, 3)) == [[[48, 2], [45.76, 3]]]
    for a, b in (((-36.85, 174.76), (21.31, -157.86)), ((21.31, -157.86), (-36.85, 174.76)), ((0, 180), (0, -179))):
        first, second = ways(a, b)
        assert first[-1][1] == -second[0][1] == 180 * np.sign(a[1]) and first[-1][0] == second[0][0]
        lat, lon = np.array(first + second).T
        whole_km = haversine_km(lat[:-1], lon[:-1], lat[1:], lon[1:]).sum()
        assert whole_km == pytest.approx(float(haversine_km(*a, *b)), rel=1e-3)
    for a, b in (((10, 20), (10, 20)), ((0, 0), (0, 180)), ((90, 0), (-90, 0)), ((12, 34), (-12, -146))):
        ways(a, b)


def test_a_click_on_a_photo_shows_its_picture_boxes_answer_story_and_reward_in_full_view(open_map, frame):
    map_ = error_map(frame, photos=[Photo("twin", png(Image.new("RGB", (400, 300), "#3377aa")))])
    page = open_map(map_)
    assert page.locator(".leaflet-popup").count() == 0 and page.locator(".leaflet-popup img").count() == 0
    click_at(page, map_, 39.4699, -0.3763, zoom=7)
    text = card(page)
    km = float(haversine_km(39.4699, -0.3763, 10.16, -68.0))
    for part in (
        "Photo twin",
        f"{km:,.0f} km off",
        "answered Venezuela, Valencia, 10.16, -68.00",
        "taken in Valencia, Spain (39.47, -0.38)",
        "searches for “Paris France”",
        "trusts: [2] Paris, France",
        f"reward {frame.set_index('photo_id').loc['twin', 'reward']:.2f} accuracy 0.00 format 1.00 look 0.20",
    ):
        assert part in text
    page.wait_for_function("() => document.querySelector('.card img').naturalWidth === 256")
    settle(page)
    picture = page.locator(".card .frame").bounding_box()
    for kind in ("look", "region"):
        box = page.locator(f".card .box.{kind}").bounding_box()
        left, top = box["x"] - picture["x"], box["y"] - picture["y"]
        corners = np.array([[left, top], [left + box["width"], top + box["height"]]])
        assert corners / [picture["width"], picture["height"]] == pytest.approx(
            np.array([[0.1, 0.2], [0.3, 0.4]]), abs=0.01
        )
    assert page.locator(".card .box.look b").inner_text() == "1"
    popup, view = page.locator(".leaflet-popup").bounding_box(), page.viewport_size
    assert popup["x"] >= 0 and popup["y"] >= 0 and popup["x"] + popup["width"] <= view["width"]
    for control in (".legend", ".leaflet-control-layers"):
        other = page.locator(control).bounding_box()
        apart = popup["x"] + popup["width"] <= other["x"] or other["x"] + other["width"] <= popup["x"]
        assert apart or popup["y"] + popup["height"] <= other["y"] or other["y"] + other["height"] <= popup["y"]


def test_stages_are_shown_one_at_a_time_with_their_own_photos_lines_and_legend(open_map, frame):
    map_ = error_map({"<b>base</b>": frame.head(3), "RL": frame}, shown="<b>base</b>")
    page = open_map(map_)
    assert page.locator(".leaflet-control-layers-base").inner_text().split() == ["<b>base</b>", "RL"]
    assert page.locator(".legend b").inner_text() == "<b>base</b>: 3 photos" and count(page, map_, "photos") == 3
    switch(page, "RL")
    assert page.locator(".legend b").inner_text() == "RL: 6 photos" and legend(page)["beyond 2,500 km"] == "2"
    assert count(page, map_, "photos") == 6 and count(page, map_, "lines") == 5
    switch(page, "<b>base</b>")
    assert count(page, map_, "photos") == 3 and legend(page)["beyond 2,500 km"] == "0"
    assert page.problems == []


def test_photos_that_lie_close_together_are_one_ring_with_their_number_until_one_zooms_in(open_map, make_trajectory):
    rows = [make_trajectory(f"p{i}", (48.85 + 0.02 * i, 2.35), "France, Paris, 48.85, 2.35") for i in range(7)]
    map_ = error_map(to_frame(rows))
    page = open_map(map_)
    ring = page.locator(".donut")
    assert ring.inner_text() == "7" and ring.get_attribute("title") == "7 photos, 100 % within 25 km"
    shares = re.findall(r"([\d.]+)turn", ring.get_attribute("style"))
    assert float(shares[1]) == pytest.approx(1 / 7, abs=0.01)  # one photo within 1 km, six within 25 km
    ring.click()
    page.wait_for_function("() => ![...document.querySelectorAll('.donut')].some((one) => one.innerText === '7')")
    assert page.problems == []


def test_countries_have_the_colour_of_their_median_error_and_tell_it_with_the_number_of_photos(
    open_map, make_trajectory
):
    answers = ["Brazil, Campinas, -22.9, -47.06"] * 4 + ["Brazil, Natal, -5.8, -35.2", None]
    rows = [make_trajectory(f"p{i}", (-22.9, -43.2), text, "Rio", "Brazil") for i, text in enumerate(answers)]
    map_ = error_map(
        to_frame([*rows, make_trajectory("x", (-1.29, 36.8), "Kenya, Nairobi, -1.29, 36.82", "", "Kenya")])
    )
    page = open_map(map_)
    switch(page, LAYERS["photos"])
    switch(page, LAYERS["countries"])
    styles = page.evaluate(
        f"() => Object.fromEntries({layer(map_, LAYERS['countries'])}.getLayers()[0].getLayers()"
        ".map((shape) => [shape.feature.properties.name, [shape.options.fillColor, shape.options.fillOpacity]]))"
    )
    km = float(haversine_km(-22.9, -43.2, -22.9, -47.06))
    assert styles == {"Brazil": [BAND_COLOURS[3], 0.75], "Kenya": [BAND_COLOURS[1], 0.35]}  # one photo: pale
    assert {"no photos here", "fewer than 5: pale"} <= set(legend(page))
    at = page.evaluate(f"() => {map_.get_name()}.latLngToContainerPoint([-10, -52])")
    page.mouse.move(at["x"], at["y"])
    page.mouse.move(at["x"] + 2, at["y"])
    tip = page.locator(".leaflet-tooltip")
    tip.wait_for(timeout=60_000)
    assert tip.inner_text().split("\n") == ["Brazil", f"median error {km:,.0f} km", "0 % within 25 km", "n = 6 photos"]


def test_the_density_layer_is_dark_where_accuracy_was_lost_and_clear_elsewhere(open_map, make_trajectory):
    lost = [make_trajectory(f"l{i}", (40.0, -100.0), "France, Paris, 48.85, 2.35") for i in range(5)]
    good = [make_trajectory(f"g{i}", (48.85, 2.35), "France, Paris, 48.85, 2.35") for i in range(50)]
    map_ = error_map(to_frame(lost + good))
    page = open_map(map_)
    switch(page, LAYERS["heat"])
    opacity = (
        "([lat, lon]) => { const at = MAP.latLngToContainerPoint([lat, lon]);"
        " const canvas = document.querySelector('.leaflet-heatmap-layer');"
        " return canvas.getContext('2d').getImageData(at.x, at.y, 1, 1).data[3] }"
    ).replace("MAP", map_.get_name())
    page.wait_for_function("() => document.querySelector('.leaflet-heatmap-layer')?.width > 0")
    assert page.evaluate(opacity, [40.0, -100.0]) > 100 > page.evaluate(opacity, [48.85, 2.35]) == 0
    assert "accuracy lost" in legend(page) and page.problems == []


def test_the_search_box_finds_places_countries_and_photos_and_says_when_it_finds_none(open_map, frame):
    map_ = error_map(frame)
    page = open_map(map_)
    field, centre = page.locator(".search input"), f"() => Object.values({map_.get_name()}.getCenter())"

    def search(text):
        field.fill(text)
        field.press("Enter")
        return page.evaluate(centre)

    assert search("sao paulo") == pytest.approx([-23.55, -46.64], abs=0.1)  # a large city, São Paulo, Brazil
    assert page.locator(".leaflet-tooltip").inner_text() == "São Paulo, Brazil"
    assert search("Auckland, New Zealand") == pytest.approx([-36.85, 174.76], abs=0.1)
    assert search("Kenya") == pytest.approx([0.4, 37.9], abs=1)
    search("twin")
    assert card(page).startswith("Photo twin")
    before = page.evaluate(centre)
    assert search("Atlantis") == before
    assert field.evaluate("(field) => field.validationMessage").startswith("no place, country or photo")
    assert search("") == before and field.evaluate("(field) => field.validationMessage") == ""
    assert page.problems == []


def test_what_a_model_or_page_wrote_can_neither_run_as_script_nor_break_the_page(open_map, make_trajectory):
    evil = '</script><img src=x onerror="window.hacked=1">${window.hacked=1}{{ 7*7 }}{% raw %}`\'\\ \u2028'
    trajectory = make_trajectory(evil, city=evil, country=evil, answer=f"{evil.replace(',', '')}, {evil}, 48.85, 2.35")
    trajectory.steps[1].observation.results[1]["title"] = evil
    trajectory.steps[1].text = trajectory.steps[1].text.replace("It reads Paris.", evil.replace("</", "<"))
    trajectory.steps[1].text = trajectory.steps[1].text.replace("Paris France", "<svg onload='window.hacked=1'>")
    stages = {evil: to_frame([trajectory]), "other": to_frame([trajectory])}
    map_ = error_map(stages, shown=evil, photos=[Photo(evil, png(Image.new("RGB", (40, 30))))])
    page = open_map(map_)
    for name in LAYERS.values():
        if name not in (LAYERS["photos"], LAYERS["lines"]):
            switch(page, name)
    click_at(page, map_, 48.8566, 2.3522, zoom=6)
    text = card(page)
    said = " ".join(evil.split())
    assert f"Photo {said}" in text and f"[2] {said}" in text and f"stage {said}" in text
    assert "<svg onload='window.hacked=1'>" in text
    assert page.evaluate("() => window.hacked") is None
    assert page.locator("img[src='x'], svg[onload]").count() == 0
    assert page.problems == [] and page.asked == []


def test_three_thousand_photos_of_two_stages_open_with_all_layers_in_one_file_below_15_mb(open_map, make_trajectory):
    rng = np.random.default_rng(0)
    lat, lon = rng.uniform(-60, 70, 3000), rng.uniform(-180, 180, 3000)
    off = rng.choice([0, 0.1, 3, 40], 3000)
    long = make_trajectory()
    long.steps[0].text = long.steps[0].text.replace("A sign.", "A sign, and " + "much to say about it, " * 40)
    table = to_frame([long] * 3000).assign(
        photo_id=[f"{i:016x}" for i in range(3000)],
        country="",
        lat=lat,
        lon=lon,
        pred_lat=np.clip(lat - off, -90, 90),
        pred_lon=lon,
    )
    table["km"] = haversine_km(table["lat"], table["lon"], table["pred_lat"], table["pred_lon"])
    picture = png(Image.fromarray(rng.integers(0, 255, (96, 128, 3), dtype=np.uint8)))
    photos = [Photo(name, picture) for name in table["photo_id"]]
    map_ = error_map({"before": table.head(300), "after": table}, photos=photos)
    page = open_map(map_)
    assert 10_000_000 < page.bytes < 15_000_000
    assert page.locator(".legend b").inner_text() == "after: 3,000 photos" and count(page, map_, "photos") == 3000
    for key in ("lines", "answers", "countries", "heat"):
        assert count(page, map_, key) == 0
        switch(page, LAYERS[key])
    assert count(page, map_, "lines") == count(page, map_, "answers") == 3000
    assert count(page, map_, "heat") == 1 and page.locator(".leaflet-heatmap-layer").count() == 1
    assert page.evaluate(f"() => {layer(map_, LAYERS['countries'])}.getLayers()[0].getLayers().length") > 100
    assert page.problems == [] and page.asked == []


def test_a_street_map_is_fetched_only_if_asked_for_and_borders_show_where_it_cannot_be(open_map, frame):
    page = open_map(error_map(frame, tiles="OpenStreetMap"))
    page.wait_for_function("() => document.querySelector('.leaflet-tile-pane img')")
    assert page.asked and all("openstreetmap.org/" in url for url in page.asked)
    pixels = "canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data"
    drawn = page.locator(".leaflet-land-pane canvas").evaluate(f"(canvas) => {pixels}.filter(Boolean).length")
    assert drawn > 8000 and page.problems == []


def test_the_map_of_one_answer_opens_with_its_whole_story_in_view(open_map, make_trajectory):
    map_ = answer_map(make_trajectory(truth=None), in_words=str.upper)
    page = open_map(map_, 900, 560)
    text = card(page)
    assert "taken in a place nobody told" in text and "IT READS PARIS." in text and "[1] Paris, Texas" in text
    assert count(page, map_, "answers") == 1 and count(page, map_, "lines") == 0
    settle(page)
    assert page.locator(".leaflet-popup").bounding_box()["y"] >= 0
    assert page.problems == [] and page.asked == []


def test_a_map_of_several_answers_has_a_legend_and_one_of_none_still_opens(open_map, make_trajectory):
    several = [make_trajectory("a"), make_trajectory("b", (45.76, 4.84)), make_trajectory("c", answer=None)]
    page = open_map(answer_map(several))
    assert legend(page)["within 1 km"] == "1" and legend(page)["200–750 km"] == "1"
    assert page.locator(".leaflet-popup").count() == 0 and page.problems == []
    assert open_map(answer_map([make_trajectory(answer=None)])).problems == []


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
    click_at(page, map_, 10.16, -68.0)
    assert card(page) == "Valencia, Venezuela people 1,385,083 also Ecuador also Spain"
    assert page.problems == []
