"""What must not change unless somebody means it: the same photos, searches, rollouts, rewards, gradients and figures.

The values were made by the library before it was cut into rooms. `python tests/test_pins.py` makes them again: do so
only when a change is wanted, and say in the commit which value changed and why.
"""

import gzip
import hashlib
import json
import os
import platform
from pathlib import Path

import pytest
import torch
from grpo_scripts import AGENT, Gradients, scripted_trainer
from models import BROKEN, GUESS, RIGHT, SEARCH, ZOOM

from reverse_lib.environment import rollout
from reverse_lib.evaluation import summarize, to_frame, to_json
from reverse_lib.models import load_named
from reverse_lib.reward import score
from reverse_lib.search import SearchCache
from reverse_lib.trajectory import TOOLS, Trajectory, parse_turn
from reverse_lib.world import ScriptedTeacher, World

PINS, ROLLOUTS = Path(__file__).parent / "data/pins.json", Path(__file__).parent / "data/rollouts.jsonl.gz"
_ZOOM, IMAGE, TEXT = TOOLS
DOUBT = "<think>Chile?</think><useful>[1]</useful><answer>Chile, Santiago, -33.45, -70.66</answer>"
GROUP = ([ZOOM, SEARCH, RIGHT], [GUESS], [SEARCH, DOUBT], [BROKEN, SEARCH, RIGHT])


def shipped_agent_rollouts() -> list[dict]:
    """20 greedy rollouts of the shipped agent."""
    torch.set_num_threads(1)  # two are many times slower beside other work
    world = World(0, 200)
    agent = load_named(str(AGENT), TOOLS)
    return [t.to_dict() for t in rollout(agent, world.photos("test-new", 20), world.live, agent.interface)]


def other_rollouts() -> list[dict]:
    """180 rollouts of the scripted teacher, a third of them damaged as models damage theirs."""
    world = World(0, 200)
    rows = [t.to_dict() for t in rollout(ScriptedTeacher(world), world.photos("train", 180), world.live)]
    for i, row in enumerate(rows):
        steps, last = row["steps"], row["steps"][-1]
        if i % 12 == 0:
            last["text"] = last["text"].replace("<useful>", "<usefull>")
        elif i % 12 == 1:
            last["text"] = last["text"].replace("</useful>", ", 9]</useful>").replace("],", ",")
        elif i % 12 == 2 and len(steps) > 1:
            steps.insert(1, json.loads(json.dumps(steps[0])))
        elif i % 12 == 3 and steps[0]["observation"]:
            steps[0]["observation"]["status"] = "model_error" if i % 24 == 3 else "service_error"
    return rows


def grpo_step(folder) -> dict:
    """Advantages, loss and length of the gradient of one step on a fixed group, for each kind of credit."""
    torch.set_num_threads(1)
    found = {}
    for credit in ("segment", "turn", "trajectory"):
        trainer = scripted_trainer(folder / credit, GROUP, credit=credit)
        trainer.args.max_grad_norm = 0
        trainer.add_callback(kept := Gradients())
        trainer.train()
        output = trainer.recorded[0]
        advantages = output["advantages"]
        if advantages.dim() == 1:
            advantages = advantages[:, None].expand(output["completion_ids"].shape)
        mask = (output["completion_mask"] * output["tool_mask"]).bool()
        (row,) = [row for row in trainer.rows if "loss" in row]
        found[credit] = {
            "ids": digest([ids[kept].tolist() for ids, kept in zip(output["completion_ids"], mask, strict=True)]),
            "advantages": [runs(values[kept].tolist()) for values, kept in zip(advantages, mask, strict=True)],
            "loss": row["loss"],
            "gradient": kept.found.norm().item(),
            "reward": row["reward"],
        }
    return found


def runs(values: list[float]) -> list[list[float]]:
    """Equal neighbours as [value, how many]."""
    found: list[list[float]] = []
    for value in values:
        if found and found[-1][0] == value:
            found[-1][1] += 1
        else:
            found.append([value, 1])
    return found


def photo_hashes() -> dict[str, str]:
    """The pixels of 20 photos of two worlds."""
    photos = [p for split in ("train", "val", "test-seen", "test-new") for p in World(0, 200).photos(split, 4)]
    photos += World(7, 60).photos("test-new", 4)
    return {photo.photo_id: hashlib.sha256(photo.load().tobytes()).hexdigest()[:16] for photo in photos}


