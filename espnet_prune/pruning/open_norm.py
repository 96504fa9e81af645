"""Layer norm that a gated student puts where channels, or the norm itself, may go.

The compact model's norm sees only the channels that are left. So must the gated one, or
the two would not compute the same. ``torch.func.functional_call`` tells it by its
buffers which channels are open, and whether the norm is there at all.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class OpenNorm(nn.LayerNorm):
    """The norm over those channels alone that are open.

    Its parameters, and their names, are those of the norm that it stands for; with all
    channels open it is the same function.

    Args:
        norm: whose place it takes, of a single dimension.
        narrow: whether channels may go; torch's own norm is computed otherwise.
        can_go: whether the norm may be absent, and the identity on open channels then.

    Attributes:
        open: (channel,) 1 where a channel is open, else 0.
        present: (1,) 1 where the norm is there, 0 where it is gone.
    """

    def __init__(self, norm: nn.LayerNorm, narrow: bool = True, can_go: bool = False):
        super().__init__(norm.normalized_shape, eps=norm.eps)
        self.weight, self.bias = norm.weight, norm.bias
        self.narrow, self.can_go = narrow, can_go
        options = {"dtype": norm.weight.dtype, "device": norm.weight.device}
        self.register_buffer(
            "open", torch.ones(norm.normalized_shape, **options), persistent=False
        )
        self.register_buffer("present", torch.ones(1, **options), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (..., channel); the result is 0 where weight and bias are."""
        if self.narrow:
            normed = open_norm(x, self.open, self.weight, self.bias, self.eps)
            x = x * self.open
        else:
            normed = super().forward(x)
        if not self.can_go:
            return normed
        return torch.lerp(x.to(normed.dtype), normed, self.present.to(normed.dtype))


def open_norm(
    x: Tensor, is_open: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Compute the norm of the compact layer to be, for the channels that are open.

    Args:
        x: (..., channel).
        is_open: (channel,) 1 or 0.
        weight, bias: (channel,), gates included.
        eps: added to the variance.

    Returns:
        (..., channel); where a channel is closed something bounded, of use to the
        gradient of its gate only.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        share = is_open.to(x.dtype)
        # If all are closed the output is closed, too; it must only be finite.
        share = torch.where(share.any(), share, torch.ones_like(share))
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
