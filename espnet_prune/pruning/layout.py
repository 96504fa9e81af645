"""The units of all structures of a model side by side in one vector.

Whatever holds a number for each unit (gate values, scores, masks) is a vector (unit,)
in the order of the structures. Which entries of a tensor, which parents and which sums
belong to a unit are index tensors, made once.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from espnet_prune.pruning.positions import Positions
from espnet_prune.pruning.structure import FLAT, Structure

_NONE = torch.empty(0, dtype=torch.long)


class Layout(Positions):
    """Index tensors of a list of structures.

    It is made of the same as :class:`Positions`.
    """

    def __init__(
        self, structures: Iterable[Structure], shapes: Mapping[str, Sequence[int]]
    ):
        super().__init__(structures, shapes)
        self._placed: dict[torch.device, dict[str, Tensor]] = {}
        parents = self.parents()
        alone = [self.offsets[i] for i, s in enumerate(self.structures) if s.size == 1]
        plural = parents.clone()
        plural[torch.isin(plural, torch.tensor(alone, dtype=torch.long))] = self.size
        fields = ("gated", "opens")
        multiplied = {field: self.factors(field) for field in fields}
        self._pieces = {field: pieces for field, (_, pieces) in multiplied.items()}
        self._made = {
            "where": torch.arange(len(self.structures)).repeat_interleave(
                torch.tensor([s.size for s in self.structures])
            ),
            "parents": parents,
            "plural": plural,
            "derived": self.derived(),
            "closing": self.closing(),
            "learned": torch.cat(
                [
                    torch.arange(s.size) + first
                    if s.learned and (s.with_gate or not s.any_of)
                    else _NONE
                    for s, first in zip(self.structures, self.offsets, strict=True)
                ]
            ),
            **{field: made for field, (made, _) in multiplied.items()},
        }

    def at(self, name: str, device: torch.device) -> Tensor:
        """Return an index tensor, on a device."""
        if device not in self._placed:
            self._placed[device] = {k: v.to(device) for k, v in self._made.items()}
        return self._placed[device][name]

    @property
    def learned(self) -> Tensor:
        """Return (gate,) indices of the units that have gates of their own, rising."""
        return self._made["learned"]

    def complete(self, own: Tensor, values: bool = False) -> Tensor:
        """Close nested units as far as those before them, and fill in derived ones.

        A derived structure is open where any of its parts is; one with a gate closes
        them with itself.

        Args:
            own: (unit,) values or probabilities of the gates, 1 where there is none.
            values: whether these are values: what is derived is there or not then, 1 or
                0, and not likely to be there.
        """
        own, parts = self.nested(own), self.at("derived", own.device)
        if not len(parts):
            return own
        gate, *some = torch.cat([own, own.new_tensor([1.0, 0.0])])[parts[:, 1:].T]
        closed = torch.ones_like(gate)
        for part in some:
            closed = closed * (1 - part)
        derived = gate * (1 - closed)
        inside, over = self.at("closing", own.device)
        own = own.index_copy(0, inside, own[inside] * own[over])
        if values:
            derived = derived + ((derived > 0).to(own.dtype) - derived).detach()
        return own.index_copy(0, parts[:, 0], derived)

    def nested(self, own: Tensor) -> Tensor:
        """Bound (unit,) values of nested structures by those of the units before."""
        for structure in self.structures:
            if structure.nested:
                span = self.span(structure.name)
                flips = [0] if structure.nested < 0 else []
                units = own[span].flip(flips).cummin(0).values.flip(flips)
                own = torch.cat([own[: span.start], units, own[span.stop :]])
        return own

    def whole(self) -> Tensor:
        """Return values (unit,) that remove nothing, in double precision."""
        return torch.ones(self.size, dtype=torch.double)

    def effective(self, own: Tensor) -> Tensor:
        """Multiply (unit,) values by those of all that a unit depends on."""
        extended = torch.cat([own, own.new_ones(1)])
        for level in self.at("parents", own.device):
            own = own * extended[level]
        return own

    def sums(self, own: Tensor) -> Tensor:
        """Count how many units there are of each structure.

        A parent of one unit is left out: it is a factor of its own in every cost, and
        counts once however many of a tensor's dimensions depend on it.

        Args:
            own: (unit,) openness of the units, derived ones included.

        Returns:
            (structure,).
        """
        extended, counted = torch.cat([own, own.new_ones(1)]), own
        for level in self.at("plural", own.device):
            counted = counted * extended[level]
        zeros = own.new_zeros(len(self.structures))
        return zeros.index_add(0, self.at("where", own.device), counted)

    def settled(self, own: Tensor) -> Tensor:
        """Close units that cannot be: below a closed one, or without what they need.

        Else the output bias of a submodule without units would live on in the gated
        model, and not in the compact one.

        Args:
            own: (unit,) final values, 0 for removed.
        """
        own = self.complete(own, values=True)
        is_open = own != 0
        while True:
            before, reached = is_open.clone(), self.effective(is_open.int()) != 0
            for structure in self.structures:
                if structure.parent is not None and structure.needed:
                    parent = self[structure.parent]
                    left = reached[self.span(structure.name)].view(parent.size, -1)
                    is_open[self.span(parent.name)] &= left.any(1)
            if is_open.equal(before):
                return self.complete(own * reached.to(own.dtype), values=True)

    def gated(self, tensors: Mapping[str, Tensor], own: Tensor) -> dict[str, Tensor]:
        """Make the tensors that ``torch.func.functional_call`` replaces.

        Args:
            tensors: parameters and buffers of the model, by name.
            own: (unit,) values of the gates, derived ones included.
        """
        extended = torch.cat([own, own.new_ones(1)])
        found: dict[str, Tensor] = {}
        for name, is_open in (("gated", False), ("opens", True)):
            pieces = self._pieces[name]
            if not pieces:
                continue
            first, *others = self.at(name, own.device)
            source = (extended > 0).to(own.dtype) if is_open else extended
            factor = source[first]
            for level in others:
                factor = factor * source[level]
            lengths = [length for _, _, length in pieces]
            for (tensor, dim, _), part in zip(
                pieces, factor.split(lengths), strict=True
            ):
                old = found[tensor] if tensor in found else tensors[tensor]
                shape = old.shape
                if dim != FLAT:
                    shape = [-1 if d == dim else 1 for d in range(old.dim())]
                found[tensor] = old * part.to(old.dtype).view(shape)
        return found
