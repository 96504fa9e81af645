"""Stage 18: write one report from what the stages left.

    python -m espnet_prune.cli.report --corpus digits --dense exp/dense \
        --pruned exp/pruned --compact exp/compact --decode_tag decode_asr \
        --test_sets "test_a test_b" --out exp/report

leaves ``report.{md,html,json,csv}`` and the figures, and prints the main table. It can
be run at any time: what no stage has left yet is null, a dash, and named.
"""

import argparse
import logging
import sys
from pathlib import Path

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.report.caveats import caveats
from espnet_prune.report.collect import collect
from espnet_prune.report.page import build, write_report
from espnet_prune.report.tables import main_table
from espnet_prune.report.verdict import verdicts

logger = logging.getLogger("espnet_prune.report")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--dense", type=Path, required=True, help="results of it")
    parser.add_argument(
        "--dense_training", type=Path, help="where it was trained; default: --dense"
    )
    parser.add_argument("--compact", type=Path, action="append", default=[])
    parser.add_argument("--pruned", type=Path, action="append", default=[])
    parser.add_argument("--decode_tag", required=True, help="decode_<...> directory")
    parser.add_argument("--precisions", default="", help="further ones: bf16 int8")
    parser.add_argument("--test_sets", required=True, help="names, blanks between")
    parser.add_argument("--out", type=Path, default=Path("exp/report"))
    parser.add_argument("--note", default="", help="text shown on top")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    test_sets = args.test_sets.split()
    if not test_sets:
        raise InputError("--test_sets", "names no test set")
    found = collect(
        args.corpus,
        args.dense,
        args.compact,
        args.pruned,
        args.decode_tag,
        test_sets,
        args.precisions.split(),
        args.dense_training or args.dense,
    )
    title = f"espnet_prune report: {args.corpus}"
    write_report(args.out, build(found, args.note), title, found.report)
    for name in found.missing:
        logger.warning(f"not there yet: {name}")
    rows = found.report["rows"]
    sys.stdout.write("\n".join([main_table(rows).text(), *verdicts(rows), ""]))
    for text in filter(None, [*caveats(found.report), args.note]):
        logger.warning(text)
    logger.info(f"report: {args.out / 'report.html'}")


if __name__ == "__main__":
    run_main(main)
