"""What others report on the public benchmarks: the share of photos within each distance, as their authors state it.

Searches, dates and protocols differ, and few of them print an interval: at 2,997 photos and 48 % it is ±1.8 points.

    published("im2gps3k").loc["REVERSE 4B", "within_25km"]        # 0.483
"""

import numpy as np
import pandas as pd

from reverse_lib.geo import THRESHOLDS_KM

BENCHMARKS = ("im2gps3k", "yfcc4k")
_PER_CENT = {  # system: Im2GPS3k, YFCC4k; within 1, 25, 200, 750, 2500 km, "?" where nothing was found
    "GeoCLIP": ("14.1 34.5 50.7 69.7 83.8", "9.6 19.3 32.6 55.0 74.7"),
    "PIGEOTTO": ("11.3 36.7 53.8 72.4 85.3", "10.4 23.7 40.6 62.2 77.7"),
    "Img2Loc": ("17.1 45.1 57.9 72.9 84.7", "14.1 29.6 41.4 59.3 76.9"),
    "G3": ("16.7 40.9 55.6 71.2 84.7", "24.0 35.9 47.0 64.3 78.2"),
    "GLOBE": ("9.8 40.2 56.2 71.5 82.4", "? ? ? ? ?"),
    "Geo-R": ("18.1 41.5 58.3 75.3 86.4", "10.5 22.7 40.0 60.8 75.8"),
    "Geo-ADAPT": ("17.9 45.3 62.6 77.9 89.5", "32.5 39.1 55.4 70.8 84.5"),
    "SpotAgent": ("14.1 40.4 57.8 73.4 85.8", "7.3 21.5 36.2 55.0 70.8"),
    "GeoRouter": ("20.8 50.5 ? ? ?", "33.0 46.0 ? ? ?"),
    "GeoSearch + GeoRanker": ("23.6 55.1 ? ? ?", "32.9 43.5 ? ? ?"),
    "REVERSE 4B": ("22.5 48.3 ? ? ?", "? 27.5 ? ? ?"),
    "REVERSE 4B, SFT only": ("? 42.5 ? ? ?", "? ? ? ? ?"),
    "REVERSE 4B, untuned base": ("? ? ? ? ?", "? 12.4 ? ? ?"),
}


def published(benchmark: str) -> pd.DataFrame:
    """Published results on a benchmark.

    Args:
        benchmark: Its name; only Im2GPS3k and YFCC4k have any.

    Returns:
        A row a system that reports something; columns within_1km … within_2500km (shares, NaN where nothing is
        reported) and source. Empty for another benchmark: no figure of one applies to the photos of another.
    """
    names = [f"within_{km}km" for km in THRESHOLDS_KM]
    figures = {
        name: dict(zip(BENCHMARKS, texts, strict=True)).get(benchmark, "? ? ? ? ?") for name, texts in _PER_CENT.items()
    }
    shares = {name: [float(x) / 100 for x in text.replace("?", "nan").split()] for name, text in figures.items()}
    table = pd.DataFrame.from_dict(shares, "index", columns=names).rename_axis("system").dropna(how="all")
    ours = table.index.str.startswith("REVERSE")
    return table.assign(source=np.where(ours, "arXiv 2605.26861", "as reported by its authors"))
