"""The stages of training side by side: which checkpoints there are, how each does, and where an agent still fails.

Direct fine-tuning is asked without tools, as it was trained; the others get all three, also the base, which knows the
turns of a search one by one. The scripted teacher, which knows the truth, is the upper reference. Nothing is chosen by
the figures, not even which stage's trajectories are shown.

    stages, missing = find_stages(profile)
    frame, seconds = evaluate_stage(stages[0], world, profile)
    side_by_side({"direct SFT": summarize(frame)})
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reverse_lib.environment import TINY, Interface
from reverse_lib.evaluation.evaluate import evaluate
from reverse_lib.evaluation.metrics import LABELS, METRICS, summarize
from reverse_lib.profiles import PROFILES, EvaluationConfig, ModelConfig, Profile
from reverse_lib.trajectory import TOOLS

TEACHER = "teacher"
REGIONS = ("sign", "board", "landmark", "none")  # "none": nothing in the photo tells the place
TEST_SPLITS = ("test-new", "test-seen")
_PERCENT = ("within_", "country", "continent", "parsed", "query_hit")


@dataclass(frozen=True)
class Stage:
    """One agent to evaluate."""

    key: str  # for files and metrics
    name: str  # what tables and figures call it
    model: str  # a checkpoint's folder or Hugging Face id; "" for the scripted teacher
    tools: tuple[str, ...] = TOOLS  # that it is offered


def find_stages(profile: Profile) -> tuple[list[Stage], list[str]]:
    """The stages that can be evaluated, in the order of training, the teacher last.

    A supervised stage that was not trained under this profile is the shipped one, where one lies beside
    `profile.model.agent`.

    Returns:
        The stages, and a sentence for each one that is left out: which, why, and what brings it.
    """
    folder, shipped = profile.folder / "checkpoints", Path(profile.model.agent).parent

    def supervised(name: str) -> str:
        places = [path / name for path in (folder, shipped) if (path / name / "config.json").is_file()]
        return str(places[0] if places else folder / name)

    wanted = (
        (Stage("base", "base", profile.model.base), ""),
        (Stage("sft", "direct SFT", supervised("sft"), ()), "03_sft"),
        (Stage("coldstart", "cold start", supervised("coldstart")), "03_sft"),
        (Stage("grpo", "GRPO", str(folder / "grpo")), "04_grpo"),
        (Stage("agent", "shipped agent", profile.model.agent), ""),
    )
    stages: list[Stage] = []
    missing = []
    for stage, notebook in wanted:
        if stage.model in {known.model for known in stages}:
            continue
        if _exists(stage.model, profile):
            stages.append(stage)
        else:
            remedy = f"run notebook {notebook} first" if notebook else "set model.base or model.agent to one you have"
            missing.append(f"{stage.name}: no checkpoint in {stage.model}; {remedy}")
    return [*stages, Stage(TEACHER, TEACHER, "")], missing


def _exists(model: str, profile: Profile) -> bool:
    """Whether a checkpoint is there; a model id (`Qwen/…`) is taken to be."""
    if Path(model).is_dir():
        return (Path(model) / "config.json").is_file()
    return not Path(model).is_relative_to(profile.folder) and not model.startswith(("data/", "outputs/", "/", "."))


def load_stage(stage: Stage, world, config: ModelConfig = PROFILES["cpu"].model) -> tuple[Callable, Interface]:
    """A stage as an agent for `rollout`, and how the world is shown to it; `config` gives device and longest turn."""
    if not stage.model:
        return world.teacher, TINY
    from reverse_lib.models import load_agent

    settings = {"tools": stage.tools, "max_new_tokens": config.max_turn_tokens}
    agent = load_agent(stage.model, config.device, **settings)
    return agent, agent.interface


def evaluate_stage(
    stage: Stage, world, profile: Profile, progress: Callable | None = None
) -> tuple[pd.DataFrame, float]:
    """Let a stage answer the test photos of a world, searching live.

    Args:
        stage: One of `find_stages`.
        world: A `World`.
        profile: Gives the number of photos of each split, the batch size and the device.
        progress: Called with the number of photos that were finished.

    Returns:
        The table of `evaluation.evaluate` with three more columns (split, region, twin; see `describe`), and the
        seconds it took, loading the model left out.
    """
    photos = [photo for split in TEST_SPLITS for photo in world.photos(split, profile.evaluation.photos)]
    agent, interface = load_stage(stage, world, profile.model)
    settings = {"tools": stage.tools, "batch_size": profile.evaluation.batch_size, "progress": progress}
    started = time.monotonic()
    frame = evaluate(agent, photos, world.live, interface, **settings)
    seconds = time.monotonic() - started
    return pd.concat([describe(photos, world), frame], axis=1), seconds


def describe(photos: Sequence, world) -> pd.DataFrame:
    """What there was to find in photos of a world: a row a photo, in order.

    Returns:
        Columns split; region (one of REGIONS); twin (whether another place of the world bears the same name).
    """
    bearers = Counter(place.name for place in world.places)
    regions = [next((mark.kind for mark in photo.marks if mark.informative), "none") for photo in photos]
    twins = [bearers[photo.place.name] > 1 for photo in photos]
    return pd.DataFrame({"split": [photo.split for photo in photos], "region": regions, "twin": twins})


def side_by_side(summaries: Mapping[str, pd.DataFrame], metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Summaries (by stage) as a table to read: a row a metric, a column a stage, "41 % (34–48)" in each cell."""
    rows = {LABELS[metric]: [_cell(metric, summary) for summary in summaries.values()] for metric in metrics}
    return pd.DataFrame.from_dict(rows, "index", columns=list(summaries)).rename_axis("95 % interval in brackets")


