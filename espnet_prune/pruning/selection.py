"""Select the units to keep: those of the highest scores that the budget has room for.

Units are kept in the order of their scores as long as they fit: the Lagrangian has
already priced every one, so that order needs no cost in it. The model dimension, which
is a factor of every price, is chosen first, and is what was learned.
"""

import torch
from torch import Tensor

from espnet_prune.base.errors import InputError
from espnet_prune.config.sections import MODEL_DIM
from espnet_prune.pruning.budget import Budget, Constraint
from espnet_prune.pruning.pricing import Pricing
from espnet_prune.pruning.structure import Structure
from espnet_prune.pruning.units import Unit, least_of, units_of

TOLERANCE = 0.005  # of a limit: how far below it the result may end


class Selection:
    """The search for what to keep.

    Args:
        budget: what it may cost.
        scores: (unit,) the higher, the sooner a unit is kept.
        learned: bool (unit,) which units the scores themselves would keep: those of
            submodules and heads open first, those of the model dimension say how many.
        multiple: of what the numbers of units, channels and dimensions shall be, which
            matrix products like; where time is limited, of 8 in any case.

    Attributes:
        slack: by how much of each limit the choice may stay below it.
        cheapest: for each constraint, what the cheapest unit that did not fit costs.

    Raises:
        InputError: what pruning must leave alone already costs more than the budget.
    """

    def __init__(
        self, budget: Budget, scores: Tensor, learned: Tensor, multiple: int = 1
    ):
        self.budget, self.layout = budget, budget.layout
        self.multiple = budget.rounded(multiple)
        self.scores, self.learned = scores, learned
        self.roots = [
            root
            for root in self.layout.roots()
            if root.name != MODEL_DIM and self._can_go(root)
        ]
        self.kept_dims: Tensor | None = None
        if MODEL_DIM in self.layout:
            self._choose_dims()
        self._left_at_most(self._least())
        self.limits = {
            root.name: [
                i
                for i, c in enumerate(budget.constraints)
                if self._group(root) in c.groups
            ]
            for root in self.roots
        }
        self.slack = self._slack()
        self.cheapest = [0.0] * len(budget.constraints)

    def choose(self) -> Tensor:
        """Open what learned to be open; go on until the budget is used.

        Returns:
            bool (unit,): what is kept.
        """
        order = self._coarse()
        opened = {unit for unit in order if self.learned[unit]} or set(order[:1])
        while True:
            keep, left = self._fill(opened)
            # What is still closed, and could use what is left of all its limits.
            useful = (
                unit
                for unit in order
                if unit not in opened
                and all(left[c] > self.slack[c] for c in self.limits[self.root[unit]])
            )
            for unit in useful:
                opened.add(unit)
                # A head alone changes nothing as long as its submodule is closed.
                if self.owner.get(unit, unit) in opened:
                    break
            else:
                return keep

    def _coarse(self) -> list[int]:
        """List units with learned ones below them, the best first.

        They are submodules and, where their dimensions have gates, heads.
        """
        self.owner: dict[int, int] = {}
        self.root: dict[int, str] = {}
        found = []
        for structure in self.layout.structures:
            below = [self.layout[n] for n in self.layout.descendants(structure.name)]
            if not (structure.learned and any(s.learned for s in below)):
                continue
            above = [structure.name, *self.layout.ancestors(structure.name)]
            span = self.layout.span(structure.name)
            for unit in range(span.start, span.stop):
                found.append(unit)
                self.root[unit] = above[-1]
                if len(above) > 1:
                    self.owner[unit] = self.layout.span(above[-1]).start
        scores = self.scores.tolist()
        return sorted(found, key=lambda unit: -scores[unit])

    def _fill(self, opened: set[int]) -> tuple[Tensor, list[float]]:
        """Keep units in the order of their scores as long as they fit.

        Returns:
            what is kept, and what is left of each constraint's limit.
        """
        keep = self._least()
        left = self._left_at_most(keep)
        # What the units that did not fit cost.
        unfit: list[list[float]] = [[] for _ in left]
        is_open = torch.zeros(len(self.layout), dtype=torch.bool)
        is_open[list(opened)] = True
        found: list[tuple[Structure, Unit]] = []
        for root in self.roots:
            if not root.learned:
                is_open[self.layout.span(root.name)] = True
            units = units_of(self.layout, root, self.scores, is_open, self.multiple)
            found += [(root, unit) for unit in units]
        pricing = Pricing(self.budget, keep)
        refused: set[int] = set()
        entered: set[str] = set()
        for root, unit in sorted(found, key=lambda pair: -pair[1].score):
            if self.multiple > 1 and unit.family in refused:
                continue  # a smaller remainder may fit, and is no multiple
            if self.layout.children(root.name) and not unit.entry:
                if root.name not in entered:
                    continue  # its submodule's entry did not fit
            # All limits, not those of its group: the norm of a block that comes back
            # with it is in no group.
            extra = pricing.of(unit)
            if all(cost <= rest for cost, rest in zip(extra, left, strict=True)):
                pricing.keep(unit)
                entered.add(root.name)
                for indices in unit.parts.values():
                    keep[indices] = True
                left = [rest - cost for cost, rest in zip(extra, left, strict=True)]
            else:
                refused.add(unit.family)
                for costs, cost, rest in zip(unfit, extra, left, strict=True):
                    if cost > rest:
                        costs.append(cost)
        self.cheapest = [min(costs, default=0.0) for costs in unfit]
        return keep, left

    def _choose_dims(self) -> None:
        """Keep channels between the layers: as many as were learned; fewer where these
        leave nothing to all else, more where all else does not use what they leave."""
        span, step = self.layout.span(MODEL_DIM), self.multiple
        size = span.stop - span.start
        numbers = [*range(step, size, step), size]
        order = self.scores[span].argsort(descending=True, stable=True)

        def keep(number: int) -> None:
            self.kept_dims = order[:number] + span.start

        learned = int(self.learned[span].sum())
        at = min(range(len(numbers)), key=lambda i: abs(numbers[i] - learned))
        keep(numbers[at])
        while at > 0 and min(self._left(self._least())) < 0:
            at -= 1
            keep(numbers[at])
        while at < len(numbers) - 1 and not self._is_used():
            at += 1
            keep(numbers[at])

    def _is_used(self) -> bool:
        """Tell whether all that there is would use the budget up.

        Of several kinds of cost of the same structures, the first that is met decides.
        """
        tightest: dict[str, float] = {}
        left = self._left(self._everything())
        for c, rest in zip(self.budget.constraints, left, strict=True):
            tightest[c.name] = min(rest, tightest.get(c.name, rest))
        return max(tightest.values()) <= 0

    def _everything(self) -> Tensor:
        """Mark all units, but for channels between the layers that are gone."""
        keep = torch.ones(len(self.layout), dtype=torch.bool)
        if self.kept_dims is not None:
            keep[self.layout.span(MODEL_DIM)] = False
            keep[self.kept_dims] = True
        return keep

    def _least(self) -> Tensor:
        """Mark what must stay, has no gates, or is a kept channel between layers.

        Gates of whole blocks are in the scores of what they close.
        """
        keep = torch.ones(len(self.layout), dtype=torch.bool)
        keep[self.layout.learned] = False
        keep[self.layout.at("closing", keep.device)[1]] = True
        if self.kept_dims is not None:
            keep[self.kept_dims] = True
        for structure in self.layout.structures:
            if structure.least and structure.name != MODEL_DIM:
                keep[least_of(self.layout, structure, self.scores)] = True
        return keep

    def _left_at_most(self, keep: Tensor) -> list[float]:
        """Return what the limits leave to units when only what must stay is kept."""
        left = self._left(keep)
        for c, rest in zip(self.budget.constraints, left, strict=True):
            if rest < 0:
                raise InputError("sparsity target", *_why_too_high(c, rest))
        return left

    def _left(self, keep: Tensor) -> list[float]:
        """Compute what a choice leaves of each limit."""
        own = self.layout.complete(keep.double())
        spent = self.budget.cost(own).tolist()
        limits = [c.limit for c in self.budget.constraints]
        return [limit - cost for limit, cost in zip(limits, spent, strict=True)]

    def _slack(self) -> list[float]:
        """Compute by how much the choice may stay below each limit.

        It is 0.5 % of the limit, or where that is more the dearest kind of unit of the
        submodule whose units are the cheapest.
        """
        everything = self._everything()
        cheapest = [float("inf")] * len(self.budget.constraints)
        for root in self.roots:
            units = units_of(self.layout, root, self.scores, everything, self.multiple)
            # The last of each kind: the entry only where its family has no other.
            kinds = {unit.family: unit for unit in units}
            dearest = [0.0] * len(cheapest)
            for unit in kinds.values():
                others = everything.clone()
                others[torch.cat(list(unit.parts.values()))] = False
                pairs = zip(dearest, Pricing(self.budget, others).of(unit), strict=True)
                dearest = [max(pair) for pair in pairs]
            if kinds:
                for c in self.limits[root.name]:
                    cheapest[c] = min(cheapest[c], dearest[c])
        return [
            max(TOLERANCE * c.limit, least if least < float("inf") else 0.0)
            for c, least in zip(self.budget.constraints, cheapest, strict=True)
        ]

    def _family(self, root: Structure) -> list[Structure]:
        return [root, *(self.layout[n] for n in self.layout.descendants(root.name))]

    def _can_go(self, root: Structure) -> bool:
        return any(structure.learned for structure in self._family(root))

    def _group(self, root: Structure) -> str | None:
        return next((s.group for s in self._family(root) if s.group), None)


def _why_too_high(c: Constraint, rest: float) -> tuple[str, str]:
    """Say why a limit cannot be met, and the mend."""
    stays, mend = "norms, biases, a channel in front of the blocks", ""
    if c.beyond:
        stays += "; all that no structure was declared of"
        mend = ", or count less: denominator: encoder"
    what = (
        f"{c.target:.1%} of the {c.name}'s {c.kind} cannot be removed: what must stay "
        f"({stays}) costs {(c.limit - rest) / c.dense:.1%}"
    )
    return what, f"choose a lower target{mend}"
