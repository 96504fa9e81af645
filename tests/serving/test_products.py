"""Linear layers and convolutions prepared for inference, and the widths they want."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.backends import mkldnn

from espnet_prune.serving.fast import precision as precisions
from espnet_prune.serving.fast.conv2d import Conv2d, Int8Conv2d
from espnet_prune.serving.fast.linear import (
    Int8Linear,
    Linear,
    PackedLinear,
    bucket,
)
from espnet_prune.serving.fast.precision import has_int8_convolutions, packs
from espnet_prune.serving.fast.subsampling import FastSubsampling
from espnet_prune.serving.fast.widths import fill, widened
from tests.fixtures.encoders import FEATURES


@given(st.integers(1, 100_000))
def test_buckets_hold_their_rows_and_little_more(rows):
    assert rows <= bucket(rows) < rows + max(32, rows / 16)
    assert bucket(bucket(rows)) == bucket(rows)


def test_utterances_of_all_lengths_share_a_few_sizes():
    # 1 to 30 s of audio, 25 frames a second.
    assert len({bucket(rows) for rows in range(25, 751)}) <= 24


@pytest.mark.parametrize("rows", [(1,), (3, 7), (1, 32), (2, 33), (1, 600)])
def test_rows_that_fill_a_bucket_change_nothing(rows):
    if not packs(torch.bfloat16, torch.device("cpu")):
        pytest.skip("this CPU has no bf16")
    weight, bias = torch.randn(24, 16), torch.randn(24)
    x = torch.randn(*rows, 16).bfloat16()
    plain = Linear(weight, bias, torch.bfloat16)(x)
    packed = PackedLinear(weight, bias)(x)
    assert packed.shape == plain.shape == (*rows, 24)
    torch.testing.assert_close(packed.float(), plain.float(), rtol=2e-2, atol=2e-2)


def test_int8_layer_keeps_eight_bits_zeros_and_the_engine():
    engine = torch.backends.quantized.engine
    weight, bias, x = torch.randn(24, 32), torch.randn(24), torch.randn(5, 7, 32)
    weight[2] = 0
    out, expected = Int8Linear(weight, bias)(x), x @ weight.t() + bias
    assert torch.backends.quantized.engine == engine
    # 7 bits without VNNI
    assert (out - expected).norm() / expected.norm() < 0.03
    assert out.isfinite().all() and torch.equal(out[..., 2], bias[2].expand(5, 7))


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


def test_filters_are_arranged_for_the_kernel_that_takes_them(capfd):
    """Without a typical size oneDNN rearranged these at every call, which took four
    times as long as the convolution."""
    weight, bias = torch.randn(48, 64, 3, 3), torch.randn(48)
    x = torch.randn(1, 105, 39, 64).permute(0, 3, 1, 2)
    layer = Conv2d(weight, bias, None, (100, 39), (2, 2))
    if not layer.packed:
        pytest.skip("this torch has no oneDNN")
    with torch.no_grad(), mkldnn.verbose(mkldnn.VERBOSE_ON):
        actual = layer(x)
    told = capfd.readouterr().out
    torch.testing.assert_close(actual, F.conv2d(x, weight, bias, 2), atol=1e-3, rtol=0)
    assert ",convolution," in told
    lines = told.splitlines()
    assert not [t for t in lines if ",reorder," in t and "48x64x3x3" in t]


needs_int8 = pytest.mark.skipif(
    not has_int8_convolutions(), reason="no int8 convolutions on this machine"
)


def quantized(x, scale):
    return (x / scale).round() * scale


@needs_int8
@pytest.mark.parametrize("vnni", [True, False])
@pytest.mark.parametrize("batch, channels, out", [(1, 16, 32), (3, 37, 5), (0, 8, 8)])
def test_int8_convolution_is_that_of_the_rounded(
    monkeypatch, vnni, batch, channels, out
):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    weight, bias = torch.randn(out, channels, 3, 3), torch.randn(out)
    x = torch.randn(batch, 21, 19, channels).relu().permute(0, 3, 1, 2)
    layer = Int8Conv2d(weight, bias, (100, 19), (2, 2))
    scale = float(x.max()) / (255 if vnni else 127) if batch else 1.0
    steps = weight.abs().amax((1, 2, 3), keepdim=True) / 127
    expected = F.conv2d(
        quantized(x, scale).double(),
        quantized(weight, steps).double(),
        bias.double(),
        2,
    )
    for same in (layer, copy.deepcopy(layer)):
        actual = same(x)
        assert actual.dtype == torch.float32 and actual.shape == expected.shape
        torch.testing.assert_close(
            actual.double(), expected.relu(), atol=1e-3, rtol=1e-4
        )


@needs_int8
def test_int8_convolution_of_nothing_but_zeros_is_the_bias():
    bias = torch.tensor([1.0, -1.0])
    layer = Int8Conv2d(torch.zeros(2, 3, 3, 3), bias, (100, 19), (2, 2))
    out = layer(torch.zeros(1, 3, 9, 9))
    torch.testing.assert_close(out, bias.relu().view(1, 2, 1, 1).expand(1, 2, 4, 4))


@pytest.mark.parametrize("machine, kind", [("x86_64", Int8Conv2d), ("arm64", Conv2d)])
def test_int8_convolutions_are_left_to_machines_with_kernels_for_them(
    monkeypatch, make_stock, machine, kind
):
    monkeypatch.setattr(precisions.platform, "machine", lambda: machine)
    if machine == "x86_64" and not has_int8_convolutions():
        pytest.skip("this torch has no oneDNN")
    layer = FastSubsampling(make_stock().eval().embed, FEATURES, "int8")
    assert type(layer.second) is kind
