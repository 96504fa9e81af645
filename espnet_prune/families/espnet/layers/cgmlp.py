"""Convolutional gating MLP whose units and output channels can be pruned.

Sakuma et al. 2022, "MLP-based architecture with variable length input for automatic
speech recognition", in the form of ESPnet's ``ConvolutionalGatingMLP``. (Its gating is
part of the function; the gates that prune are another matter.)
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_prune.families.espnet.layers import outputs
from espnet_prune.families.espnet.layers.cost import Cost, Counts, Prices
from espnet_prune.families.espnet.layers.open_norm import open_norm
from espnet_prune.families.espnet.layers.residual import layer_norm
from espnet_prune.pruning.gates import Gate, GateOptions

GROUP = "cgmlp"


class SpatialGating(nn.Module):
    """One half of the channels times what a norm and a convolution make of the other.

    Args:
        units: channels of each half.
        kernel_size: odd width of the depthwise convolution, in frames.
        dropout_rate: dropout on the product.
        activation: nonlinearity module of the second half.
    """

    def __init__(
        self, units: int, kernel_size: int, dropout_rate: float, activation: nn.Module
    ):
        super().__init__()
        self.norm = layer_norm(units)
        padding = (kernel_size - 1) // 2
        self.conv = nn.Conv1d(units, units, kernel_size, padding=padding, groups=units)
        self.act = activation
        self.dropout = nn.Dropout(dropout_rate)

    def espnet_initialization_fn(self) -> None:
        """ESPnet's start of a training from scratch: the second half is 1."""
        nn.init.normal_(self.conv.weight, std=1e-6)
        nn.init.ones_(self.conv.bias)

    def forward(self, x: Tensor, kept: Tensor | None) -> Tensor:
        """(batch, time, 2 * unit) -> (batch, time, unit).

        Args:
            x: both halves.
            kept: bool (unit,) whether a unit is open; None: all are.
        """
        x, other = x.chunk(2, -1)
        other = self.norm(other) if kept is None else open_norm(self.norm, other, kept)
        other = self.conv(other.transpose(1, 2)).transpose(1, 2)
        return self.dropout(x * self.act(other))


class ConvolutionalGatingMLP(nn.Module):
    """Linear, GELU, :class:`SpatialGating`, linear.

    A unit is a pair of channels, one of each half.

    Args:
        size: model dimension (channels in).
        units: pairs of channels inside.
        out_channels: channels out.
        kernel_size: odd width of the depthwise convolution, in frames.
        dropout_rate: dropout inside.
        activation: nonlinearity module of the gating half.
        gates: None for the dense and the compact life.
    """

    def __init__(
        self,
        size: int,
        units: int,
        out_channels: int,
        kernel_size: int,
        dropout_rate: float,
        activation: nn.Module,
        gates: GateOptions | None = None,
    ):
        super().__init__()
        self.channel_proj1 = nn.Sequential(nn.Linear(size, 2 * units), nn.GELU())
        self.csgu = SpatialGating(units, kernel_size, dropout_rate, activation)
        self.channel_proj2 = nn.Linear(units, out_channels)
        self.unit_gate = gates.build(units) if gates else None
        self.out_gate = gates.build(out_channels) if gates else None
        self.module_gate = gates.build(1) if gates else None

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, channel) -> (batch, time, channel out)."""
        x = self.channel_proj1(x)
        if self.unit_gate is None:
            return self.channel_proj2(self.csgu(x, None))
        # Sampled once: the norm must see the same units as the product.
        units = self.unit_gate()
        x = self.csgu(x, units.detach() > 0)
        return F.linear(x, *self._gated_output(units))

    def _gated_output(self, units: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.out_gate() * self.module_gate()
        weight = self.channel_proj2.weight * units * rows[:, None]
        return weight, self.channel_proj2.bias * rows

    @staticmethod
    def counts(units: int, channels: int) -> Counts:
        """What there is of it, by name: units inside, channels out."""
        found = {f"{GROUP}.module": int(units > 0), f"{GROUP}.unit": units}
        return found | outputs.counts(units * channels, channels, GROUP)

    @staticmethod
    def prices(size: int, kernel_size: int, frames: int, merging: Cost) -> Prices:
        """Cost of each with its LayerNorm.

        Args:
            size: model dimension.
            kernel_size: of the depthwise convolution.
            frames: of the encoder.
            merging: cost of an output channel where it goes on.
        """
        return {
            f"{GROUP}.module": Cost(2 * size, 0),
            f"{GROUP}.unit": Cost(
                2 * size + kernel_size + 5, frames * (2 * size + kernel_size)
            ),
            **outputs.prices(merging, frames, GROUP),
        }

    def gated_counts(self, openness: Callable[[Gate], Tensor]) -> Counts:
        present = openness(self.module_gate).sum()
        units = present * openness(self.unit_gate).sum()
        channels = openness(self.out_gate).sum()
        found = {f"{GROUP}.module": present, f"{GROUP}.unit": units}
        return found | outputs.counts(units * channels, present * channels, GROUP)

    def kept(self) -> int:
        """Units left by the masks; 0 means that the submodule is gone."""
        present = self.module_gate.mask.item() != 0 and self.out_gate.mask.any()
        return int((self.unit_gate.mask != 0).sum()) if present else 0

    def sliced_state(self) -> dict[str, Tensor]:
        """State dict of the compact layer, gate values folded into the last product."""
        keep = self.unit_gate.mask.nonzero().squeeze(1)
        channels = outputs.kept_channels(self)
        pair = torch.cat([keep, keep + len(self.unit_gate)])
        weight, bias = self._gated_output(self.unit_gate())
        return {
            "channel_proj1.0.weight": self.channel_proj1[0].weight[pair],
            "channel_proj1.0.bias": self.channel_proj1[0].bias[pair],
            "csgu.norm.weight": self.csgu.norm.weight[keep],
            "csgu.norm.bias": self.csgu.norm.bias[keep],
            "csgu.conv.weight": self.csgu.conv.weight[keep],
            "csgu.conv.bias": self.csgu.conv.bias[keep],
            "channel_proj2.weight": weight[channels][:, keep],
            "channel_proj2.bias": bias[channels],
        }
