"""Answers for a user's own photos, as text, as rows for JSON and as a map; none of them finer than asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reverse_lib.show.coarse import coarse, in_short, without_details
from reverse_lib.show.story import narrate
from reverse_lib.trajectory import Trajectory


@dataclass(frozen=True)
class Told:
    """What is told about photos.

    Attributes:
        trajectories: By the photo's path.
        in_words: Makes words of what the agent thinks.
        level: One of `coarse.LEVELS`, and then no trajectory is told, since queries name places; None tells all.
    """

    trajectories: Mapping[Path, Trajectory]
    in_words: Callable[[str], str] = str
    level: str | None = None

    def text(self) -> str:
        """A paragraph a photo: the answer, and how the agent got there."""
        parts = []
        for path, trajectory in self.trajectories.items():
            story = [] if self.level else narrate(trajectory, self.in_words)
            parts += [f"\n{_name(path)}: {self._found(trajectory)}", *(f"  {line}" for line in story)]
        return "\n".join(parts)

    def rows(self) -> list[dict]:
        """A row a photo, in JSON types: photo, answer (country, city, lat, lon), end, trajectory.

        A coarse answer has no city, that of a country no position; either has no trajectory.
        """
        rows = []
        for path, trajectory in self.trajectories.items():
            answer = coarse(trajectory.answer, self.level) if self.level else trajectory.answer
            told = answer and {"country": answer.country, "city": answer.city, "lat": answer.lat, "lon": answer.lon}
            if told and self.level:
                told |= {"city": None} | (dict.fromkeys(("lat", "lon")) if self.level == "country" else {})
            story = None if self.level else trajectory.to_dict()
            rows.append({"photo": _name(path), "answer": told, "end": trajectory.end, "trajectory": story})
        return rows

    def map(self):
        """A `folium.Map` with a dot an answer."""
        from reverse_lib.show.maps.maps import answer_map

        shown = list(self.trajectories.values())
        if self.level:
            return answer_map([without_details(one, self.level) for one in shown])
        return answer_map(shown, in_words=self.in_words)

    def _found(self, trajectory: Trajectory) -> str:
        answer = trajectory.answer
        if answer is None:
            return f"no readable answer (the rollout ended: {trajectory.end or 'unfinished'})"
        if not self.level:
            return answer.text()
        rough = coarse(answer, self.level)
        return in_short(rough, self.level) if rough else "no country (the answer lies far from any town)"


def _name(path: Path) -> str:
    """A path as text, with "?" for bytes that are no UTF-8."""
    return str(path).encode("utf-8", "replace").decode()
