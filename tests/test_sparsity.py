import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_prune.pruning.budget import Budget, is_kept
from espnet_prune.pruning.gates import CLAMP, gates_of
from espnet_prune.pruning.sparsity import (
    SparsityController,
    SparsityOptions,
    make_budget,
)
from espnet_prune.training.trainer import as_optimizers, parameter_groups

STEPS = 200


def controller_of(encoder, **options):
    options = SparsityOptions(**options)
    return SparsityController(options, make_budget(options, encoder, 100))


class Toy(torch.nn.Module):
    """A gated encoder with its controller, and a task that wants gates open."""

    def __init__(self, encoder, **options):
        super().__init__()
        self.encoder = encoder
        self.sparsity = controller_of(encoder, **options)
        self.sparsity.total_steps = STEPS
        # A whole submodule is worth more than one of its units.
        self.worth = {
            n: torch.rand(len(g)) * (1 if len(g) > 1 else 20)
            for n, g in gates_of(encoder).items()
        }

    def forward(self):
        # Each unit costs the task something of its own when it is missing.
        task = sum(
            (self.worth[name] * (1 - gate()).square()).sum()
            for name, gate in gates_of(self.encoder).items()
        )
        lagrangian, stats = self.sparsity(self.encoder)
        return 0.01 * task + lagrangian, stats

    def optimizer(self):
        groups = parameter_groups(self, lr=1e-3, weight_decay=0.0, max_norm=5.0)
        rates = self.sparsity.options.learning_rates(STEPS)
        for group in groups:
            if group["name"] != "weights":
                group["lr"] = rates[group["name"] == "multipliers"]
        return as_optimizers(groups)[0]


