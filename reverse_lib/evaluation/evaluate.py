"""Running an agent over photos with known places, and a table of what it did: a row a photo.

What differs from the paper's protocol (section 4, experiments): photos whose search service failed are left out and
counted, never scored as zero; nothing is chosen on the photos it is judged on; and a run that is given a folder goes on
where it stopped. The folder holds

    run.json              what this run is: photos, agent, tools, budgets, interface, search
    trajectories.jsonl    finished trajectories, each on disk as soon as it ends; at last in the order of the photos
    results.parquet       a row a photo: truth, answer, km, reward components, calls; when all are finished

    frame = evaluate(agent, world.photos("test-new", 200), world.live, agent.interface, folder="outputs/mine")
    summary = summarize(frame)              # index metric; value, low, high, n
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from reverse_lib.environment import TINY, UNREADABLE, Interface, Rollout, rollout
from reverse_lib.geo import where_is
from reverse_lib.photos import Photo
from reverse_lib.profiles import Budgets
from reverse_lib.reward import score
from reverse_lib.search import SearchBackend
from reverse_lib.trajectory import TOOLS, Journal, Observation, Trajectory, atomic_file, save_trajectories

RUN_FILE, TRAJECTORIES, RESULTS = "run.json", "trajectories.jsonl", "results.parquet"
_SETTINGS = ("temperature", "max_tokens", "image_px")  # of an agent on a server: what changes its answers
_WEIGHTS_READ = 64  # numbers of each matrix that go into the fingerprint; training changes them all


def evaluate(
    agent: Callable,
    photos: Sequence[Photo],
    search: SearchBackend,
    interface: Interface = TINY,
    budgets: Budgets | None = None,
    tools: Sequence[str] = TOOLS,
    batch_size: int = 32,
    progress: Callable | None = None,
    folder: str | os.PathLike[str] | None = None,
    on_error: Callable[[str, Exception], bool] | None = None,
) -> pd.DataFrame:
    """Let an agent answer every photo, and score what it did.

    Args:
        agent: As `environment.rollout` takes it.
        photos: Photos with known latitude and longitude.
        search: What answers the agent's searches.
        interface: How photos and results are shown to the agent.
        budgets: Calls and turns allowed; None for the standard ones.
        tools: Names of the tools offered.
        batch_size: Photos in flight together.
        progress: Called with the number of photos that just ended, also those found finished in `folder`.
        folder: Where the run is kept: one that is started again asks only the photos that are missing or whose service
            failed. None keeps nothing.
        on_error: As in `rollout`. A photo that is gone on without stands in the table as one whose service failed.

    Returns:
        One row a photo, in the order given: truth, answer, km (NaN if unparsed), reward components, calls, trajectory.

    Raises:
        ValueError: No photos, a photo without known place, the same photo id twice, or a folder of another run.
    """
    by_id = _by_id(photos)
    progress, settings = (
        progress or (lambda ended: None),
        dict(interface=interface, budgets=budgets or Budgets(), tools=tools),
    )
    journal, finished = None, {}
    if folder is not None:
        journal = _opened(Path(folder), _facts(agent, by_id.values(), search, **settings))
        finished = _served(journal)
        progress(len(finished))

    def keep(trajectory: Trajectory, run: Rollout | None = None) -> None:
        if run is not None:
            trajectory.extra = _taken(run) | trajectory.extra
        finished[trajectory.photo_id] = trajectory
        if journal is not None:
            journal.append(trajectory.to_dict())

    def goes_on(photo_id: str, error: Exception) -> bool:
        if on_error is None or not on_error(photo_id, error):
            return False
        photo = by_id[photo_id]
        truth = dict(lat=photo.lat, lon=photo.lon, country=photo.country, city=photo.city, regions=photo.regions)
        extra = {"error": str(error)}
        keep(Trajectory(photo_id, **truth, agent=_name(agent), end="service_error", extra=extra))
        progress(1)
        return True

    missing = [photo for photo_id, photo in by_id.items() if photo_id not in finished]
    running = dict(batch_size=batch_size, progress=progress, on_finished=keep, on_error=goes_on)
    rollout(agent, missing, search, **settings, **running)
    frame = to_frame(finished[photo_id] for photo_id in by_id)
    if folder is not None:
        save_trajectories(Path(folder) / TRAJECTORIES, frame["trajectory"])
        with atomic_file(Path(folder) / RESULTS) as file:
            frame.drop(columns="trajectory").to_parquet(file)
    return frame


def service_failed(frame: pd.DataFrame) -> list[str]:
    """Ids of the photos whose search service failed: in no figure, and asked again by `evaluate` in their folder."""
    return frame.loc[frame["end"] == "service_error", "photo_id"].tolist()


def _by_id(photos: Sequence[Photo]) -> dict[str, Photo]:
    """Photos that can be scored, in their order."""
    if not photos:
        raise ValueError("evaluate: no photos given; ask the world or the folder for at least one")
    for photo in photos:
        if photo.lat is None or photo.lon is None:
            raise ValueError(
                f"{photo.photo_id}: photo without known latitude and longitude cannot be scored; leave it out"
            )
    by_id = {photo.photo_id: photo for photo in photos}
    if len(by_id) < len(photos):
        raise ValueError("evaluate: a photo id occurs twice; give each photo its own id")
    return by_id


def _name(agent: Callable) -> str:
    return str(getattr(agent, "name", "") or type(agent).__name__)


def _taken(run: Rollout) -> dict[str, float]:
    """What a rollout took: `seconds` and, where somebody counted them, `tokens` written."""
    tokens = run.usage["tokens_out"] if run.usage and not run.usage["uncounted"] else run.tokens
    return {"seconds": run.seconds} | ({} if tokens is None else {"tokens": tokens})


def to_frame(trajectories: Iterable[Trajectory]) -> pd.DataFrame:
    """Score trajectories: one row each, with the columns that `summarize`, the plots and the maps read.

    `trusted` counts the results that the agent called useful, `unreadable` its turns that neither call nor answer.
    """
    frame = pd.DataFrame([_row(trajectory) for trajectory in trajectories])
    if not len(frame):
        return frame
    truth = where_is(frame["lat"].astype(float), frame["lon"].astype(float))
    answer = where_is(frame["pred_lat"], frame["pred_lon"])
    known = truth["code"] != ""
    at = frame.columns.get_loc("parsed")
    for name, column in (("country_of_position", "code"), ("continent", "continent")):
        frame.insert(at, name, (answer[column] == truth[column]).where(known).astype(float))
    return frame


def _row(trajectory: Trajectory) -> dict:
    breakdown, answer = score(trajectory), trajectory.answer
    parsed = answer is not None
    zoom, image, text = TOOLS
    calls = trajectory.observations
    tools = [call.tool for call in calls]
    hits = [bool(call.useful) for call in calls if call.tool == text and (call.labelled or call.status == "miss")]
    return {
        "photo_id": trajectory.photo_id,
        "lat": trajectory.lat,
        "lon": trajectory.lon,
        "country": trajectory.country,
        "city": trajectory.city,
        "pred_lat": answer.lat if parsed else np.nan,
        "pred_lon": answer.lon if parsed else np.nan,
        "pred_country": answer.country if parsed else "",
        "pred_city": answer.city if parsed else "",
        "km": np.nan if trajectory.km is None else trajectory.km,
        "parsed": parsed,
        "format": breakdown.format,
        "box_iou": breakdown.box_iou,
        "query_hit": float(any(hits)) if hits else np.nan,
        **_evidence(trajectory),
        "evidence_mcc": breakdown.evidence_mcc,
        "calls_zoom": tools.count(zoom),
        "calls_image": tools.count(image),
        "calls_text": tools.count(text),
        "unreadable": tools.count(UNREADABLE),
        "trusted": sum(len(turn.useful or []) for turn in trajectory.turns()),
        "tokens": trajectory.extra.get("tokens", np.nan),
        "seconds": trajectory.extra.get("seconds", np.nan),
        "reward": breakdown.total,
        "accuracy": breakdown.accuracy,
        "look": breakdown.look,
        "query": breakdown.query,
        "trust": breakdown.trust,
        "end": "service_error" if trajectory.service_failed else trajectory.end,
        "trajectory": trajectory,
    }


def _evidence(trajectory: Trajectory) -> dict[str, float]:
    """Precision and recall of the results called useful, over the labelled searches, repeated ones left out."""
    searches = [item for item in judged_searches(trajectory) if item[0].labelled and not item[0].repeated]
    called = sum(len(called) for _, called in searches)
    useful = sum(len(shown.useful) for shown, _ in searches)
    hits = sum(len(shown.useful & set(called)) for shown, called in searches)
    return {
        "evidence_precision": hits / called if called else np.nan,
        "evidence_recall": hits / useful if useful else np.nan,
    }


def judged_searches(trajectory: Trajectory) -> list[tuple[Observation, list[int]]]:
    """What each search that reached its service showed, and the 1-based positions that the next turn calls useful."""
    labels = [*(turn.useful or [] for turn in trajectory.turns()), []][1:]
    observations = (step.observation for step in trajectory.steps)
    return [(shown, called) for shown, called in zip(observations, labels, strict=True) if shown and shown.owes_labels]


def _opened(folder: Path, facts: dict) -> Journal:
    """The journal of the run that has these facts, in JSON types; the folder of another run is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / RUN_FILE
    if file.exists():
        try:
            kept = json.loads(file.read_text())
            names = [name for name in {**kept, **facts} if kept.get(name) != facts.get(name)]
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{file}: can't be read ({error}); delete its folder or name another") from error
        if names:
            other = "; ".join(f"{name} {kept.get(name)!r} there, {facts.get(name)!r} here" for name in names)
            raise ValueError(f"{folder}: holds another run ({other}); name another folder, or delete this one")
    elif (folder / TRAJECTORIES).exists():
        raise ValueError(f"{folder}: holds trajectories, but no {RUN_FILE} that says whose; name another folder")
    else:
        with atomic_file(file) as temporary:
            temporary.write_text(json.dumps(facts, indent=2) + "\n")
    return Journal(folder / TRAJECTORIES)


