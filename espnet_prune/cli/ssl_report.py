"""Write one report on self-supervised encoders, from what the stages left.

    python -m espnet_prune.cli.ssl_report --dense DIR --compact DIR ... --out exp/report

reads ``measured.json`` and ``probes.json`` of ``--out`` and leaves
``report.{md,html,json,csv}`` and a picture there; the main table goes to each model's
card, too.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

from espnet_prune.base.errors import run_main
from espnet_prune.base.files import write_text
from espnet_prune.report.page import write_report
from espnet_prune.report.ssl import build, caveats, collect, main_table, told
from espnet_prune.report.ssl_card import card


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dense", type=Path, required=True)
    parser.add_argument("--compact", type=Path, action="append", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--note", default="", help="text shown on top")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    report = collect(args.out, args.dense, args.compact)
    title = "espnet_prune report: self-supervised encoders"
    parts = build(report, args.note)
    write_report(args.out, parts, title, report)
    from espnet_prune.families.ssl.audio import normalizes  # imports transformers

    for folder in args.compact:
        pruning = json.loads((folder / "pruning.json").read_text(encoding="utf-8"))
        page = card(folder.name, pruning, normalizes(folder), report, args.note)
        write_text(folder / "README.md", page)
    sys.stdout.write("\n".join([main_table(report).text(), *told(report), ""]))
    for text in filter(None, [*caveats(report), args.note]):
        logging.warning(text)
    logging.info(f"report: {args.out / 'report.html'}")


if __name__ == "__main__":
    run_main(main)
