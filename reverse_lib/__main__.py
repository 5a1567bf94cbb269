"""The command line: run the notebooks, answer for a photo, evaluate a model. `python -m reverse_lib COMMAND --help`."""

import ast
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from reverse_lib.profiles import CALLING

AGENT = "data/models/agent"
WORLD_ONLY = (
    "This tiny model knows only the miniature world: it reads rendered signs and landmarks. "
    "For a real photograph its answer means nothing; use --model Qwen/Qwen3-VL-4B-Instruct or your own checkpoint."
)
OFFLINE = (
    "Without --live nothing is searched for real photographs: the agent is offered no tool but the zoom. "
    "With --live you are told first what is sent to whom."
)
WORLD_PHOTOS = 200  # of the world, where nobody says how many
MOST_ROWS = 50  # bad rows of a list on standard error
GO_ON = "reverse_lib.go_on"  # in a context: what an end before the end leaves, and how to go on


class Commands(click.Group):
    """Commands that end with one line where they are stopped (status 130), or where an agent fails (1)."""

    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo(f"\nStopped{ctx.meta.get(GO_ON, '')}.", err=True)
            ctx.exit(130)
        except RuntimeError as error:
            from reverse_lib.environment import AgentError

            if isinstance(error, AgentError):
                raise click.ClickException(f"{error}{ctx.meta.get(GO_ON, '')}") from error
            raise


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A workbench for agentic image geo-localization."""


def _settings(ctx: click.Context, option: click.Parameter, texts: Sequence[str]) -> dict[str, object]:
    """NAME=VALUE texts as a dict; a value is a literal of Python where it is one, else a text."""
    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--set {text}: write NAME=VALUE, for example grpo.steps=5")
        try:
            settings[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            settings[name] = value
    return settings


@main.command()
@click.option("--profile", default="cpu", show_default=True, help="smoke, cpu, reference, gpu or qwen3vl-4b.")
@click.option("--only", multiple=True, metavar="NN_NAME", help="Run just this notebook; may be repeated.")
@click.option("--from", "start_from", metavar="NN_NAME", help="Run from this notebook on.")
@click.option(
    "--set", "settings", multiple=True, callback=_settings, metavar="NAME=VALUE", help="Change a number: grpo.steps=5."
)
@click.pass_context
def run(ctx, profile: str, only: tuple[str, ...], start_from: str | None, settings: dict[str, object]) -> None:
    """Run the numbered notebooks in order, into outputs/PROFILE/."""
    from reverse_lib import runner

    ctx.meta[GO_ON] = ". What was finished stays; go on with --from"
    try:
        with _usage_errors():
            finished = runner.run(profile, only, start_from, settings)
    except runner.NotebookError as error:
        raise click.ClickException(str(error)) from error
    runner.report(finished, Console())


def _offered(ctx: click.Context, option: click.Parameter, text: str) -> tuple[str, ...]:
    """Tool names of "all", "none" or a list such as "zoom,text"."""
    from reverse_lib.trajectory import TOOLS

    tools = dict(zip(("zoom", "image", "text"), TOOLS, strict=True))
    every = {"all": list(tools), "none": []}
    names = every[text] if text in every else [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in tools]
    if unknown:
        raise click.UsageError(f"--tools {text}: {unknown[0]!r} is unknown; use all, none, or some of zoom,image,text")
    return tuple(tool for name, tool in tools.items() if name in names)


_model = click.option("--model", default=AGENT, show_default=True, metavar="DIR|ID|openai:NAME", help="What answers.")
_tools = click.option(
    "--tools",
    default="all",
    show_default=True,
    callback=_offered,
    metavar="all|none|zoom,image,text",
    help="Tools offered.",
)
_calling = click.option(
    "--calling",
    type=click.Choice(CALLING),
    default="native",
    show_default=True,
    help="openai: tools as function calls, written in the prompt, or by the template of a checkpoint of ours.",
)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")


class _Geolocate(click.Command):
    """Lets `--coarse` stand without a value, also right before a photo."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        pairs = zip(args, [*args[1:], ""], strict=True)
        bare = [name == "--coarse" and following not in ("country", "region") for name, following in pairs]
        return super().parse_args(ctx, ["--coarse=country" if b else a for a, b in zip(args, bare, strict=True)])


