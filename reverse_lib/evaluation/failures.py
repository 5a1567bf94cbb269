"""Why an answer is wrong: one cause a photo, read from its log alone.

The agent looks, queries, trusts and answers, and the cause is the first link of that chain that broke. In this order:

1. `service error`: a service failed; nothing can be said of the agent.
2. `format`: there is no answer that could be read.
3. `none`: the answer is within 25 km of the truth.
4. When a search showed useful evidence, looking and querying did their work, and the cause is
   `distractor trusted` if a result that is not useful was called useful,
   `evidence not trusted` if no useful one was, else
   `wrong answer` (the right evidence was trusted, the answer is another).
5. `nothing searchable`: no informative region is annotated and no page is known to be useful.
6. `wrong region`: no zoom and no image search came near an annotated region (IoU of 0.2), or there was none at all. A
   box twice as wide and twice as high as the region still does (IoU 0.25); a decoy elsewhere does not.
7. `useless query`: it looked at the right region, and no search brought useful evidence, or none was made.

Where results carry no labels, steps 4, 5 and 7 can't be told: the cause is `not labelled`. The paper has no such count.

    frame["cause"] = [cause(t) for t in frame["trajectory"]]
    count({"cold start": cold, "GRPO": rl})          # a row a stage and cause: count, share, low, high
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from reverse_lib.evaluation.metrics import bootstrap, check_same_photos, judged, mcnemar, share
from reverse_lib.evaluation.run_folder import service_failed
from reverse_lib.reward import score
from reverse_lib.trajectory import Observation, Trajectory

NEAR_KM = 25.0
RIGHT_REGION_IOU = 0.2
CAUSES = {
    "none": "right within 25 km",
    "wrong region": "looked at the wrong region",
    "useless query": "right region, useless query",
    "evidence not trusted": "useful evidence not trusted",
    "distractor trusted": "distractor trusted",
    "wrong answer": "evidence right, answer wrong",
    "nothing searchable": "nothing searchable",
    "format": "no readable answer",
    "not labelled": "results not labelled",
    "service error": "search service failed",
}
"""Each cause and what figures call it, in the order of the chain."""


def cause(trajectory: Trajectory) -> str:
    """The one cause of a photo's failure, a key of CAUSES; "none" for a success.

    Args:
        trajectory: What was done, with the truth about the photo.

    Raises:
        ValueError: Nobody knows where the photo was taken.
    """
    if trajectory.lat is None or trajectory.lon is None:
        raise ValueError(
            f"{trajectory.photo_id}: no failure without a truth; give the photo its latitude and longitude"
        )
    if service_failed(trajectory):
        return "service error"
    if trajectory.answer is None:
        return "format"
    if trajectory.km <= NEAR_KM:
        return "none"
    searches, iou = _searches(trajectory), score(trajectory).box_iou
    if any(seen.useful for seen, _ in searches):
        return _misjudged(searches)
    if any(seen.results and not seen.labelled for seen, _ in searches):
        return "wrong region" if iou < RIGHT_REGION_IOU else "not labelled"
    if not trajectory.regions and not trajectory.evidence:
        return "nothing searchable"
    return "wrong region" if iou < RIGHT_REGION_IOU else "useless query"


def _searches(trajectory: Trajectory) -> list[tuple[Observation, set[int]]]:
    """What each search that reached its service showed, and the 1-based positions that the next turn calls useful."""
    labels = [*(set(turn.useful or ()) for turn in trajectory.turns()), set()][1:]
    seen = [step.observation for step in trajectory.steps]
    return [(one, called) for one, called in zip(seen, labels, strict=True) if one is not None and one.owes_labels]


def _misjudged(searches: Sequence[tuple[Observation, set[int]]]) -> str:
    """The cause of a failure in spite of useful evidence."""
    if any(called - seen.useful for seen, called in searches if seen.labelled):
        return "distractor trusted"
    return "wrong answer" if any(called & seen.useful for seen, called in searches) else "evidence not trusted"


def count(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How often each cause occurs at each stage.

    Args:
        frames: Tables of `evaluation.evaluate` by stage.

    Returns:
        Index (stage, cause), every stage with every cause in the order of CAUSES; columns count, value (share of the
        stage's photos), low, high (Wilson's 95 % interval), n (photos of the stage).
    """
    rows = {}
    for stage, frame in frames.items():
        found = causes(frame).value_counts()
        for name in CAUSES:
            rows[stage, name] = {"count": found.get(name, 0), **share(found.get(name, 0), len(frame)), "n": len(frame)}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["count", "value", "low", "high", "n"])
    table.index = pd.MultiIndex.from_tuples(rows, names=["stage", "cause"])
    return table.astype({"count": int, "n": int})


def compare_causes(before: pd.DataFrame, after: pd.DataFrame, seed: int = 0, samples: int = 2000) -> pd.DataFrame:
    """How the share of each cause changed between two stages, paired by photo.

    Args:
        before: The table of `evaluation.evaluate`.
        after: Another one, of the same photos.
        seed: Of the resampling.
        samples: Bootstrap resamples.

    Returns:
        Index cause; the columns of `evaluation.compare`: gained counts the photos that came to have that cause, lost
        those that no longer have it.

    Raises:
        ValueError: The tables are not of the same photos.
    """
    check_same_photos([before, after])
    old, new = (causes(frame.sort_values("photo_id")).to_numpy() for frame in (before, after))
    rows = {}
    for name in CAUSES:
        difference = (new == name).astype(float) - (old == name)
        row = {**bootstrap(difference, np.mean, seed, samples), "n": len(difference)}
        rows[name] = judged(row | mcnemar(difference))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("cause").astype({"n": int, "shown": bool})


def causes(frame: pd.DataFrame) -> pd.Series:
    """The cause of each row of a table of `evaluation.evaluate`, with the table's index."""
    return pd.Series([cause(trajectory) for trajectory in frame["trajectory"]], frame.index, str, "cause")
