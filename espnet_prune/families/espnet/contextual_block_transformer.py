"""Describe ESPnet's streaming Transformer encoder: a Transformer on chunks."""

from espnet_prune.families.espnet.transformer import describe

__all__ = ["describe"]
