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

    causes(frame)                                           # a cause a photo
    count_causes({"cold start": cold, "GRPO": rl})          # a row a stage and cause: count, share, low, high
"""

from collections.abc import Mapping

import pandas as pd

from reverse_lib.evaluation.evaluate import judged_searches
from reverse_lib.evaluation.metrics import share
from reverse_lib.profiles import Judging
from reverse_lib.reward import score
from reverse_lib.trajectory import Trajectory

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

    Raises:
        ValueError: Nobody knows where the photo was taken.
    """
    if trajectory.lat is None:
        raise ValueError(
            f"{trajectory.photo_id}: no failure without a truth; give the photo its latitude and longitude"
        )
    if trajectory.service_failed:
        return "service error"
    if trajectory.answer is None:
        return "format"
    if trajectory.km <= Judging.near_km:
        return "none"
    searches = judged_searches(trajectory)
    if any(shown.useful for shown, _ in searches):
        if any(set(called) - shown.useful for shown, called in searches if shown.labelled):
            return "distractor trusted"
        trusted = any(set(called) & shown.useful for shown, called in searches)
        return "wrong answer" if trusted else "evidence not trusted"
    labelled = all(shown.labelled for shown, _ in searches if shown.results)
    if labelled and not trajectory.regions and not trajectory.evidence:
        return "nothing searchable"
    if score(trajectory).box_iou < Judging.region_iou:
        return "wrong region"
    return "useless query" if labelled else "not labelled"


def count_causes(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How often each cause occurs at each stage.

    Args:
        frames: Tables of `evaluation.evaluate` by stage.

    Returns:
        Index (stage, cause), every stage with every cause in the order of CAUSES; columns count, value (share of the
        stage's photos), low, high (Wilson's 95 % interval), n (photos of the stage).
    """
    tables = {}
    for stage, frame in frames.items():
        counts = causes(frame).value_counts().reindex(list(CAUSES), fill_value=0)
        rows = [{"count": number, **share(number, len(frame)), "n": len(frame)} for number in counts]
        tables[stage] = pd.DataFrame(rows, counts.index)
    return pd.concat(tables, names=["stage", "cause"])


def causes(frame: pd.DataFrame) -> pd.Series:
    """The cause of each row of a table of `evaluation.evaluate`, with the table's index."""
    return pd.Series([cause(trajectory) for trajectory in frame["trajectory"]], frame.index, str, "cause")
