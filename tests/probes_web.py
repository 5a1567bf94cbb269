"""Attacks on results, answers and identifiers: what tells usefulness or position without looking at the photo."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from probe_statistics import Auc, Share, auc, share
from probes import is_near
from sklearn.feature_extraction.text import CountVectorizer

from reverse_lib.geo import haversine_km
from reverse_lib.reward import evidence_mcc
from reverse_lib.search import normalise_query
from reverse_lib.world.places import country_table, load_cities

POSITION = re.compile(r"-?\d{1,2}\.\d{2}, -?\d{1,3}\.\d{2}")


def searches(trajectories: Sequence) -> list:
    """The observations of all searches that brought labelled results."""
    steps = (step for trajectory in trajectories for step in trajectory.steps)
    return [
        step.observation
        for step in steps
        if step.observation and step.observation.labelled and step.observation.results
    ]


# --- results: shape, wording, order --------------------------------------------------------------


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


# --- results: trust by rule of thumb -------------------------------------------------------------


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
    return [number for number, row in enumerate(rows, 1) if POSITION.fullmatch(row["snippet"])]


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


# --- answers without looking ---------------------------------------------------------------------


def blind_answers(world, train: Sequence, test: Sequence) -> dict[str, np.ndarray]:
    """Whether answers lie within 25 km, (photos,) each, of those who don't look or look at one thing only.

    "commonest place" and "largest city" look at nothing; "capital of country" knows the true country and answers its
    largest city; "largest twin" knows the true name and answers its most populous bearer; "any result" knows name and
    country, searches both and answers the first position shown; "name alone" does so without the country; "reader"
    takes the first position whose title has name and country. All but the first two fall back to the country's
    largest city where the photo tells no place.
    """
    counts = Counter(photo.place for photo in train)
    common = max(counts, key=lambda place: (counts[place], -place.place_id))
    bearers: dict[str, list] = {}
    for city in load_cities():
        if city.country in country_table():
            bearers.setdefault(city.name, []).append(city)
    largest = max((city for group in bearers.values() for city in group), key=lambda city: city.population)
    answers: dict[str, list[tuple[float, float]]] = {}
    for photo in test:
        table = country_table()[photo.country]
        home, place = (table.lat, table.lon), photo.place
        told = bool(photo.regions)
        twin = max(bearers[place.name], key=lambda city: city.population) if told else None
        both, alone = (
            world.live.text(photo.photo_id, query) if told else None
            for query in (f"{place.name} {place.country}", place.name)
        )
        wanted = (place.country, normalise_query(place.name))
        for name, spot in {
            "commonest place": (common.lat, common.lon),
            "largest city": (largest.lat, largest.lon),
            "capital of country": home,
            "largest twin": (twin.lat, twin.lon) if twin else home,
            "any result": _first(both) or home,
            "name alone": _first(alone) or home,
            "reader": _first(both, *wanted) or home,
        }.items():
            answers.setdefault(name, []).append(spot)
    return {name: is_near(spots, test) for name, spots in answers.items()}


def _first(answer, country: str = "", name: str = "") -> tuple[float, float] | None:
    for result in answer.results if answer else ():
        fits = result.title.endswith(f", {country}") if country else True
        if POSITION.fullmatch(result.snippet) and fits and name in normalise_query(result.title):
            return tuple(map(float, result.snippet.split(", ")))
    return None


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


# --- identifiers and order -----------------------------------------------------------------------


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


# --- the teacher's words -------------------------------------------------------------------------


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
