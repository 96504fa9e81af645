"""Do the steps of a ladder in this process, for those who call them from Python."""

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from espnet_prune.cli.progress import Watcher, lock


def do_here(module: str, options: list[str], folder: Path | None) -> None:
    """Do a step in this process.

    What a training says goes to ``train.log``, how it goes is printed.

    Args:
        module: that does it.
        options: of its command line.
        folder: of a training; None for other steps.
    """
    main = importlib.import_module(module).main
    if folder is None:
        main(options)
        return
    folder.mkdir(parents=True, exist_ok=True)
    # The lock is that of run.sh: another training there would spoil both.
    with lock(folder), logged(folder / "train.log"):
        main([*options, "--output_dir", str(folder)])


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Append what is logged to a file, and print the few lines that say how it goes."""
    root, level = logging.root, logging.root.level
    handlers = [logging.FileHandler(path, encoding="utf-8"), _Progress()]
    root.setLevel(logging.INFO)
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    finally:
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


class _Progress(logging.Handler):
    """The handler prints how a training goes: a notebook shows what is printed."""

    def __init__(self) -> None:
        super().__init__()
        self.watcher = Watcher()

    def emit(self, record: logging.LogRecord) -> None:
        if message := self.watcher.describe(record.getMessage()):
            print(message, flush=True)


def call(program: ModuleType, *options: object) -> None:
    """Do what a program of the project does, in this process."""
    program.main([str(option) for option in options])


def quiet_root() -> None:
    """Let the terminal see warnings alone, unless the caller has set up logging."""
    if not logging.root.handlers:  # or the first message would set up one for all
        handler = logging.StreamHandler()
        handler.setLevel(logging.WARNING)
        logging.root.addHandler(handler)
