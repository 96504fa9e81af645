"""The convolution module at inference: no transposes, BatchNorm folded."""

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_prune.inference.linear import linear
from espnet_prune.inference.precision import data_type
from espnet_prune.layers.convolution import Convolution


class FastConvolution:
    """Same function as a :class:`Convolution` without gates, in eval mode.

    The pointwise convolutions are linear layers on (batch, time, channel). That is also
    the layout of a two-dimensional convolution over (1, time) in channels-last format,
    so the depthwise one needs no copy either.
    """

    def __init__(self, layer: Convolution, precision: str = "fp32"):
        first, last = layer.pointwise_conv1, layer.pointwise_conv2
        self.first = linear(first.weight.squeeze(2), first.bias, precision)
        self.last = linear(last.weight.squeeze(2), last.bias, precision)
        self.activation = layer.activation
        dtype = data_type(precision)
        norm, depthwise = layer.norm, layer.depthwise_conv
        slope = norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
        filters = depthwise.weight.detach() * slope[:, None, None]
        bias = (
            depthwise.bias.detach() - norm.running_mean
        ) * slope + norm.bias.detach()
        self.filters = filters.unsqueeze(2).to(dtype, memory_format=torch.channels_last)
        self.bias = bias.to(dtype)

    def __call__(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """(batch, time, channel) -> (batch, time, channel).

        Args:
            x: the input.
            real: (batch, time, 1), 0 at padded frames, which then reach no other; None
                lets them, as ESPnet does.
        """
        x = F.glu(self.first(x), dim=-1)
        if real is not None:
            x = x * real
        channels, padding = len(self.bias), self.filters.shape[3] // 2
        x = x.transpose(1, 2).unsqueeze(2)  # (batch, channel, 1, time), not moved
        x = F.conv2d(x, self.filters, self.bias, padding=(0, padding), groups=channels)
        return self.last(self.activation(x).squeeze(2).transpose(1, 2))
