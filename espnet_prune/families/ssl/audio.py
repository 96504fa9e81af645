"""Prepare audio as self-supervised encoders want it."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_prune.base.errors import InputError

if TYPE_CHECKING:  # what only cuts audio needs neither
    from torch import Tensor
    from transformers import Wav2Vec2FeatureExtractor

RATE = 16000  # of all these models, in Hz
VARIANCE_FLOOR = 1e-7  # of transformers' preprocessors, which cannot be told another
# Where transformers has it: the second is a processor's, with a tokenizer.
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")


def prepared(
    audio: "Tensor",
    normalize: bool,
    lengths: "Tensor | None" = None,
    variance_floor: float = VARIANCE_FLOOR,
) -> "Tensor":
    """The function returns audio as the model wants it.

    Args:
        audio: (batch, sample).
        normalize: whether each utterance gets mean 0 and variance 1.
        lengths: (batch,) of what is no padding; None: all.
        variance_floor: added to the variance.
    """
    import torch

    if not normalize:
        return audio
    if lengths is not None:
        rows = [
            prepared(a[None, :n], True, variance_floor=variance_floor)[0]
            for a, n in zip(audio, lengths, strict=True)
        ]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mean, var = audio.mean(1, keepdim=True), audio.var(1, keepdim=True, unbiased=False)
    return (audio - mean) / torch.sqrt(var + variance_floor)


def normalizes(dense: Path) -> bool:
    """The function says whether a model's preprocessor normalizes audio.

    Raises:
        InputError: as for :func:`read_extractor`.
    """
    return bool(read_extractor(dense).do_normalize)


def read_extractor(folder: str | Path) -> "Wav2Vec2FeatureExtractor":
    """Read what prepares a model's audio; without a file of it audio stays as it is.

    Raises:
        InputError: the file cannot be read, or wants audio of another rate.
    """
    from transformers import AutoFeatureExtractor, Wav2Vec2FeatureExtractor

    if not any((Path(folder) / name).is_file() for name in PREPROCESSORS):
        logging.warning(f"{folder}: no preprocessor_config.json: audio stays as it is")
        return Wav2Vec2FeatureExtractor(do_normalize=False)
    try:
        found = AutoFeatureExtractor.from_pretrained(folder)
    except (OSError, ValueError) as e:  # JSON's errors are ValueErrors
        reason = str(e).strip().splitlines()[0]
        raise InputError(folder, f"its preprocessor cannot be read: {reason}") from e
    if found.sampling_rate != RATE:
        what = f"its preprocessor wants {found.sampling_rate} Hz"
        raise InputError(folder, what, f"only models of {RATE} Hz can be pruned")
    return found
