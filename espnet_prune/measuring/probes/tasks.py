"""The probes: what each asks of frozen features, and how it is counted.

=============  ==============  =====================================================
kind           labels          counts
=============  ==============  =====================================================
``words``      ``text``        accuracy in telling the transcripts apart
``speakers``   ``utt2spk``     accuracy in telling the speakers apart
``verify``     ``utt2spk``     equal error rate over pairs, of speakers never heard
``characters`` ``text``        character error rate of a linear CTC head
``queries``    ``text``        mean average precision of words found again, untrained
=============  ==============  =====================================================
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch
from torch import Tensor, nn

from espnet_prune.base.errors import InputError
from espnet_prune.measuring.probes.checks import (
    check_classes,
    check_queries,
    check_speakers,
    check_spelling,
    classes_of,
)
from espnet_prune.measuring.probes.features import Labelled, System, frames, pooled
from espnet_prune.measuring.probes.heads import train_characters, train_classes
from espnet_prune.measuring.probes.queries import average_precision, distances

RESAMPLES = 1000  # of the bootstrap
MOST_QUERIES, MOST_DOCUMENTS = 40, 200
Value = dict[str, Any]


def standardized(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Scale both sets by mean and deviation of the first, per layer and channel."""
    mean, std = x.mean(0), x.std(0).clamp(min=1e-5)
    return (x - mean) / std, (z - mean) / std


def classify(system: System, train: Labelled, test: Labelled, seeds: int) -> Value:
    """Measure the accuracy of a linear head."""
    check_classes(train, test)
    classes = classes_of(train)
    y, target = (torch.tensor([classes[x] for x in s.labels]) for s in (train, test))
    x, z = standardized(*(pooled(system, own) for own in (train, test)))
    heads = [train_classes(x, y, len(classes), seed) for seed in range(seeds)]
    with torch.no_grad():
        right = torch.stack([head(z).argmax(1) == target for head in heads])
    by_utterance = 100 * right.double().mean(0).numpy()
    return {
        "value": float(by_utterance.mean()),
        "ci": interval(lambda draw: by_utterance[draw].mean(), len(by_utterance)),
        "by_seed": (100 * right.double().mean(1)).tolist(),
        "layers": np.mean([head.shares() for head in heads], axis=0).tolist(),
    }


def verify(system: System, train: Labelled, test: Labelled, seeds: int) -> Value:
    """Measure the equal error rate of cosines between embeddings of a head.

    The head has learnt to tell other speakers apart.
    """
    check_speakers(train, test)
    classes, names = classes_of(train), sorted(set(test.labels))
    y = torch.tensor([classes[label] for label in train.labels])
    x, z = standardized(*(pooled(system, own) for own in (train, test)))
    heads = [train_classes(x, y, len(classes), seed) for seed in range(seeds)]
    speaker = np.array([names.index(label) for label in test.labels])
    scores = []
    for head in heads:
        with torch.no_grad():
            unit = nn.functional.normalize(head.embed(z), dim=-1)
        scores.append((unit @ unit.T).double().numpy())

    def rates(chosen: np.ndarray) -> list[float]:
        """Compute each head's rate; none where there are not both kinds of pairs."""
        a, b = np.triu_indices(len(chosen), 1)
        a, b = chosen[a], chosen[b]
        a, b = a[a != b], b[a != b]  # drawn twice it is no pair
        same = speaker[a] == speaker[b]
        if same.all() or not same.any():
            return []
        return [100 * equal_error_rate(score[a, b], same) for score in scores]

    by_speaker = [np.flatnonzero(speaker == i) for i in range(len(names))]
    draw, drawn = np.random.default_rng(0), []
    while len(drawn) < RESAMPLES // 10:
        chosen = draw.integers(0, len(names), len(names))
        if found := rates(np.concatenate([by_speaker[i] for i in chosen])):
            drawn.append(np.mean(found))
    by_seed = rates(np.arange(len(speaker)))
    return {
        "value": float(np.mean(by_seed)),
        "ci": [float(x) for x in np.percentile(drawn, [2.5, 97.5])],
        "by_seed": by_seed,
        "layers": np.mean([head.shares() for head in heads], axis=0).tolist(),
    }


def equal_error_rate(score: np.ndarray, same: np.ndarray) -> float:
    """Find where as many pairs of one speaker are refused as of two are taken.

    Args:
        score: (pair,) the higher, the more alike.
        same: (pair,) whether it is of one speaker; there are both.
    """
    order = np.argsort(-score, kind="stable")
    # A threshold takes all pairs of the same score, or none.
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    taken = np.append(0, np.cumsum(~same[order])[last] / (~same).sum())
    refused = np.append(1, 1 - np.cumsum(same[order])[last] / same.sum())
    # Between the thresholds the rates are drawn to lie on a line.
    at = int(np.argmax(taken >= refused))
    before, after = refused[at - 1] - taken[at - 1], taken[at] - refused[at]
    share = before / (before + after)
    return float(taken[at - 1] + share * (taken[at] - taken[at - 1]))


