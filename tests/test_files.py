import json
import os

import pytest

from espnet_prune.files import atomic_dir, atomic_path, write_json


class Stop(Exception):
    pass


def test_file_appears_with_its_whole_content(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("all")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "all"


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(Stop), atomic_path(path) as temporary:
        temporary.write_text("ne")
        raise Stop
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_directory_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "d"
    path.mkdir()
    (path / "stale").touch()
    with atomic_dir(path) as temporary:
        (temporary / "fresh").touch()
        assert os.listdir(path) == ["stale"]
    assert os.listdir(path) == ["fresh"]
    assert os.listdir(tmp_path) == ["d"]


def test_failed_directory_leaves_the_old_one(tmp_path):
    path = tmp_path / "d"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(Stop), atomic_dir(path) as temporary:
        (temporary / "fresh").touch()
        raise Stop
    assert os.listdir(path) == ["old"] and os.listdir(tmp_path) == ["d"]


def test_directory_that_cannot_be_swapped_in_is_not_lost(tmp_path, monkeypatch):
    path = tmp_path / "d"
    path.mkdir()
    (path / "old").touch()
    replace = os.replace

    def fail(source, target):
        if str(source).endswith(".tmp"):
            raise OSError("disk full")
        return replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"), atomic_dir(path) as temporary:
        (temporary / "fresh").touch()
    assert os.listdir(path) == ["old"]


def test_json_refuses_what_is_no_json(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": None})
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": None}
