"""Refuse an ESPnet whose layers are not those that are described here."""

import importlib.util
import sys
from importlib import metadata
from pathlib import Path

from espnet_prune.base.errors import InputError

# ESPnet by the Python, and those newer, that the recipe installs it for; the newest
# first. ``requirements.txt`` pins the same.
VERSIONS = {(3, 12): "202611", (3, 11): "202511"}


def version_for(python: tuple[int, int]) -> str:
    """Name the ESPnet that goes with a Python, by its major and minor version."""
    return next(v for since, v in VERSIONS.items() if python >= since)


def imported() -> tuple[str, Path]:
    """Tell the version of the ESPnet that is imported, and its folder.

    ESPnet's own path.sh puts its checkout before what is installed; a checkout says its
    version in a file.
    """
    folder = Path(importlib.util.find_spec("espnet2").origin).parents[1]
    for file in (folder / "version.txt", folder / "espnet" / "version.txt"):
        if file.is_file():
            return file.read_text(encoding="utf-8").strip(), folder
    return metadata.version("espnet"), folder


def check_espnet() -> None:
    """Refuse another version than those that this package is made for.

    Either of them does under either Python, where somebody has managed to install it.

    Raises:
        InputError: names the version to install.
    """
    found, folder = imported()
    if not found.startswith(tuple(VERSIONS.values())):
        mend = f"pip install espnet=={version_for(sys.version_info[:2])}"
        if found != (installed := metadata.version("espnet")):
            mend = f"take {folder} out of PYTHONPATH: {installed} is installed"
        raise InputError("espnet", f"is version {found}, whose layers are others", mend)
