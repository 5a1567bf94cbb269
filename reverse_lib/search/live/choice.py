"""The live services that a user has keys for, and in plain words what each of them is sent."""

from collections.abc import Callable, Sequence
from typing import Any

from reverse_lib.search.live.backend import LiveSearch
from reverse_lib.search.live.google_vision import MAX_SIDE_PX, GoogleVision
from reverse_lib.search.live.serper import Serper
from reverse_lib.search.live.tavily import Tavily

Offer = tuple[Callable[[], Any], str, str]  # how to make the service, what it is called, which variable holds its key
TEXT: tuple[Offer, ...] = (
    (Tavily, "Tavily (api.tavily.com)", "TAVILY_API_KEY"),
    (Serper, "Serper (google.serper.dev)", "SERPER_API_KEY"),
)
IMAGE: tuple[Offer, ...] = ((GoogleVision, "Google Cloud Vision (vision.googleapis.com)", "GOOGLE_API_KEY"),)
_SENT = {
    "text_search_tool": "text searches send the agent's own words",
    "image_search_tool": f"image searches send the region cut out, as a new JPEG of at most {MAX_SIDE_PX:,} px",
}
_OFFERS = {"text_search_tool": TEXT, "image_search_tool": IMAGE}


def configured(tools: Sequence[str], **settings) -> tuple[LiveSearch, list[str]]:
    """A live search for some tools, by the first service for each that has a key.

    Args:
        tools: Names of the tools offered; those that search need a service.
        **settings: `blocked_hosts` and `shown`, as in `LiveSearch`.

    Returns:
        The search, and a sentence a tool: what will be sent, to whom, with which key.

    Raises:
        ValueError: A tool has no service with a key; names the variables.
    """
    services, told, missing = {}, [], []
    for tool in (name for name in _OFFERS if name in tools):
        service, name, variable = _first(_OFFERS[tool])
        services[tool] = service
        if service is None:
            missing.append(f"for {tool} set {' or '.join(variable for _, _, variable in _OFFERS[tool])}")
        told.append(f"{_SENT[tool]} to {name}, with the key in {variable}")
    if missing:
        raise ValueError(f"no live search service is configured: {', '.join(missing)}; or do without that tool")
    search = LiveSearch(services.get("text_search_tool"), services.get("image_search_tool"), **settings)
    return search, told


def _first(offers: Sequence[Offer]) -> tuple[Any, str, str]:
    """The first service that has a key; None, "", "" if none has."""
    for make, name, variable in offers:
        try:
            return make(), name, variable
        except ValueError:  # no key
            continue
    return None, "", ""
