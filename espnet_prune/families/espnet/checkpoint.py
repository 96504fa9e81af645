"""Load ESPnet models without ESPnet's silence about wrong checkpoints."""

import argparse
import datetime
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import humanfriendly
import numpy as np
import torch
import yaml

from espnet_prune.base.errors import InputError
from espnet_prune.families.described import check_finite
from espnet_prune.families.espnet.tasks import task_of

if TYPE_CHECKING:
    from espnet2.train.abs_espnet_model import AbsESPnetModel

# What is in the statistics of ESPnet's trainer: numbers of numpy, and of its version 1.
OF_THE_TRAINER = [
    datetime.timedelta,
    np.dtype,
    np.dtypes.Float64DType,
    np._core.multiarray.scalar,
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
]


def load_model(
    config: str | Path, checkpoint: str | Path, device: str = "cpu"
) -> tuple["AbsESPnetModel", argparse.Namespace]:
    """Build a model from its ``config.yaml`` and load its weights strictly.

    Returns:
        the model in evaluation mode, and its training arguments.

    Raises:
        InputError: a file is missing, or config and checkpoint do not match.
    """
    for path in (config, checkpoint):
        if not Path(path).is_file():
            raise InputError(
                path,
                "is a directory" if Path(path).is_dir() else "does not exist",
                "give a model's config.yaml and its file of weights",
            )
    task = task_of(check_resources(config))
    try:
        model, args = task.training.build_model_from_file(config, None, device)
    except InputError:
        raise
    except Exception as e:  # of ESPnet's parts, and of packages that they need
        reason = ": ".join([type(e).__name__, *str(e).strip().splitlines()[:1]])
        raise InputError(
            config,
            f"ESPnet cannot build its model here ({reason})",
            "install what it asks for, or give a model without it",
        ) from e
    state = read_state(checkpoint)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as e:
        raise InputError(
            checkpoint,
            f"does not fit {config}: {str(e).splitlines()[-1].strip()}",
            "config and checkpoint must come from the same experiment",
        ) from e
    check_finite(model.state_dict(), checkpoint)
    return model.eval(), args


def encoder_features(model: "AbsESPnetModel", given: int | None = None) -> int:
    """Tell how many numbers a frame has that enters the encoder.

    Args:
        model: an ASR model.
        given: those of a frame of its input, where that is features.

    Raises:
        InputError: the model takes features, and nobody knows how many.
    """
    if model.frontend is None and not given:
        raise InputError("frontend", "the model takes features instead of audio")
    if model.preencoder is not None:
        return model.preencoder.output_size()
    return given or model.frontend.output_size()


def sampling_rate(args: argparse.Namespace) -> int:
    """Read the rate that a frontend expects, in Hz (ESPnet's default: 16000)."""
    fs = (args.frontend_conf or {}).get("fs", 16000)
    return humanfriendly.parse_size(fs) if isinstance(fs, str) else fs


def resources(config: dict[str, Any]) -> dict[str, str]:
    """Find the files that a config names, by option: ``normalize_conf.stats_file``.

    ESPnet writes them relative to the directory that its recipe ran in.
    """
    named = {"non_linguistic_symbols": config.get("non_linguistic_symbols")}
    if config.get("token_type", "bpe") == "bpe":  # else it names a model elsewhere
        named["bpemodel"] = config.get("bpemodel")
    statistics = (config.get("normalize_conf") or {}).get("stats_file")
    named["normalize_conf.stats_file"] = statistics
    return {option: path for option, path in named.items() if path is not None}


def rename_resource(config: dict[str, Any], option: str, path: str) -> None:
    """Let a model's config name another file for an option of :func:`resources`."""
    *outer, key = option.split(".")
    holder = config[outer[0]] if outer else config
    holder[key] = path


def check_resources(config: str | Path) -> dict[str, Any]:
    """Read a config, and refuse it if its own paths lead nowhere from here."""
    try:
        values = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        named = resources(values)
        trained = isinstance(values.get("token_list"), list)
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as e:
        raise InputError(config, f"is no ESPnet config: {e}") from e
    if not trained:
        raise InputError(
            config,
            "has no token list in it",
            "give the config.yaml of a trained experiment, not a training config",
        )
    for option, path in named.items():
        if not Path(path).exists():
            raise InputError(
                config,
                f"{option} {path} does not exist (relative to {Path.cwd()})",
                "copy it there, or make the path in the config absolute",
            )
    return values


def read_state(checkpoint: str | Path) -> dict[str, torch.Tensor]:
    """Read the state dict of an ESPnet model file, on the CPU.

    What DeepSpeed, Lightning, DDP or ESPnet's trainer put around it is taken off.
    """
    return _unwrapped(read_checkpoint(checkpoint))


@contextmanager
def plain_file(checkpoint: str | Path, lenient: bool = False) -> Iterator[str]:
    """Yield a file of weights that ESPnet's own programs read.

    It is the file itself, or a copy for as long, without what is around its weights.

    Args:
        checkpoint: the file.
        lenient: whether one that we do not read is left to ESPnet.

    Raises:
        InputError: as :func:`read_checkpoint` does.
    """
    try:
        found = read_checkpoint(checkpoint)
    except InputError:
        if not lenient:
            raise
        found = {}
    if (state := _unwrapped(found)) is found:
        yield str(checkpoint)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.pth")
        torch.save(state, path)
        yield str(path)


def _unwrapped(state: dict[str, Any]) -> dict[str, Any]:
    """Take off what trainers put around weights; return plain ones as they are."""
    prefix = "module."  # of DDP
    for wrapper in ("model", "module", "state_dict"):
        if isinstance(inner := state.get(wrapper), dict):
            state, prefix = inner, "model." if wrapper == "state_dict" else prefix
    if state and all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): t for name, t in state.items()}
    return state


def read_checkpoint(checkpoint: str | Path, mmap: bool = False) -> dict[str, Any]:
    """The function reads a state dict, or a trainer's whole state, that torch saved.

    Nothing in the file is run: it may come from elsewhere.

    Args:
        checkpoint: the file.
        mmap: whether tensors stay on the disk until they are used.

    Raises:
        InputError: it is no readable file of that kind, or holds objects of other
            kinds than tensors, plain containers and what ESPnet's trainer notes.
    """
    try:
        with torch.serialization.safe_globals(OF_THE_TRAINER):
            state = torch.load(
                checkpoint, map_location="cpu", mmap=mmap, weights_only=True
            )
    except Exception as e:
        if more := re.search(r"GLOBAL ([\w.]+)|got <class '([\w.]+)'>", str(e)):
            raise InputError(
                checkpoint,
                "holds more than tensors and plain containers: "
                f"{more[1] or more[2]}, which would run code of the file",
                "if you trust it, save its weights alone where it was made: "
                "torch.save(model.state_dict(), FILE)",
            ) from e
        reason = f"({type(e).__name__}: {str(e).split('. ')[0]})"
        mend = "fetch it again, or remove it and run the stage that makes it"
        if text := _as_text(checkpoint):
            reason, mend = f"but a text, {text!r}", "git lfs pull, or fetch it again"
        raise InputError(checkpoint, f"is no readable checkpoint {reason}", mend) from e
    if not isinstance(state, dict):
        raise InputError(checkpoint, "holds no model weights", "check its path")
    return state


def _as_text(path: str | Path) -> str | None:
    """Read the first line of a file of text: a pointer of Git LFS, or a page."""
    try:
        with open(path, "rb") as f:
            return f.read(200).decode().strip().partition("\n")[0] or None
    except (OSError, UnicodeDecodeError):
        return None
