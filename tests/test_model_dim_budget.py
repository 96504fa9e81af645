"""The model dimension in a budget: targets, steering, projection, baselines."""

import logging
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learned_gates import learned

from espnet_prune.base.errors import InputError
from espnet_prune.config.methods import ONE_SHOT
from espnet_prune.export.export import check_budget
from espnet_prune.families.espnet.layers.cost import times_dim
from espnet_prune.pruning.gates import gates_of
from espnet_prune.pruning.one_shot import scores_of, settle
from espnet_prune.pruning.projection import TOLERANCE, check_reachable, choose, project
from espnet_prune.pruning.sparsity import (
    SparsityController,
    SparsityOptions,
    make_budget,
)

GATES = {"model_dim": True}
FRAMES = 400
SIZES = {"output_size": 64, "linear_units": 256, "num_blocks": 2}


@given(
    seed=st.integers(0, 999),
    target=st.floats(0.2, 0.9),
    kind=st.sampled_from(["params", "macs", "params+macs"]),
    multiple=st.sampled_from([1, 4]),
)
@settings(max_examples=15)
def test_budget_is_met_and_used_by_counting(
    make_encoder, compact_of, seed, target, kind, multiple
):
    encoder = learned(make_encoder(gates=GATES, **SIZES), seed, centre=1.0)
    budget = make_budget(SparsityOptions(kind, target), encoder, FRAMES)
    found = project(encoder, budget, multiple)
    encoder.set_masks(found.masks)
    kept, fixed = encoder.kept(), encoder.fixed
    size = kept.size or fixed.size
    check_budget(budget, times_dim(kept.counts(), size), found.slack)
    assert size % multiple == 0
    small = kept.cost(fixed, FRAMES)["encoder"]
    large = encoder.architecture.cost(fixed, FRAMES)["encoder"]
    params = sum(p.numel() for p in compact_of(encoder).parameters())
    assert params == small.params
    gone = [1 - getattr(small, k) / getattr(large, k) for k in kind.split("+")]
    assert gone == pytest.approx(found.removed, abs=1e-6)
    assert min(gone) >= target - 1e-9
    most = max(TOLERANCE * (1 - target), min(found.slack))
    assert min(gone) <= target + most + 1e-9


def test_model_dimension_is_the_one_that_was_learned(make_encoder):
    encoder = make_encoder(gates=GATES, **SIZES)
    with torch.no_grad():
        encoder.dim_gate.log_alpha[::2] = -3.0
    budget = make_budget(SparsityOptions("params", 0.8), encoder, FRAMES)
    keep = choose(encoder, budget)
    assert torch.equal(keep[encoder.dim_gate], encoder.dim_gate.is_open())


def test_too_wide_a_model_becomes_narrow_enough(make_encoder):
    """What must stay of all its channels would already cost more than the budget."""
    encoder = make_encoder(gates=GATES)
    options = SparsityOptions("params", 0.985)
    with pytest.raises(InputError, match="cannot be removed"):
        plain = make_encoder(gates={})
        check_reachable(plain, make_budget(options, plain, FRAMES))
    budget = make_budget(options, encoder, FRAMES)
    check_reachable(encoder, budget)
    assert project(encoder, budget).removed[0] > 0.985


def test_expected_cost_has_a_gradient_and_agrees_with_the_compact_model(
    make_encoder, random_masks
):
    encoder = make_encoder(gates=GATES | {"fine_heads": False}, **SIZES)
    encoder.gated_cost(FRAMES).params.backward()
    assert (encoder.dim_gate.log_alpha.grad > 0).all()
    encoder.set_masks(random_masks(encoder, 5, soft=False))
    counted = encoder.gated_cost(FRAMES, lambda gate: gate.mask.double())
    formula = encoder.kept().cost(encoder.fixed, FRAMES)["encoder"]
    assert [float(n) for n in counted] == pytest.approx(list(formula))


