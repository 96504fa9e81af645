"""Attention without positions, of a Transformer decoder, whose heads can be pruned.

Vaswani et al. 2017 (arXiv 1706.03762), in the form of ESPnet's
``MultiHeadedAttention``.
"""

import torch.nn.functional as F
from torch import Tensor

from espnet_prune.families.espnet.layers.cost import Cost, Prices
from espnet_prune.families.espnet.layers.heads import PrunableHeads


class PlainAttention(PrunableHeads):
    """Multi-head attention from queries to a memory (which may be themselves)."""

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """Attend to the memory.

        Args:
            query: (batch, token, channel).
            memory: (batch, time, channel).
            mask: (batch, 1 or token, time), True where it may be looked at.

        Returns:
            (batch, token, channel).
        """
        batch, tokens, _ = query.shape
        if self.qk_gate is None:
            q = self.linear_q(query)
        else:
            q = F.linear(query, *self._gated_queries())
        q = q.view(batch, tokens, self.heads, self.qk_dim).transpose(1, 2)
        k = self.linear_k(memory).view(batch, -1, self.heads, self.qk_dim)
        scores = q @ k.permute(0, 2, 3, 1) * self.scale
        hidden = None if mask is None else ~mask.unsqueeze(1)
        return self._attend(scores, self.linear_v(memory), hidden)

    def _gated_queries(self) -> tuple[Tensor, Tensor]:
        z = self.qk_gate()
        return self.linear_q.weight * z[:, None], self.linear_q.bias * z

    def _query_state(self) -> dict[str, Tensor]:
        weight, bias = self.linear_q.weight, self.linear_q.bias
        if self.qk_gate is not None:
            weight, bias = self._gated_queries()
        return {
            "linear_q.weight": weight,
            "linear_q.bias": bias,
            "linear_k.weight": self.linear_k.weight,
            "linear_k.bias": self.linear_k.bias,
        }

    @staticmethod
    def prices(size: int, tokens: int, memory: int, group: str) -> Prices:
        """Cost of each with its LayerNorm, for so many queries and keys."""
        products = tokens * memory
        return {
            f"{group}.module": Cost(3 * size, 0),
            f"{group}.head": Cost(0, 0),
            f"{group}.qk": Cost(2 * size + 2, size * (tokens + memory) + products),
            f"{group}.v": Cost(2 * size + 1, size * (tokens + memory) + products),
        }
