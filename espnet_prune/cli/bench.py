"""Time encoders: ESPnet's dense, ours, and compact ones, in several precisions.

    python -m espnet_prune.cli.bench --models d256 --targets 0.5 0.75 \
        --precisions fp32 int8 --seconds 10 --threads 1 --json bench.json

prints tables and writes all rows after each. Systems of one table are timed in turns in
one process, so that their ratios can be compared; times of two runs cannot.
*Efficiency* is the time that the MACs would take at the machine's fp32 matrix product's
rate, divided by the time they took. ``--training`` times steps of training instead. On
CPUs onnxruntime runs all but ESPnet's and those called ``_torch``; ``--compile`` adds
rows of these by ``torch.compile``, on a GPU of all, with CUDA graphs.
"""

import argparse
import itertools
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

# isort: split

import torch

from espnet_prune.base.device import find_device
from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.table import read_table
from espnet_prune.bench.results import Results
from espnet_prune.bench.systems import SIZES, compiled, systems
from espnet_prune.bench.tables import (
    inference_table,
    machine_lines,
    training_table,
    warning_line,
)
from espnet_prune.bench.timing import gemm_rate, time_systems
from espnet_prune.bench.training import time_training
from espnet_prune.config.run_options import PRECISIONS
from espnet_prune.measuring.machine import describe, pin_threads
from espnet_prune.serving.inference import check_precision


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=SIZES, default=["small", "d256"])
    parser.add_argument("--targets", nargs="*", type=float, default=[0.5, 0.75])
    parser.add_argument(
        "--round_to", nargs="+", type=int, default=[1], metavar="N",
        help="compact encoders whose numbers of units are multiples of N",
    )  # fmt: skip
    parser.add_argument("--precisions", nargs="+", help=", ".join(PRECISIONS))
    parser.add_argument("--seconds", nargs="*", type=float, default=[10.0])
    parser.add_argument("--data", type=Path, help="has utt2num_samples: real lengths")
    parser.add_argument("--fs", type=int, default=16000, help="of --data, in Hz")
    parser.add_argument("--utts", type=int, default=20, help="of --data")
    parser.add_argument(
        "--batch", nargs="+", type=int, help="1, and on a GPU 16, if not given"
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--compile", action="store_true", help="the same by torch.compile, too"
    )
    parser.add_argument("--training", action="store_true", help="time training steps")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    return parser


def supported(asked: list[str] | None, device: torch.device) -> list[str]:
    """Return the precisions asked for, or all that this device does well.

    Raises:
        InputError: one was asked for that it does not.
    """
    if asked is not None:
        for precision in asked:
            check_precision(precision, device)
        return asked
    found = []
    for precision in PRECISIONS:
        try:
            check_precision(precision, device)
            found.append(precision)
        except InputError as e:
            logging.debug(f"left out: {e}")
    return found


class Utterances(NamedTuple):
    """Lengths of the utterances that one table times, and their data directory."""

    data: str | None
    seconds: list[float]


def workloads(args: argparse.Namespace) -> list[Utterances]:
    """Choose the utterances of each table."""
    found = [Utterances(None, [seconds]) for seconds in args.seconds]
    if args.data is not None:
        table = read_table(args.data / "utt2num_samples", "run stages 1-4")
        lengths = [int(n) / args.fs for n in list(table.values())[: args.utts]]
        found.append(Utterances(args.data.resolve().name, lengths))
    if not found or min(min(utterances.seconds) for utterances in found) <= 0:
        raise InputError("--seconds", "gives no utterance to time")
    return found


def check(args: argparse.Namespace) -> torch.device:
    """Refuse options that make no sense, and find the device."""
    if any(not 0 < t < 1 for t in args.targets):
        raise InputError("--targets", "must be fractions between 0 and 1")
    whole = {"threads": args.threads, "batch": args.batch, "rounds": [args.rounds]}
    whole |= {"utts": [args.utts], "round_to": args.round_to}
    for name, values in whole.items():
        if values is not None and min(values) < 1:
            raise InputError(f"--{name}", "takes numbers from 1 on")
    if args.compile and (args.data or args.training):
        raise InputError(
            "--compile",
            "compiles for each length anew, and no training",
            "leave out --data and --training",
        )
    if args.training and args.data is not None:
        raise InputError("--data", "is not for --training", "give lengths by --seconds")
    if args.training and args.precisions is not None:
        raise InputError("--precisions", "are not for --training", "leave them out")
    return find_device(args.device, "--device")


def batches(asked: list[int] | None, device: torch.device) -> list[int]:
    """Return the batch sizes asked for, or those that say most about this device."""
    return asked or ([1, 16] if device.type == "cuda" else [1])


def product_rates(threads: list[int], device: torch.device) -> dict[int, float]:
    """Measure the MACs per second of a matrix product, by number of threads."""
    rates, before = {}, torch.get_num_threads()
    for number in threads:
        torch.set_num_threads(number)
        rates[number] = gemm_rate(device)
    torch.set_num_threads(before)
    return rates


def time_inference(
    args: argparse.Namespace,
    device: torch.device,
    work: list[Utterances],
    rates: dict[int, float],
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of every table of encoders."""
    precisions = supported(args.precisions, device)
    for model in args.models:
        compared = systems(
            SIZES[model], args.targets, precisions, device, multiples=args.round_to
        )
        if args.compile:
            compared += compiled(compared, device)
        for threads, batch, (data, seconds) in itertools.product(
            args.threads, batches(args.batch, device), work
        ):
            torch.set_num_threads(threads)
            new = time_systems(compared, seconds, batch, args.rounds, device)
            for row in new:
                ideal = row["macs"] / rates[threads]
                row["efficiency"] = ideal / row["median_s"]
            yield [{"model": model, "data": data} | row for row in new]


def time_steps(
    args: argparse.Namespace, device: torch.device
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of every table of training steps."""
    for model, threads, batch, seconds in itertools.product(
        args.models, args.threads, batches(args.batch, device), args.seconds
    ):
        torch.set_num_threads(threads)
        new = time_training(SIZES[model], batch, seconds, args.rounds, device)
        yield [{"model": model, "data": None} | row for row in new]


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    device = check(args)
    if device.type == "cpu" and torch.cuda.is_available():
        logging.info("there is a GPU, too: --device cuda")
    work = workloads(args)
    pin_threads(args.threads[0])
    machine = describe()
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
    rates = product_rates(args.threads, device)
    print(machine_lines(machine, rates), flush=True)
    if args.training:
        tables, show = time_steps(args, device), training_table
    else:
        tables, show = time_inference(args, device, work, rates), inference_table
    results = Results(machine, rates, args.json)
    for rows in tables:
        warning = results.add(rows)
        print(show(rows, rates[rows[0]["threads"]]))
        if warning is not None:
            print(warning_line(warning))
        sys.stdout.flush()
    if args.json is not None:
        logging.info(f"{args.json}: {len(results.rows)} rows")


if __name__ == "__main__":
    run_main(main)
