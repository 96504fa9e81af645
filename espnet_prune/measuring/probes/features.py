"""Compute the frozen features of a set of utterances, every layer's."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn

from espnet_prune.base.errors import InputError
from espnet_prune.base.table import read_table
from espnet_prune.data.audio import file_of, load_utterance
from espnet_prune.data.kaldi_dir import find_audio
from espnet_prune.families.ssl.audio import RATE, prepared
from espnet_prune.families.ssl.model import layer_states

MELS = 80
LEAST = RATE // 20  # samples; shorter utterances are padded


@dataclass(frozen=True)
class Labelled:
    """Utterances with what a probe has to tell of each.

    Args:
        folder: Kaldi directory, for messages.
        sources: value of ``wav.scp`` of each.
        audio: (sample,) of each.
        labels: of each.
    """

    folder: Path
    sources: list[str]
    audio: list[np.ndarray]
    labels: list[str]


@dataclass(frozen=True)
class System:
    """An encoder to be probed.

    Args:
        model: of transformers; None for log mel energies.
        normalize: whether it wants audio of mean 0 and variance 1.
        known: means over time that have been made, by source: probes share audio.
    """

    model: nn.Module | None
    normalize: bool
    known: dict[str, Tensor] = field(default_factory=dict)


def read_labels(folder: Path, table: str) -> Labelled:
    """Read the labels of a Kaldi directory, and where its audio is.

    Args:
        folder: with ``wav.scp``.
        table: that has the labels, ``text`` or ``utt2spk``.

    Raises:
        InputError: an utterance has no label, or its audio is not there.
    """
    if (folder / "segments").exists():
        mend = "cut them out first: ./run.sh --stage 3 does"
        raise InputError(folder / "segments", "parts of recordings are not read", mend)
    labels = read_table(folder / table)
    sources = find_audio(folder, read_table(folder / "wav.scp"))
    for key, value in sources.items():
        if not labels.get(key):
            raise InputError(folder / table, f"has no label for {key}", "give it one")
        file = file_of(value)
        if file is not None and not Path(file).is_file():
            mend = "check its path; relative ones count from the directory"
            raise InputError(folder / "wav.scp", f"{file} is not there", mend)
    return Labelled(folder, [*sources.values()], [], [labels[k] for k in sources])


def read_set(folder: Path, table: str) -> Labelled:
    """Read the labels of a Kaldi directory, and its audio."""
    data = read_labels(folder, table)
    audio = [load_utterance(value, RATE).samples for value in data.sources]
    return replace(data, audio=audio)


@torch.no_grad()
def layers_of(system: System, samples: np.ndarray) -> list[Tensor]:
    """The function encodes an utterance alone, for norms over time see padding.

    Args:
        system: the encoder; log mel energies and their deltas are one layer.
        samples: (sample,).

    Returns:
        (time, channel) of every layer.
    """
    x = torch.from_numpy(np.pad(samples, (0, max(0, LEAST - len(samples)))))[None]
    if system.model is None:
        mel = torchaudio.transforms.MelSpectrogram(
            RATE, 400, hop_length=320, n_mels=MELS
        )
        log = mel(x).clamp(min=1e-10).log()
        deltas = torchaudio.functional.compute_deltas(log)
        return [torch.cat([log, deltas], 1)[0].T]
    given = prepared(x, system.normalize)
    return [state[0] for state in layer_states(system.model, given)]


def pooled(system: System, data: Labelled) -> Tensor:
    """Compute every layer's mean over time, (utterance, layer, channel)."""
    for source, samples in zip(data.sources, data.audio, strict=True):
        if source in system.known:
            continue
        layers = layers_of(system, samples)
        if system.model is None:  # deltas have no mean; how much they move has
            log, deltas = layers[0].split(MELS, dim=1)
            layers = [torch.cat([log, deltas.abs()], 1)]
        system.known[source] = torch.stack([layer.mean(0) for layer in layers])
    return torch.stack([system.known[source] for source in data.sources])


def frames(system: System, audio: Sequence[np.ndarray]) -> list[Tensor]:
    """Compute every layer at every frame, (time, layer, channel) of each utterance.

    The frames are in half precision: there are many.

    Raises:
        InputError: half precision does not hold them.
    """
    found = []
    for samples in audio:
        states = torch.stack(layers_of(system, samples), 1)
        found.append(states.half())
        if not found[-1].isfinite().all():
            most = float(states.abs().max())
            what = f"states reach {most:.3g}, which half precision does not hold"
            raise InputError("--probes", what, "leave out kinds that look at frames")
    return found
