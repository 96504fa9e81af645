"""Import ESPnet without what it says while it is imported.

It prints about flash attention, a dependency (g2p_en, for speech synthesis) downloads
nltk data, torch warns about ESPnet's use of it: nothing that a user of the recipe needs
or can act on. Import this module before any that imports ESPnet.

What is imported here is also without ESPnet's checks of the types of arguments: they
are compiled while it is imported, which takes four of ten seconds.
"""

import contextlib
import io
import logging
import os
import warnings
from unittest import mock

from espnet_prune.base.errors import is_for_the_user
from espnet_prune.base.espnet_version import check_espnet

check_espnet()

# For this process and for those that it starts.
os.environ.setdefault("PYTHONWARNINGS", "ignore")
warnings.simplefilter("ignore")

with contextlib.suppress(ImportError):  # ESPnet 202511 brings it
    import nltk

    nltk.download = lambda *_, **__: False

with (
    contextlib.redirect_stdout(io.StringIO()),
    contextlib.redirect_stderr(io.StringIO()),
    mock.patch("typeguard.typechecked", lambda function: function),
):
    import espnet2.tasks.asr  # noqa: F401


def hand_logging_to_espnet() -> None:
    """Let ESPnet's program set up logging: it would leave ours, and its --log_level.

    What others than :func:`run_main` set up, as a notebook, stays.
    """
    for handler in list(logging.root.handlers):
        if is_for_the_user in handler.filters:
            logging.root.removeHandler(handler)
