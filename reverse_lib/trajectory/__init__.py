"""What an agent wrote and what came back: the grammar of one turn, the record of one rollout, files of records.

- `TOOLS`, `SEARCH_TOOLS`: names of the tools, and of those that search
- `parse_turn(text)`, `Turn`, `ToolCall`: one assistant turn, read strictly; any text gives a turn with named errors
- `format_turn(…)`: the text of a turn
- `cited_indices(think, n)`: results that a reasoning cites as `[2]`
- `Trajectory`, `Step`, `Observation`: the record of one rollout, of one turn, of one tool call
- `load_trajectories(path)`, `save_trajectories(path, rows)`: JSONL or Parquet
- `Journal(path)`: JSON rows that are on disk as soon as they are appended
- `atomic_file(path)`: a file that has its name only when it is whole
- `filter_trajectories(rows, max_km)`: what is good enough to learn from, with a funnel
- `curriculum(trajectory)`, `curriculum_order(levels, …)`: how hard a photo was, and which is drawn when
"""

from reverse_lib.trajectory.files import Journal, atomic_file, load_trajectories, save_trajectories
from reverse_lib.trajectory.grammar import (
    SEARCH_TOOLS,
    TOOLS,
    ToolCall,
    Turn,
    cited_indices,
    format_turn,
    parse_turn,
)
from reverse_lib.trajectory.record import Observation, Step, Trajectory
from reverse_lib.trajectory.selection import curriculum, curriculum_order, filter_trajectories
