"""Peaks of memory; what was freed is kept when asked, and not faulted in again."""

import json

import pytest

from espnet_prune.measuring.allocator import keep_freed_memory

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


# In a process of its own, too: the holes in the heap that other tests leave serve calls
# in part, and the mark then sees more or less than the calls had in use.
PEAKS = """
import gc, json, torch
from espnet_prune.measuring.memory import peak_bytes

CPU = torch.device("cpu")

def run():
    for _ in range(3):  # one after the other: not added up
        torch.ones(20_000_000)

def nothing():
    pass

def garbage():
    cycle = [torch.ones(20_000_000)]
    cycle.append(cycle)

def collect_and_run():
    gc.collect()
    run()

kept = []
peaks = {"run": peak_bytes(run, CPU), "nothing": peak_bytes(nothing, CPU)}
peaks["nothing after run"] = peak_bytes(nothing, CPU, first=run)
keep = lambda: kept.append(torch.ones(10_000_000))
peaks["run beside kept"] = peak_bytes(run, CPU, first=keep)
garbage()
peaks["run after garbage"] = peak_bytes(collect_and_run, CPU)
print(json.dumps(peaks))
"""


def test_peak_memory_is_what_a_call_had_in_use(python):
    peaks = json.loads(python("-c", PEAKS).stdout)
    if peaks["run"] is None:
        pytest.skip("this system has no high-water mark")
    assert 75e6 < peaks["run"] < 120e6
    assert peaks["nothing"] < 5e6
    assert peaks["nothing after run"] < 5e6
    assert 115e6 < peaks["run beside kept"] < 140e6
    # What garbage collection frees meanwhile does not hide the peak.
    assert 75e6 < peaks["run after garbage"] < 120e6
