"""Time encoders: ESPnet's dense, ours, and compact ones, in several precisions.

    python -m espnet_prune.bin.bench --models d256 --targets 0.5 0.75 \
        --precisions fp32 bf16 int8 --seconds 10 --threads 1 --json bench.json

prints a table and writes all rows. Systems of one table are timed in turns in one
process, so that their ratios can be compared; times of two runs cannot. *Efficiency* is
the time that the MACs would take at the machine's fp32 matrix product's rate, divided
by the time they took. ``--training`` times steps of training instead. On CPUs
onnxruntime runs ours, too (``--runtimes``); ``--compile`` adds rows of all by
``torch.compile``, on a GPU with CUDA graphs.
"""

import argparse
import itertools
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import espnet_prune.quiet  # noqa: F401  (before anything of ESPnet)

# isort: split

import torch

from espnet_prune.data.table import read_table
from espnet_prune.device import find_device
from espnet_prune.errors import InputError, run_main
from espnet_prune.files import write_json
from espnet_prune.inference.precision import PRECISIONS, check_precision
from espnet_prune.measure.bench import (
    SIZES,
    compiled,
    gemm_rate,
    systems,
    time_systems,
)
from espnet_prune.measure.bench_onnx import onnx_systems
from espnet_prune.measure.bench_training import time_training
from espnet_prune.measure.machine import describe, pin_threads

RUNTIMES = ("torch", "onnxruntime")
LOUD = 0.15  # interquartile range over median that is worth a warning


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
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES, help="of ours"
    )
    parser.add_argument(
        "--compile", action="store_true", help="the same by torch.compile, too"
    )
    parser.add_argument("--training", action="store_true", help="time training steps")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    return parser


def supported(asked: list[str] | None, device: torch.device) -> list[str]:
    """The precisions asked for, or all that this device does well.

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
            logging.warning(f"left out: {e}")
    return found


def workloads(args: argparse.Namespace) -> list[list[float]]:
    """Lists of utterance lengths in seconds; each is a table of its own."""
    found = [[seconds] for seconds in args.seconds]
    if args.data is not None:
        table = read_table(args.data / "utt2num_samples", "run stages 1-4")
        lengths = [int(n) / args.fs for n in list(table.values())[: args.utts]]
        found.append(lengths)
    if not found or min(map(min, found)) <= 0:
        raise InputError("--seconds", "gives no utterance to time")
    return found


def check(args: argparse.Namespace) -> torch.device:
    """The device; refuses options that make no sense."""
    if any(not 0 < t < 1 for t in args.targets):
        raise InputError("--targets", "must be fractions between 0 and 1")
    whole = {"threads": args.threads, "batch": args.batch, "rounds": [args.rounds]}
    whole |= {"utts": [args.utts], "round_to": args.round_to}
    for name, values in whole.items():
        if min(values) < 1:
            raise InputError(f"--{name}", "takes numbers from 1 on")
    if args.compile and (args.data or args.training):
        raise InputError(
            "--compile",
            "compiles for each length anew, and no training",
            "leave out --data and --training",
        )
    return find_device(args.device, "--device")


def time_inference(
    args: argparse.Namespace,
    device: torch.device,
    lengths: list[list[float]],
    rates: dict[int, float],
) -> Iterator[list[dict[str, Any]]]:
    """Rows of every table, and by number of threads what a product reaches."""
    precisions = supported(args.precisions, device)
    for model in args.models:
        compared = systems(
            SIZES[model], args.targets, precisions, device, multiples=args.round_to
        )
        more = compiled(compared, device) if args.compile else []
        with tempfile.TemporaryDirectory() as folder:
            if device.type == "cpu" and "onnxruntime" in args.runtimes:
                logging.info(f"writing {model} as ONNX")
                compared += onnx_systems(compared, precisions, Path(folder))
            compared += more
            for threads in args.threads:
                torch.set_num_threads(threads)
                rates[threads] = gemm_rate(device)
                for batch, utterances in itertools.product(args.batch, lengths):
                    new = time_systems(compared, utterances, batch, args.rounds, device)
                    for row in new:
                        ideal = row["macs"] / rates[threads]
                        row["efficiency"] = ideal / row["median_s"]
                    yield [{"model": model} | row for row in new]


def time_steps(
    args: argparse.Namespace, device: torch.device
) -> Iterator[list[dict[str, Any]]]:
    """Rows of every table of training steps."""
    for model, batch, seconds in itertools.product(
        args.models, args.batch, args.seconds
    ):
        new = time_training(SIZES[model], batch, seconds, args.rounds, device)
        yield [{"model": model} | row for row in new]


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    device, lengths = check(args), workloads(args)
    pin_threads(args.threads[0])
    machine = describe()
    if machine["warning"]:
        logging.warning(f"times will vary: {machine['warning']}")
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
    rates = {args.threads[0]: gemm_rate(device)}
    if args.training:
        tables, show = time_steps(args, device), training_table
    else:
        tables, show = time_inference(args, device, lengths, rates), table
    rows: list[dict[str, Any]] = []
    for new in tables:
        rows += new
        print(show(new), flush=True)
    loud = max(row["iqr_s"] / row["median_s"] for row in rows)
    if loud > LOUD:
        logging.warning(f"times vary by up to {loud:.0%} of their median")
    if args.json is not None:
        result = {
            "machine": machine,
            "gemm_macs_per_second": rates[args.threads[0]],
            "gemm_by_threads": rates,
            "rows": rows,
        }
        write_json(args.json, result)
        logging.info(f"{args.json}: {len(rows)} rows")


def training_table(rows: list[dict[str, Any]]) -> str:
    """The steps that were timed together, beside the first of them."""
    first = rows[0]
    lines = [
        f"\n{first['model']}, a step of {first['batch']} x {first['seconds']:g} s",
        f"{'step':<10}{'ms':>9}{'iqr':>8}{'cost':>8}{'MB':>8}",
    ]
    for row in rows:
        peak = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.0f}"
        lines.append(
            f"{row['system']:<10}{1000 * row['median_s']:>9.1f}"
            f"{1000 * row['iqr_s']:>8.1f}{row['ratio']:>7.2f}x{peak:>8}"
        )
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of systems that were timed together, and their gain over the first."""
    first = rows[0]
    lines = [
        f"\n{first['model']}, {first['seconds']:g} s, batch {first['batch']}, "
        f"{first['threads']} thread(s)",
        f"{'system':<16}{'format':<8}{'target':>7}{'ms':>10}{'iqr':>8}{'gain':>8}"
        f"{'RTF':>9}{'GMACs':>8}{'effic.':>8}{'MB':>8}",
    ]
    for row in rows:
        target = "-" if row["target"] is None else f"{row['target']:g}"
        peak = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.0f}"
        lines.append(
            f"{row['system']:<16}{row['precision']:<8}{target:>7}"
            f"{1000 * row['median_s']:>10.2f}{1000 * row['iqr_s']:>8.2f}"
            f"{first['median_s'] / row['median_s']:>7.2f}x{row['rtf']:>9.5f}"
            f"{row['macs'] / 1e9:>8.2f}{row['efficiency']:>8.2f}{peak:>8}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
