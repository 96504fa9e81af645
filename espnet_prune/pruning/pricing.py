"""Price units on top of what is kept already, without counting all of it anew."""

from torch import Tensor

from espnet_prune.pruning.budget import Budget
from espnet_prune.pruning.units import Unit


class Pricing:
    """Prices of units, while more and more of them are kept.

    Args:
        budget: whose terms are the prices.
        keep: bool (unit,) what is kept at the start.
    """

    def __init__(self, budget: Budget, keep: Tensor):
        layout = budget.layout
        self.constraints = len(budget.constraints)
        self.sums = layout.sums(layout.complete(keep.double())).tolist()
        # Structure -> terms that it is a factor of, as (factors, price by constraint).
        self.terms: list[list[tuple[tuple[int, ...], list[float]]]] = [
            [] for _ in layout.structures
        ]
        merged: dict[tuple[int, ...], list[float]] = {}
        for i, constraint in enumerate(budget.constraints):
            for term in budget.terms[constraint.kind]:
                if term.group in constraint.groups and term.factors:
                    prices = merged.setdefault(term.factors, [0.0] * self.constraints)
                    prices[i] += term.price
        for factors, prices in merged.items():
            for factor in factors:
                self.terms[factor].append((factors, prices))
        # A submodule -> the structures that are open as long as it is.
        self.derived: dict[int, list[int]] = {}
        for number, structure in enumerate(layout.structures):
            for part in structure.any_of:
                self.derived.setdefault(layout.index[part], []).append(number)
        # A structure -> those without gates whose units come and go with its units.
        self.following: dict[int, list[tuple[int, int]]] = {}
        for number, structure in enumerate(layout.structures):
            if structure.parent and not structure.learned and not structure.any_of:
                parent = layout[structure.parent]
                if parent.size > 1:
                    share = structure.size // parent.size
                    at = self.following.setdefault(layout.index[parent.name], [])
                    at.append((number, share))
        self.known: dict[tuple[int, int], tuple[list[float], list[float]]] = {}

    def of(self, unit: Unit) -> list[float]:
        """Compute what the units, none of which is kept yet, cost by constraint."""
        if unit.entry or len(unit.parts) > 1:
            return self._difference(self._after(unit))
        ((number, indices),) = unit.parts.items()
        changing = [number, *(n for n, _ in self.following.get(number, ()))]
        others = [
            self.sums[f]
            for n in changing
            for factors, _ in self.terms[n]
            for f in factors
            if f != n
        ]
        at = number, len(indices)
        if at not in self.known or self.known[at][0] != others:
            self.known[at] = others, self._difference(self._after(unit))
        return self.known[at][1]

    def keep(self, unit: Unit) -> None:
        """Count the units among what is kept."""
        for number, value in self._after(unit).items():
            self.sums[number] = value

    def _after(self, unit: Unit) -> dict[int, float]:
        """Compute the numbers of units that would be others if these were kept."""
        after = {n: self.sums[n] + len(indices) for n, indices in unit.parts.items()}
        for number, indices in unit.parts.items():
            for follower, share in self.following.get(number, ()):
                after[follower] = self.sums[follower] + share * len(indices)
            after |= dict.fromkeys(self.derived.get(number, ()), 1.0)
        return after

    def _difference(self, after: dict[int, float]) -> list[float]:
        terms = {
            factors: prices
            for number in after
            for factors, prices in self.terms[number]
        }
        total = [0.0] * self.constraints
        for factors, prices in terms.items():
            old = new = 1.0
            for factor in factors:
                value = self.sums[factor]
                old *= value
                new *= after.get(factor, value)
            if new != old:
                for i, price in enumerate(prices):
                    total[i] += price * (new - old)
        return total
