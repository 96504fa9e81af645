"""The whole encoder at inference, made from the layers of a trained one."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_prune.inference.attention import FastAttention
from espnet_prune.inference.convolution import FastConvolution
from espnet_prune.inference.feed_forward import FastFeedForward
from espnet_prune.inference.linear import bucket
from espnet_prune.inference.precision import data_type, packs
from espnet_prune.inference.subsampling import FastSubsampling
from espnet_prune.layers.block import ConformerBlock
from espnet_prune.layers.padding import real_frames
from espnet_prune.layers.subsampling import Subsampling, halved

FAST = {
    "feed_forward_macaron": (FastFeedForward, 0.5),
    "self_attn": (FastAttention, 1.0),
    "conv_module": (FastConvolution, 1.0),
    "feed_forward": (FastFeedForward, 0.5),
}
SHORTEST_TABLE = 256  # frames for which positions are projected at least


class Norm:
    """Layer norm; torch computes it in fp32 whatever goes in and comes out.

    Args:
        layer: the layer.
        dtype: of what goes in; CPUs take weights of another one.
    """

    def __init__(self, layer: nn.LayerNorm, dtype: torch.dtype | None = None):
        self.shape, self.eps = layer.normalized_shape, layer.eps
        self.weight, self.bias = layer.weight.detach(), layer.bias.detach()
        if not self.weight.is_cpu:
            self.weight, self.bias = self.weight.to(dtype), self.bias.to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


class FastBlock:
    """Same function as a :class:`ConformerBlock` without gates, in eval mode."""

    def __init__(self, block: ConformerBlock, precision: str):
        self.branches = []
        for name, layer in block.submodules().items():
            make, share = FAST[name]
            norm = Norm(getattr(block, block.NORMS[name]), data_type(precision))
            self.branches.append((name, norm, make(layer, precision), share))
        self.norm_final = Norm(block.norm_final, data_type(precision))

    @property
    def attention(self) -> FastAttention | None:
        layers = {name: layer for name, _, layer, _ in self.branches}
        return layers.get("self_attn")

    def __call__(
        self, x: Tensor, hidden: Tensor | None, real: Tensor | None = None
    ) -> Tensor:
        """(batch, time, channel) -> (batch, time, channel).

        Args:
            x: the input.
            hidden: of :class:`FastAttention`.
            real: of :class:`FastConvolution`.
        """
        more = {"self_attn": (hidden,), "conv_module": (real,)}
        for name, norm, layer, share in self.branches:
            x = torch.add(x, layer(norm(x), *more.get(name, ())), alpha=share)
        return self.norm_final(x)


class FastEncoder:
    """Same function as the encoder that these layers are of, in eval mode.

    It holds what it derived from their weights (shared with them where nothing had to
    be derived): make a new one when they change. In bf16 the residual stream is bf16:
    conversions would take more time than the products of small layers. Norms and
    softmax are computed in fp32 inside. On CPUs bf16 is computed in lengths that many
    utterances share (:func:`bucket`).

    Args:
        embed, blocks, after_norm: layers without gates.
        precision: of :data:`PRECISIONS`, in which products are held and computed; fp32
            means the data type of the layers, whatever that is.
    """

    def __init__(
        self,
        embed: Subsampling,
        blocks: nn.ModuleList,
        after_norm: nn.LayerNorm,
        precision: str = "fp32",
    ):
        self.embed = FastSubsampling(embed, precision)
        self.pos_enc = embed.out[1]
        self.blocks = [FastBlock(block, precision) for block in blocks]
        self.after_norm = Norm(after_norm, data_type(precision))
        self.working = data_type(precision) or after_norm.weight.dtype
        self.in_buckets = packs(data_type(precision), after_norm.weight.device)
        self.longest = 0

    def __call__(
        self,
        xs_pad: Tensor,
        ilens: Tensor,
        masks: Tensor | None = None,
        return_all_hs: bool = False,
        apart: bool = False,
    ) -> tuple[Any, Tensor, None]:
        """What the encoder's forward does, without gradients.

        Args:
            xs_pad, ilens, masks, return_all_hs: as for the encoder.
            apart: encode each utterance as if it were alone. ESPnet lets padding reach
                the last frames through the convolutions.
        """
        mask = real_frames(xs_pad, ilens, masks)
        real = None
        if apart:
            frames = torch.arange(mask.shape[2], device=mask.device)
            mask = (frames < halved(halved(ilens.to(mask.device)))[:, None]).unsqueeze(
                1
            )
            real = mask.transpose(1, 2).to(self.working)
        olens, time = mask.squeeze(1).sum(1), mask.shape[2]
        padded = masks is not None or int(ilens.min()) < xs_pad.shape[1]
        more = bucket(time) - time if self.in_buckets else 0
        if more:
            # What is put behind must not reach the rest: as if apart, but for the
            # padding that ESPnet lets in.
            padded, mask = True, F.pad(mask, (0, more))
            if real is None:
                real = mask.new_ones(1, time, 1).to(self.working)
            real = F.pad(real, (0, 0, 0, more))
            frames = 4 * (time + more) + 3  # the fewest that become so many
            xs_pad = F.pad(xs_pad, (0, 0, 0, frames - xs_pad.shape[1]))
        x = self.embed(xs_pad)
        if x.shape[1] > self.longest:
            self._prepare(xs_pad, x.shape[1:])
        hidden = None
        if padded:
            hidden = torch.zeros_like(mask, dtype=self.working)
            hidden = hidden.masked_fill_(~mask, -torch.inf).unsqueeze(1)
        outputs = []
        for block in self.blocks:
            x = block(x, hidden, real)
            if return_all_hs:
                outputs.append(x[:, :time].to(xs_pad.dtype))
        out = self.after_norm(x[:, :time]).to(xs_pad.dtype)
        return ((out, outputs) if return_all_hs else out), olens, None

    def _prepare(self, x: Tensor, size: torch.Size) -> None:
        time, channels = size
        # By doubling: audio of many lengths must not project positions each time.
        self.longest = max(SHORTEST_TABLE, 1 << (time - 1).bit_length())
        self.pos_enc.extend_pe(x.new_empty(1, self.longest, channels))
        middle = self.pos_enc.pe.shape[1] // 2  # offset 0
        offsets = slice(middle - self.longest + 1, middle + self.longest)
        # Kept for calls without autocast, too.
        with torch.autocast(x.device.type, enabled=False):
            for block in self.blocks:
                if block.attention is not None:
                    block.attention.prepare(self.pos_enc.pe[:, offsets])
