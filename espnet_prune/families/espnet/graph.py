"""An encoder as a graph for a runtime: one utterance, no masks, no tables.

What ESPnet's layers keep between calls, or make views of in fixed sizes, would fix the
longest utterance, or the one length, that the graph takes.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from espnet_prune.families.espnet.attention import SizedAttention, rel_shift, sizes_of
from espnet_prune.families.espnet.nets import (
    ConvolutionModule,
    LegacyRelPositionalEncoding,
    MultiHeadedAttention,
    PositionalEncoding,
    RelPositionalEncoding,
)
from espnet_prune.pruning.low_rank import LowRank

RELATIVE = (RelPositionalEncoding, LegacyRelPositionalEncoding)


class EncoderGraph(nn.Module):
    """An encoder on one utterance, or on several of the same length.

    Args:
        encoder: ESPnet's, of a kind that can be pruned, or the compact one made of it.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        encoder = copy.deepcopy(encoder).cpu().float().eval()
        for name, module in list(encoder.named_modules()):
            path, _, leaf = name.rpartition(".")
            if type(module) in (PositionalEncoding, *RELATIVE):
                plain = Positions(module)
            elif isinstance(module, MultiHeadedAttention | SizedAttention):
                plain = GraphAttention(module, *sizes_of(module)[:3])
            elif isinstance(module, ConvolutionModule):
                plain = GraphConvolution(module)
            else:
                continue
            parent = encoder.get_submodule(path)
            if isinstance(parent, nn.Sequential):
                parent[int(leaf)] = plain
            else:
                setattr(parent, leaf, plain)
        self.embed, self.blocks = encoder.embed, encoder.encoders
        self.after_norm = encoder.after_norm
        self.spread = getattr(encoder, "spread", nn.Identity())

    def forward(self, features: Tensor) -> Tensor:
        """Encode (batch, frame, feature) as (batch, time, channel)."""
        x, _ = self.embed(features, None)
        for block in self.blocks:
            x, _ = block(x, None)
        x = x[0] if isinstance(x, tuple) else x
        return self.spread(self.after_norm(x))


class Positions(nn.Module):
    """ESPnet's positional encoding, computed for the length at hand.

    Args:
        of: ESPnet's; relative positions go beside the input, absolute ones are added.
    """

    def __init__(self, of: nn.Module):
        super().__init__()
        self.scale, self.relative = of.xscale, type(of) in RELATIVE
        # ESPnet's legacy positions fall from the last of its table on.
        legacy = type(of) is LegacyRelPositionalEncoding
        self.last = of.pe.shape[1] - 1 if legacy else None
        steps = torch.arange(0, of.d_model, 2, dtype=torch.float32)
        self.register_buffer("rate", torch.exp(steps * -(math.log(1e4) / of.d_model)))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Scale (batch, time, channel), and encode its positions.

        Relative ones, (1, 2 * time - 1, channel), or legacy ones, (1, time, channel),
        come beside the input; absolute ones are added.
        """
        time = x.shape[1]
        options = {"dtype": x.dtype, "device": x.device}
        if self.last is not None:
            steps = torch.arange(time, **options)
            offsets = steps[-1].clamp(min=self.last) - steps
        elif self.relative:
            offsets = torch.arange(time - 1, -time, -1, **options)
        else:
            offsets = torch.arange(time, **options)
        angle = offsets[:, None] * self.rate
        encoded = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[None]
        x = x * self.scale
        return (x, encoded) if self.relative else x + encoded


# Operators of their own, for the writer of a graph to compute them in blocks; the sizes
# beside the tensors are what all layers share.
@torch.library.custom_op("espnet_prune::attend", mutates_args=())
def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, time: int) -> Tensor:
    """Attend, (batch, head, time, dim), to all keys, (batch, head, dim, time)."""
    return (q @ k * scale).softmax(-1) @ v


@torch.library.custom_op("espnet_prune::attend_relative", mutates_args=())
def attend_relative(
    content: Tensor,
    position: Tensor,
    k: Tensor,
    p: Tensor,
    v: Tensor,
    scale: float,
    time: int,
    offsets: int,
) -> Tensor:
    """Attend with relative positions, by the terms of :class:`SizedAttention`."""
    scores = content @ k + rel_shift(position @ p)
    return (scores * scale).softmax(-1) @ v


@attend.register_fake
def _(q, k, v, scale, time):
    return q.new_empty(*q.shape[:-1], v.shape[-1])


@attend_relative.register_fake
def _(content, position, k, p, v, scale, time, offsets):
    return content.new_empty(*content.shape[:-1], v.shape[-1])


class GraphAttention(SizedAttention):
    """The layer attends without masks, by the operators above."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *more, **_) -> Tensor:
        """Attend within (batch, time, channel)."""
        q, k, v = self.project(query, key, value)
        time, scale = query.shape[1], self.scale
        if not self.relative:
            return self.merge(attend(q.transpose(1, 2), k, v, scale, time))
        content, position, p = self.terms(q, more[0])
        offsets = more[0].shape[1]
        context = attend_relative(content, position, k, p, v, scale, time, offsets)
        return self.merge(context)


class GraphConvolution(nn.Module):
    """The convolution module with BatchNorm folded and matrix products for the
    pointwise convolutions, which runtimes can compute in int8.

    Args:
        layer: ESPnet's.
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.first, self.last = map(
            _pointwise, (layer.pointwise_conv1, layer.pointwise_conv2)
        )
        self.depthwise = fuse_conv_bn_eval(layer.depthwise_conv, layer.norm)
        self.activation = layer.activation

    def forward(self, x: Tensor, **_: None) -> Tensor:
        """Compute the convolution module on (batch, time, channel), without a mask."""
        x = self.depthwise(F.glu(self.first(x), dim=-1).transpose(1, 2))
        return self.last(self.activation(x).transpose(1, 2))


def _pointwise(conv: nn.Conv1d | LowRank) -> nn.Module:
    """Make the linear layer, or layers, that a convolution of width 1 is."""
    if isinstance(conv, LowRank):
        return nn.Sequential(_pointwise(conv.down), _pointwise(conv.up))
    layer = nn.Linear(conv.in_channels, conv.out_channels, conv.bias is not None)
    layer.weight = nn.Parameter(conv.weight.detach().squeeze(2))
    if conv.bias is not None:
        layer.bias = nn.Parameter(conv.bias.detach())
    return layer
