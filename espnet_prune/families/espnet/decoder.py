"""Describe ESPnet's Transformer decoder."""

from torch import nn

from espnet_prune.config.sections import GateOptions
from espnet_prune.families import parts
from espnet_prune.families.parts import Description

SELF, SOURCE, FFN = "decoder.self", "decoder.source", "decoder.ffn"


def describe(
    decoder: nn.Module, options: GateOptions, gated: bool = True, prefix: str = ""
) -> Description:
    """Describe what can go of a decoder: self-attention, attention to the encoder, FFN.

    Args:
        decoder: ESPnet's, whose options :data:`rules.DECODER` has checked.
        options, gated, prefix: as for :func:`conformer.describe`.
    """
    into = Description(options, gated)
    model = parts.under(decoder, prefix)
    for i in range(len(decoder.decoders)):
        at = f"{prefix}decoders.{i}"
        for name, norm, group, memory, short in (
            ("self_attn", "norm1", SELF, "tokens", "self"),
            ("src_attn", "norm2", SOURCE, "memory", "source"),
        ):
            sizes = [f"{short}_{size}" for size in ("heads", "qk_dim", "v_dim")]
            parts.attention(
                model,
                into,
                f"{at}.{name}",
                f"{at}.{norm}",
                tuple(("decoder", i, size) for size in sizes),
                group,
                ("tokens", memory, f"{short}_products", f"{short}_products"),
            )
        ffn = f"{at}.feed_forward"
        key = ("decoder", i, "ffn")
        parts.feed_forward(model, into, ffn, f"{at}.norm3", key, FFN, "tokens")
    return into
