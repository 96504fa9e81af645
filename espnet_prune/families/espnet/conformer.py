"""Describe ESPnet's Conformer encoder."""

from torch import nn

from espnet_prune.config.sections import GateOptions
from espnet_prune.families import parts
from espnet_prune.families.espnet import layers
from espnet_prune.families.parts import Description


def describe(
    encoder: nn.Module, options: GateOptions, gated: bool = True, prefix: str = ""
) -> Description:
    """Describe what can go of a Conformer: half FFNs, attention, convolution.

    Args:
        encoder: ESPnet's, whose options :data:`rules.CONFORMER` has checked.
        options: what has gates, and how they are made.
        gated: whether the model has gates; a compact one has none.
        prefix: of its tensors' names in the model, ``encoder.``.
    """
    into = Description(options, gated)
    model = parts.under(encoder, prefix)
    layers.subsampling(model, into, f"{prefix}embed")
    layers.conditioning(encoder, into, prefix)
    finals = []
    for i in range(len(encoder.encoders)):
        at = f"{prefix}encoders.{i}."

        def key(name: str, i: int = i) -> parts.Key:
            return "blocks", i, name

        names = ("self_attn", "conv_module", "feed_forward")
        submodules = [at + name for name in names]
        attention, convolution, ffn = submodules
        block = encoder.encoders[i]
        # A streaming one's are called as a Transformer's.
        norms = (
            ("norm1", "norm2") if hasattr(block, "norm1") else ("norm_mha", "norm_ff")
        )
        if block.feed_forward_macaron is not None:
            macaron = f"{at}feed_forward_macaron"
            norm = f"{at}norm_ff_macaron"
            parts.feed_forward(model, into, macaron, norm, key("ffn1"))
            submodules = [macaron, *submodules]
        heads = key("heads"), key("qk_dim"), key("v_dim")
        more = layers.positional(block.self_attn)
        parts.attention(model, into, attention, at + norms[0], heads, **more)
        layers.convolution(model, into, convolution, f"{at}norm_conv", key("conv"))
        parts.feed_forward(model, into, ffn, at + norms[1], key("ffn2"))
        finals.append(f"{at}norm_final")
        parts.whole_block(into, at[:-1], submodules, finals[-1])
    if options.model_dim:
        parts.model_dim(model, into, [*finals, f"{prefix}after_norm"])
    return into
