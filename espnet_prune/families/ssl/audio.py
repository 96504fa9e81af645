"""Audio as self-supervised encoders want it."""

import json
from pathlib import Path

import torch
from torch import Tensor

RATE = 16000  # of all these models, in Hz


def prepared(audio: Tensor, normalize: bool) -> Tensor:
    """The function returns audio (batch, sample) as the model wants it."""
    if not normalize:
        return audio
    mean, var = audio.mean(1, keepdim=True), audio.var(1, keepdim=True, unbiased=False)
    return (audio - mean) / torch.sqrt(var + 1e-7)


def normalizes(dense: Path) -> bool:
    """The function says whether a model's preprocessor normalizes audio; without a
    preprocessor it does not."""
    path = dense / "preprocessor_config.json"
    if not path.is_file():
        return False
    return bool(json.loads(path.read_text(encoding="utf-8")).get("do_normalize"))
