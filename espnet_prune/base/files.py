"""Write files so that a killed run leaves either the old file or the new one."""

import fcntl
import functools
import glob
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import yaml

from espnet_prune.base.errors import InputError

# Ten times as fast where PyYAML was built with libyaml.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MADE_OF = ".made_of"  # in a directory: a digest of what it was made of


def _host() -> str:
    """The function returns the name of this machine, without dots."""
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())


def _own_name(path: Path, kind: str) -> Path:
    """The function returns a name beside ``path`` that no other process takes.

    Args:
        path: what is to be written.
        kind: last part of the name: ``tmp``, or ``old`` for what is set aside.
    """
    return path.with_name(f".{path.name}.{_host()}.{os.getpid()}.{kind}")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; rename to ``path`` on success.

    On an exception the temporary file is removed and ``path`` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _own_name(path, "tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """Yield a temporary directory beside ``path``; swap it in on success.

    What stood at ``path`` before is replaced as a whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_up_after_killed_runs(path)
    temporary = _own_name(path, "tmp")
    temporary.mkdir()
    try:
        yield temporary
        _swap_in(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def resumable_dir(path: str | Path, stamp: str) -> Iterator[Path]:
    """Do as :func:`atomic_dir`, but keep an unfinished directory for the next run.

    Args:
        path: where it will be.
        stamp: what it is made of; an unfinished one of another stamp is removed.

    Raises:
        InputError: another process makes it at the same time.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        _clear_up_after_killed_runs(path)
        work = unfinished(path)
        mark = work / ".stamp"
        if not mark.is_file() or mark.read_text() != _digest(stamp):
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            mark.write_text(_digest(stamp))
        yield work
        mark.unlink()
        _swap_in(work, path)


def unfinished(path: Path) -> Path:
    """Name the place beside ``path`` where :func:`resumable_dir` makes it."""
    return path.with_name(f".{path.name}.work")


def is_made_of(path: str | Path, stamp: str) -> bool:
    """Tell whether a directory was made of just this before (:func:`note_made_of`)."""
    mark = Path(path) / MADE_OF
    return mark.is_file() and mark.read_text() == _digest(stamp)


def note_made_of(path: str | Path, stamp: str) -> None:
    """Remember what a directory, which is complete, was made of."""
    write_text(Path(path) / MADE_OF, _digest(stamp))


def _digest(stamp: str) -> str:
    return hashlib.sha256(stamp.encode()).hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """The context holds the only lock on ``path``, a file beside it.

    Args:
        path: what is being made; its directory must exist, it itself need not.

    Raises:
        InputError: another process holds the lock.
    """
    lock = path.with_name(f".{path.name}.lock")
    file = hold(lock)
    if file is None:
        raise InputError(path, "another run is making it", "wait for it, or stop it")
    with file:
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def hold(lock: Path) -> IO[str] | None:
    """The function opens and locks a file, and makes it if it is not there.

    A file that its owner removes between our opening and locking it locks nobody out:
    the next file of that name is locked then.

    Args:
        lock: name of the file.

    Returns:
        The open file, which is locked until it is closed here and by every process
        that has inherited it; None if another process has locked it.
    """
    while True:
        file = lock.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
                return file
        except BlockingIOError:
            file.close()
            return None
        except FileNotFoundError:
            pass
        file.close()


def _swap_in(temporary: Path, path: Path) -> None:
    """Put a directory in the place of another, which is not lost if that fails."""
    old = _own_name(path, "old")
    try:
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(temporary, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _clear_up_after_killed_runs(path: Path) -> None:
    """The function removes what killed :func:`atomic_dir` left of ``path`` here, and
    brings back what one had set aside.

    What processes of other machines left stays: whether they live cannot be seen.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.{_host()}.*"):
        pid, kind = left.name.split(".")[-2:]
        if kind not in ("tmp", "old") or not pid.isdigit() or _is_alive(int(pid)):
            continue
        if kind == "old" and not path.exists():
            os.replace(left, path)  # killed between the two renames
        else:
            shutil.rmtree(left, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def retire(path: str | Path) -> Path:
    """Move ``path`` aside, to the next free ``<path>.1``, ``<path>.2``, ..."""
    path = Path(path)
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    os.replace(path, aside)
    return aside


def fingerprint(path: str | Path) -> str:
    """Compute the SHA-256 of a file: it ties a result to the weights that gave it."""
    with Path(path).open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@functools.cache
def code_version() -> str:
    """The function returns a SHA-256 of the package's source files, and the versions
    of what it runs on: it ties a result to the code that gave it."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)} {fingerprint(path)}\n".encode())
    runs_on = ("torch", "espnet", "transformers", "onnxruntime")
    installed = {d.name: d.version for d in metadata.distributions()}
    versions = " ".join(f"{name}={installed.get(name)}" for name in runs_on)
    return f"{digest.hexdigest()} {versions}"


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` (UTF-8) atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_yaml(path: str | Path, value: Any) -> None:
    """Write ``value`` as YAML, atomically, in the order that it has."""
    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        InputError: missing, not YAML, or no mapping.
    """
    try:
        data = yaml.load(Path(path).read_text(encoding="utf-8"), LOADER)
    except FileNotFoundError as e:
        raise InputError(
            path, "does not exist", "check the option that names it"
        ) from e
    except yaml.YAMLError as e:
        raise InputError(path, f"is no YAML: {str(e).splitlines()[0]}") from e
    except UnicodeDecodeError as e:
        mend = "convert the file, for example with iconv"
        raise InputError(path, "is not UTF-8", mend) from e
    if not isinstance(data, dict):
        raise InputError(path, "must hold `key: value` lines")
    return data
