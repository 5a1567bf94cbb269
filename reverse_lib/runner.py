"""Running the numbered notebooks in order, without a browser, into `outputs/<profile>/`.

What differs from plain papermill: a parameter that a notebook doesn't have is an error instead of a warning, the time
limit covers a whole notebook instead of a cell, and the progress line shows cells, rate and the last line of output.
A notebook's `parameters` cell has `profile = "cpu"` and `overrides = {}` and calls `get_profile(profile, **overrides)`.

    python -m reverse_lib run --profile smoke --from 03_sft --set grpo.steps=5
"""

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from reverse_lib.profiles import Profile, get_profile, known_keys

ROOT = Path(__file__).resolve().parent.parent
KERNEL = "python3"  # jupyter starts it with the interpreter that runs this module
KERNEL_ENVIRONMENT = {
    "MPLBACKEND": "agg",
    "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "REVERSE_NO_FRONT_END": "1",  # nobody will move a slider
}
ROWS_A_NOTEBOOK = 12
RUN_FILE = "run.json"  # what a figure was made with
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "numpy", "pandas")


class RunError(ValueError):
    """A run that can't start as asked: an unknown notebook, setting or parameter."""


class NotebookError(RuntimeError):
    """A notebook that failed: which one, in which cell, why, and where the executed notebook lies."""


@dataclass(frozen=True)
class Finished:
    """One executed notebook."""

    name: str
    path: Path  # the executed notebook
    seconds: float
    metrics: dict  # empty if it wrote none