@pytest.mark.parametrize(
    ("kind", "target", "mode"),
    [
        ("params", 0.5, "hard_concrete"),
        ("params", 0.8, "straight_through"),
        ("macs", 0.6, "straight_through"),
    ],
)
def test_lagrangian_reaches_its_target_and_holds_it(make_encoder, kind, target, mode):
    toy = Toy(make_encoder(gates={"mode": mode}), kind=kind, target=target)
    optimizer, realised, multipliers = toy.train().optimizer(), [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss, stats = toy()
        loss.backward()
        for parameter in toy.encoder.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        realised.append(float(stats["sparsity_realised"]))
        multipliers.append(float(stats["lambda2"]))
    late = torch.tensor(realised[-STEPS // 5 :])
    # One head of the toy is 3 % of its cost: it cannot be met any closer.
    assert abs(late.mean() - target) < 0.04
    # The second multiplier sees a squared gap: it can only ascend.
    assert multipliers == sorted(multipliers) and multipliers[-1] > 0


def test_only_the_multipliers_ascend(make_encoder):
    toy = Toy(make_encoder(gates={}), target=0.5)
    optimizer = toy.optimizer()
    for parameter in toy.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {n: p.detach().clone() for n, p in toy.named_parameters()}
    optimizer.step()
    for name, parameter in toy.named_parameters():
        moved = parameter.detach() - before[name]
        assert (moved > 0 if "lambda" in name else moved < 0).all(), name


def make_controller(make_encoder, **options):
    encoder = make_encoder(gates={"mode": "hard_concrete"})
    controller = controller_of(encoder, **options)
    controller.total_steps = 100
    return controller, encoder


def test_multipliers_and_gates_are_clamped(make_encoder):
    controller, encoder = make_controller(make_encoder, max_multiplier=7.0)
    with torch.no_grad():
        controller.lambda1.fill_(-1e6)
        controller.lambda2.fill_(-3.0)
        encoder.embed.gate1.log_alpha.fill_(1e6)
    controller.train()(encoder)
    assert controller.lambda1.item() == -7.0
    assert controller.lambda2.item() == 0.0
    assert encoder.embed.gate1.log_alpha.max().item() == pytest.approx(CLAMP)


def test_evaluation_counts_no_step_and_changes_nothing(make_encoder):
    controller, encoder = make_controller(make_encoder)
    with torch.no_grad():
        controller.lambda1.fill_(1e6)
    controller.eval()(encoder)
    assert controller.step.item() == 0 and controller.lambda1.item() == 1e6


@given(
    target=st.floats(0.01, 0.99), warmup=st.floats(0, 1), total=st.integers(1, 10**6)
)
@settings(deadline=None, max_examples=40)
def test_target_rises_linearly_then_holds(target, warmup, total):
    options = SparsityOptions(target=target, warmup=warmup)
    controller = SparsityController(options, Budget(()))
    controller.total_steps = total
    targets = []
    for step in (0, warmup * total / 2, warmup * total + 1, total + 1):
        controller.step.fill_(int(step))
        targets.append(target * controller.ramp())
    assert targets == sorted(targets)
    assert targets[0] == 0 and targets[2] == pytest.approx(target) == targets[3]
    ramp = max(1.0, warmup * total)
    halfway = int(warmup * total / 2)
    assert targets[1] == pytest.approx(target * min(1, halfway / ramp))


def test_each_constraint_rises_from_where_it_stood(make_encoder):
    start = {"ffn/params": 0.6, "others/params": 0.35}
    options = {"target": 0.75, "groups": {"ffn": 0.6}, "start": start}
    controller = controller_of(make_encoder(gates={}), **options)
    controller.total_steps = 100
    like = torch.zeros(())
    others = controller.budget.constraints[1].target
    assert others > 0.75
    assert controller.targets(like).tolist() == pytest.approx([0.6, 0.35])
    controller.step.fill_(25)
    assert controller.targets(like).tolist() == pytest.approx(
        [0.6, (0.35 + others) / 2]
    )
    controller.step.fill_(50)
    assert controller.targets(like).tolist() == pytest.approx([0.6, others])


def test_target_that_would_fall_is_refused(make_encoder):
    with pytest.raises(ValueError, match="start"):
        controller_of(make_encoder(gates={}), target=0.5, start={"encoder/params": 0.6})


def test_lagrangian_of_several_constraints_meets_each(make_encoder):
    toy = Toy(
        make_encoder(gates={"mode": "straight_through"}),
        kind="params+macs", target=0.6, groups={"convolution": 0.3},
    )  # fmt: skip
    optimizer, gone = toy.train().optimizer(), []
    for _ in range(2 * STEPS):
        optimizer.zero_grad()
        toy()[0].backward()
        for parameter in toy.encoder.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        gone.append(toy.sparsity.budget.removed(toy.encoder, is_kept))
    late = torch.stack(gone[-STEPS // 4 :]).mean(0)
    for constraint, fraction in zip(toy.sparsity.budget.constraints, late, strict=True):
        # One unit of a group of the toy is up to a tenth of it.
        assert abs(fraction - constraint.target) < 0.12, constraint.key


def test_target_without_a_plan_is_an_error():
    with pytest.raises(RuntimeError, match="total_steps"):
        SparsityController(SparsityOptions(), Budget(())).ramp()


def test_short_runs_get_larger_learning_rates():
    rates = [SparsityOptions().learning_rates(n)[0] for n in (10, 500, 2000, 10**6)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 0.3 and rates[1] > 0.1 and rates[-1] == 0.02
    gates, multipliers = SparsityOptions().learning_rates(500)
    assert multipliers > gates


def test_given_learning_rates_are_taken():
    options = SparsityOptions(gate_lr=0.07, multiplier_lr=0.9)
    assert options.learning_rates(10) == (0.07, 0.9)


def test_value_of_the_gap_is_the_realised_one_with_the_expected_gradient(make_encoder):
    controller, encoder = make_controller(make_encoder, target=0.5)
    with torch.no_grad():
        for gate in gates_of(encoder).values():
            gate.log_alpha.fill_(-1.0)  # counts as open, but is half closed
        controller.lambda1.fill_(2.0)
    loss, stats = controller.train()(encoder)
    assert stats["sparsity_realised"].item() == 0
    assert stats["sparsity_expected"].item() > 0.3
    target = stats["sparsity_target"].item()
    assert loss.item() == pytest.approx(2.0 * (0 - target))
    loss.backward()
    (expected,) = controller.budget.removed(encoder)
    gradient = torch.autograd.grad(expected, encoder.embed.gate2.log_alpha)[0]
    torch.testing.assert_close(encoder.embed.gate2.log_alpha.grad, 2.0 * gradient)


def test_budget_is_computed_in_fp32_under_autocast(make_encoder):
    controller, encoder = make_controller(make_encoder, kind="macs")
    controller.eval()
    controller.step.fill_(30)
    with torch.no_grad():
        controller.lambda1.fill_(1.0)
    plain, plain_stats = controller(encoder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, stats = controller(encoder)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, plain)
    assert torch.equal(stats["sparsity_expected"], plain_stats["sparsity_expected"])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"kind": "flops"}, "kind"),
        ({"kind": "params+flops"}, "kind"),
        ({"denominator": "decoder"}, "denominator"),
        ({"groups": {"ffn": 1.2}}, "ffn"),
        ({"kind": "params+params"}, "kind"),
        ({"kind": 3}, "kind"),
        ({"target": 1.0}, "target"),
        ({"target": 0.0}, "target"),
        ({"warmup": 1.5}, "warmup"),
    ],
)
def test_wrong_option_is_named(options, named):
    with pytest.raises(ValueError, match=named):
        SparsityOptions(**options)


def test_state_travels_in_the_checkpoint():
    controller = SparsityController(SparsityOptions(), Budget(()))
    assert set(controller.state_dict()) == {"lambda1", "lambda2", "step"}
