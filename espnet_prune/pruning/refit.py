"""Remove inputs of a linear layer, and let those that are left make up for them.

Where units go whose outputs a layer reads, its weights for the others are fitted anew
by least squares, so that on what it heard it gives what it gave. Units go one by one,
each time the one that costs least then (optimal brain surgeon for structures: Kurtic
et al. 2023, arXiv 2302.04089).
"""

import torch
from torch import Tensor

from espnet_prune.pruning.moments import Moments

RIDGE = 1e-4  # of the mean square of an input: what few samples say little of stays


def removal(
    weight: Tensor, moments: Moments, columns: Tensor
) -> tuple[list[int], list[float]]:
    """Order the units that a layer reads by what is lost without them.

    Args:
        weight: (output, input + 1), the bias last.
        moments: of the layer.
        columns: (unit, column) of the weight that belong to each unit.

    Returns:
        units, the first to go first, and what each adds to the loss when it goes.
    """
    inverse = torch.linalg.inv(_damped(moments.inputs))
    weight = root(moments.outputs) @ weight
    left, order, losses = list(range(len(columns))), [], []
    while left:
        there = columns[left]
        own = inverse[there[:, :, None], there[:, None, :]]  # (unit, column, column)
        parts = weight[:, there].permute(1, 2, 0)  # (unit, column, output)
        loss = (parts * torch.linalg.solve(own, parts)).sum((1, 2))
        best = int(loss.argmin())
        order.append(left.pop(best))
        losses.append(max(0.0, float(loss[best])))
        gone = there[best]
        share = torch.linalg.solve(inverse[gone][:, gone], inverse[gone])
        weight = weight - weight[:, gone] @ share
        inverse = inverse - inverse[:, gone] @ share
    return order, losses


def refitted(weight: Tensor, moments: Moments, kept: Tensor) -> Tensor:
    """Fit a layer anew that reads some of its inputs alone.

    Args:
        weight: (output, input + 1), the bias last.
        moments: of the layer.
        kept: bool (input,), what it reads.

    Returns:
        (output, input + 1), 0 where nothing is read.
    """
    kept = torch.cat([kept, kept.new_ones(1)])
    square = _damped(moments.inputs)
    fitted = torch.zeros_like(weight)
    wanted = weight @ square[:, kept]
    fitted[:, kept] = torch.linalg.solve(square[kept][:, kept], wanted.T).T
    return fitted


def root(square: Tensor) -> Tensor:
    """Return the symmetric root of a positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(square)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _damped(inputs: Tensor) -> Tensor:
    """Add a little to the diagonal of mean squares, not to that of the bias."""
    diagonal = inputs.diagonal()[:-1]
    more = torch.full_like(inputs[0], RIDGE * float(diagonal.mean()))
    more[-1] = 0
    return inputs + more.clamp(min=1e-12).diag()
