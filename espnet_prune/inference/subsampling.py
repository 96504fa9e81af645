"""The convolutional subsampling at inference: channels last, in cache-sized pieces."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_prune.inference.linear import Linear
from espnet_prune.layers.subsampling import Subsampling, halved

# Output of the first convolution that is worked on at a time on a CPU, in bytes.
PIECE = 3 << 20


class FastSubsampling:
    """Same function as a :class:`Subsampling` without gates, in eval mode.

    The first convolution has one input channel and is a product with its patches; the
    columns of the linear layer are in the order in which the second one leaves its
    channels, and hold the scale that the positional encoding multiplies with.
    """

    def __init__(self, layer: Subsampling, dtype: torch.dtype | None = None):
        first, second, linear = layer.conv[0], layer.conv[2], layer.out[0]
        self.first = Linear(first.weight.flatten(1), first.bias, dtype)
        self.filters = second.weight.detach().to(
            dtype, memory_format=torch.channels_last
        )
        self.bias = second.bias.detach().to(dtype)
        scale = layer.out[1].xscale
        columns = linear.weight.unflatten(1, (len(self.bias), -1)).transpose(1, 2)
        self.linear = Linear(columns.flatten(1) * scale, linear.bias * scale, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """(batch, frame, feature) -> (batch, time, channel)."""
        batch, frames, features = x.shape
        time = halved(halved(frames))
        step = time
        if x.device.type == "cpu":
            row = batch * halved(features) * len(self.first.weight)
            row *= self.first.weight.element_size()
            step = max(1, math.ceil(PIECE / row) // 2)
        pieces = [
            self._convolve(x[:, 4 * start : 4 * min(start + step, time) + 3])
            for start in range(0, time, step)
        ]
        return self.linear(torch.cat(pieces, 1) if len(pieces) > 1 else pieces[0])

    def _convolve(self, x: Tensor) -> Tensor:
        """(batch, frame, feature) -> (batch, time, band * channel)."""
        patches = x.unfold(1, 3, 2).unfold(2, 3, 2).flatten(3)
        x = F.relu_(self.first(patches)).permute(0, 3, 1, 2)
        x = F.relu_(F.conv2d(x, self.filters, self.bias, stride=2))
        return x.permute(0, 2, 3, 1).flatten(2)