def _cell(metric: str, summary: pd.DataFrame) -> str:
    row = summary.loc[metric]
    if not row["n"]:
        return "–"
    share = metric.startswith(_PERCENT)
    digits = 0 if share or metric in ("median_km", "mean_km", "geoguessr_score", "tokens") else 2
    numbers = (row[key] * (100 if share else 1) for key in ("value", "low", "high"))
    value, low, high = (f"{number:,.{digits}f}".replace("-", "−") for number in numbers)
    return f"{value}{' %' if share else ''} ({low}{' to ' if row['low'] < 0 else '–'}{high})"


def where_it_fails(frame: pd.DataFrame, samples: int = EvaluationConfig.bootstrap) -> pd.DataFrame:
    """Accuracy by what there was to find, out of a table of `evaluate_stage`: a row a kind of photo."""
    twin = frame["twin"].astype(bool)
    groups = {kind: frame[frame["region"] == kind] for kind in REGIONS}
    groups |= {"has a twin": frame[twin], "has no twin": frame[~twin]}
    rows = {}
    for name, group in groups.items():
        if len(group):
            summary = summarize(group, samples=samples)
            cells = {LABELS[m]: _cell(m, summary) for m in ("within_25km", "within_200km", "country")}
            cells[LABELS["median_km"]] = f"{summary.loc['median_km', 'value']:,.0f}"
            rows[name] = {"photos": len(group), **cells}
    return pd.DataFrame.from_dict(rows, orient="index")


def last_stage(stages: Sequence[Stage]) -> Stage:
    """The stage whose answers are shown in detail: GRPO where it was trained, else the shipped agent.

    A rule that reads no figure: nothing may be chosen by the photos that it is judged on.

    Raises:
        ValueError: Neither is among the stages.
    """
    by_key = {stage.key: stage for stage in stages}
    trained = [by_key[key] for key in ("grpo", "agent") if key in by_key]
    if not trained:
        raise ValueError(f"no trained agent among {', '.join(by_key)}; run 04_grpo or restore data/models/agent")
    return trained[0]


def examples(frame: pd.DataFrame) -> dict[str, object]:
    """The best, the median and the worst trajectory by reward; ties are broken by error, then by photo id."""
    order = frame.sort_values(["reward", "km", "photo_id"], ascending=[False, True, True])["trajectory"].tolist()
    return {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
