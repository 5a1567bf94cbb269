"""What a base can do, free-running: skills one by one, on names and photos that it was not trained on.

`python -m reverse_lib.pretrain --measure data/models/base` prints them.
"""

import numpy as np
from PIL import Image

from reverse_lib.geo import Answer, box_iou
from reverse_lib.models import Agent
from reverse_lib.reward import evidence_mcc
from reverse_lib.trajectory import Turn, parse_turn
from reverse_lib.world.atlas import World
from reverse_lib.world.base.skills import FIRST_SEED, SkillDrills, SkillSample, draw_pool


def measure_skills(agent: Agent, drills: SkillDrills, n: int = 64) -> dict[str, float]:
    """Free-running accuracy of each skill on `n` drills.

    Returns:
        read: share of crops read exactly; point: share of boxes with IoU >= 0.5; judge_mcc: MCC of trusted results;
        judge_exact: share of lists judged exactly; copy: of these, where a result is used, the share of answers with
        its very position; answer: share of all answers with country, name and position of the first useful result.
    """
    read, point, mcc, exact, copied, answered = [], [], [], [], [], []
    for kind in (drills.pointing, drills.reading, drills.judging):
        for want, got in _answered(agent, [kind() for _ in range(n)]):
            if kind == drills.reading:
                read.append(want.think == got.think)
            elif kind == drills.judging:
                mcc.append(evidence_mcc(got.useful, set(want.useful), 6))
                exact.append(got.useful == want.useful)
                if want.answer and want.useful:
                    answered.append(got.answer == want.answer)
                    copied += [_position(got.answer) == _position(want.answer)] if exact[-1] else []
            elif want.tool_call:
                point.append(got.tool_call is not None and box_iou(_box(got), _box(want)) >= 0.5)
    names = ("read", "point", "judge_mcc", "judge_exact", "copy", "answer")
    found = (read, point, mcc, exact, copied, answered)
    return {name: float(np.mean(values or [0])) for name, values in zip(names, found, strict=True)}


def measure_base(
    agent: Agent, pool: tuple[list, list] | None = None, places: int = 200, n: int = 512
) -> dict[str, float]:
    """What a base can do where it was never trained: photos of a further world, and held-out names only.

    Args:
        agent: The base.
        pool: Photos and crops with held-out names; those of the last world before the training's if None.
        places: Size of the worlds.
        n: Drills of each kind.

    Returns:
        As `measure_skills` does; and read_photo: share of the pool's crops cut from photos, the drawn ones aside, read
        exactly.
    """
    photos, crops = pool or unseen_pool(places=places)
    world = World(FIRST_SEED, places)
    skills = measure_skills(agent, SkillDrills(photos, crops, world, 0, only_held_out=True), n)
    cut = [SkillDrills(photos, [crop], world, 0).reading() for crop in crops if crop.centres_px is None]
    read = [want.think == got.think for want, got in _answered(agent, cut)]
    return skills | {"read_photo": float(np.mean(read))}


def unseen_pool(photos: int = 900, drawn: int = 650, places: int = 200) -> tuple[list, list]:
    """Photos and crops with held-out names only, of a world that is not trained on."""
    return draw_pool(1, photos, drawn, places, first_seed=FIRST_SEED - 1, only_held_out=True)


def _answered(agent: Agent, samples: list[SkillSample]) -> list[tuple[Turn, Turn]]:
    """The last turns of drills, as they should be and as the agent writes them."""
    written = agent([_with_image(s) for s in samples])
    return [(parse_turn(s.messages[-1]["content"]), parse_turn(text)) for s, text in zip(samples, written, strict=True)]


def _position(answer: Answer | None) -> tuple[float, float] | None:
    return None if answer is None else (answer.lat, answer.lon)


def _box(turn) -> list[float]:
    box = turn.tool_call.arguments.get("bbox_2d")
    return box if isinstance(box, list) and len(box) == 4 else [0, 0, 0, 0]


def _with_image(sample: SkillSample) -> list[dict]:
    """The conversation before the last turn, its image block filled in."""
    messages = []
    for message in sample.messages[:-1]:
        content = message["content"]
        if isinstance(content, list):
            picture = {"type": "image", "image": Image.fromarray(sample.image)} if sample.image is not None else None
            content = [picture if block["type"] == "image" else block for block in content]
        messages.append({**message, "content": content})
    return messages
