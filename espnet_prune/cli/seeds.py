"""Compute mean and spread over the reports of several seeds.

    python -m espnet_prune.cli.seeds run1/exp/report/report.json run2/... run3/...

prints one Markdown table: what several runs of the same systems have in common.
"""

import argparse
import json
import logging
import statistics
import sys
from pathlib import Path
from typing import Any

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.report.rendering import DASH, Table
from espnet_prune.report.tables import label

Key = tuple[str, str]  # system, test set


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", type=Path, nargs="+", help="report.json of each run")
    return parser


def read_rows(path: Path) -> dict[Key, dict[str, Any]]:
    """Read the rows of a report that have a WER.

    Raises:
        InputError: the file is missing or no report.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        scored = [row for row in rows if row["wer"] is not None]
        if scored and not any(row["system"] == "dense" for row in scored):
            raise KeyError("dense")
        if not all("vs" in row for row in scored):
            raise KeyError("vs")
        return {(label(row), row["test_set"]): row for row in scored}
    except FileNotFoundError:
        raise InputError(path, "does not exist", "run stage 18") from None
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(path, f"is no report with a dense model's WER ({e!r})") from e


def same_sets(runs: list[dict[Key, dict[str, Any]]]) -> list[dict[Key, dict[str, Any]]]:
    """Give all runs the first one's names of test sets, which hold each run's tag.

    Raises:
        InputError: a run has another number of test sets.
    """
    names = [list(dict.fromkeys(test_set for _, test_set in run)) for run in runs]
    if len({len(own) for own in names}) > 1:
        raise InputError("reports", f"have other test sets: {names}", "compare alike")
    renamed = []
    for run, own in zip(runs, names, strict=True):
        first = dict(zip(own, names[0], strict=True))
        if own != names[0]:
            logging.warning(f"test sets {own} are taken for {names[0]}")
        renamed.append({(name, first[test]): row for (name, test), row in run.items()})
    return renamed


def spread(values: list[float], form: str = ".2f") -> str:
    """Format mean and range as ``1.20 (1.05 to 1.31)``."""
    if not values:
        return DASH
    mean = format(statistics.mean(values), form)
    return f"{mean} ({min(values):{form}} to {max(values):{form}})"


def summary(runs: list[dict[Key, dict[str, Any]]]) -> Table:
    """Make a table with a line per system and test set."""
    header = ["system", "test set", "runs", "WER %"]
    header += ["WER - dense's", "p < 0.05 in", "WER - L0's", "p < 0.05 in"]
    header += ["encoder M", "encoder GMAC/s", "RTF encoder"]
    lines = []
    for key in dict.fromkeys(key for run in runs for key in run):
        own = [run[key] for run in runs if key in run]

        def versus(other: str, own: list = own) -> list[str]:
            tests = [row["vs"][other] for row in own if other in row["vs"]]
            tests = [test for test in tests if test["delta_wer"] is not None]
            if not tests:
                return [DASH, DASH]
            judged = [test["p_value"] for test in tests if test["p_value"] is not None]
            significant = sum(p_value < 0.05 for p_value in judged)
            deltas = [100 * test["delta_wer"] for test in tests]
            return [spread(deltas, "+.2f"), f"{significant} of {len(judged)}"]

        def values(part: str, scale: float, own: list = own) -> list[float]:
            found = (row[part]["encoder"] for row in own)
            return [value * scale for value in found if value is not None]

        lines.append(
            [
                *key,
                str(len(own)),
                spread([100 * row["wer"] for row in own]),
                *versus("dense"),
                *versus("l0"),
                spread(values("params", 1e-6)),
                spread(values("macs_per_second", 1e-9), ".3f"),
                spread(values("rtf", 1.0), ".4f"),
            ]
        )
    return Table(header, lines)


def main(argv: list[str] | None = None) -> None:
    runs = same_sets(
        [read_rows(path) for path in get_parser().parse_args(argv).reports]
    )
    sys.stdout.write(summary(runs).markdown())


if __name__ == "__main__":
    run_main(main)
