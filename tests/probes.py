"""Attacks on the miniature world: what a lazy learner could use instead of looking, querying and judging.

Each function measures one thing and returns figures; `test_probes.py` says what they may be. Attackers are linear or
boosted models on hand-made features, which find any cue that a network of a few million weights finds in minutes.
Intervals are wide on purpose (99.9 %), so that a world without the leak passes whatever its seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from probe_statistics import ALPHA, Share, share
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.preprocessing import StandardScaler

from reverse_lib.geo import haversine_km
from reverse_lib.photos.photo import to_pixels

GREY = (128, 128, 128)
WINDOW_PX = (320, 140)  # greyed around a region: wider and taller than any that has a name
OVERDISPERSION = 1.5  # of shares over several photos of a place
FAMILIES = ("layout", "fine", "colours", "exact", "grain")


# --- photos as small vectors ----------------------------------------------------------------------


@dataclass(frozen=True)
class Gallery:
    """Photos and what is left of their pixels once they are made small.

    Attributes:
        photos: The photos, n of them.
        features: Family name to an array (n, d), float32: the photo with what tells its place greyed out.
        colours: Colour histograms of the whole photo, (n, 512).
        regions: Of each photo, the looks of its marks, left to right: (marks, 6), mean and deviation of RGB.
    """

    photos: list
    features: dict[str, np.ndarray] = field(default_factory=dict)
    colours: np.ndarray = field(default_factory=lambda: np.zeros((0, 512)))
    regions: list[np.ndarray] = field(default_factory=list)

    @property
    def countries(self) -> np.ndarray:
        """Country names, (n,)."""
        return np.array([photo.country for photo in self.photos])

    @property
    def places(self) -> np.ndarray:
        """GeoNames ids, (n,)."""
        return np.array([photo.place.place_id for photo in self.photos])

    def where(self, keep: np.ndarray) -> Gallery:
        """The photos of a mask, (n,), or of an array of positions."""
        numbers = np.arange(len(self.photos))[keep]
        features = {name: rows[numbers] for name, rows in self.features.items()}
        photos, regions = ([rows[i] for i in numbers] for rows in (self.photos, self.regions))
        return Gallery(photos, features, self.colours[numbers], regions)


def gallery(photos: Sequence) -> Gallery:
    """Renders photos and keeps features only."""
    features, colours, regions = [], [], []
    for photo in photos:
        picture = photo.load()
        colours.append(colour_histogram(np.asarray(picture)))
        regions.append(np.array([region_look(picture, mark.bbox_2d) for mark in photo.marks]).reshape(-1, 6))
        features.append(pixel_features(hidden(picture, photo.regions)))
    families = {name: np.stack([row[name] for row in features]) for name in features[0]}
    return Gallery(list(photos), families, np.stack(colours), regions)


def joined(parts: Sequence[Gallery]) -> Gallery:
    """Several galleries as one."""
    families = {name: np.concatenate([part.features[name] for part in parts]) for name in parts[0].features}
    photos, regions = ([row for part in parts for row in getattr(part, name)] for name in ("photos", "regions"))
    return Gallery(photos, families, np.concatenate([part.colours for part in parts]), regions)


def hidden(picture: Image.Image, regions: Sequence) -> Image.Image:
    """The photo with a window of one size over each region, so that the region's width can't tell the name either."""
    picture = picture.copy()
    for box in regions:
        left, top, right, bottom = to_pixels(box, *picture.size)
        x = min(max((left + right - WINDOW_PX[0]) // 2, 0), picture.width - WINDOW_PX[0])
        y = min(max((top + bottom) // 2 - 40, 0), picture.height - WINDOW_PX[1])
        picture.paste(GREY, (x, y, x + WINDOW_PX[0], y + WINDOW_PX[1]))
    return picture


def region_look(picture: Image.Image, bbox_2d: Sequence) -> np.ndarray:
    """Mean and standard deviation of red, green and blue inside a box, (6,)."""
    pixels = np.asarray(picture.crop(to_pixels(bbox_2d, *picture.size)), np.float32).reshape(-1, 3)
    return np.concatenate([pixels.mean(axis=0), pixels.std(axis=0)])


def colour_histogram(pixels: np.ndarray) -> np.ndarray:
    """Root of the shares of 512 coarse colours, (512,) float32: a bag of pixels, of (h, w, 3) bytes."""
    every = pixels[::2, ::2].reshape(-1, 3).astype(np.int64) >> 5
    return np.sqrt(np.bincount(every @ (64, 8, 1), minlength=512) / len(every)).astype(np.float32)


def pixel_features(picture: Image.Image) -> dict[str, np.ndarray]:
    """What survives of a 640×480 photo.

    Returns:
        layout: 20×15 pixels, fine: 80×60 grey pixels, colours: histogram of 512 coarse colours, exact: which of 2,048
        buckets the exact colours fall into, grain: low bits and differences of neighbours, float32 each.
    """
    pixels = np.asarray(picture)  # (480, 640, 3)
    layout = np.asarray(picture.resize((20, 15), Image.Resampling.BOX), np.float32) / 255
    fine = np.asarray(picture.convert("L").resize((80, 60), Image.Resampling.BOX), np.float32) / 255
    every = pixels[::2, ::2].reshape(-1, 3).astype(np.int64)
    code = every @ (65536, 256, 1)
    exact = np.bincount((code * 2654435761 >> 7) % 2048, minlength=2048)
    step = np.clip(np.diff(pixels[::4, :, 1].astype(int), axis=1), -24, 24) + 24
    grain = np.concatenate(
        [np.bincount(every[:, channel] % 16, minlength=16) for channel in range(3)]
        + [np.bincount(step.ravel(), minlength=49)]
    )
    return {
        "layout": layout.ravel(),
        "fine": fine.ravel(),
        "colours": colour_histogram(pixels),
        "exact": np.sqrt(exact / len(every)).astype(np.float32),
        "grain": np.sqrt(grain / len(every)).astype(np.float32),
    }


def compressed(rows: np.ndarray, dimensions: int = 60, whiten: bool = True) -> np.ndarray:
    """Principal components, (n, dimensions)."""
    dimensions = min(dimensions, *rows.shape)
    return PCA(dimensions, whiten=whiten, svd_solver="randomized", random_state=0).fit_transform(rows)


# --- photo -> country, photo -> position ----------------------------------------------------------


def country_reader(train: Gallery, tests: dict[str, Gallery]) -> dict[str, Share]:
    """Countries told right from a bag of pixels: the share for each of the galleries in `tests`."""
    model = _trees().fit(train.colours, train.countries)
    return {name: share(model.predict(test.colours) == test.countries) for name, test in tests.items()}


def position_reader(train: Gallery, test: Gallery, within_km: float = 25.0) -> Share:
    """Photos whose nearest-looking training place is really near: the memoriser on places it has never seen."""
    model = _trees().fit(train.colours, train.places)
    where = {photo.place.place_id: (photo.place.lat, photo.place.lon) for photo in train.photos}
    return share(is_near([where[place] for place in model.predict(test.colours)], test.photos, within_km))


def is_near(guesses: Sequence[tuple[float, float]], photos: Sequence, within_km: float = 25.0) -> np.ndarray:
    """Which guessed positions, (lat, lon) in degrees, lie near their photo's, (n,)."""
    lat, lon = np.array(guesses, float).T
    truth = np.array([(photo.lat, photo.lon) for photo in photos]).T
    return haversine_km(lat, lon, *truth) <= within_km


