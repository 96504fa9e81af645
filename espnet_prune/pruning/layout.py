"""The units of all structures of a model side by side in one vector.

Whatever holds a number for each unit (gate values, scores, masks) is a vector (unit,)
in the order of the structures. Which entries of a tensor, which parents and which sums
belong to a unit are index tensors, made once.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from espnet_prune.pruning.structure import FLAT, Slot, Structure

_NONE = torch.empty(0, dtype=torch.long)


class Layout:
    """Index tensors of a list of structures.

    Args:
        structures: of one model; parents stand before what depends on them.
        shapes: shape of every parameter and buffer of the model, by name.

    Raises:
        ValueError: a declaration does not fit the model, by name.
    """

    def __init__(
        self, structures: Iterable[Structure], shapes: Mapping[str, Sequence[int]]
    ):
        self.structures = tuple(structures)
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.index: dict[str, int] = {}
        self.offsets: list[int] = []
        self.size = 0
        for number, structure in enumerate(self.structures):
            if structure.name in self.index:
                raise ValueError(f"structure {structure.name} is declared twice")
            self.index[structure.name] = number
            self.offsets.append(self.size)
            self.size += structure.size
        self._placed: dict[torch.device, dict[str, Tensor]] = {}
        parents = self._parents()
        alone = [self.offsets[i] for i, s in enumerate(self.structures) if s.size == 1]
        plural = parents.clone()
        plural[torch.isin(plural, torch.tensor(alone, dtype=torch.long))] = self.size
        self._pieces: dict[str, list[tuple[str, int, int]]] = {}
        self._made = {
            "where": torch.arange(len(self.structures)).repeat_interleave(
                torch.tensor([s.size for s in self.structures])
            ),
            "parents": parents,
            "plural": plural,
            "derived": self._derived(),
            "learned": torch.cat(
                [
                    torch.arange(s.size) + first
                    if s.learned and not s.any_of
                    else _NONE
                    for s, first in zip(self.structures, self.offsets, strict=True)
                ]
            ),
            "gated": self._factors("gated"),
            "opens": self._factors("opens"),
        }

    def __len__(self) -> int:
        return self.size

    def __contains__(self, name: str) -> bool:
        return name in self.index

    def __getitem__(self, name: str) -> Structure:
        return self.structures[self.index[name]]

    def span(self, name: str) -> slice:
        """Find where the units of a structure are in a vector (unit,)."""
        number = self.index[name]
        start = self.offsets[number]
        return slice(start, start + self.structures[number].size)

    def at(self, name: str, device: torch.device) -> Tensor:
        """Return an index tensor, on a device."""
        if device not in self._placed:
            self._placed[device] = {k: v.to(device) for k, v in self._made.items()}
        return self._placed[device][name]

    @property
    def learned(self) -> Tensor:
        """Return (gate,) indices of the units that have gates of their own, rising."""
        return self._made["learned"]

    def children(self, name: str) -> list[Structure]:
        """List the structures that depend on this one directly."""
        return [s for s in self.structures if s.parent == name]

    def ancestors(self, name: str) -> list[str]:
        """List the parent of a structure, that one's parent, and so on."""
        found = []
        while (name := self[name].parent) is not None:
            found.append(name)
        return found

    def descendants(self, name: str) -> list[str]:
        """List all structures that depend on this one, children before their own."""
        return [s.name for s in self.structures if name in self.ancestors(s.name)]

    def roots(self) -> list[Structure]:
        """List the structures that depend on no other, without the derived ones."""
        return [s for s in self.structures if s.parent is None and not s.any_of]

    def entries(self, structure: Structure, slot: Slot) -> Tensor:
        """Find which entries of a slot's dimension belong to each unit.

        Returns:
            (unit, entry), indices in the dimension, rising.

        Raises:
            ValueError: the units do not share the stretch evenly.
        """
        shape = self.shapes.get(slot.tensor)
        if shape is None:
            raise ValueError(f"{structure.name}: the model has no {slot.tensor}")
        whole = torch.Size(shape).numel() if slot.dim == FLAT else shape[slot.dim]
        length = whole - slot.start if slot.length is None else slot.length
        if length % (structure.size * slot.tiles) or slot.start + length > whole:
            raise ValueError(
                f"{structure.name}: {structure.size} units in {slot.tiles} tiles do "
                f"not share {length} entries of {slot.tensor}"
            )
        found = torch.arange(slot.start, slot.start + length)
        return found.view(slot.tiles, structure.size, -1).transpose(0, 1).flatten(1)

    def complete(self, own: Tensor, values: bool = False) -> Tensor:
        """Close nested units as far as those before them, and fill in derived ones.

        A derived structure is open where any of its parts is.

        Args:
            own: (unit,) values or probabilities of the gates, 1 where there is none.
            values: whether these are values: what is derived is there or not then, 1 or
                0, and not likely to be there.
        """
        own, parts = self.nested(own), self.at("derived", own.device)
        if not len(parts):
            return own
        some = torch.cat([own, own.new_tensor([1.0, 0.0])])[parts[:, 1:]]
        closed = 1 - some[:, 0]
        for column in range(1, some.shape[1]):
            closed = closed * (1 - some[:, column])
        derived = 1 - closed
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

    def _parents(self) -> Tensor:
        """Index the ancestors of each unit, (level, unit); one past the end: none."""
        above = [self.ancestors(s.name) for s in self.structures]
        levels = torch.full((max(map(len, above), default=0), self.size), self.size)
        for structure, names in zip(self.structures, above, strict=True):
            for level, name in zip(levels, names, strict=False):
                parent = self[name]
                if structure.size % parent.size:
                    raise ValueError(
                        f"{structure.name}: {structure.size} units are not shared "
                        f"evenly by the {parent.size} of {parent.name}"
                    )
                units = torch.arange(structure.size) // (structure.size // parent.size)
                first = self.offsets[self.index[name]]
                level[self.span(structure.name)] = units + first
        return levels

    def _derived(self) -> Tensor:
        """Index what keeps derived structures open, (derived structure, 1 + part).

        First comes the unit, then those that keep it open; two past the end for none.
        """
        derived = [s for s in self.structures if s.any_of]
        most = max((len(s.any_of) for s in derived), default=0)
        rows = torch.full((len(derived), 1 + most), self.size + 1)
        for row, structure in zip(rows, derived, strict=True):
            row[0] = self.offsets[self.index[structure.name]]
            for i, part in enumerate(structure.any_of):
                row[1 + i] = self.offsets[self.index[part]]
        return rows

    def _factors(self, field: str) -> Tensor:
        """Index the gates that multiply each entry, (level, entry).

        The entries are those of every dimension that has gates, one dimension after the
        other; one past the end for none.
        """
        factors: dict[tuple[str, int], list[Tensor]] = {}
        for structure in self.structures:
            for slot in getattr(structure, field):
                entries = self.entries(structure, slot)
                shape = torch.Size(self.shapes[slot.tensor])
                length = shape.numel() if slot.dim == FLAT else shape[slot.dim]
                found = torch.full((length,), self.size)
                first = self.offsets[self.index[structure.name]]
                units = torch.arange(structure.size)[:, None].expand_as(entries)
                found[entries.flatten()] = units.flatten() + first
                factors.setdefault((slot.tensor, slot.dim), []).append(found)
        self._pieces[field] = [(*at, len(own[0])) for at, own in factors.items()]
        most = max(map(len, factors.values()), default=0)
        columns = []
        for own in factors.values():
            none = torch.full_like(own[0], self.size)
            columns.append(torch.stack([*own, *[none] * (most - len(own))]))
        return torch.cat(columns, 1) if columns else torch.empty(0, 0)