def _served(journal: Journal) -> dict[str, Trajectory]:
    """Finished trajectories by photo id, the last of each; those left out whose service failed."""
    rows = {}
    for row in journal.rows:
        try:
            rows[row.get("photo_id")] = Trajectory.from_dict(row)
        except (ValueError, TypeError) as error:
            name = f"{journal.path}, photo {row.get('photo_id')!r}"
            raise ValueError(f"{name}: not a trajectory ({error}); repair or delete that line") from error
    return {photo_id: row for photo_id, row in rows.items() if not row.service_failed}


def _facts(agent: Callable, photos: Iterable[Photo], search: SearchBackend, interface, budgets, tools) -> dict:
    """What makes a run this run and no other, in JSON types; of an agent no text but names: it may be a key."""
    listed = [[photo.photo_id, photo.lat, photo.lon] for photo in photos]
    model, config = getattr(agent, "model", None), getattr(agent, "config", None)
    numbers = {name: getattr(config, name, None) for name in _SETTINGS}
    numbers |= {field.name: getattr(agent, field.name) for field in getattr(agent, "__dataclass_fields__", {}).values()}
    return {
        "agent name": _name(agent),
        **({"agent model": model} if isinstance(model, str) else {}),
        **{f"agent {name}": value for name, value in numbers.items() if isinstance(value, int | float)},
        "agent weights": _weights(model),
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
