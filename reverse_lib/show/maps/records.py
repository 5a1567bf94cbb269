"""What a map of errors shows, as plain tables: photos, and what each stage made of them, small enough for one page."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from reverse_lib.geo import HALF_CIRCUMFERENCE_KM, accuracy_reward, haversine_km
from reverse_lib.photos import Photo
from reverse_lib.show.maps.borders import border_of, borders
from reverse_lib.show.maps.great_circles import great_circle
from reverse_lib.show.maps.page import dumps
from reverse_lib.show.maps.thumbnails import thumbnails
from reverse_lib.show.plots import band
from reverse_lib.show.story import narrate
from reverse_lib.trajectory import Trajectory

COLUMNS = ("photo_id", "lat", "lon", "pred_lat", "pred_lon", "km", "parsed")
REWARDS = ("reward", "accuracy", "format", "look", "query", "trust")
STORY_WIDTHS = (180, 90, 45, 0)  # characters of a line of a story; the first that fits is used
STORY_SHARE = 0.55  # of the bytes left for stories and pictures
STORY_KEY, PICTURE_KEYS = 10, 30  # bytes around a story, and around the text of a picture
BEND_KM = 300  # a great circle is drawn with a point at least this often


def tables(
    frames: Mapping[str, pd.DataFrame],
    photos: Iterable[Photo] = (),
    in_words: Callable[[str], str] = str,
    max_bytes: int = 10**9,
    progress: Callable[[int], object] | None = None,
    brief: bool = True,
) -> dict:
    """Photos and stages as JSON types.

    Args:
        frames: Stage name to a table of `evaluation.evaluate`.
        photos: For the pictures, by photo id.
        in_words: Turns an agent's shorthand into words.
        max_bytes: Of the JSON text; stories are shortened and pictures made small to stay below it.
        progress: Called with 1 after each picture.
        brief: Leave out of the stories what a search returned and most of what was thought.

    Returns:
        photos: id, at, place, regions, and image or note; stages: name, rows, countries, left_out, nowhere. A row has
        photo (index), km, band, to, way, says, boxes, lost (1 − accuracy reward), reward and story; what is unknown is
        left out.
    """
    index: dict[str, int] = {}
    known, stages, stories = [], [], []
    for name, frame in frames.items():
        served = frame[frame["end"] != "service_error"] if "end" in frame else frame
        rows = []
        for row in served.itertuples():
            if index.setdefault(str(row.photo_id), len(known)) == len(known):
                known.append(_photo(row))
            rows.append(_row(row, index[str(row.photo_id)]))
            stories.append(_story(getattr(row, "trajectory", None), in_words, brief))
        stages.append({"name": name, "rows": rows, "left_out": len(frame) - len(served), **_by_country(served)})
    left = max_bytes - len(dumps([known, stages]).encode())
    left -= _tell([row for stage in stages for row in stage["rows"]], stories, left * STORY_SHARE)
    _add_pictures(known, stages, photos, left, progress)
    return {"photos": known, "stages": stages}


def check(name: str, frame: pd.DataFrame) -> None:
    """Raises a ValueError that names the stage if a column is missing or a coordinate impossible."""
    missing = [column for column in COLUMNS if column not in frame]
    if missing:
        raise ValueError(f"{name}: the table has no column {missing[0]!r}; give a table of evaluation.evaluate")
    for lat, lon in (("lat", "lon"), ("pred_lat", "pred_lon")):
        for column, limit in ((lat, 90), (lon, 180)):
            values = pd.to_numeric(frame[column]).to_numpy(float)
            odd = np.flatnonzero(np.abs(values) > limit)
            if len(odd):
                photo_id = frame["photo_id"].iloc[odd[0]]
                raise ValueError(
                    f"{name}: photo {photo_id!r} has {column} {values[odd[0]]:g}, expected degrees within ±{limit}; "
                    "correct it or leave the photo out"
                )


def _photo(row) -> dict:
    """What all stages share about a photo."""
    trajectory = getattr(row, "trajectory", None)
    boxes = [_box(region) for region in trajectory.regions] if trajectory is not None else []
    photo = {"id": str(row.photo_id), "place": "a place nobody told", "regions": [box for box in boxes if box]}
    if _known(row.lat, row.lon):
        names = ", ".join(filter(None, (_text(row, "city"), _text(row, "country"))))
        photo["place"] = f"{names} ({row.lat:.2f}, {row.lon:.2f})".strip()
        photo["at"] = [round(float(row.lat), 4), round(float(row.lon), 4)]
    return photo


def _row(row, photo: int) -> dict:
    lost = 1 - accuracy_reward(row.km)
    record: dict = {"photo": photo, "boxes": _boxes(getattr(row, "trajectory", None)), "lost": round(lost, 3)}
    if row.parsed and _known(row.pred_lat, row.pred_lon):
        names = filter(None, (_text(row, column) for column in ("pred_country", "pred_city")))
        record["to"] = [round(float(row.pred_lat), 4), round(float(row.pred_lon), 4)]
        record["says"] = ", ".join([*names, f"{row.pred_lat:.2f}", f"{row.pred_lon:.2f}"])
        if math.isfinite(row.km):
            record |= {"km": round(float(row.km), 1), "band": band(row.km)}
            record |= _way(row.lat, row.lon, row.pred_lat, row.pred_lon)
    values = [getattr(row, name, math.nan) for name in REWARDS]
    if all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        record["reward"] = [round(float(value), 3) for value in values]
    return record


def _way(lat1: float, lon1: float, lat2: float, lon2: float) -> dict:
    """The bends of a great circle without its ends, flat lists [lat, lon, lat, …]; nothing where it looks straight."""
    points = 1 + math.ceil(float(haversine_km(lat1, lon1, lat2, lon2)) / BEND_KM)
    lines = great_circle(lat1, lon1, lat2, lon2, max(2, points))
    if len(lines) == 1 and points <= 2:
        return {}
    lines[0], lines[-1] = lines[0][1:], lines[-1][:-1] if len(lines) > 1 else lines[0][1:-1]
    return {"way": [[round(value, 2) for point in line for value in point] for line in lines]}


def _known(lat, lon) -> bool:
    return lat is not None and lon is not None and math.isfinite(lat) and math.isfinite(lon)


def _text(row, column: str) -> str:
    value = getattr(row, column, "")
    return value if isinstance(value, str) else ""


def _boxes(trajectory: Trajectory | None) -> list[list[int]]:
    """[turn, x1, y1, x2, y2] of each turn that looked at a region."""
    calls = [turn.tool_call for turn in trajectory.turns()] if trajectory is not None else []
    found = [(number, _box(call.arguments.get("bbox_2d"))) for number, call in enumerate(calls, start=1) if call]
    return [[number, *box] for number, box in found if box]


def _box(value: object) -> list[int] | None:
    """A box of four finite numbers clipped to 0..1000, None for whatever else a model wrote."""
    if not isinstance(value, list | tuple) or len(value) != 4:
        return None
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in value):
        return None
    x1, y1, x2, y2 = (round(min(max(v, 0), 1000)) for v in value)
    return [x1, y1, x2, y2] if x1 < x2 and y1 < y2 else None


def _by_country(frame: pd.DataFrame) -> dict:
    """countries: index of `borders` to [name, median km, share within 25 km, photos, band]; nowhere: photos in none."""
    placed = frame[frame["lat"].notna() & frame["lon"].notna()]
    names = [_text(row, "country") for row in placed.itertuples()]
    of = border_of(names, placed["lat"].astype(float), placed["lon"].astype(float))
    km = placed["km"].astype(float).fillna(HALF_CIRCUMFERENCE_KM).to_numpy()
    countries = {}
    for country in sorted({one for one in of if one is not None}):
        own = km[[one == country for one in of]]
        median = float(np.median(own))
        near = round(float(np.mean(own <= 25)), 3)
        countries[country] = [borders()[country].name, round(median, 1), near, len(own), band(median)]
    return {"countries": countries, "nowhere": of.count(None)}


def _story(trajectory: Trajectory | None, in_words: Callable[[str], str], brief: bool) -> list[str]:
    """A trajectory as lines; in brief, the last line of each thought, the calls, what was trusted and the answer."""
    if trajectory is None:
        return []
    lines, thinking = [], False
    for line in narrate(trajectory, in_words):
        depth = len(line) - len(line.lstrip())
        if not brief or depth <= 3:
            lines.append(line)
            thinking = depth == 0
        elif thinking:
            head = lines[-1].partition("thinks:")[0]
            lines[-1] = f"{head}thinks: {line.strip()}"
    return lines


def _tell(rows: Sequence[dict], stories: Sequence[list[str]], max_bytes: float) -> int:
    """Puts the stories into the rows, in lines as long as the bytes allow; returns the bytes they take."""
    for width in STORY_WIDTHS:
        cut = [[_shorten(line, width) for line in story] if width else [] for story in stories]
        size = len(dumps(cut).encode()) + STORY_KEY * len(rows)
        if size <= max_bytes or not width:
            break
    for row, story in zip(rows, cut, strict=True):
        if story:
            row["story"] = story
    return size


def _shorten(line: str, width: int) -> str:
    return line if len(line) <= width else f"{line[: width - 1].rstrip()}…"


def _add_pictures(known: list[dict], stages: list[dict], photos: Iterable[Photo], left: int, progress) -> None:
    """Gives photos a picture or a note why there is none, those with the largest errors of the last stage first."""
    given = {photo.photo_id: photo for photo in photos}
    error = {row["photo"]: row.get("km", math.inf) for stage in stages for row in stage["rows"]}
    order = sorted(range(len(known)), key=lambda i: -error[i])
    wanted = [given[known[i]["id"]] for i in order if known[i]["id"] in given]
    found = thumbnails(wanted, left - PICTURE_KEYS * len(wanted), progress) if wanted else {}
    for photo in known:
        photo |= found.get(photo["id"], {})
