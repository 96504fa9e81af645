"""Describe the two branches of Branchformer and E-Branchformer blocks.

Peng et al. 2022, "Branchformer: Parallel MLP-attention architectures" (arXiv
2207.02971). Attention and a convolutional gating MLP see the same input; their outputs
are put side by side, and a linear layer brings them back to the model dimension. What
each branch gives to it can go, too.
"""

from collections.abc import Callable

from torch import nn

from espnet_prune.families import parts
from espnet_prune.families.espnet import layers
from espnet_prune.families.parts import Description, Key
from espnet_prune.pruning.structure import Slot, Structure


def two_branches(
    model: nn.Module, into: Description, at: str, key: Callable[[str], Key]
) -> list[str]:
    """Describe attention and gating MLP of a block, and what merges them.

    Args:
        model, into: as for :func:`~espnet_prune.families.parts.feed_forward`.
        at: name of the block, with a dot behind it.
        key: where a number of units of this block stands in the architecture.

    Returns:
        the names of both.
    """
    block = model.get_submodule(at[:-1])
    attn, cgmlp = f"{at}attn", f"{at}cgmlp"
    # E-Branchformer adds a depthwise convolution of what is merged.
    fused = hasattr(block, "depthwise_conv_fusion")
    merged = _merged(at, 0, block.size, fused)
    heads = key("heads"), key("qk_dim"), key("v_dim")
    more = layers.positional(block.attn) | {"merged": merged[-1:]}
    parts.attention(model, into, attn, f"{at}norm_mha", heads, **more)
    _outputs(into, attn, "attention", f"{attn}.linear_out", merged, key("attn_out"))
    merged = _merged(at, block.size, block.size, fused)
    _gating_mlp(model, into, cgmlp, f"{at}norm_mlp", merged, key)
    into.times |= {slot.tensor: "time" for slot in merged if "weight" in slot.tensor}
    return [attn, cgmlp]


def _merged(at: str, start: int, length: int, fused: bool) -> tuple[Slot, ...]:
    """Find where a branch's channels are in what merges the branches.

    The last place is where they are consumed, after the bias of the convolution, and
    gated.
    """
    fusion = f"{at}depthwise_conv_fusion"
    places = [(f"{at}merge_proj.weight", 1)]
    if fused:
        places = [(f"{fusion}.weight", 0), (f"{fusion}.bias", 0), *places]
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
    key: Callable[[str], Key],
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
