import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_prune.pruning.gates import CLAMP, MODES, GateOptions, gates_of

SAMPLES = 20000


def gate_with(log_alpha: torch.Tensor, mode: str = "hard_concrete"):
    gate = GateOptions(mode).build(len(log_alpha))
    with torch.no_grad():
        gate.log_alpha.copy_(log_alpha)
    return gate


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("log_alpha", [-4.0, -1.6, 0.0, 1.0, 4.0])
def test_openness_is_the_share_of_samples_that_are_open(mode, log_alpha):
    gate = gate_with(torch.full((SAMPLES,), log_alpha), mode).train()
    share = (gate() != 0).float().mean().item()
    expected = gate.openness()[0].item()
    error = math.sqrt(expected * (1 - expected) / SAMPLES)
    assert abs(share - expected) < 4 * error


def test_hard_concrete_gate_is_even_at_the_known_log_alpha():
    # Table of the reference: P(z > 0) = 0.5 at -1.599 for beta 2/3.
    assert gate_with(torch.tensor([-1.5986])).openness().item() == pytest.approx(
        0.5, abs=1e-4
    )


@pytest.mark.parametrize("mode", MODES)
def test_initial_gates_are_open(mode):
    gate = GateOptions(mode, drop_rate_init=0.05).build(100)
    assert gate.is_open().all()
    assert gate.openness().mean().item() > 0.9


@pytest.mark.parametrize("mode", MODES)
def test_samples_stay_in_the_unit_interval_and_vary(mode):
    gate = gate_with(torch.zeros(1000), mode).train()
    first, second = gate(), gate()
    assert first.min().item() == 0 and first.max().item() == 1
    assert not torch.equal(first, second)


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_is_deterministic(mode):
    gate = gate_with(torch.linspace(-5, 5, 50), mode).eval()
    assert torch.equal(gate(), gate())
    assert torch.equal(gate() > 0, gate.is_open())


def test_straight_through_samples_are_binary_and_have_a_gradient():
    gate = gate_with(torch.zeros(1000), "straight_through").train()
    sample = gate()
    assert torch.equal(sample, sample.round())
    assert set(sample.tolist()) == {0.0, 1.0}
    sample.sum().backward()
    assert float(gate.log_alpha.grad.abs().sum()) > 0


def test_straight_through_gradient_is_the_hard_concrete_one_of_the_same_draw():
    weight = torch.randn(1000)
    grads = []
    for mode in MODES:
        gate = gate_with(torch.linspace(-3, 3, 1000), mode).train()
        torch.manual_seed(0)
        (gate() * weight).sum().backward()
        grads.append(gate.log_alpha.grad)
    assert torch.equal(*grads)
    assert 0 < int((grads[0] != 0).sum()) < 1000  # none beyond the stretch's ends


def test_hard_concrete_gradient_is_that_of_finite_differences():
    step = 1e-2

    def draw(shift):
        gate = gate_with(torch.linspace(-3, 3, 1000) + shift).train()
        torch.manual_seed(0)
        return gate, gate()

    (_, low), (gate, middle), (_, high) = draw(-step), draw(0), draw(step)
    middle.sum().backward()
    inside = (low > 0) & (high < 1)
    slope = (high - low)[inside] / (2 * step)
    assert len(slope) > 50
    assert gate.log_alpha.grad[inside] == pytest.approx(slope.detach(), abs=1e-3)


@given(st.floats(-10, 10))
@settings(deadline=None, max_examples=50)
def test_open_gates_never_vanish(log_alpha):
    gate = gate_with(torch.tensor([log_alpha])).eval()
    if gate.is_open():
        assert 0 < gate().item() <= 1
    assert gate.open_value().item() > 0


@pytest.mark.parametrize("mode", MODES)
def test_loading_a_state_in_evaluation_mode_leaves_no_stale_values(mode):
    gate = gate_with(torch.full((4,), 3.0), mode).eval()
    assert gate().all()
    gate.load_state_dict({"log_alpha": torch.full((4,), -5.0)})
    assert not gate().any()


@pytest.mark.parametrize("training", [True, False])
def test_mask_decides_in_both_modes(training):
    gate = gate_with(torch.zeros(3)).train(training)
    gate.mask = torch.tensor([0.0, 0.3, 1.0])
    assert torch.equal(gate(), gate.mask)


def test_mask_is_not_in_the_checkpoint():
    gate = gate_with(torch.zeros(3))
    gate.mask = torch.ones(3)
    assert list(gate.state_dict()) == ["log_alpha"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sampling_stays_in_fp32(dtype):
    # 1 - 1e-6 rounds to 1 in half precision, and log(u) - log(1 - u) overflows.
    gate = gate_with(torch.full((SAMPLES,), 0.0)).train()
    with torch.autocast("cpu", dtype=dtype):
        assert gate().dtype == torch.float32
    sample = gate.to(dtype)()
    assert sample.dtype == torch.float32 and sample.isfinite().all()
    assert len(sample.unique()) > SAMPLES / 4  # half precision has fewer numbers


def test_clamped_gates_can_come_back():
    gate = gate_with(torch.tensor([-100.0, 100.0]))
    gate.clamp_()
    assert gate.log_alpha.tolist() == pytest.approx([-CLAMP, CLAMP])


@pytest.mark.parametrize(
    ("options", "named"),
    [({"mode": "soft"}, "mode"), ({"drop_rate_init": 0.0}, "drop_rate_init")],
)
def test_wrong_option_is_named(options, named):
    with pytest.raises(ValueError, match=named):
        GateOptions(**options)


def test_every_structure_of_an_encoder_has_a_gate(make_encoder):
    for fine in (True, False):
        encoder = make_encoder(gates={"fine_heads": fine})
        per_block = 2 * 4 + 2 * fine
        assert len(gates_of(encoder)) == 2 + per_block * len(encoder.encoders)
    assert not gates_of(make_encoder())