@main.command(cls=_Geolocate)
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO...", type=click.Path(path_type=Path))
@_model
@_tools
@_calling
@click.option("--coarse", type=click.Choice(["country", "region"]), help="Tell no more than this; alone: country.")
@_json
@click.option("--map", "map_file", type=click.Path(path_type=Path, dir_okay=False), help="Write a map, FILE.html.")
@click.option("--live", is_flag=True, help="Search live services; you are told what goes to whom.")
def geolocate(photos, model, tools, calling, coarse, as_json, map_file, live) -> None:
    """Say where photos were taken, and how the agent got there (JPEG, PNG, WebP, HEIC).

    Nothing leaves this machine unless --live or a model on a server is asked for, and metadata never does.
    """
    with _usage_errors():
        search = _live_search(tools) if live else None
    loaded = _load_photos(photos)
    if not loaded:
        sys.exit(2)
    from tqdm import tqdm

    from reverse_lib import show
    from reverse_lib.environment import rollout
    from reverse_lib.models import SERVER

    if coarse and (live or model.startswith(SERVER)):
        click.echo("--coarse: what is told here is coarse; what is sent is not", err=True)
    agent = _agent(model, tools, calling)
    search, tools = (search, tools) if live else _offline(agent, tools)
    with tqdm(total=len(loaded), unit="photo", file=sys.stderr, disable=None if len(loaded) > 1 else True) as bar:
        trajectories = rollout(agent, loaded.values(), search, agent.interface, tools=tools, progress=bar.update)
    in_words, note = str, ""
    if agent.interface.name == "tiny":  # thinks in shorthand
        from reverse_lib.world import in_words

        note = WORLD_ONLY
    answers = show.Answers(dict(zip(loaded, trajectories, strict=True)), in_words, coarse)
    if as_json:
        click.echo(json.dumps({"model": model, "note": note, "photos": answers.rows()}, ensure_ascii=False))
    else:
        click.echo("\n".join([answers.text(), *([f"\n{note}"] if note else [])]))
    if map_file:
        try:
            show.save_map(answers.map(), map_file)
        except OSError as error:
            reason = error.strerror or error
            raise click.ClickException(f"--map {map_file}: {reason}; name a file that can be written") from error
        click.echo(f"Map: {map_file}", err=True)
    sys.exit(2 if len(loaded) < len(set(photos)) else 0)


def _load_photos(paths: Sequence[Path]) -> dict:
    """The photos that can be read, by path, under ids that say nothing of the file name; copies are one photo."""
    from reverse_lib.photos import Photo, PhotoError, load_photo

    photos, by_id = {}, {}
    for path in paths:
        try:
            load_photo(path)
        except PhotoError as error:
            click.echo(f"Error: {error}", err=True)
            continue
        photo_id = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        photos[path] = by_id.setdefault(photo_id, Photo(photo_id, source=path))
    return photos


