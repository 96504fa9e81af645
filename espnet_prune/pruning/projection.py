"""From learned gates to final masks that meet the budget.

Units are kept in the order of their log_alpha as long as they fit: the Lagrangian has
already priced every one, so that order needs no cost in it. The model dimension, which
is a factor of every price, is chosen first, and is what was learned.
"""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from espnet_prune.base.errors import InputError
from espnet_prune.families.espnet.layers.cost import add, group_of
from espnet_prune.families.espnet.layers.structures import (
    dim_gate_of,
    encoder_of,
    structures,
)
from espnet_prune.pruning.budget import Budget, Constraint, is_kept
from espnet_prune.pruning.gates import Gate, gates_of
from espnet_prune.pruning.unit_prices import UnitPrices
from espnet_prune.pruning.units import in_effect, scores_of, units_of

TOLERANCE = 0.005  # of a limit: how far below it the result may end
LARGE_CHANGE = 0.05  # of the dense cost: a projection worth a warning


@torch.no_grad()
def choose(model: nn.Module, budget: Budget) -> dict[Gate, Tensor]:
    """Which gates below ``model`` to keep: gate -> bool (gates,).

    Raises:
        InputError: what pruning must leave alone already costs more than the budget.
    """
    return _Chooser(model, budget).choose()


@torch.no_grad()
def check_reachable(model: nn.Module, budget: Budget) -> None:
    """Refuse a target that no masks can meet, before a training goes for it.

    Raises:
        InputError: what pruning must leave alone already costs more than the budget.
    """
    _Chooser(model, budget)


@dataclass(frozen=True)
class Projection:
    """What a projection chose.

    Args:
        masks: gate name -> values, shape (gates,): 0 for removed, else the soft value
            to fold. A submodule whose units are all gone is gone itself.
        removed: fraction of each constraint's dense cost that is gone.
        slack: by how much, in the same fractions, ``removed`` may be beyond the target:
            0.5 % of what may be kept or, where that is more, the cheapest unit that
            does not fit any more. Where kinds are combined, that holds for one of
            them, and the others may be beyond.
        flipped: share of the gates that end other than they were learned.
    """

    masks: dict[str, Tensor]
    removed: list[float]
    slack: list[float]
    flipped: float


def project(model: nn.Module, budget: Budget, multiple: int = 1) -> Projection:
    """Choose the final value of every gate below ``model``.

    Args:
        model: with gates.
        budget: what it may cost.
        multiple: of what the numbers of units, channels and dimensions shall be, which
            matrix products like (:func:`units_of`).

    Raises:
        InputError: what pruning must leave alone already costs more than the budget.
    """
    with torch.no_grad():
        chooser = _Chooser(model, budget, multiple)
        keep = chooser.choose()
        before = budget.removed(model, is_kept).tolist()
        after = budget.removed(model, lambda gate: keep[gate].double()).tolist()
    budget = chooser.budget
    for constraint, old, new in zip(budget.constraints, before, after, strict=True):
        large = abs(new - old) > LARGE_CHANGE
        (logging.warning if large else logging.info)(
            f"projection: the open gates cost {1 - old:.2%} of the dense "
            f"{constraint.name}'s {constraint.kind}, the budget is "
            f"{1 - constraint.target:.2%}, {1 - new:.2%} is kept"
            + (" (a large change)" if large else "")
        )
    # Equal costs may hide it: heads are made equally wide, for one. What is under a
    # closed gate does not count, however it was learned.
    flips = []
    if chooser.dims is not None:
        learned, final = chooser.dims.is_open().cpu(), keep[chooser.dims]
        flips.append((learned != final).float())
        logging.info(
            f"projection: model dimension {final.sum()}, {learned.sum()} were learned"
        )
    for layer in chooser.layers:
        learned = in_effect(layer, lambda gate: gate.is_open().cpu())
        final = in_effect(layer, lambda gate: keep[gate])
        flips += [(final[gate] != mask).float() for gate, mask in learned.items()]
    flipped = float(torch.cat(flips).mean())
    (logging.warning if flipped > LARGE_CHANGE else logging.info)(
        f"projection: {flipped:.1%} of the gates end other than they were learned"
    )
    masks = {
        name: (gate.open_value() * keep[gate].to(gate.log_alpha.device)).detach()
        for name, gate in gates_of(model).items()
    }
    slack = [
        max(chooser.slack[c], chooser.cheapest[c]) / c.dense for c in budget.constraints
    ]
    return Projection(masks, after, slack, flipped)


