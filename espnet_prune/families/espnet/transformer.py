"""Describe ESPnet's Transformer encoder."""

from torch import nn

from espnet_prune.config.sections import GateOptions
from espnet_prune.families import parts
from espnet_prune.families.espnet import layers
from espnet_prune.families.parts import Description


def describe(
    encoder: nn.Module, options: GateOptions, gated: bool = True, prefix: str = ""
) -> Description:
    """Describe what can go of a Transformer: attention without relative positions, FFN.

    Args:
        encoder: ESPnet's, whose options :data:`rules.TRANSFORMER` has checked.
        options, gated, prefix: as for :func:`conformer.describe`.
    """
    into = Description(options, gated)
    model = parts.under(encoder, prefix)
    layers.subsampling(model, into, f"{prefix}embed")
    layers.conditioning(encoder, into, prefix)
    for i in range(len(encoder.encoders)):
        at, key = f"{prefix}encoders.{i}", ("blocks", i)
        heads = tuple((*key, name) for name in ("heads", "qk_dim", "v_dim"))
        more = layers.positional(encoder.encoders[i].self_attn)
        attention, ffn = f"{at}.self_attn", f"{at}.feed_forward"
        parts.attention(model, into, attention, f"{at}.norm1", heads, **more)
        parts.feed_forward(model, into, ffn, f"{at}.norm2", (*key, "ffn2"))
        parts.whole_block(into, at, [attention, ffn])
    return into