@pytest.mark.parametrize("method", ONE_SHOT)
def test_one_shot_methods_choose_a_model_dimension_too(make_encoder, method):
    encoder = make_encoder(gates=GATES | {"mode": "straight_through"}, **SIZES)
    budget = make_budget(SparsityOptions("params+macs", 0.75), encoder, FRAMES)
    settle(encoder, budget, scores_of(method, encoder, budget, seed=1))
    keep = choose(encoder, budget)
    for name, gate in gates_of(encoder).items():
        assert torch.equal(keep[gate], gate.is_open()), name
    kept = int(keep[encoder.dim_gate].sum())
    assert kept == 64 if method == "blocks" else 30 <= kept <= 34  # sqrt(0.25) of 64
    after = budget.removed(encoder, lambda gate: keep[gate].double())
    assert float(after.min()) >= 0.75 - 1e-9


@pytest.mark.parametrize("side", ["read", "written"])
def test_weak_channels_go_first_by_magnitude(make_encoder, side):
    encoder = make_encoder(gates=GATES | {"mode": "straight_through"}, **SIZES)
    with torch.no_grad():
        for block in encoder.encoders:
            for layer in (block.feed_forward, block.feed_forward_macaron):
                if side == "read":
                    layer.w_1.weight[:, ::2] *= 1e-3
                else:
                    layer.w_2.weight[::2] *= 1e-3
    budget = make_budget(SparsityOptions("params", 0.75), encoder, FRAMES)
    settle(encoder, budget, scores_of("magnitude", encoder, budget, 0))
    assert not encoder.dim_gate.is_open()[::2].any()


def test_every_group_may_have_a_target_beside_the_norms(make_encoder):
    encoder = learned(make_encoder(gates=GATES, **SIZES), 4, 0.5, centre=3.0)
    names = ("subsampling", "attention", "ffn", "convolution")
    options = SparsityOptions("params", groups=dict.fromkeys(names, 0.6))
    budget = make_budget(options, encoder, FRAMES)
    assert {c.name for c in budget.constraints} == set(names)
    found = project(encoder, budget)
    pairs = zip(found.removed, found.slack, strict=True)
    assert all(0.6 - 1e-9 <= gone <= 0.6 + slack for gone, slack in pairs)
    with pytest.raises(ValueError, match="are not among"):
        make_budget(SparsityOptions(groups={"norm": 0.5}), encoder, FRAMES)


def test_model_dimension_is_as_wide_as_a_group_with_a_target_needs(make_encoder):
    encoder = learned(make_encoder(gates=GATES, **SIZES), 4, 0.5, centre=3.0)
    with torch.no_grad():
        encoder.dim_gate.log_alpha[::2] = -3.0  # of 32 channels 64 % could not be used
    options = SparsityOptions("params", 0.6, groups={"ffn": 0.36})
    budget = make_budget(options, encoder, FRAMES)
    found = project(encoder, budget)
    encoder.set_masks(found.masks)
    kept = encoder.kept()
    check_budget(budget, times_dim(kept.counts(), kept.size), found.slack)
    assert 32 < kept.size < 64


def test_own_target_of_the_model_dimension_is_steered_to(make_encoder):
    encoder = make_encoder(gates=GATES, **SIZES).train()
    options = SparsityOptions("params", 0.75, warmup=0.5)  # sqrt(0.25) stays
    controller = SparsityController(
        options, make_budget(options, encoder, FRAMES)
    ).train()
    controller.total_steps = 300
    rates = options.learning_rates(300)
    gates = [g.log_alpha for g in gates_of(encoder).values()]
    steps = torch.optim.Adam(gates, rates[0])
    climb = torch.optim.Adam(controller.parameters(), rates[1], maximize=True)
    for _ in range(300):
        steps.zero_grad(), climb.zero_grad()
        controller(encoder)[0].backward()
        steps.step(), climb.step()
    assert float(encoder.dim_gate.is_open().float().mean()) == pytest.approx(
        0.5, abs=0.1
    )
    controller.total_steps, controller.step[...] = 100, 25  # half of the rise
    assert controller.dim_target() == pytest.approx(0.25)
    controller.options.start["model_dim"] = 0.4
    assert controller.dim_target() == pytest.approx(0.45)
    other = SparsityOptions("params", 0.75, model_dim=0.25)
    assert make_budget(other, encoder, FRAMES).dim_target == 0.25
    plain = make_encoder(gates={}, **SIZES)
    assert make_budget(options, plain, FRAMES).dim_target is None
    with pytest.raises(ValueError, match="model_dim needs"):
        make_budget(other, plain, FRAMES)


