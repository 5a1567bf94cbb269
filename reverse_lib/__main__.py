"""The command line: run the notebooks, answer for a photo, evaluate a model. `python -m reverse_lib COMMAND --help`."""

import ast
import hashlib
import json
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

AGENT = "data/models/agent"
WORLD_ONLY = (
    "This tiny model knows only the miniature world: it reads rendered signs and landmarks. "
    "For a real photograph its answer means nothing; use --model Qwen/Qwen3-VL-4B-Instruct or your own checkpoint."
)
NO_LIVE = (
    "--live: no live search service is configured; leave --live out to search the miniature web, "
    "the only search this version has"
)
TOOL_NAMES = {"zoom": "image_zoom_in_tool", "image": "image_search_tool", "text": "text_search_tool"}


class Interruptible(click.Group):
    """Commands that end with one line and status 130 on Ctrl-C."""

    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\nStopped.", err=True)
            ctx.exit(130)


@click.group(cls=Interruptible, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A workbench for agentic image geo-localization."""


@main.command()
@click.option("--profile", default="cpu", show_default=True, help="smoke, cpu, gpu or qwen3vl-4b.")
@click.option("--only", multiple=True, metavar="NN_NAME", help="Run just this notebook; may be repeated.")
@click.option("--from", "start_from", metavar="NN_NAME", help="Run from this notebook on.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Change a number, e.g. grpo.steps=5.")
def run(profile: str, only: tuple[str, ...], start_from: str | None, settings: tuple[str, ...]) -> None:
    """Run the numbered notebooks in order, into outputs/PROFILE/."""
    from reverse_lib import runner
    from reverse_lib.profiles import get_profile, known_keys

    console = Console(stderr=True)
    try:
        overrides = dict(_setting(text) for text in settings)
        finished = runner.run(profile, only, start_from, overrides, console=console)
        known = {key: value for key, value in overrides.items() if key in known_keys()}
        runner.report(finished, runner.ROOT / get_profile(profile, **known).folder, Console())
    except runner.NotebookError as error:
        raise click.ClickException(str(error)) from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except KeyboardInterrupt:
        click.echo("\nStopped. What was finished stays; go on with --from.", err=True)
        sys.exit(130)


def _setting(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"--set {text}: write NAME=VALUE, for example grpo.steps=5")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


@main.command()
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO...", type=click.Path(path_type=Path))
@click.option("--model", default=AGENT, show_default=True, metavar="DIR|ID", help="A checkpoint folder or model id.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("--map", "map_file", type=click.Path(path_type=Path, dir_okay=False), help="Write a map, FILE.html.")
@click.option("--live", is_flag=True, help="Search live services.")
def geolocate(photos: tuple[Path, ...], model: str, as_json: bool, map_file: Path | None, live: bool) -> None:
    """Say where photos were taken, and how the agent got there (JPEG, PNG, WebP, HEIC)."""
    if live:
        raise click.UsageError(NO_LIVE)
    loaded, failed = _load_photos(photos)
    if not loaded:
        sys.exit(2)
    from tqdm import tqdm

    from reverse_lib.environment import rollout

    agent, search = _agent(model), _world(0).live
    with tqdm(total=len(loaded), unit="photo", file=sys.stderr, disable=None if len(loaded) > 1 else True) as bar:
        trajectories = rollout(agent, list(loaded.values()), search, agent.interface, progress=bar.update)
    in_words = _in_words(agent)
    note = WORLD_ONLY if agent.interface.name == "tiny" else ""
    if as_json:
        rows = [_row(path, trajectory) for path, trajectory in zip(loaded, trajectories, strict=True)]
        click.echo(json.dumps({"model": model, "note": note, "photos": rows}, ensure_ascii=False))
    else:
        for path, trajectory in zip(loaded, trajectories, strict=True):
            click.echo(_told(path, trajectory, in_words))
        if note:
            click.echo(f"\n{note}")
    if map_file:
        _write_map(trajectories, in_words, map_file)
    sys.exit(2 if failed else 0)


def _load_photos(paths: Sequence[Path]) -> tuple[dict, int]:
    """Photos by path, under ids that say nothing of the file name; problems go to standard error and are counted.

    Copies of a file share an id, and so the photo itself.
    """
    from reverse_lib.photos import Photo, PhotoError, load_photo

    loaded, failed, known = {}, 0, {}
    for path in paths:
        try:
            load_photo(path)
        except PhotoError as error:
            click.echo(f"Error: {error}", err=True)
            failed += 1
            continue
        photo_id = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        loaded[path] = known.setdefault(photo_id, Photo(photo_id, source=path))
    return loaded, failed


def _write_map(trajectories: Sequence, in_words, path: Path) -> None:
    from reverse_lib.maps import answer_map, save_map

    try:
        save_map(answer_map(trajectories, in_words=in_words), path)
    except OSError as error:
        raise click.ClickException(
            f"--map {path}: {error.strerror or error}; name a file that can be written"
        ) from error
    click.echo(f"Map: {path}", err=True)


def _told(path: Path, trajectory, in_words) -> str:
    from reverse_lib.evaluation import narrate

    answer = trajectory.answer
    found = answer.text() if answer else f"no readable answer (the rollout ended: {trajectory.end or 'unfinished'})"
    return "\n".join([f"\n{path}: {found}", *(f"  {line}" for line in narrate(trajectory, in_words))])


def _row(path: Path, trajectory) -> dict:
    answer = trajectory.answer
    return {
        "photo": str(path),
        "answer": answer and {"country": answer.country, "city": answer.city, "lat": answer.lat, "lon": answer.lon},
        "end": trajectory.end,
        "trajectory": trajectory.to_dict(),
    }


@main.command()
@click.option("--benchmark", type=click.Choice(["world", "folder"]), required=True, help="What to evaluate on.")
@click.option("--root", type=click.Path(path_type=Path), help="folder: a CSV with path, lat, lon, or its folder.")
@click.option("--split", default="test-new", show_default=True, help="world: train, val, test-seen or test-new.")
@click.option("--world-seed", default=0, show_default=True, help="world: another seed, other places and photos.")
@click.option("--photos", "n", type=click.IntRange(1), help="How many; all of a folder, or 200 of the world.")
@click.option("--model", default=AGENT, show_default=True, metavar="DIR|ID", help="A checkpoint folder or model id.")
@click.option("--tools", default="all", show_default=True, metavar="all|none|zoom,image,text", help="Tools offered.")
@click.option("--live", is_flag=True, help="Search live; of the world, that is its own search engine.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def evaluate(benchmark, root, split, world_seed, n, model, tools, live, as_json) -> None:
    """Measure a model: accuracy by distance, decisions, calls, each with a 95 % interval."""
    if live and benchmark == "folder":
        raise click.UsageError(NO_LIVE)
    world = _world(world_seed)
    try:
        offered = _tools(tools)
        photos = _folder_photos(root, n) if benchmark == "folder" else world.photos(split, n or 200)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    from tqdm import tqdm

    from reverse_lib import evaluation

    agent = _agent(model, tools=offered)
    with tqdm(total=len(photos), unit="photo", file=sys.stderr) as bar:
        frame = evaluation.evaluate(agent, photos, world.live, agent.interface, tools=offered, progress=bar.update)
    summary = evaluation.summarize(frame)
    dropped = len(frame) - int(summary.loc["parsed", "n"])
    if dropped:
        click.echo(f"{dropped} of {len(frame)} photos left out: their search service failed", err=True)
    click.echo(json.dumps(evaluation.to_json(summary)) if as_json else summary.round(3).to_string())


def _tools(text: str) -> tuple[str, ...]:
    """Tool names of "all", "none" or a list such as "zoom,text"."""
    if text in ("all", "none"):
        return tuple(TOOL_NAMES.values()) if text == "all" else ()
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in TOOL_NAMES]
    if unknown:
        raise ValueError(f"--tools {text}: {unknown[0]!r} is unknown; use all, none, or some of zoom,image,text")
    return tuple(tool for name, tool in TOOL_NAMES.items() if name in names)


def _folder_photos(root: Path | None, n: int | None) -> list:
    from reverse_lib.photos import load_folder

    if root is None:
        raise ValueError("--benchmark folder: say where the photos are with --root DIR (a CSV with path, lat, lon)")
    tables = sorted(root.glob("*.csv")) if root.is_dir() else [root]
    if len(tables) != 1 or not tables[0].is_file():
        raise ValueError(
            f"{root}: {len(tables) if root.is_dir() else 'no'} CSV file there; name the one with --root FILE"
        )
    photos, problems = load_folder(tables[0])
    for problem in problems:
        click.echo(f"left out: {problem}", err=True)
    if not photos:
        raise ValueError(f"{tables[0]}: no photo in it can be used; it needs columns path, lat, lon")
    return photos[:n]


def _agent(model: str, **settings):
    """The model as an agent; what goes wrong is one line that names it."""
    _quiet()
    source = _source(model)
    from safetensors import SafetensorError

    from reverse_lib.policy import INTERFACE_FILE, load_agent

    if isinstance(source, Path) and not (source / INTERFACE_FILE).is_file():
        click.echo(f"{source}: has no {INTERFACE_FILE}, so it is prompted like a large model", err=True)
    try:
        return load_agent(source, **settings)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise click.ClickException(f"--model {model}: {str(error).strip().splitlines()[0]}") from error


def _source(model: str) -> Path | str:
    """The folder or the model id, known to exist; a model id that is not on this disk is asked for on-line."""
    path = Path(model).expanduser()
    if path.is_dir():
        for name in ("config.json", "tokenizer.json"):
            if not (path / name).is_file():
                raise click.ClickException(
                    f"--model {model}: no {name} in this folder; name one with a checkpoint in it"
                )
        return path
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model) or path.parent.exists():
        raise click.ClickException(f"--model {model}: no such folder; name one with a checkpoint in it, or a model id")
    from huggingface_hub import HfApi, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(model, "config.json"), str):
        return model
    try:
        known = HfApi().repo_exists(model)
    except Exception as error:  # the HTTP library's own kinds, which vary with the version of huggingface_hub
        reason = str(error).strip().splitlines()[0]
        raise click.ClickException(
            f"--model {model}: no such folder, and huggingface.co can't be asked for it ({reason})"
        ) from error
    if not known:
        raise click.ClickException(
            f"--model {model}: neither a folder nor a model on huggingface.co; check its spelling"
        )
    return model


def _quiet() -> None:
    """Loading a model says nothing unless it fails; a download keeps its progress bar in a terminal."""
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if not sys.stderr.isatty():
        disable_progress_bars()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _world(seed: int):
    from reverse_lib.world import World

    return World(seed=seed)


def _in_words(agent):
    """The tiny agent writes shorthand; others write words already."""
    if agent.interface.name != "tiny":
        return str
    from reverse_lib import teacher

    return teacher.in_words


if __name__ == "__main__":
    main(prog_name="python -m reverse_lib")
