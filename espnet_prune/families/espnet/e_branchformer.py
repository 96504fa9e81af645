"""Describe ESPnet's E-Branchformer encoder.

Kim et al. 2022, "E-Branchformer: Branchformer with enhanced merging for speech
recognition" (arXiv 2210.00077): half FFNs around two branches, of whose outputs a
depthwise convolution is added before they are merged.
"""

from torch import nn

from espnet_prune.config.sections import GateOptions
from espnet_prune.families import parts
from espnet_prune.families.espnet import layers
from espnet_prune.families.espnet.branches import two_branches
from espnet_prune.families.parts import Description, Key


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
    layers.conditioning(encoder, into, prefix)
    for i, block in enumerate(encoder.encoders):
        at = f"{prefix}encoders.{i}."

        def key(name: str, i: int = i) -> Key:
            return "blocks", i, name

        submodules = two_branches(model, into, at, key)
        for name, norm, units in (
            ("feed_forward_macaron", "norm_ff_macaron", "ffn1"),
            ("feed_forward", "norm_ff", "ffn2"),
        ):
            if getattr(block, name, None) is not None:
                parts.feed_forward(model, into, at + name, at + norm, key(units))
                submodules.append(at + name)
        norm, bias = f"{at}norm_final", f"{at}merge_proj.bias"
        parts.whole_block(into, at[:-1], submodules, norm, bias=bias)
    return into
