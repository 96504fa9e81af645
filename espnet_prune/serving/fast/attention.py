"""Relative-position self-attention at inference, by blocks of queries."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_prune.families.espnet.attention import sizes_of
from espnet_prune.serving.fast.linear import linear
from espnet_prune.serving.fast.precision import data_type
from espnet_prune.serving.fast.widths import fill, widened

# Bytes of a column of scores, one for each query of those attended together (128 in
# fp32): what they need fits into a core's cache, no matrix of the whole utterance is
# ever stored, and position scores that the shift drops are hardly computed: time plus
# that many offsets for each query instead of 2 * time.
BLOCK_BYTES = 512


class FastAttention:
    """Same function as relative-position attention, in eval mode.

    Query, key and value are one product; the softmax scale is in the query's weights;
    projected positions do not depend on the audio: one :meth:`table` serves many
    calls. Query/key and value dimensions are padded with zeros to one width, which the
    fused kernels want.
    """

    def __init__(self, layer: nn.Module, precision: str = "fp32"):
        self.heads, qk_dim, v_dim, scale = sizes_of(layer)
        self.width = widened(max(qk_dim, v_dim), precision)
        q, k, v = layer.linear_q, layer.linear_k, layer.linear_v
        rows = [self._padded(m.weight) for m in (q, k, v)]
        # The query's own bias becomes part of both position biases.
        bias = self._padded(q.bias)
        biases = [torch.zeros_like(bias), self._padded(k.bias), self._padded(v.bias)]
        self.project = linear(
            torch.cat([rows[0] * scale, *rows[1:]]), torch.cat(biases), precision
        )
        self.content_bias, self.position_bias = (
            ((bias + self._padded(b.flatten())) * scale)
            .view(self.heads, 1, self.width)
            .to(data_type(precision))
            for b in (layer.pos_bias_u, layer.pos_bias_v)
        )
        out = layer.linear_out
        self.out = linear(self._padded(out.weight.t()).t(), out.bias, precision)
        self.positions = self._padded(layer.linear_pos.weight)

    def _padded(self, x: Tensor) -> Tensor:
        """Rows (head * dimension, ...) with zeros up to the common width."""
        return fill(x.unflatten(0, (self.heads, -1)), 1, self.width).flatten(0, 1)

    def table(self, pos_emb: Tensor) -> Tensor:
        """Project positions.

        Args:
            pos_emb: (1, 2 * longest - 1, channel), from offset longest - 1 down.

        Returns:
            (head, dimension, 2 * longest - 1), for utterances up to ``longest``.
        """
        projected = F.linear(pos_emb.to(self.positions), self.positions)
        projected = projected.view(-1, self.heads, self.width).permute(1, 2, 0)
        return projected.to(self.position_bias.dtype).contiguous()

    def __call__(self, x: Tensor, hidden: Tensor | None, table: Tensor) -> Tensor:
        """Attend within each utterance.

        Args:
            x: (batch, time, channel).
            hidden: (batch, 1, 1, time), -inf at padded keys, else 0; or None.
            table: projected positions of this layer.

        Returns:
            (batch, time, channel).
        """
        batch, time, _ = x.shape
        heads = self.project(x).view(batch, time, 3, self.heads, self.width)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (batch, head, time, dimension)
        by_content, by_position = q + self.content_bias, q + self.position_bias
        middle = table.shape[2] // 2  # offset 0
        context = x.new_empty(batch, time, self.heads, self.width, dtype=q.dtype)
        count = -(-time * q.itemsize // BLOCK_BYTES)
        step = -(-time // count)
        for start in range(0, time, step):
            rows = slice(start, min(start + step, time))
            size = rows.stop - rows.start
            # All offsets that the block needs, from that of its last query to key 0.
            first = middle - rows.stop + 1
            offsets = table[:, :, first : first + time + size - 1]
            scores = shifted(by_position[:, :, rows] @ offsets, time)
            if not scores.is_cpu:  # kernels of GPUs want an aligned mask
                scores = scores.contiguous()
            if hidden is not None:
                scores = scores + hidden
            context[:, rows] = F.scaled_dot_product_attention(
                by_content[:, :, rows], k, v, attn_mask=scores, scale=1.0
            ).transpose(1, 2)
        return self.out(context.flatten(2))


def shifted(scores: Tensor, time: int) -> Tensor:
    """Turn offsets into key positions, without a copy.

    Args:
        scores: (batch, head, query, time + query - 1); a query's own window of ``time``
            offsets begins one further left than that of the query before it.
        time: number of keys.

    Returns:
        (batch, head, query, time), a view.
    """
    batch, head, queries, offsets = scores.shape
    batch_stride, head_stride, *_ = scores.stride()
    return scores.as_strided(
        (batch, head, queries, time),
        (batch_stride, head_stride, offsets - 1, 1),
        scores.storage_offset() + queries - 1,
    )
