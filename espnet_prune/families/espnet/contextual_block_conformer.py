"""Describe ESPnet's streaming Conformer encoder: a Conformer on chunks."""

from espnet_prune.families.espnet.conformer import describe

__all__ = ["describe"]
