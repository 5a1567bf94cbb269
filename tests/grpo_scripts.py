"""GRPO with scripted generations, in this process or, run as a program, in several: see test_grpo.py.

`python -m torch.distributed.run --nproc_per_node 2 tests/grpo_scripts.py OUT.pt` trains one step on one group that is
split over the processes, and saves advantages and gradient. `python tests/grpo_scripts.py FOLDER STEP` trains a real
agent in FOLDER and kills itself when step STEP is logged.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from models import BROKEN, GUESS, RIGHT, SEARCH, ZOOM, KnownSearch, drawn_photo, untrained
from transformers import TrainerCallback

from reverse_lib.environment import TINY
from reverse_lib.models import load_model, load_processor
from reverse_lib.models.checkpoint import with_lora
from reverse_lib.profiles import GrpoConfig
from reverse_lib.training import grpo
from reverse_lib.trajectory import TOOLS

DOUBT = "<think>Chile?</think><useful>[1]</useful><answer>Chile, Santiago, -33.45, -70.66</answer>"
SCRIPTS = ([ZOOM, SEARCH, RIGHT], [GUESS], [SEARCH, DOUBT], [BROKEN, SEARCH, RIGHT])
AGENT = Path(__file__).parent.parent / "data/models/agent"


def scripted_trainer(folder, scripts=SCRIPTS, lora_rank=0, photos=None, weights=None, tools=TOOLS, **settings):
    """A trainer whose rollout i writes scripts[i].

    What each step is trained on is kept in `recorded`, and the gradient of the last one in `gradients.found`.
    """
    model, processor = untrained()
    if lora_rank:
        model = with_lora(model, lora_rank)
    config = dict(steps=1, prompts_per_step=1, group_size=len(scripts), learning_rate=1e-3, temperature=1.0)
    config |= dict(save_steps=0, credit="turn", max_completion_tokens=600, max_grad_norm=0.0)
    config = GrpoConfig(**config | settings)
    photos = photos or [drawn_photo()]
    made_of = (model, processor, photos, KnownSearch(), TINY, config, folder)
    trainer = grpo.GeoGRPOTrainer(*made_of, weights=weights, tools=tools)
    trainer.recorded, trainer.gradients = [], Gradients()
    trainer.add_callback(trainer.gradients)
    script(trainer, scripts)
    score = trainer._generate_and_score_completions

    def recording(inputs):
        trainer.recorded.append(score(inputs))
        return trainer.recorded[-1]

    trainer._generate_and_score_completions = recording
    return trainer


def script(trainer, scripts):
    """Let rollout i write scripts[i], turn by turn, instead of sampling."""
    alive: list = []

    def generate(prompt_ids, images, fields, num_generations, has_tool_images=False):
        nonlocal alive
        if not alive:
            first = trainer.accelerator.process_index * len(prompt_ids)
            alive = [(list(turns), 0) for turns in scripts[first : first + len(prompt_ids)]]
        texts = [turns[k] for turns, k in alive]
        alive = [(turns, k + 1) for turns, k in alive if k + 1 < len(turns)]
        ends = ["" if text.endswith("…") else "<|im_end|>" for text in texts]
        return [trainer._tokenizer(text + end)["input_ids"] for text, end in zip(texts, ends, strict=True)], None

    trainer._generate_single_turn = generate


class Gradients(TrainerCallback):
    """Keeps the gradient of the language model before the first step."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.found = flat(model)


def flat(model):
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return torch.cat([value.flatten() for name, value in gradients.items() if "language_model" in name]).clone()


def train_agent(folder, on_row=None) -> tuple[list[dict], torch.nn.Module]:
    """Two real steps of the shipped agent on two drawn photos."""
    torch.set_num_threads(1)
    model, processor = load_model(AGENT, train_vision=False), load_processor(AGENT)
    photos = [drawn_photo("photo-1"), drawn_photo("photo-2")]
    config = GrpoConfig(
        steps=2, prompts_per_step=1, group_size=2, max_turn_tokens=160, learning_rate=1e-3, save_steps=1
    )
    settings = dict(seed=5, on_row=on_row, levels=["easy", "hard"])
    rows = grpo.train_grpo(model, processor, photos, KnownSearch(), TINY, config, folder, **settings)
    return rows, model


def kill_at(step: int):
    """An `on_row` that ends the process at once."""

    def on_row(row):
        if row["step"] == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return on_row


if __name__ == "__main__":
    if len(sys.argv) == 3:
        train_agent(Path(sys.argv[1]), kill_at(int(sys.argv[2])))
    else:
        out = Path(sys.argv[1])
        trainer = scripted_trainer(out.with_suffix(""))
        trainer.train()
        advantages = trainer.accelerator.gather_for_metrics([trainer.recorded[0]["advantages"]], use_gather_object=True)
        if trainer.accelerator.is_main_process:
            torch.save(
                {"advantages": list(advantages), "gradient": trainer.gradients.found, "row": trainer.rows[0]}, out
            )
        trainer.accelerator.wait_for_everyone()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # a process that just ends may be aborted by the others' threads
        sys.stdout.flush()
        os._exit(0)
