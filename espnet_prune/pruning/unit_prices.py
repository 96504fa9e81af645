"""What units cost on top of what is kept already, without counting each time."""

from collections.abc import Callable

from torch import Tensor, nn

from espnet_prune.pruning.gates import Gate
from espnet_prune.pruning.units import Unit


class UnitPrices:
    """What units cost on top of what is kept; remembered where it can be told.

    Args:
        costs: of a layer, for each of its constraints.
    """

    def __init__(self, costs: Callable[[nn.Module, dict[Gate, Tensor]], list[float]]):
        self.costs = costs
        # Gate and number of units -> (number kept on the other side, prices), of which
        # two make a line.
        self.known: dict[tuple[Gate, int], list[tuple[int, list[float]]]] = {}

    def of(self, unit: Unit, keep: dict[Gate, Tensor]) -> list[float]:
        """Of this unit, which is not kept yet."""
        if unit.entry or not hasattr(unit.layer, "module_gate"):
            return self._measured(unit, keep)
        gate, indices = unit.parts[0]
        points = self.known.setdefault((gate, len(indices)), [])
        partner = other_side(unit.layer, gate)
        number = int(keep[partner].sum()) if partner is not None else 0
        for known, prices in points:
            if known == number:
                return prices
        if len(points) == 2:
            (n0, first), (n1, second) = points
            share = (number - n0) / (n1 - n0)
            return [a + share * (b - a) for a, b in zip(first, second, strict=True)]
        points.append((number, self._measured(unit, keep)))
        return points[-1][1]

    def _measured(self, unit: Unit, keep: dict[Gate, Tensor]) -> list[float]:
        before = self.costs(unit.layer, keep)
        unit.set(keep, True)
        after = self.costs(unit.layer, keep)
        unit.set(keep, False)
        return [a - b for a, b in zip(after, before, strict=True)]


def other_side(layer: nn.Module, gate: Gate) -> Gate | None:
    """The gate whose units are counted as products with this one's, if there is one.

    So what a unit costs grows linearly with the number that the other gate keeps.
    """
    out_gate = getattr(layer, "out_gate", None)
    if out_gate is None or gate is getattr(layer, "qk_gate", None):
        return None
    if gate is not out_gate:
        return out_gate
    names = ("unit_gate", "v_gate", "head_gate")
    return next(g for n in names if (g := getattr(layer, n, None)) is not None)
