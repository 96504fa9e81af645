"""Describe the layers that ESPnet alone has, and count how often they are applied."""

from typing import Any

from torch import Tensor, nn

from espnet_prune.families.espnet.chunks import chunks_of
from espnet_prune.families.espnet.conditioning import conditionings
from espnet_prune.families.espnet.names import linear_of
from espnet_prune.families.espnet.nets import (
    LegacyRelPositionMultiHeadedAttention,
    RelPositionMultiHeadedAttention,
    StreamingSubsampling,
    TooShortUttError,
)
from espnet_prune.families.parts import Description, Key, outer
from espnet_prune.pruning.structure import Slot, Structure

POSITIONS = ("first", "second", "third")  # of a convolution in the subsampling


def content(x: Tensor | tuple[Tensor, Any]) -> Tensor:
    """Take what a block or an encoder gives on, without what travels beside it.

    Args:
        x: (batch, time, channel), alone or before positions (of a block) or the outputs
            of intermediate CTC (of an encoder).
    """
    return x[0] if isinstance(x, tuple) else x


def convolutions(embed: nn.Module) -> list[tuple[str, nn.Conv1d | nn.Conv2d]]:
    """List the convolutions of a subsampling, with their names in it.

    Args:
        embed: one of ESPnet's ``Conv1dSubsampling`` or ``Conv2dSubsampling`` layers, or
            a compact one.
    """
    return [
        (f"conv.{name}", layer)
        for name, layer in embed.conv.named_children()
        if isinstance(layer, nn.Conv1d | nn.Conv2d)
    ]


def shrunk(length: int, embed: nn.Module) -> list[int]:
    """Give a length, of frames or of features, after each convolution."""
    lengths = []
    for _, layer in convolutions(embed):
        length = (length - layer.kernel_size[0]) // layer.stride[0] + 1
        lengths.append(length)
    return lengths


def shortest(embed: nn.Module) -> int:
    """Compute how many feature frames leave one frame after the subsampling."""
    frames = 1
    for _, layer in reversed(convolutions(embed)):
        frames = (frames - 1) * layer.stride[0] + layer.kernel_size[0]
    return frames


def refuse_too_short(frames: int, least: int) -> None:
    """Refuse an utterance of fewer frames than the subsampling needs, as ESPnet does.

    ESPnet's programs write an empty hypothesis for one that is refused so.

    Args:
        frames: feature frames that there are.
        least: those of :func:`shortest`.

    Raises:
        TooShortUttError: there are too few.
    """
    if frames < least:
        raise TooShortUttError(
            f"has {frames} frames and is too short for subsampling "
            f"(it needs at least {least} frames)",
            frames,
            least,
        )


def refuse_too_short_streams() -> None:
    """Let ESPnet's streaming encoders refuse what is too short, as its others do.

    There an error of torch's convolution would end the decoding of a whole set.
    """
    subsample = StreamingSubsampling.forward

    def forward(self: nn.Module, x: Tensor, x_mask: Tensor | None) -> Any:
        refuse_too_short(x.shape[1], shortest(self))
        return subsample(self, x, x_mask)

    StreamingSubsampling.forward = forward


def encoder_clocks(encoder: nn.Module, frames: int, features: int) -> dict[str, float]:
    """Count how often the tensors of an encoder are applied, by clock.

    The projection of CTC that conditions an encoder is the head's work, as it is where
    CTC reads the encoder's output: :func:`~espnet_prune.measuring.cost.rest_cost`.

    Args:
        encoder: ESPnet's, or a compact one.
        frames: feature frames of an utterance.
        features: of each frame.
    """
    embed = encoder.embed
    rows, bands = shrunk(frames, embed), shrunk(features, embed)
    if isinstance(embed.conv[0], nn.Conv1d):  # features are its channels
        bands = [1] * len(rows)
    filters = {POSITIONS[i]: n * bands[i] for i, n in enumerate(rows)}
    chunks, time = chunks_of(encoder, rows[-1])
    offsets = 2 * time - 1
    return filters | {
        "subsampled": rows[-1],
        "time": chunks * time,
        "conditioned": conditionings(encoder) * time,
        "offsets": offsets,
        "v": chunks * time * time,
        "qk": time * (time + offsets),
        "legacy_qk": time * 2 * time,
    }


