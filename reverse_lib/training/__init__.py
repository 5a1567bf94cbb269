"""training"""

from reverse_lib.training.ablations import choose, load_runs, make_runs
from reverse_lib.training.grpo import train_grpo
from reverse_lib.training.history import speed
from reverse_lib.training.sft import IGNORE_INDEX, Collator, direct_trajectories, images_of, make_sft_dataset, train_sft
