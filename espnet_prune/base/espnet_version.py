"""Refuse an ESPnet whose layers are not those that are described here."""

import sys
from importlib import metadata

from espnet_prune.base.errors import InputError

# ESPnet by the Python, and those newer, that the recipe installs it for; the newest
# first. ``requirements.txt`` pins the same.
VERSIONS = {(3, 12): "202611", (3, 11): "202511"}


def version_for(python: tuple[int, int]) -> str:
    """Name the ESPnet that goes with a Python, by its major and minor version."""
    return next(v for since, v in VERSIONS.items() if python >= since)


def check_espnet() -> None:
    """Refuse another version than those that this package is made for.

    Either of them does under either Python, where somebody has managed to install it.

    Raises:
        InputError: names the version to install.
    """
    found = metadata.version("espnet")
    if not found.startswith(tuple(VERSIONS.values())):
        mend = f"pip install espnet=={version_for(sys.version_info[:2])}"
        what = f"version {found} is installed, and its layers are others"
        raise InputError("espnet", what, mend)
