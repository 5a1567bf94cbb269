"""Answers for a user's own photos, as text, as rows for JSON and as a map; none of them finer than asked for.

A coarse answer is a country, or a country and a whole degree, for photos whose exact place is nobody's business. A
model may write a street where the country belongs, so a country is told only if it is one; otherwise it is the one in
which the answer lies. An answer at sea that names no country is no coarse answer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from reverse_lib.geo import SMALLEST_TOWN, Answer, towns, unit_vectors
from reverse_lib.show.countries import country_codes
from reverse_lib.show.story import narrate
from reverse_lib.trajectory import Step, Trajectory, format_turn

LEVELS = ("country", "region")


@dataclass(frozen=True)
class Answers:
    """What is told about photos.

    Attributes:
        trajectories: By the photo's path.
        in_words: Makes words of what the agent thinks.
        level: One of LEVELS, and then no trajectory is told, since queries name places; None tells all.
    """

    trajectories: Mapping[Path, Trajectory]
    in_words: Callable[[str], str] = str
    level: str | None = None

    def text(self) -> str:
        """A paragraph a photo: the answer, and how the agent got there."""
        lines = []
        for path, trajectory in self.trajectories.items():
            lines.append(f"\n{_name(path)}: {self._in_short(trajectory)}")
            lines += [] if self.level else [f"  {line}" for line in narrate(trajectory, self.in_words)]
        return "\n".join(lines)

    def rows(self) -> list[dict]:
        """A row a photo, in JSON types: photo, answer (country, city, lat, lon), end, trajectory.

        A coarse answer has no city, that of a country no position; either has no trajectory.
        """
        rows = []
        for path, trajectory in self.trajectories.items():
            answer = coarse(trajectory.answer, self.level) if self.level else trajectory.answer
            fields = answer and {"country": answer.country, "city": answer.city, "lat": answer.lat, "lon": answer.lon}
            if fields and self.level:
                fields |= {"city": None} | ({"lat": None, "lon": None} if self.level == "country" else {})
            story = None if self.level else trajectory.to_dict()
            rows.append({"photo": _name(path), "answer": fields, "end": trajectory.end, "trajectory": story})
        return rows

    def map(self):
        """A `folium.Map` with a dot an answer."""
        from reverse_lib.show.maps import answer_map

        shown = list(self.trajectories.values())
        if self.level:
            return answer_map([without_details(trajectory, self.level) for trajectory in shown])
        return answer_map(shown, in_words=self.in_words)

    def _in_short(self, trajectory: Trajectory) -> str:
        if trajectory.answer is None:
            return f"no readable answer (the rollout ended: {trajectory.end or 'unfinished'})"
        if not self.level:
            return trajectory.answer.text()
        answer = coarse(trajectory.answer, self.level)
        if answer is None:
            return "no country (the answer lies far from any town)"
        return answer.country + (f", near {answer.lat:.0f}, {answer.lon:.0f}" if self.level == "region" else "")


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
    codes = country_codes([answer.country], [answer.lat], [answer.lon]) if answer else []
    country = _country(codes[0]) if codes else None
    if country is None:
        return None
    name, lat, lon = country if level == "country" else (country[0], answer.lat, answer.lon)
    return Answer(name, "", float(round(lat)), float(round(lon)))


def without_details(trajectory: Trajectory, level: str) -> Trajectory:
    """A trajectory that holds the coarse answer, and nothing of what the agent wrote, asked or was shown."""
    answer = coarse(trajectory.answer, level)
    if answer is None:
        return Trajectory(trajectory.photo_id, end=trajectory.end)
    where = "the middle of the country's towns" if level == "country" else "the nearest whole degrees"
    turn = format_turn(f"Told by {level} only: the dot is {where}.", answer=answer)
    return Trajectory(trajectory.photo_id, [Step(turn)], end=trajectory.end)


@cache
def _country(code: str) -> tuple[str, float, float] | None:
    """A country's name and the middle of its towns as latitude and longitude in degrees; None where it has no town."""
    table = towns(SMALLEST_TOWN)
    places = table[table["code"] == code]
    if places.empty:
        return None
    x, y, z = unit_vectors(places["lat"], places["lon"]).mean(axis=0)
    lat, lon = np.degrees([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)]).tolist()
    return places["country"].iloc[0], lat, lon


def _name(path: Path) -> str:
    """A path as text, with "?" for bytes that are no UTF-8."""
    return str(path).encode("utf-8", "replace").decode()
