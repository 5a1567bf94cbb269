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


@pytest.fixture
def open_map(tmp_path):
    """A function: save a map and open it. At the end no script has failed, and no page asked for anything unforeseen.

    The page has `js` (what its script calls the map), `layers` (and the layers, by name), `bytes` and `asked` (URLs).
    """
    pages = []

    def answer(page, route):
        if route.request.url.startswith("file:"):
            return route.continue_()
        page.asked.append(route.request.url)
        return route.abort()

    def open_(map_, width=1200, height=800):
        path = save_map(map_, tmp_path / "maps" / "map.html")
        page = chromium().new_page(viewport={"width": width, "height": height})
        pages.append(page)
        page.problems, page.asked, page.bytes, page.js = [], [], path.stat().st_size, map_.get_name()
        page.layers = {getattr(part, "layer_name", None): part.get_name() for part in map_._children.values()}
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.route(re.compile("^(?!data:)"), lambda route: answer(page, route))
        page.goto(path.as_uri())
        page.wait_for_function(f"() => typeof {page.js} === 'object' && {page.js}._loaded")
        frames(page)
        return page

    yield open_
    assert [page.problems + page.asked for page in pages] == [[]] * len(pages)
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


def count(page, key: str) -> int:
    """How many things a layer holds; a cluster counts the photos in it."""
    inner = "(one) => one.getLayers && one.getLayers().length > 1 && !one.feature ? one.getLayers().length : 1"
    layers = f"{page.layers[LAYERS.get(key, key)]}.getLayers()"
    return page.evaluate(f"() => {layers}.map({inner}).reduce((a, b) => a + b, 0)")


def switch(page, *names: str) -> None:
    """Click on layers or stages in the control."""
    for name in names:
        label = re.compile(rf"^\s*{re.escape(LAYERS.get(name, name))}\s*$")
        page.locator(".leaflet-control-layers label", has_text=label).click()
    frames(page)


def pixel(page, lat: float, lon: float) -> tuple[float, float]:
    """Where on the page a position is drawn."""
    at = page.evaluate(f"() => {page.js}.latLngToContainerPoint([{lat}, {lon}])")
    return at["x"], at["y"]


def move(page, lat: float, lon: float, zoom: float) -> None:
    page.evaluate(f"() => {page.js}.setView([{lat}, {lon}], {zoom}, {{animate: false}}) && 0")
    frames(page)


def card(page) -> str:
    page.locator(".leaflet-popup .card").wait_for(timeout=60_000)
    return " ".join(page.locator(".leaflet-popup .card").inner_text().split())


def test_a_map_shows_land_every_photo_and_every_line_in_the_colour_of_its_error(open_map, frame):
    page = open_map(error_map(frame))
    assert [count(page, key) for key in LAYERS] == [6, 5, 0, 0, 0]
    answers = frame.loc[frame["parsed"], ["pred_lat", "pred_lon"]]
    for at in [*frame[["lat", "lon"]].to_numpy().tolist(), *answers.to_numpy().tolist()]:
        assert page.evaluate(f"() => {page.js}.getBounds().contains({at})")
    lines = page.evaluate(f"() => {page.layers[LAYERS['lines']]}.getLayers().map((line) => line.options.color)")
    assert lines == [BAND_COLOURS[i] for i in (0, 2, 3, 5, 5)]
    assert legend(page) == {
        "within 1 km": "1", "1–25 km": "0", "25–200 km": "1", "200–750 km": "1", "750–2,500 km": "0",
        "beyond 2,500 km": "2", "no readable answer": "1",
    }  # fmt: skip
    assert page.locator(".legend b").inner_text() == "6 photos"
    move(page, 46.6, 2.5, 5)  # France, the sea west of it
    canvas = page.locator(".leaflet-land-pane canvas")
    look = (
        "(canvas, dx) => [...canvas.getContext('2d').getImageData(canvas.width / 2 - dx, canvas.height / 2, 1, 1).data]"
    )
    assert [canvas.evaluate(look, dx) for dx in (0, 400)] == [[0xE9, 0xEC, 0xEF, 255], [0, 0, 0, 0]]

    def ways(*ends):
        lines = page.evaluate("([a, b]) => reverseMaps.greatCircle(a, b)", ends)
        assert np.isfinite(np.concatenate(lines)).all()
        assert lines[0][0] == pytest.approx(ends[0]) and lines[-1][-1] == pytest.approx(ends[1])
        return lines

    def steps_km(points):
        lat, lon = np.array(points).T
        return haversine_km(lat[:-1], lon[:-1], lat[1:], lon[1:])

    (line,) = ways((40.64, -73.78), (55.97, 37.41))  # New York to Moscow
    assert steps_km(line).max() <= 301 and max(lat for lat, _ in line) > 64
    assert steps_km(line).sum() == pytest.approx(float(haversine_km(*line[0], *line[-1])), rel=1e-6)
    assert ways((48, 2), (45.76, 3)) == [[[48, 2], [45.76, 3]]]
    for a, b in (((-36.85, 174.76), (21.31, -157.86)), ((21.31, -157.86), (-36.85, 174.76)), ((0, 180), (0, -179))):
        first, second = ways(a, b)  # cut at the date line
        assert first[-1][1] == -second[0][1] == 180 * np.sign(a[1]) and first[-1][0] == second[0][0]
        assert steps_km(first + second).sum() == pytest.approx(float(haversine_km(*a, *b)), rel=1e-3)
    for a, b in (((10, 20), (10, 20)), ((0, 0), (0, 180)), ((90, 0), (-90, 0)), ((12, 34), (-12, -146))):
        ways(a, b)


