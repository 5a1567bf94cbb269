"""Attacks on the miniature world: what a lazy learner could use instead of looking, querying and judging.

Each function measures one thing and returns figures; `test_probes.py` says what they may be. Attackers are linear or
boosted models on hand-made features, which find any cue that a network of a few million weights finds in minutes.
Intervals are wide on purpose (99.9 %), so that a world without the leak passes whatever its seed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from PIL import Image
from scipy.stats import beta, norm
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from reverse_lib.geo import haversine_km
from reverse_lib.photos.photo import to_pixels
from reverse_lib.reward import evidence_mcc
from reverse_lib.search import normalise_query
from reverse_lib.world.pages import names_in, states_position
from reverse_lib.world.places import country_table, load_cities

ALPHA = 0.001  # of every interval: a world without leaks passes, whatever its seed


@dataclass(frozen=True)
class Share:
    """A share of trials with its exact interval (Clopper-Pearson)."""

    hits: float
    trials: float  # fewer than were made where they depend on each other

    @property
    def value(self) -> float:
        """The share, 0..1."""
        return self.hits / self.trials

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return float(beta.ppf(ALPHA / 2, self.hits, self.trials - self.hits + 1)) if self.hits else 0.0

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        missed = self.trials - self.hits
        return float(beta.ppf(1 - ALPHA / 2, self.hits + 1, missed)) if missed else 1.0

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] of {self.trials:.0f}"


@dataclass(frozen=True)
class Auc:
    """Area under the ROC curve; `margin` is the half width of its interval where the truth is 0.5."""

    value: float
    margin: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.margin:.3f}"


def share(flags: Sequence) -> Share:
    """The share of true values."""
    flags = np.asarray(flags, bool)
    return Share(int(flags.sum()), len(flags))


def auc(truth: Sequence, scores: Sequence, weight: float = 1.0) -> Auc:
    """AUC with the normal interval of the rank-sum test.

    Args:
        truth: 0 or 1, both present.
        scores: Higher means more likely 1.
        weight: Variance inflation where rows are dependent (rows a group).
    """
    truth = np.asarray(truth, bool)
    ones, zeros = truth.sum(), (~truth).sum()
    deviation = np.sqrt(weight * (len(truth) + 1) / (12 * ones * zeros))
    return Auc(float(roc_auc_score(truth, scores)), float(norm.ppf(1 - ALPHA / 2) * deviation))


def separation(rows: np.ndarray, truth: np.ndarray, groups: np.ndarray | None = None) -> dict[str, Auc]:
    """How well two attackers tell the classes apart, each half of the rows being asked after training on the other.

    Args:
        rows: Features, (n, d).
        truth: Labels, (n,).
        groups: Rows of one group stay together and count as dependent; None if all are independent.

    Returns:
        AUC of "linear" (logistic regression) and "boosted" (gradient-boosted trees).
    """
    groups = np.arange(len(rows)) if groups is None else groups
    members = np.unique(groups, return_inverse=True)[1]
    half = members % 2 == 0
    weight = min(len(rows) / (members.max() + 1), 4.0) ** 0.5
    found = {}
    for name, model in {
        "linear": make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=300)),
        "boosted": HistGradientBoostingClassifier(max_iter=80, learning_rate=0.08, max_leaf_nodes=12, random_state=0),
    }.items():
        asked = [
            auc(truth[~known], model.fit(rows[known], truth[known]).predict_proba(rows[~known])[:, 1], weight)
            for known in (half, ~half)
        ]
        value, margin = np.mean([one.value for one in asked]), np.mean([one.margin for one in asked]) / 2**0.5
        found[name] = Auc(float(value), float(margin))
    return found


GREY = (128, 128, 128)
WINDOW_PX = (320, 140)  # greyed around a region: wider and taller than any that has a name
OVERDISPERSION = 1.5  # of shares over several photos of a place
FAMILIES = ("layout", "fine", "colours", "exact", "grain")


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
    views = pd.Series(places).groupby(places).cumcount().to_numpy() % folds
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
    truth = _ranked(np.array([getattr(part.photos[number].place, target) for number in first]), countries)
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
    chance = [np.corrcoef(reader @ ranks, ranks)[0, 1] for ranks in shuffled]
    return np.corrcoef(reader @ truth, truth)[0, 1], np.quantile(chance, 1 - ALPHA / 2)


def _less_mean(rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return rows - pd.DataFrame(rows).groupby(groups).transform("mean").to_numpy()


def _ranked(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Ranks inside each group, -1..1, so that large countries don't outweigh the others."""
    ranks = pd.Series(values).groupby(groups).rank(method="dense") - 1
    return (2 * ranks / ranks.groupby(groups).transform("max").clip(lower=1) - 1).to_numpy()


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


