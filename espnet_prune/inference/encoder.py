"""The whole encoder at inference, made from the layers of a trained one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_prune.inference.attention import FastAttention
from espnet_prune.inference.convolution import FastConvolution
from espnet_prune.inference.feed_forward import FastFeedForward
from espnet_prune.inference.subsampling import FastSubsampling
from espnet_prune.layers.block import SUBMODULES, ConformerBlock
from espnet_prune.layers.subsampling import Subsampling

FAST = {
    "feed_forward_macaron": (FastFeedForward, 0.5),
    "self_attn": (FastAttention, 1.0),
    "conv_module": (FastConvolution, 1.0),
    "feed_forward": (FastFeedForward, 0.5),
}
SHORTEST_TABLE = 256  # frames for which positions are projected at least


class Norm:
    """Layer norm; computes in the data type of the model, not of its products."""

    def __init__(self, layer: nn.LayerNorm):
        self.shape, self.eps = layer.normalized_shape, layer.eps
        self.weight, self.bias = layer.weight.detach(), layer.bias.detach()

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


class FastBlock:
    """Same function as a :class:`ConformerBlock` without gates, in eval mode."""

    def __init__(self, block: ConformerBlock, dtype: torch.dtype | None):
        self.branches = []
        self.attention = None
        for name, layer in block.submodules().items():
            make, share = FAST[name]
            fast = make(layer, dtype)
            self.branches.append(
                (Norm(getattr(block, SUBMODULES[name][0])), fast, share)
            )
            if name == "self_attn":
                self.attention = fast
        self.norm_final = Norm(block.norm_final)

    def __call__(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        """(batch, time, channel), (batch, 1, 1, time) -> (batch, time, channel)."""
        for norm, layer, share in self.branches:
            inputs = (norm(x), hidden) if layer is self.attention else (norm(x),)
            x = torch.add(x, layer(*inputs), alpha=share)
        return self.norm_final(x)


class FastEncoder:
    """Same function as the encoder that these layers are of, in eval mode.

    It holds what it derived from their weights (shared with them where nothing had to
    be derived): make a new one when they change. Norms, softmax and the residual stream
    stay in the data type of the layers, whatever that of the products.

    Args:
        embed, blocks, after_norm: layers without gates.
        dtype: in which products are held and computed; None for that of the layers.
    """

    def __init__(
        self,
        embed: Subsampling,
        blocks: nn.ModuleList,
        after_norm: nn.LayerNorm,
        dtype: torch.dtype | None = None,
    ):
        self.embed = FastSubsampling(embed, dtype)
        self.pos_enc = embed.out[1]
        self.blocks = [FastBlock(block, dtype) for block in blocks]
        self.after_norm = Norm(after_norm)
        self.longest = 0

    def __call__(
        self, x: Tensor, mask: Tensor | None, keep: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Encode features; no gradients flow.

        Args:
            x: (batch, frame, feature).
            mask: (batch, 1, time), True for real frames after the subsampling; None if
                there is no padding.
            keep: also return the output of every block.

        Returns:
            (batch, time, channel), and the outputs of the blocks.
        """
        stream = x.dtype
        x = self.embed(x).to(stream)
        if x.shape[1] > self.longest:
            self._prepare(x)
        hidden = None
        if mask is not None:
            hidden = torch.zeros_like(mask, dtype=self.embed.bias.dtype)
            hidden = hidden.masked_fill_(~mask, -torch.inf).unsqueeze(1)
        outputs = []
        for block in self.blocks:
            x = block(x, hidden)
            if keep:
                outputs.append(x)
        return self.after_norm(x), outputs

    def _prepare(self, x: Tensor) -> None:
        # By doubling: audio of many lengths must not project positions each time.
        self.longest = max(SHORTEST_TABLE, 1 << (x.shape[1] - 1).bit_length())
        _, pos_emb = self.pos_enc(x.new_empty(1, self.longest, x.shape[2]))
        for block in self.blocks:
            if block.attention is not None:
                block.attention.prepare(pos_emb)
