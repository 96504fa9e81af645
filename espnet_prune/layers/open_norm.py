"""Layer norm over those channels alone whose gates are open."""

import math

import torch
from torch import Tensor, nn


def open_norm(norm: nn.LayerNorm, x: Tensor, kept: Tensor) -> Tensor:
    """What the norm of the compact layer will be, for the channels that are kept.

    Args:
        norm: of all channels.
        x: (..., channel).
        kept: (channel,) 1 where a channel is open, else 0.

    Returns:
        (..., channel), without a meaning where a channel is closed.
    """
    # If all are closed the output is closed, too; only the gradient must be finite.
    weight = torch.where(kept.any(), kept, torch.ones_like(kept))
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        weight = weight.to(x.dtype)
        weight = weight / weight.sum()
        x = x - (x @ weight)[..., None]
        variance = x.square() @ weight
        x = x * torch.rsqrt(variance + norm.eps)[..., None]
        # No open channel can exceed it. Closed ones can, without any bound where few
        # are open: they would become infinite, or their gates' gradients huge.
        bound = math.sqrt(len(weight))
        x = x.clamp(-bound, bound)
        return x * norm.weight + norm.bias


def gated_norm(norm: nn.LayerNorm, x: Tensor, dims: Tensor | None) -> Tensor:
    """The norm under the gates of the model dimension; 0 where they are closed.

    All that reads a channel between the layers reads it through a norm: what is written
    to one whose gate is closed is never seen.

    Args:
        norm: of a layer.
        x: (..., channel).
        dims: (channel,) values of the gates; None for a plain norm.
    """
    if dims is None:
        return norm(x)
    return open_norm(norm, x, (dims.detach() > 0).float()) * dims
