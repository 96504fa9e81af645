"""Where the units of structures lie in a vector (unit,), and in the model's tensors."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from espnet_prune.pruning.structure import FLAT, Slot, Structure


class Positions:
    """A list of structures, and where the units of each lie.

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

    def parents(self) -> Tensor:
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

    def derived(self) -> Tensor:
        """Index what keeps derived structures open, (derived structure, 2 + part).

        First comes the unit, then its gate, one past the end for none, then those that
        keep it open; two past the end for none.
        """
        derived = [s for s in self.structures if s.any_of]
        most = max((len(s.any_of) for s in derived), default=0)
        rows = torch.full((len(derived), 2 + most), self.size + 1)
        for row, structure in zip(rows, derived, strict=True):
            row[0] = unit = self.offsets[self.index[structure.name]]
            row[1] = unit if structure.with_gate else self.size
            for i, part in enumerate(structure.any_of):
                row[2 + i] = self.offsets[self.index[part]]
        return rows

    def closing(self) -> Tensor:
        """Index the parts that a gate closes at once, and that gate, (2, part)."""
        pairs = [
            [self.offsets[self.index[name]] for name in (part, s.name)]
            for s in self.structures
            if s.with_gate
            for part in s.any_of
        ]
        return torch.tensor(pairs, dtype=torch.long).view(-1, 2).T

    def factors(self, field: str) -> tuple[Tensor, list[tuple[str, int, int]]]:
        """Index the gates that multiply each entry, (level, entry).

        The entries are those of every dimension that has gates, one dimension after the
        other; one past the end for none.

        Returns:
            the indices; tensor, dimension and number of entries of each stretch.
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
        pieces = [(*at, len(own[0])) for at, own in factors.items()]
        most = max(map(len, factors.values()), default=0)
        columns = []
        for own in factors.values():
            none = torch.full_like(own[0], self.size)
            columns.append(torch.stack([*own, *[none] * (most - len(own))]))
        return torch.cat(columns, 1) if columns else torch.empty(0, 0), pieces