def test_a_click_or_a_search_shows_a_photo_with_its_boxes_answer_story_and_reward_in_full_view(open_map, frame):
    page = open_map(error_map(frame, photos=[Photo("twin", png(Image.new("RGB", (400, 300), "#3377aa")))]))
    assert page.locator(".leaflet-popup").count() == 0
    move(page, 39.4699, -0.3763, 7)
    page.mouse.click(*pixel(page, 39.4699, -0.3763))
    text = card(page)
    for part in (
        "Photo twin",
        f"{float(haversine_km(39.4699, -0.3763, 10.16, -68.0)):,.0f} km off",
        "answered Venezuela, Valencia, 10.16, -68.00",
        "taken in Valencia, Spain (39.47, -0.38)",
        "searches for “Paris France”",
        "trusts: [2] Paris, France",
        f"reward {frame.set_index('photo_id').loc['twin', 'reward']:.2f} accuracy 0.00 format 1.00 look 0.20",
    ):
        assert part in text
    page.wait_for_function("() => document.querySelector('.card img').naturalWidth === 256")
    settle(page)
    boxes = {kind: page.locator(f".card .{kind}").bounding_box() for kind in ("frame", "box.look", "box.region")}
    around = boxes.pop("frame")
    for box in boxes.values():
        left, top = (box["x"] - around["x"]) / around["width"], (box["y"] - around["y"]) / around["height"]
        size = box["width"] / around["width"], box["height"] / around["height"]
        assert (left, top, *size) == pytest.approx((0.1, 0.2, 0.2, 0.2), abs=0.01)
    assert page.locator(".card .box.look b").inner_text() == "1"
    popup, view = page.locator(".leaflet-popup").bounding_box(), page.viewport_size
    assert popup["x"] >= 0 and popup["y"] >= 0 and popup["x"] + popup["width"] <= view["width"]
    for control in (".legend", ".leaflet-control-layers"):
        other = page.locator(control).bounding_box()
        apart = popup["x"] + popup["width"] <= other["x"] or other["x"] + other["width"] <= popup["x"]
        assert apart or popup["y"] + popup["height"] <= other["y"] or other["y"] + other["height"] <= popup["y"]

    field = page.locator(".search input")

    def search(text):
        field.fill(text)
        field.press("Enter")
        return page.evaluate(f"() => Object.values({page.js}.getCenter())")

    assert search("sao paulo") == pytest.approx([-23.55, -46.64], abs=0.1)  # a large city, São Paulo, Brazil
    assert page.locator(".leaflet-tooltip").inner_text() == "São Paulo, Brazil"
    assert search("Auckland, New Zealand") == pytest.approx([-36.85, 174.76], abs=0.1)
    assert search("Kenya") == pytest.approx([0.4, 37.9], abs=1)
    search("near")
    page.locator(".card", has_text="Photo near").wait_for()
    settle(page)
    before = page.evaluate(f"() => Object.values({page.js}.getCenter())")
    assert search("Atlantis") == before
    assert field.evaluate("(field) => field.validationMessage").startswith("no place, country or photo")
    assert search("") == before and field.evaluate("(field) => field.validationMessage") == ""


