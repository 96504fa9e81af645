"""Measure how much memory a call needs at its peak."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch


def peak_bytes(
    run: Callable[[], object],
    device: torch.device,
    first: Callable[[], object] = lambda: None,
) -> int | None:
    """Measure the memory in use at the peak of a call, beyond what was in use before.

    On a CPU by the kernel's high-water mark of resident memory, scratch buffers of the
    libraries included; None where the system has none (it takes Linux).

    Args:
        run: the call.
        device: where it works.
        first: called before it; what that leaves in use counts, its own peak does not.
    """
    gc.collect()  # what was given up before must not go unseen while these calls run
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        first()
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        # What was freed before must not serve these calls unseen.
        trim = ctypes.CDLL("libc.so.6").malloc_trim
        trim(0)
        before = _status("VmRSS")
        first()
        trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the mark starts anew
        run()
        return max(0, _status("VmHWM") - before)
    except (OSError, AttributeError):
        return None


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
