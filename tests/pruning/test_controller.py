"""Target schedule and multipliers: where the gates are steered to."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_prune.config.sections import MODEL_DIM, SparsityOptions
from espnet_prune.pruning.controller import Schedule, SparsityController, learning_rates
from tests.fixtures.gated import CASES

STEPS = 200


def steered(name="conformer", gates=None, total=100, **sparsity):
    gated = CASES[name].make(dtype=torch.float32, gates=gates or {})
    options = SparsityOptions(**sparsity)
    controller = SparsityController(options, gated.budget(100, **sparsity))
    controller.total_steps = total
    return controller, gated.gates(0.1, 3.0), gated


CONTROLLER, *_ = steered()


@given(
    target=st.floats(0.01, 0.99), warmup=st.floats(0, 1), total=st.integers(1, 10**6)
)
def test_target_rises_linearly_then_holds(target, warmup, total):
    budget = CONTROLLER.budget.at([target])
    schedule = Schedule(SparsityOptions(target=target, warmup=warmup), budget)
    with pytest.raises(RuntimeError, match="total_steps"):
        schedule.ramp()
    schedule.total_steps, found = total, []
    for step in (0, warmup * total / 2, warmup * total + 1, total + 1):
        schedule.step.fill_(int(step))
        found += schedule.targets()
    halfway = min(1, int(warmup * total / 2) / max(1.0, warmup * total))
    assert found == pytest.approx([0, target * halfway, target, target])


def test_each_target_rises_from_where_the_last_rung_ended():
    start = {"ffn/params": 0.6, "others/params": 0.35, MODEL_DIM: 0.1}
    options = {"target": 0.75, "groups": {"ffn": 0.6}, "start": start}
    controller, *_ = steered("conformer_dim", **options)
    _, others = (c.target for c in controller.budget.constraints)
    end = controller.budget.dim_target
    for step, share in ((0, 0.0), (25, 0.5), (50, 1.0), (99, 1.0)):
        controller.step.fill_(step)
        expected = [0.6, 0.35 + share * (others - 0.35)]
        assert controller.targets() == pytest.approx(expected)
        assert controller.dim_target() == pytest.approx(0.1 + share * (end - 0.1))
    for key in ("others/params", MODEL_DIM):
        with pytest.raises(ValueError, match=f"start, 0.990 of {key}, is beyond the"):
            steered("conformer_dim", **options | {"start": {key: 0.99}})
    assert CONTROLLER.dim_target() is None


def test_the_lagrangian_sees_what_is_open_with_the_gradient_of_the_expected_cost():
    controller, gates, gated = steered(target=0.5, kind="params+macs")
    with torch.no_grad():
        gates.log_alpha.fill_(0.5)  # counts as open, and is 38 % closed
        controller.lambda1.copy_(torch.tensor([2.0, -1.0]))
        controller.lambda2.copy_(torch.tensor([3.0, 5.0]))
    controller.step.fill_(24)
    loss, stats = controller.train()(gates, {})
    assert stats["sparsity_realised"] == 0 and stats["sparsity_expected"] > 0.3
    assert stats["sparsity_target"] == pytest.approx(0.25)
    assert loss.item() == pytest.approx((2 - 1) * -0.25 + (3 + 5) * 0.0625)
    assert stats["loss_sparsity"] == loss and stats["lambda2"] == 4
    loss.backward()
    removed = controller.budget.removed(gates.spread(gates.openness()))
    weights = torch.tensor([2.0, -1.0]) - 2 * 0.25 * torch.tensor([3.0, 5.0])
    (slope,) = torch.autograd.grad((weights * removed).sum(), gates.log_alpha)
    torch.testing.assert_close(gates.log_alpha.grad, slope)
    assert controller.lambda1.grad.tolist() == pytest.approx([-0.25] * 2)
    assert controller.lambda2.grad.tolist() == pytest.approx([0.0625] * 2)


def test_the_model_dimension_is_steered_by_what_is_open_too():
    controller, gates, gated = steered("conformer_dim", target=0.75)
    controller.step.fill_(100)
    dims = torch.zeros(len(gated.layout))
    dims[gated.layout.span(MODEL_DIM)][:4] = -4.0  # a quarter is closed
    with torch.no_grad():
        gates.log_alpha += gates.gather(dims)
        controller.lambda1[-1] = 1.0
        loss, _ = controller.eval()(gates, {})
    assert loss.item() == pytest.approx(0.25 - controller.budget.dim_target)


def test_training_counts_steps_and_keeps_multipliers_and_gates_in_reach():
    controller, gates, _ = steered(max_multiplier=7.0)
    with torch.no_grad():
        controller.lambda1.fill_(-1e6)
        controller.lambda2.fill_(-3.0)
        gates.log_alpha.fill_(1e6)
    controller.eval()(gates, {})
    assert controller.step == 0 and controller.lambda1.item() == -1e6
    controller.train()(gates, {})
    assert controller.step == 1 and gates.log_alpha.max() < 5
    assert (controller.lambda1.item(), controller.lambda2.item()) == (-7.0, 0.0)
    assert set(controller.state_dict()) == {"lambda1", "lambda2", "step"}


def test_budget_is_computed_in_full_precision_under_autocast():
    controller, gates, _ = steered(kind="macs")
    controller.step.fill_(30)
    with torch.no_grad():
        controller.lambda1.fill_(1.0)
    loss, stats = controller.eval()(gates, {})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        other, others = controller(gates, {})
    assert other.dtype == torch.float32 and torch.equal(loss, other)
    assert torch.equal(stats["sparsity_expected"], others["sparsity_expected"])


@pytest.mark.parametrize(
    ("name", "mode", "sparsity"),
    [
        ("conformer", "hard_concrete", {"target": 0.5}),
        ("conformer", "straight_through", {"target": 0.8, "kind": "macs"}),
        ("conformer", "straight_through", {"target": 0.6, "groups": {"ffn": 0.3}}),
        ("conformer_dim", "straight_through", {"target": 0.75}),
        ("e_branchformer", "hard_concrete", {"target": 0.6, "kind": "params+macs"}),
    ],
)
def test_lagrangian_reaches_its_targets_and_holds_them(name, mode, sparsity):
    """Against a task to which each unit is worth something, and a submodule more."""
    controller, gates, gated = steered(name, {"mode": mode}, STEPS, **sparsity)
    gates.train(), controller.train()
    size = torch.tensor([s.size for s in gated.layout.structures])
    where = gated.layout.at("where", size.device)
    worth = gates.gather(torch.rand(len(where)) * (1 + 19.0 * (size[where] == 1)))
    rates = learning_rates(controller.options, STEPS)
    down = torch.optim.Adam(gates.parameters(), rates[0])
    up = torch.optim.Adam(controller.parameters(), rates[1], maximize=True)
    gone, second = [], []
    for _ in range(STEPS):
        down.zero_grad(), up.zero_grad()
        task = 0.01 * (worth * (1 - gates.gather(gates())).square()).sum()
        loss, stats = controller(gates, {})
        (task + loss).backward()
        down.step(), up.step()
        is_open = gates.spread(gates.is_open().float())
        gone.append(controller.budget.removed(is_open))
        second.append(float(stats["lambda2"]))
    late = torch.stack(gone[-STEPS // 4 :]).mean(0)
    for constraint, fraction in zip(controller.budget.constraints, late, strict=True):
        # One unit of these is up to a tenth of its group.
        assert abs(fraction - constraint.target) < 0.08, constraint.key
    # The second multiplier sees a squared gap: it can only ascend.
    assert second == sorted(second) and second[-1] > 0
    if name == "conformer_dim":
        dims = is_open[gated.layout.span(MODEL_DIM)]
        assert float(dims.mean()) == pytest.approx(0.5, abs=0.15)


def test_short_runs_get_larger_learning_rates_unless_they_are_given():
    rates = [learning_rates(SparsityOptions(), n) for n in (10, 500, 2000, 10**6)]
    gates, multipliers = zip(*rates, strict=True)
    assert gates == (0.3, 0.2, 0.05, 0.02)
    assert all(b == pytest.approx(1.5 * a) for a, b in rates)
    given = SparsityOptions(gate_lr=0.07, multiplier_lr=0.9)
    assert learning_rates(given, 10) == (0.07, 0.9)
