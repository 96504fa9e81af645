"""Tell which machine a time was measured on, and whether it was quiet."""

import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

# The ones that decide how fast a CPU multiplies matrices.
INSTRUCTION_SETS = (
    "sse4_2 avx avx2 fma avx512f avx512_vnni avx512_bf16 avx_vnni amx_bf16 amx_int8 "
    "asimd asimddp i8mm bf16 sve"
).split()
SAMPLE = 1.0  # seconds of other work that are looked at


def cpu() -> dict[str, Any]:
    """Tell name and instruction sets of the CPU, as far as the system does."""
    fields: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
    }


def _busy_seconds() -> float | None:
    """Sum the CPU seconds that all cores have been busy since boot (Linux)."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _idle, _iowait, *others = map(
        int, stat.read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")


def busy_cores() -> float | None:
    """Measure how many cores are at work while this process sleeps; None if not known.

    The load average cannot tell: it still holds the minute of the stage before.
    """
    before = _busy_seconds()
    time.sleep(SAMPLE)
    after = _busy_seconds()
    if before is None or after is None:
        return None
    return round((after - before) / SAMPLE, 2)


def busy_warning(busy: float | None) -> str | None:
    """Write a sentence if more cores were at work than times can bear."""
    cores = os.cpu_count() or 1
    if busy is None or busy <= 0.25 * cores:
        return None
    return f"other work kept {busy} of {cores} cores busy"


def describe() -> dict[str, Any]:
    """Describe all that must stand beside a measured time; call it before measuring.

    ``warning`` is null on a quiet machine, else a sentence: times taken beside other
    work vary, above all on a machine of few cores.
    """
    busy = busy_cores()
    return {
        **cpu(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "busy_cores": busy,
        "warning": busy_warning(busy),
    }


def pin_threads(threads: int) -> None:
    """Let torch use ``threads`` inside an operator and one between operators."""
    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != 1:  # torch lets this be set only once
        torch.set_num_interop_threads(1)
