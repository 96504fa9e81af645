"""Relative-position self-attention whose heads and their dimensions can be pruned.

Dai et al. 2019, Transformer-XL (arXiv 1901.02860), section 3.3, in the form of
ESPnet's ``RelPositionMultiHeadedAttention`` ("latest" relative positions).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_prune.families.espnet.layers import heads, outputs
from espnet_prune.families.espnet.layers.cost import Cost, Counts, Prices

GROUP = "attention"


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


class RelPositionAttention(heads.PrunableHeads):
    """Multi-head self-attention with explicit sizes.

    Args:
        size, options: those of :class:`PrunableHeads`.
        positions: channels of the positions; None for those of the model.
    """

    def __init__(self, size: int, positions: int | None = None, **options: Any):
        super().__init__(size, **options, group=GROUP)
        dims = self.heads, self.qk_dim
        rows = self.heads * self.qk_dim
        self.linear_pos = nn.Linear(positions or size, rows, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(dims))
        self.pos_bias_v = nn.Parameter(torch.empty(dims))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

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
        if self.qk_gate is None:
            q, u, v = self.linear_q(x), self.pos_bias_u, self.pos_bias_v
        else:
            weight, bias, u, v = self._gated_queries()
            q = F.linear(x, weight, bias)
        q = q.view(batch, time, self.heads, self.qk_dim)
        k = self.linear_k(x).view(batch, time, self.heads, self.qk_dim)
        p = self.linear_pos(pos_emb).view(1, -1, self.heads, self.qk_dim)

        content = (q + u).transpose(1, 2) @ k.permute(0, 2, 3, 1)
        position = (q + v).transpose(1, 2) @ p.permute(0, 2, 3, 1)
        scores = (content + rel_shift(position)) * self.scale
        padding = None if mask is None else ~mask.unsqueeze(1)
        return self._attend(scores, self.linear_v(x), padding)

    def _gated_queries(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Query weight and bias, and both position biases (head, dim), under the gates.

        A query/key dimension is gated where the query is made, its biases included;
        the rows of the key and of the position projection are left as they are.
        """
        weight, bias = self.linear_q.weight, self.linear_q.bias
        if self.qk_gate is None:
            return weight, bias, self.pos_bias_u, self.pos_bias_v
        z = self.qk_gate()
        by_head = z.view_as(self.pos_bias_u)
        return (
            weight * z[:, None],
            bias * z,
            self.pos_bias_u * by_head,
            self.pos_bias_v * by_head,
        )

    def _query_state(self) -> dict[str, Tensor]:
        weight, bias, u, v = self._gated_queries()
        return {
            "linear_q.weight": weight,
            "linear_q.bias": bias,
            "linear_k.weight": self.linear_k.weight,
            "linear_k.bias": self.linear_k.bias,
            "linear_pos.weight": self.linear_pos.weight,
            "pos_bias_u": u.flatten(),
            "pos_bias_v": v.flatten(),
        }

    def sliced_state(self) -> dict[str, Tensor]:
        state, shape = super().sliced_state(), (self.kept(), self.kept_widths()[0])
        for name in ("pos_bias_u", "pos_bias_v"):
            state[name] = state[name].view(shape)
        return state

    @staticmethod
    def counts(
        number: int, qk_dim: int, v_dim: int, channels: int | None = None
    ) -> Counts:
        """What there is of it, by name.

        Args:
            number: of heads.
            qk_dim, v_dim: dimensions of each.
            channels: of the output; None where they always stay.
        """
        qk, v = number * qk_dim, number * v_dim
        found = heads.counts(number, qk, v, int(number > 0), GROUP)
        if channels is None:
            return found
        return found | outputs.counts(v * channels, channels, GROUP)

    @staticmethod
    def prices(
        size: int, positions: int, frames: int, merging: Cost | None = None
    ) -> Prices:
        """Cost of each with its LayerNorm.

        Args:
            size: model dimension.
            positions: channels of the positions.
            frames: of the encoder.
            merging: cost of an output channel where it goes on, if it can go.
        """
        offsets = 2 * frames - 1
        qk = 2 * frames * size + offsets * positions + frames * (frames + offsets)
        table = {
            f"{GROUP}.module": Cost(3 * size, 0),
            f"{GROUP}.head": Cost(0, 0),
            f"{GROUP}.qk": Cost(2 * size + positions + 4, qk),
            f"{GROUP}.v": Cost(2 * size + 1, 2 * frames * size + frames * frames),
        }
        if merging is None:
            return table
        return table | {
            f"{GROUP}.module": Cost(2 * size, 0),
            f"{GROUP}.v": Cost(size + 1, frames * size + frames * frames),
            **outputs.prices(merging, frames, GROUP),
        }
