"""Find Hugging Face directories by name, and tell them from each other."""

import hashlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import fingerprint


def locate(model: str | Path) -> Path:
    """Find a model's directory: itself, or what its name on Hugging Face stands for.

    Args:
        model: a directory, or ``OWNER/NAME``, which is downloaded once.

    Raises:
        InputError: it is neither, or cannot be had.
    """
    if Path(model).is_dir():
        return Path(model)
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(model)):
        mend = "give one, or the name of a model on Hugging Face, as OWNER/NAME"
        raise InputError(model, "is no directory", mend)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    # Not those of other frameworks, nor two forms of the same: each is as large again.
    files = ["*.json", "*.safetensors", "*.txt"]
    try:
        found = Path(snapshot_download(str(model), allow_patterns=files))
        if not any(found.glob("*.safetensors")):
            snapshot_download(str(model), allow_patterns=[*files, "*.bin"])
        return found
    except (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OSError,
    ) as e:
        reason = str(e).strip().splitlines()[0]
        mend = "give a directory, or a name and a network"
        what = f"is no directory, nor to be had from Hugging Face: {reason}"
        raise InputError(model, what, mend) from e


def name_of(folder: str | Path) -> str:
    """The function returns how others know a model: ``OWNER/NAME`` where a directory is
    a download from Hugging Face, else the directory's own name."""
    for part in Path(folder).parts:
        if found := re.fullmatch(r"models--([\w.-]+?)--([\w.-]+)", part):
            return "/".join(found.groups())
    return Path(folder).resolve().name


def named(folders: Sequence[Path]) -> dict[str, Path]:
    """Map the names of compact models, which reports go by, to their directories.

    Raises:
        InputError: two have the same, or one that stands for something else.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        if folder.name in (*found, "dense", "untrained", "log_mel"):
            what = f"the name {folder.name!r} stands for another system"
            raise InputError(folder, what, "rename the directory")
        found[folder.name] = folder
    return found


def fingerprint_of(folder: str | Path) -> str:
    """Compute the SHA-256 that tells a model's weights and sizes from others."""
    found = Path(folder)
    files = [*found.glob("*.safetensors"), *found.glob("*.bin"), found / "config.json"]
    parts = [fingerprint(file) for file in sorted(files)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
