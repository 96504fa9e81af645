"""Linear layers prepared for inference in one precision."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_prune.serving.fast.activation import IDENTITY, Activation
from espnet_prune.serving.fast.arranged import Arranged
from espnet_prune.serving.fast.precision import (
    data_type,
    int8_levels,
    packs,
    quantized_engine,
)


class Linear:
    """``activation(x @ weight.T + bias)`` with weights held in one data type.

    Args:
        weight: (out, in).
        bias: (out,).
        dtype: None for that of the weight.
        activation: of its output.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        dtype: torch.dtype | None = None,
        activation: Activation = IDENTITY,
    ):
        self.weight = weight.detach().to(dtype)
        self.bias = bias.detach().to(dtype)
        self.activation = activation

    def __call__(self, x: Tensor) -> Tensor:
        """(..., in) of any data type -> (..., out) in that of the weights."""
        x = F.linear(x.to(self.weight.dtype), self.weight, self.bias)
        return self.activation.function(x)


class PackedLinear(Arranged):
    """The same in bf16 on a CPU: weights arranged for oneDNN once, not at every call.

    In fp32 that brings nothing, and small products are slower.
    """

    def __init__(self, weight: Tensor, bias: Tensor, activation: Activation = IDENTITY):
        self.weight = weight.detach().bfloat16().contiguous()
        self.bias = bias.detach().bfloat16()
        self.activation = activation
        self._arrange()

    def _arrange(self) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., in) of any data type -> (..., out), bf16."""
        fused, (*shape, columns) = self.activation.fused, x.shape
        rows = math.prod(shape)
        x = x.bfloat16().reshape(rows, columns)
        if more := bucket(rows) - rows:
            x = F.pad(x, (0, 0, 0, more))
        x = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, fused, [], "")
        x = x[:rows].view(*shape, len(self.bias))
        return x if fused != "none" else self.activation.function(x)


def bucket(rows: int) -> int:
    """The number of rows to compute for so many, at most a sixteenth more above 512.

    oneDNN generates code for each size of a product that it sees (1 to 3 ms) and keeps
    that of the last 1024: a compact encoder, whose layers are all different, would not
    come to an end with utterances of ever new lengths.
    """
    step = max(32, 2 ** rows.bit_length() // 32)
    return -(-rows // step) * step


class Int8Linear:
    """The same with int8 weights, and inputs quantized as they come.

    Weights are symmetric with a scale for each output, inputs have one scale and zero
    point a call; products are summed in int32. Torch's own kernels: torchao's need a
    compiler at run time, and onnxruntime is another runtime.
    """

    def __init__(self, weight: Tensor, bias: Tensor, activation: Activation = IDENTITY):
        weight = weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=1e-8).double() / 127
        zero = torch.zeros(len(weight), dtype=torch.long)
        quantized = torch.quantize_per_channel(weight, scale, zero, 0, torch.qint8)
        self._arrange(quantized, bias.detach().float())
        self.reduce_range = int8_levels() < 255
        self.activation = activation

    def __call__(self, x: Tensor) -> Tensor:
        """(..., in) of any data type -> (..., out), float32."""
        *shape, columns = x.shape
        rows = x.float().reshape(math.prod(shape), columns)
        x = torch.ops.quantized.linear_dynamic(rows, self.packed, self.reduce_range)
        return self.activation.function(x.view(*shape, x.shape[1]))

    def _arrange(self, quantized: Tensor, bias: Tensor) -> None:
        engine = torch.backends.quantized.engine
        torch.backends.quantized.engine = quantized_engine()
        try:
            self.packed = torch.ops.quantized.linear_prepack(quantized, bias)
        finally:
            torch.backends.quantized.engine = engine

    def __getstate__(self) -> dict[str, Any]:
        # A copy by torch would be arranged for the engine of the moment.
        unpacked = torch.ops.quantized.linear_unpack(self.packed)
        return self.__dict__ | {"packed": unpacked}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._arrange(*self.packed)


def linear(
    weight: Tensor, bias: Tensor, precision: str, activation: Activation = IDENTITY
) -> Linear | PackedLinear | Int8Linear:
    """The layer for a precision.

    Args:
        weight: (out, in).
        bias: (out,).
        activation: of its output.
    """
    if precision == "int8":
        return Int8Linear(weight, bias, activation)
    dtype = data_type(precision)
    if dtype is torch.bfloat16 and packs(dtype, weight.device):
        return PackedLinear(weight, bias, activation)
    return Linear(weight, bias, dtype, activation)
