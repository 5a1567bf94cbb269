"""The cache gives back what was recorded, the same everywhere, and survives what happens to files and processes."""

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reverse_lib.search import BlockList, CacheError, SearchBackend, SearchCache, SearchResult
from reverse_lib.search.cache import FILE_NAME, FORMAT
from reverse_lib.trajectory import Observation, Step, Trajectory

ROOT = Path(__file__).resolve().parents[1]
BOX = [100, 100, 300, 200]


def page(number, useful=False, host="example.org"):
    return SearchResult(f"Page {number}", f"https://{host}/{number}", host, f"Snippet {number}", useful)


def titles(answer):
    return [result.title for result in answer.results]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def cache(folder):
    with SearchCache.open(folder, "w", seed=7) as opened:
        yield opened


def run_python(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_what_was_recorded_comes_back_after_reopening(folder):
    with SearchCache.open(folder, "w") as cache:
        cache.record_image("photo", BOX, [page(1, True), page(2)])
        cache.record_text("photo", "Valencia, Spain", [page(3, True), page(4), page(5, None)])
    with SearchCache.open(folder) as cache:
        image, text = cache.image("photo", BOX), cache.text("photo", "SPAIN valencia")
        assert isinstance(cache, SearchBackend) and cache.image("photo", BOX, call=0, crop=object()) == image
        assert set(image.results) == {page(1, True), page(2)}
        assert [image.results[position - 1] for position in image.useful] == [page(1, True)]
        assert (image.match, image.labelled) == (1.0, True)
        assert set(text.results) == {page(3, True), page(4), page(5, None)}
        assert [text.results[position - 1] for position in text.useful] == [page(3, True)]
        assert (text.match, text.labelled) == (1.0, False)
        assert cache.photo_ids() == ["photo"]
        assert cache.evidence("photo") == ["https://example.org/3"]
        assert cache.stats() == {
            "photos": 1, "image_calls": 1, "text_calls": 1, "image_results": 2, "text_results": 3,
            "useful": 2, "unlabelled": 1, "blocked": 0,
        }  # fmt: skip


def test_a_photo_or_call_never_recorded_is_a_miss(cache):
    cache.record_image("photo", BOX, [page(1)])
    cache.record_text("photo", "Valencia", [page(1)])
    assert cache.image("other", BOX) is None
    assert cache.text("other", "Valencia") is None
    assert cache.evidence("other") == []
    assert cache.image("photo", [600, 600, 700, 700]) is None
    assert cache.text("photo", "Mannheim") is None


def test_a_recorded_call_without_results_is_a_hit_without_results(cache):
    cache.record_text("photo", "nothing there", [])
    answer = cache.text("photo", "nothing there")
    assert (answer.results, answer.useful, answer.match, answer.labelled) == ((), frozenset(), 1.0, True)


def test_an_image_search_below_the_least_overlap_is_a_miss(cache):
    cache.record_image("photo", [0, 0, 100, 100], [page(1)])
    assert cache.image("photo", [0, 0, 100, 70]).match == pytest.approx(0.7)
    assert cache.image("photo", [0, 0, 100, 69]) is None


def test_the_box_that_overlaps_best_answers_whichever_was_recorded_first(cache):
    cache.record_image("photo", [0, 0, 100, 100], [page(1)])
    cache.record_image("photo", [0, 0, 100, 90], [page(2)])
    assert titles(cache.image("photo", [0, 0, 100, 88])) == ["Page 2"]
    assert titles(cache.image("photo", [0, 0, 100, 99])) == ["Page 1"]


def test_a_text_search_below_the_least_similarity_is_a_miss(cache):
    cache.record_text("photo", "Valencia Spain", [page(1)])
    assert cache.text("photo", "Valencia").match == 0.5
    assert cache.text("photo", "Valencia Chile") is None


def test_the_query_that_shares_most_words_answers_and_equal_spelling_breaks_ties(cache):
    cache.record_text("photo", "Valencia Spain", [page(1)])
    cache.record_text("photo", "Spain Valencia", [page(2)])
    cache.record_text("photo", "Valencia Spain station", [page(3)])
    assert titles(cache.text("photo", "valencia spain")) == ["Page 1"]
    assert titles(cache.text("photo", "spain, valencia")) == ["Page 2"]
    assert titles(cache.text("photo", "station Valencia, Spain")) == ["Page 3"]


def test_an_answer_has_at_most_three_useful_results_and_ten_in_all(cache):
    cache.record_text("photo", "many", [page(n, n < 6) for n in range(30)])
    for call in range(5):
        answer = cache.text("photo", "many", call)
        assert len(set(answer.results)) == 10
        assert answer.useful == {at for at, result in enumerate(answer.results, 1) if result.useful}
        assert len(answer.useful) == 3


def test_useful_results_stand_at_every_position_over_many_photos(cache):
    with cache.batch():
        for n in range(300):
            cache.record_text(f"photo-{n}", "x", [page(m, m == 0) for m in range(6)])
    positions = [next(iter(cache.text(f"photo-{n}", "x").useful)) for n in range(300)]
    assert all(30 <= positions.count(position) <= 75 for position in range(1, 7))


@pytest.mark.parametrize("count", [2, 3, 4, 12, 40])
def test_the_next_call_with_the_same_arguments_shows_another_order_or_sample(cache, count):
    cache.record_text("photo", "x", [page(n, n < 5) for n in range(count)])
    cache.record_image("photo", BOX, [page(n, n < 5) for n in range(count)])
    for call in range(8):
        assert cache.text("photo", "x", call) != cache.text("photo", "x", call + 1)
        assert cache.image("photo", BOX, call) != cache.image("photo", BOX, call + 1)


def test_another_seed_gives_another_order(folder, cache):
    cache.record_text("photo", "x", [page(n) for n in range(10)])
    orders = {tuple(titles(SearchCache.open(folder, seed=seed).text("photo", "x"))) for seed in range(5)}
    assert len(orders) == 5


def test_the_order_of_recording_makes_no_difference(tmp_path):
    answers = []
    for name, order in (("a", 1), ("b", -1)):
        with SearchCache.open(tmp_path / name, "w") as cache:
            for number in range(20)[::order]:
                cache.record_text("photo", "x", [page(number, number % 4 == 0)])
            answers.append([cache.text("photo", "x", call) for call in range(3)])
    assert answers[0] == answers[1]


def test_the_same_call_is_answered_the_same_in_another_process_with_another_hash_seed(folder, cache):
    cache.record_text("photo ü/1", "Valencia Spain", [page(n, n < 5) for n in range(30)])
    cache.record_image("photo ü/1", BOX, [page(n, n < 5) for n in range(30)])
    code = """if True:
        import sys, json
        from reverse_lib.search import SearchCache
        with SearchCache.open(sys.argv[1], seed=7) as cache:
            answers = [cache.text("photo ü/1", "spain valencia", call) for call in range(3)]
            answers += [cache.image("photo ü/1", [100.0, 100, 300, 201], call) for call in range(3)]
        print(json.dumps([[[r.title for r in a.results], sorted(a.useful)] for a in answers]))
    """
    output = run_python(code, folder, PYTHONHASHSEED="1", PYTHONUTF8="1").stdout
    here = [cache.text("photo ü/1", "spain valencia", call) for call in range(3)]
    here += [cache.image("photo ü/1", [100, 100, 300, 201], call) for call in range(3)]
    assert json.loads(output) == [[titles(answer), sorted(answer.useful)] for answer in here]


def test_the_draw_of_a_known_call_is_the_one_it_always_was(cache):
    cache.record_text("photo", "Valencia Spain", [page(n, n < 5) for n in range(8)])
    shown = [int(result.title[5:]) for result in cache.text("photo", "Valencia Spain").results]
    assert shown == [3, 4, 2, 7, 6, 5]


def test_recording_again_adds_results_and_the_best_label_wins(cache):
    cache.record_text("photo", "x", [page(1, None), page(2, True), page(3, False)])
    cache.record_text("photo", "X!", [page(1, False), page(2, False), page(3, True), page(4, None)])
    labels = {result.title[5:]: result.useful for result in cache.text("photo", "x").results}
    assert labels == {"1": False, "2": True, "3": True, "4": None}
    assert cache.stats()["text_calls"] == 1


def test_recording_with_replace_forgets_what_was_there(cache):
    cache.record_text("photo", "x", [page(1, True), page(2)])
    cache.record_text("photo", "x", [page(1, False)], replace=True)
    assert cache.text("photo", "x").results == (page(1, False),)
    with cache.batch():
        cache.record_text("photo", "x", [page(7)])
        cache.record_text("photo", "x", [page(8)], replace=True)
        cache.record_text("photo", "x", [page(9)])
    assert sorted(titles(cache.text("photo", "x"))) == ["Page 8", "Page 9"]


def test_leaked_hosts_are_dropped_when_recording(folder):
    with SearchCache.open(folder, "w", blocked_hosts=["bad.org"]) as cache:
        cache.record_text("photo", "x", [page(1, host="www.flickr.com"), page(2, host="a.bad.org"), page(3)])
        cache.record_image("photo", BOX, [page(1, host="live.staticflickr.com"), page(2, host="notflickr.com")])
    with SearchCache.open(folder, blocked_hosts=BlockList(())) as cache:
        assert titles(cache.text("photo", "x")) == ["Page 3"]
        assert titles(cache.image("photo", BOX)) == ["Page 2"]


def test_leaked_hosts_are_dropped_when_reading_what_was_recorded_before_they_were_listed(folder):
    with SearchCache.open(folder, "w", blocked_hosts=BlockList(())) as cache:
        cache.record_text("photo", "x", [page(1, True, "flickr.com"), page(2, True, "bad.org"), page(3, True)])
    with SearchCache.open(folder, blocked_hosts=["bad.org"]) as cache:
        assert titles(cache.text("photo", "x")) == ["Page 3"]
        assert cache.evidence("photo") == ["https://example.org/3"]
        assert cache.stats()["blocked"] == 2


@pytest.mark.parametrize(
    "photo_id", ["/etc/passwd", "a\x00b", "../x", "é" * 5000, "\udcff", "\n", " ", "🗺", "i", "header"]
)
def test_photo_ids_may_hold_any_characters_at_any_length(folder, photo_id):
    with SearchCache.open(folder, "w") as cache:
        cache.record_text(photo_id, "x", [page(1)])
        cache.record_text(photo_id + "2", "x", [page(2)])
        cache.record_image(photo_id, BOX, [page(3)])
    with SearchCache.open(folder) as cache:
        assert titles(cache.text(photo_id, "x")) == ["Page 1"]
        assert titles(cache.image(photo_id, BOX)) == ["Page 3"]
        kept = photo_id.encode("utf-8", "backslashreplace").decode()
        assert cache.photo_ids() == sorted([kept, kept + "2"])


def test_a_query_and_a_snippet_may_be_very_long_and_oddly_coded(cache):
    query = "word " * 100_000 + "\ud800 last"
    odd = SearchResult("\ud800 title", "https://example.org/\x00", "", "long " * 200_000, True)
    cache.record_text("photo", query, [odd])
    answer = cache.text("photo", "last word")
    assert answer.match == 1.0
    assert answer.results == (SearchResult("? title", "https://example.org/\x00", "", "long " * 200_000, True),)


@pytest.mark.parametrize("query", ["", "   ", "?!", "\u200b"])
def test_a_query_without_a_word_is_a_miss_and_not_recorded(cache, query):
    cache.record_text("photo", "x", [page(1)])
    assert cache.text("photo", query) is None
    with pytest.raises(ValueError, match="has no word"):
        cache.record_text("photo", query, [page(1)])


@pytest.mark.parametrize(
    "box", [[5, 5, 5, 5], [300, 200, 100, 100], [0, 0, 0, 1000], [2000, 0, 3000, 10], [-9, -9, 0, 0]]
)
def test_a_box_without_area_is_a_miss_and_not_recorded(cache, box):
    cache.record_image("photo", [0, 0, 1000, 1000], [page(1)])
    assert cache.image("photo", box) is None
    with pytest.raises(ValueError, match="has no area"):
        cache.record_image("photo", box, [page(1)])


@pytest.mark.parametrize(
    "box", [[1, 2, 3], [1, 2, 3, 4, 5], "1234", None, [1, 2, 3, "4"], [0, 0, float("nan"), 9], [0, 0, 10**400, 9]]
)
def test_a_box_that_is_not_four_numbers_is_refused_by_name(cache, box):
    for call in (lambda: cache.image("photo", box), lambda: cache.record_image("photo", box, [])):
        with pytest.raises(ValueError, match="not four finite numbers"):
            call()


def test_a_box_beyond_the_picture_is_clipped_to_it(cache):
    cache.record_image("photo", [-50, 0, 2000, 1000], [page(1)])
    assert cache.image("photo", [0, 0, 1000, 1000]).match == 1.0


@pytest.mark.parametrize(
    ("photo_id", "result", "message"),
    [
        ("", page(1), "photo id '': is empty"),
        (None, page(1), "photo id None: not a text"),
        ("photo", "a page", "not a SearchResult"),
        ("photo", SearchResult("t", None), "not a SearchResult of texts"),
    ],
)
def test_what_can_not_be_recorded_is_refused_by_name_and_leaves_nothing(cache, photo_id, result, message):
    with pytest.raises(ValueError, match=message):
        cache.record_text(photo_id, "x", [result])
    assert cache.photo_ids() == []


def test_a_batch_that_ends_in_an_exception_keeps_what_was_recorded(folder):
    with SearchCache.open(folder, "w") as cache:
        with pytest.raises(KeyError), cache.batch(100):
            cache.record_text("photo", "x", [page(1)])
            raise KeyError
        assert titles(cache.text("photo", "x")) == ["Page 1"]


def test_a_batch_commits_every_so_many_records_and_a_read_through_the_handle_sees_all(folder):
    with SearchCache.open(folder, "w") as cache, SearchCache.open(folder) as reader, cache.batch(3):
        seen = []
        for n in range(7):
            cache.record_text(f"photo-{n}", "x", [page(n)])
            seen.append(len(reader.photo_ids()))
        assert seen == [0, 0, 3, 3, 3, 6, 6]
        assert len(cache.photo_ids()) == 7
        assert len(reader.photo_ids()) == 7


def test_one_process_may_open_a_folder_many_times_and_write_beside_its_readers(folder):
    with SearchCache.open(folder, "w") as writer:
        writer.record_text("photo", "x", [page(1)])
    reader = SearchCache.open(folder)
    again = SearchCache.open(str(folder) + "/../cache")
    writer, second = SearchCache.open(folder, "w"), SearchCache.open(folder, "w")
    writer.record_text("photo", "y", [page(2)])
    second.record_text("photo", "z", [page(3)])
    assert [titles(reader.text("photo", query)) for query in "xyz"] == [["Page 1"], ["Page 2"], ["Page 3"]]
    writer.close()
    writer.close()
    assert titles(again.text("photo", "z")) == ["Page 3"]
    for handle in (reader, again, second):
        handle.close()
    with pytest.raises(CacheError, match="closed; open it again"):
        reader.text("photo", "x")


def test_threads_record_and_read_through_one_handle_without_losing_anything(folder):
    def work(number):
        for n in range(40):
            cache.record_text(f"photo-{number}-{n}", "x", [page(n)])
            assert titles(cache.text(f"photo-{number}-{n}", "x")) == [f"Page {n}"]

    with SearchCache.open(folder, "w") as cache, cache.batch(7), ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    with SearchCache.open(folder) as cache:
        assert len(cache.photo_ids()) == 160


def test_recording_into_a_cache_opened_for_reading_is_refused(folder, cache):
    with SearchCache.open(folder) as reader, pytest.raises(CacheError, match="opened for reading"):
        reader.record_text("photo", "x", [page(1)])
    assert cache.photo_ids() == []


def test_a_folder_deleted_and_made_anew_is_opened_anew(folder):
    old = SearchCache.open(folder, "w")
    old.record_text("photo", "x", [page(1)])
    shutil.rmtree(folder)
    with SearchCache.open(folder, "w") as new:
        assert new.photo_ids() == []
        new.record_text("photo", "x", [page(2)])
        for act in (lambda: old.record_text("photo", "y", [page(3)]), old.close):
            with pytest.raises(CacheError, match="deleted or made anew; open it again"):
                act()
        assert titles(new.text("photo", "x")) == ["Page 2"]


def _answers(folder, cache, queue):
    queue.put([titles(cache.text("photo", "x", call)) for call in range(3)])
    cache.record_text("photo", f"child {os.getpid()}", [page(5)])
    with SearchCache.open(folder) as another:
        queue.put(len(another.text("photo", f"child {os.getpid()}").results))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_workers_read_and_write_through_the_handle_they_inherit(folder, cache):
    cache.record_text("photo", "x", [page(n) for n in range(8)])
    context, here = multiprocessing.get_context("fork"), [titles(cache.text("photo", "x", call)) for call in range(3)]
    queue = context.Queue()
    with cache.batch(100):
        cache.record_text("photo", "pending", [page(1)])
        workers = [context.Process(target=_answers, args=(folder, cache, queue)) for _ in range(3)]
        for worker in workers:
            worker.start()
        got = [queue.get(timeout=30) for _ in range(6)]
        for worker in workers:
            worker.join(30)
    assert sorted(got, key=str) == [1, 1, 1, here, here, here]
    assert cache.stats()["text_calls"] == 5


WRITER = """if True:
    import os, sys
    from reverse_lib.search import SearchCache
    from reverse_lib.search import SearchResult
    cache = SearchCache.open(sys.argv[1], "w")
    for n in range(int(sys.argv[2])):
        snippet = os.urandom(20_000).hex()
        cache.record_text(f"photo-{n}", "x", [SearchResult(str(n), f"https://e.org/{n}", "", snippet, True)])
        print(n, flush=True)
"""
READER = """if True:
    import sys, time
    from reverse_lib.search import SearchCache
    with SearchCache.open(sys.argv[1]) as cache:
        last, end = 0, time.monotonic() + 40
        while last < int(sys.argv[2]) and time.monotonic() < end:
            ids = cache.photo_ids()
            assert len(ids) >= last, (len(ids), last)
            last = len(ids)
            for photo_id in ids[-3:]:
                answer = cache.text(photo_id, "x")
                assert answer.results[0].title == photo_id[6:] and len(answer.results[0].snippet) == 40_000
    print(last)
"""


def test_two_processes_read_while_one_writes(folder):
    SearchCache.open(folder, "w").close()
    start = [[sys.executable, "-c", code, str(folder), "300"] for code in (READER, READER, WRITER)]
    running = [
        subprocess.Popen(one, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for one in start
    ]
    outputs = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], outputs
    assert [output.split()[-1] for output, _ in outputs] == ["300", "300", "299"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("delay_s", [0.0, 0.2])
def test_a_process_killed_while_recording_loses_no_committed_record(folder, delay_s):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, folder, "100000"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout.readline() == "0\n"
    time.sleep(delay_s)
    writer.send_signal(signal.SIGKILL)
    said = ["0", *writer.stdout.read().split()]  # communicate() would lose what readline() has read ahead
    writer.wait(30)
    with SearchCache.open(folder, "w") as cache:
        assert len(cache.photo_ids()) in (len(said), len(said) + 1)
        for n in said:
            assert titles(cache.text(f"photo-{n}", "x")) == [n]
        assert cache.stats()["text_results"] == len(cache.photo_ids())
        cache.record_text("after", "x", [page(1)])
        assert titles(cache.text("after", "x")) == ["Page 1"]


def change(folder, statement, *values):
    """What another SQLite program does to the file."""
    connection = sqlite3.connect(folder / FILE_NAME)
    with connection:
        connection.execute(statement, values)
    connection.close()


@pytest.mark.parametrize("mode", ["r", "w"])
@pytest.mark.parametrize(("version", "remedy"), [(FORMAT + 1, "update the program"), (FORMAT - 1, "record")])
def test_another_format_is_refused_by_name_with_a_remedy(folder, mode, version, remedy):
    SearchCache.open(folder, "w").close()
    change(folder, f"PRAGMA user_version = {version}")
    with pytest.raises(CacheError, match=f"version {version}, and this program reads version {FORMAT}; .*{remedy}"):
        SearchCache.open(folder, mode)


@pytest.mark.parametrize("mode", ["r", "w"])
def test_a_cache_of_the_version_in_lmdb_is_refused_by_name_with_a_remedy(folder, mode):
    folder.mkdir()
    (folder / "data.mdb").write_bytes(bytes(4096))
    with pytest.raises(CacheError, match=r"cache: a cache of an older version \(data.mdb\).*record its searches again"):
        SearchCache.open(folder, mode)
    assert [file.name for file in folder.iterdir()] == ["data.mdb"]


@pytest.mark.parametrize("mode", ["r", "w"])
def test_someone_elses_sqlite_file_is_refused_and_left_alone(folder, mode):
    folder.mkdir()
    change(folder, "CREATE TABLE theirs (data TEXT)")
    content = (folder / FILE_NAME).read_bytes()
    with pytest.raises(CacheError, match="no search cache"):
        SearchCache.open(folder, mode)
    assert (folder / FILE_NAME).read_bytes() == content


def test_any_sqlite_program_can_read_what_was_recorded(folder, cache):
    cache.record_image("photo ü", BOX, [page(1, True)], backend="vision", time=5.0)
    with sqlite3.connect(folder / FILE_NAME) as other:
        (row,) = other.execute("SELECT photo_id, tool, arguments, backend, time, results FROM searches").fetchall()
    other.close()
    assert row[:5] == ("photo ü", "image_search_tool", "[100.0, 100.0, 300.0, 200.0]", "vision", 5.0)
    assert json.loads(row[5]) == [vars(page(1, True))]


def test_a_missing_folder_is_refused_for_reading_with_a_remedy_and_not_created(folder):
    with pytest.raises(CacheError, match="no such cache; .*mode='w'"):
        SearchCache.open(folder)
    assert not folder.exists()


@pytest.mark.parametrize("mode", ["r", "w"])
def test_a_file_is_refused(tmp_path, mode):
    (tmp_path / "photo.jpg").write_bytes(b"not a cache")
    for path in (tmp_path / "photo.jpg", tmp_path / "photo.jpg" / "deeper"):
        with pytest.raises(CacheError, match="photo.jpg"):
            SearchCache.open(path, mode)
    assert (tmp_path / "photo.jpg").read_bytes() == b"not a cache"


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 10_000, bytes(10_000)])
def test_a_folder_with_anything_else_in_its_file_is_refused(folder, content):
    folder.mkdir()
    (folder / FILE_NAME).write_bytes(content)
    with pytest.raises(CacheError, match="cache"):
        SearchCache.open(folder)


