"""What a row of ``report.json`` says of quality: by metric, the leading one first."""

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]
DENSE = "dense"  # the system that others are held against
NONE = {"value": None, "ci": None, "unit": "%"}


def metrics(rows: Iterable[Row]) -> list[str]:
    """Name the metrics of some rows, what leads in the first scored one first."""
    ordered = sorted(rows, key=lambda row: not is_scored(row))
    return list(dict.fromkeys(name for row in ordered for name in row["quality"]))


def leading(row: Row) -> dict[str, Any]:
    """Return the value, its interval and unit, by which a system is told apart."""
    return next(iter(row["quality"].values()), NONE)


def is_scored(row: Row) -> bool:
    """Tell whether a row has the value by which systems are told apart."""
    return leading(row)["value"] is not None
