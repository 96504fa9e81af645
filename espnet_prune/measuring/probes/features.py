"""Frozen features of a set of utterances, every layer's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn

from espnet_prune.base.errors import InputError
from espnet_prune.base.table import read_table
from espnet_prune.data.audio import load_utterance
from espnet_prune.data.kaldi_dir import find_audio
from espnet_prune.families.ssl.audio import RATE, prepared

MELS = 80
LEAST = RATE // 20  # samples; shorter utterances are padded


@dataclass(frozen=True)
class Labelled:
    """Utterances with what a probe has to tell of each.

    Args:
        folder: Kaldi directory, for messages.
        keys: of the utterances.
        audio: (sample,) of each.
        labels: of each.
    """

    folder: Path
    keys: list[str]
    audio: list[np.ndarray]
    labels: list[str]


def read_set(folder: Path, table: str) -> Labelled:
    """Read audio and labels of a Kaldi directory.

    Args:
        folder: with ``wav.scp``.
        table: that has the labels, ``text`` or ``utt2spk``.

    Raises:
        InputError: an utterance has no label, or cannot be read.
    """
    labels = read_table(folder / table)
    sources = find_audio(folder, read_table(folder / "wav.scp"))
    for key in sources:
        if not labels.get(key):
            raise InputError(folder / table, f"has no label for {key}")
    audio = [load_utterance(value, RATE).samples for value in sources.values()]
    return Labelled(folder, [*sources], audio, [labels[key] for key in sources])


@torch.no_grad()
def layers_of(
    model: nn.Module | None, samples: np.ndarray, normalize: bool
) -> list[Tensor]:
    """The function encodes an utterance alone, for norms over time see padding.

    Args:
        model: None for log mel energies and their deltas, one layer.
        samples: (sample,).
        normalize: whether the model wants audio of mean 0 and variance 1.

    Returns:
        (time, channel) of every layer.
    """
    x = torch.from_numpy(np.pad(samples, (0, max(0, LEAST - len(samples)))))[None]
    if model is None:
        mel = torchaudio.transforms.MelSpectrogram(
            RATE, 400, hop_length=320, n_mels=MELS
        )
        log = mel(x).clamp(min=1e-10).log()
        deltas = torchaudio.functional.compute_deltas(log)
        return [torch.cat([log, deltas], 1)[0].T]
    states = model(prepared(x, normalize), output_hidden_states=True).hidden_states
    return [state[0] for state in states]


def pooled(
    model: nn.Module | None, audio: Sequence[np.ndarray], normalize: bool
) -> Tensor:
    """Mean over time of every layer, (utterance, layer, channel).

    Args:
        model, normalize: as for :func:`layers_of`.
        audio: (sample,) of each utterance.
    """
    found = []
    for samples in audio:
        layers = layers_of(model, samples, normalize)
        if model is None:  # of deltas the mean says nothing; how much they move does
            log, deltas = layers[0].split(MELS, dim=1)
            layers = [torch.cat([log, deltas.abs()], 1)]
        found.append(torch.stack([layer.mean(0) for layer in layers]))
    return torch.stack(found)


def frames(
    model: nn.Module | None, audio: Sequence[np.ndarray], normalize: bool
) -> list[Tensor]:
    """Every layer at every frame, (time, layer, channel) of each utterance, in half
    precision: there are many.

    Args:
        model, audio, normalize: as for :func:`pooled`.
    """
    return [
        torch.stack(layers_of(model, samples, normalize), 1).half() for samples in audio
    ]