def spell(system: System, train: Labelled, test: Labelled, seeds: int) -> Value:
    """Measure the character error rate of a linear CTC head, decoded greedily."""
    check_spelling(train, test)
    characters = sorted(set("".join(train.labels)))
    y = [torch.tensor([1 + characters.index(c) for c in t]) for t in train.labels]
    x, z = (frames(system, own.audio) for own in (train, test))
    # Utterance by utterance: all frames of all layers, in fp32, may not fit.
    size = sum(len(u) for u in x)
    mean = sum(u.float().sum(0) for u in x) / size
    squares = sum((u.float() - mean).square().sum(0) for u in x) / size
    std = squares.sqrt().clamp(min=1e-5)
    x, z = ([((u.float() - mean) / std).half() for u in own] for own in (x, z))
    by_seed, errors, shares = [], [], []
    lengths = np.array([len(text) for text in test.labels])
    for seed in range(seeds):
        head = train_characters(x, y, len(characters) + 1, seed)
        shares.append(head.shares())
        told = []
        for utterance in z:
            with torch.no_grad():
                best = head(utterance.float()).argmax(-1).unique_consecutive()
            told.append("".join(characters[i - 1] for i in best.tolist() if i))
        errors.append([_errors(*pair) for pair in zip(test.labels, told, strict=True)])
        by_seed.append(100 * float(np.sum(errors[-1]) / lengths.sum()))
    wrong = np.mean(errors, axis=0)
    return {
        "value": float(np.mean(by_seed)),
        "ci": interval(
            lambda draw: 100 * wrong[draw].sum() / lengths[draw].sum(), len(lengths)
        ),
        "by_seed": by_seed,
        "layers": np.mean(shares, axis=0).tolist(),
    }


def _errors(reference: str, hypothesis: str) -> int:
    out = jiwer.process_characters(reference, hypothesis)
    return out.substitutions + out.deletions + out.insertions


def find(system: System, train: Labelled, test: Labelled, seeds: int) -> Value:
    """Measure mean average precision of the layer that is best on the training set."""
    check_queries(train, test)
    draw = np.random.default_rng(0)

    def by_layer(data: Labelled) -> np.ndarray:
        """Measure the average precision, (layer, query)."""
        labels, query, document = np.array(data.labels), np.array([]), np.array([])
        while not len(query):  # a word that is there again
            order = draw.permutation(len(labels))
            size = min(MOST_QUERIES, len(order) // 2)
            document = order[size : size + MOST_DOCUMENTS]
            query = order[:size][np.isin(labels[order[:size]], labels[document])]
        audio = [data.audio[i] for i in (*query, *document)]
        found = frames(system, audio)
        values = []
        for layer in range(found[0].shape[1]):
            own = [utterance[:, layer] for utterance in found]
            far = distances(own[: len(query)], own[len(query) :])
            same = labels[query][:, None] == labels[document][None]
            pairs = zip(far, same, strict=True)
            values.append([100 * average_precision(*pair) for pair in pairs])
        return np.array(values)

    best = int(by_layer(train).mean(1).argmax())
    values = by_layer(test)[best]
    return {
        "value": float(values.mean()),
        "ci": interval(lambda drawn: values[drawn].mean(), len(values)),
        "layer": best,
    }


@dataclass(frozen=True)
class Kind:
    """A kind of probe.

    Args:
        run: measures a system.
        check: refuses labels that do not go together.
        table: that has the labels.
        unit: of the value.
        higher: whether more of it is better.
        version: to be raised when the same probe comes to count otherwise.
    """

    run: Callable[[System, Labelled, Labelled, int], Value]
    check: Callable[[Labelled, Labelled], None]
    table: str
    unit: str
    higher: bool
    version: int = 1


TASKS = {
    "words": Kind(classify, check_classes, "text", "% accuracy", True),
    "speakers": Kind(classify, check_classes, "utt2spk", "% accuracy", True),
    "verify": Kind(verify, check_speakers, "utt2spk", "% equal error rate", False),
    "characters": Kind(
        spell, check_spelling, "text", "% character error rate", False, 3
    ),
    "queries": Kind(find, check_queries, "text", "% mean average precision", True),
}


@dataclass(frozen=True)
class Probe:
    """A task for a head on frozen features, and its data.

    Args:
        name: of the task.
        kind: of ``TASKS``.
        train, test: Kaldi directories.
    """

    name: str
    kind: str
    train: Path
    test: Path

    @classmethod
    def parse(cls, text: str) -> "Probe":
        """The method reads ``NAME=KIND:TRAIN:TEST``, or without ``NAME=``.

        Raises:
            InputError: it is none, or a directory is not there.
        """
        name, equals, rest = text.partition("=")
        kind, *folders = (rest if equals else name).split(":")
        if len(folders) != 2 or not all((name, *folders)):
            raise InputError("--probes", f"{text!r} is not NAME=KIND:TRAIN:TEST")
        if kind not in TASKS:
            what = f"{text!r}: there is no kind {kind!r}"
            raise InputError("--probes", what, f"one of: {', '.join(TASKS)}")
        for folder in folders:
            for table in ("wav.scp", TASKS[kind].table):
                if not Path(folder, table).is_file():
                    mend = "give a Kaldi directory"
                    raise InputError(folder, f"holds no {table}", mend)
        return cls(name if equals else kind, kind, *map(Path, folders))


def interval(
    value: Callable[[np.ndarray], float], size: int, resamples: int = RESAMPLES
) -> list[float]:
    """Compute a 95 % interval by bootstrap.

    Args:
        value: of the drawn indices.
        size: number of what is drawn from.
        resamples: how often.
    """
    draw = np.random.default_rng(0)
    values = [value(draw.integers(0, size, size)) for _ in range(resamples)]
    return [float(x) for x in np.percentile(values, [2.5, 97.5])]
