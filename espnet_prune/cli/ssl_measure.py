"""Compare self-supervised encoders: parameters, MACs, real-time factor, probes.

    python -m espnet_prune.cli.ssl_measure --dense DIR --compact DIR --out exp/report \
        --probe keyword=corpus/train:corpus/test

leaves ``report.json`` and ``report.md``. A probe is a linear one on frozen features;
its Kaldi directories hold a label for each utterance as ``text``.
"""

import argparse
import datetime
import json
import logging
import sys
from pathlib import Path
from typing import Any

import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

# isort: split

import torch

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import write_json, write_text
from espnet_prune.families.ssl.audio import normalizes
from espnet_prune.families.ssl.model import read, untrained
from espnet_prune.measuring.machine import describe, pin_threads
from espnet_prune.measuring.probes import Probe, probe_all, scores
from espnet_prune.measuring.ssl import count, count_macs, real_time_factors
from espnet_prune.report.tables import Table


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dense", type=Path, required=True)
    parser.add_argument("--compact", type=Path, action="append", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--probe", action="append", default=[], metavar="NAME=TRAIN:TEST",
        help="Kaldi directories with a label for each utterance as text",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=10.0, help="for MACs and RTF")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3, help="of the probes' heads")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    probes = [Probe.parse(text) for text in args.probe]
    if args.seconds <= 0.1 or args.rounds < 1 or args.seeds < 1:
        raise InputError("--seconds, --rounds, --seeds", "must be above 0")
    pin_threads(args.threads)
    models = {"dense": read(args.dense)}
    for folder in args.compact:
        models[folder.name] = read(folder)
    rows = [
        {
            "system": name,
            "params": count(model),
            "macs": count_macs(model, args.seconds),
            "probes": {},
            "score": None,
        }
        for name, model in models.items()
    ]
    for row, folder in zip(rows[1:], args.compact, strict=True):
        if (told := folder / "pruning.json").is_file():
            pruning = json.loads(told.read_text(encoding="utf-8"))
            row |= {"method": pruning["method"], "target": pruning["target"]}
    logging.info(f"{len(models)} systems, {args.rounds} rounds of {args.seconds:g} s")
    machine = describe()
    factors = real_time_factors(models, args.seconds, args.rounds)
    for row in rows:
        row["rtf"] = factors[row["system"]]
    if probes:
        systems = {"log_mel": None, "untrained": untrained(models["dense"])} | models
        found = probe_all(probes, systems, normalizes(args.dense), args.seeds)
        extra = [{"system": name} for name in ("log_mel", "untrained")]
        rows = [*extra, *rows]
        for row in rows:
            row["probes"] = found[row["system"]]
            row["score"] = scores(found).get(row["system"])
    report = {
        "rows": rows,
        "seconds": args.seconds,
        "machine": machine,
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    write_json(args.out / "report.json", report)
    table = table_of(rows, [probe.name for probe in probes])
    write_text(args.out / "report.md", f"# Encoders side by side\n\n{table.markdown()}")
    sys.stdout.write(table.text())
    logging.info(f"report: {args.out / 'report.md'}")


def table_of(rows: list[dict[str, Any]], probes: list[str]) -> Table:
    """The main table, with what is gone beside the dense model."""
    dense = next(row for row in rows if row["system"] == "dense")

    def shown(row: dict[str, Any], key: str, unit: float) -> str:
        if key not in row:
            return "-"
        gone = 1 - row[key] / dense[key]
        return f"{row[key] / unit:.3g}" + (f" (-{gone:.0%})" if gone > 0 else "")

    lines = []
    for row in rows:
        cells = [row["system"], shown(row, "params", 1e6), shown(row, "macs", 1e9)]
        cells.append(shown(row, "rtf", 1))
        for name in probes:
            value = row["probes"][name]
            low, high = value["ci"]
            cells.append(f"{value['value']:.1f} ({low:.1f}-{high:.1f})")
        if probes:
            cells.append("-" if row["score"] is None else f"{row['score']:.0f}")
        lines.append(cells)
    header = ["system", "params M", "GMAC", "RTF"]
    header += [f"{name} %" for name in probes] + (["score"] if probes else [])
    return Table(header, lines)


if __name__ == "__main__":
    run_main(main)
