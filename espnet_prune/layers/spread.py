"""From the channels of a compact encoder to those that its model was trained with."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Spread(nn.Module):
    """Puts channels where they were in the dense model, and 0 where one is gone.

    What follows the encoder stays as it is, whatever has become of the model dimension.
    Without any channel gone it does nothing, and has nothing to load.

    Args:
        size: channels in.
        total: channels out.
    """

    def __init__(self, size: int, total: int):
        super().__init__()
        self.size = size
        source = torch.arange(total).clamp(max=size) if size < total else None
        self.register_buffer("source", source)

    @staticmethod
    def of(kept: Tensor) -> Tensor:
        """Its ``source`` for a mask of what is kept, bool (channel,): which channel in
        goes to each one out; the number of them all where it is none."""
        return torch.where(kept, kept.cumsum(0) - 1, kept.sum())

    def forward(self, x: Tensor) -> Tensor:
        """(..., channel in) -> (..., channel out)."""
        if self.source is None:
            return x
        return F.pad(x, (0, 1)).index_select(-1, self.source)