def test_latency_by_model_dimension_is_refused(make_encoder):
    encoder = make_encoder(gates=GATES)
    with pytest.raises(ValueError, match="model_dim: false"):
        make_budget(SparsityOptions("latency"), encoder, FRAMES, latency={})


def test_model_dimension_is_steered_by_what_is_open(make_encoder):
    """As the budget: by gates that would be kept, not by their probabilities."""
    encoder = make_encoder(gates=GATES, **SIZES).eval()
    options = SparsityOptions("params", 0.75)
    controller = SparsityController(options, make_budget(options, encoder, FRAMES))
    controller.total_steps, controller.step[...] = 100, 100
    with torch.no_grad():
        encoder.dim_gate.log_alpha.fill_(1.0)
        controller.lambda1[-1] = 1.0
        loss, _ = controller.eval()(encoder)
    assert float(loss) == pytest.approx(-0.5)


def test_gates_of_the_model_dimension_start_wider_open(make_encoder):
    encoder = make_encoder(gates=GATES)
    least = encoder.dim_gate.openness().min()
    assert least > 0.985 > encoder.embed.gate1.openness().max()


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"target": 0.75}, 0.5),
        ({"target": 0.5, "groups": {"ffn": 0.19}}, 0.9),
        ({"target": 0.5, "groups": {"subsampling": 0.0}}, 1.0),
        ({"target": 0.9, "model_dim": 0.6}, 0.4),
    ],
)
def test_model_dimension_leaves_each_group_its_budget(make_encoder, options, left):
    budget = make_budget(
        SparsityOptions("params", **options), make_encoder(gates=GATES, **SIZES), FRAMES
    )
    assert 1 - budget.dim_target == pytest.approx(left)
    assert budget.share("model_dim") == pytest.approx(left)


def test_model_dimension_is_refused_to_remove_more_than_the_targets(make_encoder):
    encoder = make_encoder(gates=GATES, **SIZES)
    options = SparsityOptions("params", 0.5, model_dim=0.6)
    with pytest.raises(ValueError, match="model_dim 0.6 removes more than"):
        make_budget(options, encoder, FRAMES)


def test_first_kind_that_is_met_is_enough_for_the_model_dimension(make_encoder):
    """It is not widened until the last kind of cost is met, too."""
    encoder = make_encoder(gates=GATES, **SIZES)
    fixed, dense = encoder.fixed, encoder.architecture

    def gone(size):
        dims = tuple(range(size))
        small = replace(dense, dims=dims).cost(fixed, FRAMES)["encoder"]
        large = dense.cost(fixed, FRAMES)["encoder"]
        return [1 - s / d for s, d in zip(small, large, strict=True)]

    # At 32 channels the kinds have lost unlike parts: between them is a target.
    target = sum(gone(32)) / 2
    with torch.no_grad():
        encoder.dim_gate.log_alpha[::2] = -3.0
    for kind in ("params+macs", "macs+params"):
        budget = make_budget(SparsityOptions(kind, target), encoder, FRAMES)
        assert int(choose(encoder, budget)[encoder.dim_gate].sum()) == 32


def test_change_by_the_projection_is_told(make_encoder, caplog):
    encoder = learned(make_encoder(gates=GATES, **SIZES), 0, 0.5, centre=3.0)
    budget = make_budget(SparsityOptions("params", 0.9), encoder, FRAMES)
    with caplog.at_level(logging.INFO):
        found = project(encoder, budget)
    assert "a large change" in caplog.text
    kept = int((found.masks["dim_gate"] > 0).sum())
    opened = int(encoder.dim_gate.is_open().sum())
    assert f"model dimension {kept}, {opened} were learned" in caplog.text


def test_channels_that_the_projection_reopens_count_as_flipped(make_encoder):
    encoder = learned(make_encoder(gates=GATES, **SIZES), 0, 0.1, centre=3.0)
    with torch.no_grad():
        encoder.dim_gate.log_alpha[4:] = -3.0
    budget = make_budget(SparsityOptions("params", 0.1), encoder, FRAMES)
    found = project(encoder, budget)
    reopened = int((found.masks["dim_gate"] > 0).sum()) - 4
    gates = sum(len(gate) for gate in gates_of(encoder).values())
    assert reopened > 40 and found.flipped >= reopened / gates
