"""Reading the data of a saved map back from its page."""

import json
import re


def page_data(page: str) -> list:
    """Everything that lies as JSON in the page of a map, the borders excepted, in its order."""
    found = re.findall(r'<script type="application/json" id="(\w+)">(.*?)</script>', page, re.DOTALL)
    return [json.loads(text) for name, text in found if name != "borders"]


def drawn_data(page: str):
    """The photos and stages of an error or answer map, the groups of a map of twins."""
    return page_data(page)[-1]
