"""The convolutional subsampling at inference: channels last, in cache-sized pieces."""

import math

import torch
from torch import Tensor, nn

from espnet_prune.families.espnet.parts import halved
from espnet_prune.serving.fast.activation import RELU
from espnet_prune.serving.fast.conv2d import Conv2d, Int8Conv2d
from espnet_prune.serving.fast.linear import linear
from espnet_prune.serving.fast.precision import data_type, has_int8_convolutions
from espnet_prune.serving.fast.widths import fill, widened

# Output of the first convolution that is worked on at a time on a CPU, in bytes.
PIECE = 3 << 20


class FastSubsampling:
    """Same function as ESPnet's ``Conv2dSubsampling``, in eval mode.

    The columns of the linear layer are in the order in which channels-last convolutions
    leave their channels, and hold the scale of the positional encoding.
    """

    def __init__(self, layer: nn.Module, features: int, precision: str = "fp32"):
        first, second, out = layer.conv[0], layer.conv[2], layer.out[0]
        bands = halved(halved(features))
        # Of a single band, oneDNN's kernels for AMX make noise (torch's own, too).
        in_fp32 = bands == 1
        dtype = None if in_fp32 else data_type(precision)

        inner, outer = (widened(len(c.bias), precision) for c in (first, second))

        typical, stride = (100, halved(features)), (2, 2)  # of the second

        def convolution(weight: Tensor, bias: Tensor) -> Conv2d:
            return Conv2d(weight, bias, dtype, typical, stride, activation=RELU)

        # Nine products an output: quantizing them costs more than it saves.
        self.first = convolution(
            fill(first.weight, 0, inner), fill(first.bias, 0, inner)
        )
        weight = fill(fill(second.weight, 0, outer), 1, inner)
        bias = fill(second.bias, 0, outer)
        if precision == "int8" and has_int8_convolutions() and not in_fp32:
            self.second = Int8Conv2d(weight, bias, typical, stride)
        else:
            self.second = convolution(weight, bias)
        scale = layer.out[1].xscale
        columns = out.weight.unflatten(1, (len(second.bias), -1)).transpose(1, 2)
        columns = fill(columns, 2, outer)
        self.out = linear(columns.flatten(1) * scale, out.bias * scale, precision)

    def __call__(self, x: Tensor) -> Tensor:
        """(batch, frame, feature) -> (batch, time, channel)."""
        batch, frames, features = x.shape
        time = halved(halved(frames))
        step = time
        if x.device.type == "cpu":
            row = max(1, batch) * halved(features) * self.first.bias.nbytes
            step = max(1, math.ceil(PIECE / row) // 2)
        pieces = [
            self._convolve(x[:, 4 * start : 4 * min(start + step, time) + 3])
            for start in range(0, time, step)
        ]
        return self.out(torch.cat(pieces, 1) if len(pieces) > 1 else pieces[0])

    def _convolve(self, x: Tensor) -> Tensor:
        """(batch, frame, feature) -> (batch, time, band * channel)."""
        x = self.second(self.first(x.unsqueeze(1)))
        return x.permute(0, 2, 3, 1).flatten(2)