def searches(trajectories: Sequence) -> list:
    """The observations of all searches that brought labelled results."""
    steps = (step for trajectory in trajectories for step in trajectory.steps)
    return [
        step.observation
        for step in steps
        if step.observation and step.observation.labelled and step.observation.results
    ]


def result_table(trajectories: Sequence) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Results as numbers that need no reading, each page once for each place whose photos brought it.

    Args:
        trajectories: Whose searches are looked at.

    Returns:
        Families of features, each (r, d); whether each result is useful (r,); and the number of its photo's place
        (r,), by which training and test are to be kept apart, since a page met again is known, not judged.
        "order": position and number of results; "host": one column a host; "address": lengths, digits, hyphens and
        numbers in the URL; "length": characters and words of title and snippet; "wording": the title's words that
        are on many titles.
    """
    met: dict[tuple, tuple] = {}
    owners: dict[tuple, int] = {}
    for trajectory in trajectories:
        home = owners.setdefault((trajectory.city, trajectory.country), len(owners))
        for found in searches([trajectory]) if trajectory.regions else ():
            for place, result in enumerate(found.results, 1):
                met.setdefault((home, result["url"]), (home, place, len(found.results), result))
    rows = list(met.values())
    hosts = sorted({result["source"] for *_, result in rows})
    order = [[place, shown, place == shown] for _, place, shown, _ in rows]
    host = [[result["source"] == name for name in hosts] for *_, result in rows]
    length = [
        [len(r["title"]), len(r["title"].split()), len(r["snippet"]), len(r["title"]) + len(r["snippet"])]
        for *_, r in rows
    ]
    families = {
        "order": np.array(order, float),
        "host": np.array(host, float),
        "address": np.array([_address(result["url"]) for *_, result in rows], float),
        "length": np.array(length, float),
        "wording": _wording([result["title"] for *_, result in rows]),
    }
    return families, np.array([bool(r["useful"]) for *_, r in rows]), np.array([home for home, *_ in rows])


def _address(url: str) -> list[float]:
    path = url.partition("://")[2].partition("/")[2]
    numbers = [int(digits) for digits in re.findall(r"\d{1,9}", path)] or [0]
    digits = sum(char.isdigit() for char in path)
    marks = [path.count(char) for char in "/-_.?=&%"]
    tail = [path[-1:] == char for char in "/l0123456789"]
    return [len(url), len(path), digits, max(numbers), numbers[-1], numbers[-1] % 2, numbers[-1] % 10, *marks, *tail]


def _wording(titles: Sequence[str], least: float = 0.01) -> np.ndarray:
    """Which of the words that many titles share a title has, names and countries left out, (r, words)."""
    proper = {word for city in load_cities() for word in normalise_query(city.name).split()} - _TEMPLATE_WORDS
    proper |= {word for country in country_table() for word in normalise_query(country).split()}
    counter = CountVectorizer(binary=True, min_df=least, stop_words=sorted(proper), token_pattern=r"\w+")
    try:
        return counter.fit_transform(map(normalise_query, titles)).toarray().astype(float)
    except ValueError:  # no word is common
        return np.zeros((len(titles), 1))


_TEMPLATE_WORDS = set(
    "of in the and or to by from map market station town street museum hotel visit poster news".split()
)


def trust_rules() -> dict[str, Callable[[list[dict]], list[int]]]:
    """Rules that judge a list of results without the photo; each returns 1-based positions."""
    rules: dict[str, Callable] = {f"result {i}": lambda rows, i=i: [i] if i <= len(rows) else [] for i in range(1, 7)}
    rules["last result"] = lambda rows: [len(rows)]
    rules["every result"] = lambda rows: list(range(1, len(rows) + 1))
    rules["no result"] = lambda rows: []
    rules["every position"] = lambda rows: _stating(rows)
    rules["first position"] = lambda rows: _stating(rows)[:1]
    rules["commonest country"] = lambda rows: _commonest(rows, lambda row: row["title"].rpartition(", ")[2])
    rules["commonest word"] = lambda rows: _commonest_word(rows)
    rules["largest cluster"] = lambda rows: _cluster(rows)
    return rules


def _stating(rows: list[dict]) -> list[int]:
    return [number for number, row in enumerate(rows, 1) if states_position(row["snippet"])]


def _commonest(rows: list[dict], key: Callable) -> list[int]:
    top = Counter(key(row) for row in rows).most_common(1)[0][0]
    return [number for number in _stating(rows) if key(rows[number - 1]) == top]


def _commonest_word(rows: list[dict]) -> list[int]:
    words = [set(normalise_query(row["title"].rpartition(", ")[0]).split()) for row in rows]
    top = Counter(sorted(word for some in words for word in some)).most_common(1)[0][0]
    return [number for number in _stating(rows) if top in words[number - 1]]


def _cluster(rows: list[dict], within_km: float = 25.0) -> list[int]:
    """Those that state a position near most others' positions; none if all disagree."""
    stating = _stating(rows)
    spots = [tuple(map(float, rows[number - 1]["snippet"].split(", "))) for number in stating]
    groups = [[n for n, b in zip(stating, spots, strict=True) if haversine_km(*a, *b) < within_km] for a in spots]
    best = max(groups, key=len, default=[])
    return best if len(best) > 1 else []


