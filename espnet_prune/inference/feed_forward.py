"""The feed-forward layer at inference."""

import torch
from torch import Tensor

from espnet_prune.inference.linear import Linear
from espnet_prune.layers.feed_forward import FeedForward


class FastFeedForward:
    """Same function as a :class:`FeedForward` without gates, in eval mode."""

    def __init__(self, layer: FeedForward, dtype: torch.dtype | None = None):
        self.w_1 = Linear(layer.w_1.weight, layer.w_1.bias, dtype)
        self.w_2 = Linear(layer.w_2.weight, layer.w_2.bias, dtype)
        self.activation = layer.activation

    def __call__(self, x: Tensor) -> Tensor:
        """(batch, time, channel) -> (batch, time, channel)."""
        return self.w_2(self.activation(self.w_1(x)))
