"""models"""

from reverse_lib.models.agents import SERVER, ModelError, load_named
from reverse_lib.models.endpoint import Endpoint, EndpointConfig, from_environment
from reverse_lib.models.generation import quicken_generation
from reverse_lib.models.policy import (
    Agent,
    ImageOnlyProcessor,
    decode_turn,
    known_warnings_silenced,
    load_agent,
    load_interface,
    load_model,
    load_processor,
    pictures_remembered,
    quicken_vision,
    right_padded,
    save_checkpoint,
    set_threads,
    unwritten,
)
