"""The convolution module at inference: no transposes, BatchNorm folded."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from espnet_prune.serving.fast.activation import activation_of
from espnet_prune.serving.fast.conv2d import Conv2d
from espnet_prune.serving.fast.linear import linear
from espnet_prune.serving.fast.precision import data_type
from espnet_prune.serving.fast.widths import fill, widened


class FastConvolution:
    """Same function as ESPnet's layer, in eval mode.

    The pointwise convolutions are linear layers on (batch, time, channel). That is also
    the layout of a two-dimensional convolution over (1, time) in channels-last format,
    so the depthwise one needs no copy either.
    """

    def __init__(self, layer: nn.Module, precision: str = "fp32"):
        first, last = layer.pointwise_conv1, layer.pointwise_conv2
        channels = widened(layer.depthwise_conv.out_channels, precision)

        def both(x: Tensor) -> Tensor:  # halves that GLU multiplies
            return fill(x.unflatten(0, (2, -1)), 1, channels).flatten(0, 1)

        weight = first.weight.squeeze(2)
        self.first = linear(both(weight), both(first.bias), precision)
        weight = fill(last.weight.squeeze(2), 1, channels)
        self.last = linear(weight, last.bias, precision)
        norm, depthwise = layer.norm, layer.depthwise_conv
        filters, bias = fuse_conv_bn_weights(
            depthwise.weight,
            depthwise.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        self.depthwise = Conv2d(
            fill(filters.unsqueeze(2), 0, channels),
            fill(bias, 0, channels),
            data_type(precision),
            (1, 250),
            padding=(0, filters.shape[2] // 2),
            groups=channels,
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
