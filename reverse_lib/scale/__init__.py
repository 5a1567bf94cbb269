"""The same work on a larger scale, and beside others' work: the paper's data set, verl, and what the cache carries.

- ReleasedData: the released data set, read from its folder; a row that can't be used is named and counted
- write_sft, write_rl, write_annotations, write_caches: our trajectories, photos and searches in its schema
- export_verl: everything verl needs to train on our data
- compute_score: the reward of a rollout, as verl calls it
- Workload, compare_caches, grow_caches, rich_table: what `bench` measures of the search cache, and its tables
"""

from reverse_lib.scale.bench import Workload, compare_caches, grow_caches, rich_table
from reverse_lib.scale.released import ReleasedData, write_annotations, write_caches, write_rl, write_sft
from reverse_lib.scale.verl import compute_score, export_verl
