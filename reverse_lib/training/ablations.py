"""Ablations of the RL stage: the same run with one thing changed, several seeds, compared on the same photos.

What differs from the paper's tables: every variant is trained with every seed, all are judged on one fixed list of
photos, and a difference comes with its paired 95 % interval. A finished run is kept in a file and never made twice, so
a long list can be stopped and started again.

    results = ablate(start, photos, cache, test_photos, world.live, config, "outputs/cpu/ablations", evaluate)
    evaluation.effects(results)          # each variant against the full method: value, low, high, n, shown
    make_runs(get_profile("reference"), world, evaluate)      # all of a profile, from the files of notebooks 01 to 03
"""

import dataclasses
import json
import multiprocessing
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import pandas as pd
from transformers.utils.logging import disable_progress_bar

from reverse_lib.models import Agent, load_interface, load_model, load_processor, pictures_remembered, set_threads
from reverse_lib.photos import Photo
from reverse_lib.profiles import PROFILES, VARIANTS, GrpoConfig, ModelConfig, Profile, Variant
from reverse_lib.search import training_search
from reverse_lib.training import grpo
from reverse_lib.trajectory import atomic_file, load_trajectories, save_trajectories

SETTINGS_FILE = "settings.json"


def choose(names: str = "") -> dict[str, Variant]:
    """The variants with these names, with commas between them; all of them for "".

    Raises:
        ValueError: There is no such variant; names those there are.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(VARIANTS)
    for name in wanted:
        if name not in VARIANTS:
            raise ValueError(f"ablation.variants: no variant {name!r}; there are {', '.join(VARIANTS)}")
    return {name: VARIANTS[name] for name in wanted}


def load_runs(folder: str | Path) -> pd.DataFrame:
    """The runs that are finished in a folder of `ablate`, as it returns them; empty where there are none."""
    files = {
        (name, int(seed)): file
        for file in Path(folder).glob("*, seed *.parquet")
        for name, seed in [file.stem.rsplit(", seed ", 1)]
    }
    seeds = sorted({seed for _, seed in files})
    tables = []
    for name, variant in VARIANTS.items():
        for seed in seeds:
            file = files.get((name, seed if variant.trained else seeds[0]))
            if file:
                tables.append(_labelled(pd.read_parquet(file), name, seed))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"variant": [], "seed": []})


def _labelled(table: pd.DataFrame, variant: str, seed: int) -> pd.DataFrame:
    return pd.concat([pd.DataFrame({"variant": variant, "seed": seed}, index=table.index), table], axis=1)


def ablate(
    start: str | Path,
    photos: Sequence[Photo],
    cache,
    test_photos: Sequence[Photo],
    search,
    config: GrpoConfig,
    folder: str | Path,
    evaluate: Callable,
    variants: Mapping[str, Variant] = VARIANTS,
    seeds: Sequence[int] = (0, 1, 2),
    levels: Sequence[str] | None = None,
    checkpoint: ModelConfig = PROFILES["cpu"].model,
    batch_size: int = 64,
    on_run: Callable[[str, int], object] | None = None,
) -> pd.DataFrame:
    """Train every variant with every seed from one checkpoint, and let each answer the test photos greedily.

    Args:
        start: The checkpoint that every run starts from, normally the cold start.
        photos: Training photos.
        cache: What answers searches in training.
        test_photos: What every run is judged on.
        search: What answers searches in evaluation.
        config: The RL stage; a variant replaces its credit.
        folder: Where each run's answers go, `VARIANT, seed N.jsonl`.
        evaluate: `evaluation.evaluate`, which makes the table of an agent's answers.
        variants: By name; a variant that is not trained is evaluated once.
        seeds: Of training.
        levels: How hard each training photo is; see `train_grpo`.
        checkpoint: How it is loaded, and the longest turn in evaluation.
        batch_size: Test photos in flight together.
        on_run: Called with variant and seed before each run that has to be made.

    Returns:
        The tables of `evaluation.evaluate` below each other, with two columns before: variant, seed. A run that is not
        trained stands there once for every seed.

    Raises:
        ValueError: The folder holds runs of other settings.
    """
    folder = Path(folder)
    _claim(folder, start, photos, test_photos, config)
    tables = []
    for name, variant in variants.items():
        for seed in seeds:
            made_for = seed if variant.trained else seeds[0]
            file = folder / f"{name}, seed {made_for}.parquet"
            if not file.exists():
                if on_run:
                    on_run(name, seed)
                model, processor = load_model(start, **checkpoint.loading), load_processor(start)
                interface = load_interface(start)
                if variant.trained:
                    changed = dataclasses.replace(config, credit=variant.credit)
                    settings = dict(weights=variant.weights, tools=variant.tools, levels=levels)
                    run = folder / f"{name}, seed {seed}"
                    grpo.train_grpo(model, processor, photos, cache, interface, changed, run, seed, **settings)
                longest = checkpoint.max_turn_tokens
                agent = Agent(model, processor, interface, name, tools=variant.tools, max_new_tokens=longest)
                with pictures_remembered(model):
                    frame = evaluate(agent, test_photos, search, interface, tools=variant.tools, batch_size=batch_size)
                save_trajectories(file.with_suffix(".jsonl"), frame.pop("trajectory"))
                frame.to_parquet(file)
            tables.append(_labelled(pd.read_parquet(file), name, seed))
    return pd.concat(tables, ignore_index=True)


def _claim(folder: Path, start, photos, test_photos, config: GrpoConfig) -> None:
    """Write down what the runs in a folder have in common, or check it."""
    ids = {"photos": [p.photo_id for p in photos], "test_photos": [p.photo_id for p in test_photos]}
    text = json.dumps({"start": str(start), "config": dataclasses.asdict(config), **ids}, indent=1) + "\n"
    file = folder / SETTINGS_FILE
    if not file.exists():
        with atomic_file(file) as partial:  # another process sees all of it or nothing
            partial.write_text(text)
    elif file.read_text() != text:
        raise ValueError(f"{folder}: holds runs of other settings (see {SETTINGS_FILE}); name another folder")


def make_runs(p: Profile, world, evaluate: Callable, on_run: Callable[[str, int], object] | None = None) -> Path:
    """Make the runs of a profile in a world, `p.ablation.processes` of them side by side.

    Little of a tiny model's training is arithmetic that cores can share: two runs side by side with a core each are
    done sooner than one after the other with both.

    Args:
        p: What it leaves from notebooks 01 to 03 is what the runs are trained from.
        world: Whose photos they were made on; it is sent to other processes.
        evaluate: As in `ablate`.
        on_run: Called with variant and seed when a run is done.

    Returns:
        The folder of the runs, `ablations`; those that are there are not made again. See `load_runs`.

    Raises:
        FileNotFoundError: A file of an earlier notebook is missing; the message says which notebook makes it.
        ValueError: There is no such variant, or the folder holds runs of other settings.
    """
    folder = p.path("ablations", SETTINGS_FILE).parent
    seeds = range(p.ablation.seeds)
    jobs = [(name, i) for name, v in choose(p.ablation.variants).items() for i in (seeds if v.trained else seeds[:1])]
    jobs = [(name, i) for name, i in jobs if not (folder / f"{name}, seed {i}.parquet").exists()]
    processes = min(p.ablation.processes, len(jobs))
    if processes < 2:
        for job in jobs:
            _make_run(p, world, evaluate, *job)
            if on_run:
                on_run(*job)
        return folder
    threads = max(set_threads() // processes, 1)
    fresh = {"max_tasks_per_child": 1}  # one process for a dozen runs, whose batches differ in size, grew to 11 GB
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin, (threads,), **fresh) as pool:
        made = {pool.submit(_make_run, p, world, evaluate, *job): job for job in jobs}
        try:
            for run in as_completed(made):
                run.result()
                if on_run:
                    on_run(*made[run])
        finally:
            pool.shutdown(cancel_futures=True)  # after an error no further run is begun
    return folder


def _begin(threads: int) -> None:
    """Settings of a process of `make_runs`; its bars of loading and saving would stand in red in the notebook."""
    set_threads(threads)
    disable_progress_bar()


def _make_run(p: Profile, world, evaluate: Callable, name: str, seed: int) -> None:
    """One run of `make_runs`, with a cache of its own where training records what it asks."""
    start = p.input("checkpoints", "coldstart", made_by="03_sft")
    searched = load_trajectories(p.input("trajectories.jsonl", made_by="01_annotation"))
    searched = [t for t in searched if t.extra["sample"] == "search"]
    recorded, folder = p.input("search_cache", made_by="02_search_cache"), p.path("ablations", SETTINGS_FILE).parent
    shown = load_interface(start).max_results
    photos, levels = [world.photo(t.photo_id) for t in searched], [t.extra["difficulty"] for t in searched]
    own = folder / f"{name}, seed {seed}"
    cache, search = training_search(p.grpo.search, recorded, own, world.live, shown, "miniature web")
    judged, variants = world.photos("test-new", p.ablation.photos), {name: VARIANTS[name]}
    settings = (p.grpo, folder, evaluate, variants, [seed], levels, p.model, p.evaluation.batch_size)
    with cache:
        ablate(start, photos, search, judged, world.live, *settings)
    shutil.rmtree(own / "search_cache", ignore_errors=True)
