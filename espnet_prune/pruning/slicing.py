"""Cut the tensors of the compact model, and count how many units are kept."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from espnet_prune.pruning.layout import Layout
from espnet_prune.pruning.structure import FLAT, Slot, Structure


@torch.no_grad()
def sliced(
    layout: Layout, tensors: Mapping[str, Tensor], own: Tensor
) -> dict[str, Tensor]:
    """Cut the tensors of the compact model.

    Units that must be equally many in every unit of their parent, and are not, are
    filled up with zeros, which changes nothing.

    Args:
        layout: of the gated model.
        tensors: its state dict.
        own: (unit,) final values, settled; they are folded into the tensors.

    Returns:
        the tensors that are left, gates folded in, without empty ones.
    """
    own = own.to(next(iter(tensors.values())).device)
    # What norms are told is in no state dict, and in no compact model.
    told = layout.shapes.keys() - tensors.keys()
    folded = dict.fromkeys(told, own.new_ones(1)) | dict(tensors)
    folded |= layout.gated(folded, own)
    closed = [s.owns for s in layout.structures if not own[layout.span(s.name)].any()]
    gone = [name for owns in closed for name in owns]
    found = {
        name: tensor
        for name, tensor in folded.items()
        if name not in told
        and not any(name == part or name.startswith(f"{part}.") for part in gone)
    }
    cuts: dict[tuple[str, int], list[tuple[Structure, Slot]]] = {}
    for structure in layout.structures:
        for slot in structure.cut:
            if slot.tensor in found:
                at = cuts.setdefault((slot.tensor, slot.dim), [])
                at.append((structure, slot))
    reached = layout.effective(own.cpu()) != 0
    for (name, dim), pairs in cuts.items():
        tensor = found[name]
        length = tensor.numel() if dim == FLAT else tensor.shape[dim]
        covered = torch.zeros(length, dtype=torch.bool)
        pieces = []
        for structure, slot in pairs:
            entries = layout.entries(structure, slot)
            covered[entries.flatten()] = True
            kept = _kept(layout, structure, reached)
            # Entry by entry over the tiles: all units of the first, then of the next.
            by_tile = entries.view(structure.size, slot.tiles, -1)
            filled = torch.cat([by_tile, torch.full_like(by_tile[:1], length)])
            pieces.append((slot.start, filled[kept].transpose(0, 1).flatten()))
        if not covered.all():
            raise ValueError(f"{name}: a part of dimension {dim} is in no structure")
        order = torch.cat([piece for _, piece in sorted(pieces, key=lambda p: p[0])])
        found[name] = _select(
            tensor, dim, order.to(tensor.device), pairs[0], layout, reached
        )
    return {
        name: tensor.detach().clone().contiguous()
        for name, tensor in found.items()
        if tensor.numel()
    }


def widths(layout: Layout, structure: Structure, reached: Tensor) -> tuple[int, int]:
    """Count an even structure's parent units that are left, and the units in each.

    Attention without any query is a mean: one dimension of zeros does it.
    """
    parent = layout[structure.parent]
    rows = reached[layout.span(parent.name)]
    inside = reached[layout.span(structure.name)].view(parent.size, -1)[rows]
    most = int(inside.sum(1).max()) if len(inside) else 0
    return int(rows.sum()), max(most, int(len(inside) > 0))


def kept_sizes(layout: Layout, own: Tensor) -> dict[tuple[str | int, ...], int]:
    """Count the units that are left of every structure with a ``key``, by it.

    Args:
        layout: of the gated model.
        own: (unit,) final values, settled.
    """
    reached = layout.effective(own) != 0
    found = {}
    for structure in layout.structures:
        if structure.key:
            number = int(reached[layout.span(structure.name)].sum())
            if structure.even:
                number = widths(layout, structure, reached)[1]
            found[structure.key] = number
    return found


def first_units(layout: Layout, sizes: Mapping[tuple[Any, ...], int]) -> Tensor:
    """Make (unit,) values that keep the first units of each structure, so many of them.

    Args:
        layout: of the dense model.
        sizes: by ``key``, as :func:`kept_sizes` gives them.

    Raises:
        ValueError: there are not as many.
    """
    own = torch.zeros(len(layout))
    for structure in layout.structures:
        span = layout.span(structure.name)
        rows = own[span]
        if structure.even:
            rows = rows.view(layout[structure.parent].size, -1)
        else:
            rows = rows.view(1, -1)
        number = sizes[structure.key] if structure.key else rows.shape[1]
        if not 0 <= number <= rows.shape[1]:
            raise ValueError(
                f"architecture: {'.'.join(map(str, structure.key))} is {number}, the "
                f"dense model has {rows.shape[1]}"
            )
        rows[:, :number] = 1
    return layout.settled(own)


def _kept(layout: Layout, structure: Structure, reached: Tensor) -> Tensor:
    """Index the units that are left; one past the end stands for a filling zero."""
    own = reached[layout.span(structure.name)]
    if not structure.even:
        return own.nonzero().squeeze(1)
    rows, width = widths(layout, structure, reached)
    parent = layout[structure.parent]
    inside = own.view(parent.size, -1)
    found = torch.full((rows, width), structure.size)
    for line, row in zip(
        found, reached[layout.span(parent.name)].nonzero().squeeze(1), strict=True
    ):
        units = inside[row].nonzero().squeeze(1) + row * inside.shape[1]
        line[: len(units)] = units
    return found.flatten()


def _select(
    tensor: Tensor,
    dim: int,
    order: Tensor,
    pair: tuple[Structure, Slot],
    layout: Layout,
    reached: Tensor,
) -> Tensor:
    """Select slices of a tensor; zeros for an index one past the end."""
    if dim == FLAT:  # (row, unit in it), as it was
        flat = _select(tensor.flatten(), 0, order, pair, layout, reached)
        return flat.view(widths(layout, pair[0], reached))
    zeros = tensor.new_zeros([1 if d == dim else n for d, n in enumerate(tensor.shape)])
    return torch.cat([tensor, zeros], dim).index_select(dim, order)
