"""The feed-forward layer at inference."""

from torch import Tensor

from espnet_prune.inference.activation import activation_of
from espnet_prune.inference.linear import linear
from espnet_prune.inference.widths import fill, widened
from espnet_prune.layers.feed_forward import FeedForward


class FastFeedForward:
    """Same function as a :class:`FeedForward` without gates, in eval mode."""

    def __init__(self, layer: FeedForward, precision: str = "fp32"):
        activation = activation_of(layer.activation)
        w_1, w_2 = layer.w_1, layer.w_2
        units = widened(len(w_1.bias), precision)
        weight, bias = fill(w_1.weight, 0, units), fill(w_1.bias, 0, units)
        self.w_1 = linear(weight, bias, precision, activation)
        self.w_2 = linear(fill(w_2.weight, 1, units), w_2.bias, precision)

    def __call__(self, x: Tensor) -> Tensor:
        """(batch, time, channel) -> (batch, time, channel)."""
        return self.w_2(self.w_1(x))
