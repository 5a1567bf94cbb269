"""Maps: where the answers are, where the photos were taken, and how far apart, as one HTML file each (folium, Leaflet).

A saved map needs no network: Leaflet, the countries' borders, the photos' thumbnails and all texts lie in the file;
`tiles="OpenStreetMap"` lays a street map under it. Everything a map shows travels as JSON that `page.js` turns into
text and shapes: nothing that a model or a web page wrote is ever read as HTML or script. folium's own plugins would put
each photo into each layer of each stage, as script and HTML; here layers share the photos and are drawn when wanted.

    map_ = error_map({"cold start": before, "RL": after}, photos=photos)
    save_map(map_, "outputs/maps/errors.html")
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import folium
import numpy as np
import pandas as pd
from branca.element import Element, MacroElement
from folium.template import Template
from PIL import Image
from tqdm import tqdm

from reverse_lib.evaluation import to_frame
from reverse_lib.geo import HALF_CIRCUMFERENCE_KM, accuracy_reward, haversine_km, towns
from reverse_lib.photos import Photo, PhotoError, data_url
from reverse_lib.show.countries import country_codes
from reverse_lib.show.story import narrate
from reverse_lib.show.style import (
    BAND_COLOURS,
    BAND_LABELS,
    PLAIN,
    RIGHT,
    SERIES,
    band,
    box_of,
    box_or_none,
    escaped,
)
from reverse_lib.trajectory import Trajectory

MAX_BYTES = 14_000_000  # of everything but libraries and borders, which take 0.7 MB
MANY = 400  # photos from which on the lines are off until a reader wants them
LARGE_CITY = 500_000  # inhabitants from which on the search box knows a city
LAYERS = {
    "photos": "Photos, where they were taken",
    "lines": "Lines to the answers",
    "answers": "Answers",
    "countries": "Median error by country",
    "heat": "Density of lost accuracy",
}
POSITIONS = {"lat": 90, "lon": 180, "pred_lat": 90, "pred_lon": 180}  # degrees at most
REWARDS = ("reward", "accuracy", "format", "look", "query", "trust")
STORY_WIDTHS = (180, 90, 45)  # characters of a line of a story; the first that fits is used
STORY_SHARE = 0.55  # of the bytes left for stories and pictures
STORY_KEY, PICTURE_KEYS = 10, 30  # bytes around a story, and around the text of a picture
SIZES = ((256, 68), (200, 62), (160, 55), (120, 48), (96, 40))  # of pictures: longer side in px, JPEG quality
SAMPLE = 16  # photos that are measured before a size is chosen
NOTE = 120  # characters of what is wrong with a photo
DRAWN_WITH = {"GF": "FR", "GP": "FR", "MQ": "FR", "RE": "FR", "YT": "FR", "BQ": "NL", "SJ": "NO"}  # country codes

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "data"
BORDERS_FILE, LIBRARIES = DATA / "countries.geojson", DATA / "leaflet"
HEAT_LIBRARY = Path(folium.__file__).parent / "templates" / "leaflet_heat.min.js"


def error_map(
    frames: pd.DataFrame | Mapping[str, pd.DataFrame],
    tiles: str | None = None,
    in_words: Callable[[str], str] = str,
    photos: Iterable[Photo] = (),
    shown: str | None = None,
) -> folium.Map:
    """Every photo of an evaluation where it was taken, coloured by the error of its answer, and much to switch on.

    Photos are clustered; a click on one shows its picture with the boxes, the answer, the trajectory in brief and the
    reward's parts, and the great circle to the answer. Layers: lines, answers, median error by country, density of
    lost accuracy (1 − accuracy reward). With several stages one is shown at a time. Rows whose search service
    failed are left out and counted in the legend. Stories are cut and thumbnails shrunk to keep the page small; where
    that is not enough, photos with small errors go without a thumbnail.

    Args:
        frames: A table with columns lat, lon, pred_lat and pred_lon in degrees, or stage name to table; of the other
            columns of `evaluation.evaluate` those that are there are shown. A table with a column `stage` is split.
        tiles: None for land and borders, which need no network, or a folium tile name such as "OpenStreetMap".
        in_words: Turns an agent's shorthand into words (`world.in_words` for the tiny agent).
        photos: The photos themselves, for thumbnails; those that are not in a table are ignored.
        shown: The stage that is shown first; None for the last one.

    Returns:
        The map; `save_map(map_, "map.html")` writes it.

    Raises:
        ValueError: No table, a missing column, an impossible coordinate, or a photo without known place.
    """
    stages = _stages(frames, shown)
    shown = list(stages)[-1] if shown is None else shown
    data = _tables(stages, photos, in_words)
    data |= {"first": list(stages).index(shown), "cities": _large_cities()}
    map_ = _new_map(tiles)
    choices = _layers(map_, {name: name for name in stages}, {shown}, overlay=False) if len(stages) > 1 else {}
    few = max(map(len, stages.values())) <= MANY
    layers = _layers(map_, LAYERS, {"photos", "lines"} if few else {"photos"})
    return _draw(map_, "drawErrors", data | {"layers": layers, "choices": list(choices.values())})


def answer_map(
    trajectories: Trajectory | Sequence[Trajectory],
    in_words: Callable[[str], str] = str,
    photos: Iterable[Photo] = (),
) -> folium.Map:
    """The answer to one photo, or to a few: the whole trajectory on a click, and the truth if it is known.

    Args:
        trajectories: One, whose card is open at once, or several for one map; those without an answer are left off.
        in_words: As in `error_map`.
        photos: The photos themselves, for thumbnails.
    """
    given = [trajectories] if isinstance(trajectories, Trajectory) else list(trajectories)
    answered = [trajectory for trajectory in given if trajectory.answer is not None]
    frame = to_frame(answered) if answered else pd.DataFrame(columns=list(POSITIONS))
    data = _tables({"answers": _checked("answers", frame)}, photos, in_words, brief=False)
    map_ = _new_map()
    layers = _layers(map_, {key: LAYERS[key] for key in ("lines", "photos", "answers")})
    return _draw(map_, "drawAnswers", data | {"layers": layers, "opened": len(given) == 1})


def twins_map(places: Sequence) -> folium.Map:
    """Places of a world (`world.Place`), and lines between those that bear the same name: what a name leaves open."""
    bearers: dict[str, list] = {}
    for place in places:
        bearers.setdefault(place.name, []).append(place)
    namesakes = [sorted(named, key=lambda place: place.lon) for named in sorted(bearers.values(), key=len)]
    groups = []
    for number, named in enumerate(namesakes):
        cards = []
        for place in named:
            others = [["also", other.country] for other in named if other != place]
            facts = [["people", f"{place.population:,}"], *others]
            title = f"{place.name}, {place.country}"
            cards.append({"at": [place.lat, place.lon], "title": title, "facts": facts})
        colour = SERIES[number % len(SERIES)] if len(named) > 1 else "#111111"
        groups.append({"colour": colour, "places": cards})
    map_ = _new_map()
    layers = _layers(map_, {"lines": "one name", "dots": "places"})
    return _draw(map_, "drawTwins", {"groups": groups, "layers": layers})


def save_map(map_: folium.Map, path: str | Path) -> Path:
    """Write a map as one HTML file, making its folder; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    map_.save(str(path))
    return path


