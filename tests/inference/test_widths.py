import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_prune.serving.fast.widths import fill, widened


@given(st.integers(1, 100), st.sampled_from(["fp32", "bf16", "int8"]))
def test_widths_are_the_next_multiple(size, precision):
    wide = widened(size, precision)
    multiple = {"fp32": 1, "bf16": 16, "int8": 16}[precision]
    assert wide % multiple == 0 and 0 <= wide - size < multiple


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_zeros_stand_behind_what_was_there(shape, data):
    dim = data.draw(st.integers(0, len(shape) - 1))
    x = torch.randn(shape)
    size = shape[dim] + data.draw(st.integers(0, 3))
    wide = fill(x, dim, size)
    assert wide.shape[dim] == size
    assert torch.equal(wide.narrow(dim, 0, shape[dim]), x)
    assert not wide.narrow(dim, shape[dim], size - shape[dim]).any()