class _Chooser:
    """The search state of one projection."""

    def __init__(self, model: nn.Module, budget: Budget, multiple: int = 1):
        self.budget, self.model, self.multiple = budget, model, multiple
        self.layers = list(structures(model))
        gates = gates_of(model).values()
        self.all_open = {g: torch.ones(len(g), dtype=torch.bool) for g in gates}
        self.dims, self.kept_dims = dim_gate_of(model), None
        if self.dims is not None:
            self._choose_dims(budget)
        self._left_at_most(self._least())
        self.constraints = {layer: self._constraints(layer) for layer in self.layers}
        prices = {layer: self._unit_prices(layer) for layer in self.layers}
        self.slack = {c: self._slack(c, prices) for c in self.budget.constraints}

    def _choose_dims(self, budget: Budget) -> None:
        """The channels between the layers, and the budget that they leave: as many as
        were learned; fewer where so many leave nothing to all else, more where all else
        does not use what so few leave."""
        norms = encoder_of(self.model).architecture.norm_counts()
        scores, step = scores_of(self.dims), self.multiple
        numbers = [*range(step, len(scores), step), len(scores)]

        def keep(number: int) -> None:
            self.kept_dims = torch.zeros(len(scores), dtype=torch.bool)
            self.kept_dims[scores.topk(number).indices] = True
            self.budget = budget.of_dim(number, norms)

        learned = int(self.dims.is_open().sum())
        at = min(range(len(numbers)), key=lambda i: abs(numbers[i] - learned))
        keep(numbers[at])
        while at > 0 and min(self._left(self._least()).values()) < 0:
            at -= 1
            keep(numbers[at])
        while at < len(numbers) - 1 and not self._is_used():
            at += 1
            keep(numbers[at])

    def _is_used(self) -> bool:
        """Whether all that there is would use the budget up; of several kinds of cost
        of the same structures, the first that is met decides."""
        tightest: dict[str, float] = {}
        for c, left in self._left(self.all_open).items():
            tightest[c.name] = min(left, tightest.get(c.name, left))
        return max(tightest.values()) <= 0

    def _constraints(self, layer: nn.Module) -> list[Constraint]:
        group = group_of(next(iter(layer.gated_counts(lambda g: self.all_open[g]))))
        return [c for c in self.budget.constraints if group in c.groups]

    def choose(self) -> dict[Gate, Tensor]:
        """Open what learned to be open; go on until the budget is used."""
        order = self._coarse()
        learned = {gate: gate.is_open().tolist() for gate in self.limits}
        opened = {(g, i) for g, i in order if learned[g][i]} or set(order[:1])
        while True:
            keep, left = self._fill(opened)
            # What is still closed, and could use what is left of all its limits.
            useful = (
                pair
                for pair in order
                if pair not in opened
                and all(left[c] > self.slack[c] for c in self.limits[pair[0]])
            )
            for gate, index in useful:
                opened.add((gate, index))
                # A head alone changes nothing as long as its submodule is closed.
                if self.owner.get(gate, (gate, 0)) in opened:
                    break
            else:
                return keep

    def _coarse(self) -> list[tuple[Gate, int]]:
        """Submodules and, where their dimensions have gates, heads; the best first."""
        self.limits = {}
        self.owner = {}  # of a head's gate: its submodule
        for layer in self.layers:
            names = ["module_gate"] if hasattr(layer, "module_gate") else []
            if getattr(layer, "qk_gate", None) is not None:
                names.append("head_gate")
                self.owner[layer.head_gate] = (layer.module_gate, 0)
            for name in names:
                self.limits[getattr(layer, name)] = self.constraints[layer]
        scores = {gate: scores_of(gate).tolist() for gate in self.limits}
        pairs = [(gate, i) for gate in self.limits for i in range(len(gate))]
        return sorted(pairs, key=lambda pair: -scores[pair[0]][pair[1]])

    def _fill(
        self, opened: set[tuple[Gate, int]]
    ) -> tuple[dict[Gate, Tensor], dict[Constraint, float]]:
        """Keep units in the order of their log_alpha as long as they fit.

        Returns:
            what is kept, and what is left of each constraint's limit.
        """
        keep = self._least()
        left = self._left_at_most(keep)
        # What the units that did not fit cost.
        unfit: dict[Constraint, list[float]] = {c: [] for c in left}

        def is_open(gate: Gate) -> Tensor:
            return torch.tensor([(gate, i) in opened for i in range(len(gate))])

        units = [
            unit
            for layer in self.layers
            for unit in units_of(layer, is_open, self.multiple)
        ]
        refused: set[Gate] = set()
        prices = UnitPrices(self._costs)
        for unit in sorted(units, key=lambda u: -u.score):
            layer, gate = unit.layer, unit.parts[0][0]
            if self.multiple > 1 and gate in refused:
                continue  # a smaller remainder may fit, and is no multiple
            module = getattr(layer, "module_gate", None)
            if module is not None and not unit.entry and not keep[module].any():
                continue  # its submodule's entry did not fit
            extra = prices.of(unit, keep)
            pairs = list(zip(self.constraints[layer], extra, strict=True))
            if all(cost <= left[c] for c, cost in pairs):
                unit.set(keep, True)
                for c, cost in pairs:
                    left[c] -= cost
            else:
                refused.add(gate)
                for c, cost in pairs:
                    if cost > left[c]:
                        unfit[c].append(cost)
        self.cheapest = {c: min(costs, default=0.0) for c, costs in unfit.items()}
        return keep, left

    def _least(self) -> dict[Gate, Tensor]:
        """What must stay, and the channels between the layers that do."""
        keep = {gate: torch.zeros_like(m) for gate, m in self.all_open.items()}
        if self.kept_dims is not None:
            keep[self.dims] = self.kept_dims
        for layer in self.layers:  # a convolution without channels computes nothing
            if not hasattr(layer, "module_gate"):
                for gate in (layer.gate1, layer.gate2):
                    keep[gate][scores_of(gate).argmax()] = True
        return keep

    def _left_at_most(self, keep: dict[Gate, Tensor]) -> dict[Constraint, float]:
        """What the limits leave to units when only what must stay is kept."""
        left = self._left(keep)
        for c, rest in left.items():
            if rest < 0:
                stays, mend = "norms, biases, a subsampling channel", ""
                if c.name == "model" and "decoder" in c.groups:
                    stays += "; all but heads and units of the decoder"
                elif c.name == "model":
                    stays += "; all beyond the encoder"
                    mend = ", or prune_decoder: true"
                raise InputError(
                    "sparsity target",
                    f"{c.target:.1%} of the {c.name}'s {c.kind} cannot be removed: "
                    f"what must stay ({stays}) costs "
                    f"{(c.limit - rest) / c.dense:.1%}",
                    f"choose a lower target{mend}",
                )
        return left

    def _left(self, keep: dict[Gate, Tensor]) -> dict[Constraint, float]:
        """What a choice leaves of each limit."""
        counts = add(
            layer.gated_counts(lambda gate: keep[gate].double())
            for layer in self.layers
        )
        limits = self.budget.constraints
        return {c: c.limit - c.fixed - float(c.cost(counts)) for c in limits}

    def _costs(self, layer: nn.Module, keep: dict[Gate, Tensor]) -> list[float]:
        """Of a layer, for each of its constraints."""
        counts = layer.gated_counts(lambda gate: keep[gate].double())
        return [float(c.cost(counts)) for c in self.constraints[layer]]

    def _slack(
        self, constraint: Constraint, prices: dict[nn.Module, dict[Constraint, float]]
    ) -> float:
        """0.5 % of the limit, or a unit of the cheapest layer where that is more."""
        units = [own[constraint] for own in prices.values() if constraint in own]
        return max(TOLERANCE * constraint.limit, min(units, default=0.0))

    def _unit_prices(self, layer: nn.Module) -> dict[Constraint, float]:
        """Of the dearest kind of unit in a layer of which nothing is gone."""
        full = self._costs(layer, self.all_open)
        found = units_of(layer, lambda g: self.all_open[g], self.multiple)
        units = {unit.parts[0][0]: unit for unit in found}
        dearest = [0.0] * len(full)
        for unit in units.values():
            keep = {gate: mask.clone() for gate, mask in self.all_open.items()}
            unit.set(keep, False)
            left = self._costs(layer, keep)
            dearest = [
                max(d, f - c) for d, f, c in zip(dearest, full, left, strict=True)
            ]
        return dict(zip(self.constraints[layer], dearest, strict=True))
