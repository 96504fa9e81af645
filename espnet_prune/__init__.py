"""Prune ESPnet2 ASR models into small ones that ESPnet loads as usual.

Importing the package registers its encoders (``prunable_conformer``, ...) with ESPnet,
so that ``espnet2.bin.asr_inference.Speech2Text`` can build a compact model.
:func:`load` builds one for inference in a chosen precision; :func:`prune` makes one.
"""

from typing import Any

from espnet_prune.training.registration import register as _register

__version__ = "0.1.0"
__all__ = ["__version__", "load", "prune"]

_register()


def __getattr__(name: str) -> Any:
    # Not imported above: they import ESPnet, which takes seconds.
    if name == "load":
        from espnet_prune.serving.load import load

        return load
    if name == "prune":
        from espnet_prune.cli.prune import prune

        return prune
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