def decoder_clocks(memory: int, tokens: int) -> dict[str, float]:
    """Count how often the tensors of a decoder are applied, run once on a transcript.

    Args:
        memory: encoder frames.
        tokens: of the transcript.
    """
    return {
        "tokens": tokens,
        "memory": memory,
        "self_products": tokens * tokens,
        "source_products": tokens * memory,
    }


def positional(layer: nn.Module) -> dict[str, Any]:
    """Return the options of :func:`families.parts.attention` for the positions it sees.

    ESPnet's legacy relative ones are as many as frames, the latest nearly twice as
    many; absolute ones are added to the input long before.

    Args:
        layer: ESPnet's attention.
    """
    if isinstance(layer, RelPositionMultiHeadedAttention):
        return {}
    if isinstance(layer, LegacyRelPositionMultiHeadedAttention):
        return {"positions": "time", "clocks": ("time", "time", "legacy_qk", "v")}
    return {"clocks": ("time", "time", "v", "v")}


def convolution(
    model: nn.Module, into: Description, at: str, norm: str, key: Key
) -> None:
    """Describe pointwise, GLU, depthwise, BatchNorm, activation, pointwise.

    The gate sits after norm and activation: before them, the depthwise bias and the
    BatchNorm shift would turn a zeroed channel into a constant.

    Args:
        model, into, at, norm, key: as for :func:`families.parts.feed_forward`.
    """
    channels = model.get_submodule(at).depthwise_conv.out_channels
    group, out = "convolution", Slot(f"{at}.pointwise_conv2.weight", 1)
    first = [Slot(f"{at}.pointwise_conv1.{n}", tiles=2) for n in ("weight", "bias")]
    inner = ("depthwise_conv.weight", "depthwise_conv.bias", "norm.weight", "norm.bias")
    statistics = ("norm.running_mean", "norm.running_var")
    into.structures += [
        Structure(
            at,
            1,
            outer(group),
            f"{group}.module",
            gated=(out, Slot(f"{at}.pointwise_conv2.bias")),
            owns=(at, norm),
        ),
        Structure(
            f"{at}.channel",
            channels,
            group,
            f"{group}.channel",
            gated=(out,),
            cut=(*first, *(Slot(f"{at}.{n}") for n in (*inner, *statistics)), out),
            parent=at,
            key=key,
        ),
    ]
    into.reads.append(Slot(f"{at}.pointwise_conv1.weight", 1))
    into.writes += [Slot(f"{at}.pointwise_conv2.{n}") for n in ("weight", "bias")]
    into.norms.append(norm)
    for name in ("pointwise_conv1", "depthwise_conv", "pointwise_conv2"):
        into.times[f"{at}.{name}.weight"] = "time"


def subsampling(model: nn.Module, into: Description, at: str) -> None:
    """Describe convolutions with strides and the linear layer behind them.

    A channel is gated where it is consumed: by the next convolution, and by the columns
    that the linear layer has for it, one per frequency band if there are any.

    Args:
        model, into, at: as for :func:`~espnet_prune.families.parts.feed_forward`.
    """
    embed = model.get_submodule(at)
    linear, layers = f"{at}.{linear_of(embed)}", convolutions(embed)
    consumers = [f"{at}.{name}" for name, _ in layers[1:]] + [linear]
    for i, (name, layer) in enumerate(layers):
        consumer = Slot(f"{consumers[i]}.weight", 1)
        made = Slot(f"{at}.{name}.weight"), Slot(f"{at}.{name}.bias")
        into.structures.append(
            Structure(
                f"{at}.{name}",
                layer.out_channels,
                "subsampling",
                f"subsampling.{POSITIONS[i]}",
                gated=(consumer,),
                cut=(*made, consumer),
                least=1,
                key=("subsampling", i),
            )
        )
        into.times[f"{at}.{name}.weight"] = POSITIONS[i]
    into.writes += [Slot(f"{linear}.weight"), Slot(f"{linear}.bias")]
    into.times[f"{linear}.weight"] = "subsampled"


def conditioning(encoder: nn.Module, into: Description, prefix: str) -> None:
    """Describe the layer of self-conditioned CTC, of which nothing can go.

    It reads tokens, and writes to all channels between the blocks.

    Args:
        encoder: of a model; one of ESPnet's that is in no model lacks the layer yet.
        into: what is added to.
        prefix: of its tensors' names in the model.
    """
    if conditionings(encoder):
        into.times[f"{prefix}conditioning_layer.weight"] = "conditioned"
