"""What a figure was made with: seeds, versions, hardware, date and wall time, in one file beside it.

note_run(Path("outputs/cpu"), get_profile("cpu"), {}, "03_sft", seconds=75.0)      # outputs/cpu/run.json
"""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from reverse_lib.profiles import Profile

FILE = "run.json"
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "numpy", "pandas")


def note_run(folder: Path, profile: Profile, overrides: Mapping[str, Any], notebook: str, seconds: float) -> Path:
    """Write down that a notebook was executed; what other notebooks of the folder were made with stays.

    Args:
        folder: Of the profile's results.
        profile: As it was run, overrides included.
        overrides: Settings that differ from the profile of that name.
        notebook: Its name without suffix.
        seconds: Wall time.

    Returns:
        The file: a dict by notebook's name.
    """
    file = folder / FILE
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):
        known = {}
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    seeds = {"training": profile.seed, "world": profile.world.seed}
    known[notebook] = {
        "finished": finished,
        "seconds": round(seconds, 1),
        "profile": profile.name,
        "overrides": dict(overrides),
        "seeds": seeds,
        **surroundings(),
    }
    file.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
    return file


def surroundings() -> dict[str, Any]:
    """The machine and the software: hardware, python, packages (versions by name), commit ("" outside of git)."""
    return {"hardware": _hardware(), "python": platform.python_version(), "packages": _versions(), "commit": _commit()}


def _hardware() -> dict[str, Any]:
    """Processor, cores that may be used, memory in GiB, and GPUs, as far as the system tells."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    kib = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"cpu": names[0] if names else platform.processor() or platform.machine(), "cores": cores}
    found["memory_gib"] = round(kib / 2**20, 1) or None
    found["gpus"] = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
    return found


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


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
