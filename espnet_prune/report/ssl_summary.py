"""Summarise a report on self-supervised encoders: a sentence each, and a picture."""

from typing import Any

from matplotlib.figure import Figure

from espnet_prune.report.pareto import Point, pareto
from espnet_prune.report.quality import DENSE
from espnet_prune.report.verdict import smaller, times

COSTS = {
    "params": ("parameters, millions", 1e6),
    "macs": ("GMAC of the utterance", 1e9),
    "rtf": ("real-time factor", 1.0),
}


def sentences(report: dict[str, Any], names: list[str]) -> list[str]:
    """Say of each compact model what it has won and lost.

    Args:
        report: content of ``report.json``.
        names: of its rows.
    """
    found = []
    (dense,) = (row for row in report["rows"] if row["system"] == DENSE)
    for row, name in zip(report["rows"], names, strict=True):
        if "target" not in row:
            continue
        told = [smaller("encoder", dense.get("params"), row.get("params"))]
        told.append(times(dense.get("rtf"), row.get("rtf")))
        if row["score"] is not None:
            told.append(f"score {row['score']:.0f} of the dense model's 1000")
        for probe, own in row["quality"].items():
            if base := dense["quality"].get(probe):
                values = f"{own['value']:.1f} {own['unit']} for {base['value']:.1f}"
                told.append(f"{probe} {values}")
        found.append(f"{name}: {', '.join(filter(None, told))}.")
    return found


def picture(report: dict[str, Any]) -> Figure | None:
    """Draw the score, or the first probe where there is none, against costs."""
    if not report["probes"]:
        return None
    first = next(iter(report["probes"]))
    scored = bool(report["scored"])
    points = []
    for row in report["rows"]:
        own = row["quality"].get(first, {})
        value = row["score"] if scored else own.get("value")
        if (row["system"] == DENSE or "target" in row) and value is not None:
            ends = None if scored else own["ci"]
            costs = [
                row[k] / unit if k in row else None for k, (_, unit) in COSTS.items()
            ]
            points.append(Point(row["method"] or DENSE, costs, value, ends))
    metric = "score" if scored else f"{first}, {report['probes'][first]['unit']}"
    names = [name for name, _ in COSTS.values()]
    return pareto(points, names, metric, "Quality against cost")
