"""search"""

from reverse_lib.search.cache import SearchCache
from reverse_lib.search.live.backend import LiveSearch
from reverse_lib.search.live.choice import configured
from reverse_lib.search.live.google_vision import GoogleVision
from reverse_lib.search.live.serper import Serper
from reverse_lib.search.live.tavily import Tavily
from reverse_lib.search.recorded import RecordedSearch, drift, training_search
from reverse_lib.search.replay import IMAGE, TEXT, Call, fields_of, key_of, searches_of
from reverse_lib.search.results import (
    Failing,
    SearchAnswer,
    SearchBackend,
    SearchResult,
    ServiceError,
    Withholding,
    filter_results,
    normalise_query,
    query_similarity,
)
from reverse_lib.search.store import CacheError
