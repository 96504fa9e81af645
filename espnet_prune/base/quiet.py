"""Import ESPnet without what it says while it is imported.

It prints about flash attention, and torch warns about ESPnet's use of it: nothing that
a user of the recipe needs or can act on. Import this module before any that imports
ESPnet: the import takes a third of the time, too (:mod:`espnet_prune.base.lean`).
"""

import contextlib
import io
import logging
import os
import sys
import warnings

from espnet_prune.base.errors import is_for_the_user
from espnet_prune.base.espnet_version import check_espnet
from espnet_prune.base.lean import lean

check_espnet()


class _Muted(io.StringIO):
    """The stream says nothing while it is stdout. Functions of ESPnet that keep it as
    their default, as what prints a config does, print to the real one later."""

    def write(self, text: str) -> int:
        return len(text) if sys.stdout is self else sys.stdout.write(text)


# For this process and for those that it starts.
os.environ.setdefault("PYTHONWARNINGS", "ignore")
warnings.simplefilter("ignore")

with (
    contextlib.redirect_stdout(_Muted()),
    contextlib.redirect_stderr(io.StringIO()),
    lean(),
):
    import espnet2.bin.asr_inference  # noqa: F401
    import librosa.filters  # noqa: F401  (what most frontends ask it for)


def hand_logging_to_espnet() -> None:
    """Let ESPnet's program set up logging: it would leave ours, and its --log_level.

    What others than :func:`run_main` set up, as a notebook, stays.
    """
    for handler in list(logging.root.handlers):
        if is_for_the_user in handler.filters:
            logging.root.removeHandler(handler)
