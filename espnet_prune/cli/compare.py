"""Compare systems over several runs of each: seeds, utterances and speakers.

    python -m espnet_prune.cli.compare exp/a_s1_report/report.json exp/a_s2_report/...
    python -m espnet_prune.cli.compare REPORT ... --versus l0
    python -m espnet_prune.cli.compare REPORT ... --others REPORT ...

The program prints a table for each test set: mean and range over the runs, what is gone
of the dense encoder, and the difference of the means to the dense model, to another
method at the same target (``--versus``), or to the same system of other runs
(``--others``), as those with another option. Start the program where the reports were
made.
"""

import argparse
import sys
from pathlib import Path

from espnet_prune.base.errors import run_main
from espnet_prune.config.methods import METHODS
from espnet_prune.report.pooling import pooled
from espnet_prune.report.quality import DENSE
from espnet_prune.report.results_page import comparison


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", type=Path, nargs="+", help="report.json of each run")
    against = parser.add_mutually_exclusive_group()
    against.add_argument(
        "--versus", choices=(DENSE, *METHODS), default=DENSE,
        help="what the systems are held against",
    )  # fmt: skip
    against.add_argument(
        "--others", type=Path, nargs="+", default=[], metavar="REPORT",
        help="of other runs, with whose systems those of the same name are compared",
    )  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    against = "the others" if args.others else args.versus
    for name, (metric, rows) in pooled(args.reports, args.versus, args.others).items():
        table = comparison(name, metric, rows, against)
        sys.stdout.write(f"{table.markdown()}\n")


if __name__ == "__main__":
    run_main(main)