def _trees(count: int = 200) -> ExtraTreesClassifier:
    return ExtraTreesClassifier(count, random_state=0)


# --- scenery -> place -----------------------------------------------------------------------------


def place_within_country(part: Gallery, family: str, folds: int = 3) -> tuple[Share, float]:
    """Places told apart within their right country by an attacker who has labels of other views.

    Args:
        part: Several views of every place, informative regions hidden, no landmark photos.
        family: Which features; a linear discriminant of at most 300 components looks at them.
        folds: Views are dealt into so many; each is predicted from the others.

    Returns:
        Share of right places, and chance (mean of one over the number of places of the country).
    """
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1)
    return _place_reader(model, compressed(part.features[family], 300, whiten=False), part, folds)


def place_by_trees(rows: np.ndarray, part: Gallery, folds: int = 3) -> tuple[Share, float]:
    """The same with a forest over features of any kind, (n, d), of the photos of `part`."""
    return _place_reader(_trees(100), rows, part, folds)


def _place_reader(model, rows: np.ndarray, part: Gallery, folds: int) -> tuple[Share, float]:
    """One classifier over all places, asked for the best of the right country."""
    places, countries = part.places, part.countries
    home = dict(zip(places, countries, strict=True))
    views = _view_numbers(places) % folds
    right, chances = [], []
    for fold in range(folds):
        asked = views == fold
        ids, counts = np.unique(places[~asked], return_counts=True)
        known = ~asked & np.isin(places, ids[counts > 1])
        asked &= np.isin(places, ids[counts > 1])
        if hasattr(model, "priors"):
            model.priors = np.full((counts > 1).sum(), 1 / (counts > 1).sum())
        model.fit(rows[known], places[known])
        inside = countries[asked][:, None] == np.array([home[place] for place in model.classes_])[None]
        scores = model.predict_log_proba(rows[asked]) if hasattr(model, "priors") else model.predict_proba(rows[asked])
        best = np.where(inside, scores, -np.inf).argmax(axis=1)
        right += list(model.classes_[best] == places[asked])
        chances += list(1 / inside.sum(axis=1))
    return _dependent(right), float(np.mean(chances))


