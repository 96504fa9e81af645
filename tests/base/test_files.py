import fcntl
import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import (
    atomic_dir,
    atomic_path,
    is_made_of,
    locked,
    note_made_of,
    resumable_dir,
    retire,
    write_json,
)


class Stop(Exception):
    pass


def fill(path, at, text):
    """Write a file, or a directory with one of that name."""
    if at is atomic_path:
        path.write_text(text)
    else:
        path.mkdir(exist_ok=True)
        (path / text).touch()


def content(path):
    return path.read_text() if path.is_file() else " ".join(os.listdir(path))


@pytest.mark.parametrize("at", [atomic_path, atomic_dir])
def test_what_is_written_appears_as_a_whole_or_not_at_all(tmp_path, at):
    path = tmp_path / "new" / "d"
    for text in ("old", "fresh"):
        with at(path) as temporary:
            fill(temporary, at, text)
            assert not path.exists() if text == "old" else content(path) == "old"
            assert temporary.parent == path.parent
        assert content(path) == text
    with pytest.raises(Stop), at(path) as temporary:
        fill(temporary, at, "half")
        raise Stop
    assert content(path) == "fresh"
    assert os.listdir(path.parent) == ["d"]


def test_unfinished_directory_goes_on_if_it_is_of_the_same(tmp_path):
    path = tmp_path / "out"
    for stamp, left in (("a", set()), ("a", {"x"}), ("b", set())):
        with pytest.raises(Stop), resumable_dir(path, stamp) as work:
            assert {p.name for p in work.iterdir()} - {".stamp"} == left
            (work / "x").touch()
            raise Stop
    assert not path.exists()
    with resumable_dir(path, "b"):
        pass
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "x"]


def test_directory_remembers_what_it_was_made_of(tmp_path):
    path = tmp_path / "out"
    assert not is_made_of(path, "a")
    with resumable_dir(path, "a"):
        pass
    assert not is_made_of(path, "a")  # perhaps it is to be made better
    note_made_of(path, "a")
    assert is_made_of(path, "a") and not is_made_of(path, "b")
    with resumable_dir(path, "b"):
        pass
    assert not is_made_of(path, "a") and not is_made_of(path, "b")


def test_two_runs_do_not_make_one_directory(tmp_path):
    path = tmp_path / "out"
    with resumable_dir(path, "a") as work:
        (work / "x").touch()
        with pytest.raises(InputError, match="another run is making it"):
            with resumable_dir(path, "b"):
                pass
        assert (work / "x").exists()
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "x"]


HOLD = """
import sys
from pathlib import Path
from espnet_prune.base.errors import InputError
from espnet_prune.base.files import locked
try:
    with locked(Path(sys.argv[1])):
        print("mine", flush=True)
        sys.stdin.read()
except InputError:
    print("refused", flush=True)
"""


def test_lock_that_its_owner_takes_away_meanwhile_is_none(tmp_path, monkeypatch):
    """Who opens the file just before its owner removes it must not hold that one."""
    path, flock = tmp_path / "out", fcntl.flock

    def hold():
        return subprocess.Popen(
            [sys.executable, "-c", HOLD, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    owner = hold()
    assert owner.stdout.readline() == "mine\n"

    def flock_once_the_owner_is_gone(*arguments):
        if owner.poll() is None:
            owner.communicate()
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", flock_once_the_owner_is_gone)
    with locked(path):
        assert hold().communicate()[0] == "refused\n"
    assert not list(tmp_path.iterdir())


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


@pytest.fixture
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def left(tmp_path):
    """``left(name, pid, kind)``: a directory as a process of this machine names it."""

    def make(name, pid, kind):
        host = socket.gethostname().replace(".", "-")
        folder = tmp_path / f".{name}.{host}.{pid}.{kind}"
        folder.mkdir()
        return folder

    return make


def test_what_a_killed_run_left_is_taken_away(tmp_path, dead_pid, left):
    path = tmp_path / "d"
    left("d", dead_pid, "tmp")
    kept = [left("d", os.getppid(), "tmp"), left("d.e", dead_pid, "old")]
    with atomic_dir(path):
        pass
    assert sorted(os.listdir(tmp_path)) == sorted(["d", *(k.name for k in kept)])


def test_directory_set_aside_by_a_killed_run_comes_back(tmp_path, dead_pid, left):
    path = tmp_path / "d"
    (left("d", dead_pid, "old") / "old").touch()
    with pytest.raises(Stop), atomic_dir(path):
        raise Stop
    assert os.listdir(tmp_path) == ["d"] and os.listdir(path) == ["old"]


@pytest.mark.parametrize("at", [atomic_path, atomic_dir])
def test_process_of_the_same_number_on_another_machine_is_not_in_the_way(
    tmp_path, monkeypatch, at
):
    """Machines that share a disk name what they write by their own names, too."""
    path = tmp_path / "d"
    with ExitStack() as opened:
        there = []
        for host in ("one.site.org", "two.site.org"):
            monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
            there.append(opened.enter_context(at(path)))
            assert {p.parent for p in there} == {tmp_path}
            assert len({p.name for p in there}) == len(there)
            if at is atomic_path:
                there[-1].touch()
            assert all(p.exists() for p in there)
    assert os.listdir(tmp_path) == ["d"]


def test_what_another_machine_left_is_not_judged_by_the_processes_here(
    tmp_path, monkeypatch, dead_pid, left
):
    there = left("d", dead_pid, "tmp")
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    with atomic_dir(tmp_path / "d"):
        pass
    assert there.exists()


def test_retired_directories_are_numbered(tmp_path):
    path = tmp_path / "d"
    for number in (1, 2):
        path.mkdir()
        (path / str(number)).touch()
        assert retire(path) == tmp_path / f"d.{number}"
    assert os.listdir(tmp_path / "d.1") == ["1"]
    assert not path.exists()
