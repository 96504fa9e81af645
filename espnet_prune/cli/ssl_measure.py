"""Measure self-supervised encoders: parameters, MACs, real-time factor.

    python -m espnet_prune.cli.ssl_measure --dense DIR --compact DIR --out exp/report

leaves ``measured.json``. All are timed in turns, in one run: by torch in fp32, and by
onnxruntime in fp32 and int8.
"""

import argparse
import datetime
import logging
import tempfile
from importlib.metadata import version
from pathlib import Path

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import write_json
from espnet_prune.families.ssl.directory import fingerprint_of, named


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dense", type=Path, required=True)
    parser.add_argument("--compact", type=Path, action="append", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=10.0, help="for MACs and RTF")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    if args.seconds <= 0.1 or args.rounds < 1:
        raise InputError("--seconds, --rounds", "must be above 0")
    import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

    # isort: split
    from espnet_prune.families.ssl.model import read
    from espnet_prune.measuring.machine import describe, pin_threads
    from espnet_prune.measuring.ssl import count, count_macs, real_time_factors
    from espnet_prune.serving.speech_onnx import (
        InexactError,
        write_speech_int8,
        write_speech_onnx,
    )

    pin_threads(args.threads)
    models = {"dense": read(args.dense)}
    folders = named(args.compact)
    models |= {name: read(folder) for name, folder in folders.items()}
    folders = {"dense": args.dense} | folders
    logging.info(f"{len(models)} systems, {args.rounds} rounds of {args.seconds:g} s")
    runs = {(name, "rtf"): model for name, model in models.items()}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, model) in enumerate(models.items()):
            plain, small = (Path(folder, f"{number}{k}.onnx") for k in ("", ".int8"))
            runs[name, "rtf_onnx"] = write_speech_onnx(model, plain)
            try:
                runs[name, "rtf_int8"] = write_speech_int8(model, plain, small)
            except InexactError as e:
                logging.warning(f"{name}: not timed in int8: {e}")
            logging.info(f"{name}: written for onnxruntime")
        machine = describe()
        factors = real_time_factors(runs, args.seconds, args.rounds)
    systems = {
        name: {
            "params": count(model),
            "macs": count_macs(model, args.seconds),
            "weights": fingerprint_of(folders[name]),
        }
        | {key: found for (own, key), found in factors.items() if own == name}
        for name, model in models.items()
    }
    measured = {
        "systems": systems,
        "seconds": args.seconds,
        "machine": machine,
        "torch": version("torch"),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    write_json(args.out / "measured.json", measured)


if __name__ == "__main__":
    run_main(main)
