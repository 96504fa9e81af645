"""The layers that a latency table is fitted to: several sizes of each, ready to run.

The work of a decoder is that of one hypothesis, token by token with ESPnet's cache; a
search does it for every hypothesis of its beam.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from torch import nn

from espnet_prune.families.espnet.conformer import PrunableConformerEncoder
from espnet_prune.families.espnet.decoder import (
    FFN,
    SELF,
    SOURCE,
    PrunableTransformerDecoder,
)
from espnet_prune.families.espnet.layers import heads
from espnet_prune.families.espnet.layers.attention import RelPositionAttention
from espnet_prune.families.espnet.layers.convolution import Convolution
from espnet_prune.families.espnet.layers.cost import Counts
from espnet_prune.families.espnet.layers.feed_forward import FeedForward
from espnet_prune.families.espnet.layers.plain_attention import PlainAttention
from espnet_prune.families.espnet.layers.residual import layer_norm
from espnet_prune.families.espnet.layers.subsampling import Subsampling, halved
from espnet_prune.serving.fast.attention import FastAttention
from espnet_prune.serving.fast.convolution import FastConvolution
from espnet_prune.serving.fast.feed_forward import FastFeedForward
from espnet_prune.serving.fast.subsampling import FastSubsampling

Task = Callable[[], object]


@dataclass(frozen=True)
class Point:
    """One layer of one size: what is in it, how to run it, how often it is run."""

    counts: Counts
    run: Task
    times: int = 1

    @property
    def layer(self) -> str:
        """The kind of layer, whose points share their prices: ``decoder.ffn``."""
        return next(iter(self.counts)).rpartition(".")[0]


@dataclass(frozen=True)
class Beyond:
    """What a model does beyond its encoder.

    Args:
        model: the dense one.
        samples: of the utterance.
        tokens: of its transcript.
        decoder: its decoder with gates, if that is pruned, too.
    """

    model: ESPnetASRModel
    samples: int
    tokens: int
    decoder: PrunableTransformerDecoder | None = None

    def task(self, memory: int) -> Task:
        """Frontend, CTC, decoder of one hypothesis.

        Args:
            memory: encoder frames.
        """
        model = self.model.eval()
        speech, lengths = torch.randn(1, self.samples), torch.tensor([self.samples])
        encoded = torch.randn(1, memory, model.encoder.output_size())
        ids = torch.ones(self.tokens, dtype=torch.long)

        def run() -> None:
            features = model._extract_feats(speech, lengths)
            if model.normalize is not None:
                model.normalize(*features)
            if model.ctc is not None:
                model.ctc.log_softmax(encoded)
            if model.decoder is not None:
                state = model.decoder.init_state(encoded[0])
                for length in range(1, self.tokens + 1):
                    _, state = model.decoder.score(ids[:length], state, encoded[0])

        return run


def _shares(number: int, shares: Sequence[float] = (0.125, 0.25, 0.5, 1)) -> list[int]:
    return sorted({max(1, round(share * number)) for share in shares})


def encoder_points(encoder: PrunableConformerEncoder, frames: int) -> Iterator[Point]:
    """Layers of several sizes as they run at inference, with their norms, on noise."""
    fixed, dense = encoder.fixed, encoder.architecture.blocks[0]
    activation, pos_enc = (
        encoder.encoders[0].conv_module.activation,
        encoder.embed.out[1],
    )
    features = torch.randn(1, frames, fixed.features)
    x, pos_emb = pos_enc.eval()(torch.randn(1, halved(halved(frames)), fixed.size))
    norm = layer_norm(fixed.size).eval()

    def point(counts: Counts, layer: Callable[..., object], *more: object) -> Point:
        return Point(counts, lambda: layer(norm(x), *more))

    for units in _shares(dense.ffn1):
        layer = FeedForward(fixed.size, units, 0.0, activation)
        yield point(FeedForward.counts(units, 1), FastFeedForward(layer.eval()))
    for channels in _shares(dense.conv):
        layer = Convolution(fixed.size, channels, fixed.kernel_size, activation)
        yield point(Convolution.counts(channels, 1), FastConvolution(layer.eval()))
    widths = itertools.product(
        _shares(dense.qk_dim, (0.25, 0.5, 1)), _shares(dense.v_dim, (0.25, 0.5, 1))
    )
    numbers = _shares(dense.heads, (0.25, 0.5, 1))
    for kept, (qk, v) in itertools.product(numbers, widths):
        sizes = {"heads": kept, "qk_dim": qk, "v_dim": v, "scale_dim": fixed.head_dim}
        layer = RelPositionAttention(fixed.size, **sizes, dropout_rate=0.0)
        fast = FastAttention(layer.eval())
        counts = RelPositionAttention.counts(kept, qk, v)
        yield point(counts, fast, None, fast.table(pos_emb))
    first, second = encoder.architecture.subsampling
    for channels in itertools.product(_shares(first), _shares(second)):
        layer = Subsampling(fixed.features, fixed.size, channels, pos_enc)
        fast = FastSubsampling(layer.eval())
        yield Point(Subsampling.counts(channels), lambda fast=fast: fast(features))
    for repeats in (1, 2, 4):
        layer = nn.Sequential(*[norm] * repeats)
        yield Point({"norm.module": repeats}, lambda layer=layer: layer(x))


def decoder_points(
    decoder: PrunableTransformerDecoder, memory: int, tokens: int
) -> Iterator[Point]:
    """Layers of several sizes, each with its norm, at the middle token.

    Args:
        memory: encoder frames.
        tokens: of the transcript: how often each layer is run.
    """
    dense, size = decoder.architecture[0], decoder._output_size_bf_softmax
    norm, x = layer_norm(size), torch.randn(1, 1, size)
    known, encoded = (
        torch.randn(1, (tokens + 1) // 2, size),
        torch.randn(1, memory, size),
    )

    def attend(layer: nn.Module, keys: torch.Tensor | None) -> Task:
        if keys is not None:
            return lambda: layer(norm(x), keys, None)
        return lambda: layer(x, norm(known), None)

    for group, keys, number, *widths in (
        (SELF, None, dense.self_heads, dense.self_qk_dim, dense.self_v_dim),
        (SOURCE, encoded, dense.source_heads, dense.source_qk_dim, dense.source_v_dim),
    ):
        shares = [_shares(n, (0.25, 0.5, 1)) for n in (number, *widths)]
        for kept, qk, v in itertools.product(*shares):
            layer = PlainAttention(
                size, heads=kept, qk_dim=qk, v_dim=v, scale_dim=widths[0],
                dropout_rate=0.0, gates=None, group=group,
            ).eval()  # fmt: skip
            counts = heads.counts(kept, kept * qk, kept * v, 1, group)
            yield Point(counts, attend(layer, keys), tokens)
    for units in _shares(dense.ffn):
        layer = FeedForward(size, units, 0.0, nn.ReLU(), None, FFN).eval()
        counts = FeedForward.counts(units, 1, FFN)
        yield Point(counts, lambda layer=layer: layer(norm(x)), tokens)