def rule_scores(found: Sequence) -> dict[str, float]:
    """Mean Matthews correlation of each rule over searches."""
    return {
        name: float(np.mean([evidence_mcc(rule(one.results), one.useful, len(one.results)) for one in found]))
        for name, rule in trust_rules().items()
    }


def reader_score(trajectories: Sequence) -> float:
    """The same for a reader who knows the photo's name and country and compares both, and asks for a position."""
    scores = []
    for trajectory in trajectories:
        name = normalise_query(trajectory.city)
        for one in searches([trajectory]):
            picked = [
                number
                for number in _stating(one.results)
                if one.results[number - 1]["title"].rpartition(", ")[2] == trajectory.country
                and re.search(rf"\b{name}\b", normalise_query(one.results[number - 1]["title"]))
                and trajectory.regions
            ]
            scores.append(evidence_mcc(picked, one.useful, len(one.results)))
    return float(np.mean(scores))


def blind_answers(world, test: Sequence) -> dict[str, np.ndarray]:
    """Whether answers lie within 25 km, (photos,) each, of those who don't look or look at one thing only.

    "commonest place" and "largest city" look at nothing; "capital of country" knows the true country and answers its
    largest city, "usual place" the one that training shows most often there; "largest twin" knows the true name and
    answers its most populous bearer, "largest result" that among the results of a search for it; "any result" knows
    name and country, searches both and answers the first position shown; "name alone" does so without the country;
    "reader" takes the first position whose title has name and country. All but the first two fall back to the
    country's largest city where the photo tells no place.
    """
    counts = Counter(photo.place for photo in world.photos("train", 600))
    ranked = sorted(counts, key=lambda place: (counts[place], place.population, -place.place_id))
    usual = {place.country: place for place in ranked}
    people = {(city.name, city.country): city.population for city in reversed(load_cities())}
    cities = [city for city in reversed(load_cities()) if city.country in country_table()]
    twins = {city.name: city for city in cities}  # the largest stays
    answers: dict[str, list[tuple[float, float]]] = {}
    for photo in test:
        place, home = photo.place, country_table()[photo.country].largest_city
        told = bool(photo.regions)
        both, alone = (
            _stated(world.live.text(photo.photo_id, query)) if told else []
            for query in (f"{place.name} {place.country}", place.name)
        )
        named = [result for result in alone if place.name in names_in(result.title)]
        named.sort(key=lambda result: -people.get((place.name, result.title.rpartition(", ")[2]), 0))
        right = [r for r in both if r.title.endswith(f", {place.country}") and place.name in names_in(r.title)]
        for name, spot in {
            "commonest place": ranked[-1],
            "largest city": cities[-1],
            "capital of country": home,
            "usual place": usual.get(photo.country, home),
            "largest twin": twins[place.name] if told else home,
            "largest result": next(iter(named), home),
            "any result": next(iter(both), home),
            "name alone": next(iter(alone), home),
            "reader": next(iter(right), home),
        }.items():
            at = tuple(map(float, spot.snippet.split(", "))) if hasattr(spot, "snippet") else (spot.lat, spot.lon)
            answers.setdefault(name, []).append(at)
    return {name: is_near(spots, test) for name, spots in answers.items()}


