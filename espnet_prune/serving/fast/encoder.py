"""The whole encoder at inference, made from the layers of a trained one."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from espnet.nets.pytorch_backend.transformer.embedding import RelPositionalEncoding
from espnet.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from torch import Tensor, nn

from espnet_prune.families.espnet.compact import Absent, Skip
from espnet_prune.families.espnet.parts import halved
from espnet_prune.serving.fast.attention import FastAttention
from espnet_prune.serving.fast.convolution import FastConvolution
from espnet_prune.serving.fast.feed_forward import FastFeedForward
from espnet_prune.serving.fast.linear import bucket
from espnet_prune.serving.fast.precision import data_type, packs
from espnet_prune.serving.fast.subsampling import FastSubsampling

FAST = {  # submodule -> its norm, what computes it, its share
    "feed_forward_macaron": ("norm_ff_macaron", FastFeedForward, 0.5),
    "self_attn": ("norm_mha", FastAttention, 1.0),
    "conv_module": ("norm_conv", FastConvolution, 1.0),
    "feed_forward": ("norm_ff", FastFeedForward, 0.5),
}
MIN_FRAMES = 7  # fewer leave no frame after the subsampling
# Frames for which projected positions are kept: at least, and at most (10 s and 160 s
# of audio). Those of 10 minutes would take more memory than the weights.
SHORTEST_TABLE, LONGEST_TABLE = 256, 4096


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
    """Same function as a Conformer's block, in eval mode."""

    def __init__(self, block: nn.Module, precision: str):
        self.branches = []
        for name, (norm, make, share) in FAST.items():
            layer = getattr(block, name)
            if not isinstance(layer, Absent):
                own = Norm(getattr(block, norm), data_type(precision))
                self.branches.append((name, own, make(layer, precision), share))
        self.norm_final = Norm(block.norm_final, data_type(precision))

    @property
    def attention(self) -> FastAttention | None:
        layers = {name: layer for name, _, layer, _ in self.branches}
        return layers.get("self_attn")

    def __call__(
        self,
        x: Tensor,
        hidden: Tensor | None,
        table: Tensor | None,
        real: Tensor | None,
    ) -> Tensor:
        """(batch, time, channel) -> (batch, time, channel).

        Args:
            x: the input.
            hidden, table: of :class:`FastAttention`.
            real: of :class:`FastConvolution`.
        """
        more = {"self_attn": (hidden, table), "conv_module": (real,)}
        for name, norm, layer, share in self.branches:
            x = torch.add(x, layer(norm(x), *more.get(name, ())), alpha=share)
        return self.norm_final(x)


class FastEncoder:
    """Same function as a Conformer encoder, dense or compact, in eval mode.

    It holds what it derived from the weights (shared with them where nothing had to
    be derived): make a new one when they change. In bf16 the residual stream is bf16:
    conversions would take more time than the products of small layers. Norms and
    softmax are computed in fp32 inside. On CPUs bf16 is computed in lengths that many
    utterances share (:func:`bucket`). Several threads may call it at once.

    Args:
        encoder: ESPnet's, or the compact one made of it.
        features: of each frame.
        precision: of :data:`PRECISIONS`, in which products are held and computed; fp32
            means the data type of the layers, whatever that is.
    """

    def __init__(self, encoder: nn.Module, features: int, precision: str = "fp32"):
        embed, after_norm = encoder.embed, encoder.after_norm
        self.embed = FastSubsampling(embed, features, precision)
        self.blocks = [
            None if isinstance(block, Skip) else FastBlock(block, precision)
            for block in encoder.encoders
        ]
        self.spread = getattr(encoder, "spread", nn.Identity())
        self.after_norm = Norm(after_norm, data_type(precision))
        self.working = data_type(precision) or after_norm.weight.dtype
        self.in_buckets = packs(data_type(precision), after_norm.weight.device)
        self.size = embed.out[1].d_model  # of the positions
        # Length and tables, replaced at once: other threads may be about to read them.
        self.kept: tuple[int, list[Tensor | None]] = 0, []

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
        # A ReLU of oneDNN makes zeros of NaN, and int8 has no scale for infinity: no
        # words must come of either.
        lost = (xs_pad * 0).sum((1, 2), keepdim=True)  # 0, or NaN
        xs_pad = xs_pad.nan_to_num(0, 0, 0)
        padded = masks is not None or bool((ilens < xs_pad.shape[1]).any())
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
        hidden = None
        if padded:
            hidden = torch.zeros_like(mask, dtype=self.working)
            hidden = hidden.masked_fill_(~mask, -torch.inf).unsqueeze(1)
        outputs = []
        for block, table in zip(self.blocks, self._tables(x.shape[1]), strict=True):
            if block is not None:
                x = block(x, hidden, table, real)
            if return_all_hs:
                outputs.append(self.spread(x[:, :time]).to(xs_pad.dtype) + lost)
        out = self.spread(self.after_norm(x[:, :time])).to(xs_pad.dtype) + lost
        return ((out, outputs) if return_all_hs else out), olens, None

    def _tables(self, time: int) -> Iterable[Tensor | None]:
        """Projected positions for each block, for at least so many frames."""
        longest, tables = self.kept
        if time <= longest:
            return tables
        # By doubling: audio of many lengths must not project positions each time.
        longest = max(SHORTEST_TABLE, 1 << (time - 1).bit_length())
        if longest > LONGEST_TABLE:
            return self._project(time)  # one after the other, and let go
        tables = list(self._project(longest))
        self.kept = longest, tables
        return tables

    def _project(self, longest: int) -> Iterator[Tensor | None]:
        # A new one: that of the layers is shared, and replaced as it grows.
        positions = RelPositionalEncoding(self.size, 0.0, longest).pe
        device = self.after_norm.weight.device.type
        for block in self.blocks:
            table = None
            if block is not None and block.attention is not None:
                # Kept for calls without autocast, too.
                with torch.autocast(device, enabled=False):
                    table = block.attention.table(positions)
            yield table


def real_frames(x: Tensor, lengths: Tensor, padding: Tensor | None) -> Tensor:
    """Mask of the frames that the subsampling leaves.

    Args:
        x: features, (batch, frame, feature).
        lengths: (batch,) frames of each utterance.
        padding: (batch, frame) True where padded; overrides ``lengths``.

    Returns:
        (batch, 1, time), True for real frames.

    Raises:
        TooShortUttError: fewer frames than the subsampling needs.
    """
    if x.size(1) < MIN_FRAMES:
        raise TooShortUttError(
            f"has {x.size(1)} frames and is too short for subsampling "
            f"(it needs at least {MIN_FRAMES} frames)",
            x.size(1),
            MIN_FRAMES,
        )
    if padding is None:
        # ESPnet's make_pad_mask compares a matrix of frames by frames.
        frames = torch.arange(x.size(1), device=x.device)
        padding = frames >= lengths.to(x.device)[:, None]
    return (~padding[:, None, :])[..., :-2:2][..., :-2:2]
