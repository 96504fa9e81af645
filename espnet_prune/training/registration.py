"""Make ESPnet know our encoder, decoder and model, without importing it before others.

ESPnet takes seconds to import, and most command lines of the recipe never need it. So
the registration waits for the import of ``espnet2.tasks.asr``, the module that owns the
registry; if that has happened already, it does not wait.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Any

from espnet_prune.families.registry import PREFIX

REGISTRY = "espnet2.tasks.asr"


def names_ours(config: dict[str, Any]) -> bool:
    """Whether the encoder or the decoder of an ESPnet config is one of ours."""
    return any(str(config.get(k)).startswith(PREFIX) for k in ("encoder", "decoder"))


def register() -> None:
    """Register now, or as soon as the registry is imported. Idempotent."""
    if REGISTRY in sys.modules:
        _add_to(sys.modules[REGISTRY])
    elif not any(isinstance(f, _AfterImport) for f in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


def _add_to(registry: ModuleType) -> None:
    from espnet_prune.families.espnet.encoders import (
        ENCODERS,
        PrunableTransformerDecoder,
    )
    from espnet_prune.training.student import PruneASRModel

    registry.model_choices.classes["prune"] = PruneASRModel
    registry.decoder_choices.classes["prunable_transformer"] = (
        PrunableTransformerDecoder
    )
    registry.encoder_choices.classes |= ENCODERS


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds the registry's module as usual, and registers once it has run."""

    searching = False

    def find_spec(
        self, name: str, path: Any, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != REGISTRY or self.searching:
            return None
        self.searching = True  # the search below comes by here again
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.searching = False
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                _add_to(module)
                sys.meta_path.remove(self)

            spec.loader.exec_module = run_and_register
        return spec
