"""Attention whose heads are of other widths than ESPnet's own can hold.

ESPnet's ``MultiHeadedAttention`` makes queries, keys and values of one width, that of
the model dimension over the heads. What is left after pruning is wider for one than for
the other, and the softmax scale stays that of the dense model's head.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rel_shift(x: Tensor) -> Tensor:
    """Turn offsets into key positions.

    Args:
        x: scores by relative offset, (batch, head, time, 2 * time - 1); or by ESPnet's
            legacy positions, wrong behind the query, (batch, head, time, time).

    Returns:
        scores by key position, (batch, head, time, time).
    """
    batch, head, time, offsets = x.shape
    x = F.pad(x, (1, 0)).view(batch, head, offsets + 1, time)
    return x[:, :, 1:].view(batch, head, time, offsets)[..., :time]


def sizes_of(layer: nn.Module) -> tuple[int, int, int, float]:
    """Return the heads, their query/key and value dimensions, and the softmax scale.

    The attention is ESPnet's or :class:`SizedAttention`.
    """
    if isinstance(layer, SizedAttention):
        return layer.heads, layer.qk_dim, layer.v_dim, layer.scale
    return layer.h, layer.d_k, layer.d_k, 1 / math.sqrt(layer.d_k)


class SizedAttention(nn.Module):
    """The layer computes ESPnet's attention in other sizes, with the same tensors.

    With relative positions it is Dai et al. 2019, Transformer-XL (arXiv 1901.02860),
    section 3.3, with as many positions as ESPnet gives; without, Vaswani et al. 2017.

    Args:
        of: ESPnet's layer, whose projections it takes over.
        heads, qk_dim, v_dim: heads, and query/key and value dimensions of each.
    """

    def __init__(self, of: nn.Module, heads: int, qk_dim: int, v_dim: int):
        super().__init__()
        self.heads, self.qk_dim, self.v_dim = heads, qk_dim, v_dim
        self.scale = sizes_of(of)[3]
        for name in ("linear_q", "linear_k", "linear_v", "linear_out"):
            self.add_module(name, getattr(of, name))
        self.relative = hasattr(of, "linear_pos")
        if self.relative:
            self.linear_pos = of.linear_pos
            self.pos_bias_u, self.pos_bias_v = of.pos_bias_u, of.pos_bias_v
        self.dropout = of.dropout

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *more: Tensor | None, **_: bool
    ) -> Tensor:
        """Attend within each utterance.

        Args:
            query: (batch, query, channel).
            key, value: (batch, key, channel).
            more: positions, (1, 2 * time - 1 or time, channel), if they are relative;
                and a mask (batch, 1 or query, key), True where a key may be looked at,
                or None.

        Returns:
            (batch, query, channel); 0 before the output projection where a query has no
            key.
        """
        mask = more[-1]
        q, k, v = self.project(query, key, value)
        if self.relative:
            content, position, p = self.terms(q, more[0])
            scores = (content @ k + rel_shift(position @ p)) * self.scale
        else:
            scores = q.transpose(1, 2) @ k * self.scale
        if mask is not None:
            hidden = ~mask.bool().unsqueeze(1)
            scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        if mask is not None:
            weights = weights.masked_fill(hidden, 0.0)
        return self.merge(self.dropout(weights) @ v)

    def project(
        self, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute queries, keys and values of each head.

        The arguments are those of :meth:`forward`.

        Returns:
            (batch, query, head, dim), (batch, head, dim, key), (batch, head, key, dim).
        """
        q = self.linear_q(query).unflatten(-1, (self.heads, self.qk_dim))
        k = self.linear_k(key).unflatten(-1, (self.heads, self.qk_dim))
        v = self.linear_v(value).unflatten(-1, (self.heads, self.v_dim))
        return q, k.permute(0, 2, 3, 1), v.transpose(1, 2)

    def terms(self, q: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute what meets the keys, what meets the positions, and these.

        Args:
            q: (batch, query, head, dim).
            positions: (1, offset, channel).

        Returns:
            twice (batch, head, query, dim), and (1, head, dim, offset).
        """
        p = self.linear_pos(positions).unflatten(-1, (self.heads, self.qk_dim))
        content, position = q + self.pos_bias_u, q + self.pos_bias_v
        return content.transpose(1, 2), position.transpose(1, 2), p.permute(0, 2, 3, 1)

    def merge(self, context: Tensor) -> Tensor:
        """Merge the heads, (batch, head, query, dim), to (batch, query, channel)."""
        return self.linear_out(context.transpose(1, 2).flatten(2))
