"""Linear probes on frozen features of encoders, as SUPERB's utterance tasks have them.

A head is a softmax-weighted sum of the layers, a linear layer of 256, the mean over
time and a linear layer (Yang et al. 2021, arXiv 2105.01051). All but the weights of the
layers is linear, so that the mean over time can be taken first, and cached.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn

from espnet_prune.base.errors import InputError
from espnet_prune.base.table import read_table
from espnet_prune.data.audio import load_utterance
from espnet_prune.data.kaldi_dir import find_audio
from espnet_prune.families.ssl.audio import RATE, prepared

STEPS, HIDDEN, RATE_OF_HEAD, DECAY = 400, 256, 3e-3, 1e-4
RESAMPLES = 2000  # of the bootstrap
MELS = 80


@dataclass(frozen=True)
class Probe:
    """A task: utterances with a label each.

    Args:
        name: of the task.
        train, test: Kaldi directories, ``wav.scp`` and the labels as ``text``.
    """

    name: str
    train: Path
    test: Path

    @classmethod
    def parse(cls, text: str) -> "Probe":
        """The method reads ``NAME=TRAIN:TEST``.

        Raises:
            InputError: it is none, or a directory is not there.
        """
        name, _, paths = text.partition("=")
        parts = paths.split(":")
        if not name or len(parts) != 2 or not all(parts):
            raise InputError("--probe", f"{text!r} is not NAME=TRAIN:TEST")
        for part in parts:
            if not Path(part, "text").is_file():
                raise InputError(part, "holds no text", "give a Kaldi directory")
        return cls(name, *map(Path, parts))


def read_set(folder: Path) -> tuple[list[np.ndarray], list[str]]:
    """Audio (sample,) and label of each utterance.

    Raises:
        InputError: an utterance has no label, or cannot be read.
    """
    labels, audio, found = read_table(folder / "text"), [], []
    sources = find_audio(folder, read_table(folder / "wav.scp"))
    for key, value in sources.items():
        if not labels.get(key):
            raise InputError(folder / "text", f"has no label for {key}")
        audio.append(load_utterance(value, RATE).samples)
        found.append(labels[key])
    return audio, found


@torch.no_grad()
def pooled(
    model: nn.Module | None, audio: Sequence[np.ndarray], normalize: bool
) -> Tensor:
    """Mean over time of every layer's features, (utterance, layer, channel).

    Args:
        model: None for log mel energies with their deltas.
        audio: of each utterance, which is encoded alone: norms over time see padding.
        normalize: whether the model wants audio of mean 0 and variance 1.
    """
    mel = torchaudio.transforms.MelSpectrogram(RATE, 400, hop_length=160, n_mels=MELS)
    found = []
    for samples in audio:
        x = torch.from_numpy(samples)[None]
        if model is None:
            log = mel(x).clamp(min=1e-10).log()
            # Of deltas the mean says nothing; how much they move does.
            moves = torchaudio.functional.compute_deltas(log).abs()
            found.append(torch.cat([log, moves], 1).mean(2))
            continue
        if x.shape[1] < RATE // 20:
            x = nn.functional.pad(x, (0, RATE // 20 - x.shape[1]))
        states = model(prepared(x, normalize), output_hidden_states=True).hidden_states
        found.append(torch.cat([state.mean(1) for state in states]))
    return torch.stack(found)


class Head(nn.Module):
    """A probe's head.

    Args:
        layers, channels: of the features.
        classes: to tell apart.
    """

    def __init__(self, layers: int, channels: int, classes: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))
        self.first = nn.Linear(channels, HIDDEN)
        self.last = nn.Linear(HIDDEN, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(utterance, layer, channel) -> (utterance, class)."""
        mixed = (x * self.weights.softmax(0)[:, None]).sum(1)
        return self.last(self.first(mixed))


def train_head(x: Tensor, y: Tensor, classes: int, seed: int) -> Head:
    """A head that was trained on all utterances at once."""
    torch.manual_seed(seed)
    head = Head(*x.shape[1:], classes)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=RATE_OF_HEAD, weight_decay=DECAY
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(x), y).backward()
        optimizer.step()
        schedule.step()
    return head


def probe_all(
    probes: Sequence[Probe],
    systems: Mapping[str, nn.Module | None],
    normalize: bool,
    seeds: int,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Accuracy of all systems in all probes.

    Args:
        probes: the tasks.
        systems: by name; None stands for log mel energies.
        normalize: as for :func:`pooled`.
        seeds: heads of so many seeds; their mean counts.

    Returns:
        system -> probe -> ``value`` and ``ci`` (bootstrap over utterances, 95 %) in
        percent, ``unit``, ``layers`` (the weight of each), ``by_seed``.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in systems}
    for probe in probes:
        (train, labels), (test, wanted) = map(read_set, (probe.train, probe.test))
        classes = {label: i for i, label in enumerate(sorted(set(labels)))}
        if unknown := set(wanted) - classes.keys():
            raise InputError(
                probe.test, f"label {min(unknown)!r} is in no training set"
            )
        y, target = (
            torch.tensor([classes[label] for label in own]) for own in (labels, wanted)
        )
        for name, model in systems.items():
            x, z = (pooled(model, audio, normalize) for audio in (train, test))
            mean, std = x.mean(0), x.std(0).clamp(min=1e-5)
            x, z = (x - mean) / std, (z - mean) / std
            heads = [train_head(x, y, len(classes), seed) for seed in range(seeds)]
            with torch.no_grad():
                right = torch.stack([head(z).argmax(1) == target for head in heads])
                weights = torch.stack([head.weights.softmax(0) for head in heads])
            found[name][probe.name] = {
                "value": 100 * float(right.double().mean()),
                "unit": "% accuracy",
                "ci": interval(right.double().mean(0)),
                "by_seed": [100 * float(own.double().mean()) for own in right],
                "layers": weights.mean(0).tolist(),
            }
    return found


def interval(right: Tensor) -> list[float]:
    """95 % of a bootstrap over utterances, (utterance,) shares of heads, in percent."""
    draw = np.random.default_rng(0)
    values, size = right.numpy(), len(right)
    means = [values[draw.integers(0, size, size)].mean() for _ in range(RESAMPLES)]
    return [100 * float(x) for x in np.percentile(means, [2.5, 97.5])]


def scores(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, float]:
    """SUPERB's form of a score: log mel energies are at 0, the dense model at 1000.

    Nothing is returned where the dense model is not ahead of them in a probe: then the
    form says nothing.
    """
    low, high = found["log_mel"], found["dense"]
    if not all(high[name]["value"] > low[name]["value"] for name in high):
        return {}
    return {
        system: float(
            np.mean(
                [
                    1000
                    * (own[name]["value"] - low[name]["value"])
                    / (high[name]["value"] - low[name]["value"])
                    for name in high
                ]
            )
        )
        for system, own in found.items()
    }
