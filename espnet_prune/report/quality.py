"""What a row of ``report.json`` says of quality: by metric, the leading one first."""

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]
NONE = {"value": None, "ci": None, "unit": ""}


def metrics(rows: Iterable[Row]) -> list[str]:
    """Name the metrics of some rows, the one that leads in the first row first."""
    return list(dict.fromkeys(name for row in rows for name in row["quality"]))


def leading(row: Row) -> dict[str, Any]:
    """Return the value, its interval and unit, by which a system is told apart."""
    return next(iter(row["quality"].values()), NONE)


def is_scored(row: Row) -> bool:
    """Tell whether a row has the value by which systems are told apart."""
    return leading(row)["value"] is not None
