"""Zero units that make the widths of a compact layer multiples of the hardware's."""

import torch.nn.functional as F
from torch import Tensor

# Blocks of oneDNN's products in lower precision; in fp32 zeros cost what they save.
MULTIPLE = {"bf16": 16, "int8": 16}


def widened(size: int, precision: str) -> int:
    """The width that computes fastest, at least ``size``."""
    multiple = MULTIPLE.get(precision, 1)
    return -(-size // multiple) * multiple


def fill(x: Tensor, dim: int, size: int) -> Tensor:
    """``x`` with zeros behind it along ``dim``, up to ``size``."""
    x = x.detach()
    missing = size - x.shape[dim]
    return F.pad(x, (0, 0) * (x.dim() - 1 - dim) + (0, missing)) if missing else x