@main.command()
@click.option(
    "--benchmark", type=click.Choice(["world", "im2gps3k", "yfcc4k", "folder"]), required=True, help="What on."
)
@click.option("--root", type=click.Path(path_type=Path), help="The folder with the photos and their CSV, or the CSV.")
@click.option("--split", help="world: test-new (the default), test-seen, val or train.")
@click.option("--world-seed", default=0, show_default=True, help="world: another seed, other places and photos.")
@click.option("--photos", "n", type=click.IntRange(1), help="How many of those listed; all, or 200 of the world.")
@_model
@_tools
@_calling
@click.option("--live", is_flag=True, help="Search live services; of the world, that is its own search engine.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Keep tables here; go on from them.")
@_json
def evaluate(benchmark, root, split, world_seed, n, model, tools, calling, live, output, as_json) -> None:
    """Measure a model: accuracy by distance, decisions, calls, each with a 95 % interval.

    Bad rows of a list are named with their line, counted, and left out. Status: 0 done, 1 failed, 2 wrong options.
    """
    from reverse_lib.world import World

    with _usage_errors():
        world = World(seed=world_seed) if benchmark == "world" else None
        if live and world:
            click.echo("--live: of the world that is its own search engine; nothing is sent", err=True)
        search = world.live if world else _live_search(tools, output) if live else None
        listing = _listing(benchmark, root, split, n, world)
    agent = _agent(model, tools, calling)
    if search is None:
        search, tools = _offline(agent, tools)
    if not world and agent.interface.name == "tiny":
        click.echo(WORLD_ONLY, err=True)
    frame = _evaluated(agent, listing, search, tools, output)
    _report(frame, listing, as_json, output)


def _listing(benchmark: str, root: Path | None, split: str | None, n: int | None, world):
    """The photos to evaluate on; what is wrong with the list goes to standard error."""
    from tqdm import tqdm

    from reverse_lib import photos

    if benchmark == "world" and root is not None:
        raise ValueError("--root: the world needs no folder; leave it out, or name another benchmark")
    if benchmark != "world" and split is not None:
        raise ValueError(f"--split: {benchmark} has no splits; leave it out, or use --benchmark world")
    if benchmark == "world":
        return photos.Listing(world.photos(split or "test-new", n or WORLD_PHOTOS))
    with tqdm(unit="photo", desc="opening", file=sys.stderr, leave=False) as bar:
        listing = photos.load(benchmark, root, n, progress=bar.update)
    published = photos.PUBLISHED.get(benchmark)
    if n is None and published and listing.listed != published:
        click.echo(f"{benchmark} is published with {published:,} photos; {listing.listed:,} are listed here", err=True)
    for word, rows in (("left out", listing.skipped), ("kept, but look", listing.suspicious)):
        for row in rows.head(MOST_ROWS).itertuples():
            click.echo(f"{word}: line {row.line}: {row.path}: {row.reason}", err=True)
        if len(rows) > MOST_ROWS:
            click.echo(f"{word}: {len(rows) - MOST_ROWS:,} rows more; --json and --output list all", err=True)
    if not listing.photos:
        raise click.ClickException(f"{root}: none of {listing.listed} listed photos can be used")
    return listing


def _evaluated(agent, listing, search, tools: Sequence[str], output: Path | None):
    """The table of the run; with an output folder it goes on where it stopped, and the bad rows lie there too."""
    from tqdm import tqdm

    from reverse_lib import evaluation

    go_on = f"; what was written to {output} stays, and the same command goes on" if output else ""
    click.get_current_context().meta[GO_ON] = go_on
    try:
        with tqdm(total=len(listing.photos), unit="photo", file=sys.stderr) as bar:
            settings = {"tools": tools, "progress": bar.update, "folder": output}
            frame = evaluation.evaluate(agent, listing.photos, search, agent.interface, **settings)
    except ValueError as error:
        if output and str(error).startswith(str(output)):
            raise click.UsageError(f"--output {error}") from error
        raise
    except OSError as error:
        raise click.ClickException(f"{error}{go_on}") from error
    if output:
        listing.skipped.to_csv(output / "skipped.csv", index=False)
    return frame


