"""The norm over those channels alone that are open."""

import pytest
import torch
from torch.nn.functional import layer_norm

from espnet_prune.pruning.open_norm import OpenNorm, open_norm


def norm_of(channels, **options):
    norm = torch.nn.LayerNorm(channels, eps=1e-12).double()
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    return OpenNorm(norm, **options)


def told(norm, dims):
    """The norm as ``functional_call`` tells it: gated weights, open channels."""
    tensors = {"weight": norm.weight * dims, "bias": norm.bias * dims}
    tensors["open"] = (dims > 0).to(dims.dtype)
    return lambda x: torch.func.functional_call(norm, tensors, (x,))


def test_it_is_the_norm_of_the_open_channels():
    norm, x = norm_of(6), torch.randn(2, 3, 6).double()
    dims = torch.tensor([1.0, 0, 0.5, 1, 0, 1]).double()
    out, index = told(norm, dims)(x), dims.nonzero().squeeze(1)
    affine = ((p * dims)[index] for p in (norm.weight, norm.bias))
    expected = layer_norm(x[..., index], (4,), *affine, norm.eps)
    torch.testing.assert_close(out[..., index], expected)
    assert not out[..., dims == 0].any()
    other = torch.where(dims > 0, x, 1e4 * torch.randn_like(x))
    torch.testing.assert_close(told(norm, dims)(other), out)


@pytest.mark.parametrize("narrow", [True, False])
def test_wide_open_it_is_the_norm_that_it_stands_for(narrow):
    norm, x = norm_of(6, narrow=narrow), torch.randn(2, 3, 6).double()
    expected = layer_norm(x, (6,), norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(norm(x), expected)
    assert set(norm.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("narrow", [True, False])
def test_absent_it_is_the_identity_of_open_channels(narrow):
    norm, x = norm_of(6, narrow=narrow, can_go=True), torch.randn(2, 6).double()
    assert not torch.equal(norm(x), x)
    norm.open[2], norm.present[0] = 0, 0
    torch.testing.assert_close(norm(x), x * norm.open if narrow else x)


def test_whatever_is_open_stays_finite():
    x, ones = torch.randn(2, 9, 20), torch.ones(20)
    x[0, :, 7] = 1e6
    assert open_norm(x, 0 * ones, ones, ones, 1e-12).isfinite().all()
    kept = torch.arange(20) == 5  # its variance is 0
    out = open_norm(x, kept.float(), ones, 0 * ones, 1e-12)
    assert out.abs().max() <= 20**0.5 + 1e-5


@pytest.mark.parametrize("can_go", [False, True])
@pytest.mark.parametrize("closed", [0, 2, 4, 5])
def test_gradient_is_the_derivative(closed, can_go):
    norm = norm_of(5, can_go=can_go)
    x = torch.randn(2, 3, 5, dtype=torch.double, requires_grad=True)
    some = torch.rand(5 - closed, dtype=torch.double) + 0.1
    weight, bias = (p.detach().clone().requires_grad_() for p in norm.parameters())
    present = torch.full((1,), 0.6, dtype=torch.double, requires_grad=True)

    def gated(x, weight, bias, some, present):
        dims = torch.cat([some.new_zeros(closed), some])
        tensors = {"weight": weight * dims, "bias": bias * dims, "present": present}
        tensors["open"] = (dims > 0).double()
        return torch.func.functional_call(norm, tensors, (x,))

    inputs = x, weight, bias, some.requires_grad_(), present
    assert torch.autograd.gradcheck(gated, inputs)


def test_closed_gate_learns_from_what_it_would_let_through():
    norm, x = norm_of(6), torch.randn(2, 3, 6).double()
    dims = torch.tensor([1.0, 0, 1, 1, 0, 1]).double().requires_grad_()
    grad = torch.randn_like(x)
    told(norm, dims)(x).backward(grad)
    given = (dims.detach() > 0).double(), norm.weight, norm.bias, norm.eps
    let_through = open_norm(x, *given) * grad
    torch.testing.assert_close(dims.grad, let_through.sum((0, 1)))


def test_half_precision_is_normed_in_full():
    norm = OpenNorm(torch.nn.LayerNorm(16))
    x = 300 + torch.randn(4, 16).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = norm(x)
    expected = layer_norm(x.float(), (16,), norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(out, expected, atol=1e-3, rtol=0)
