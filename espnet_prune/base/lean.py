"""Import programs of ESPnet in a third of the time that they take.

ESPnet's modules import packages that few configs need, and check types where no option
of a user arrives; and Python looks for garbage among modules, although modules stay.
"""

import builtins
import gc
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

from typeguard import typechecked

# Typeguard compiles the whole module for each function that it is to check. It is left
# to do so where the options of a user's config arrive, at what models are made of.
CHECKED = "espnet2.asr.", "espnet2.s2t.", "espnet2.layers."


def _typechecked(target: Any = None, **options: Any) -> Any:
    """Do as ``typeguard.typechecked``, for whoever imports it meanwhile, but there."""
    module = getattr(target, "__module__", "")
    if module.startswith("espnet2.") and not module.startswith(CHECKED):
        return target
    return typechecked(target, **options)


# What takes seconds to import, and few configs need: models of Hugging Face, phonemes
# (g2p_en, which downloads data for nltk), enhancement.
LATER = "fast_bss_eval", "g2p_en", "nltk", "scipy", "transformers"
IMPORTERS = "espnet.", "espnet2.", "librosa."


class _Later:
    """The object stands for what a module imports, and imports it when it is used.

    Args:
        module: its name.
        name: of what is imported from the module; None: the module itself.
    """

    def __init__(self, module: str, name: str | None = None):
        self._of = module, name

    def _real(self) -> Any:
        module, name = self._of
        found = importlib.import_module(module)
        return found if name is None else getattr(found, name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what Python asks anything for
            raise AttributeError(name)
        return getattr(self._real(), name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._real()(*args, **options)

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, self._real())


def _import(
    name: str,
    globals: Any = None,
    locals: Any = None,
    fromlist: Any = (),
    level: int = 0,
    plainly: Callable[..., Any] = builtins.__import__,
) -> Any:
    """Do as ``__import__``, but for what :data:`IMPORTERS` import of :data:`LATER`."""
    package = name.partition(".")[0]
    importer = (globals or {}).get("__name__", "")
    if level or package not in LATER or not importer.startswith(IMPORTERS):
        return plainly(name, globals, locals, fromlist, level)
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    if not fromlist:
        return _Later(package)
    return SimpleNamespace(**{found: _Later(name, found) for found in fromlist})


@contextmanager
def lean() -> Iterator[None]:
    """Spare imports in the block type checks, few configs' packages, and garbage.

    What was imported in the block is not looked at for garbage later, either.
    """
    collects = gc.isenabled()
    gc.collect()  # what is garbage by now must not stay, too
    gc.disable()
    try:
        with (
            mock.patch("typeguard.typechecked", _typechecked),
            mock.patch("builtins.__import__", _import),
        ):
            yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()
