"""Describe ESPnet's Branchformer encoder: an E-Branchformer without FFNs and fusion."""

from espnet_prune.families.espnet.e_branchformer import describe

__all__ = ["describe"]