# ---- tables of evaluations as JSON types


def _stages(frames: pd.DataFrame | Mapping[str, pd.DataFrame], shown: str | None) -> dict[str, pd.DataFrame]:
    """Stage name to table, each checked to be of photos with known places."""
    if isinstance(frames, pd.DataFrame):
        frames = dict(list(frames.groupby("stage", sort=False))) if "stage" in frames else {"": frames}
    stages = {str(name): _checked(str(name), frame) for name, frame in frames.items()}
    if not stages:
        raise ValueError("error_map: no table given; give one of evaluation.evaluate, or stage name to table")
    if shown is not None and shown not in stages:
        raise ValueError(f"error_map: no stage is called {shown!r}; choose one of {', '.join(map(repr, stages))}")
    for name, frame in stages.items():
        unknown = frame.loc[frame[["lat", "lon"]].isna().any(axis=1), "photo_id"]
        if len(unknown):
            raise ValueError(f"{name}: photo {unknown.iloc[0]!r} has no known latitude and longitude; leave it out")
    return stages


def _checked(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """A stage's table with numbers for positions, the error in km, and photo ids (row numbers where it has none).

    Raises:
        ValueError: A column is missing, or a coordinate is impossible.
    """
    missing = [column for column in POSITIONS if column not in frame]
    if missing:
        raise ValueError(f"{name}: the table has no column {missing[0]!r}; give a table of evaluation.evaluate")
    positions = frame[list(POSITIONS)].apply(pd.to_numeric).astype(float)
    ids = frame["photo_id"] if "photo_id" in frame else pd.Series(range(1, 1 + len(frame)), frame.index)
    for column, limit in POSITIONS.items():
        odd = positions[column].abs() > limit
        if odd.any():
            raise ValueError(
                f"{name}: photo {ids[odd].iloc[0]!r} has {column} {positions[column][odd].iloc[0]:g}, "
                f"expected degrees within ±{limit}; correct it or leave the photo out"
            )
    km = haversine_km(*(positions[column] for column in POSITIONS))  # (n,), NaN where an end is unknown
    return frame.assign(**positions, photo_id=ids.astype(str), km=km)


def _tables(
    frames: Mapping[str, pd.DataFrame],
    photos: Iterable[Photo],
    in_words: Callable[[str], str],
    brief: bool = True,
) -> dict:
    """Photos and stages as JSON types, their text no longer than MAX_BYTES.

    Args:
        frames: Stage name to a table of `_checked`.
        photos: For the pictures, by photo id.
        in_words: Turns an agent's shorthand into words.
        brief: Leave out of the stories what a search returned and most of what was thought.

    Returns:
        photos: id, place, at, regions, and image or note; stages: name, rows, countries, left_out, nowhere. A row has
        photo (index), km, band, to, says, boxes, lost (1 − accuracy reward), reward and story; what is unknown is left
        out. colours, labels, rewards and boxes are the same on every map.
    """
    numbers: dict[str, int] = {}  # photo id -> index
    on_page, stages, stories = [], [], []
    for name, frame in frames.items():
        served = frame[frame["end"] != "service_error"] if "end" in frame else frame
        rows = []
        for row in served.itertuples():
            if numbers.setdefault(row.photo_id, len(on_page)) == len(on_page):
                on_page.append(_photo(row))
            rows.append({"photo": numbers[row.photo_id]} | _row(row))
            stories.append(_story(getattr(row, "trajectory", None), in_words, brief))
        stages.append({"name": name, "rows": rows, "left_out": len(frame) - len(served)} | _by_country(served))
    all_rows = [row for stage in stages for row in stage["rows"]]
    left = MAX_BYTES - len(dumps([on_page, stages]).encode())
    for row, story in zip(all_rows, _cut(stories, left * STORY_SHARE), strict=True):
        row |= {"story": story} if story else {}
    left = MAX_BYTES - len(dumps([on_page, stages]).encode())
    error = {row["photo"]: row.get("km", math.inf) for row in all_rows}  # of the last stage
    given = {photo.photo_id: photo for photo in photos if photo.photo_id in numbers}
    wanted = sorted(given.values(), key=lambda photo: -error[numbers[photo.photo_id]])
    for photo_id, picture in thumbnails(wanted, left - PICTURE_KEYS * len(wanted)).items():
        on_page[numbers[photo_id]] |= picture
    style = {"colours": BAND_COLOURS, "labels": BAND_LABELS, "rewards": REWARDS, "boxes": [PLAIN, RIGHT]}
    return {"photos": on_page, "stages": stages} | style


def _photo(row) -> dict:
    """What all stages share about a photo."""
    trajectory = getattr(row, "trajectory", None)
    boxes = map(box_or_none, trajectory.regions if trajectory is not None else ())
    photo = {"id": row.photo_id, "place": "a place nobody told", "regions": [box for box in boxes if box]}
    if math.isfinite(row.lat + row.lon):
        photo["place"] = f"{_names(row, 'city', 'country')} ({row.lat:.2f}, {row.lon:.2f})".strip()
        photo["at"] = [round(row.lat, 4), round(row.lon, 4)]
    return photo


def _row(row) -> dict:
    """What a stage made of a photo."""
    trajectory = getattr(row, "trajectory", None)
    boxes = map(box_of, trajectory.turns() if trajectory is not None else ())
    record = {"boxes": [[number, *box] for number, box in enumerate(boxes, start=1) if box]}
    record["lost"] = round(1 - accuracy_reward(row.km), 3)
    if math.isfinite(row.pred_lat + row.pred_lon):
        position = f"{row.pred_lat:.2f}, {row.pred_lon:.2f}"
        record["says"] = ", ".join(filter(None, (_names(row, "pred_country", "pred_city"), position)))
        record["to"] = [round(row.pred_lat, 4), round(row.pred_lon, 4)]
    if math.isfinite(row.km):
        record |= {"km": round(row.km, 1), "band": band(row.km)}
    rewards = np.array([getattr(row, name, None) for name in REWARDS], float)
    return record | ({"reward": rewards.round(3).tolist()} if np.isfinite(rewards).all() else {})


def _names(row, *columns: str) -> str:
    names = (getattr(row, column, "") for column in columns)
    return ", ".join(name for name in names if isinstance(name, str) and name)


def _by_country(frame: pd.DataFrame) -> dict:
    """countries: code to [median km, share within 25 km, photos, band]; nowhere: photos in none that is drawn."""
    names = [_names(row, "country") for row in frame.itertuples()]
    codes = pd.Series(country_codes(names, frame["lat"], frame["lon"]), frame.index, str).replace(DRAWN_WITH)
    drawn = codes.isin(re.findall(r'"iso":"(\w\w)"', _borders()))
    km = frame["km"].fillna(HALF_CIRCUMFERENCE_KM)[drawn].groupby(codes[drawn])
    table = pd.DataFrame({"median": km.median(), "near": km.agg(lambda km: (km <= 25).mean()), "photos": km.size()})
    countries = {
        row.Index: [round(row.median, 1), round(row.near, 3), row.photos, band(row.median)]
        for row in table.itertuples()
    }
    return {"countries": countries, "nowhere": int((~drawn).sum())}


def _story(trajectory: Trajectory | None, in_words: Callable[[str], str], brief: bool) -> list[str]:
    """A trajectory as lines; in brief, the last line of each thought, the calls, what was trusted and the answer."""
    lines, thinking = [], False
    for line in narrate(trajectory, in_words) if trajectory is not None else ():
        depth = len(line) - len(line.lstrip())
        if not brief or depth <= 3:
            lines.append(line)
            thinking = depth == 0
        elif thinking:
            lines[-1] = f"{lines[-1].partition('thinks:')[0]}thinks: {line.strip()}"
    return lines


def _cut(stories: Sequence[list[str]], max_bytes: float) -> list[list[str]]:
    """The stories in the longest lines of STORY_WIDTHS that fit, all of them together; empty ones if none does."""
    for width in STORY_WIDTHS:
        cut = [[f"{line[: width - 1].rstrip()}…" if len(line) > width else line for line in story] for story in stories]
        if len(dumps(cut).encode()) + STORY_KEY * len(stories) <= max_bytes:
            return cut
    return [[] for _ in stories]


def thumbnails(photos: Sequence[Photo], max_bytes: int) -> dict[str, dict]:
    """Pictures of all photos in the best of SIZES that fits, or of the first ones if not even the smallest does.

    Args:
        photos: In the order of their importance.
        max_bytes: Of all pictures together.

    Returns:
        By photo id, image (a data URL) and ratio (width over height), or a note on what is wrong with the photo;
        photos for which there was no room are left out.
    """
    sample = photos[:: max(1, len(photos) // SAMPLE)]
    for size, quality in SIZES:
        measured = sum(len(_thumbnail(photo, size, quality).get("image", "")) for photo in sample)
        if 1.05 * measured * len(photos) <= max_bytes * len(sample):
            break
    pictures: dict[str, dict] = {}
    for photo in tqdm(photos, "thumbnails", unit="photo", delay=5):
        picture = _thumbnail(photo, size, quality)
        max_bytes -= len(picture.get("image", picture.get("note", "")))
        if max_bytes < 0:
            break
        pictures[photo.photo_id] = picture
    return pictures


def _thumbnail(photo: Photo, size: int, quality: int) -> dict:
    try:
        small = photo.load().copy()
    except PhotoError as error:
        return {"note": f"{error}"[:NOTE]}
    ratio = round(small.width / small.height, 3)
    small.thumbnail((size, size), Image.Resampling.LANCZOS)
    return {"image": data_url(small, quality=quality), "ratio": ratio}


@cache
def _large_cities() -> dict[str, list[float]]:
    """What the search box knows besides countries and photos: "City, Country" to [lat, lon] (GeoNames)."""
    table = towns(15_000).sort_values("population", kind="stable")
    large = table[table["population"] >= LARGE_CITY].itertuples()
    return {f"{town.name}, {town.country}": [round(town.lat, 2), round(town.lon, 2)] for town in large}


# ---- the page that a map lies in


class _Drawing(MacroElement):
    """A call of a function of `page.js` with the map and data, once the map's layers are there."""

    _template = Template("""{% macro script(this, kwargs) %}
        reverseMaps.{{ this.function }}({{ this._parent.get_name() }}, reverseMaps.read("{{ this.get_name() }}"));
    {% endmacro %}""")

    def __init__(self, map_: folium.Map, function: str, data: object):
        super().__init__()
        self.function = function
        _add_data(map_, self.get_name(), dumps(data))
        map_.add_child(self)


def _draw(map_: folium.Map, function: str, data: dict) -> folium.Map:
    """The map with a control of its layers, and with what a function of `page.js` makes of the data."""
    folium.LayerControl(collapsed=False).add_to(map_)
    _Drawing(map_, function, data)
    return map_


def _new_map(tiles: str | None = None) -> folium.Map:
    """An empty map that has all in its page that `page.js` needs."""
    options = {"minZoom": 1, "maxZoom": 12, "zoomSnap": 0.25}  # Leaflet's; folium's own go to a tile layer alone
    map_ = folium.Map((25, 10), zoom_start=2, tiles=None, prefer_canvas=True, **options)
    map_.default_js, map_.default_css = [], []
    if tiles is not None:
        folium.TileLayer(tiles, control=False).add_to(map_)
    map_.get_root().header.add_child(_verbatim(_libraries()))
    _add_data(map_, "borders", _borders())
    return map_


def _layers(map_: folium.Map, names: Mapping[str, str], on: Iterable[str] | None = None, overlay=True) -> dict:
    """Layers that a reader can switch, by key: what the script calls each. Those in `on` are on; all if it is None."""
    layers = {}
    for key, name in names.items():
        group = folium.FeatureGroup(escaped(name), overlay=overlay, show=on is None or key in on)
        layers[key] = group.add_to(map_).get_name()
    return layers


def dumps(data: object) -> str:
    """JSON that can stand inside a script element, whatever strings it holds; a lone surrogate becomes `?`."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text).encode("utf-8", "replace").decode()


def _add_data(map_: folium.Map, name: str, text: str) -> None:
    script = f'<script type="application/json" id="{name}">{text}</script>'
    map_.get_root().html.add_child(_verbatim(script), name=name)


def _verbatim(text: str) -> Element:
    """Text that goes into the page as it is; an `Element` of the text itself would be read as a template."""
    element = Element("{{ this.text }}")
    element.text = text
    return element


@cache
def _borders() -> str:
    return BORDERS_FILE.read_text(encoding="utf-8")


@cache
def _libraries() -> str:
    """Style sheets and scripts as elements of the page's head."""
    sheets = [LIBRARIES / "leaflet.css", LIBRARIES / "MarkerCluster.css", HERE / "page.css"]
    scripts = [LIBRARIES / "leaflet.js", LIBRARIES / "leaflet.markercluster.js", HEAT_LIBRARY, HERE / "page.js"]
    texts = [f"<style>{path.read_text(encoding='utf-8')}</style>" for path in sheets]
    return "\n".join(texts + [f"<script>{path.read_text(encoding='utf-8')}</script>" for path in scripts])
