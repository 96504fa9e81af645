"""Draw quality against cost: what pruning trades for what."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from espnet_prune.config.methods import REFERENCE
from espnet_prune.report.plots import COLOURS, plain
from espnet_prune.report.quality import DENSE


@dataclass(frozen=True)
class Point:
    """A system.

    Args:
        method: how it was made, or ``dense``.
        costs: one for each panel; None where it was not measured.
        value: of the metric.
        ends: of its 95 % interval, where there is one.
    """

    method: str
    costs: Sequence[float | None]
    value: float
    ends: Sequence[float] | None


def pareto(
    points: Sequence[Point], costs: Sequence[str], metric: str, title: str
) -> Figure | None:
    """Draw a panel for each cost: a line per method, the dense model as a star.

    Args:
        points: the systems.
        costs: names of the panels' axes.
        metric: name of the values' axis.
        title: of the picture.

    Returns:
        None unless there are two systems.
    """
    if len(points) < 2:
        return None
    methods = dict.fromkeys(point.method for point in points)
    figure = Figure(figsize=(13.5, 4.2), layout="constrained")
    panels = figure.subplots(1, len(costs), squeeze=False).ravel()
    for panel, (axes, name) in enumerate(zip(panels, costs, strict=True)):
        for method in methods:
            drawn = [p for p in points if p.method == method]
            own = sorted(
                (point for point in drawn if point.costs[panel] is not None),
                key=lambda point: point.costs[panel],
            )
            bars = [
                [abs((p.ends or 2 * [p.value])[i] - p.value) for p in own]
                for i in (0, 1)
            ]
            look = {"fmt": ".-", "lw": 2.4 if method == REFERENCE else 1.2}
            look |= {"color": COLOURS.get(method, "black"), "elinewidth": 0.7}
            if method == DENSE:
                look = {"fmt": "*", "color": "black", "ms": 12}
            x, y = [p.costs[panel] for p in own], [p.value for p in own]
            axes.errorbar(x, y, bars, label=method, **look)
        axes.set_xlabel(name, size=9)
        axes.set_ylabel(metric, size=9)
        axes.tick_params(labelsize=8)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        plain(axes)
    axes.legend(fontsize=8, framealpha=0.7, edgecolor="none")
    figure.suptitle(title, size=11)
    return figure
