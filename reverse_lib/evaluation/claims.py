"""What the paper claims, tested in miniature: one table of differences, intervals and verdicts.

The claims were written down before the runs, and no row is tuned until it holds. Each compares two ways of training, or
of being asked, on the same photos; a difference whose 95 % interval holds 0 decides nothing, and the table says how
many photos would decide it if the difference were as large as it looks.

    table = replicate(runs)          # runs: variant, seed and the columns of `evaluation.evaluate`
    print(markdown(table))
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from reverse_lib.evaluation.metrics import METRICS, compare
from reverse_lib.profiles import FULL, START, VARIANTS, EvaluationConfig

DIRECT, LIVE, CACHED = "direct SFT", "live search", "cached search"
ASKED_ONCE = (DIRECT, LIVE, CACHED)  # no variants of training; notebook 06 lets these answer
PAPER, UNTESTED = "paper", "not tested before"
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided at this size"


@dataclass(frozen=True)
class Claim:
    """One relation between two variants."""

    says: str  # in words
    source: str  # PAPER, or UNTESTED where the paper leaves it open
    metric: str  # one of METRICS
    before: str  # the variant that is said to have less of it, or more if `rises` is False
    after: str  # the other variant
    rises: bool = True


CLAIMS = (
    Claim("RL places more photos within 25 km than the cold start", PAPER, "within_25km", START, FULL),
    Claim("the cold start places more than direct SFT", PAPER, "within_25km", DIRECT, START),
    Claim("all tools place more than none", PAPER, "within_25km", "no tools", FULL),
    Claim("all tools place more than the zoom alone", PAPER, "within_25km", "zoom only", FULL),
    Claim("all tools place more than image search alone", PAPER, "within_25km", "image search only", FULL),
    Claim("all tools place more than text search alone", PAPER, "within_25km", "text search only", FULL),
    Claim("the evidence reward improves trust (MCC)", PAPER, "evidence_mcc", "no evidence reward", FULL),
    Claim("the evidence reward improves accuracy", PAPER, "within_25km", "no evidence reward", FULL),
    Claim("after RL the agent searches more by text", PAPER, "calls_text", START, FULL),
    Claim("after RL the agent zooms less", PAPER, "calls_zoom", START, FULL, rises=False),
    Claim("credit by turn beats credit by rollout (reward)", UNTESTED, "reward", "trajectory credit", "turn credit"),
    Claim(
        "credit by turn beats credit by rollout (25 km)", UNTESTED, "within_25km", "trajectory credit", "turn credit"
    ),
    Claim("labels credited by themselves improve trust (MCC)", UNTESTED, "evidence_mcc", "turn credit", FULL),
    Claim("cached search costs accuracy against live search", UNTESTED, "within_25km", LIVE, CACHED, rises=False),
)
"""Facts of the paper's tables and of its limits section (arXiv 2605.26861), and what it leaves open."""


def replicate(
    runs: pd.DataFrame, claims: Sequence[Claim] = CLAIMS, samples: int = EvaluationConfig.bootstrap
) -> pd.DataFrame:
    """Judge each claim by the runs.

    Args:
        runs: The table of `training.load_runs`, further variants below it, such as DIRECT; all on the same photos.
        claims: What to judge.
        samples: Bootstrap resamples.

    Returns:
        A row a claim that both variants were run for: says, source, metric, before, after (names), rises, value, low,
        high (after minus before, averaged over the seeds that both share; 95 % interval over photos), n (photos),
        seeds (of RL), verdict (HOLDS, FAILS or UNDECIDED), needed (photos that would decide an undecided row if its
        difference stayed what it is; NaN for the others, and where there is no difference at all).
    """
    rows = []
    for claim in claims:
        compared = _compared(runs, claim.before, claim.after, [claim.metric], samples)
        if compared is None:
            continue
        row = compared.loc[claim.metric].to_dict()
        trained = any(name in VARIANTS and VARIANTS[name].trained for name in (claim.before, claim.after))
        difference = {key: row[key] for key in ("value", "low", "high", "n")}
        difference["seeds"] = row["seeds"] if trained else 1  # a checkpoint that was only asked stands there for each
        verdict = (HOLDS if (row["value"] > 0) == claim.rises else FAILS) if row["shown"] else UNDECIDED
        needed = _needed(row) if verdict == UNDECIDED else math.nan
        rows.append(vars(claim) | difference | {"verdict": verdict, "needed": needed})
    return pd.DataFrame(rows)


def effects(
    runs: pd.DataFrame, metrics: Sequence[str] = METRICS, samples: int = EvaluationConfig.bootstrap
) -> pd.DataFrame:
    """What each way of training changed: every variant against the full method.

    Args:
        runs: The table of `training.load_runs`, with runs of FULL.
        metrics: Names out of `evaluation.METRICS`.
        samples: Bootstrap resamples.

    Returns:
        Index (variant, metric); the columns of `evaluation.compare`, variant minus full method, averaged over the seeds
        that both were trained with, and their number, `seeds`. A variant that shares no seed with it is left out.
    """
    names = [name for name in runs["variant"].unique() if name != FULL]
    tables = {name: _compared(runs, FULL, name, metrics, samples) for name in names}
    tables = {name: table for name, table in tables.items() if table is not None}
    return pd.concat(tables, names=["variant"]) if tables else pd.DataFrame()


def _compared(runs: pd.DataFrame, before: str, after: str, metrics: Sequence[str], samples: int) -> pd.DataFrame | None:
    """The table of `compare` for two variants over the seeds they share, with their number; None if they share none."""
    first, second = (dict(iter(runs[runs["variant"] == name].groupby("seed"))) for name in (before, after))
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        return None
    pair = ([tables[seed] for seed in seeds] for tables in (first, second))
    return compare(*pair, metrics, samples=samples).assign(seeds=len(seeds))


def _needed(row: Mapping[str, float]) -> float:
    """Photos at which an interval of this value would leave out 0: its width shrinks with the root of their number.

    At least a quarter more than there are: where only McNemar's test objects, the interval is as good as at 0.
    """
    value = row["value"]
    reach = value - row["low"] if value > 0 else row["high"] - value
    return math.nan if value == 0 else row["n"] * max((reach / value) ** 2, 1.25)


def markdown(table: pd.DataFrame) -> str:
    """The table of `replicate` as a Markdown table: a claim a row, shares in points."""
    lines = ["| claim | source | difference (95 % interval) | photos × seeds | verdict |", "| --- " * 5 + "|"]
    for row in table.to_dict("records"):
        factor, digits, unit = (100, 1, " points") if row["metric"].startswith("within_") else (1, 3, "")
        numbers = (f"{row[key] * factor:+.{digits}f}" for key in ("value", "low", "high"))
        value, low, high = (number.replace("-", "−") for number in numbers)
        difference, size = f"{value}{unit} ({low} to {high})", f"{row['n']} × {row['seeds']}"
        verdict = row["verdict"]
        if verdict == UNDECIDED and not math.isnan(row["needed"]):
            verdict += f"; about {_rounded(row['needed']):,} photos would decide"
        lines.append(f"| {row['says']} | {row['source']} | {difference} | {size} | {verdict} |")
    return "\n".join(lines) + "\n"


def _rounded(number: float) -> int:
    """Two significant digits, upwards: more would be pretence."""
    unit = 10 ** max(len(str(int(number))) - 2, 0)
    return math.ceil(number / unit) * unit
