"""Describe HuBERT, wav2vec 2.0 and WavLM of transformers.

Channels of the convolutions, groups and outer taps of the positional convolution,
heads and the dimensions inside them, FFN units, whole submodules and blocks can go.
The last convolution is read through a norm over its channels, and in some models all.
"""

from dataclasses import replace

from torch import nn

from espnet_prune.config.sections import GateOptions
from espnet_prune.families import parts
from espnet_prune.families.parts import Description
from espnet_prune.pruning.structure import Slot, Structure

PRETRAINING = "masked_spec_embed"  # a parameter that nothing else uses
TAP_DROP_RATE = 0.01  # at the start, at most: seven of them go together
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


def clocks(model: nn.Module, samples: int) -> dict[str, float]:
    """Count how often the tensors are applied to an utterance, by clock.

    Args:
        model: for the strides of its convolutions.
        samples: of the utterance.
    """
    found, length = {}, samples
    config = model.config
    pairs = zip(config.conv_kernel, config.conv_stride, strict=True)
    for number, (kernel, stride) in enumerate(pairs):
        length = (length - kernel) // stride + 1
        found[f"convolution.{number}"] = length
    # An even kernel makes a frame too many, which is cut off.
    found["positions"] = length + (config.num_conv_pos_embeddings + 1) % 2
    # The gate of a head's position bias: eight numbers of its share of the input.
    found["gate"] = 8 * config.hidden_size // config.num_attention_heads * length
    return found | {"time": length, "qk": length * length, "v": length * length}


def describe(
    model: nn.Module, options: GateOptions, gated: bool = True, prefix: str = ""
) -> Description:
    """Describe what can go of a model.

    Args:
        model: ``HubertModel``, ``Wav2Vec2Model`` or ``WavLMModel``, its positional
            convolution with a plain weight.
        options: what has gates, and how they are made.
        gated: whether the model has gates; a compact one has none.
        prefix: of its tensors' names.
    """
    into = Description(options, gated)
    holder = parts.under(model, prefix)
    convolutions(model, into, prefix)
    positions(model, into, prefix)
    for i in range(len(model.encoder.layers)):
        at = f"{prefix}encoder.layers.{i}"
        # In front of a submodule the norm goes with it; behind, it stays.
        first = model.config.do_stable_layer_norm
        keys = tuple(("blocks", i, name) for name in ("heads", "qk_dim", "v_dim"))
        parts.attention(
            holder, into, f"{at}.attention", f"{at}.layer_norm", keys,
            clocks=("time", "time", "qk", "v"), names=PROJECTIONS, own_norm=first,
        )  # fmt: skip
        if hasattr(model.encoder.layers[i].attention, "gru_rel_pos_const"):
            position_bias(into, f"{at}.attention")
        parts.feed_forward(
            holder, into, f"{at}.feed_forward", f"{at}.final_layer_norm",
            ("blocks", i, "ffn"),
            names=("intermediate_dense", "output_dense"), own_norm=first,
        )  # fmt: skip
        norms = [] if first else [f"{at}.layer_norm", f"{at}.final_layer_norm"]
        submodules = [f"{at}.attention", f"{at}.feed_forward"]
        parts.whole_block(into, at, submodules, *norms)
    return into


