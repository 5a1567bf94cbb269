"""trajectory"""

from reverse_lib.trajectory.files import (
    FilterRules,
    cited_indices,
    curriculum,
    curriculum_order,
    filter_trajectories,
    load_trajectories,
    save_trajectories,
)
from reverse_lib.trajectory.grammar import SEARCH_TOOLS, TOOLS, ToolCall, Turn, format_turn, parse_turn
from reverse_lib.trajectory.journal import Journal
from reverse_lib.trajectory.record import Observation, Step, Trajectory
