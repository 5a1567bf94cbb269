"""The miniature world: real cities, rendered photos, a small web with a real search engine."""

from reverse_lib.world.atlas import SPLITS, LiveSearch, World, WorldPhoto
from reverse_lib.world.gazetteer import Country, Place
from reverse_lib.world.scene import Mark, Writing
from reverse_lib.world.store import WorldStoreWarning
from reverse_lib.world.web import Engine, Page, SearchHit

__all__ = [
    "SPLITS",
    "Country",
    "Engine",
    "LiveSearch",
    "Mark",
    "Page",
    "Place",
    "SearchHit",
    "World",
    "WorldPhoto",
    "WorldStoreWarning",
    "Writing",
]
