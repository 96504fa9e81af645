"""Map a function over items in processes, in order, with progress in the log."""

import copyreg
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from espnet_prune.base.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")
_LOG_SECONDS = 5.0
KILLED = "was killed, most likely for want of memory"
CUT = "cut long recordings by a segments file (stage 3)"
FEWER = f"give fewer parts at once (--nj), or {CUT}"


def ordered_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    nj: int,
    what: str,
    chunk: int = 8,
) -> Iterator[Result]:
    """Yield ``function(item)`` in the order of ``items``.

    Args:
        function: a top-level function that depends on its item alone, so that the
            results are the same whatever ``nj``.
        nj: processes; 1 stays in this one.
        what: names the work in the progress lines, one every few seconds.
        chunk: items that a process is given at a time.

    Raises:
        InputError: as ``function`` does, from whichever process; or one was killed.
    """
    nj = max(1, min(nj, len(items)))
    if nj == 1:
        yield from _progress(map(function, items), len(items), what)
        return
    with ProcessPoolExecutor(nj, initializer=end_with, initargs=[os.getpid()]) as pool:
        results = pool.map(function, items, chunksize=chunk)
        try:
            yield from _progress(results, len(items), what)
        except BrokenProcessPool as e:
            raise InputError(what, f"a process of it {KILLED}", FEWER) from e


def was_killed(status: int) -> bool:
    """Tell from its status whether a process was killed, or what a shell ran was."""
    return status in (-signal.SIGKILL, 128 + signal.SIGKILL)


def end_with(parent: int) -> None:
    """End this process when its parent is gone: killed, it can tell nobody."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def time_left(start: float, done: int, total: int) -> str:
    """Say how much time is left; ``start`` is a ``time.monotonic()``."""
    if done == 0:
        return ""
    seconds = (time.monotonic() - start) * (total - done) / done
    return f", time left: {seconds / 60:.1f} min"


def _progress(results: Iterator[Result], total: int, what: str) -> Iterator[Result]:
    begun = shown = time.monotonic()
    for done, result in enumerate(results, 1):
        if time.monotonic() - shown > _LOG_SECONDS:
            shown = time.monotonic()
            left = time_left(begun, done, total)
            logging.info("%s: %d of %d%s", what, done, total, left)
        yield result


def _restore(message: str) -> InputError:
    return InputError.__new__(InputError, message)


# An exception is pickled as its class called with its one message, which InputError
# cannot be: without this, a worker's error would break the pool instead of arriving.
copyreg.pickle(InputError, lambda error: (_restore, (str(error),)))
