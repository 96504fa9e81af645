"""From learned gates to final masks that meet the budget.

Gates are kept in the order of their log_alpha as long as they fit: the Lagrangian has
already priced every unit, so that order needs no cost in it.
"""

import logging

import torch
from torch import Tensor

from espnet_prune.encoder import PrunableConformerEncoder
from espnet_prune.errors import InputError
from espnet_prune.gates import Gate, gates_of

TOLERANCE = 0.005  # of the budget: how far below it the result may end
LARGE_CHANGE = 0.05  # of the dense cost: a projection worth a warning


def slack(
    encoder: PrunableConformerEncoder, kind: str, target: float, frames: int
) -> float:
    """How far beyond ``target`` a projection may end, as a fraction of the dense cost.

    0.5 % of the budget; in encoders so small that one unit is more, a unit.
    """
    chooser = _Chooser(encoder, kind, target, frames)
    return chooser.slack / chooser.dense


def project(
    encoder: PrunableConformerEncoder, kind: str, target: float, frames: int
) -> dict[str, Tensor]:
    """Choose the final value of every gate.

    Args:
        encoder: in its gated life.
        kind: ``params`` or ``macs``.
        target: fraction of the encoder's cost to remove.
        frames: feature frames of the utterance whose MACs are counted.

    Returns:
        gate name -> values, shape (gates,): 0 for removed, else the soft value to
        fold. The realised cost is at most the budget, and at most :func:`slack`
        below it. A submodule whose units are all gone is gone itself.

    Raises:
        InputError: what pruning must leave alone already costs more than the budget.
    """
    chooser = _Chooser(encoder, kind, target, frames)
    before = chooser.cost({g: g.is_open() for g in chooser.gates.values()})
    keep = chooser.choose()
    after = chooser.cost(keep)
    change = (after - before) / chooser.dense
    log = logging.warning if abs(change) > LARGE_CHANGE else logging.info
    log(
        f"projection: the open gates cost {before / chooser.dense:.2%} of the dense "
        f"encoder's {kind}, the budget is {1 - target:.2%}, {after / chooser.dense:.2%}"
        " is kept" + (" (a large change)" if abs(change) > LARGE_CHANGE else "")
    )
    return {
        name: (gate.open_value() * keep[gate]).detach().clone()
        for name, gate in chooser.gates.items()
    }


class _Chooser:
    """The search state of one projection."""

    def __init__(
        self, encoder: PrunableConformerEncoder, kind: str, target: float, frames: int
    ):
        self.encoder, self.kind, self.frames = encoder, kind, frames
        self.gates = gates_of(encoder)
        dense = encoder.architecture.cost(encoder.fixed, frames)["encoder"]
        self.dense = getattr(dense, kind)
        self.budget = (1 - target) * self.dense
        # Each submodule's gate with the gate of its units.
        self.units = {
            m.module_gate: getattr(m, "unit_gate", None) or m.head_gate
            for m in encoder.modules()
            if getattr(m, "module_gate", None) is not None
        }
        self.front = (encoder.embed.gate1, encoder.embed.gate2)
        self.slack = max(TOLERANCE * self.budget, self._cheapest_unit())

    @torch.no_grad()
    def cost(self, keep: dict[Gate, Tensor]) -> float:
        """Cost of the encoder with these gates kept; float64, so exact."""
        cost = self.encoder.gated_cost(self.frames, lambda gate: keep[gate].double())
        return float(getattr(cost, self.kind))

    def choose(self) -> dict[Gate, Tensor]:
        """Open the modules that learned to be open; go on until the budget is used."""
        modules = sorted(self.units, key=lambda m: -m.log_alpha.item())
        opened = sum(bool(m.is_open()) for m in modules)
        if opened == 0 and modules:
            opened = 1
        keep = self._fill(modules[:opened])
        while self.budget - self.cost(keep) > self.slack:
            if opened == len(modules):
                raise RuntimeError("everything is kept and the budget is not used")
            opened += 1
            keep = self._fill(modules[:opened])
        return keep

    def _cheapest_unit(self) -> float:
        keep = {g: torch.ones(len(g), dtype=bool) for g in self.gates.values()}
        prices = []
        for gate in self.units.values():
            keep[gate][0] = False
            prices.append(self.dense - self.cost(keep))
            keep[gate][0] = True
        return min(prices, default=0.0)

    def _fill(self, modules: list[Gate]) -> dict[Gate, Tensor]:
        """Keep units in the order of their log_alpha as long as they fit."""
        keep = {g: torch.zeros(len(g), dtype=bool) for g in self.gates.values()}
        for gate in self.front:  # a convolution without channels computes nothing
            keep[gate][gate.log_alpha.argmax()] = True
        spent = self.cost(keep)
        if spent > self.budget:
            raise InputError(
                "sparsity target",
                f"{1 - self.budget / self.dense:.1%} of the encoder's {self.kind} "
                "cannot be removed: norms, biases and one subsampling channel cost "
                f"{spent / self.dense:.1%}",
                "choose a lower target",
            )
        price, entry = {}, {}
        for module in modules:
            unit = self.units[module]
            keep[module][:], keep[unit][0] = True, True
            first = self.cost(keep)
            keep[unit][1 % len(unit)] = True
            price[unit] = self.cost(keep) - first if len(unit) > 1 else first - spent
            entry[unit] = first - spent - price[unit]  # norm and output bias
            keep[module][:], keep[unit][:] = False, False
        candidates = [
            (value, gate, index)
            for gate in (*self.front, *price)
            for index, value in enumerate(gate.log_alpha.tolist())
            if not keep[gate][index]
        ]
        module_of = {self.units[module]: module for module in modules}
        for _, gate, index in sorted(candidates, key=lambda c: -c[0]):
            keep[gate][index] = True
            if gate in self.front:  # the two convolutions' costs multiply
                new = self._front_cost(keep)
                extra = new - self._front_cost_without(keep, gate, index)
            else:
                extra = price[gate]
                if not keep[module_of[gate]].any():
                    extra += entry[gate]
            if spent + extra > self.budget:
                keep[gate][index] = False
                continue
            spent += extra
            if gate in module_of:
                keep[module_of[gate]][:] = True
        return keep

    def _front_cost(self, keep: dict[Gate, Tensor]) -> float:
        cost = self.encoder.embed.gated_cost(
            self.frames, lambda gate: keep[gate].double()
        )
        return float(getattr(cost, self.kind))

    def _front_cost_without(
        self, keep: dict[Gate, Tensor], gate: Gate, index: int
    ) -> float:
        keep[gate][index] = False
        cost = self._front_cost(keep)
        keep[gate][index] = True
        return cost
