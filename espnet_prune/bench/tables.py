"""Format what the bench prints: the machine, then a table for all timed in turns."""

from typing import Any


def machine_lines(machine: dict[str, Any], rates: dict[int, float]) -> str:
    """Say which machine it is, and what its matrix products reach."""
    name = f"{machine['cpu']}, {machine['cores']} cores"
    products = [f"{rate / 1e9:.1f} on {n} thread(s)" for n, rate in rates.items()]
    lines = [
        machine.get("gpu"),
        f"{name}: {' '.join(machine['instruction_sets']) or 'instructions unknown'}",
        f"fp32 matrix product, GMAC/s: {', '.join(products)}",
        machine["warning"] and warning_line(machine["warning"]),
    ]
    return "\n".join(filter(None, lines))


def warning_line(warning: str) -> str:
    """Set a doubt about the times apart from them."""
    return f"! {warning}"


def inference_table(rows: list[dict[str, Any]], rate: float) -> str:
    """Format the rows of systems timed together, and their gain over the first."""
    first = rows[0]
    length = f"{first['seconds']:g} s"
    if first["data"] is not None:
        length = f"{first['data']} ({length} on average)"
    lines = [
        f"\n{first['model']}, {length}, batch {first['batch']}, {_beside(first, rate)}",
        f"{'system':<16}{'format':<8}{'target':>7}{'ms':>10}{'iqr':>8}"
        f"{'first':>9}{'gain':>8}"
        f"{'RTF':>9}{'GMACs':>8}{'effic.':>8}{'MB':>8}",
    ]
    for row in rows:
        target = "-" if row["target"] is None else f"{row['target']:g}"
        lines.append(
            f"{row['system']:<16}{row['precision']:<8}{target:>7}"
            f"{1000 * row['median_s']:>10.2f}{1000 * row['iqr_s']:>8.2f}"
            f"{1000 * row['first_s']:>9.2f}"
            f"{first['median_s'] / row['median_s']:>7.2f}x{row['rtf']:>9.5f}"
            f"{row['macs'] / 1e9:>8.2f}{row['efficiency']:>8.2f}{_megabytes(row):>8}"
        )
    return "\n".join(lines)


def training_table(rows: list[dict[str, Any]], rate: float) -> str:
    """Format the steps that were timed together, beside the first of them."""
    first = rows[0]
    lines = [
        f"\n{first['model']}, a step of {first['batch']} x {first['seconds']:g} s, "
        f"{_beside(first, rate)}",
        f"{'step':<10}{'ms':>9}{'iqr':>8}{'cost':>8}{'MB':>8}",
    ]
    for row in rows:
        lines.append(
            f"{row['system']:<10}{1000 * row['median_s']:>9.1f}"
            f"{1000 * row['iqr_s']:>8.1f}{row['ratio']:>7.2f}x{_megabytes(row):>8}"
        )
    return "\n".join(lines)


def _beside(row: dict[str, Any], rate: float) -> str:
    return f"{row['threads']} thread(s), product {rate / 1e9:.1f} GMAC/s"


def _megabytes(row: dict[str, Any]) -> str:
    return "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.0f}"
