"""Relative-position self-attention whose heads can be pruned.

Dai et al. 2019, Transformer-XL (arXiv 1901.02860), section 3.3, in the form of
ESPnet's ``RelPositionMultiHeadedAttention`` ("latest" relative positions).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_prune.gates import Gate, GateOptions
from espnet_prune.layers.cost import Cost, Number


def rel_shift(x: Tensor) -> Tensor:
    """Turn offsets into key positions.

    Args:
        x: scores by relative offset, (batch, head, time, 2 * time - 1).

    Returns:
        scores by key position, (batch, head, time, time).
    """
    batch, head, time, offsets = x.shape
    x = F.pad(x, (1, 0)).view(batch, head, offsets + 1, time)
    return x[:, :, 1:].view(batch, head, time, offsets)[..., :time]


class RelPositionAttention(nn.Module):
    """Multi-head self-attention with explicit sizes.

    Args:
        size: model dimension (channels).
        heads: number of heads.
        qk_dim: query/key dimensions of a head.
        v_dim: value dimensions of a head.
        scale_dim: the softmax scale is 1 / sqrt(scale_dim): always that of the dense
            model's head, however many dimensions are left.
        dropout_rate: dropout on the attention weights.
        gates: None for the dense and the compact life.
    """

    def __init__(
        self,
        size: int,
        heads: int,
        qk_dim: int,
        v_dim: int,
        scale_dim: int,
        dropout_rate: float,
        gates: GateOptions | None = None,
    ):
        super().__init__()
        self.heads, self.qk_dim, self.v_dim = heads, qk_dim, v_dim
        self.scale = 1 / math.sqrt(scale_dim)
        self.linear_q = nn.Linear(size, heads * qk_dim)
        self.linear_k = nn.Linear(size, heads * qk_dim)
        self.linear_v = nn.Linear(size, heads * v_dim)
        self.linear_out = nn.Linear(heads * v_dim, size)
        self.linear_pos = nn.Linear(size, heads * qk_dim, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(heads, qk_dim))
        self.pos_bias_v = nn.Parameter(torch.empty(heads, qk_dim))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)
        self.dropout = nn.Dropout(dropout_rate)
        self.head_gate = gates.build(heads) if gates else None
        self.module_gate = gates.build(1) if gates else None

    def forward(self, x: Tensor, pos_emb: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within each utterance.

        Args:
            x: (batch, time, channel).
            pos_emb: (1, 2 * time - 1, channel), from offset time - 1 to 1 - time.
            mask: (batch, 1, time), True where a key is a real frame.

        Returns:
            (batch, time, channel).
        """
        batch, time, _ = x.shape
        q = self.linear_q(x).view(batch, time, self.heads, self.qk_dim)
        k = self.linear_k(x).view(batch, time, self.heads, self.qk_dim)
        v = self.linear_v(x).view(batch, time, self.heads, self.v_dim)
        p = self.linear_pos(pos_emb).view(1, -1, self.heads, self.qk_dim)

        content = (q + self.pos_bias_u).transpose(1, 2) @ k.permute(0, 2, 3, 1)
        position = (q + self.pos_bias_v).transpose(1, 2) @ p.permute(0, 2, 3, 1)
        scores = (content + rel_shift(position)) * self.scale
        if mask is not None:
            padding = ~mask.unsqueeze(1)  # (batch, 1, 1, time)
            scores = scores.masked_fill(padding, torch.finfo(scores.dtype).min)
            # An utterance without any real frame must give 0, not a mean.
            weights = scores.softmax(-1).masked_fill(padding, 0.0)
        else:
            weights = scores.softmax(-1)
        context = self.dropout(weights) @ v.transpose(1, 2)
        context = context.transpose(1, 2).reshape(batch, time, -1)
        if self.head_gate is None:
            return self.linear_out(context)
        return F.linear(context, *self._gated_output())

    def _gated_output(self) -> tuple[Tensor, Tensor]:
        present = self.module_gate()
        columns = (self.head_gate() * present).repeat_interleave(self.v_dim)
        return self.linear_out.weight * columns, self.linear_out.bias * present

    @staticmethod
    def cost(
        size: int,
        heads: Number,
        qk_dim: int,
        v_dim: int,
        present: Number,
        frames: int,
    ) -> Cost:
        """Cost with its LayerNorm; ``frames`` are encoder frames of one utterance."""
        offsets = 2 * frames - 1
        projections = frames * size * 2 * (qk_dim + v_dim) + offsets * size * qk_dim
        products = frames * (frames * (qk_dim + v_dim) + offsets * qk_dim)
        return Cost(
            params=present * 3 * size
            + heads * (qk_dim * (3 * size + 4) + v_dim * (2 * size + 1)),
            macs=heads * (projections + products),
        )

    def gated_cost(self, frames: int, openness: Callable[[Gate], Tensor]) -> Cost:
        present = openness(self.module_gate).sum()
        heads = present * openness(self.head_gate).sum()
        size = self.linear_q.in_features
        return self.cost(size, heads, self.qk_dim, self.v_dim, present, frames)

    def kept(self) -> int:
        """Heads left by the masks; 0 means that the submodule is gone."""
        open_heads = int((self.head_gate.mask != 0).sum())
        return open_heads if self.module_gate.mask.item() != 0 else 0

    def sliced_state(self) -> dict[str, Tensor]:
        """State dict of the compact layer, gate values folded into ``linear_out``."""
        keep = self.head_gate.mask.nonzero().squeeze(1)

        def rows(x: Tensor, dim: int) -> Tensor:
            return x.unflatten(0, (self.heads, dim))[keep].flatten(0, 1)

        weight, bias = self._gated_output()
        state = {
            "linear_pos.weight": rows(self.linear_pos.weight, self.qk_dim),
            "linear_out.weight": rows(weight.t(), self.v_dim).t(),
            "linear_out.bias": bias,
            "pos_bias_u": self.pos_bias_u[keep],
            "pos_bias_v": self.pos_bias_v[keep],
        }
        for name, dim in (("q", self.qk_dim), ("k", self.qk_dim), ("v", self.v_dim)):
            linear = getattr(self, f"linear_{name}")
            state[f"linear_{name}.weight"] = rows(linear.weight, dim)
            state[f"linear_{name}.bias"] = rows(linear.bias, dim)
        return state