def test_stages_are_shown_one_at_a_time_with_their_own_photos_lines_and_legend(open_map, frame):
    page = open_map(error_map({"<b>base</b>": frame.head(3), "RL": frame}, shown="<b>base</b>"))
    assert page.locator(".leaflet-control-layers-base").inner_text().split() == ["<b>base</b>", "RL"]
    for stage, photos, lines, far in (("<b>base</b>", 3, 3, "0"), ("RL", 6, 5, "2"), ("<b>base</b>", 3, 3, "0")):
        switch(page, stage)
        assert page.locator(".legend b").inner_text() == f"{stage}: {photos} photos"
        assert (count(page, "photos"), count(page, "lines")) == (photos, lines)
        assert legend(page)["beyond 2,500 km"] == far


def test_rings_countries_and_density_tell_how_far_off_the_answers_of_a_region_are(open_map, make_trajectory):
    answers = ["Brazil, Campinas, -22.9, -47.06"] * 4 + ["Brazil, Natal, -5.8, -35.2", None]
    rows = [make_trajectory(f"b{i}", (-22.9, -43.2), text, "Rio", "Brazil") for i, text in enumerate(answers)]
    rows += [make_trajectory("k", (-1.29, 36.8), "Kenya, Nairobi, -1.29, 36.82", "", "Kenya")]
    rows += [make_trajectory(f"f{i}", (48.85 + 0.02 * i, 2.35), "France, Paris, 48.85, 2.35") for i in range(7)]
    rows += [make_trajectory(f"l{i}", (40.0, -100.0), country="United States") for i in range(5)]
    rows += [make_trajectory(f"g{i}", (64.0, 100.0), "Russia, Tura, 64.0, 100.0", "", "Russia") for i in range(20)]
    page = open_map(error_map(to_frame(rows)))
    ring = page.locator(".donut", has_text=re.compile("^7$"))
    assert ring.get_attribute("title") == "7 photos, 100 % within 25 km"
    shares = re.findall(r"([\d.]+)turn", ring.get_attribute("style"))
    assert float(shares[1]) == pytest.approx(1 / 7, abs=0.01)  # one photo within 1 km, six within 25 km
    ring.click()
    ring.wait_for(state="detached")

    move(page, 20, 0, 2)
    switch(page, "photos", "lines", "heat")
    page.wait_for_function("() => document.querySelector('.leaflet-heatmap-layer')?.width > 0")
    look = "(canvas, [x, y]) => canvas.getContext('2d').getImageData(x, y, 1, 1).data[3]"
    heat = page.locator(".leaflet-heatmap-layer")
    lost, good = (heat.evaluate(look, pixel(page, *at)) for at in ((40.0, -100.0), (64.0, 100.0)))
    assert lost > 100 > good == 0 and "accuracy lost" in legend(page)

    switch(page, "heat", "countries")
    styles = page.evaluate(
        f"() => Object.fromEntries({page.layers[LAYERS['countries']]}.getLayers()[0].getLayers()"
        ".map((shape) => [shape.feature.properties.name, [shape.options.fillColor, shape.options.fillOpacity]]))"
    )
    bands = {"Brazil": 3, "Kenya": 1, "France": 1, "Russia": 0, "United States": 5}
    pale = {"Kenya"}  # one photo
    assert styles == {name: [BAND_COLOURS[i], 0.35 if name in pale else 0.75] for name, i in bands.items()}
    assert {"no photos here", "fewer than 5: pale"} <= set(legend(page))
    x, y = pixel(page, -10, -52)
    page.mouse.move(x, y)
    page.mouse.move(x + 2, y)
    tip = page.locator(".leaflet-tooltip")
    tip.wait_for(timeout=60_000)
    median = f"median error {float(haversine_km(-22.9, -43.2, -22.9, -47.06)):,.0f} km"
    assert tip.inner_text().split("\n") == ["Brazil", median, "0 % within 25 km", "n = 6 photos"]


def test_what_a_model_or_page_wrote_can_neither_run_as_script_nor_break_the_page(open_map, make_trajectory):
    evil = '</script><img src=x onerror="window.hacked=1">${window.hacked=1}{{ 7*7 }}{% raw %}`\'\\ \u2028'
    trajectory = make_trajectory(evil, city=evil, country=evil, answer=f"{evil.replace(',', '')}, {evil}, 48.85, 2.35")
    trajectory.steps[1].observation.results[1]["title"] = evil
    trajectory.steps[1].text = trajectory.steps[1].text.replace("It reads Paris.", evil.replace("</", "<"))
    trajectory.steps[1].text = trajectory.steps[1].text.replace("Paris France", "<svg onload='window.hacked=1'>")
    stages = {evil: to_frame([trajectory]), "other": to_frame([trajectory])}
    page = open_map(error_map(stages, shown=evil, photos=[Photo(evil, png(Image.new("RGB", (40, 30))))]))
    switch(page, "answers", "countries", "heat")
    move(page, 48.8566, 2.3522, 6)
    page.mouse.click(*pixel(page, 48.8566, 2.3522))
    text, said = card(page), " ".join(evil.split())
    assert f"Photo {said}" in text and f"[2] {said}" in text and f"stage {said}" in text
    assert "<svg onload='window.hacked=1'>" in text
    assert page.evaluate("() => window.hacked") is None
    assert page.locator("img[src='x'], svg[onload]").count() == 0