def _dependent(flags: Sequence) -> Share:
    """A share over photos that are mistaken together: with shuffled labels it varies by 1.3 times the binomial law."""
    return Share(sum(flags) / OVERDISPERSION, len(flags) / OVERDISPERSION)


def neighbour_within_country(part: Gallery, family: str) -> tuple[Share, float]:
    """How often the nearest photo of the same country is of the same place, and how often a blind choice is."""
    rows, places, countries = compressed(part.features[family]), part.places, part.countries
    right, chances = [], []
    for country in sorted(set(countries)):
        inside = np.flatnonzero(countries == country)
        square = ((rows[inside, None] - rows[None, inside]) ** 2).sum(axis=2)
        np.fill_diagonal(square, np.inf)
        same = places[inside][square.argmin(axis=1)] == places[inside]
        right += list(same)
        chances += [((places[inside] == place).sum() - 1) / (len(inside) - 1) for place in places[inside]]
    return _dependent(right), float(np.mean(chances))


def trend_across_places(part: Gallery, family: str, target: str) -> tuple[float, float]:
    """Whether scenery tells a place's latitude, longitude or size beyond its country, in countries never trained on.

    Ridge regression from the mean look of each place (less its country's) to the place's rank in its country, trained
    without an eighth of the countries at a time; chance is what remains when ranks are shuffled within countries.

    Args:
        part: Photos as in `place_within_country`.
        family: Which features.
        target: "lat", "lon" or "population".

    Returns:
        Correlation of prediction and rank over places, and the highest that chance brings.
    """
    every, numbers = np.unique(part.places, return_inverse=True)
    first = np.array([np.flatnonzero(numbers == number)[0] for number in range(len(every))])
    rows = compressed(part.features[family])
    rows = np.array([rows[numbers == number].mean(axis=0) for number in range(len(every))])
    countries = part.countries[first]
    rows = StandardScaler().fit_transform(_less_mean(rows, countries))
    truth = _ranked(np.array([_target(part.photos[number].place, target) for number in first]), countries)
    groups = np.unique(countries, return_inverse=True)[1] % 8
    reader = np.zeros((len(every), len(every)))  # prediction = reader @ truth
    for group in range(8):
        known, asked = rows[groups != group], rows[groups == group]
        solved = np.linalg.solve(known.T @ known + 50 * np.eye(rows.shape[1]), known.T)
        reader[np.ix_(groups == group, groups != group)] = asked @ solved
    rng = np.random.default_rng(0)
    order = np.stack([np.lexsort((rng.random(len(every)), countries)) for _ in range(4000)])
    home = np.argsort(countries, kind="stable")
    shuffled = np.empty(order.shape)
    shuffled[:, home] = truth[order]
    chance = [_correlation(reader @ one, one) for one in shuffled]
    return _correlation(reader @ truth, truth), float(np.quantile(chance, 1 - ALPHA / 2))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def _target(place, name: str) -> float:
    return float(np.log10(max(place.population, 1))) if name == "population" else getattr(place, name)


