"""The convolution module at inference: no transposes, BatchNorm folded."""

import torch.nn.functional as F
from torch import Tensor

from espnet_prune.inference.activation import activation_of
from espnet_prune.inference.conv2d import Conv2d
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
        norm, depthwise = layer.norm, layer.depthwise_conv
        slope = norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
        filters = depthwise.weight.detach() * slope[:, None, None]
        bias = (
            depthwise.bias.detach() - norm.running_mean
        ) * slope + norm.bias.detach()
        self.depthwise = Conv2d(
            filters.unsqueeze(2),
            bias,
            data_type(precision),
            padding=(0, filters.shape[2] // 2),
            groups=len(bias),
            activation=activation_of(layer.activation),
        )

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
        x = x.transpose(1, 2).unsqueeze(2)  # (batch, channel, 1, time), not moved
        return self.last(self.depthwise(x).squeeze(2).transpose(1, 2))
