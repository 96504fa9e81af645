"""Prune ESPnet2 Conformer ASR models into small ones that ESPnet loads as usual.

Importing the package registers its encoder, ``prunable_conformer``, with ESPnet, so
that ``espnet2.bin.asr_inference.Speech2Text`` can build a compact model.
"""

from espnet_prune.registration import register as _register
from espnet_prune.version import __version__

__all__ = ["__version__"]

_register()
