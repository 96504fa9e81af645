"""Two-dimensional convolutions, channels last, prepared for inference."""

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_prune.serving.fast.activation import IDENTITY, Activation
from espnet_prune.serving.fast.arranged import Arranged
from espnet_prune.serving.fast.precision import int8_levels, packs


class Conv2d(Arranged):
    """A convolution and its activation.

    On a CPU oneDNN arranges the filters once, instead of at every call, and applies the
    activation while it writes its output.

    Args:
        weight: (out, in / groups, height, width).
        bias: (out,).
        dtype: in which it is held and computed; None for that of the weight.
        typical: height and width of an input; of none in mind, oneDNN arranges the
            filters of some numbers of channels for kernels that are five times slower.
        stride, padding, groups: as for ``torch.nn.functional.conv2d``.
        activation: of its output.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        dtype: torch.dtype | None,
        typical: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        groups: int = 1,
        activation: Activation = IDENTITY,
    ):
        self.bias = bias.detach().to(dtype)
        self.dtype, self.activation = self.bias.dtype, activation
        self.options = list(padding), list(stride), [1, 1], groups
        self.typical = [1, groups * weight.shape[1], *typical]
        self.weight = weight.detach().to(self.dtype, memory_format=torch.channels_last)
        self.packed = packs(self.dtype, weight.device)
        self._arrange()

    def _arrange(self) -> None:
        if self.packed:
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            self.weight = reorder(self.weight, *self.options, self.typical)

    def __call__(self, x: Tensor) -> Tensor:
        """(batch, in, height, width) -> (batch, out, height, width), channels last."""
        x = x.to(self.dtype)
        padding, stride, dilation, groups = self.options
        if not self.packed:
            x = F.conv2d(x, self.weight, self.bias, stride, padding, dilation, groups)
            return self.activation.function(x)
        fused = self.activation.fused
        x = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.options, fused, [], ""
        )
        return x if fused != "none" else self.activation.function(x)


class Int8Conv2d(Arranged):
    """A convolution of what is not negative, as a ReLU leaves it, and another ReLU.

    Weights are symmetric with a scale for each output channel, the input has one scale
    a call; products are summed in int32, by oneDNN, which writes float32.

    Args:
        weight: (out, in, height, width).
        bias: (out,).
        typical: height and width of an input.
        stride: as for ``torch.nn.functional.conv2d``.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        typical: tuple[int, int],
        stride: tuple[int, int],
    ):
        weight = weight.detach().float()
        self.bias = bias.detach().float()
        self.scale = weight.abs().amax((1, 2, 3)).clamp(min=1e-8) / 127
        self.zero = torch.zeros(len(bias), dtype=torch.long)
        quantized = torch.quantize_per_channel(
            weight, self.scale, self.zero, 0, torch.qint8
        )
        self.weight = quantized.int_repr()
        self.levels = int8_levels()
        self.options = list(stride), [0, 0], [1, 1], 1
        self.typical = [1, weight.shape[1], *typical]
        self._arrange()

    def _arrange(self) -> None:
        self.weight = torch.ops.onednn.qconv_prepack(
            self.weight, self.scale, 1.0, 0, *self.options, self.typical
        )

    def __call__(self, x: Tensor) -> Tensor:
        """(batch, in, height, width) -> (batch, out, height, width), channels last."""
        x = x.permute(0, 2, 3, 1).float()  # as it lies: else the maximum is slow
        largest = float(x.amax()) if x.numel() else 0.0
        scale = max(largest, 1e-8) / self.levels
        x = torch.quantize_per_tensor(x, scale, 0, torch.quint8).int_repr()
        return torch.ops.onednn.qconv2d_pointwise(
            *(x.permute(0, 3, 1, 2), scale, 0, self.weight, self.scale, self.zero),
            *(self.bias, *self.options, 1.0, 0, torch.float32, "relu", [], ""),
        )
