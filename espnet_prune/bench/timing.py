"""Timing systems side by side on the same features: their clock, their rows."""

import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from espnet_prune.bench.systems import FRAMES_PER_SECOND, System
from espnet_prune.measuring.allocator import keep_freed_memory
from espnet_prune.measuring.memory import peak_bytes


def gemm_rate(device: torch.device, rounds: int = 7, size: int = 1024) -> float:
    """MACs per second of a square fp32 matrix product: what the machine could do."""
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    clock = stopwatch(device)
    start = time.perf_counter()
    while time.perf_counter() - start < 0.1:  # clocks rise under load
        (a @ b).sum().item()
    return size**3 / statistics.median(clock(lambda: a @ b) for _ in range(rounds))


def stopwatch(device: torch.device) -> Callable[[Callable[[], object]], float]:
    """What times a call in seconds: the device's own events on a GPU."""
    if device.type != "cuda":

        def on_cpu(run: Callable[[], object]) -> float:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start

        return on_cpu

    def on_gpu(run: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000

    return on_gpu


def peak_of(
    system: System, inputs: tuple[Tensor, Tensor], device: torch.device
) -> int | None:
    """Bytes of a system's weights, of what it keeps from call to call, and of a call.

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
        utterances: lengths in seconds; each round encodes all, one after the other.
        batch: copies of an utterance that are encoded at once.
        rounds: how often each is timed, after one round to warm up.

    Returns:
        a row for each system: ``median_s`` and ``iqr_s`` per utterance and call,
        ``rtf``, ``macs`` of that call, ``peak_bytes`` (weights, and what the longest
        utterance needs beyond them, what is kept for the next one included), and what
        the row is of.
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
    clock, shuffle = stopwatch(device), random.Random(0).shuffle
    taken = np.zeros((len(compared), rounds))
    longest = max(inputs, key=lambda pair: pair[0].shape[1])
    peaks = [peak_of(system, longest, device) for system in compared]
    order = list(range(len(compared)))
    keep_freed_memory()  # not above: it would count into the peaks
    try:
        for number in range(-1, rounds):  # -1 warms up
            shuffle(order)
            for index in order:
                run = compared[index].run
                times = [clock(lambda r=run, i=i: r(*i)) for i in inputs]
                taken[index, max(0, number)] = sum(times)
    finally:
        keep_freed_memory(False)
    taken /= len(inputs)
    seconds = sum(frames) / len(frames) / FRAMES_PER_SECOND  # as timed
    rows = []
    for system, times, peak in zip(compared, taken, peaks, strict=True):
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
                "rtf": float(median / seconds / batch),
                "macs": round(macs),
                "peak_bytes": peak,
            }
        )
    return rows
