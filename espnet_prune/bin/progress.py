"""Run a training with its output in a log, and tell the terminal how it goes.

python -m espnet_prune.bin.progress --log exp/x/train.log -- python3 -m ...
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from espnet_prune.errors import InputError, run_main

EPOCH = re.compile(r"(\d+)/(\d+)epoch started(?:. Estimated time to finish: (.+))?")
RESULT = re.compile(r"(\d+)epoch results: \[train\] (.*?), \[valid\] (.*)")
BATCH = re.compile(r"(\d+)epoch:train:\d+-(\d+)batch: (.*)")
SHOWN = ("loss", "acc", "sparsity_realised", "sparsity_target")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser


def numbers(text: str) -> str:
    """The few numbers of an ESPnet log line that say how the training goes."""
    found = dict(re.findall(r"(\w+)=(-?\d[\d.e+-]*)", text))
    return " ".join(f"{k} {float(found[k]):.3f}" for k in SHOWN if k in found)


def describe(line: str, start: float) -> str | None:
    """What to show of a log line, if anything; ``start`` is a monotonic time."""
    if match := EPOCH.search(line):
        epoch, total, left = match.groups()
        return f"epoch {epoch}/{total}" + (f", time left: {left}" if left else "")
    if match := BATCH.search(line):
        minutes = (time.monotonic() - start) / 60
        return f"  batch {match[2]} ({minutes:.1f} min): {numbers(match[3])}"
    if match := RESULT.search(line):
        return f"  after epoch {match[1]}: valid {numbers(match[3])}"
    return None


def follow(process: subprocess.Popen, log: Path, offset: int) -> Iterator[str]:
    """Lines that the process appends to the log, until it ends."""
    with log.open(encoding="utf-8", errors="replace") as f:
        f.seek(offset)
        rest = ""
        while True:
            running = process.poll() is None
            rest += f.read()
            *lines, rest = rest.split("\n")
            yield from lines
            if not running:
                if rest:  # a killed process leaves no newline
                    yield rest
                return
            time.sleep(0.5)


def main() -> int:
    args = get_parser().parse_args()
    command = args.command[args.command[:1] == ["--"] :]
    args.log.parent.mkdir(parents=True, exist_ok=True)
    # Appended to, so that a resumed training keeps the log of its first part.
    with args.log.open("ab") as f:
        offset = f.tell()
        process = subprocess.Popen(command, stdout=f, stderr=subprocess.STDOUT)
    print(f"  log: {args.log}", flush=True)
    start, tail = time.monotonic(), []
    try:
        for line in follow(process, args.log, offset):
            tail = [*tail, line][-12:]
            if message := describe(line, start):
                print(f"  {message}", flush=True)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if process.returncode != 0:
        print("\n".join(tail), file=sys.stderr)
        raise InputError(args.log, f"the training failed (exit {process.returncode})")
    return 0


if __name__ == "__main__":
    run_main(main)
