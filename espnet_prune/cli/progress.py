"""Run a training with its output in a log, and tell the terminal how it goes.

python -m espnet_prune.cli.progress --log exp/x/train.log -- python3 -m ...

With ``--cuda_cmd`` ESPnet's launcher starts it, perhaps on other machines: it writes
the log itself then, and what the launcher says goes to ``launch.log`` beside it.

One training at a time in a directory: a second one would mix its checkpoints with
those of the first.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import hold
from espnet_prune.running.parallel import KILLED, time_left, was_killed

SIZE = re.compile(r"\[train\] mini-batch sizes summary: N-batch=(\d+)")
EPOCH = re.compile(r"(\d+)/(\d+)epoch started")
RESULT = re.compile(r"(\d+)epoch results: \[train\] (.*?), \[valid\] (.*)")
BATCH = re.compile(r"(\d+)epoch:train:\d+-(\d+)batch: (.*)")
SHOWN = ("loss", "acc", "sparsity_realised", "sparsity_target")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--log", type=Path, required=True)
    add_launcher(parser)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a training runs."""
    parser.add_argument("--ngpu", type=int, default=0, help="of each machine")
    parser.add_argument("--cuda_cmd", default="", help="starts it; default: here")
    parser.add_argument("--num_nodes", type=int, default=1, help="machines")


def launched(command: list[str], log: Path, args: argparse.Namespace) -> list[str]:
    """Return the command by which ESPnet's launcher starts ``command``.

    Args:
        command: of a training.
        log: that it will write.
        args: of :func:`add_launcher`.
    """
    options = {
        "--cmd": f"{args.cuda_cmd} --name {log}",
        "--log": log,
        "--ngpu": args.ngpu,
        "--num_nodes": args.num_nodes,
        "--init_file_prefix": log.with_name(".dist_init_"),
        "--multiprocessing_distributed": "true",
    }
    words = [str(word) for option in options.items() for word in option]
    return ["python3", "-m", "espnet2.bin.launch", *words, "--", *command]


def numbers(text: str) -> str:
    """Pick the few numbers of an ESPnet log line that say how the training goes."""
    found = dict(re.findall(r"(\w+)=(-?\d[\d.e+-]*)", text))
    return " ".join(f"{k} {float(found[k]):.3f}" for k in SHOWN if k in found)


class Watcher:
    """The watcher turns the lines of a training's log into what the terminal shows."""

    def __init__(self) -> None:
        self.batches = 0  # in an epoch
        self.first = self.last = 0  # epochs of this run
        self.begun = 0.0

    def describe(self, line: str) -> str | None:
        """Say what to show of a log line, if anything."""
        if match := SIZE.search(line):
            self.batches = int(match[1])
        elif match := EPOCH.search(line):
            if not self.first:
                self.first, self.begun = int(match[1]), time.monotonic()
            self.last = int(match[2])
            return f"epoch {match[1]}/{match[2]}"
        elif match := BATCH.search(line):
            left = self.time_left(int(match[1]), int(match[2]))
            return f"  batch {match[2]}/{self.batches}{left}: {numbers(match[3])}"
        elif match := RESULT.search(line):
            return f"  after epoch {match[1]}: valid {numbers(match[3])}"
        elif "latency: writing" in line:
            return line.partition("INFO: ")[2] or line
        elif "already reached at max_epoch" in line:
            return "all its epochs were done before"
        return None

    def time_left(self, epoch: int, batch: int) -> str:
        """Estimate the time of the batches to come at the pace of this run."""
        done = (epoch - self.first) * self.batches + batch
        total = (self.last - self.first + 1) * self.batches
        return time_left(self.begun, done, total)


def lock(folder: Path) -> IO[str]:
    """Lock ``folder``; the lock lives as long as a process holds the open file.

    The training inherits it, so the lock outlives a killed terminal, and no longer.

    Raises:
        InputError: another training holds it.
    """
    path = folder / ".lock"
    if (file := hold(path)) is None:
        what = f"a training runs there already (process {path.read_text()})"
        raise InputError(folder, what, "wait for it, or stop it")
    return file


