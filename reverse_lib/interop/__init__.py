"""The released data set and verl, both ways.

data = ReleasedData("DATA_ROOT")
trajectories = list(data.sft("train_sft_coldstart_v5"))
with SearchCache.open("outputs/released_cache", mode="w") as cache:
    data.caches(cache)
print(data.problems)                              # every row left out, with file, row and reason

export_verl("outputs/verl", trajectories, cache)  # rows, caches, tool configuration and reward for verl
"""

from reverse_lib.interop.caches import write_caches
from reverse_lib.interop.released import ReleasedData, write_photo_list
from reverse_lib.interop.rows import write_annotations, write_rl, write_sft
from reverse_lib.interop.tables import IMAGE_CACHE, RL, SFT, TEXT_CACHE, InteropError, Problem, photo_id_of
from reverse_lib.interop.verl import compute_score, export_verl

__all__ = [
    "IMAGE_CACHE",
    "RL",
    "SFT",
    "TEXT_CACHE",
    "InteropError",
    "Problem",
    "ReleasedData",
    "compute_score",
    "export_verl",
    "photo_id_of",
    "write_annotations",
    "write_caches",
    "write_photo_list",
    "write_rl",
    "write_sft",
]
