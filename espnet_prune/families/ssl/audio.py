"""Prepare audio as self-supervised encoders want it."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

RATE = 16000  # of all these models, in Hz


def prepared(audio: Tensor, normalize: bool, lengths: Tensor | None = None) -> Tensor:
    """The function returns audio as the model wants it.

    Args:
        audio: (batch, sample).
        normalize: whether each utterance gets mean 0 and variance 1.
        lengths: (batch,) of what is no padding; None: all.
    """
    if not normalize:
        return audio
    if lengths is not None:
        rows = [
            prepared(a[None, :n], True)[0] for a, n in zip(audio, lengths, strict=True)
        ]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mean, var = audio.mean(1, keepdim=True), audio.var(1, keepdim=True, unbiased=False)
    return (audio - mean) / torch.sqrt(var + 1e-7)


def normalizes(dense: Path) -> bool:
    """The function says whether a model's preprocessor normalizes audio; without a
    preprocessor it does not."""
    path = dense / "preprocessor_config.json"
    if not path.is_file():
        return False
    return bool(json.loads(path.read_text(encoding="utf-8")).get("do_normalize"))