@pytest.mark.parametrize("mode", ["r", "w"])
def test_a_file_cut_short_is_refused(folder, mode):
    with SearchCache.open(folder, "w") as cache:
        cache.record_text("photo", "x", [SearchResult("t", "u", "", os.urandom(200_000).hex())])
    os.truncate(folder / FILE_NAME, (folder / FILE_NAME).stat().st_size // 2)
    with pytest.raises(CacheError, match="malformed"):
        SearchCache.open(folder, mode).text("photo", "x")


def test_a_flipped_bit_is_an_error_or_a_miss_and_never_another_answer(folder):
    with SearchCache.open(folder, "w") as cache:
        cache.record_text("photo", "Valencia Spain", [page(1, True), page(2)])
        answer = cache.text("photo", "Valencia Spain")
    content, outcomes = bytearray((folder / FILE_NAME).read_bytes()), []
    for at in range(content.rindex(b"phototext_search"), len(content)):
        content[at] ^= 1
        (folder / FILE_NAME).write_bytes(content)
        content[at] ^= 1
        try:
            with SearchCache.open(folder) as cache:
                outcomes.append(cache.text("photo", "Valencia Spain"))
        except CacheError as error:
            outcomes.append("damaged" in str(error))
    assert outcomes.count(True) > 100 and set(outcomes) <= {True, False, None, answer}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to become someone else")
def test_a_cache_in_a_folder_that_can_not_be_written_can_be_read(folder, cache):
    cache.record_text("photo", "x", [page(1)])
    cache.close()
    for made in (folder, *folder.parents):
        if made.name.startswith("pytest-of-") or "pytest-of-" in str(made.parent):  # pytest's are for this user alone
            made.chmod(0o755)
    code = """if True:
        import os, sys
        from reverse_lib.search import CacheError, SearchCache
        os.setuid(65534)
        print([result.title for result in SearchCache.open(sys.argv[1]).text("photo", "x").results])
        try:
            SearchCache.open(sys.argv[1], "w")
        except CacheError as error:
            print(error)
    """
    done = run_python(code, folder)
    assert done.stdout.startswith("['Page 1']\n"), done.stderr
    assert "can't be opened for writing" in done.stdout


@pytest.mark.parametrize(
    "settings", [{"mode": "a"}, {"shown": 0}, {"min_similarity": 0}, {"min_iou": float("nan")}, {"max_useful": -1}]
)
def test_impossible_settings_are_refused_and_create_nothing(folder, settings):
    with pytest.raises(ValueError, match=r"no such mode|impossible"):
        SearchCache.open(folder, **{"mode": "w"} | settings)
    assert not folder.exists()


def test_the_searches_of_a_rollout_are_recorded_with_their_labels_and_failed_calls_are_not(cache):
    shown = [vars(page(1, True)), vars(page(2))]
    calls = [
        Observation("image_zoom_in_tool", {"bbox_2d": BOX}, "ok"),
        Observation("image_search_tool", {"bbox_2d": [100.4, 100, 299.6, 200], "goal": "x"}, "ok", results=shown),
        Observation("text_search_tool", {"query": ["Valencia Spain", "valencia, spain"]}, "ok", results=shown[1:]),
        Observation("text_search_tool", {"query": "qqzx"}, "miss"),
        Observation("text_search_tool", {"query": ["Valencia Spain", "Cullera Spain"]}, "ok", results=shown),
        Observation("text_search_tool", {"query": "Lima Peru"}, "service_error"),
        Observation("image_search_tool", {"bbox_2d": "all of it"}, "model_error"),
    ]
    rollout = Trajectory("photo", [*(Step("", call) for call in calls), Step("an answer")])
    assert cache.record_trajectory(rollout) == 3
    image, text = cache.image("photo", BOX), cache.text("photo", "Valencia Spain")
    assert (set(image.results), image.match) == ({page(1, True), page(2)}, 1.0)
    assert [image.results[position - 1] for position in image.useful] == [page(1, True)]
    assert (text.results, text.useful, text.labelled) == ((page(2),), frozenset(), True)
    assert cache.text("photo", "qqzx").results == () and cache.text("photo", "Lima Peru") is None
    assert cache.stats()["image_calls"] == 1 and cache.stats()["text_calls"] == 2


def test_what_older_lists_let_pass_is_looked_at_again_after_it_was_added_to(folder):
    leaked, fine = page(1, host="bad.example"), page(2)
    with SearchCache.open(folder, mode="w") as cache:
        cache.record_text("p", "q", [leaked])
    with SearchCache.open(folder, mode="w", blocked_hosts=["bad.example"]) as cache:
        cache.record_text("p", "q", [fine])
        assert cache.text("p", "q").results == (fine,)
    with SearchCache.open(folder) as cache:
        assert set(cache.text("p", "q").results) == {fine, leaked}
