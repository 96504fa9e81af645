"""Turn the dimensions inside attention heads, so that the last matter least.

Queries and keys of a head meet in products alone, and so do values and the columns that
read them: any basis of a head is as good. In the one taken here, dimensions that go
lose least (a joint low rank of both sides).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from espnet_prune.pruning.layout import Layout
from espnet_prune.pruning.low_rank import axes
from espnet_prune.pruning.moments import Moments
from espnet_prune.pruning.structure import FLAT, Slot, Structure


def inner(layout: Layout) -> list[Structure]:
    """List the structures of dimensions inside heads that have gates."""
    return [s for s in layout.structures if s.even and s.gated]


@torch.no_grad()
def turn(
    layout: Layout, tensors: Mapping[str, Tensor], moments: Mapping[str, Moments]
) -> dict[str, Tensor]:
    """Turn the dimensions inside all heads; the model computes what it did.

    Args:
        layout: of the model.
        tensors: its parameters by name, which are changed.
        moments: of its linear layers, which are changed with them.

    Returns:
        structure -> (dimension,) what is lost without each, in all heads at once.
    """
    found = {}
    for structure in inner(layout):
        reads = [slot for slot in structure.gated if slot.dim == 1]
        # Of queries and keys, queries are measured; of values, what reads them hears.
        makes = structure.gated
        if reads:
            makes = tuple(slot for slot in structure.cut if slot not in reads)
        heads = layout[structure.parent].size
        square, matter = _measured(structure, tensors, moments, reads)
        parts = [
            axes(_block(square, h, heads), _block(matter, h, heads))
            for h in range(heads)
        ]
        losses, back, to = (torch.stack(each) for each in zip(*parts, strict=True))
        # Both sides get numbers of like size.
        scale = (back.norm(dim=1) / to.norm(dim=2)).sqrt()
        to, back = to * scale[:, :, None], back / scale[:, None, :]
        one, other = torch.block_diag(*to), torch.block_diag(*back.mT)
        for slot in structure.cut:
            first = slot in makes
            _turn_slot(tensors[slot.tensor], slot, one if first else other)
            layer = slot.tensor.removesuffix(".weight")
            if layer not in moments:
                continue
            held = moments[layer]
            if slot in reads:
                wide = torch.block_diag(one, torch.ones(1, 1, dtype=one.dtype))
                held.inputs = wide @ held.inputs @ wide.T
            else:
                against = other if first else one
                held.outputs = against @ held.outputs @ against.T
        found[structure.name] = losses.sum(0)
    return found


def _measured(
    structure: Structure,
    tensors: Mapping[str, Tensor],
    moments: Mapping[str, Moments],
    reads: list[Slot],
) -> tuple[Tensor, Tensor]:
    """Measure how large the dimensions are, and how much they matter, as squares.

    Returns:
        twice (head * dimension, head * dimension).
    """
    tensor = (reads or structure.gated)[0].tensor
    held = moments[tensor.removesuffix(".weight")]
    weight = tensors[tensor].double()
    if reads:
        mean = held.inputs[:-1, -1]  # the bias of what reads them makes up for it
        square = held.inputs[:-1, :-1] - torch.outer(mean, mean)
        return square, weight.T @ held.outputs @ weight
    bias = tensors[tensor.removesuffix("weight") + "bias"].double()
    # What positions add to queries, on the average of both.
    added = [tensors[s.tensor].double() for s in structure.gated if s.dim == FLAT]
    bias = bias + sum(x.flatten() / len(added) for x in added)
    weight = torch.cat([weight, bias[:, None]], 1)
    return weight @ held.inputs @ weight.T, held.outputs


def _block(square: Tensor, head: int, heads: int) -> Tensor:
    size = len(square) // heads
    return square[head * size : (head + 1) * size, head * size : (head + 1) * size]


def _turn_slot(tensor: Tensor, slot: Slot, by: Tensor) -> None:
    """Multiply what a slot of a parameter holds of the dimensions, in place."""
    if tensor.dim() == 1 or slot.dim == FLAT:
        tensor.copy_((by @ tensor.double().flatten()).view_as(tensor))
    else:
        rows = tensor.double().movedim(slot.dim, 0)
        turned = (by @ rows.flatten(1)).view_as(rows)
        tensor.copy_(turned.movedim(0, slot.dim))
