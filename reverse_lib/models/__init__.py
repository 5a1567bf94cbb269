"""Agents from a checkpoint or from a server, and speed on a CPU.

An agent is called with conversations and writes the next turn of each; `environment.rollout` lets it act.

load_named          an agent by the name a user gives: a folder, a Hugging Face id, "openai:MODEL" (SERVER) on a server
ModelError          the name stands for nothing that can be used
load_agent, Agent   a checkpoint as an agent
Endpoint            any OpenAI-compatible chat server as an agent; from_environment makes one
load_model          a checkpoint's model, for training; with its load_processor and load_interface
save_checkpoint     a folder with all three
ImageOnlyProcessor  Qwen3-VL's processor where torchvision is missing
decode_turn         the text of generated tokens; placeholder_ids are those that a model must never write
quicken             makes a model quick on a CPU, which load_model does; right_padded and pictures_remembered do more
set_threads         how many of a CPU's cores are used
"""

from reverse_lib.models.checkpoint import (
    SERVER,
    Agent,
    ImageOnlyProcessor,
    ModelError,
    decode_turn,
    load_agent,
    load_interface,
    load_model,
    load_named,
    load_processor,
    placeholder_ids,
    save_checkpoint,
)
from reverse_lib.models.cpu import pictures_remembered, quicken, right_padded, set_threads
from reverse_lib.models.endpoint import Endpoint, from_environment
