"""From the channels of a compact encoder to those that its model was trained with."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Spread(nn.Module):
    """Puts channels where they were in the dense model, and 0 where one is gone.

    What follows the encoder stays as it is, whatever has become of the model dimension.

    Args:
        dims: where each channel in goes, rising; None for all as they are.
        total: channels out.

    Raises:
        ValueError: there are not as many channels.
    """

    def __init__(self, dims: Sequence[int] | None, total: int):
        super().__init__()
        source = None
        if dims is not None:
            if dims[-1] >= total:
                raise ValueError(
                    f"encoder_conf.architecture: dims go up to {dims[-1]}, the dense "
                    f"model has {total} channels"
                )
            source = torch.full((total,), len(dims))
            source[list(dims)] = torch.arange(len(dims))
        # Not in the state dict: ESPnet's average of several epochs adds integers up.
        self.register_buffer("source", source, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., channel in) -> (..., channel out)."""
        if self.source is None:
            return x
        return F.pad(x, (0, 1)).index_select(-1, self.source)