def searches(trajectories: list[Trajectory]) -> list[tuple[str, str, object]]:
    """50 distinct calls of rollouts: (tool, photo id, arguments)."""
    asked = {}
    for t in trajectories:
        for step in t.steps:
            seen = step.observation
            if seen is not None and seen.tool in (IMAGE, TEXT) and seen.status in ("ok", "miss"):
                what = seen.arguments["bbox_2d" if seen.tool == IMAGE else "query"]
                asked[seen.tool, t.photo_id, str(what)] = what
    by_tool = [[(*key[:2], what) for key, what in asked.items() if key[0] == tool] for tool in (IMAGE, TEXT)]
    return by_tool[0][:25] + by_tool[1][:25]


def search_results(trajectories: list[Trajectory], folder) -> list[dict]:
    """What the live web and a cache with another 100 rollouts in it answer to 50 calls."""
    world, found = World(0, 200), []
    with SearchCache.open(folder / "cache", mode="w", seed=3) as cache:
        for trajectory in trajectories[:100]:
            cache.record_trajectory(trajectory)
        for tool, photo_id, what in searches(trajectories[:120]):
            crop = world.photo(photo_id).load() if tool == IMAGE else None
            for backend in (world.live, cache):
                for call in (0, 1):
                    if tool == IMAGE and backend is world.live:
                        from reverse_lib.photos import crop as cut

                        answer = backend.image(photo_id, what, call, cut(crop, what))
                    elif tool == IMAGE:
                        answer = backend.image(photo_id, [edge + 4 for edge in what], call)
                    else:
                        answer = backend.text(photo_id, what, call)
                    found.append(answered(answer))
    return found


def answered(answer) -> dict | None:
    if answer is None:
        return None
    results = digest([[r.title, r.url, r.source, r.snippet] for r in answer.results])
    return {"results": results, "n": len(answer.results), "useful": sorted(answer.useful), "match": answer.match}


def metrics(trajectories: list[Trajectory]) -> dict:
    """The figures of an evaluation."""
    return to_json(summarize(to_frame(t for t in trajectories if t.lat is not None)))


def scores(trajectories: list[Trajectory]) -> list[dict]:
    return [score(trajectory).to_dict() for trajectory in trajectories]


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def processor() -> str:
    """Whose arithmetic it was: another kind of processor rounds bfloat16 in another order."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def load_rollouts() -> list[Trajectory]:
    return [Trajectory.from_dict(json.loads(line)) for line in gzip.open(ROLLOUTS, "rt")]


@pytest.fixture(scope="module")
def pinned() -> dict:
    return json.loads(PINS.read_text())


@pytest.fixture(scope="module")
def kept() -> list[Trajectory]:
    return load_rollouts()


def close(found, wanted, tolerance=1e-5) -> None:
    """Equal, floats within a tolerance."""
    if isinstance(wanted, float) and found is not None:
        assert found == pytest.approx(wanted, rel=tolerance, abs=tolerance)
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            close(found[key], value, tolerance)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            close(one, other, tolerance)
    else:
        assert found == wanted


def test_drawn_photos(pinned):
    assert photo_hashes() == pinned["photos"]


def test_what_searches_return(pinned, kept, tmp_path):
    close(search_results(kept, tmp_path), pinned["searches"])


def test_scores_of_200_rollouts(pinned, kept):
    assert len(kept) == 200
    close(scores(kept), pinned["scores"])


def test_figures_of_an_evaluation(pinned, kept):
    close(metrics(kept), pinned["metrics"])


def test_greedy_rollouts_of_the_shipped_agent(kept):
    close(shipped_agent_rollouts(), [trajectory.to_dict() for trajectory in kept[180:]])


def test_a_step_of_grpo_on_a_fixed_group(pinned, tmp_path):
    torch.set_num_threads(1)
    found, wanted = grpo_step(tmp_path), pinned["grpo"]
    for credit, step in wanted.items():
        same_arithmetic = processor() == pinned["processor"]
        for name in ("loss", "gradient"):
            close(found[credit].pop(name), step.pop(name), 1e-5 if same_arithmetic else 0.02)
    close(found, wanted)


def make(folder: Path) -> None:
    rows = other_rollouts() + shipped_agent_rollouts()
    ROLLOUTS.parent.mkdir(exist_ok=True)
    with gzip.GzipFile(ROLLOUTS, "wb", mtime=0) as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    trajectories = load_rollouts()
    assert len({len(parse_turn(t.steps[-1].text).errors) for t in trajectories}) > 1
    pins = {
        "processor": processor(),
        "photos": photo_hashes(),
        "searches": search_results(trajectories, folder),
        "scores": scores(trajectories),
        "metrics": metrics(trajectories),
        "grpo": grpo_step(folder),
    }
    PINS.write_text(json.dumps(pins, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    import tempfile

    make(Path(tempfile.mkdtemp()))
