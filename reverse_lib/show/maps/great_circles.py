"""Great circles: the shortest way over the globe between two places, as lines that a flat map can draw."""

import numpy as np


def great_circle(
    lat1: float, lon1: float, lat2: float, lon2: float, points: int = 48
) -> list[list[tuple[float, float]]]:
    """The shortest way over the globe as one line, or as two where it crosses the date line.

    Args:
        lat1, lon1, lat2, lon2: Degrees.
        points: On the way, both ends included.

    Returns:
        Lines of (lat, lon) in degrees, longitudes in -180..180.
    """
    ends = np.radians([[lat1, lon1], [lat2, lon2]])
    lat, lon = ends[:, 0], ends[:, 1]
    a, b = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)  # unit vectors (3,)
    angle = np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)
    t = np.linspace(0, 1, points)[:, None]
    if np.sin(angle) < 1e-9:  # the same place, or antipodes, between which every way is as short
        way = (1 - t) * a + t * b if angle < 1 else np.cos(t * np.pi) * a + np.sin(t * np.pi) * _across(a)
    else:
        way = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)  # (points, 3)
    lats = np.degrees(np.arctan2(way[:, 2], np.hypot(way[:, 0], way[:, 1])))
    lons = np.degrees(np.arctan2(way[:, 1], way[:, 0]))
    lons[0], lons[-1] = lon1, lon2
    return _split_at_date_line(lats, lons)


def _across(a: np.ndarray) -> np.ndarray:
    """A unit vector at right angles to a (3,), northwards where there is a north."""
    towards = np.array([0.0, 0.0, 1.0]) if abs(a[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    side = towards - (towards @ a) * a
    return side / np.linalg.norm(side)


def _split_at_date_line(lats: np.ndarray, lons: np.ndarray) -> list[list[tuple[float, float]]]:
    lines = [[(float(lats[0]), float(lons[0]))]]
    for i in range(1, len(lats)):
        if abs(lons[i] - lons[i - 1]) > 180:
            edge = 180.0 if lons[i - 1] > 0 else -180.0
            before, after = abs(edge - lons[i - 1]), abs(-edge - lons[i])
            share = before / (before + after) if before + after else 0.5
            lat = float(lats[i - 1] + share * (lats[i] - lats[i - 1]))
            lines[-1].append((lat, edge))
            lines.append([(lat, -edge)])
        lines[-1].append((float(lats[i]), float(lons[i])))
    return lines
