"""Activations that libraries fuse into the product before them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from espnet.nets.pytorch_backend.conformer.swish import Swish
from torch import Tensor, nn


@dataclass(frozen=True)
class Activation:
    """An activation, and what oneDNN calls it ("none" if it does not fuse it)."""

    function: Callable[[Tensor], Tensor]
    fused: str = "none"


def unchanged(x: Tensor) -> Tensor:
    return x


IDENTITY = Activation(unchanged)
RELU = Activation(F.relu_, "relu")


def activation_of(module: nn.Module) -> Activation:
    """That of a layer; ESPnet's Swish as one operation instead of two."""
    if isinstance(module, (Swish, nn.SiLU)):
        return Activation(F.silu, "swish")
    if isinstance(module, nn.ReLU):
        return RELU
    return Activation(module)
