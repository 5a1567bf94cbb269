"""Teaching an agent: supervised fine-tuning, reinforcement learning, and what each part of the latter is worth.

train_sft              stage 1 (direct) and stage 2 (cold start) of the method, on TRL's SFTTrainer
make_sft_dataset       trajectories as what it reads; `direct_trajectories` makes those of stage 1
Collator               conversations as tokens, with IGNORE_INDEX where nothing is to be learned
ByLength               in which order samples are drawn
train_grpo             stage 3: GRPO with process rewards, on environment.rollout and TRL's loss
GeoGRPOTrainer         its trainer, for a look at one step
speed                  where a run's time went
make_runs, load_runs   the same run with one thing changed, several seeds; `choose` names variants
"""

from reverse_lib.training.ablations import choose, load_runs, make_runs
from reverse_lib.training.common import speed
from reverse_lib.training.grpo import GeoGRPOTrainer, train_grpo
from reverse_lib.training.sft import (
    IGNORE_INDEX,
    ByLength,
    Collator,
    direct_trajectories,
    make_sft_dataset,
    train_sft,
)
