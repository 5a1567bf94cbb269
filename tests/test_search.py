"""Queries are compared by their words; pages that may be the photo's own never get through."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reverse_lib.search import (
    BlockList,
    SearchAnswer,
    SearchBackend,
    SearchResult,
    ServiceError,
    Withholding,
    filter_results,
    normalise_query,
    query_similarity,
)
from reverse_lib.search import results as search

LEAKING = [
    "https://www.flickr.com/photos/someone/123",
    "http://flickr.com",
    "flickr.com/photos/1",
    "//farm1.staticflickr.com/1.jpg",
    "https://live.staticflickr.com/65535/1.jpg",
    "HTTPS://WWW.FLICKR.COM./photos/1",
    "https://flickr.com:443/photos/1",
    "flickr.com:443/photos",
    "https://someone:secret@flickr.com/photos",
    "https:\\\\flickr.com\\photos",
    "https:flickr.com/photos",
    " https://%66lickr.com/photos ",
    "https://ｆｌｉｃｋｒ.com/photos",
    "https://flickr。com/photos",
    "https://flic.kr/p/abc",
    "https://web.archive.org/web/2020/https://www.flickr.com/photos/1",
    "https://i0.wp.com/live.staticflickr.com/65535/1.jpg",
    "https://proxy.example.org/?u=https%3A%2F%2Flive.staticflickr.com%2F1.jpg",
]
HARMLESS = [
    "",
    "https://notflickr.com/photos/1",
    "https://flickr.com.example.org/",
    "https://flickr.example.org/",
    "https://flickr.com@example.org/",
    "https://en.wikipedia.org/wiki/Flickr.com",
    "https://example.org/?ref=flickr.com",
    "https://[broken",
    "http://",
    "\ud800\x00",
]


@pytest.mark.parametrize("url", LEAKING)
def test_an_address_on_flickr_is_blocked_however_it_is_written(url):
    assert filter_results([SearchResult("A photo", url)]) == []


@pytest.mark.parametrize("url", HARMLESS)
def test_an_address_that_only_resembles_flickr_is_kept(url):
    result = SearchResult("A page", url)
    assert filter_results([result]) == [result]


@pytest.mark.parametrize("source", ["Flickr", " flickr ", "flickr.com", "www.Flickr.com", "flickr.com › photos"])
def test_a_result_whose_source_is_flickr_is_blocked_without_an_address(source):
    assert filter_results([SearchResult("A photo", "", source)]) == []


@pytest.mark.parametrize("source", ["", "Not Flickr", "notflickr.com", "Photos found on flickr.com"])
def test_a_source_that_only_mentions_flickr_is_kept(source):
    assert len(filter_results([SearchResult("A photo", "https://example.org/", source)])) == 1


def test_the_users_hosts_are_blocked_with_everything_below_them_beside_flickr():
    listed = ["https://www.Example.org:80/some/page", "*.photos.net", ".dotted.com", "single"]
    blocked = BlockList.extended(listed)
    assert blocked.hosts[-4:] == ("www.example.org", "photos.net", "dotted.com", "single")
    urls = [
        "http://a.b.photos.net/1",
        "http://example.org/",
        "http://www.example.org/",
        "http://single/x",
        "flickr.com",
    ]
    assert [blocked.blocks_url(url) for url in urls] == [True, False, True, True, True]
    kept = filter_results([SearchResult("x", "http://myphotos.net"), SearchResult("y", "http://photos.net")], listed)
    assert [result.title for result in kept] == ["x"]


def test_one_host_given_as_plain_text_is_one_host():
    assert BlockList.extended("example.org").hosts[-1] == "example.org"
    assert BlockList("example.org").hosts == ("example.org",)


def test_a_block_list_given_instead_replaces_flickrs_hosts():
    result = SearchResult("A photo", "https://flickr.com/1", "Flickr")
    assert filter_results([result], BlockList(("example.org",))) == [result]


@pytest.mark.parametrize("entry", ["", "https://", "..", 7, None, "/../"])
def test_an_entry_without_a_host_name_is_refused_by_name(entry):
    with pytest.raises(ValueError, match="no host name|not a text") as error:
        BlockList.extended([entry])
    assert repr(entry) in str(error.value)


def test_results_keep_their_order_when_some_are_dropped():
    urls = ["https://a.org", "https://flickr.com/1", "https://b.org", "https://c.org"]
    kept = filter_results([SearchResult(url, url) for url in urls])
    assert [result.title for result in kept] == ["https://a.org", "https://b.org", "https://c.org"]


@given(st.text(max_size=60))
def test_any_text_can_be_asked_about_and_a_flickr_path_after_it_is_never_missed(text):
    assert BlockList().blocks_url(text) in (True, False)
    assert BlockList().blocks_url("https://flickr.com/" + text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Valencia,\n SPAIN! ", "valencia spain"),
        ("St. John’s / St John's", "st johns st johns"),
        ("Straße ﬁne", "strasse fine"),
        ("Co\u0301rdoba", "córdoba"),
        ("40.42, -3.70", "40 42 3 70"),
        ("東京　駅", "東京 駅"),
        ("zero\u200bwidth \ud800", "zerowidth"),
        ("?!…", ""),
        ("", ""),
    ],
)
def test_queries_are_normalised(text, expected):
    assert normalise_query(text) == expected


@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_normalising_twice_changes_nothing(text):
    once = normalise_query(text)
    assert normalise_query(once) == once


def test_similarity_is_the_share_of_common_words():
    assert query_similarity("Valencia, Spain", "spain VALENCIA") == 1.0
    assert query_similarity("Valencia Spain", "Valencia Chile") == pytest.approx(1 / 3)
    assert query_similarity("Valencia", "Valencia Spain") == 0.5
    assert query_similarity("Valencia", "Mannheim") == 0.0
    assert query_similarity("", "") == 0.0
    assert query_similarity("a b a", "b a") == 1.0


def test_a_backend_is_recognised_by_its_methods():
    class Silent:
        def image(self, photo_id, bbox_2d, call=0, crop=None):
            return SearchAnswer((), frozenset())

        def text(self, photo_id, query, call=0):
            return None

        def evidence(self, photo_id):
            return []

    assert isinstance(Silent(), SearchBackend)
    assert not isinstance(object(), SearchBackend)
    assert issubclass(ServiceError, RuntimeError)


class Found:
    """Two pages, the second of them evidence; labelled or not."""

    def __init__(self, labelled=True, results=2):
        pages = (
            SearchResult("Twin, Chile", "a", "", "1.00, 2.00", False),
            SearchResult("Vigo, Spain", "b", "", "3.00, 4.00", True),
        )
        self.answer = SearchAnswer(pages[2 - results :], frozenset({results}), 0.9, labelled)

    def image(self, photo_id, bbox_2d, call=0, crop=None):
        return self.answer

    def text(self, photo_id, query, call=0):
        return None if query == "nothing" else self.answer

    def evidence(self, photo_id):
        return ["b"]


def test_where_evidence_is_withheld_the_other_results_stay_and_nothing_is_labelled_useful():
    search = Withholding(Found())
    for answer in (search.text("p", "Vigo"), search.image("p", [0, 0, 10, 10])):
        assert [result.title for result in answer.results] == ["Twin, Chile"]
        assert answer.useful == frozenset() and answer.match == 0.9 and answer.labelled
    assert search.evidence("p") == []


def test_where_nothing_else_was_found_or_nobody_knows_what_is_evidence_a_withheld_search_misses():
    assert Withholding(Found(results=1)).text("p", "Vigo") is None
    assert Withholding(Found(labelled=False)).image("p", [0, 0, 10, 10]) is None
    assert Withholding(Found()).text("p", "nothing") is None


def test_withholding_looks_at_pixels_where_its_backend_does(world):
    assert Withholding(world.live).reads_pixels is getattr(world.live, "reads_pixels", True)
    assert Withholding(Found()).reads_pixels


def slowly_normalised(text):
    text = "".join(char for char in text if char not in search._APOSTROPHES)
    text = search._fold(search._fold(text))
    return " ".join("".join(map(search._query_char, text)).split())


@given(st.text(st.characters(max_codepoint=127), max_size=40))
def test_ascii_queries_are_normalised_the_quick_way_as_the_slow_way(text):
    assert search.normalise_query(text) == slowly_normalised(text)


PIECES = ["flickr.com", "Flickr", "flic", ".kr", "%6b", "\\", "/", "//", "https:", "www.", " ", "\t", "mine.example",
          "mine", ".example", "ｆlickr", "。", "a", "@", ":80", "?u=", "fluidr.com", "\u200b"]  # fmt: skip
ADDRESSES = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)


@example([SearchResult("t", "https://flic%6br.com/1")])
@example([SearchResult("t", "https://fluidr\u200b.com/1")])
@example([SearchResult("t", "https:\\\\mine.example")])
@example([SearchResult("t", "https://mine .example/1"), SearchResult("t", "", " FLICKR ")])
@given(st.lists(st.builds(SearchResult, st.just("t"), ADDRESSES, ADDRESSES), max_size=4))
def test_what_is_cleared_at_one_glance_holds_nothing_listed(results):
    blocked = BlockList.extended(["mine.example"])
    assert filter_results(results, blocked) == [result for result in results if not blocked.blocks(result)]
    ordinary = SearchResult("t", "https://guide.example/a b", "Guide to Towns")
    assert blocked.clears([ordinary]) and not blocked.clears([ordinary, SearchResult("t", "https://flickr.com/1")])
