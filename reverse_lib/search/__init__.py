"""What a search returns, and what answers one: the offline cache, live services, and one through the other.

What an answer is:
    SearchResult, SearchAnswer: a result; the results of one call, in the order shown
    SearchBackend: the protocol of whatever answers
    ServiceError: a service failed, which is no miss
    BlockList, filter_results: hosts that must not be shown; results without theirs
    normalise_query, query_similarity: how queries are compared

The offline cache:
    SearchCache, CacheError: records searches and answers them again; why it can't
    IMAGE, TEXT: names of the tools that search
    Call, searches_of: a recorded search; those of a rollout

Live services, and going between them and the cache:
    LiveSearch, Tavily, Serper, GoogleVision: two services as a backend; the services
    configured: those that a user has keys for
    RecordedSearch: a service through the cache
    drift: how recorded answers differ from what the service says now
    training_search: what answers while an agent is trained
    Failing, Withholding: a backend that is down; one without evidence
"""

from reverse_lib.search.cache import IMAGE, TEXT, CacheError, Call, SearchCache, searches_of
from reverse_lib.search.live import GoogleVision, LiveSearch, Serper, Tavily, configured
from reverse_lib.search.recorded import RecordedSearch, drift, training_search
from reverse_lib.search.results import (
    BlockList,
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
