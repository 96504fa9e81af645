"""Position-wise feed-forward layer whose hidden units can be pruned."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from espnet_prune.families.espnet.layers.cost import Cost, Counts, Number, Prices
from espnet_prune.pruning.gates import Gate, GateOptions

GROUP = "ffn"


class FeedForward(nn.Module):
    """``w_2(dropout(activation(w_1(x))))``.

    Args:
        size: model dimension (channels).
        units: hidden units.
        dropout_rate: dropout on the hidden units.
        activation: nonlinearity module.
        gates: None for the dense and the compact life.
        group: under which it is counted.
    """

    READS, WRITES = ("w_1.weight",), ("w_2.weight", "w_2.bias")

    def __init__(
        self,
        size: int,
        units: int,
        dropout_rate: float,
        activation: nn.Module,
        gates: GateOptions | None = None,
        group: str = GROUP,
    ):
        super().__init__()
        self.group = group
        self.w_1 = nn.Linear(size, units)
        self.w_2 = nn.Linear(units, size)
        self.dropout = nn.Dropout(dropout_rate)
        self.activation = activation
        self.unit_gate = gates.build(units) if gates else None
        self.module_gate = gates.build(1) if gates else None

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, channel) -> (batch, time, channel)."""
        x = self.dropout(self.activation(self.w_1(x)))
        if self.unit_gate is None:
            return self.w_2(x)
        return F.linear(x, *self._gated_output())

    def _gated_output(self) -> tuple[Tensor, Tensor]:
        # Gating the columns of w_2 equals gating the activations, and its cost does
        # not grow with the audio. The module gate also covers the bias.
        present = self.module_gate()
        columns = self.unit_gate() * present
        return self.w_2.weight * columns, self.w_2.bias * present

    @staticmethod
    def counts(units: Number, present: Number, group: str = GROUP) -> Counts:
        """What there is of it, by name; ``present`` is 1 if it exists."""
        return {f"{group}.module": present, f"{group}.unit": units}

    @staticmethod
    def prices(size: int, frames: int, group: str = GROUP) -> Prices:
        """Cost of each with its LayerNorm; ``frames`` are those it is run on."""
        return {
            f"{group}.module": Cost(3 * size, 0),
            f"{group}.unit": Cost(2 * size + 1, 2 * size * frames),
        }

    def gated_counts(self, openness: Callable[[Gate], Tensor]) -> Counts:
        present = openness(self.module_gate).sum()
        return self.counts(
            present * openness(self.unit_gate).sum(), present, self.group
        )

    def kept(self) -> int:
        """Hidden units left by the masks; 0 means that the submodule is gone."""
        open_units = int((self.unit_gate.mask != 0).sum())
        return open_units if self.module_gate.mask.item() != 0 else 0

    def sliced_state(self) -> dict[str, Tensor]:
        """State dict of the compact layer, gate values folded into ``w_2``."""
        keep = self.unit_gate.mask.nonzero().squeeze(1)
        weight, bias = self._gated_output()
        return {
            "w_1.weight": self.w_1.weight[keep],
            "w_1.bias": self.w_1.bias[keep],
            "w_2.weight": weight[:, keep],
            "w_2.bias": bias,
        }
