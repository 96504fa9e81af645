"""Make ESPnet, transformers and s3prl know our models, without importing them first.

They take seconds to import, and most command lines never need them. So the registration
waits for the import of the module that owns a registry; if that has happened already,
it does not wait.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Any

from espnet_prune.base.espnet_version import check_espnet
from espnet_prune.families.espnet.tasks import TASKS
from espnet_prune.families.registry import PREFIX, UPSTREAM

REGISTRIES = {task.module: task.name for task in TASKS}
AUTO = "transformers.models.auto.configuration_auto"
HUB = "s3prl.hub"


def names_ours(config: dict[str, Any]) -> bool:
    """Tell whether encoder, decoder or upstream of an ESPnet config is one of ours."""
    frontend = (config.get("frontend_conf") or {}).get("frontend_conf") or {}
    found = any(str(config.get(k)).startswith(PREFIX) for k in ("encoder", "decoder"))
    return found or frontend.get("upstream") == UPSTREAM


def register() -> None:
    """Register now, or as soon as a registry is imported. The call is idempotent."""
    for name in (*REGISTRIES, AUTO, HUB):
        if name in sys.modules:
            _add(name)
        elif not any(f.name == name for f in sys.meta_path if type(f) is _AfterImport):
            sys.meta_path.insert(0, _AfterImport(name))


def _add(name: str) -> None:
    if name in REGISTRIES:
        _add_to(sys.modules[name], REGISTRIES[name])
    elif name == AUTO:
        _add_speech(sys.modules[name].AutoConfig)
    else:
        from espnet_prune.serving.s3prl_upstream import upstream

        setattr(sys.modules[name], UPSTREAM, upstream)


def _add_to(registry: ModuleType, task: str) -> None:
    check_espnet()
    from espnet_prune.families.espnet.encoders import (
        ENCODERS,
        PrunableTransformerDecoder,
    )
    from espnet_prune.training.student import STUDENTS

    registry.model_choices.classes["prune"] = STUDENTS[task]
    registry.decoder_choices.classes["prunable_transformer"] = (
        PrunableTransformerDecoder
    )
    registry.encoder_choices.classes |= ENCODERS


def _add_speech(auto: Any) -> None:
    """Register the pruned models when transformers first reads a config.

    They are not registered now: whoever imports a model of transformers imports this on
    the way, and the pruned models need those that are not there yet.

    Args:
        auto: ``transformers.AutoConfig``.
    """
    plain = auto.from_pretrained

    def from_pretrained(*args: Any, **options: Any) -> Any:
        from espnet_prune.families.ssl import pruned_speech

        auto.from_pretrained = plain
        pruned_speech.register()
        return plain(*args, **options)

    auto.from_pretrained = from_pretrained


class _AfterImport(importlib.abc.MetaPathFinder):
    """The finder finds a registry's module as usual, and registers once it has run."""

    searching = False

    def __init__(self, name: str):
        self.name = name

    def find_spec(
        self, name: str, path: Any, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self.name or self.searching:
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
                sys.meta_path.remove(self)
                _add(self.name)

            spec.loader.exec_module = run_and_register
        return spec
