"""Conformer convolution module whose channels can be pruned."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_prune.families.espnet.layers.cost import Cost, Counts, Number, Prices
from espnet_prune.pruning.gates import Gate, GateOptions


class Convolution(nn.Module):
    """Pointwise, GLU, depthwise, BatchNorm, activation, pointwise.

    As in ESPnet it takes no padding mask: padded frames reach the depthwise
    convolution and the BatchNorm statistics.

    Args:
        size: model dimension (channels in and out).
        channels: channels inside the module.
        kernel_size: odd width of the depthwise convolution, in frames.
        activation: nonlinearity module.
        gates: None for the dense and the compact life.
    """

    READS = ("pointwise_conv1.weight",)
    WRITES = ("pointwise_conv2.weight", "pointwise_conv2.bias")

    def __init__(
        self,
        size: int,
        channels: int,
        kernel_size: int,
        activation: nn.Module,
        gates: GateOptions | None = None,
    ):
        super().__init__()
        self.pointwise_conv1 = nn.Conv1d(size, 2 * channels, 1)
        self.depthwise_conv = nn.Conv1d(
            channels,
            channels,
            kernel_size,
            padding=(kernel_size - 1) // 2,
            groups=channels,
        )
        self.norm = nn.BatchNorm1d(channels)
        self.pointwise_conv2 = nn.Conv1d(channels, size, 1)
        self.activation = activation
        self.unit_gate = gates.build(channels) if gates else None
        self.module_gate = gates.build(1) if gates else None

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, channel) -> (batch, time, channel)."""
        x = F.glu(self.pointwise_conv1(x.transpose(1, 2)), dim=1)
        x = self.activation(self.norm(self.depthwise_conv(x)))
        return F.conv1d(x, *self._gated_output()).transpose(1, 2)

    def _gated_output(self) -> tuple[Tensor, Tensor]:
        # The gate sits after norm and activation: before them, the depthwise bias
        # and the BatchNorm shift would turn a zeroed channel into a constant.
        weight, bias = self.pointwise_conv2.weight, self.pointwise_conv2.bias
        if self.unit_gate is None:
            return weight, bias
        present = self.module_gate()
        return weight * (self.unit_gate() * present)[:, None], bias * present

    @staticmethod
    def counts(channels: Number, present: Number) -> Counts:
        """What there is of it, by name; ``present`` is 1 if it exists."""
        return {"convolution.module": present, "convolution.channel": channels}

    @staticmethod
    def prices(size: int, kernel_size: int, frames: int) -> Prices:
        """Cost of each with its LayerNorm; ``frames`` are encoder frames."""
        return {
            "convolution.module": Cost(3 * size, 0),
            "convolution.channel": Cost(
                3 * size + kernel_size + 5, frames * (3 * size + kernel_size)
            ),
        }

    def gated_counts(self, openness: Callable[[Gate], Tensor]) -> Counts:
        present = openness(self.module_gate).sum()
        return self.counts(present * openness(self.unit_gate).sum(), present)

    def kept(self) -> int:
        """Channels left by the masks; 0 means that the submodule is gone."""
        open_channels = int((self.unit_gate.mask != 0).sum())
        return open_channels if self.module_gate.mask.item() != 0 else 0

    def sliced_state(self) -> dict[str, Tensor]:
        """State dict of the compact layer, gate values folded into the last conv."""
        keep = self.unit_gate.mask.nonzero().squeeze(1)
        # GLU multiplies channel c with channel c + C: both rows go together.
        pair = torch.cat([keep, keep + len(self.unit_gate)])
        weight, bias = self._gated_output()
        state = {
            "pointwise_conv1.weight": self.pointwise_conv1.weight[pair],
            "pointwise_conv1.bias": self.pointwise_conv1.bias[pair],
            "depthwise_conv.weight": self.depthwise_conv.weight[keep],
            "depthwise_conv.bias": self.depthwise_conv.bias[keep],
            "pointwise_conv2.weight": weight[:, keep],
            "pointwise_conv2.bias": bias,
        }
        for name, value in self.norm.state_dict().items():
            state[f"norm.{name}"] = value[keep] if value.dim() else value
        return state
