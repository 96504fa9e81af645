"""Layer norm over those channels alone whose gates are open."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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
    kept = dims.detach() > 0
    return _open(x, kept, norm.weight * dims, norm.bias * dims, norm.eps)


def open_norm(norm: nn.LayerNorm, x: Tensor, kept: Tensor) -> Tensor:
    """What the norm of the compact layer will be, for the channels that are kept.

    Args:
        norm: of all channels.
        x: (..., channel).
        kept: bool (channel,) whether a channel is open.

    Returns:
        (..., channel); where a channel is closed something bounded, of use to the
        gradient of its gate only.
    """
    return _open(x, kept, norm.weight, norm.bias, norm.eps)


def _open(x: Tensor, kept: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        # If all are closed the output is closed, too; it must only be finite.
        share = (kept | ~kept.any()).to(x.dtype)
        return _OpenNorm.apply(x, share / share.sum(), weight, bias, eps)


class _OpenNorm(torch.autograd.Function):
    """Norm by weighted mean and variance; written out, for autograd takes twice as many
    passes over the activations. What comes back to a closed channel's output must be 0,
    as it is where the gate follows."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, share: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> Tensor:
        normed = x - (x @ share)[..., None]
        scale = torch.rsqrt(normed.square() @ share + eps)[..., None]
        # No open channel can exceed it. Closed ones can, without any bound where few
        # are open: they would become infinite, or their gates' gradients huge.
        bound = math.sqrt(len(share))
        normed.mul_(scale).clamp_(-bound, bound)
        ctx.save_for_backward(normed, scale, share, weight)
        return torch.addcmul(bias, normed, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        normed, scale, share, weight = ctx.saved_tensors
        to_bias = grad.reshape(-1, grad.shape[-1]).sum(0)
        by_channel = grad * normed
        to_weight = by_channel.reshape(-1, grad.shape[-1]).sum(0)
        direct = grad * weight
        mean = direct.sum(-1, keepdim=True)
        slope = (by_channel @ weight)[..., None]
        shared = torch.addcmul(mean, normed, slope).mul_(share)
        return (direct - shared).mul_(scale), None, to_weight, to_bias, None
