"""The folder of an evaluation: what is finished is on disk, so that a run that was stopped goes on where it stopped.

    run.json              what this run is: photos, agent, tools, budgets, interface, search
    trajectories.jsonl    finished trajectories, one a line; when all are, in the order of the photos
    results.parquet       a row a photo: truth, answer, km, reward components, calls; when all are finished

A trajectory is on disk as soon as it ends. Photos whose search service failed are asked again by the next run.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from reverse_lib.environment import Interface
from reverse_lib.photos import Photo
from reverse_lib.profiles import Budgets
from reverse_lib.reward import score
from reverse_lib.search import SearchBackend
from reverse_lib.trajectory import Journal, Trajectory, load_trajectories, save_trajectories

RUN_FILE, TRAJECTORIES, RESULTS = "run.json", "trajectories.jsonl", "results.parquet"
_SETTINGS = ("temperature", "max_tokens", "image_px")  # of an agent on a server: what changes its answers
_WEIGHTS_READ = 64  # numbers of each matrix that go into the fingerprint; training changes them all


class RunFolder:
    """The files of one run.

    Args:
        path: The folder; made if missing.
        facts: What the run is, in JSON types, as `facts_of` says it.

    Raises:
        ValueError: The folder holds another run, or a file that is none of a run's; names what differs.
    """

    def __init__(self, path: str | os.PathLike[str], facts: dict):
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / RUN_FILE
        if file.exists():
            _check(file, facts)
        elif (self.path / TRAJECTORIES).exists():
            raise ValueError(f"{self.path}: holds trajectories, but no {RUN_FILE} that says whose; name another folder")
        else:
            _write(file, lambda target: target.write_text(json.dumps(facts, indent=2) + "\n"))
        self._journal = Journal(self.path / TRAJECTORIES)

    def finished(self) -> dict[str, Trajectory]:
        """Finished trajectories by photo id, those left out whose service failed.

        Raises:
            ValueError: A line is no trajectory; names the file and the photo.
        """
        rows = {}
        for row in self._journal.rows:
            try:
                rows[row.get("photo_id")] = Trajectory.from_dict(row)
            except (ValueError, TypeError) as error:
                name = f"{self._journal.path}, photo {row.get('photo_id')!r}"
                raise ValueError(f"{name}: not a trajectory ({error}); repair or delete that line") from error
        return {photo_id: row for photo_id, row in rows.items() if not service_failed(row)}

    def add(self, trajectory: Trajectory) -> None:
        """Writes one more, on disk when this returns."""
        self._journal.append(trajectory.to_dict())

    def finish(self, frame: pd.DataFrame) -> None:
        """Writes the table and its trajectories, all photos in their order."""
        save_trajectories(self.path / TRAJECTORIES, frame["trajectory"])
        _write(self.path / RESULTS, frame.drop(columns="trajectory").to_parquet)


def kept_trajectories(folder: str | os.PathLike[str]) -> list[Trajectory]:
    """The trajectories of a finished run.

    Raises:
        FileNotFoundError: It isn't finished, or there is none.
    """
    if not (Path(folder) / RESULTS).is_file():
        raise FileNotFoundError(f"{folder}: no finished run (no {RESULTS}); call evaluate with this folder")
    rows = load_trajectories(Path(folder) / TRAJECTORIES)
    return list({row.photo_id: row for row in rows}.values())


def service_failed(trajectory: Trajectory) -> bool:
    """Whether nothing can be said of the agent, since a service it needed failed."""
    return trajectory.end == "service_error" or score(trajectory).service_error


def facts_of(
    policy: Callable,
    photos: Sequence[Photo],
    search: SearchBackend,
    interface: Interface,
    budgets: Budgets,
    tools: Sequence[str],
) -> dict:
    """What makes a run this run and no other, in JSON types. Of an agent, numbers and names only: a text may be a key.

    Args: those of `evaluation.evaluate`.
    """
    listed = [[photo.photo_id, photo.lat, photo.lon] for photo in photos]
    agent = {"name": str(getattr(policy, "name", "") or type(policy).__name__)}
    agent |= {"model": policy.model} if isinstance(getattr(policy, "model", None), str) else {}
    names = [field.name for field in dataclasses.fields(policy)] if dataclasses.is_dataclass(policy) else []
    numbers = {name: getattr(policy, name) for name in names}
    numbers |= {name: getattr(getattr(policy, "config", None), name, None) for name in _SETTINGS if name not in numbers}
    agent |= {name: value for name, value in numbers.items() if isinstance(value, int | float)}
    facts = {f"agent {name}": value for name, value in agent.items()}
    return facts | {
        "agent weights": _weights(getattr(policy, "model", None)),
        "photos": f"{len(listed)} ({_digest(listed)})",
        "tools": sorted(tools),
        "budgets": dataclasses.asdict(budgets),
        "interface": f"{interface.name} ({_digest(dataclasses.asdict(interface))})",
        "search": " ".join([type(search).__name__, str(getattr(search, "mode", ""))]).strip(),
    }


def _weights(model) -> str:
    """A fingerprint of a torch model, "" for anything else."""
    if not hasattr(model, "named_parameters"):
        return ""
    named = model.named_parameters()
    return _digest([[name, value.detach().flatten()[:_WEIGHTS_READ].float().cpu().tolist()] for name, value in named])


def _digest(value) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=8).hexdigest()


def _check(file: Path, facts: dict) -> None:
    """Refuses the folder of another run."""
    try:
        kept = json.loads(file.read_text())
        names = [name for name in {**kept, **facts} if kept.get(name) != facts.get(name)]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: can't be read ({error}); delete its folder or name another") from error
    if names:
        other = "; ".join(f"{name} {kept.get(name)!r} there, {facts.get(name)!r} here" for name in names)
        raise ValueError(f"{file.parent}: holds another run ({other}); name another folder, or delete this one")


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Atomic: the file has its name only when it is whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