def convolutions(model: nn.Module, into: Description, prefix: str) -> None:
    """Describe the convolutions: a channel is gated where it is consumed, since a bias
    or a norm behind it would turn a zeroed one into a constant.

    Args:
        model, into, prefix: as for :func:`describe`.
    """
    layers = model.feature_extractor.conv_layers
    for number, layer in enumerate(layers):
        at = f"{prefix}feature_extractor.conv_layers.{number}"
        cut = [Slot(f"{at}.conv.weight")]
        if layer.conv.bias is not None:
            cut.append(Slot(f"{at}.conv.bias"))
        norms = []
        if hasattr(layer, "layer_norm"):
            norms.append((f"{at}.layer_norm", layer.layer_norm))
        if number + 1 < len(layers):
            after = f"{prefix}feature_extractor.conv_layers.{number + 1}.conv.weight"
        else:
            after = f"{prefix}feature_projection.projection.weight"
            if hasattr(model.feature_projection, "layer_norm"):
                norm = f"{prefix}feature_projection.layer_norm"
                norms.append((norm, model.feature_projection.layer_norm))
        opens = []
        for name, norm in norms:
            cut += [Slot(f"{name}.{part}") for part in ("weight", "bias")]
            # A group norm has a group for each channel: no other enters it.
            if gated_norm(norm) and into.gated:
                opens.append(Slot(f"{name}.open"))
                into.open_norms[name] = (True, False)
        consumer = Slot(after, 1)
        into.structures.append(
            Structure(
                f"{at}.channel",
                layer.conv.out_channels,
                "convolution",
                f"convolution.{number}",
                gated=(consumer,),
                cut=(*cut, consumer),
                opens=tuple(opens),
                least=1,
                key=("convolution", number),
            )  # fmt: skip
        )
        into.times[f"{at}.conv.weight"] = f"convolution.{number}"
    into.times[f"{prefix}feature_projection.projection.weight"] = "time"


def position_bias(into: Description, at: str) -> None:
    """Describe what WavLM's attention has beside: the gates of its position bias.

    A head's constant goes with it. The table of the bias, in the first block, serves
    all blocks, and stays.

    Args:
        into: what is added to; the attention is in it already.
        at: name of the attention.
    """
    const, linear = f"{at}.gru_rel_pos_const", f"{at}.gru_rel_pos_linear"
    owned = (*(f"{at}.{name}" for name in PROJECTIONS), const, linear)
    for number, structure in enumerate(into.structures):
        if structure.name == at:
            owns = (*owned, *(name for name in structure.owns if name != at))
            into.structures[number] = replace(structure, owns=owns)
        elif structure.name == f"{at}.head":
            cut = (*structure.cut, Slot(const, 1))
            into.structures[number] = replace(structure, cut=cut)
    into.extra[f"{at}.head"] = "gate"


def gated_norm(norm: nn.Module) -> bool:
    """Tell whether a norm sees all channels at once."""
    return isinstance(norm, nn.LayerNorm)


def positions(model: nn.Module, into: Description, prefix: str) -> None:
    """Describe the positional convolution: its groups, each with its outputs (their
    inputs are channels that all else reads, too), and its taps.

    Args:
        model, into, prefix: as for :func:`describe`.
    """
    at = f"{prefix}encoder.pos_conv_embed.conv"
    made = Slot(f"{at}.weight"), Slot(f"{at}.bias")
    conv = model.encoder.pos_conv_embed.conv
    into.structures.append(
        Structure(at, conv.groups, "positions", "positions.group", gated=made, cut=made)
    )
    (taps,) = conv.kernel_size
    rings, width = rings_of(taps)
    outside = rings * width
    for name, start, nested in (("past", 0, -1), ("future", taps - outside, 1)):
        if rings:
            slots = (Slot(f"{at}.weight", 2, start, outside),)
            into.structures.append(
                Structure(
                    f"{at}.{name}",
                    rings,
                    "positions",
                    gated=slots,
                    cut=slots,
                    nested=nested,
                    most_dropped=TAP_DROP_RATE,
                )  # fmt: skip
            )
    core = (Slot(f"{at}.weight", 2, outside, taps - 2 * outside),)
    into.structures.append(
        Structure(f"{at}.core", 1, "positions", cut=core, learned=False)
    )
    into.times[f"{at}.weight"] = "positions"


def rings_of(taps: int) -> tuple[int, int]:
    """Count what can go at each end of a filter, and how many taps are in each.

    Seven eighths of a long filter can go; the middle, where the frame itself is, stays.
    """
    width = max(1, taps // 16)
    return max(0, min(7, taps // 2 - 1)), width
