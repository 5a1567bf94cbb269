"""Ablations of the RL stage: the same run with one thing changed, several seeds, compared on the same photos.

What differs from the paper's tables: every variant is trained with every seed, all are judged on one fixed list of
photos, and a difference comes with its paired 95 % interval. A finished run is kept in a file and never made twice, so
a long list can be stopped and started again.

    make_runs(get_profile("reference"), world, evaluate)      # from the files that notebooks 01 to 03 left
    evaluation.effects(load_runs(folder))      # each variant against the full method: value, low, high, n, shown
"""

import dataclasses
import json
import multiprocessing
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import pandas as pd
from transformers.utils.logging import disable_progress_bar

from reverse_lib.models import Agent, load_interface, load_model, load_processor, pictures_remembered, set_threads
from reverse_lib.photos import Photo
from reverse_lib.profiles import VARIANTS, GrpoConfig, Profile, Variant
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
    """The runs that are finished in a folder of `make_runs`; empty where there are none.

    Returns:
        The tables of `evaluation.evaluate` below each other, with two columns before: variant, seed. A run that is not
        trained stands there once for every seed.
    """
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
                tables.append(table := pd.read_parquet(file))
                table.insert(0, "variant", name)
                table.insert(1, "seed", seed)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"variant": [], "seed": []})


def make_runs(p: Profile, world, evaluate: Callable, on_run: Callable[[str, int], object] | None = None) -> Path:
    """Make the runs of a profile in a world, `p.ablation.processes` of them side by side.

    Little of a tiny model's training is arithmetic that cores can share: two runs side by side with a core each are
    done sooner than one after the other with both.

    Args:
        p: What it leaves from notebooks 01 to 03 is what the runs are trained from.
        world: Whose photos they were made on; it is sent to other processes.
        evaluate: `evaluation.evaluate`, which makes the table of an agent's answers.
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
    """Train one variant with one seed from the cold start, and let it answer the test photos greedily.

    What training searches is answered from a cache of its own, where it records what it asks.
    """
    start, variant = p.input("checkpoints", "coldstart", made_by="03_sft"), VARIANTS[name]
    searched = load_trajectories(p.input("trajectories.jsonl", made_by="01_annotation"))
    searched = [t for t in searched if t.extra["sample"] == "search"]
    recorded, folder = p.input("search_cache", made_by="02_search_cache"), p.path("ablations", SETTINGS_FILE).parent
    photos, judged = [world.photo(t.photo_id) for t in searched], world.photos("test-new", p.ablation.photos)
    _claim(folder, start, photos, judged, p.grpo)
    model, processor = load_model(start, **p.model.loading), load_processor(start)
    interface, run = load_interface(start), folder / f"{name}, seed {seed}"
    if variant.trained:
        cache, search = training_search(
            p.grpo.search, recorded, run, world.live, interface.max_results, "miniature web"
        )
        settings = dict(weights=variant.weights, tools=variant.tools, levels=[t.extra["difficulty"] for t in searched])
        config = dataclasses.replace(p.grpo, credit=variant.credit)
        with cache:
            grpo.train_grpo(model, processor, photos, search, interface, config, run, seed, **settings)
        shutil.rmtree(run / "search_cache", ignore_errors=True)
    longest = p.model.max_turn_tokens
    agent = Agent(model, processor, interface, name, tools=variant.tools, max_new_tokens=longest)
    settings = dict(tools=variant.tools, batch_size=p.evaluation.batch_size)
    with pictures_remembered(model):
        frame = evaluate(agent, judged, world.live, interface, **settings)
    save_trajectories(folder / f"{run.name}.jsonl", frame.pop("trajectory"))
    frame.to_parquet(folder / f"{run.name}.parquet")


def _claim(folder: Path, start, photos: Sequence[Photo], judged: Sequence[Photo], config: GrpoConfig) -> None:
    """Write down what the runs in a folder have in common, or check it."""
    ids = {"photos": [p.photo_id for p in photos], "test_photos": [p.photo_id for p in judged]}
    text = json.dumps({"start": str(start), "config": dataclasses.asdict(config), **ids}, indent=1) + "\n"
    file = folder / SETTINGS_FILE
    if not file.exists():
        with atomic_file(file) as partial:  # another process sees all of it or nothing
            partial.write_text(text)
    elif file.read_text() != text:
        raise ValueError(f"{folder}: holds runs of other settings (see {SETTINGS_FILE}); name another folder")