def run(
    profile: str = "cpu",
    only: Sequence[str] = (),
    start_from: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    notebooks: Path | None = None,
    console: Console | None = None,
) -> list[Finished]:
    """Execute notebooks in order; stop at the first that fails.

    Args:
        profile: A name of `profiles.PROFILES`.
        only: Run just these, by name or number ("03_sft", "03"); all where it is empty.
        start_from: Run from this one on.
        overrides: Settings of the profile ("grpo.steps": 5), or parameters that a chosen notebook has.
        notebooks: Folder of NN_name.ipynb; None for the repository's own.
        console: Where progress goes; None for standard error.

    Returns:
        The executed notebooks, in order.

    Raises:
        RunError: A name is unknown, before anything was started.
        NotebookError: A notebook failed; those before it are done, and stay.
    """
    console = console or Console(stderr=True)
    overrides = dict(overrides or {})
    settings = {key: value for key, value in overrides.items() if key in known_keys()}
    config = get_profile(profile, **settings)
    chosen = select(sorted((notebooks or ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")), only, start_from)
    own = {key: value for key, value in overrides.items() if key not in settings}
    parameters = {path: _parameters(path, profile, settings, own) for path in chosen}
    if unknown := set(own).difference(*parameters.values()):
        names = f"a parameter of {', '.join(path.stem for path in chosen)}"
        raise RunError(f"{min(unknown)}: neither a setting of a profile nor {names}; see reverse_lib/profiles.py")
    folder = ROOT / config.folder
    folder.mkdir(parents=True, exist_ok=True)
    finished = []
    for path in chosen:
        finished.append(execute(path, folder / path.name, parameters[path], config.timeout_s, console))
        note_run(folder, config, overrides, finished[-1])
    return finished


def select(paths: Sequence[Path], only: Sequence[str], start_from: str | None) -> list[Path]:
    """The notebooks asked for, in order.

    Raises:
        RunError: There are none, none is left, or a name fits none or several.
    """
    if not paths:
        raise RunError("no notebooks named NN_name.ipynb found; run from a clone of the repository")
    wanted = {_find(paths, name) for name in only or [path.stem for path in paths]}
    first = _find(paths, start_from) if start_from else paths[0]
    if first > max(wanted):
        raise RunError(f"none of {', '.join(only)} comes after {start_from}; leave out --from or --only")
    return [path for path in paths if path in wanted and path >= first]


def _find(paths: Sequence[Path], name: str) -> Path:
    name = name.removesuffix(".ipynb")
    hits = [path for path in paths if path.stem == name] or [path for path in paths if path.stem.startswith(name + "_")]
    if len(hits) != 1:
        known = ", ".join(path.stem for path in paths)
        raise RunError(f"notebook {name!r} fits {len(hits)} notebooks; choose one of {known}")
    return hits[0]


def _parameters(path: Path, profile: str, settings: Mapping, own: Mapping) -> dict[str, Any]:
    """What one notebook is given; papermill would only warn about a name that it lacks."""
    import papermill

    known = papermill.inspect_notebook(path)
    given = {"profile": profile, **({"overrides": dict(settings)} if settings else {})}
    for name in given:
        if name not in known:
            raise RunError(f"{path.name}: no parameter {name!r} in its parameters cell; it has {sorted(known)}")
    return {**given, **{key: value for key, value in own.items() if key in known}}


def execute(path: Path, target: Path, parameters: Mapping, timeout_s: float, console: Console) -> Finished:
    """Execute one notebook from the repository root, written to `target` cell by cell, in `timeout_s` for all of it.

    Raises:
        NotebookError: A cell raised, the time was up, or the kernel died.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    metrics = target.with_name(f"{path.stem}.metrics.json")
    metrics.unlink(missing_ok=True)
    log = target.resolve().with_suffix(".kernel.log")  # what the kernel's own process complains about, seldom anything
    started = time.monotonic()
    deadline = started + timeout_s
    with _progress(path, console) as progress:
        try:
            papermill.execute_notebook(
                path.resolve(),
                target.resolve(),
                parameters=dict(parameters),
                engine_name=_engine(),
                kernel_name=KERNEL,
                language="python",
                cwd=ROOT,
                progress_bar=False,
                stderr_file=progress,
                stdout_file=progress,
                start_timeout=120,
                timeout_func=lambda cell: max(0.1, deadline - time.monotonic()),
                on_cell_start=progress.on_cell,
                kernel_log=log,
            )
        except papermill.PapermillExecutionError as error:
            reason = f"cell In [{error.exec_count}] raised {error.ename}: {error.evalue}"
            raise _failed(path, target, reason, error.source) from error
        except CellTimeoutError as error:
            reason = f"time limit of {timeout_s:g} s used up in cell In [{progress.code_cells}]"
            raise _failed(path, target, reason, progress.source) from error
        except DeadKernelError as error:
            reason = f"the kernel died in cell In [{progress.code_cells}], perhaps for want of memory"
            reason += "".join(f"\n    {line}" for line in log.read_text().splitlines()[-5:])
            raise _failed(path, target, reason, progress.source) from error
        finally:
            if log.is_file() and not log.stat().st_size:
                log.unlink()
    written = json.loads(metrics.read_text()) if metrics.is_file() else {}
    return Finished(path.stem, target, time.monotonic() - started, written)


def _failed(path: Path, target: Path, reason: str, source: str) -> NotebookError:
    lines = source.strip().splitlines()
    excerpt = "\n".join(f"    {line}" for line in lines[:12]) + ("\n    …" if len(lines) > 12 else "")
    return NotebookError(f"{path.stem}: {reason}\n{excerpt}\nThe executed notebook: {_shown(target)}")


def _engine() -> str:
    """Register papermill's engine with an environment of its own for the kernel, and a file for what it complains."""
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import Engine, papermill_engines

    class Logged(Engine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, kernel_log, start_timeout, input_path, **settings):
            settings |= {"startup_timeout": start_timeout, "extra_arguments": ["--log-level=ERROR"]}
            client = PapermillNotebookClient(nb_man, kernel_name=kernel_name, **settings)
            with kernel_log.open("w") as log:
                return client.execute(stderr=log, env=os.environ | KERNEL_ENVIRONMENT)

    papermill_engines.register("reverse", Logged)
    return "reverse"


class _Rate(ProgressColumn):
    """Cells a minute, so far."""

    def render(self, task) -> Text:
        minutes = (task.elapsed or 0) / 60
        return Text(f"{task.completed / minutes:.1f} cells/min" if minutes and task.completed else "", style="cyan")


class _Line:
    """The progress line of one notebook; also a text file whose last line is shown behind it."""

    def __init__(self, progress: Progress, task):
        self._progress, self._task = progress, task
        self.code_cells, self.source = 0, ""

    def on_cell(self, cell, cell_index: int) -> None:
        self._progress.update(self._task, completed=cell_index, last="")
        if cell.cell_type == "code":
            self.code_cells, self.source = self.code_cells + 1, cell.source

    def write(self, text: str) -> None:
        lines = text.replace("\r", "\n").strip().splitlines()
        if lines:
            self._progress.update(self._task, last=lines[-1][:60])

    def flush(self) -> None:
        """Nothing is buffered."""


@contextmanager
def _progress(path: Path, console: Console) -> Iterator[_Line]:
    import nbformat

    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description:<16}"),
        BarColumn(bar_width=18),
        TextColumn("{task.completed:.0f}/{task.total:.0f} cells"),
        TimeElapsedColumn(),
        _Rate(),
        TextColumn("{task.fields[last]}", style="dim", markup=False),
    )
    cells = len(nbformat.read(path, as_version=4).cells) + 1  # papermill adds one with what the notebook is given
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        task = progress.add_task(path.stem, total=cells, last="")
        yield _Line(progress, task)
        progress.update(task, completed=cells, last="")


def report(finished: Sequence[Finished], console: Console) -> None:
    """The table of results, then the files to open."""
    table = Table(title="Results", title_justify="left", title_style="bold")
    for heading, justify in (("notebook", "left"), ("time", "right"), ("metric", "left"), ("value", "right")):
        table.add_column(heading, justify=justify)
    for item in finished:
        rows = list(_flat(item.metrics))
        first, *rest = rows[:ROWS_A_NOTEBOOK] or [("", "")]
        table.add_row(item.name, f"{item.seconds:.0f} s", *first)
        for row in rest:
            table.add_row("", "", *row)
        if len(rows) > ROWS_A_NOTEBOOK:
            table.add_row("", "", f"… {len(rows) - ROWS_A_NOTEBOOK} more in {item.name}.metrics.json", "", style="dim")
        table.add_section()
    console.print(table)
    folder = finished[0].path.parent
    files = [path for pattern in ("maps/*.html", "figures/*.png") for path in sorted(folder.glob(pattern))]
    console.print("Open:", style="bold")
    for path in [*files, *(item.path for item in finished)]:
        console.print(f"  {_shown(path)}", highlight=False, soft_wrap=True)


def _flat(metrics: Mapping, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(name, text) of every number or text in nested metrics; value with low and high become one row."""
    for name, value in metrics.items():
        if isinstance(value, Mapping) and "value" in value:
            spread = f" ({_text(value['low'])} to {_text(value['high'])})" if {"low", "high"} <= set(value) else ""
            yield prefix + name, _text(value["value"]) + spread
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            yield prefix + name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "–" if value is None else str(value)


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def note_run(folder: Path, profile: Profile, overrides: Mapping[str, Any], notebook: Finished) -> None:
    """Write down what a notebook was made with in the folder's run.json; what it says of other notebooks stays."""
    file = folder / RUN_FILE
    try:
        notes = json.loads(file.read_text())
    except (OSError, ValueError):
        notes = {}
    notes[notebook.name] = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(notebook.seconds, 1),
        "profile": profile.name,
        "overrides": dict(overrides),
        "seeds": {"training": profile.seed, "world": profile.world.seed},
        "hardware": _hardware(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
        "commit": _commit(),
    }
    file.write_text(json.dumps(dict(sorted(notes.items())), indent=1) + "\n")


def _hardware() -> dict[str, Any]:
    """Processor, cores that may be used, memory in GiB, and GPUs, as far as the system tells."""
    import psutil

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines(),
    }


def _commit(folder: Path = Path(__file__).parent) -> str:
    """The commit that is checked out, "-dirty" behind it where a file differs that a run does not write itself."""
    git = ("git", "-C", str(folder))
    commit = _output(*git, "rev-parse", "--short=12", "HEAD")
    changed = commit and _output(*git, "status", "--porcelain", "-uno", "--", ":/", ":(top,exclude)outputs")
    return f"{commit}-dirty" if changed else commit


def _output(*command: str) -> str:
    """What a program says, "" where there is no such program or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
