"""Measure a self-supervised encoder's parameters, MACs, and time on this machine."""

import random
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from espnet_prune.families.ssl.audio import RATE
from espnet_prune.families.ssl.describe import PRETRAINING
from espnet_prune.measuring.clock import turn

K = TypeVar("K")


def count(model: nn.Module) -> int:
    """The function counts parameters, without the one that only pre-training has."""
    named = model.named_parameters()
    return sum(p.numel() for name, p in named if not name.endswith(PRETRAINING))


@torch.no_grad()
def count_macs(model: nn.Module, seconds: float) -> float:
    """The function counts the MACs of one utterance, by torch's own counter."""
    audio = torch.randn(1, round(RATE * seconds))
    # The counter knows attention as the products that it is made of.
    with FlopCounterMode(display=False) as flops, sdpa_kernel(SDPBackend.MATH):
        model.eval()(audio)
    return flops.get_total_flops() / 2


@torch.no_grad()
def real_time_factors(
    runs: Mapping[K, Callable[[Tensor], object]], seconds: float, rounds: int
) -> dict[K, float]:
    """The function times all in turns: seconds of computing per second of audio, the
    median over the rounds.

    Args:
        runs: what encodes (batch, sample) on the CPU.
        seconds: length of the utterance, which is encoded alone.
        rounds: how often each is timed, after one round to warm up.
    """
    audio = torch.randn(1, round(RATE * seconds))
    tasks = {name: partial(run, audio) for name, run in runs.items()}
    order = random.Random(0)
    _, *took = (turn(tasks, order) for _ in range(rounds + 1))
    return {n: statistics.median(times[n] for times in took) / seconds for n in tasks}
