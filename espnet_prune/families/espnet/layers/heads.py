"""What all prunable attention shares: projections, gates, counts and slicing.

Gates sit on the whole submodule, on each head and, fine-grained (Wang et al. 2023,
arXiv 2306.01385), on the query/key and on the value dimensions inside each head.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_prune.families.espnet.layers import outputs
from espnet_prune.families.espnet.layers.cost import Counts, Number
from espnet_prune.pruning.gates import Gate, GateOptions


class PrunableHeads(nn.Module):
    """Query, key, value and output projections of attention with explicit sizes.

    Args:
        size: model dimension (channels).
        heads: number of heads.
        qk_dim: query/key dimensions of a head.
        v_dim: value dimensions of a head.
        scale_dim: the softmax scale is 1 / sqrt(scale_dim): always that of the dense
            model's head, however many dimensions are left.
        dropout_rate: dropout on the attention weights.
        group: under which it is counted.
        gates: None for the dense and the compact life.
        out_channels: channels that it gives, each with a gate of its own; None: those
            of the model, which always stay.
    """

    READS = ("linear_q.weight", "linear_k.weight", "linear_v.weight")
    WRITES = ("linear_out.weight", "linear_out.bias")

    def __init__(
        self,
        size: int,
        heads: int,
        qk_dim: int,
        v_dim: int,
        scale_dim: int,
        dropout_rate: float,
        group: str,
        gates: GateOptions | None = None,
        out_channels: int | None = None,
    ):
        super().__init__()
        self.heads, self.qk_dim, self.v_dim, self.group = heads, qk_dim, v_dim, group
        self.scale = 1 / math.sqrt(scale_dim)
        self.linear_q = nn.Linear(size, heads * qk_dim)
        self.linear_k = nn.Linear(size, heads * qk_dim)
        self.linear_v = nn.Linear(size, heads * v_dim)
        channels = size if out_channels is None else out_channels
        self.linear_out = nn.Linear(heads * v_dim, channels)
        self.dropout = nn.Dropout(dropout_rate)
        fine = gates is not None and gates.fine_heads
        self.module_gate = gates.build(1) if gates else None
        self.head_gate = gates.build(heads) if gates else None
        self.qk_gate = gates.build(heads * qk_dim) if fine else None
        self.v_gate = gates.build(heads * v_dim) if fine else None
        gated_out = gates is not None and out_channels is not None
        self.out_gate = gates.build(channels) if gated_out else None

    def _attend(self, scores: Tensor, values: Tensor, hidden: Tensor | None) -> Tensor:
        """Weigh the values, and project them back.

        Args:
            scores: (batch, head, query, key).
            values: (batch, key, head * dimension).
            hidden: True where a key must not be looked at, as (batch, 1, query or 1,
                key); a query without any key gives 0, not a mean.

        Returns:
            (batch, query, channel).
        """
        if hidden is not None:
            scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        if hidden is not None:
            weights = weights.masked_fill(hidden, 0.0)
        values = values.unflatten(2, (self.heads, self.v_dim)).transpose(1, 2)
        context = (self.dropout(weights) @ values).transpose(1, 2).flatten(2)
        # Without gates through the module itself: int8 conversion replaces it.
        if self.head_gate is None:
            return self.linear_out(context)
        return F.linear(context, *self._gated_output())

    def _gated_output(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the output projection, under the gates.

        Gating its columns equals gating the values, and does not grow with the audio.
        """
        present = self.module_gate()
        columns = (self.head_gate() * present).repeat_interleave(self.v_dim)
        if self.v_gate is not None:
            columns = columns * self.v_gate()
        weight, bias = self.linear_out.weight * columns, self.linear_out.bias * present
        if self.out_gate is None:
            return weight, bias
        rows = self.out_gate()
        return weight * rows[:, None], bias * rows

    def gated_counts(self, openness: Callable[[Gate], Tensor]) -> Counts:
        """What there is under the gates.

        Dimensions are counted as if heads of different widths needed no padding; the
        projection makes the heads of a layer equally wide, so that none is needed.
        """
        present = openness(self.module_gate).sum()
        heads = present * openness(self.head_gate)

        def dims(gate: Gate | None, dim: int) -> Tensor:
            if gate is None:
                return heads.sum() * dim
            return (heads * openness(gate).view(self.heads, dim).sum(1)).sum()

        qk, v = dims(self.qk_gate, self.qk_dim), dims(self.v_gate, self.v_dim)
        found = counts(heads.sum(), qk, v, present, self.group)
        if self.out_gate is None:
            return found
        channels = openness(self.out_gate).sum()
        return found | outputs.counts(v * channels, present * channels, self.group)

    def _kept_dims(self) -> tuple[Tensor, Tensor]:
        """Which dimensions the masks leave, bool (head, dim): query/key, value."""
        shape = (self.heads, -1)
        qk = torch.ones(self.heads, self.qk_dim, dtype=torch.bool)
        v = torch.ones(self.heads, self.v_dim, dtype=torch.bool)
        if self.qk_gate is not None:
            qk = self.qk_gate.mask.cpu().view(shape) != 0
            v = self.v_gate.mask.cpu().view(shape) != 0
        open_heads = self.head_gate.mask.cpu() != 0
        present = self.module_gate.mask.cpu() != 0
        if self.out_gate is not None:
            present = present & (self.out_gate.mask.cpu() != 0).any()
        # A head without values adds nothing; one without queries still averages.
        kept = (open_heads & present & v.any(1))[:, None]
        return qk & kept, v & kept

    def kept(self) -> int:
        """Heads left by the masks; 0 means that the submodule is gone."""
        return int(self._kept_dims()[1].any(1).sum())

    def kept_widths(self) -> tuple[int, int]:
        """Query/key and value dimensions of the widest head that is left."""
        qk, v = (int(dims.sum(1).max()) for dims in self._kept_dims())
        # Attention without any query is a mean: one dimension of zeros does it.
        return (max(1, qk), v) if v else (0, 0)

    def sliced_state(self) -> dict[str, Tensor]:
        """State dict of the compact layer, gate values folded into the weights.

        Heads narrower than the widest are padded with zeros, which changes nothing.
        """
        qk, v = self._kept_dims()
        heads = v.any(1).nonzero().squeeze(1).tolist()
        widths = self.kept_widths()

        def rows(x: Tensor, keep: Tensor, width: int) -> Tensor:
            x = x.unflatten(0, keep.shape)
            sliced = x.new_zeros(len(heads), width, *x.shape[2:])
            for row, head in enumerate(heads):
                own = x[head, keep[head].to(x.device)]
                sliced[row, : len(own)] = own
            return sliced.flatten(0, 1)

        weight, bias = self._gated_output()
        if self.out_gate is not None:
            channels = outputs.kept_channels(self)
            weight, bias = weight[channels], bias[channels]
        state = {
            "linear_out.weight": rows(weight.t(), v, widths[1]).t(),
            "linear_out.bias": bias,
            "linear_v.weight": rows(self.linear_v.weight, v, widths[1]),
            "linear_v.bias": rows(self.linear_v.bias, v, widths[1]),
        }
        for name, value in self._query_state().items():
            state[name] = rows(value, qk, widths[0])
        return state

    def _query_state(self) -> dict[str, Tensor]:
        """Gated parameters whose rows are (head * query/key dimension)."""
        raise NotImplementedError


def counts(heads: Number, qk: Number, v: Number, present: Number, group: str) -> Counts:
    """What there is of attention, by name; ``qk`` and ``v`` of all heads together."""
    return {
        f"{group}.module": present,
        f"{group}.head": heads,
        f"{group}.qk": qk,
        f"{group}.v": v,
    }
