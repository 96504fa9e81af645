"""The hard-concrete distribution, its straight-through variant, and their noise."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_prune.config.sections import GATE_MODES, GateOptions
from espnet_prune.pruning.gates import CLAMP, Gates
from espnet_prune.pruning.layout import Layout
from espnet_prune.pruning.structure import Structure

SAMPLES = 20000
both = pytest.mark.parametrize("mode", GATE_MODES)


def gates_with(log_alpha, mode="hard_concrete", seed=0):
    torch.manual_seed(seed)
    layout = Layout([Structure("unit", len(log_alpha))], {})
    gates = Gates(layout, GateOptions(mode))
    with torch.no_grad():
        gates.log_alpha.copy_(log_alpha)
    return gates


@both
@pytest.mark.parametrize("log_alpha", [-4.0, -1.6, 0.0, 1.0, 4.0])
def test_openness_is_the_share_of_samples_that_are_open(mode, log_alpha):
    gates = gates_with(torch.full((SAMPLES,), log_alpha), mode).train()
    share = (gates() != 0).float().mean().item()
    expected = gates.openness()[0].item()
    error = math.sqrt(expected * (1 - expected) / SAMPLES)
    assert abs(share - expected) < 4 * error


def test_hard_concrete_gate_is_even_at_the_known_log_alpha():
    # Table of the reference: P(z > 0) = 0.5 at -1.599 for beta 2/3.
    openness = gates_with(torch.tensor([-1.5986])).openness().item()
    assert openness == pytest.approx(0.5, abs=1e-4)


@both
def test_gates_start_open_each_at_its_own_rate(mode):
    layout = Layout([Structure("a", 500), Structure("b", 500, most_dropped=0.01)], {})
    gates = Gates(layout, GateOptions(mode, drop_rate_init=0.05))
    dropped = torch.sigmoid(-gates.log_alpha).view(2, 500)
    assert gates.is_open().all() and len(set(gates.log_alpha.tolist())) > 900
    assert dropped.mean(1).tolist() == pytest.approx([0.05, 0.01], rel=0.01)


@both
def test_samples_are_in_the_unit_interval_and_vary(mode):
    gates = gates_with(torch.zeros(1000), mode).train()
    first, second = gates(), gates()
    assert first.min().item() == 0 and first.max().item() == 1
    assert not torch.equal(first, second)
    soft = ((first > 0) & (first < 1)).any()
    assert soft == (mode == "hard_concrete")


@both
def test_evaluation_is_deterministic_and_a_loaded_state_is_used_at_once(mode):
    gates = gates_with(torch.linspace(-5, 5, 50), mode).eval()
    assert torch.equal(gates(), gates())
    assert torch.equal(gates() > 0, gates.is_open())
    assert torch.equal(gates()[gates.is_open()], gates.open_value()[gates.is_open()])
    gates.load_state_dict(gates_with(torch.full((50,), -5.0), mode).state_dict())
    assert not gates().any()


def test_straight_through_gradient_is_the_hard_concrete_one_of_the_same_draw():
    weight, grads = torch.randn(1000), []
    for mode in GATE_MODES:
        gates = gates_with(torch.linspace(-3, 3, 1000), mode).train()
        (gates() * weight).sum().backward()
        grads.append(gates.log_alpha.grad)
    assert torch.equal(*grads)
    assert 0 < int((grads[0] != 0).sum()) < 1000  # none beyond the stretch's ends


def test_hard_concrete_gradient_is_that_of_finite_differences():
    def draw(shift):
        gates = gates_with(torch.linspace(-3, 3, 1000) + shift).train()
        return gates, gates()

    (_, low), (gates, middle), (_, high) = draw(-0.01), draw(0), draw(0.01)
    middle.sum().backward()
    inside = (low > 0) & (high < 1)
    slope = (high - low)[inside] / 0.02
    assert len(slope) > 50
    assert gates.log_alpha.grad[inside] == pytest.approx(slope.detach(), abs=1e-3)


@given(st.floats(-10, 10))
def test_open_gates_never_vanish(log_alpha):
    gates = gates_with(torch.tensor([log_alpha])).eval()
    assert 0 < gates.open_value().item() <= 1
    assert gates().item() == (gates.open_value().item() if gates.is_open() else 0)


@pytest.mark.parametrize("training", [True, False])
def test_mask_decides_in_both_modes_and_is_in_no_checkpoint(training):
    gates = gates_with(torch.zeros(3)).train(training)
    gates.mask = torch.tensor([0.0, 0.3, 1.0])
    assert torch.equal(gates(), gates.mask)
    assert set(gates.state_dict()) == {"log_alpha", "draws"}


def test_noise_is_the_gates_own():
    """Dropout draws nothing of it, processes differ, and a resumed run goes on."""
    gates = gates_with(torch.zeros(1000), seed=5).train()
    noise = gates.noise(3, 0)
    torch.manual_seed(7), torch.rand(9)
    again = gates_with(torch.zeros(1000), seed=5)
    assert torch.equal(again.noise(3, 0), noise)
    others = [gates.noise(4, 0), gates.noise(3, 1), gates.noise(0, 0)]
    others.append(gates_with(torch.zeros(1000), seed=6).noise(3, 0))
    for other in others:
        assert abs(torch.corrcoef(torch.stack([other, noise]))[0, 1]) < 0.15
    first, state = gates(), {k: v.clone() for k, v in gates.state_dict().items()}
    resumed = gates_with(torch.zeros(1000), seed=5).train()
    resumed.load_state_dict(state)
    torch.manual_seed(9)
    second = resumed()
    assert torch.equal(second, gates()) and not torch.equal(second, first)


def test_each_process_draws_its_own(monkeypatch):
    alone = gates_with(torch.zeros(1000)).train()()
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    for rank in (0, 1):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        sample = gates_with(torch.zeros(1000)).train()()
        assert torch.equal(sample, alone) == (rank == 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sampling_stays_in_fp32(dtype):
    # 1 - 1e-6 rounds to 1 in half precision, and log(u) - log(1 - u) overflows.
    gates = gates_with(torch.zeros(SAMPLES)).train()
    with torch.autocast("cpu", dtype=dtype):
        assert gates().dtype == torch.float32
    sample = gates.to(dtype)()
    assert sample.dtype == torch.float32 and sample.isfinite().all()
    assert len(sample.unique()) > SAMPLES / 4  # half precision has fewer numbers


def test_clamped_gates_can_come_back():
    gates = gates_with(torch.tensor([-100.0, 100.0]))
    gates.clamp_()
    assert gates.log_alpha.tolist() == pytest.approx([-CLAMP, CLAMP])


@both
def test_a_gate_over_several_closes_all_of_them(mode):
    structures = [
        Structure("a", 1), Structure("b", 1),
        Structure("whole", 1, any_of=("a", "b"), with_gate=True),
    ]  # fmt: skip
    gates = Gates(Layout(structures, {}), GateOptions(mode)).eval()
    assert len(gates) == 3
    likely = gates.spread(torch.tensor([0.3, 0.6, 0.5])).tolist()
    assert likely == pytest.approx([0.15, 0.3, 0.5 * (1 - 0.7 * 0.4)])
    for a, b, whole in itertools.product((0.0, 0.7), (0.0, 1.0), (0.0, 0.5)):
        values = gates.spread(torch.tensor([a, b, whole]), values=True)
        there = float(whole > 0 and a + b > 0)
        assert values.tolist() == pytest.approx([a * whole, b * whole, there])
        # Final values stay as they are, however often they are completed.
        assert torch.equal(gates.layout.settled(values), values)


@both
def test_units_without_gates_are_open_and_derived_ones_while_a_part_is(mode):
    structures = [
        Structure("a", 1), Structure("free", 2, learned=False), Structure("b", 1),
        Structure("whole", 1, any_of=("a", "b")),
    ]  # fmt: skip
    gates = Gates(Layout(structures, {}), GateOptions(mode)).eval()
    assert len(gates) == 2
    found = gates.spread(torch.tensor([0.3, 0.6]))
    assert found.tolist() == pytest.approx([0.3, 1, 1, 0.6, 1 - 0.7 * 0.4])
    assert gates.gather(found).tolist() == pytest.approx([0.3, 0.6])
    for a, b in ((0.0, 0.3), (0.4, 0.0), (0.0, 0.0)):
        values = gates.spread(torch.tensor([a, b]), values=True)
        assert values.tolist() == pytest.approx([a, 1, 1, b, float(a + b > 0)])
