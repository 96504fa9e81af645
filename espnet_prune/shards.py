"""Run one ESPnet program on several parts of a data set, side by side."""

import logging
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from espnet_prune.errors import InputError


def split(keys: Sequence[str], parts: int) -> list[Sequence[str]]:
    """Cut into at most that many consecutive parts of nearly equal size."""
    parts = min(parts, len(keys))
    bounds = [round(i * len(keys) / parts) for i in range(parts + 1)]
    return [keys[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]


def time_left(start: float, done: int, total: int) -> str:
    """What a progress line says about it; ``start`` is a ``time.monotonic()``."""
    if done == 0:
        return ""
    seconds = (time.monotonic() - start) * (total - done) / done
    return f", time left: {seconds / 60:.1f} min"


def run_shards(
    commands: Sequence[Sequence[str]],
    logs: Sequence[Path],
    progress: Callable[[], str],
) -> None:
    """Run the commands at once, each with its share of the cores and its own log.

    Args:
        commands: one per shard.
        logs: where the output of each goes; they stay, also after a failure.
        progress: what to tell the user every few seconds.

    Raises:
        InputError: a shard failed; names its log and shows its last lines.
    """
    threads = max(1, (os.cpu_count() or 1) // len(commands))
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit():  # the user shares the machine, or a scheduler does
        threads = min(threads, max(1, int(given)))
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    processes = []
    try:
        for command, log in zip(commands, logs, strict=True):
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("w") as f:
                processes.append(subprocess.Popen(command, stdout=f, stderr=f, env=env))
        told = time.monotonic()
        while any(p.poll() is None for p in processes):
            if any(p.poll() for p in processes):
                break  # one failed: what the others do is lost anyway
            time.sleep(0.2)
            if time.monotonic() - told > 10:
                logging.info(progress())
                told = time.monotonic()
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
    for process, log in zip(processes, logs, strict=True):
        if process.returncode not in (0, None):
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
            raise InputError(log, f"this job failed:\n{tail}")