def _less_mean(rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
    out = rows.astype(np.float64).copy()
    for group in set(groups):
        out[groups == group] -= out[groups == group].mean(axis=0)
    return out


def _ranked(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Ranks inside each group, -1..1, so that large countries don't outweigh the others."""
    out = np.zeros(len(values))
    for group in set(groups):
        inside = groups == group
        levels = sorted(set(values[inside]))
        out[inside] = 2 * np.searchsorted(levels, values[inside]) / max(len(levels) - 1, 1) - 1
    return out


def _view_numbers(places: np.ndarray) -> np.ndarray:
    """0, 1, 2, … for the photos of each place, in their order."""
    counts: Counter = Counter()
    numbers = []
    for place in places:
        numbers.append(counts[place])
        counts[place] += 1
    return np.array(numbers)


# --- regions --------------------------------------------------------------------------------------


def region_table(
    photos: Sequence, looks: Sequence[np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Regions as rows of numbers that need no reading: centre, width, height, area, ratio and, if given, colours.

    Args:
        photos: Photos.
        looks: Colours of their regions as in `Gallery.regions`; None for geometry alone.

    Returns:
        Rows (r, 6 or 12), whether each region is informative (r,), and its photo's number (r,). How many regions the
        photo has is left out: among two, each is the right one more often than among three.
    """
    rows, truth, owners = [], [], []
    for number, photo in enumerate(photos):
        for rank, mark in enumerate(photo.marks):
            x1, y1, x2, y2 = mark.bbox_2d
            width, height = x2 - x1, y2 - y1
            row = [x1 + width / 2, y1 + height / 2, width, height, width * height, width / height]
            rows.append([*row, *(looks[number][rank] if looks is not None else ())])
            truth.append(mark.informative)
            owners.append(number)
    return np.array(rows, float), np.array(truth), np.array(owners)


def leftmost(photos: Sequence) -> dict[int, Share]:
    """By number of regions, the share of photos with an informative one where it is the first listed."""
    flags: dict[int, list[bool]] = {}
    for photo in photos:
        if photo.regions:
            flags.setdefault(len(photo.marks), []).append(photo.marks[0].informative)
    return {count: share(some) for count, some in flags.items()}


def box_tables(photos: Sequence) -> tuple[list, dict[str, np.ndarray]]:
    """Photos with a named informative region, and its "size" (width, height, ratio) and "position" (left, top)."""
    named = [photo for photo in photos if any(mark.informative and mark.text for mark in photo.marks)]
    boxes = np.array([next(mark.bbox_2d for mark in photo.marks if mark.informative) for photo in named], float)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return named, {"size": np.stack([width, height, width / height], axis=1), "position": boxes[:, :2]}


def photo_table(photos: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """What the boxes of a photo say without its pixels, (n, 25), and whether one of them is informative, (n,)."""
    rows = []
    for photo in photos:
        digits = np.zeros(10)
        for mark in photo.marks:
            for edge in mark.bbox_2d:
                digits[edge % 10] += 1
        widths = [mark.bbox_2d[2] - mark.bbox_2d[0] for mark in photo.marks] or [0]
        tall = [mark.bbox_2d[3] - mark.bbox_2d[1] for mark in photo.marks] or [0]
        first = photo.marks[0].bbox_2d if photo.marks else (0, 0, 0, 0)
        last = photo.marks[-1].bbox_2d if photo.marks else (0, 0, 0, 0)
        sums = [max(widths), min(widths), sum(widths), max(tall), min(tall), sum(tall), len(photo.marks)]
        rows.append([*digits / max(digits.sum(), 1), *sums, *first, *last])
    return np.array(rows, float), np.array([bool(photo.regions) for photo in photos])
