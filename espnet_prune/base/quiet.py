"""Import ESPnet without what it says while it is imported.

It prints about flash attention, a dependency (g2p_en, for speech synthesis) downloads
nltk data, torch warns about ESPnet's use of it: nothing that a user of the recipe needs
or can act on. Import this module before any that imports ESPnet.
"""

import contextlib
import io
import logging
import os
import warnings
from typing import Any
from unittest import mock

from typeguard import typechecked

from espnet_prune.base.errors import is_for_the_user
from espnet_prune.base.espnet_version import check_espnet

check_espnet()

# Typeguard compiles the whole module for each function that it is to check. Two modules
# are so large that this takes two of the six seconds in which ESPnet is imported.
UNCHECKED = "espnet2.tasks.abs_task", "espnet2.train.preprocessor"


def _typechecked(target: Any = None, **options: Any) -> Any:
    """Do as ``typeguard.typechecked``, for whoever imports it meanwhile, save there."""
    if getattr(target, "__module__", None) in UNCHECKED:
        return target
    return typechecked(target, **options)


# For this process and for those that it starts.
os.environ.setdefault("PYTHONWARNINGS", "ignore")
warnings.simplefilter("ignore")

with contextlib.suppress(ImportError):  # ESPnet 202511 brings it
    import nltk

    nltk.download = lambda *_, **__: False

with (
    contextlib.redirect_stdout(io.StringIO()),
    contextlib.redirect_stderr(io.StringIO()),
    mock.patch("typeguard.typechecked", _typechecked),
):
    import espnet2.tasks.asr  # noqa: F401


def hand_logging_to_espnet() -> None:
    """Let ESPnet's program set up logging: it would leave ours, and its --log_level.

    What others than :func:`run_main` set up, as a notebook, stays.
    """
    for handler in list(logging.root.handlers):
        if is_for_the_user in handler.filters:
            logging.root.removeHandler(handler)
