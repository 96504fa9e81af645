"""Run one ESPnet program on several parts of a data set, side by side or as jobs."""

import logging
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_prune.base.errors import InputError
from espnet_prune.running.executor import Executor, failed_too
from espnet_prune.running.parallel import FEWER, KILLED, was_killed


def mark_of(folder: Path) -> Path:
    """Name the file that says that the shard which writes this folder is done."""
    return folder.with_name(f"{folder.name}.done")


def run_shards(
    commands: Sequence[Sequence[str]],
    logs: Sequence[Path],
    progress: Callable[[], str],
    executor: Executor = Executor(),  # noqa: B008  (frozen)
    done: Sequence[Path] = (),
    gpus: bool = False,
) -> None:
    """Run the commands, as many at once as there are cores, each with its own log.

    Args:
        commands: one per shard.
        logs: where the output of each goes; they stay, also after a failure.
        progress: what to tell the user every few seconds.
        executor: runs them.
        done: for each a file that says that it is done: written when it is, and a
            shard whose file is there is left out.
        gpus: whether each uses a GPU; here they share all that there are.

    Raises:
        InputError: shards failed; names their logs, and shows the last lines of the
            first. The others run to their end before.
    """
    marks = list(done) or [None] * len(commands)
    shards = [
        Shard(list(command), log, mark)
        for command, log, mark in zip(commands, logs, marks, strict=True)
        if mark is None or not mark.exists()
    ]
    if len(shards) < len(commands):
        kept = len(commands) - len(shards)
        logging.info(f"{kept} of {len(commands)} parts were done before")
    if not shards:
        return
    if executor.is_local:
        run_here(shards, progress, visible_gpus() if gpus else [])
    else:
        what = f"{shards[0].command[2]} in parts"
        for _ in executor.submit(Shard.run, shards, logs[0].parent / "jobs", what):
            pass


@dataclass(frozen=True)
class Shard:
    """A command, its log, and the file that says that it is done."""

    command: list[str]
    log: Path
    done: Path | None

    def start(self, env: dict[str, str]) -> subprocess.Popen:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("w") as f:
            return subprocess.Popen(self.command, stdout=f, stderr=f, env=env)

    def note_done(self) -> None:
        if self.done is not None:
            self.done.touch()

    def error(self, status: int, others: Sequence["Shard"] = ()) -> InputError:
        """Make the error: what the shard said last, and which others failed, too."""
        also = failed_too([shard.log for shard in others])
        if was_killed(status):
            return InputError(self.log, f"this job {KILLED}{also}", FEWER)
        lines = self.log.read_text(errors="replace").splitlines()[-5:]
        if status < 0:
            lines.append(f"it was ended by signal {-status}: start it again")
        tail = "\n".join(lines or ["it said nothing"])
        return InputError(self.log, f"this job failed{also}:\n{tail}")

    def run(self) -> None:
        """Run the shard in a job of its own, with the cores that the job has."""
        cores = os.environ.get("SLURM_CPUS_PER_TASK", "1")
        if status := self.start(os.environ | {"OMP_NUM_THREADS": cores}).wait():
            raise self.error(status)
        self.note_done()


def visible_gpus() -> list[str]:
    """List the GPUs of this machine, as CUDA_VISIBLE_DEVICES names them."""
    import torch  # takes a second, and most programs here have no need of it

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return given.split(",")
    return [str(n) for n in range(torch.cuda.device_count())]


def run_here(
    shards: Sequence[Shard], progress: Callable[[], str], gpus: Sequence[str] = ()
) -> None:
    """Run shards side by side in processes of this machine, in turn on its GPUs.

    More than there are cores would only share memory out among them.
    """
    cores = os.cpu_count() or 1
    at_once = max(cores, len(gpus))
    threads = max(1, cores // len(shards))
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit():  # the user shares the machine, or a scheduler does
        threads = min(threads, max(1, int(given)))
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    processes: list[subprocess.Popen] = []
    try:
        told = time.monotonic()
        while len(processes) < len(shards) or any(p.poll() is None for p in processes):
            n = len(processes)
            if n < len(shards) and sum(p.poll() is None for p in processes) < at_once:
                own = {"CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)]} if gpus else {}
                processes.append(shards[n].start(env | own))
                continue
            time.sleep(0.2)
            if time.monotonic() - told > 10:
                logging.info(progress())
                told = time.monotonic()
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
    failed = []
    for shard, process in zip(shards, processes, strict=True):
        if process.returncode:
            failed.append((shard, process.returncode))
        else:
            shard.note_done()
    if failed:
        (first, status), *others = failed
        raise first.error(status, [shard for shard, _ in others])
