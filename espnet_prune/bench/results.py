"""Keep on disk what a run of the bench found, after each of its tables."""

from pathlib import Path
from typing import Any

from espnet_prune.base.files import write_json
from espnet_prune.measuring.machine import busy_cores, busy_warning

LOUD = 0.15  # interquartile range over median that is worth a warning


class Results:
    """The rows that a run of the bench measured, and what must stand beside them.

    Args:
        machine: of :func:`~espnet_prune.measuring.machine.describe`.
        rates: by number of threads, MACs per second of a matrix product.
        path: where all is written; None for nowhere.
    """

    def __init__(
        self, machine: dict[str, Any], rates: dict[int, float], path: Path | None
    ):
        self.machine, self.rates, self.path = machine, rates, path
        self.rows: list[dict[str, Any]] = []

    def add(self, rows: list[dict[str, Any]]) -> str | None:
        """Take in the rows of a table that was just timed, and write all.

        Returns:
            why its times are not to be trusted, or None.
        """
        self.rows += rows
        before, now = self.machine["busy_cores"], busy_cores()
        if now is not None:  # the most of all samples: any of them spoils ratios
            self.machine["busy_cores"] = max(before or 0.0, now)
        self.machine["warning"] = doubts(self.machine["busy_cores"], self.rows)
        if self.path is not None:
            first, *_ = self.rates.values()
            result = {
                "machine": self.machine,
                "gemm_macs_per_second": first,
                "gemm_by_threads": self.rates,
                "rows": self.rows,
            }
            write_json(self.path, result)
        return doubts(now, rows)


def doubts(busy: float | None, rows: list[dict[str, Any]]) -> str | None:
    """Say why times are not to be trusted: a busy machine, or their own spread."""
    spread = max(row["iqr_s"] / row["median_s"] for row in rows)
    found = [busy_warning(busy)]
    if spread > LOUD:
        found.append(f"times vary by up to {spread:.0%} of their median")
    return "; ".join(filter(None, found)) or None
