"""A table, written once and rendered three ways, and rows for other programs."""

import csv
import html
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASH = "-"  # not measured yet


@dataclass(frozen=True)
class Table:
    """Header and rows of text; the first column is left aligned, the rest right."""

    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        lines = [self.header, rule, *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

    def text(self) -> str:
        """Render for a terminal, columns aligned."""
        lines = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines.insert(1, ["-" * width for width in widths])
        return "".join(
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            + "\n"
            for line in lines
        )

    def html(self) -> str:
        def line(tag: str, cells: list[str]) -> str:
            inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
            return f"<tr>{inner}</tr>"

        body = "".join(line("td", row) for row in self.rows)
        head = line("th", self.header)
        return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of ``report.json`` as a table; nested names are joined by dots."""
    flat = [dict(_flat(row)) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    with path.open("w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, names)
        writer.writeheader()
        writer.writerows(flat)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            yield from _flat(part, f"{name}.{key}".lstrip("."))
    else:
        yield name, value
