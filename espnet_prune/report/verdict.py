"""Say in a sentence what each compact model has won and lost."""

from typing import Any

from espnet_prune.report.caveats import LEVEL
from espnet_prune.report.quality import is_scored, leading
from espnet_prune.report.tables import label

Row = dict[str, Any]


def verdicts(rows: list[Row]) -> list[str]:
    """Write a sentence for each compact model and test set that has been scored.

    Args:
        rows: of ``report.json``.
    """
    found = []
    sets = len({row["test_set"] for row in rows})
    for row in rows:
        plain = row["precision"] == "fp32"
        if row["system"] == "dense" or not is_scored(row) or not plain:
            continue
        same_set = [other for other in rows if other["test_set"] == row["test_set"]]
        (dense, *_) = (other for other in same_set if other["system"] == "dense")
        if not is_scored(dense):
            continue
        where = f" on {row['test_set']}" if sets > 1 else ""
        before, after = (one["params"]["encoder"] for one in (dense, row))
        size = smaller("encoder", before, after)
        told = ", ".join(filter(None, [size, _faster(row, dense)]))
        told = f"{told}; " if told else ""
        fastest = _fastest(row, dense, same_set)
        quality = _quality(row, dense)
        found.append(f"{label(row)}{where}: {told}{quality}.{fastest}")
    return found


def smaller(part: str, before: int | None, after: int | None) -> str:
    """Say how much smaller a part is; empty where its size is not known."""
    if not before or after is None:
        return ""
    if after == before:
        return f"the {part} is as large as the dense one"
    gone = 100 * (1 - after / before)
    return f"the {part} is {abs(gone):.0f} % {'smaller' if gone >= 0 else 'larger'}"


def times(before: float | None, after: float | None) -> str:
    """Format how many times as fast; empty where it was not measured."""
    return f"{before / after:.1f} times as fast" if before and after else ""


def _faster(row: Row, dense: Row) -> str:
    encoder, search = (
        times(dense["rtf"][name], row["rtf"][name]) for name in ("encoder", "search")
    )
    if not encoder or not search:
        return encoder or search and f"the search is {search}"
    return f"{encoder} (with the search: {search.removesuffix(' as fast')})"


def _quality(row: Row, dense: Row) -> str:
    """Compare the values, and say whether the difference is significant."""
    (name, own), base = next(iter(row["quality"].items())), leading(dense)
    unit, change = own["unit"], own["value"] - base["value"]
    said = f"{name} {own['value']:.2f} {unit} for {base['value']:.2f} {unit}, "
    said += f"{change:+.2f} points, "
    p_value = row["p_vs_dense"]
    if p_value is None:
        return said + "not tested"
    sure = "significant" if p_value < LEVEL else "not significant"
    return f"{said}{sure} (p {p_value:.2g})"


def _fastest(row: Row, dense: Row, rows: list[Row]) -> str:
    """Name the fastest way to run it here, beside ESPnet's own dense encoder."""
    ways = [
        other for other in rows if label(other | {"precision": "fp32"}) == label(row)
    ]
    ways = [other for other in ways if other["rtf"]["encoder"]]
    espnet = dense["rtf_espnet"]["encoder"]
    if not ways or not espnet:
        return ""
    best = min(ways, key=lambda other: other["rtf"]["encoder"])
    gain = times(espnet, best["rtf"]["encoder"])
    cost = "" if best is row else f", {_quality(best, dense)}"
    way = f"by onnxruntime in {best['precision']}"
    so = [row for row in rows if row["precision"] == best["precision"]]
    (alone, *_) = (row["rtf"]["encoder"] for row in so if row["system"] == "dense")
    told = times(espnet, alone).removesuffix(" as fast")
    told = told and f" (the dense one so: {told})"
    return f" Fastest here: {way}, {gain} as ESPnet's dense encoder{told}{cost}."
