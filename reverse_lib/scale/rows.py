"""Rows of the released data set as trajectories, and trajectories as rows.

Reading keeps what a trajectory has no field for in `extra`: `prompt` (the messages before the model's first), fields of
`extra_info` under their own names, `n_nudges`, and under `released` every column that could not be written from the
rest exactly as it was (a float in another format, tags with other line breaks). Writing uses such a column as long as
it still says what the trajectory says; a trajectory that was changed since, or that is not from the data set, is
written from its fields. So what is read and written again is equal, and what is edited is not overruled.

Ground truth is `lat, lon, country, city`; answers are `Country, City, lat, lon`.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from reverse_lib.environment import FULL, Interface, how_it_ended
from reverse_lib.photos import Photo
from reverse_lib.scale.messages import IMAGE, PICTURE, TEXT, ZOOM, messages_of, steps_of
from reverse_lib.scale.tables import RL, RL_LABELLED, SFT, InteropError, photo_id_of, write_table
from reverse_lib.trajectory import TOOLS, Trajectory, curriculum

UNKNOWN = "Unknown"  # how the data set writes a country or city nobody knows
_INFO = ("index", "part", "difficulty", "km", "need_tools_kwargs", "split")
_COUNTS = {"n_crop_calls": ZOOM, "n_search_calls": IMAGE, "n_tavily_calls": TEXT}


def from_sft(row: dict[str, Any]) -> Trajectory:
    """Reads a row of an SFT table.

    Raises:
        ValueError: It is no conversation about a photo.
    """
    return _with_rest(row, _core_of_sft, to_sft)


def to_sft(trajectory: Trajectory) -> dict[str, Any]:
    """Writes a row of an SFT table; a zoom's picture is named after the photo's."""
    messages = [*_prompt(trajectory), *messages_of(trajectory.steps)]
    count = sum(message["content"].count(PICTURE) for message in messages)
    path = PurePosixPath(_path(trajectory.photo_id))
    zooms = [f"{path.with_suffix('')}_zoom{number}.jpg" for number in range(1, count)]
    row = {"messages": messages, "images": [{"image": str(name)} for name in [path, *zooms][:count]]}
    return _with_kept(row, trajectory, _core_of_sft)


def from_rl(row: dict[str, Any]) -> Trajectory:
    """Reads a row of an RL table: a trajectory without steps.

    Raises:
        ValueError: Its ground truth or its photo can't be read.
    """
    return _with_rest(row, _core_of_rl, to_rl)


def to_rl(trajectory: Trajectory) -> dict[str, Any]:
    """Writes a row of an RL table."""
    path, extra = _path(trajectory.photo_id), trajectory.extra
    truth = _truth(trajectory)
    info = {"index": 0, "part": "", "difficulty": curriculum(trajectory), "km": trajectory.km, "split": "train"}
    info |= {"need_tools_kwargs": True} | {name: extra[name] for name in _INFO if name in extra}
    row = {
        "data_source": "coldstart",
        "prompt": _prompt(trajectory),
        "images": [{"image_url": path}],
        "ability": "geoloc",
        "reward_model": {"ground_truth": truth, "style": "rule"},
        "agent_name": "tool_agent",
        "extra_info": {
            "answer": truth,
            "index": info["index"],
            "img_id": PurePosixPath(trajectory.photo_id).name,
            **{name: info[name] for name in _INFO[1:]},
            "tools_kwargs": {tool: {"create_kwargs": {"image": path}} for tool in TOOLS},
            **{name: extra[name] for name in ("useful_results",) if name in extra},
        },
    }
    return _with_kept(row, trajectory, _core_of_rl)


def from_annotation(row: dict[str, Any]) -> Trajectory:
    """Reads a line of an annotation file.

    Raises:
        ValueError: A field is missing or of another type.
    """
    missing = [name for name in ("id", "gt_lat", "gt_lon", "messages", "images") if name not in row]
    if missing:
        raise ValueError(f"has no {missing[0]!r}")
    return _with_rest(row, _core_of_annotation, to_annotation)


def to_annotation(trajectory: Trajectory) -> dict[str, Any]:
    """Writes a line of an annotation file."""
    seen = [step.observation for step in trajectory.steps if step.observation is not None]
    calls = [one for one in seen if one.tool in TOOLS]
    answer, km = trajectory.answer, trajectory.km
    row = {
        "id": PurePosixPath(trajectory.photo_id).name,
        **{"gt_lat": trajectory.lat, "gt_lon": trajectory.lon},
        **{"gt_country": trajectory.country or UNKNOWN, "gt_city": trajectory.city or UNKNOWN},
        **{"pred_lat": answer and answer.lat, "pred_lon": answer and answer.lon},
        **{"km": km, "masked": float(km is None), "n_tool_calls": len(calls)},
        **{name: sum(one.tool == tool for one in calls) for name, tool in _COUNTS.items()},
        "n_nudges": trajectory.extra.get("n_nudges", 0),
        "max_turns_exceeded": trajectory.end == "budget",
        "useful_results": [
            {"turn": turn, "tool": step.observation.tool, "indices": sorted(step.observation.useful)}
            for turn, step in enumerate(trajectory.steps, 1)
            if step.observation is not None and step.observation.labelled
        ],
        "messages": [*_prompt(trajectory), *messages_of(trajectory.steps)],
        "images": [image["image"] for image in to_sft(trajectory)["images"]],
    }
    return _with_kept(row, trajectory, _core_of_annotation)


def write_sft(path: str | Path, trajectories: Iterable[Trajectory]) -> int:
    """Writes an SFT table; returns the number of rows.

    Raises:
        InteropError: A trajectory doesn't fit; it is named.
    """
    return write_table(path, SFT, map(to_sft, trajectories))


def write_rl(
    path: str | Path, tasks: Iterable[Trajectory | Photo], interface: Interface = FULL, split: str = "train"
) -> int:
    """Writes an RL table; returns the number of rows.

    Args:
        path: The file.
        tasks: Trajectories, whose own steps are not needed, or photos with a known place. Those without an `index` of
            their own are numbered. Either all have `useful_results` in their `extra`, or none.
        interface: Prompts those that have no prompt of their own.
        split: Of those that don't say theirs.

    Raises:
        InteropError: The place of one is unknown.
    """
    rows = _rl_rows(tasks, interface, split)
    first = next(rows, None)
    labelled = first is not None and "useful_results" in first["extra_info"]
    return write_table(path, RL_LABELLED if labelled else RL, chain([first] if first else [], rows))


def write_annotations(path: str | Path, trajectories: Iterable[Trajectory]) -> int:
    """Writes an annotation file, a line a trajectory; returns how many."""
    path, count = Path(path), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for trajectory in trajectories:
            file.write(json.dumps(to_annotation(trajectory), ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def place_of(ground_truth: str) -> tuple[float, float, str, str]:
    """Reads `lat, lon, country, city`; the last may hold commas, and a name nobody knows is "".

    Raises:
        ValueError: It is something else, or no place on Earth.
    """
    parts = [part.strip() for part in ground_truth.split(",", 3)]
    if len(parts) != 4:
        raise ValueError(f"ground truth {ground_truth!r:.200}: expected 'lat, lon, country, city'")
    country, city = ("" if name == UNKNOWN else name for name in parts[2:])
    return *_degrees(*parts[:2]), country, city


def prompt_of(interface: Interface) -> list[dict[str, str]]:
    """System and user message as the data set writes them: text, with a word for the photo."""
    return [
        {"role": "system", "content": interface.system_prompt},
        {"role": "user", "content": f"{PICTURE}\n{interface.question}"},
    ]


def _rl_rows(tasks: Iterable[Trajectory | Photo], interface: Interface, split: str) -> Iterator[dict[str, Any]]:
    for number, task in enumerate(tasks):
        if isinstance(task, Photo):
            task = Trajectory(task.photo_id, [], task.lat, task.lon, task.country, task.city)
        extra = {"index": number, "split": split, "prompt": prompt_of(interface)} | task.extra
        yield to_rl(Trajectory(**{**vars(task), "extra": extra}))


def _core_of_sft(row: dict[str, Any]) -> Trajectory:
    prompt, rest = _split(row["messages"])
    if not row["images"]:
        raise ValueError("has no photo")
    pictures = sum(message["content"].count(PICTURE) for message in row["messages"])
    if pictures != len(row["images"]):
        raise ValueError(f"has {pictures} times {PICTURE} in its messages and {len(row['images'])} images")
    steps = steps_of(rest)
    photo_id = photo_id_of(row["images"][0]["image"])
    return Trajectory(photo_id, steps, end=how_it_ended(steps), extra={"prompt": prompt})


def _core_of_rl(row: dict[str, Any]) -> Trajectory:
    lat, lon, country, city = place_of(row["reward_model"]["ground_truth"] or "")
    if not row["images"]:
        raise ValueError("has no photo")
    photo_id, info = photo_id_of(row["images"][0]["image_url"]), row["extra_info"]
    extra = {"prompt": row["prompt"]} | {name: info.get(name) for name in _INFO}
    if "useful_results" in info:
        extra["useful_results"] = info["useful_results"]
    if isinstance(extra["km"], float) and not math.isfinite(extra["km"]):
        raise ValueError(f"extra_info.km is {extra['km']}, expected a number or null")
    return Trajectory(photo_id, [], lat, lon, country, city, extra=extra)


def _core_of_annotation(row: dict[str, Any]) -> Trajectory:
    if not isinstance(row["images"], list) or not row["images"] or not isinstance(row["messages"], list):
        raise ValueError("has no photo or no messages")
    first = row["images"][0]
    path = first.get("image_url") or first.get("path") if isinstance(first, dict) else first
    prompt, rest = _split([_flat(message) for message in row["messages"]])
    labels = [(one["tool"], one["indices"]) for one in row.get("useful_results", [])]
    steps = steps_of(rest, labels)
    known = row["gt_lat"] is not None and row["gt_lon"] is not None
    lat, lon = _degrees(row["gt_lat"], row["gt_lon"]) if known else (None, None)
    country, city = ("" if row.get(name) in (None, UNKNOWN) else row[name] for name in ("gt_country", "gt_city"))
    extra = {"prompt": prompt, "n_nudges": row.get("n_nudges", 0)}
    return Trajectory(photo_id_of(path), steps, lat, lon, country, city, end=how_it_ended(steps), extra=extra)


def _split(messages: list[dict]) -> tuple[list[dict], list[dict]]:
    """What comes before the model's first message, and the rest."""
    for message in messages:
        if not isinstance(message["role"], str) or not isinstance(message["content"], str):
            raise ValueError(f"a message without role or text: {message!r:.80}")
    first = next((at for at, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
    if first == len(messages):
        raise ValueError("the model says nothing in it")
    return messages[:first], messages[first:]


def _flat(message: dict) -> dict:
    """A message whose content may be a list of text blocks, as one text."""
    content = message["content"]
    if isinstance(content, list):
        content = "\n".join(block["text"] for block in content if block.get("type") == "text")
    return {"role": message["role"], "content": content}


def _with_rest(row: dict[str, Any], read: Callable, write: Callable) -> Trajectory:
    """Reads a row and keeps the columns that are not written as they were."""
    trajectory = read(row)
    written = write(trajectory)
    kept = {name: value for name, value in row.items() if name not in written or not _same(written[name], value)}
    absent = [name for name in written if name not in row]
    if kept or absent:
        trajectory.extra["released"] = kept | ({"absent": absent} if absent else {})
    return trajectory


def _with_kept(row: dict[str, Any], trajectory: Trajectory, read: Callable) -> dict[str, Any]:
    """Puts the kept columns into a row, as long as they say what the trajectory says."""
    kept = dict(trajectory.extra.get("released", {}))
    absent = kept.pop("absent", [])
    older = {name: kept.get(name, value) for name, value in row.items() if name not in absent}
    older |= {name: value for name, value in kept.items() if name not in row}
    if not kept and not absent:
        return row
    try:
        again = read(older)
    except (ValueError, KeyError, TypeError):
        return row
    extra = {name: trajectory.extra.get(name) for name in again.extra}
    same = again.extra == extra and all(getattr(again, name) == getattr(trajectory, name) for name in _CORE)
    return older if same else row


_CORE = ("photo_id", "steps", "lat", "lon", "country", "city")


def _same(a: Any, b: Any) -> bool:
    """Equal also in the types of numbers, so that 1 and 1.0 and True are three things."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and a == b


def _path(photo_id: str) -> str:
    return f"images/{photo_id}"


def _degrees(lat: object, lon: object) -> tuple[float, float]:
    try:
        values = float(lat), float(lon)
    except (TypeError, ValueError):
        values = math.nan, math.nan
    if not (abs(values[0]) <= 90 and abs(values[1]) <= 180):
        raise ValueError(f"latitude {lat!r:.40} and longitude {lon!r:.40}: no place on Earth, in degrees")
    return values


def _truth(trajectory: Trajectory) -> str:
    if trajectory.lat is None:
        raise InteropError(f"{trajectory.photo_id}: its place is unknown, so nothing could be rewarded; leave it out")
    country, city = trajectory.country or UNKNOWN, trajectory.city or UNKNOWN
    return f"{trajectory.lat:.4f}, {trajectory.lon:.4f}, {country}, {city}"


def _prompt(trajectory: Trajectory) -> list[dict[str, str]]:
    return trajectory.extra.get("prompt") or prompt_of(FULL)
