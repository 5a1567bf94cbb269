"""scale"""

from reverse_lib.scale.bench import Workload, compare_caches, grow_caches, rich_table
from reverse_lib.scale.caches import write_caches
from reverse_lib.scale.released import ReleasedData
from reverse_lib.scale.rows import write_annotations, write_rl, write_sft
from reverse_lib.scale.verl import compute_score, export_verl
