"""Memory that was freed is kept when asked, and not faulted in again and again."""

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
