"""An agent by the name that a user gives it: a checkpoint's folder, a Hugging Face id, or `openai:MODEL` on a server.

agent = load_named("data/models/agent", tools=TOOLS)
agent = load_named("openai:gpt-x", tools=TOOLS)       # any OpenAI-compatible server, see `endpoint`
"""

import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

SERVER = "openai:"


class ModelError(ValueError):
    """A model that can't be used; the message names it, the reason and a remedy, in one line."""


def load_named(model: str, tools: Sequence[str], calling: str = "native", say: Callable[[str], object] = print):
    """The model as an agent that `environment.rollout` can ask.

    Args:
        model: A folder, a model id, or "openai:" and the name of a model on the server in OPENAI_BASE_URL.
        tools: Names of the tools its prompt lists.
        calling: How a model on a server is to call tools, see `wire`.
        say: Called with what a user should know besides, such as what is sent to a server.

    Raises:
        ModelError: It isn't there, or can't be used.
    """
    if model.startswith(SERVER):
        return _served(model, tools, calling, say)
    _quiet()
    source = _source(model)
    from safetensors import SafetensorError

    from reverse_lib.models.policy import INTERFACE_FILE, load_agent

    if isinstance(source, Path) and not (source / INTERFACE_FILE).is_file():
        say(f"{source}: has no {INTERFACE_FILE}, so it is prompted like a large model")
    try:
        return load_agent(source, tools=tuple(tools))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{model}: {str(error).strip().splitlines()[0]}") from error


def _served(model: str, tools: Sequence[str], calling: str, say: Callable[[str], object]):
    """A model behind the server in OPENAI_BASE_URL, written greedily as our own are."""
    from reverse_lib.models.endpoint import from_environment

    try:
        endpoint = from_environment(tools=tools, model=model.removeprefix(SERVER), calling=calling, temperature=0.0)
    except ValueError as error:
        raise ModelError(f"{model}: {error}") from error
    config = endpoint.config
    say(
        f"{model}: the photos and each zoom, as pixels without metadata, and what the agent writes and finds are sent "
        f"to {config.base_url}, with the key in {config.key_env}"
    )
    return endpoint


def _source(model: str) -> Path | str:
    """The folder or the model id, known to exist; a model id that is not on this disk is asked for on-line."""
    path = Path(model).expanduser()
    if path.is_dir():
        for name in ("config.json", "tokenizer.json"):
            if not (path / name).is_file():
                raise ModelError(f"{model}: no {name} in this folder; name one with a checkpoint in it")
        return path
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model) or path.parent.exists():
        raise ModelError(f"{model}: no such folder; name one with a checkpoint in it, or a model id")
    from huggingface_hub import HfApi, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(model, "config.json"), str):
        return model
    try:
        known = HfApi().repo_exists(model)
    except Exception as error:  # the HTTP library's own kinds, which vary with the version of huggingface_hub
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{model}: no such folder, and huggingface.co can't be asked for it ({reason})") from error
    if not known:
        raise ModelError(f"{model}: neither a folder nor a model on huggingface.co; check its spelling")
    return model


def _quiet() -> None:
    """Loading a model says nothing unless it fails; a download keeps its progress bar in a terminal."""
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if not sys.stderr.isatty():
        disable_progress_bars()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
