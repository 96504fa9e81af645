"""The layers that a latency table is fitted to: several sizes of each, ready to run.

The work of a decoder is that of one hypothesis, token by token with ESPnet's cache; a
search does it for every hypothesis of its beam.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from torch import nn

from espnet_prune.families.espnet.attention import SizedAttention, sizes_of
from espnet_prune.families.espnet.decoder import FFN, SELF, SOURCE
from espnet_prune.families.espnet.model import Lengths
from espnet_prune.families.espnet.parts import halved
from espnet_prune.serving.fast.attention import FastAttention
from espnet_prune.serving.fast.convolution import FastConvolution
from espnet_prune.serving.fast.feed_forward import FastFeedForward
from espnet_prune.serving.fast.subsampling import FastSubsampling

Task = Callable[[], object]
Counts = dict[str, float]


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
        pruned: whether its decoder is pruned, too.
    """

    model: ESPnetASRModel
    samples: int
    tokens: int
    pruned: bool = False

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


def encoder_points(encoder: nn.Module, lengths: Lengths) -> Iterator[Point]:
    """Layers of several sizes as they run at inference, with their norms, on noise.

    Args:
        encoder: ESPnet's Conformer.
        lengths: of the utterance.
    """
    block, embed, features = encoder.encoders[0], encoder.embed, lengths.features
    size, pos_enc = encoder.output_size(), embed.out[1]
    noise = torch.randn(1, lengths.frames, features)
    time = halved(halved(lengths.frames))
    x, pos_emb = pos_enc.eval()(torch.randn(1, time, size))
    norm = block.norm_final.eval()

    def point(counts: Counts, layer: Callable[..., object], *more: object) -> Point:
        return Point(counts, lambda: layer(norm(x), *more))

    activation = block.feed_forward.activation
    for units in _shares(block.feed_forward.w_1.out_features):
        layer = _feed_forward(size, units, activation)
        yield point({"ffn.module": 1, "ffn.unit": units}, FastFeedForward(layer))
    depthwise = block.conv_module.depthwise_conv
    for channels in _shares(depthwise.out_channels):
        layer = _convolution(size, channels, depthwise.kernel_size[0], activation)
        counts = {"convolution.module": 1, "convolution.channel": channels}
        yield point(counts, FastConvolution(layer))
    for kept, qk, v in _head_sizes(block.self_attn):
        fast = FastAttention(_attention(block.self_attn, size, kept, qk, v))
        counts = _head_counts("attention", kept, qk, v)
        yield point(counts, fast, None, fast.table(pos_emb))
    sizes = (_shares(embed.conv[i].out_channels) for i in (0, 2))
    for first, second in itertools.product(*sizes):
        bands = halved(halved(features))
        conv = [nn.Conv2d(1, first, 3, 2), nn.ReLU(), nn.Conv2d(first, second, 3, 2)]
        out = [nn.Linear(second * bands, size), pos_enc]
        fast = FastSubsampling(SimpleNamespace(conv=conv, out=out), features)
        counts = {
            "subsampling.module": 1,
            "subsampling.first": first,
            "subsampling.second": second,
            "subsampling.filter": first * second,
        }
        yield Point(counts, lambda fast=fast: fast(noise))
    for repeats in (1, 2, 4):
        layer = nn.Sequential(*[norm] * repeats)
        yield Point({"norm.module": repeats}, lambda layer=layer: layer(x))


def decoder_points(decoder: nn.Module, memory: int, tokens: int) -> Iterator[Point]:
    """Layers of several sizes, each with its norm, at the middle token.

    Args:
        decoder: ESPnet's Transformer decoder.
        memory: encoder frames.
        tokens: of the transcript: how often each layer is run.
    """
    dense = decoder.decoders[0]
    size, norm = dense.size, dense.norm1
    x, encoded = torch.randn(1, 1, size), torch.randn(1, memory, size)
    known = torch.randn(1, (tokens + 1) // 2, size)

    def attend(layer: nn.Module, keys: torch.Tensor | None) -> Task:
        if keys is not None:
            return lambda: layer(norm(x), keys, keys, None)

        def run() -> object:
            keys = norm(known)
            return layer(x, keys, keys, None)

        return run

    attentions = ((SELF, None, dense.self_attn), (SOURCE, encoded, dense.src_attn))
    for group, keys, stock in attentions:
        for kept, qk, v in _head_sizes(stock):
            layer = _attention(stock, size, kept, qk, v).eval()
            counts = _head_counts(group, kept, qk, v)
            yield Point(counts, attend(layer, keys), tokens)
    for units in _shares(dense.feed_forward.w_1.out_features):
        layer = _feed_forward(size, units, nn.ReLU())
        counts = {f"{FFN}.module": 1, f"{FFN}.unit": units}

        def run(layer: SimpleNamespace = layer) -> object:
            return layer.w_2(layer.activation(layer.w_1(norm(x))))

        yield Point(counts, run, tokens)


def _head_sizes(attention: nn.Module) -> Iterator[tuple[int, int, int]]:
    """Heads, and query/key and value dimensions of each."""
    shares = [_shares(n, (0.25, 0.5, 1)) for n in sizes_of(attention)[:3]]
    return itertools.product(*shares)


def _head_counts(group: str, kept: int, qk: int, v: int) -> Counts:
    sizes = {"module": 1, "head": kept, "qk": kept * qk, "v": kept * v}
    return {f"{group}.{name}": number for name, number in sizes.items()}


def _attention(like: nn.Module, size: int, kept: int, qk: int, v: int) -> nn.Module:
    """Attention of these sizes, with new weights."""
    parts = SimpleNamespace(
        linear_q=nn.Linear(size, kept * qk),
        linear_k=nn.Linear(size, kept * qk),
        linear_v=nn.Linear(size, kept * v),
        linear_out=nn.Linear(kept * v, size),
        dropout=nn.Dropout(0.0),
        h=kept,
        d_k=sizes_of(like)[1],
    )
    if hasattr(like, "linear_pos"):
        parts.linear_pos = nn.Linear(size, kept * qk, bias=False)
        parts.pos_bias_u = nn.Parameter(torch.zeros(kept, qk))
        parts.pos_bias_v = nn.Parameter(torch.zeros(kept, qk))
    return SizedAttention(parts, kept, qk, v)


def _feed_forward(size: int, units: int, activation: nn.Module) -> SimpleNamespace:
    return SimpleNamespace(
        w_1=nn.Linear(size, units), w_2=nn.Linear(units, size), activation=activation
    )


def _convolution(
    size: int, channels: int, width: int, activation: nn.Module
) -> SimpleNamespace:
    return SimpleNamespace(
        pointwise_conv1=nn.Conv1d(size, 2 * channels, 1),
        depthwise_conv=nn.Conv1d(channels, channels, width, groups=channels),
        norm=nn.BatchNorm1d(channels),
        pointwise_conv2=nn.Conv1d(channels, size, 1),
        activation=activation,
    )
