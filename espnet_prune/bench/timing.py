"""Time systems side by side on the same features, and make their rows."""

import random
import statistics
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from espnet_prune.bench.systems import FRAMES_PER_SECOND, System
from espnet_prune.measuring.allocator import keep_freed_memory
from espnet_prune.measuring.clock import turn
from espnet_prune.measuring.memory import peak_bytes


def gemm_rate(device: torch.device, rounds: int = 7, size: int = 1024) -> float:
    """Measure what the machine can do: MACs/s of a square fp32 matrix product."""
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    start = time.perf_counter()
    while time.perf_counter() - start < 0.1:  # clocks rise under load
        (a @ b).sum().item()
    alone, order = {"gemm": lambda: a @ b}, random.Random(0)
    took = (turn(alone, order, device)["gemm"] for _ in range(rounds))
    return size**3 / statistics.median(took)


def peak_of(
    system: System, inputs: tuple[Tensor, Tensor], device: torch.device
) -> int | None:
    """Measure a system's bytes: its weights, what it keeps between calls, and a call's.

    The call is not the first one, in which onnxruntime only plans its memory.
    """
    if system.fresh is None:
        return None
    system.run(*inputs)  # libraries load and generate code
    call = partial(system.fresh(), *inputs)
    peak = peak_bytes(call, device, first=call)
    return None if peak is None else system.weight_bytes + peak


@torch.no_grad()
def time_systems(
    compared: list[System],
    utterances: list[float],
    batch: int,
    rounds: int,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Time all systems on the same features, taking turns in random order.

    Args:
        utterances: lengths in seconds; each round encodes all, one at a time.
        batch: copies of an utterance that are encoded at once.
        rounds: how often each is timed, after one round to warm up.

    Returns:
        a row for each system: ``median_s`` and ``iqr_s`` per utterance and call,
        ``first_s`` in the round that warms up, in which most lengths are new, ``rtf``,
        ``macs`` of that call, ``peak_bytes`` (weights, and what the longest utterance
        needs beyond them, what is kept for the next one included), and what the row is
        of.
    """
    features = compared[0].size.features
    frames = [max(7, round(s * FRAMES_PER_SECOND)) for s in utterances]
    inputs = [
        (
            torch.randn(batch, n, features, device=device),
            torch.full((batch,), n, device=device),
        )
        for n in frames
    ]
    longest = max(inputs, key=lambda pair: pair[0].shape[1])
    peaks = [peak_of(system, longest, device) for system in compared]
    tasks = {
        (system, utterance): partial(compared[system].run, *inputs[utterance])
        for system in range(len(compared))
        for utterance in range(len(inputs))
    }
    order = random.Random(0)
    keep_freed_memory()  # not above: it would count into the peaks
    try:
        cold = list(turn(tasks, order, device).values())  # warms up
        taken = [list(turn(tasks, order, device).values()) for _ in range(rounds)]
    finally:
        keep_freed_memory(False)
    each = np.reshape(taken, (rounds, len(compared), len(inputs))).mean(2).T
    first = np.reshape(cold, (len(compared), len(inputs))).mean(1)
    seconds = sum(frames) / len(frames) / FRAMES_PER_SECOND  # as timed
    rows = []
    for system, times, new, peak in zip(compared, each, first, peaks, strict=True):
        low, median, high = np.percentile(times, [25, 50, 75])
        macs = batch * sum(map(system.macs, frames)) / len(frames)
        rows.append(
            {
                "system": system.name,
                "precision": system.precision,
                "target": system.target,
                "threads": torch.get_num_threads(),
                "seconds": round(seconds, 3),
                "batch": batch,
                "median_s": float(median),
                "iqr_s": float(high - low),
                "first_s": float(new),
                "rtf": float(median / seconds / batch),
                "macs": round(macs),
                "peak_bytes": peak,
            }
        )
    return rows
