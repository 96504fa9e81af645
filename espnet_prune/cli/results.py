"""Make the page of the project's results, and its picture, from ``results/*.json``.

    python -m espnet_prune.cli.results
    python -m espnet_prune.cli.results --add digits --title "recorded digits" \\
        --section "real speech" --test "1,914 words of six speakers" --commit 0123abc \\
        --machine "..., one thread" --command "./run.sh --corpus digits ..." \\
        --reports exp/digits_s1_report/report.json exp/digits_s2_report/report.json

The second adds a record first: the runs of several seeds of the same systems, whose
differences to the dense model are tested together. ``--bench bench.json --model d256``
takes a table of the bench instead.
"""

import argparse
import datetime
from pathlib import Path

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import atomic_path, write_json, write_text
from espnet_prune.base.marks import renewed
from espnet_prune.report.plots import png
from espnet_prune.report.pooling import pooled
from espnet_prune.report.results import (
    SECTIONS,
    Made,
    Record,
    read_records,
    rows_of_bench,
)
from espnet_prune.report.results_page import KINDS, PICTURE, claims, page, picture


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default="results", help="the records")
    parser.add_argument("--docs", type=Path, default="docs", help="where the page goes")
    parser.add_argument("--readme", type=Path, default="README.md", help="has claims")
    parser.add_argument("--add", metavar="NAME", help="record to write first")
    parser.add_argument("--title", help="of the record")
    parser.add_argument("--section", choices=SECTIONS)
    parser.add_argument("--test", help="what it was tested on")
    parser.add_argument(
        "--kind", choices=KINDS, default="params+macs", help="what targets count"
    )
    parser.add_argument("--commit", help="that ran")
    parser.add_argument("--machine", help="processor and threads")
    parser.add_argument("--command", nargs="+", help="what was run, line by line")
    parser.add_argument("--reports", type=Path, nargs="+", help="report.json by seed")
    parser.add_argument("--bench", type=Path, help="what cli.bench --json wrote")
    parser.add_argument("--model", help="whose rows of the bench are meant")
    return parser


def new_record(args: argparse.Namespace) -> Record:
    """Make a record of what the command line names.

    Raises:
        InputError: an option is missing, or a file is not what it should be.
    """
    for name in ("title", "section", "test", "commit", "machine", "command"):
        if not getattr(args, name):
            raise InputError(f"--{name}", "is missing", "a figure needs its origin")
    if (args.reports is None) == (args.bench is None):
        raise InputError("--add", "needs --reports or --bench", "give one of them")
    date = datetime.date.today().isoformat()
    made = Made(args.command, args.commit, args.machine, date)
    if args.bench is not None:
        rows, metric = rows_of_bench(args.bench, args.model), ""
    else:
        sets = pooled(args.reports)
        if len(sets) > 1:
            raise InputError("--reports", f"have several test sets: {', '.join(sets)}")
        ((metric, rows),) = sets.values()
    about = args.title, args.section, args.test, metric, False, args.kind
    return Record(*about, made, rows)


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    if args.add:
        write_json(args.results / f"{args.add}.json", new_record(args).dump())
    records = read_records(args.results)
    if not records:
        raise InputError(args.results, "holds no records", "add one with --add")
    write_text(args.docs / "results.md", page(records))
    readme = args.readme.read_text(encoding="utf-8")
    write_text(args.readme, renewed(readme, {"results": claims(records)}))
    if (figure := picture(records)) is not None:
        with atomic_path(args.docs / PICTURE) as temporary:
            temporary.write_bytes(png(figure))


if __name__ == "__main__":
    run_main(main)
