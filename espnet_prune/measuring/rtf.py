"""Real-time factor in separate columns: seconds of computing per second of audio.

ESPnet's own figure times the beam search together with the encoder, and the search
hides what pruning the encoder won. Columns, each one call from audio samples:

==============  ==============================================================
``frontend``    STFT, mel filters and normalisation alone
``encoder``     ``model.encode``: the frontend, then the encoder
``ctc_greedy``  :class:`GreedyDecoder`: the encoder, then the best labels, collapsed
``search``      ``Speech2Text``: all of a recipe's decoding, encoder included
==============  ==============================================================
"""

import random
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from espnet2.bin.asr_inference import Speech2Text
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet_prune.families.espnet.layers import content
from espnet_prune.families.espnet.tasks import decoded_with
from espnet_prune.measuring.clock import turn
from espnet_prune.serving.greedy import GreedyDecoder

COLUMNS = ("frontend", "encoder", "ctc_greedy", "search")

Task = Callable[[torch.Tensor], object]  # from audio (sample,)


def _batch(audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return audio[None], torch.tensor([len(audio)])


def _frontend(model: AbsESPnetModel, audio: torch.Tensor) -> object:
    features = model._extract_feats(*_batch(audio))
    return features if model.normalize is None else model.normalize(*features)


def _encode(model: AbsESPnetModel, audio: torch.Tensor) -> torch.Tensor:
    return content(model.encode(*_batch(audio))[0])


def columns(speech2text: Speech2Text, search: bool = True) -> dict[str, Task]:
    """Choose what is timed for one system, by column; a model without CTC lacks one.

    Args:
        speech2text: the system.
        search: False leaves the search out, where decoding is greedy.
    """
    model, _ = decoded_with(speech2text)
    tasks: dict[str, Task] = {
        "frontend": lambda audio: _frontend(model, audio),
        "encoder": lambda audio: _encode(model, audio),
    }
    if model.ctc is not None:
        tasks["ctc_greedy"] = GreedyDecoder(model)
    if search:
        tasks["search"] = speech2text
    return tasks


@torch.no_grad()
def time_rounds(
    systems: dict[str, dict[str, Task]],
    utterances: Sequence[torch.Tensor],
    rounds: int,
    seed: int = 0,
    progress: Callable[[int], object] = lambda done: None,
) -> dict[str, dict[str, np.ndarray]]:
    """Time every task of every system on every utterance, one at a time.

    The systems take turns within each utterance, in a random order, so that a slow
    minute of the machine falls on all of them alike. One untimed pass over the longest
    utterance warms up.

    Args:
        systems: system -> column -> task.
        utterances: audio (sample,) each.
        rounds: how often the whole list is measured.
        progress: called with the number of rounds done.

    Returns:
        system -> column -> seconds, (round, utterance).
    """
    tasks = {(n, col): run for n, cols in systems.items() for col, run in cols.items()}
    shape = (rounds, len(utterances))
    seconds = {n: {col: np.zeros(shape) for col in systems[n]} for n in systems}
    longest = max(utterances, key=len)
    for task in tasks.values():
        task(longest)
    order = random.Random(seed)
    for number in range(rounds):
        for index, audio in enumerate(utterances):
            ready = {key: partial(task, audio) for key, task in tasks.items()}
            for (name, column), took in turn(ready, order).items():
                seconds[name][column][number, index] = took
        progress(number + 1)
    return seconds


def summarise(seconds: np.ndarray, audio_seconds: float) -> dict[str, float]:
    """Compute the real-time factor of times (round, utterance).

    Returns:
        ``median``: each utterance's median over the rounds, summed, so that a slow
        second of the machine does not count; ``iqr``: interquartile range of the
        rounds' own factors, which tells how quiet the machine was.
    """
    low, high = np.percentile(seconds.sum(axis=1) / audio_seconds, [25, 75])
    median = np.median(seconds, axis=0).sum() / audio_seconds
    return {"median": float(median), "iqr": float(high - low)}
