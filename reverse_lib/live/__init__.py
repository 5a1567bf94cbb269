"""Live search services behind the same two questions as the cache; nothing here is used unless asked for.

What leaves the process: the words of a text search, and for an image search the cut-out region, without metadata. Keys
are read from the environment and sent to their own service in a header; no log, exception, record or notebook shows
them. Result links are never followed.

    search = LiveSearch(text=Tavily(), image=GoogleVision())        # TAVILY_API_KEY, GOOGLE_API_KEY
    search.text("photo-1", "Valencia Spain")
"""

from reverse_lib.live.backend import LiveSearch
from reverse_lib.live.client import Service
from reverse_lib.live.google_vision import GoogleVision
from reverse_lib.live.serper import Serper, SerperLens
from reverse_lib.live.tavily import Tavily

__all__ = ["GoogleVision", "LiveSearch", "Serper", "SerperLens", "Service", "Tavily"]
