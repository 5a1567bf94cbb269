"""How the world is shown to a model: prompt, picture sizes, the text of search results, whole conversations.

Training, evaluation and chat render through this module alone, so a model meets the same tokens everywhere. Two
presets: TINY is short on purpose (every token costs CPU time), FULL is for Qwen3-VL and larger. Unlike the paper's
code, one system prompt serves SFT and RL, the header of a result list echoes the model's own query, and text that
comes from outside can neither forge a chat token nor a further result line.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from reverse_lib.geo import as_box
from reverse_lib.photos import crop
from reverse_lib.profiles import Budgets
from reverse_lib.search import SearchResult
from reverse_lib.trajectory import Observation, Trajectory

_MARKUP = re.compile(r"<(?=\||/?(?:think|useful|tool_call|tool_response|tools|answer|image|video|s)\b)", re.IGNORECASE)
_CODE_POINTS_DROPPED = {"Cc", "Cs", "Co"}
GREY = (127, 127, 127)
NO_RESULTS = "No results"
_RESAMPLE = Image.Resampling.LANCZOS
_MIN_SIDE_PX = 32  # an image processor refuses slivers: sides below 28 px, aspects above 200
_ZOOM_MAX_PX = 1024
_FIELD_CHARS = 300  # longest title, address or source in a result list
_SNIPPET_CHARS = (600, 240, 120, 60, 0)  # tried in turn until every result fits


@dataclass(frozen=True)
class Interface:
    """One way of showing the world; stored with a checkpoint as `interface.json`.

    Attributes:
        name: What records call it.
        system_prompt: Text of the system message.
        question: Text of the user message, followed by the photo.
        photo_px: (width, height) the photo is resized to; None leaves it as it is.
        zoom_px: (width, height) of the grey canvas a zoom is pasted on; None enlarges the crop twice, up to 1024 px.
        zoom_stretch: How many times as wide as in the photo things are on that canvas. Twice gives each letter of a
            line about a visual token (32 px) of its own, which a small model reads several times sooner.
        result_style: "lines" ("[1] title: snippet") or "full" (a header, then three lines a result).
        max_results: Results shown a search.
        max_tool_chars: Longest text of one tool result, in characters.
    """

    name: str
    system_prompt: str
    question: str
    photo_px: tuple[int, int] | None = None
    zoom_px: tuple[int, int] | None = None
    zoom_stretch: float = 1.0
    result_style: str = "full"
    max_results: int = 10
    max_tool_chars: int = 4000

    def __post_init__(self):
        if self.result_style not in ("lines", "full"):
            raise ValueError(f"Interface.result_style={self.result_style!r}: use 'lines' or 'full'")

    def to_dict(self) -> dict:
        """Plain JSON types; `from_dict` turns them back into an equal Interface."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}

    @classmethod
    def from_dict(cls, row: Mapping) -> "Interface":
        """The inverse of `to_dict`.

        Raises:
            TypeError: A field is unknown or missing; names it.
        """
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()})


