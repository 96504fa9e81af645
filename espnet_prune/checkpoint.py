"""Loading ESPnet models without ESPnet's silence about wrong checkpoints."""

import argparse
from pathlib import Path

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks.asr import ASRTask

from espnet_prune.errors import InputError


def load_model(
    config: str | Path, checkpoint: str | Path, device: str = "cpu"
) -> tuple[ESPnetASRModel, argparse.Namespace]:
    """Build an ASR model from its ``config.yaml`` and load its weights strictly.

    Returns:
        the model in evaluation mode, and its training arguments.

    Raises:
        InputError: a file is missing, or config and checkpoint do not match.
    """
    for path in (config, checkpoint):
        if not Path(path).exists():
            raise InputError(path, "does not exist", "check the path of the model")
    model, args = ASRTask.build_model_from_file(config, None, device)
    state = read_state(checkpoint)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as e:
        raise InputError(
            checkpoint,
            f"does not fit {config}: {str(e).splitlines()[-1].strip()}",
            "config and checkpoint must come from the same experiment",
        ) from e
    return model.eval(), args


def read_state(checkpoint: str | Path) -> dict[str, torch.Tensor]:
    """The state dict of an ESPnet model file, on the CPU."""
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=False)
    except Exception as e:
        raise InputError(
            checkpoint, f"is no readable checkpoint ({type(e).__name__})", "redo it"
        ) from e
    if not isinstance(state, dict):
        raise InputError(checkpoint, "holds no model weights", "check its path")
    return state["model"] if "optimizers" in state else state
