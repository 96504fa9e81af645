"""The clock: what is compared takes turns, so that a slow minute falls on all alike."""

import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

K = TypeVar("K")
Task = Callable[[], object]
CPU = torch.device("cpu")


def turn(
    tasks: Mapping[K, Task], order: random.Random, device: torch.device = CPU
) -> dict[K, float]:
    """The function runs each task once, one after the other in a drawn order.

    Args:
        tasks: what is timed, by name.
        order: draws the order.
        device: where the tasks work. A GPU's own events time what runs there.

    Returns:
        the seconds of each, by name, in the order of ``tasks``.
    """
    names = list(tasks)
    order.shuffle(names)
    clock = _on_gpu if device.type == "cuda" else _on_cpu
    took = {name: clock(tasks[name]) for name in names}
    return {name: took[name] for name in tasks}


def _on_cpu(task: Task) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def _on_gpu(task: Task) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    task()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000