_LIMITS = Budgets()
FULL_PROMPT = f"""\
You find out where a photo was taken. You may look closer and search, for at most {_LIMITS.turns} turns, and then you \
give one answer: country, city, latitude and longitude.

How to write
Every turn has these parts, in this order, each tag once and nothing outside the tags:
1. <think>…</think> What you see, what it suggests, what you want to know next. Refer to search results as [1], [2].
2. <useful>[1, 3]</useful> In the turn right after a search, and only there: the numbers of the results you trust as \
evidence for this photo, as a JSON list; [] if there is none.
3. Exactly one of
   <tool_call>{{"name": "…", "arguments": {{…}}}}</tool_call>
   <answer>Country, City, latitude, longitude</answer> in decimal degrees, for example \
<answer>Japan, Kyoto, 35.01, 135.77</answer>. The answer ends the conversation.

Tools (only those listed to you are available)
- image_zoom_in_tool shows a region enlarged. At most {_LIMITS.zoom} times. Use it to read signs, plates and shop names.
- image_search_tool looks for pictures like a region. At most {_LIMITS.image} times. Choose a tight box around one \
distinctive thing: a façade, a monument, a logo. The whole photo is rarely a good query.
- text_search_tool looks pages up by words, one query or a list of them. At most {_LIMITS.text} times. Search for what \
you read in the photo, with the country where you are fairly sure of it.
A box is bbox_2d = [x1, y1, x2, y2], from the left and the top, 0 to 1000 across the original photo, also after a zoom.

What counts as evidence
- A result is useful if it is about the very place in the photo and helps to locate it. A name alone is not enough: \
many places share a name, shops and restaurants borrow names from abroad, jerseys and posters travel. Check every \
result against what the photo shows: driving side, plates, writing, vegetation, architecture.
- Mark what you would rely on, and nothing else. Marking none is right if none fits.
- Do not repeat a call: it brings the same results. Change the box or the query instead.
- "{NO_RESULTS}" means that nothing was found; an error message means that the tool failed, not that the place does \
not exist. Go on with what you have.
- Stop when the evidence agrees, or when more searching cannot help. If nothing can be read or recognised, answer with \
the most probable place: an approximate answer is better than none."""

TINY = Interface("tiny", "Find the place.", "Where is this?", (256, 192), (448, 32), 2.0, "lines", 6, 800)
FULL = Interface("full", FULL_PROMPT, "Where was this photo taken?")


def show_photo(image: Image.Image, interface: Interface) -> Image.Image:
    """The photo as the model sees it."""
    if interface.photo_px:
        return image.resize(interface.photo_px, _RESAMPLE)
    return _without_slivers(image)


def show_zoom(image: Image.Image, bbox_2d: Sequence[int], interface: Interface) -> Image.Image:
    """A region, cut from the original photo, as the model sees it.

    Args:
        image: The original photo, not the one that `show_photo` returned.
        bbox_2d: [x1, y1, x2, y2] in 0..1000.
        interface: With `zoom_px` the region keeps its aspect (but for `zoom_stretch`), fills the canvas' height (or
            width) and is pasted at its top left corner; without, it is enlarged twice, up to 1024 px.
    """
    region, stretch = crop(image, bbox_2d), interface.zoom_stretch
    if interface.zoom_px is None:
        scale = min(2.0, _ZOOM_MAX_PX / max(region.size))
        return _without_slivers(_scaled(region, scale))
    width, height = interface.zoom_px
    region = _scaled(region, min(height / region.height, width / (stretch * region.width)), stretch)
    canvas = Image.new("RGB", interface.zoom_px, GREY)
    canvas.paste(region.crop((0, 0, width, height)) if region.width > width or region.height > height else region)
    return canvas


def _scaled(image: Image.Image, scale: float, stretch: float = 1.0) -> Image.Image:
    size = max(1, round(image.width * scale * stretch)), max(1, round(image.height * scale))
    return image.resize(size, _RESAMPLE)


