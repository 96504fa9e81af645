"""Choose without a training what of a model goes, by what its layers hear.

Units go whose readers can do without them (:mod:`.refit`), the last dimensions inside
heads go (:mod:`.heads`), and matrices of what is left get a lower rank where that pays
(:mod:`.low_rank`). All compete under one budget: at a rate of exchange, loss for cost,
everything goes that is worth less, and the lowest rate is taken that meets the budget.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from espnet_prune.base.errors import InputError
from espnet_prune.pruning.budget import Budget
from espnet_prune.pruning.layout import Layout
from espnet_prune.pruning.low_rank import pays, spectrum, truncated
from espnet_prune.pruning.moments import Moments, is_linear, matrix
from espnet_prune.pruning.refit import refitted, removal

HALVINGS = 20  # of the range of exchange rates that the best is looked for in
STEPS = 5  # up from the dearest unit, until nothing is left that could go
TINY = 1e-30


@dataclass(frozen=True)
class Compression:
    """A choice of what goes.

    Args:
        own: (unit,) 1 or 0, settled.
        ranks: of the layers that get a lower one, by name.
        weights: layer -> (output, input + 1), what its weight and bias become.
        saved: kind -> cost that the ranks save.
    """

    own: Tensor
    ranks: dict[str, int]
    weights: dict[str, Tensor]
    saved: dict[str, float]


def readers(layout: Layout, layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """Find the layer that reads the units of a structure, which can do without some.

    Heads go as a whole: what is inside, taps and channels between layers have none.

    Args:
        layout: of the model.
        layers: linear layers and 2-D convolutions of the model, by name.
    """
    found = {}
    for structure in layout.structures:
        if structure.size == 1 or structure.even or not structure.learned:
            continue
        for slot in structure.gated:
            layer = slot.tensor.removesuffix(".weight")
            if slot.dim == 1 and layer in layers:
                found[structure.name] = layer
    return found


class Choice:
    """The choice for each rate of exchange.

    Args:
        budget: what is to be met, a limit of the whole for each kind of cost.
        layers: the linear layers and 2-D convolutions of the model, by name.
        moments: of each of them.
        times: parameter -> multiplications of each of its elements.
        inner: losses of the dimensions inside heads, of :func:`.heads.turn`.
    """

    def __init__(
        self,
        budget: Budget,
        layers: Mapping[str, nn.Module],
        moments: Mapping[str, Moments],
        times: Mapping[str, float],
        inner: Mapping[str, Tensor],
    ):
        self.budget, self.layout = budget, budget.layout
        self.layers, self.moments, self.times = layers, moments, times
        self.inner = inner
        self.weights = {name: matrix(layer) for name, layer in layers.items()}
        self.orders = {
            structure: removal(
                self.weights[layer], moments[layer], self._columns(structure, layer)
            )
            for structure, layer in readers(self.layout, layers).items()
        }
        self.prices = {name: self._price(name) for name in self.orders}
        self.prices |= {name: self._price(name, inside=True) for name in inner}
        self.refits: dict[tuple[str, bytes], Tensor] = {}

    def best(self) -> Compression:
        """Find the lowest rate that meets the budget.

        Raises:
            InputError: none does.
        """
        losses = [
            loss / self.prices[structure]
            for structure, (_, own) in self.orders.items()
            for loss in own
        ]
        most = 2 * max(losses, default=1.0) + TINY
        for _ in range(STEPS):
            if self.fits(found := self.at(most)):
                break
            most *= 1e3
        else:
            what = "cannot be met: norms, and a unit or a head of each layer, must stay"
            raise InputError("sparsity target", what, "choose a lower target")
        low, high = torch.tensor([1e-12 * most, most]).double().log2().tolist()
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            choice = self.at(2**middle)
            if self.fits(choice):
                high, found = middle, choice
            else:
                low = middle
        return found

    def fits(self, choice: Compression) -> bool:
        """Tell whether a choice meets the budget."""
        costs = self.budget.cost(choice.own).tolist()
        return all(
            cost - choice.saved[c.kind] <= c.limit
            for cost, c in zip(costs, self.budget.constraints, strict=True)
        )

    def at(self, rate: float) -> Compression:
        """Remove everything that loses less for its cost.

        Args:
            rate: loss for a fraction of the dense cost, summed over its kinds.
        """
        own = self.layout.whole()
        for structure, (order, losses) in self.orders.items():
            most = len(order) - max(1, self.layout[structure].least)
            worth = torch.tensor(losses[:most]) > rate * self.prices[structure]
            # Those that come before one that stays have gone, however little they lose.
            gone = int(worth.nonzero()[0]) if worth.any() else most
            start = self.layout.span(structure).start
            own[[start + unit for unit in order[:gone]]] = 0
        for structure, losses in self.inner.items():
            kept = max(1, int((losses > rate * self.prices[structure]).sum()))
            self._inside(own, structure)[:, kept:] = 0
        own = self.layout.settled(own)
        weights, ranks, saved = {}, {}, {"params": 0.0, "macs": 0.0}
        for name, layer in self.layers.items():
            rows, columns = self._left(name, own)
            weight = self._refitted(name, columns)
            if is_linear(layer) and rows.any() and columns.any():
                rank, weight = self._narrowed(name, weight, rows, columns, rate)
                if rank:
                    ranks[name], shape = rank, (int(rows.sum()), int(columns.sum()))
                    less = shape[0] * shape[1] - rank * sum(shape)
                    saved["params"] += less
                    saved["macs"] += less * self.times[f"{name}.weight"]
            weights[name] = weight
        return Compression(own, ranks, weights, saved)

    def _narrowed(
        self, name: str, weight: Tensor, rows: Tensor, columns: Tensor, rate: float
    ) -> tuple[int, Tensor]:
        """Lower the rank of what is left of a layer; 0 where that does not pay."""
        where = torch.cat([columns, columns.new_ones(1)])
        inside = torch.outer(rows, where)
        small = weight[inside].view(int(rows.sum()), -1)
        moments = self.moments[name].restricted(rows, columns)
        bias = self.layers[name].bias is not None
        losses = spectrum(small, moments, bias)[0]
        shape = len(small), small.shape[1] - 1
        price = self._fraction(1.0, self.times[f"{name}.weight"])
        rank = max(1, int((losses > rate * price * sum(shape)).sum()))
        saving = price * (shape[0] * shape[1] - rank * sum(shape))
        if not pays(rank, shape) or float(losses[rank:].sum()) > rate * saving:
            return 0, weight
        weight = weight.clone()
        weight[inside] = truncated(small, moments, rank, bias).flatten()
        return rank, weight

    def _refitted(self, name: str, columns: Tensor) -> Tensor:
        """Fit a layer to what is left of its inputs, each way once."""
        if columns.all():
            return self.weights[name]
        key = name, columns.numpy().tobytes()
        if key not in self.refits:
            found = refitted(self.weights[name], self.moments[name], columns)
            self.refits[key] = found
        return self.refits[key]

    def _columns(self, structure: str, layer: str) -> Tensor:
        """Index the columns of a layer's matrix that each unit has, (unit, column)."""
        tensor = f"{layer}.weight"
        (slot,) = (s for s in self.layout[structure].gated if s.tensor == tensor)
        entries = self.layout.entries(self.layout[structure], slot)
        each = self._each(layer)
        return (entries[:, :, None] * each + torch.arange(each)).flatten(1)

    def _each(self, layer: str) -> int:
        """Count the columns of a layer's matrix for each of its inputs."""
        return (len(self.moments[layer].inputs) - 1) // self._shape(layer)[1]

    def _shape(self, layer: str) -> tuple[int, ...]:
        return self.layout.shapes[f"{layer}.weight"]

    def _left(self, layer: str, own: Tensor) -> tuple[Tensor, Tensor]:
        """Mark the rows and columns of a layer's matrix that are left."""
        reached = self.layout.effective(own) != 0
        masks = [torch.ones(n, dtype=torch.bool) for n in self._shape(layer)[:2]]
        for structure in self.layout.structures:
            for slot in structure.cut:
                if slot.tensor == f"{layer}.weight" and slot.dim in (0, 1):
                    entries = self.layout.entries(structure, slot)
                    gone = ~reached[self.layout.span(structure.name)]
                    masks[slot.dim][entries[gone].flatten()] = False
        return masks[0], masks[1].repeat_interleave(self._each(layer))

    def _inside(self, own: Tensor, structure: str) -> Tensor:
        """View (unit,) values of dimensions inside heads as (head, dimension)."""
        heads = self.layout[self.layout[structure].parent].size
        return own[self.layout.span(structure)].view(heads, -1)

    def _price(self, structure: str, inside: bool = False) -> float:
        """Price a unit of a structure, in fractions of the dense costs.

        A dimension inside heads goes from all of them at once.
        """
        own = self.layout.whole()
        if inside:
            self._inside(own, structure)[:, 0] = 0
        else:
            own[self.layout.span(structure).start] = 0
        return float(self.budget.removed(self.layout.settled(own)).sum())

    def _fraction(self, params: float, macs: float) -> float:
        """Add up what are fractions of the dense costs that are limited."""
        cost = {"params": params, "macs": macs}
        return sum(cost[c.kind] / c.dense for c in self.budget.constraints)
