"""A copy of the recipe to start without touching the checkout's data."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def copy_recipe(folder: Path) -> Path:
    """Without data or experiments, content with this Python."""
    for name in ("run.sh", "path.sh"):
        shutil.copy(ROOT / name, folder)
    for name in ("conf", "local"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("espnet_prune", "models"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "requirements.txt").write_text("")
    return folder


def start(
    script: Path, *options: str, timeout: float = 60, first: Path | None = None
) -> subprocess.CompletedProcess:
    """Run a script of it as someone would who has this Python active.

    ``first`` is a folder of programs that stand before it in ``PATH``.
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    path = f"{first}:{path}" if first else path
    return subprocess.run(
        ["bash", script, *options],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout,
    )


def unchecked(folder: Path) -> Path:
    """A folder with a ``python3`` that has nothing to say against any options.

    The check takes seconds, and has tests of its own.
    """
    program = folder / "python3"
    pass_by = 'case "$*" in *cli.check_early*) exit 0;; esac'
    program.write_text(f'#!/bin/sh\n{pass_by}\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    return folder


def fake_python(folder: Path, calls: Path) -> Path:
    """A ``python3`` that writes its arguments down, and gives the rungs."""
    program = folder / "python3"
    folder.mkdir()
    real = f'case $2 in *.run_options) exec {sys.executable} "$@";; esac'
    program.write_text(f'#!/bin/sh\n{real}\nprintf "%s\\n" "$*" >>{calls}\n')
    program.chmod(0o755)
    return program
