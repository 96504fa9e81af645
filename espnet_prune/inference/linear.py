"""Linear layers prepared for inference in one precision."""

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_prune.inference.precision import data_type, quantized_engine


class Linear:
    """``x @ weight.T + bias`` with weights held in one data type.

    Args:
        weight: (out, in).
        bias: (out,).
        dtype: None for that of the weight.
    """

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype | None = None):
        self.weight = weight.detach().to(dtype)
        self.bias = bias.detach().to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., in) of any data type -> (..., out) in that of the weights."""
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


class Int8Linear:
    """The same with int8 weights, and inputs quantized as they come.

    Weights are symmetric with a scale for each output, inputs have one scale and zero
    point a call; products are summed in int32. Torch's own kernels: torchao's need a
    compiler at run time, and onnxruntime is another runtime.
    """

    def __init__(self, weight: Tensor, bias: Tensor):
        weight = weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=1e-8).double() / 127
        zero = torch.zeros(len(weight), dtype=torch.long)
        quantized = torch.quantize_per_channel(weight, scale, zero, 0, torch.qint8)
        engine = torch.backends.quantized.engine
        torch.backends.quantized.engine = quantized_engine()
        try:
            self.packed = torch.ops.quantized.linear_prepack(
                quantized, bias.detach().float()
            )
        finally:
            torch.backends.quantized.engine = engine
        # Without VNNI the kernels add pairs in 16 bits, which 8-bit inputs overflow.
        self.reduce_range = not torch.cpu._is_vnni_supported()

    def __call__(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), float32."""
        return torch.ops.quantized.linear_dynamic(x, self.packed, self.reduce_range)


def linear(weight: Tensor, bias: Tensor, precision: str) -> Linear | Int8Linear:
    """The layer for a precision.

    Args:
        weight: (out, in).
        bias: (out,).
    """
    if precision == "int8":
        return Int8Linear(weight, bias)
    return Linear(weight, bias, data_type(precision))
