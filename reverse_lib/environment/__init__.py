"""What a model sees, what it may do, and the loop that lets agents act.

TINY, FULL         two ways of showing the world; an `Interface` is what they are
GeoEnvironment     one photo, three tools, budgets, and a record of every turn
Album              photos that rollouts share, each opened once
rollout            let an agent act on photos; everything that acts goes through it
Reply              one turn of an agent: its text, tokens, seconds, usage
Rollout            a rollout under way: its conversation and what the agent took
AgentError         an agent failed; AgentRefused: it refuses one conversation
tool_functions     the tools as functions with a docstring each, for chat templates
initial_messages   system and user message; `with_photo` adds the photo
conversation       the messages of a whole recorded rollout
observation_content, assistant_message, text_block, image_block, images_of, show_photo, show_zoom     parts of it
one_line           text from outside on one line, without chat markup: nothing enters a prompt but through it
result_row         a search result as a record keeps it
how_it_ended       the end of a rollout in a word
NO_RESULTS, NO_TURNS, UNREADABLE     what tools say, and the tool of a turn that can't be read
"""

from reverse_lib.environment.environment import (
    NO_TURNS,
    UNREADABLE,
    Album,
    GeoEnvironment,
    how_it_ended,
    result_row,
    tool_functions,
)
from reverse_lib.environment.interface import (
    FULL,
    NO_RESULTS,
    TINY,
    Interface,
    assistant_message,
    conversation,
    image_block,
    images_of,
    initial_messages,
    observation_content,
    one_line,
    show_photo,
    show_zoom,
    text_block,
    with_photo,
)
from reverse_lib.environment.rollout import AgentError, AgentRefused, Reply, Rollout, rollout
