"""Prune speech encoders into small ones that their owners' tools load as usual.

Importing the package registers its encoders with ESPnet and transformers, so that
``espnet2.bin.asr_inference.Speech2Text`` and ``transformers.AutoModel`` can build a
compact model. :func:`prune` makes one of an ESPnet model, :func:`prune_speech` of
HuBERT, WavLM or wav2vec 2.0; :func:`load` builds the former for inference in a chosen
precision, and :func:`resize` switches a checkpoint of several sizes.
"""

from typing import Any

from espnet_prune.training.registration import register as _register

__version__ = "0.1.0"
__all__ = ["__version__", "load", "prune", "prune_speech", "resize"]

_register()


def __getattr__(name: str) -> Any:
    # Not imported above: they import ESPnet, which takes seconds.
    if name == "load":
        from espnet_prune.serving.load import load

        return load
    if name == "resize":
        from espnet_prune.serving.sizes import resize

        return resize
    if name == "prune":
        from espnet_prune.cli.prune import prune

        return prune
    if name == "prune_speech":
        from espnet_prune.cli.prune_speech import prune_speech

        return prune_speech
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
