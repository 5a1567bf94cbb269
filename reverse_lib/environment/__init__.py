"""environment"""

from reverse_lib.environment.calls import NUDGE, UNREADABLE, ArgumentError, how_it_ended, logged, one_line
from reverse_lib.environment.environment import NO_TURNS, GeoEnvironment, rollout, tool_functions
from reverse_lib.environment.interface import (
    FULL,
    NO_RESULTS,
    TINY,
    Interface,
    assistant_message,
    conversation,
    initial_messages,
    observation_content,
    show_photo,
    show_zoom,
    text_block,
    with_photo,
)
from reverse_lib.environment.rollouts import AgentError, AgentRefused