def test_three_thousand_photos_of_two_stages_open_with_all_layers_in_one_file_below_15_mb(open_map, make_trajectory):
    rng = np.random.default_rng(0)
    lat, lon = rng.uniform(-60, 70, 3000), rng.uniform(-180, 180, 3000)
    off = rng.choice([0, 0.1, 3, 40], 3000)
    long = make_trajectory()
    long.steps[0].text = long.steps[0].text.replace("A sign.", "A sign, and " + "much to say about it, " * 40)
    places = {"lat": lat, "lon": lon, "pred_lat": np.clip(lat - off, -90, 90), "pred_lon": lon, "country": ""}
    table = to_frame([long]).loc[[0] * 3000].assign(photo_id=[f"{i:016x}" for i in range(3000)], **places)
    picture = png(Image.fromarray(rng.integers(0, 255, (96, 128, 3), dtype=np.uint8)))
    photos = [Photo(name, picture) for name in table["photo_id"]]
    page = open_map(error_map({"before": table.head(300), "after": table}, photos=photos))
    assert 10_000_000 < page.bytes < 15_000_000
    assert page.locator(".legend b").inner_text() == "after: 3,000 photos"
    assert [count(page, key) for key in LAYERS] == [3000, 0, 0, 0, 0]
    switch(page, "lines", "answers", "countries", "heat")
    assert [count(page, key) for key in ("lines", "answers", "heat")] == [3000, 3000, 1]
    assert page.locator(".leaflet-heatmap-layer").count() == 1
    assert page.evaluate(f"() => {page.layers[LAYERS['countries']]}.getLayers()[0].getLayers().length") > 100


def test_a_street_map_is_fetched_only_if_asked_for_and_borders_show_where_it_cannot_be(open_map, frame):
    page = open_map(error_map(frame, tiles="OpenStreetMap"))
    page.wait_for_function("() => document.querySelector('.leaflet-tile-pane img')")
    assert page.asked and all("openstreetmap.org/" in url for url in page.asked)
    pixels = "canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data"
    drawn = page.locator(".leaflet-land-pane canvas").evaluate(f"(canvas) => {pixels}.filter(Boolean).length")
    assert drawn > 8000
    page.asked.clear()


def test_the_map_of_one_answer_opens_with_its_story_in_view_that_of_several_with_a_legend(open_map, make_trajectory):
    page = open_map(answer_map(make_trajectory(truth=None), in_words=str.upper), 900, 560)
    text = card(page)
    assert "taken in a place nobody told" in text and "IT READS PARIS." in text and "[1] Paris, Texas" in text
    assert count(page, "answers") == 1 and count(page, "lines") == 0
    settle(page)
    assert page.locator(".leaflet-popup").bounding_box()["y"] >= 0
    several = [make_trajectory("a"), make_trajectory("b", (45.76, 4.84)), make_trajectory("c", answer=None)]
    page = open_map(answer_map(several))
    assert legend(page)["within 1 km"] == "1" and legend(page)["200–750 km"] == "1"
    assert page.locator(".leaflet-popup").count() == 0
    open_map(answer_map([make_trajectory(answer=None)]))


def test_a_map_of_twins_joins_those_of_one_name_and_tells_who_else_bears_it(open_map):
    bearers = {"Spain": (39.47, -0.38, 814_208), "Venezuela": (10.16, -68.0, 1_385_083), "Ecuador": (-0.95, -79.35, 12)}
    rows = [("Valencia", country, *rest) for country, rest in bearers.items()]
    rows += [("Kyoto", "Japan", 35.01, 135.77, 1_459_640)]
    page = open_map(twins_map([Place(i, row[0], row[1], "", "", *row[2:], row[0]) for i, row in enumerate(rows)]))
    assert (count(page, "places"), count(page, "one name")) == (4, 2)
    page.mouse.click(*pixel(page, 10.16, -68.0))
    assert card(page) == "Valencia, Venezuela people 1,385,083 also Ecuador also Spain"
