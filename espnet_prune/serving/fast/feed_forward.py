"""The feed-forward layer at inference."""

from torch import Tensor, nn

from espnet_prune.serving.fast.activation import activation_of
from espnet_prune.serving.fast.linear import linear
from espnet_prune.serving.fast.widths import fill, widened


class FastFeedForward:
    """Same function as ESPnet's layer, in eval mode."""

    def __init__(self, layer: nn.Module, precision: str = "fp32"):
        activation = activation_of(layer.activation)
        w_1, w_2 = layer.w_1, layer.w_2
        units = widened(len(w_1.bias), precision)
        weight, bias = fill(w_1.weight, 0, units), fill(w_1.bias, 0, units)
        self.w_1 = linear(weight, bias, precision, activation)
        self.w_2 = linear(fill(w_2.weight, 1, units), w_2.bias, precision)

    def __call__(self, x: Tensor) -> Tensor:
        """(batch, time, channel) -> (batch, time, channel)."""
        return self.w_2(self.w_1(x))
