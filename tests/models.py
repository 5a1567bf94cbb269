"""What the model tests share: a tiny untrained Qwen3-VL, two drawn photos, a search with known answers, turns."""

import io
from functools import cache

import torch
from PIL import Image, ImageDraw

from reverse_lib.models import ImageOnlyProcessor, quicken
from reverse_lib.photos import Photo
from reverse_lib.search import SearchAnswer, SearchResult
from reverse_lib.trajectory import ToolCall, format_turn
from reverse_lib.world.base.architecture import build, image_processor

PHOTO = Photo("photo-1", None, 39.47, -0.38, "Spain", "Valencia", ((100, 200, 300, 400),))
ZOOM = format_turn("Spain? A sign.", tool_call=ToolCall("image_zoom_in_tool", {"bbox_2d": [100, 200, 300, 400]}))
SEARCH = format_turn("It reads Valencia.", tool_call=ToolCall("text_search_tool", {"query": "Valencia Spain"}))
TRUST = (
    "<think>[1] Valencia, Chile~+~ [2] Valencia, Spain+++ Use [2] Valencia, Spain: 39.47, -0.38</think>"
    "<useful>[2]</useful>"
)
RIGHT = TRUST + "<answer>Spain, Valencia, 39.47, -0.38</answer>"
GUESS = "<think>Chile? Nothing to read.</think><answer>Chile, Santiago, -33.45, -70.66</answer>"
BROKEN = '<think>Spain?</think><tool_call>{"name": "image_zoom_in_tool", "arguments": </tool_call>'
EVIDENCE = "https://guide.example/valencia"
RESULTS = (
    SearchResult("Valencia, Chile", "https://guide.example/valencia-cl", "guide.example", "-33.10, -70.90", False),
    SearchResult("Valencia, Spain", EVIDENCE, "guide.example", "39.47, -0.38", True),
)


class KnownSearch:
    """Finds the same two pages for any text, nothing for any image."""

    def image(self, photo_id, bbox_2d, call=0, crop=None):
        return None

    def text(self, photo_id, query, call=0):
        return SearchAnswer(RESULTS, frozenset({2}), match=1.0)

    def evidence(self, photo_id):
        return [EVIDENCE]


@cache
def drawn_photo(photo_id: str = "photo-1", **truth) -> Photo:
    """A 640x480 street of rectangles with a white sign in the annotated region."""
    image = Image.new("RGB", (640, 480), (120, 160, 210))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 300, 640, 480), fill=(90, 90, 95))
    draw.rectangle((64, 96, 192, 192), fill="white")
    draw.text((80, 130), "Valencia", fill="black")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return Photo(photo_id, buffer.getvalue(), PHOTO.lat, PHOTO.lon, PHOTO.country, PHOTO.city, PHOTO.regions)


def untrained(seed: int = 0):
    """A tiny model with random weights and its processor, the same for one seed."""
    torch.manual_seed(seed)
    model, tokenizer = build(("Spain", "Chile", "reads", "Find", "place", "Where", "is", "this"), seed=seed)
    quicken(model)
    return model, ImageOnlyProcessor(image_processor(), tokenizer, chat_template=tokenizer.chat_template)
