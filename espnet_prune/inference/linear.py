"""A linear layer prepared for inference in one precision."""

import torch
import torch.nn.functional as F
from torch import Tensor


class Linear:
    """``x @ weight.T + bias`` with weights held in one data type.

    Args:
        weight: (out, in).
        bias: (out,), or None.
        dtype: None for that of the weight.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype | None = None
    ):
        self.weight = weight.detach().to(dtype)
        self.bias = None if bias is None else bias.detach().to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., in) of any data type -> (..., out) in that of the weights."""
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)
