"""Read the audio by which a model is compressed without a training."""

import random
from pathlib import Path

import numpy as np

from espnet_prune.base.errors import InputError
from espnet_prune.base.table import read_table
from espnet_prune.data.audio import check_rate, load_source
from espnet_prune.data.kaldi_dir import find_audio

SECONDS = 600.0  # of audio in all: more told no more
LONGEST = 20.0  # seconds that are heard of a recording
SHORTEST = 0.5


def calibration_audio(
    scp: Path, rate: int, model: object, seconds: float = SECONDS
) -> list[np.ndarray]:
    """Read a fixed random choice of recordings.

    Args:
        scp: ``wav.scp`` of a data directory.
        rate: of the model, in Hz.
        model: what to call it in messages.
        seconds: of audio, about.

    Returns:
        float32 (sample,) each, in [-1, 1].

    Raises:
        InputError: there is no audio, or it is of another rate, or not mono.
    """
    table = read_table(scp, "give a data directory with a wav.scp")
    values = list(find_audio(scp.parent, table).values())
    check_rate(scp, rate, model)
    random.Random(0).shuffle(values)
    found: list[np.ndarray] = []
    for value in values:
        samples, own = load_source(value)
        if samples.shape[1] != 1 or own != rate:
            what = f"has {samples.shape[1]} channels and {own} Hz"
            mend = f"make it mono, of {rate} Hz (stages 3 and 4)"
            raise InputError(value, what, mend)
        if len(samples) >= SHORTEST * rate:
            found.append(samples[: round(LONGEST * rate), 0])
        if sum(map(len, found)) >= seconds * rate:
            break
    if not found:
        what = f"holds no recording of at least {SHORTEST} s"
        raise InputError(scp, what, "give recordings of speech")
    return found
