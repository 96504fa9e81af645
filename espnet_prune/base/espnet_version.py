"""Refuse an ESPnet whose layers are not those that are described here."""

from importlib import metadata

from espnet_prune.base.errors import InputError

VERSION = "202511"


def check_espnet() -> None:
    """Refuse another version than the one that this package is made for.

    Raises:
        InputError: names the version to install. (202611 moved ``espnet.nets``, renamed
            tensors of the subsampling, and masks padding otherwise.)
    """
    found = metadata.version("espnet")
    if not found.startswith(VERSION):
        what = f"version {found} is installed, and its layers are others"
        raise InputError("espnet", what, f"pip install espnet=={VERSION}")
