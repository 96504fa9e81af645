"""Measure, or foresee, how much memory a call needs at its peak."""

import argparse
import ctypes
import gc
import re
import resource
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch

from espnet_prune.base.errors import InputError
from espnet_prune.families.espnet.checkpoint import sampling_rate
from espnet_prune.families.registry import find_kind
from espnet_prune.running.parallel import CUT, FEWER

_AT_ONCE = 5  # tables of scores that torch has of one layer, measured


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


def available_bytes() -> int | None:
    """Tell how much memory a process may have here; None where nothing says it.

    The least counts of what the machine has left, of the limit of a container (cgroup
    v2), and of ``ulimit -v``.
    """
    found = []
    with suppress(OSError):
        text = Path("/proc/meminfo").read_text()
        found += [1024 * int(kb) for kb in re.findall(r"MemAvailable: +(\d+)", text)]
    with suppress(OSError):
        text = Path("/proc/self/cgroup").read_text()
        own = Path("/sys/fs/cgroup", *re.findall(r"^0::/(.*)", text, re.M))
        for folder in (own, *own.parents):
            with suppress(OSError, ValueError):  # "max": none
                found.append(int((folder / "memory.max").read_text()))
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return min(found + [limit] * (limit != resource.RLIM_INFINITY), default=None)


def attention_bytes(model: argparse.Namespace, seconds: float) -> int:
    """Estimate what attention takes by torch at its peak, with one utterance.

    ESPnet's layers keep their weights, a table of (head, time, time) each, until the
    next utterance; compact ones do not.

    Args:
        model: its ``config.yaml``.
        seconds: of the utterance.

    Returns:
        bytes; 0 for encoders that do not hold these tables, or of which it is unknown.
    """
    conf, kind = model.encoder_conf, find_kind(model.encoder)
    layer = re.fullmatch(r"conv[12]d(\d*)", conf.get("input_layer", "conv2d"))
    known = kind is not None and "runtime" in kind.can and layer is not None
    known = known and getattr(model, "frontend", "default") == "default"
    if not known or conf.get("use_sdpa") or conf.get("use_flash_attn"):
        return 0
    hop = (model.frontend_conf or {}).get("hop_length", 128)
    time = seconds * sampling_rate(model) / hop / int(layer[1] or 4)
    heads = [conf.get("attention_heads", 4)] * conf.get("num_blocks", 6)
    kept = sum(heads)
    if (cut := conf.get("architecture")) is not None:
        heads, kept = [block["heads"] for block in cut["blocks"] if block], 0
    tables = _AT_ONCE * max(heads, default=0) + kept
    return int(tables * time**2 * torch.float32.itemsize)


def refuse_too_long(
    where: object, seconds: Mapping[str, float], model: argparse.Namespace
) -> None:
    """Refuse utterances that torch has no memory to encode at once.

    Args:
        where: the set, for the message.
        seconds: their lengths by name, the longest first.
        model: the ``config.yaml`` of what is to encode it.

    Raises:
        InputError: there is too little.
    """
    need = sum(attention_bytes(model, length) for length in seconds.values())
    have = available_bytes()
    if have is not None and need > have:
        utterance, longest = next(iter(seconds.items()))
        what = f"{utterance} lasts {longest:.0f} s, for which attention takes about "
        what += f"{need / 1e9:.1f} GB of memory"
        what += f" ({len(seconds)} at once)" if len(seconds) > 1 else ""
        mend = FEWER if len(seconds) > 1 else CUT
        raise InputError(where, f"{what}: there are {have / 1e9:.1f}", mend)