def _stated(answer) -> list:
    """The results that state a position."""
    return [result for result in (answer.results if answer else ()) if states_position(result.snippet)]


def blind_boxes(world, photos: Sequence) -> dict[str, Share]:
    """Image searches that bring a useful result, by box: the informative one, or one that is the same in all photos."""
    middle = np.median([box for photo in photos for box in photo.regions], axis=0).round().astype(int).tolist()
    boxes = {"whole": [0, 0, 1000, 1000], "centre": [250, 250, 750, 750], "left": [0, 200, 500, 700], "median": middle}
    found: dict[str, list[bool]] = {}
    for photo in photos:
        if not photo.regions:
            continue
        for name, box in (boxes | {"informative": list(photo.regions[0])}).items():
            answer = world.live.image(photo.photo_id, box)
            found.setdefault(name, []).append(bool(answer and answer.useful))
    return {name: share(flags) for name, flags in found.items()}


def id_bits(photos: Sequence) -> np.ndarray:
    """The bits of photo ids, (n, 64)."""
    return np.array([[int(bit) for bit in f"{int(photo.photo_id, 16):064b}"] for photo in photos], float)


def call_orders(world, photos: Sequence, calls: int = 3) -> tuple[Auc, Share, float]:
    """Whether the position shown, or how often one has asked, tells usefulness.

    Returns:
        AUC of the position shown against usefulness over all calls; the share of first results that are useful at the
        last call; the share of all results that are useful, to compare it with.
    """
    places, flags, firsts = [], [], []
    for photo in photos:
        for call in range(calls):
            answer = world.live.text(photo.photo_id, f"{photo.city} {photo.country}", call)
            useful = [number in answer.useful for number in range(1, len(answer.results) + 1)] if answer else []
            places += range(len(useful))
            flags += useful
            firsts += useful[:1] if call == calls - 1 else []
    return auc(flags, places), share(firsts), float(np.mean(flags))


def country_runs(photos: Sequence) -> tuple[Share, float]:
    """How often neighbours in a split's order are of one country, and how often two random photos are."""
    countries = [photo.country for photo in photos]
    counts = np.array(list(Counter(countries).values()))
    chance = float((counts * (counts - 1)).sum() / (len(countries) * (len(countries) - 1)))
    return share([a == b for a, b in zip(countries, countries[1:], strict=False)]), chance


def unseen_names(trajectories: Sequence) -> list[str]:
    """Photo ids whose teacher writes the place's name before a zoom or a result can have shown it."""
    early = []
    for trajectory in trajectories:
        zoomed, shown = False, ""
        for step in trajectory.steps:
            think = step.text.partition("</think>")[0]
            if trajectory.city in think and not zoomed and trajectory.city not in shown:
                early.append(trajectory.photo_id)
                break
            if step.observation is not None:
                zoomed |= step.observation.tool == "image_zoom_in_tool"
                shown += " ".join(result["title"] for result in step.observation.results)
    return early
