"""Memory that was freed is kept when asked, and not faulted in again and again."""

import resource

import pytest
import torch

from espnet_prune.measure.allocator import keep_freed_memory


def faults(megabytes: int) -> int:
    """Page faults of using that much memory again: the fewest of some times, since a
    chunk does not always come back to the very place where it was."""
    counts = []
    for _ in range(20):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(megabytes * 2**18)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(counts)


@pytest.fixture
def kept():
    if not keep_freed_memory():
        pytest.skip("malloc is not glibc's")
    yield
    keep_freed_memory(False)


def test_freed_memory_is_kept_and_then_only_as_usual(kept):
    large, usual = 100, 16
    assert faults(large) < 100
    keep_freed_memory(False)
    # As in a process that was never touched: a training's own tensors are kept.
    assert faults(usual) < 100
    assert faults(large) > 10000
