"""Describe the layers that ESPnet alone has, and count how often they are applied."""

from typing import Any

from torch import nn

from espnet_prune.families.espnet.names import linear_of
from espnet_prune.families.espnet.nets import LegacyRelPositionMultiHeadedAttention
from espnet_prune.families.parts import Description, Key, outer
from espnet_prune.pruning.structure import Slot, Structure


def halved(length: int) -> int:
    """Return the length after a convolution of width 3, stride 2, without padding."""
    return (length - 1) // 2


def encoder_clocks(frames: int, features: int) -> dict[str, float]:
    """Count how often the tensors of an encoder are applied, by clock.

    Args:
        frames: feature frames of an utterance.
        features: of each frame.
    """
    time, rows = halved(halved(frames)), halved(frames)
    bands, offsets = halved(halved(features)), 2 * time - 1
    return {
        "first": rows * halved(features),
        "second": time * bands,
        "time": time,
        "offsets": offsets,
        "v": time * time,
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


def relative(layer: nn.Module) -> dict[str, Any]:
    """Return the options of :func:`families.parts.attention` for relative positions.

    ESPnet's legacy ones are as many as frames, the latest nearly twice as many.

    Args:
        layer: ESPnet's attention.
    """
    if not isinstance(layer, LegacyRelPositionMultiHeadedAttention):
        return {}
    return {"positions": "time", "clocks": ("time", "time", "legacy_qk", "v")}


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
    """Describe two 3x3 convolutions of stride 2 and the linear layer behind them.

    A channel is gated where it is consumed: by the second convolution, and by the
    columns that the linear layer has for it, one per frequency band.

    Args:
        model, into, at: as for :func:`~espnet_prune.families.parts.feed_forward`.
    """
    layer = model.get_submodule(at)
    linear = f"{at}.{linear_of(layer)}"
    second, out = Slot(f"{at}.conv.2.weight", 1), Slot(f"{linear}.weight", 1)
    for name, conv, consumer, position in (
        ("first", "conv.0", second, 0),
        ("second", "conv.2", out, 1),
    ):
        into.structures.append(
            Structure(
                f"{at}.{conv}",
                layer.get_submodule(conv).out_channels,
                "subsampling",
                f"subsampling.{name}",
                gated=(consumer,),
                cut=(Slot(f"{at}.{conv}.weight"), Slot(f"{at}.{conv}.bias"), consumer),
                least=1,
                key=("subsampling", position),
            )
        )
        into.times[f"{at}.{conv}.weight"] = name
    into.writes += [Slot(f"{linear}.weight"), Slot(f"{linear}.bias")]
    into.times[f"{linear}.weight"] = "time"
