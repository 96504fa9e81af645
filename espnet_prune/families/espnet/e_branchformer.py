"""Describe ESPnet's E-Branchformer encoder.

Kim et al. 2022, "E-Branchformer: Branchformer with enhanced merging for speech
recognition" (arXiv 2210.00077). The outputs of attention and of a convolutional gating
MLP are put side by side, a depthwise convolution of them is added, and a linear layer
brings the sum back to the model dimension. What each branch gives to it can go, too.
"""

from torch import nn

from espnet_prune.config.sections import GateOptions
from espnet_prune.families import parts
from espnet_prune.families.espnet import layers
from espnet_prune.families.parts import Description, Key
from espnet_prune.pruning.structure import Slot, Structure


def describe(
    encoder: nn.Module, options: GateOptions, gated: bool = True, prefix: str = ""
) -> Description:
    """Describe what can go of an E-Branchformer: half FFNs, both branches.

    Args:
        encoder: ESPnet's, whose options :data:`rules.E_BRANCHFORMER` has checked.
        options, gated, prefix: as for :func:`conformer.describe`.
    """
    into = Description(options, gated)
    model = parts.under(encoder, prefix)
    layers.subsampling(model, into, f"{prefix}embed")
    for i, block in enumerate(encoder.encoders):
        at = f"{prefix}encoders.{i}."

        def key(name: str, i: int = i) -> Key:
            return "blocks", i, name

        submodules = [f"{at}attn", f"{at}cgmlp"]
        for name, norm, units in (
            ("feed_forward_macaron", "norm_ff_macaron", "ffn1"),
            ("feed_forward", "norm_ff", "ffn2"),
        ):
            if getattr(block, name) is not None:
                parts.feed_forward(model, into, at + name, at + norm, key(units))
                submodules.append(at + name)
        heads = key("heads"), key("qk_dim"), key("v_dim")
        attn, cgmlp = submodules[:2]
        merged = _merged(at, 0, block.size)
        more = layers.relative(block.attn) | {"merged": merged[-1:]}
        parts.attention(model, into, attn, f"{at}norm_mha", heads, **more)
        _outputs(into, attn, "attention", f"{attn}.linear_out", merged, key("attn_out"))
        merged = _merged(at, block.size, block.size)
        _gating_mlp(model, into, cgmlp, f"{at}norm_mlp", merged, key)
        norm, bias = f"{at}norm_final", f"{at}merge_proj.bias"
        parts.whole_block(into, at[:-1], submodules, norm, bias=bias)
        fusion, projection = f"{at}depthwise_conv_fusion", f"{at}merge_proj"
        into.times |= dict.fromkeys(
            [f"{fusion}.weight", f"{projection}.weight"], "time"
        )
    return into


def _merged(at: str, start: int, length: int) -> tuple[Slot, ...]:
    """Find where a branch's channels are in what merges the branches.

    The last place is where they are consumed, after the bias of the convolution, and
    gated.
    """
    fusion = f"{at}depthwise_conv_fusion"
    places = (
        (f"{fusion}.weight", 0),
        (f"{fusion}.bias", 0),
        (f"{at}merge_proj.weight", 1),
    )
    return tuple(Slot(tensor, dim, start, length) for tensor, dim in places)


def _outputs(
    into: Description,
    at: str,
    group: str,
    layer: str,
    merged: tuple[Slot, ...],
    key: Key,
) -> None:
    """Describe the channels that a branch gives on."""
    made = Slot(f"{layer}.weight"), Slot(f"{layer}.bias")
    into.structures.append(
        Structure(
            f"{at}.out",
            merged[-1].length,
            group,
            f"{group}.channel",
            gated=merged[-1:],
            cut=(*made, *merged),
            parent=at,
            key=key,
        )
    )


def _gating_mlp(
    model: nn.Module,
    into: Description,
    at: str,
    norm: str,
    merged: tuple[Slot, ...],
    key,
) -> None:
    """Describe the convolutional gating MLP (Sakuma et al. 2022).

    A unit is a pair of channels, one of each half; the norm of the second half sees the
    units that are left alone.
    """
    group, out = "cgmlp", Slot(f"{at}.channel_proj2.weight", 1)
    first = [Slot(f"{at}.channel_proj1.0.{n}", tiles=2) for n in ("weight", "bias")]
    names = ("csgu.norm.weight", "csgu.norm.bias", "csgu.conv.weight", "csgu.conv.bias")
    opens = ()
    if into.gated:
        opens = (Slot(f"{at}.csgu.norm.open"),)
        into.open_norms[f"{at}.csgu.norm"] = (True, False)
    into.structures += [
        Structure(at, 1, group, f"{group}.module", gated=merged[-1:], owns=(at, norm)),
        Structure(
            f"{at}.unit",
            model.get_submodule(at).channel_proj2.in_features,
            group,
            f"{group}.unit",
            gated=(out,),
            cut=(*first, *(Slot(f"{at}.{name}") for name in names), out),
            opens=opens,
            parent=at,
            key=key("cgmlp"),
        ),
    ]
    _outputs(into, at, group, f"{at}.channel_proj2", merged, key("cgmlp_out"))
    for name in ("channel_proj1.0", "csgu.conv", "channel_proj2"):
        into.times[f"{at}.{name}.weight"] = "time"