def _report(frame, listing, as_json: bool, output: Path | None) -> None:
    """The metrics on standard output; what they leave out on standard error, and in the JSON."""
    from reverse_lib import evaluation

    unserved = len(evaluation.service_failed(frame))
    if unserved:
        click.echo(f"{unserved} of {len(frame)} photos left out: their search service failed", err=True)
    if unserved == len(frame):
        raise click.ClickException("no photo can be scored; check the search service, and try again")
    summary = evaluation.summarize(frame)
    skipped = json.loads(listing.skipped.to_json(orient="records"))
    report = evaluation.to_json(summary) | {"listed": listing.listed, "skipped": skipped, "unserved": unserved}
    if report["n"] < listing.listed:
        reasons = listing.counts() | ({"unserved": unserved} if unserved else {})
        bound = report["metrics"]["within_25km"]["value"] * report["n"] / listing.listed
        counts = ", ".join(f"{kind} {count}" for kind, count in reasons.items())
        click.echo(f"{report['n']} of {listing.listed} listed photos were evaluated ({counts})", nl=False, err=True)
        click.echo(f"; were the others wrong answers, within_25km would be {bound:.3f}", err=True)
    if output:
        text = json.dumps(report, ensure_ascii=False, indent=2)
        (output / "summary.json").write_text(f"{text}\n", encoding="utf-8")
    click.echo(json.dumps(report, ensure_ascii=False) if as_json else summary.round(3).to_string())


def _live_search(tools: Sequence[str], output: Path | None = None):
    """Live services, said on standard error; with an output folder what they answer is recorded, and asked once."""
    from reverse_lib.search import CacheError, RecordedSearch, SearchCache, configured

    try:
        search, sent = configured(tools)
    except ValueError as error:
        raise ValueError(f"--live: {error} with --tools") from error
    for sentence in sent or ["no tool that searches is offered: nothing is sent"]:
        click.echo(f"--live: {sentence}", err=True)
    click.echo("--live: no file name, place or metadata is sent, nor the rest of a photo", err=True)
    if output is None:
        return search
    try:
        cache = SearchCache.open(output / "search_cache", mode="w", min_similarity=1.0, min_iou=1.0)
    except CacheError as error:
        raise ValueError(f"--output: {error}") from error
    return RecordedSearch(click.get_current_context().with_resource(cache), search)


def _offline(agent, tools: Sequence[str]):
    """What is searched on this machine: the miniature web, for an agent that knows no other; nothing for others."""
    if agent.interface.name == "tiny":
        from reverse_lib.world import World

        return World(seed=0).live, tools
    from reverse_lib.search import LiveSearch
    from reverse_lib.trajectory import SEARCH_TOOLS

    click.echo(OFFLINE, err=True)
    agent.tools = tuple(name for name in tools if name not in SEARCH_TOOLS)
    return LiveSearch(), agent.tools


def _agent(model: str, tools: Sequence[str], calling: str):
    """The model as an agent; what goes wrong is one line that names it."""
    from reverse_lib.models import ModelError, load_named

    try:
        return load_named(model, tools, calling, say=lambda text: click.echo(text, err=True))
    except ModelError as error:
        raise click.ClickException(f"--model {error}") from error


@contextmanager
def _usage_errors() -> Iterator[None]:
    """Turns what was wrong with the options into click's message and status 2."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@main.command()
@click.option("--photos", default=10_000, show_default=True, type=click.IntRange(1), help="36 results each.")
@click.option("--results", default=10**6, show_default=True, type=click.IntRange(1), help="Of the largest cache.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Pairs of processes a side.")
@_json
def bench(photos: int, results: int, repeats: int, as_json: bool) -> None:
    """Measure the search cache against the obvious way, and against its own size (minutes)."""
    from reverse_lib import scale

    work = scale.Workload(photos, repeats=repeats)
    tables = {"compared": scale.compare_caches(work, progress=True).reset_index()}
    sizes = [10**power for power in range(4, 8) if 10**power < results] + [results]
    tables["scale"] = scale.grow_caches(sizes, work, progress=True)
    if as_json:
        click.echo(json.dumps({name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}))
        return
    for name, table in tables.items():
        Console().print(scale.rich_table(table, name))


if __name__ == "__main__":
    main(prog_name="python -m reverse_lib")
