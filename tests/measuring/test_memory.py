"""Peaks of memory; what was freed is kept when asked, and not faulted in again."""

import gc
import json

import pytest
import torch

from espnet_prune.measuring.allocator import keep_freed_memory
from espnet_prune.measuring.memory import peak_bytes

CPU = torch.device("cpu")

# In a process of its own, whose heap has no large holes.
PROGRAM = """
import json, resource, torch
from espnet_prune.measuring.allocator import keep_freed_memory

def faults(megabytes):
    counts = []
    for _ in range(20):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(megabytes * 2**18)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return sorted(counts)[10]

keep_freed_memory(False)
usual = faults(16), faults(100)
keep_freed_memory()
print(json.dumps([*usual, faults(100)]))
"""


def test_freed_memory_is_kept_and_otherwise_handled_as_usual(python):
    if not keep_freed_memory(False):
        pytest.skip("malloc is not glibc's")
    tensor, large, kept = json.loads(python("-c", PROGRAM).stdout)
    # A training's own tensors are kept in any process, or it would crawl.
    assert tensor < 100
    assert large > 10000 and kept < 100


def test_peak_memory_is_what_a_call_had_in_use():
    keep_freed_memory(False)  # a test before may have left it so

    def run():
        for _ in range(3):  # one after the other: not added up
            torch.ones(20_000_000)

    peak = peak_bytes(run, CPU)
    if peak is None:
        pytest.skip("this system has no high-water mark")
    assert 75e6 < peak < 120e6
    assert peak_bytes(lambda: None, CPU) < 5e6
    assert peak_bytes(lambda: None, CPU, first=run) < 5e6
    kept = []
    peak = peak_bytes(run, CPU, first=lambda: kept.append(torch.ones(10_000_000)))
    assert 115e6 < peak < 140e6


def test_garbage_of_before_does_not_hide_a_peak():
    def garbage():
        cycle = [torch.ones(20_000_000)]
        cycle.append(cycle)

    def run():
        gc.collect()
        torch.ones(20_000_000)

    garbage()
    peak = peak_bytes(run, CPU)
    if peak is None:
        pytest.skip("this system has no high-water mark")
    assert 75e6 < peak < 120e6
