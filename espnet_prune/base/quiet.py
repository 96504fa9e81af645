"""Import ESPnet without what it says while it is imported, in a third of its time.

It prints about flash attention, and torch warns about ESPnet's use of it: nothing that
a user of the recipe needs or can act on. It imports packages that few configs need.
Import this module before any that imports ESPnet.
"""

import builtins
import contextlib
import gc
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

from typeguard import typechecked

from espnet_prune.base.errors import is_for_the_user
from espnet_prune.base.espnet_version import check_espnet

check_espnet()

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


class _Later:
    """What a module of ESPnet imports is imported when it is first used instead.

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
    """Do as ``__import__``, but for what ESPnet's modules import of :data:`LATER`."""
    package = name.partition(".")[0]
    importer = (globals or {}).get("__name__", "")
    espnets = importer.startswith(("espnet.", "espnet2."))
    if level or package not in LATER or not espnets:
        return plainly(name, globals, locals, fromlist, level)
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    if not fromlist:
        return _Later(package)
    return SimpleNamespace(**{found: _Later(name, found) for found in fromlist})


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    """Look through nothing of what is imported meanwhile for garbage, now or later: it
    all stays, and half of the time went there."""
    collects = gc.isenabled()
    gc.collect()  # what is garbage by now must not stay, too
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


# For this process and for those that it starts.
os.environ.setdefault("PYTHONWARNINGS", "ignore")
warnings.simplefilter("ignore")

with (
    contextlib.redirect_stdout(io.StringIO()),
    contextlib.redirect_stderr(io.StringIO()),
    mock.patch("typeguard.typechecked", _typechecked),
    mock.patch("builtins.__import__", _import),
    _kept(),
):
    import espnet2.bin.asr_inference  # noqa: F401


def hand_logging_to_espnet() -> None:
    """Let ESPnet's program set up logging: it would leave ours, and its --log_level.

    What others than :func:`run_main` set up, as a notebook, stays.
    """
    for handler in list(logging.root.handlers):
        if is_for_the_user in handler.filters:
            logging.root.removeHandler(handler)
