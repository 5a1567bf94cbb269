"""What a notebook works on: the miniature world, or a user's folder with a teacher of their own."""

import pytest
from PIL import Image

from reverse_lib.environment import TINY
from reverse_lib.trajectory import Trajectory
from reverse_lib.world import ScriptedTeacher, open_source


def test_the_world_comes_with_its_teacher_and_spare_photos_that_are_no_others(small_world):
    source = open_source(small_world, n=10, seed=3)
    assert [len(source.photos), len(source.skipped)] == [10, 0] and not source.own and list(source.notices) == []
    assert isinstance(source.teacher, ScriptedTeacher) and source.judge.seed == 3 and source.interface == TINY
    assert not {photo.photo_id for photo in source.spare} & {photo.photo_id for photo in source.photos}
    assert source.photo(Trajectory(source.spare[0].photo_id)) == source.spare[0]


def test_a_folder_needs_a_teacher_and_a_usable_photo(small_world, tmp_path):
    (tmp_path / "list.csv").write_text("path,lat,lon\ngone.jpg,1,2\n")
    with pytest.raises(ValueError, match="only knows the miniature world; name a teacher"):
        open_source(small_world, str(tmp_path))
    with pytest.raises(ValueError, match="none of its 1 listed photos can be used"):
        open_source(small_world, str(tmp_path), "data/models/agent")


def test_a_folder_is_annotated_by_the_model_named_and_says_what_goes_to_a_server(small_world, tmp_path, monkeypatch):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg")
    (tmp_path / "list.csv").write_text("path,lat,lon\na.jpg,1,2\nb.jpg,1,2\n")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "planted")
    source = open_source(small_world, str(tmp_path), "openai:some-model")
    assert source.own and [photo.photo_id for photo in source.photos] == ["a.jpg"]
    assert source.skipped["kind"].tolist() == ["missing"] and source.judge is source.teacher
    assert any("127.0.0.1:9" in sentence for sentence in source.notices) and "planted" not in " ".join(source.notices)