def start(command: list[str], log: Path, session: bool) -> subprocess.Popen:
    """Start the training, its output appended to ``log``; it holds the lock.

    Args:
        command: what to start.
        log: beside which the lock is.
        session: whether it gets a session of its own, so that what it starts in turn
            can be stopped with it. Otherwise it goes with the terminal.
    """
    with lock(log.parent) as held, log.open("ab") as f:
        process = subprocess.Popen(
            command,
            stdout=f,
            stderr=subprocess.STDOUT,
            pass_fds=[held.fileno()],
            start_new_session=session,
        )
        held.truncate(0)
        held.write(str(process.pid))
    return process


class Tail:
    """The lines appended to a file from now on, also if another takes its place."""

    def __init__(self, path: Path):
        self.path = path
        self.file, self.rest = None, ""
        if path.exists():
            self.file = path.open(encoding="utf-8", errors="replace")
            self.file.seek(0, os.SEEK_END)

    def lines(self) -> list[str]:
        """Return the lines that are new."""
        new = self._read()
        if self._replaced():  # ESPnet's launcher moves the old log away
            self.file = self.path.open(encoding="utf-8", errors="replace")
            new += self._read()
        *lines, self.rest = (self.rest + new).split("\n")
        return lines

    def _read(self) -> str:
        return self.file.read() if self.file else ""

    def _replaced(self) -> bool:
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return False
        return self.file is None or os.fstat(self.file.fileno()).st_ino != now.st_ino


def follow(process: subprocess.Popen, log: Tail) -> Iterator[str]:
    """Yield the log's new lines until the process ends or run.sh is gone."""
    parent = os.getppid()
    while True:
        running = process.poll() is None
        yield from log.lines()
        if not running:
            if log.rest:  # a killed process leaves no newline
                yield log.rest
            return
        if os.getppid() != parent:
            sys.exit("run.sh was killed: stopping the training, which can resume")
        time.sleep(0.5)


def watch(command: list[str], watched: Path, launcher: bool = False) -> None:
    """Run a command to its end, and print how the training goes.

    Args:
        command: of a training.
        watched: its log.
        launcher: whether the command is that of a launcher: the training writes its
            log itself.

    Raises:
        InputError: it failed, or another training runs in that directory.
    """
    watched.parent.mkdir(parents=True, exist_ok=True)
    # Appended to, so that a resumed training keeps the log of its first part.
    log = Tail(watched)
    own = watched.with_name("launch.log") if launcher else watched
    process = start(command, own, session=launcher)
    # A terminated run.sh takes its training with it, by the way of `finally`.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if launcher and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    print(f"  log: {watched}", flush=True)
    watcher, tail = Watcher(), []
    try:
        for line in follow(process, log):
            tail = [*tail, line][-12:]
            if message := watcher.describe(line):
                print(f"  {message}", flush=True)
    finally:
        if process.poll() is None:
            if launcher:
                os.killpg(process.pid, signal.SIGTERM)
            process.terminate()
            process.wait()
    if process.returncode != 0:
        if not tail and launcher:  # it never came to a training
            tail, watched = own.read_text().splitlines()[-12:], own
        print("\n".join(tail), file=sys.stderr)
        if was_killed(process.returncode):
            mend = "lower batch_bins, then start again: it goes on"
            raise InputError(watched, f"the training {KILLED}", mend)
        raise InputError(watched, f"the training failed (exit {process.returncode})")


def main() -> None:
    args = get_parser().parse_args()
    command = args.command[args.command[:1] == ["--"] :]
    if args.cuda_cmd:
        command = launched(command, args.log, args)
    watch(command, args.log, launcher=bool(args.cuda_cmd))


if __name__ == "__main__":
    run_main(main)
