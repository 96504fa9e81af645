"""Make of a linear layer two narrow ones, where that costs less.

The rank is of what the layer gives for what it hears (LiteASR: Kamahori et al. 2025,
arXiv 2502.20583), each direction of its output weighed by how much it matters.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from espnet_prune.pruning.moments import Moments
from espnet_prune.pruning.refit import root

LEAST = 1e-6  # of the mean weight of an output's directions: none is free


class LowRank(nn.Module):
    """The layer is a linear one of low rank: ``up(down(x))``.

    Args:
        layer: the linear layer, or convolution of width 1, that it stands for.
        rank: how wide it is in between.
    """

    def __init__(self, layer: nn.Linear | nn.Conv1d, rank: int):
        super().__init__()
        outputs, inputs = layer.weight.shape[:2]
        make: Any = nn.Linear
        if isinstance(layer, nn.Conv1d):
            make = partial(nn.Conv1d, kernel_size=1)
        to = {"dtype": layer.weight.dtype, "device": layer.weight.device}
        self.down = make(inputs, rank, bias=False, **to)
        self.up = make(rank, outputs, bias=layer.bias is not None, **to)

    def forward(self, x: Tensor) -> Tensor:
        """Compute what a linear layer, or a convolution of width 1, does."""
        return self.up(self.down(x))


def pays(rank: int, shape: tuple[int, int]) -> bool:
    """Tell whether two factors of a matrix of this shape cost less than it does."""
    return rank * sum(shape) < shape[0] * shape[1]


def spectrum(
    weight: Tensor, moments: Moments, bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the directions of a layer's output, the most important first.

    Args:
        weight: (output, input + 1), the bias last.
        moments: of the layer.
        bias: whether it has one, which can make up for the mean of what is lost.

    Returns:
        (direction,) the loss without each; (output, direction) the directions, and
        (direction, output) what measures how far an output goes in each.
    """
    inputs, mean = moments.inputs[:-1, :-1], moments.inputs[:-1, -1]
    if bias:
        inputs = inputs - torch.outer(mean, mean)
    weight = weight[:, :-1]
    return axes(weight @ inputs @ weight.T, moments.outputs)


def axes(square: Tensor, matter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the directions of some numbers, the most important first.

    Args:
        square: mean of y y^T over what they are, (number, number).
        matter: sum of g g^T over their gradients, (number, number).

    Returns:
        (direction,) the loss without each; (number, direction) the directions, and
        (direction, number) what measures how far the numbers go in each.
    """
    floor = matter.diagonal().mean().clamp(min=1e-30) * LEAST
    scale = root(matter + floor * torch.eye(len(matter), dtype=matter.dtype))
    losses, vectors = torch.linalg.eigh(scale @ square @ scale)
    losses, vectors = losses.flip(0).clamp(min=0), vectors.flip(1)
    return losses, torch.linalg.solve(scale, vectors), vectors.T @ scale


def truncated(weight: Tensor, moments: Moments, rank: int, bias: bool) -> Tensor:
    """Return a layer's weight and bias, (output, input + 1), at a lower rank."""
    _, directions, measures = spectrum(weight, moments, bias)
    found = weight.clone()
    found[:, :-1] = directions[:, :rank] @ (measures[:rank] @ weight[:, :-1])
    if bias:
        found[:, -1] += (weight - found)[:, :-1] @ moments.inputs[:-1, -1]
    return found


def factorised(
    tensors: Mapping[str, Tensor], ranks: Mapping[str, int]
) -> dict[str, Tensor]:
    """Replace weights of low rank by their factors, as :class:`LowRank` names them.

    Args:
        tensors: a state dict.
        ranks: of layers in it, by name.
    """
    found = dict(tensors)
    for name, rank in ranks.items():
        weight = found.pop(f"{name}.weight")
        left, values, right = torch.linalg.svd(
            weight.double().flatten(1), full_matrices=False
        )
        scale, more = values[:rank].sqrt(), weight.shape[2:]
        factors = {"down": scale[:, None] * right[:rank], "up": left[:, :rank] * scale}
        for part, factor in factors.items():
            factor = factor.reshape(*factor.shape, *more).to(weight.dtype)
            found[f"{name}.{part}.weight"] = factor.contiguous()
        if f"{name}.bias" in found:
            found[f"{name}.up.bias"] = found.pop(f"{name}.bias")
    return found