def _without_slivers(image: Image.Image) -> Image.Image:
    """Pad with grey what an image processor would refuse: sides of a few pixels, aspects beyond 100."""
    least = max(_MIN_SIDE_PX, -(-max(image.size) // 100))
    if min(image.size) >= least:
        return image
    canvas = Image.new("RGB", (max(image.width, least), max(image.height, least)), GREY)
    canvas.paste(image)
    return canvas


def one_line(text: object) -> str:
    """Text from outside as a single line: whitespace collapsed, control characters dropped, chat markup defused."""
    words = " ".join(str(text).split())
    if not words.isprintable():
        kept = "".join(char for char in words if unicodedata.category(char) not in _CODE_POINTS_DROPPED)
        words = " ".join(kept.split())
    return _MARKUP.sub("‹", words)


def result_text(header: str, results: Sequence[SearchResult], interface: Interface, kind: str) -> tuple[str, int]:
    """Render a result list within the interface's limits.

    Snippets are shortened before whole results are dropped; a result is shown completely or not at all.

    Args:
        header: First line; only the "full" style has one.
        results: In the order to show.
        interface: Style and limits.
        kind: "image" or "text"; in the "full" style pages show their snippet and pictures their source.

    Returns:
        The text, and how many of the results it shows (at least one if there are any).
    """
    lines = [header] if interface.result_style == "full" else []
    results = results[: interface.max_results]
    for limit in _SNIPPET_CHARS:
        blocks = [_one_result(i, result, interface, kind, limit) for i, result in enumerate(results, start=1)]
        text = "\n".join(lines + blocks)
        if len(text) <= interface.max_tool_chars:
            return text, len(blocks)
    while len(blocks) > 1 and len("\n".join(lines + blocks)) > interface.max_tool_chars:
        blocks.pop()
    return "\n".join(lines + blocks)[: interface.max_tool_chars], len(blocks)


def _one_result(position: int, result: SearchResult, interface: Interface, kind: str, limit: int) -> str:
    title, url, source = (one_line(part)[:_FIELD_CHARS] for part in (result.title, result.url, result.source))
    snippet = one_line(result.snippet)[:limit]
    if interface.result_style == "lines":
        return f"[{position}] {title}: {snippet}" if snippet else f"[{position}] {title}"
    if kind == "image":
        return f"[{position}] {title}\n    Source: {source}\n    Link: {url}"
    return f"[{position}] {title}\n    URL: {url}\n    {snippet}"


def text_block(text: str) -> dict:
    """A content block of text."""
    return {"type": "text", "text": text}


def image_block(image: Image.Image) -> dict:
    """A content block with a picture."""
    return {"type": "image", "image": image}


def images_of(messages: Sequence[Mapping]) -> list[Image.Image]:
    """Every picture of a conversation, in reading order."""
    return [block["image"] for message in messages for block in message["content"] if block["type"] == "image"]


def initial_messages(interface: Interface) -> list[dict]:
    """System and user message, before the photo; what a training prompt stores."""
    return [
        {"role": "system", "content": [text_block(interface.system_prompt)]},
        {"role": "user", "content": [text_block(interface.question)]},
    ]


def with_photo(messages: Sequence[dict], blocks: Sequence[dict]) -> list[dict]:
    """Append what `reset` returned to the last message; the messages given stay as they are."""
    *before, last = messages
    return [*before, last | {"content": [*last["content"], *blocks]}]


def assistant_message(text: str) -> dict:
    """What the model wrote, tags included, as a message."""
    return {"role": "assistant", "content": [text_block(text)]}


def tool_message(tool: str, content: str | list[dict]) -> dict:
    """What a tool returned, as a message; a string becomes one text block."""
    return {"role": "tool", "name": tool, "content": content if isinstance(content, list) else [text_block(content)]}


def observation_content(observation: Observation, image: Image.Image, interface: Interface) -> list[dict]:
    """The blocks the model was shown for a logged call; a zoom is cut again from the original photo."""
    if observation.tool != "image_zoom_in_tool" or observation.status != "ok":
        return [text_block(observation.text)]
    zoom = image_block(show_zoom(image, as_box(observation.arguments.get("bbox_2d")), interface))
    return [zoom, text_block(observation.text)] if observation.text else [zoom]


def conversation(trajectory: Trajectory, image: Image.Image, interface: Interface) -> list[dict]:
    """The messages of a whole rollout, for SFT and for reading.

    Args:
        trajectory: Rolled out under the same interface.
        image: The original photo (`photo.load()`); photo and zooms are computed again from it.
        interface: How the world was shown.

    Returns:
        Messages whose content is always a list of blocks: system, user, then assistant and tool in turn.
    """
    messages = with_photo(initial_messages(interface), [image_block(show_photo(image, interface))])
    for step in trajectory.steps:
        messages.append(assistant_message(step.text))
        if step.observation is not None:
            content = observation_content(step.observation, image, interface)
            messages.append(tool_message(step.observation.tool, content))
    return messages
