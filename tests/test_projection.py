import logging
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learned_gates import learned

from espnet_prune.base.errors import InputError
from espnet_prune.export.export import check_budget
from espnet_prune.families.espnet.layers.structures import structures
from espnet_prune.pruning.gates import gates_of
from espnet_prune.pruning.projection import TOLERANCE, project
from espnet_prune.pruning.sparsity import SparsityOptions, make_budget
from espnet_prune.pruning.units import units_of

FRAMES = 100


def choose(encoder, kind: str, target: float, multiple: int = 1, **options):
    budget = make_budget(SparsityOptions(kind, target, **options), encoder, FRAMES)
    return project(encoder, budget, multiple)


def assert_budget_is_used(encoder, kind: str, target: float, multiple: int = 1):
    """By counting; up to half a percent of it or, these being tiny, one unit."""
    found = choose(encoder, kind, target, multiple)
    encoder.set_masks(found.masks)
    kept = encoder.kept().cost(encoder.fixed, FRAMES)["encoder"]
    dense = encoder.architecture.cost(encoder.fixed, FRAMES)["encoder"]
    removed = 1 - getattr(kept, kind) / getattr(dense, kind)
    # An FFN unit (size 16, 24 frames) is the cheapest; channels and dimensions, which
    # may be all that is left to open, cost up to three.
    unit = {"params": 2 * 16 + 1, "macs": 2 * 16 * 24}[kind] / getattr(dense, kind)
    most = min(found.slack[0], max(TOLERANCE * (1 - target), 3 * multiple * unit))
    assert 0 <= removed - target <= most + 1e-9


def assert_modules_have_units(encoder):
    for module in structures(encoder):
        if hasattr(module, "module_gate"):
            gates = [g for n, g in module.named_children() if n.endswith("_gate")]
            assert len({bool(gate.mask.any()) for gate in gates}) == 1


def assert_heads_are_equally_wide(encoder):
    for module in structures(encoder):
        if getattr(module, "qk_gate", None) is not None:
            for dims in module._kept_dims():
                assert len(set(dims.sum(1).tolist()) - {0}) <= 1


@given(
    seed=st.integers(0, 2**31),
    spread=st.floats(0.0, 4.0),
    centre=st.floats(-4, 4),
    target=st.floats(0.1, 0.85),
    kind=st.sampled_from(["params", "macs"]),
    mode=st.sampled_from(["hard_concrete", "straight_through"]),
)
@settings(deadline=None, max_examples=25)
def test_budget_is_met_and_used(make_encoder, seed, spread, centre, target, kind, mode):
    encoder = make_encoder(gates={"mode": mode}, linear_units=64)
    assert_budget_is_used(learned(encoder, seed, spread, centre), kind, target)
    assert_modules_have_units(encoder)
    assert_heads_are_equally_wide(encoder)
    assert min(encoder.embed.kept()) >= 1


@given(
    seed=st.integers(0, 2**31),
    spread=st.floats(0.0, 4.0),
    target=st.floats(0.1, 0.8),
    multiple=st.sampled_from([3, 4, 8]),
    fine=st.booleans(),
)
@settings(deadline=None, max_examples=12)
def test_sizes_are_multiples_within_the_budget(
    make_encoder, compact_of, batch, seed, spread, target, multiple, fine
):
    gates = {"fine_heads": fine}
    sizes = {"output_size": 64, "attention_heads": 2, "linear_units": 64}
    encoder = make_encoder(gates=gates, **sizes)
    learned(encoder, seed, spread)
    found = choose(encoder, "params", target, multiple)
    assert target <= found.removed[0] <= target + found.slack[0] + 1e-9
    encoder.set_masks(found.masks)
    kept, dense = encoder.kept(), encoder.architecture
    for block, full in zip(kept.blocks, dense.blocks, strict=True):
        for unit in ("ffn1", "ffn2", "conv", "qk_dim", "v_dim"):
            number = getattr(block, unit)
            assert number % multiple == 0 or number == getattr(full, unit)
    # What fits no multiple leaves the one channel that the subsampling must have.
    pairs = zip(kept.subsampling, dense.subsampling, strict=True)
    assert all(n % multiple == 0 or n in (1, full) for n, full in pairs)
    x, lengths = batch()
    with torch.no_grad():
        expected = encoder.eval()(x, lengths)[0]
        actual = compact_of(encoder).eval()(x, lengths)[0]
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("multiple", [8, 16])
@pytest.mark.parametrize("target", [0.5, 0.75])
def test_rounding_closes_no_submodule_that_learned_to_be_open(
    make_encoder, target, multiple
):
    sizes = {"output_size": 96, "linear_units": 256, "num_blocks": 3}
    encoder = make_encoder(gates={}, attention_heads=4, **sizes)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():  # bimodal, as training leaves them
        for name, gate in gates_of(encoder).items():
            drop = torch.rand(len(gate), generator=draw) < target
            drop &= torch.tensor("module" not in name and "head_gate" not in name)
            gate.log_alpha.copy_(torch.where(drop, -3.0, 3.0))
            gate.log_alpha.add_(0.1 * torch.randn(len(gate), generator=draw))
    encoder.set_masks(choose(encoder, "params", target, multiple).masks)
    for block in encoder.kept().blocks:
        assert min(block.ffn1, block.heads, block.conv, block.ffn2) > 0


@pytest.mark.parametrize("seed", range(150))
def test_several_kinds_and_groups_are_met_with_rounding(make_encoder, seed):
    """Of many sizes, since few of them have units that only one limit refuses."""
    draw = random.Random(seed)
    heads = draw.choice([1, 2, 4])
    sizes = {"attention_heads": heads, "output_size": 2 * heads * draw.choice([6, 9])}
    encoder = make_encoder(gates={}, linear_units=draw.choice([20, 64, 100]), **sizes)
    learned(encoder, seed, draw.choice([1.0, 4.0]), draw.choice([-1.0, 0.0, 1.0]))
    target = draw.choice([0.3, 0.5, 0.75, 0.85])
    groups = draw.choice([{}, {"attention": 0.5}, {"subsampling": 0.0}])
    options = SparsityOptions("params+macs", target, groups=groups)
    try:
        budget = make_budget(options, encoder, FRAMES)
    except ValueError as refusal:  # the others would have to lose more than they have
        assert groups and "must go to remove" in str(refusal)
        return
    try:
        found = project(encoder, budget, 8)
    except InputError:  # or nearly all that they have
        assert max(c.target for c in budget.constraints) > 0.99
        return
    encoder.set_masks(found.masks)
    check_budget(budget, encoder.kept().counts(), found.slack)


@pytest.mark.parametrize("name", ["feed_forward", "conv_module", "self_attn"])
def test_the_best_unit_opens_its_submodule_however_many_come_with_it(
    make_encoder, name
):
    layer = getattr(make_encoder(gates={}).encoders[0], name)
    with torch.no_grad():
        for gate in gates_of(layer).values():
            gate.log_alpha.fill_(-3.0)[0] = 3.0
    # Of attention, the dimensions of the heads that are open: the first has the best.
    first, *_ = units_of(layer, lambda g: torch.arange(len(g)) == 0, multiple=4)
    assert first.entry and first.score == 3.0


@pytest.mark.parametrize("target", [0.01, 0.02, 0.05])
@pytest.mark.parametrize("seed", range(4))
def test_low_targets_are_met_too(make_encoder, target, seed):
    encoder = make_encoder(gates={}, linear_units=64)
    assert_budget_is_used(learned(encoder, seed, 1.0, 3.0), "params", target)


def test_real_sizes_meet_the_budget_within_half_a_percent(make_encoder):
    sizes = {"output_size": 96, "linear_units": 256, "num_blocks": 3}
    encoder = make_encoder(gates={}, **sizes)
    for kind, target in (("params", 0.5), ("macs", 0.9)):
        assert choose(encoder, kind, target).slack[0] == TOLERANCE * (1 - target)
        assert_budget_is_used(learned(encoder, 3, 2.0), kind, target)


def test_what_the_gates_chose_is_kept(make_encoder):
    encoder = make_encoder(gates={}, linear_units=64)
    learned(encoder, 0, 0.0, 3.0)
    closed = {}
    with torch.no_grad():
        for name, gate in gates_of(encoder).items():
            if "module" not in name:
                gate.log_alpha[: len(gate) // 2] = -4.0
                closed[name] = gate.log_alpha < 0
    kept = {n: g.is_open() for n, g in gates_of(encoder).items()}
    encoder.set_masks({n: k.float() for n, k in kept.items()})
    cost = encoder.kept().cost(encoder.fixed, FRAMES)["encoder"].params
    dense = encoder.architecture.cost(encoder.fixed, FRAMES)["encoder"].params
    encoder.set_masks(None)
    masks = choose(encoder, "params", 1 - (cost + 1) / dense).masks
    assert all(torch.equal(masks[n] != 0, kept[n]) for n in masks)


def test_submodule_that_learned_to_close_goes_first(make_encoder):
    encoder = learned(make_encoder(gates={}, linear_units=64), 0, 1.0, 3.0)
    with torch.no_grad():
        encoder.encoders[1].conv_module.module_gate.log_alpha.fill_(-4.0)
    encoder.set_masks(choose(encoder, "params", 0.3).masks)
    assert encoder.kept().blocks[1].conv == 0


def test_soft_values_of_kept_gates_are_not_binarised(make_encoder):
    gates = {"mode": "hard_concrete"}
    encoder = learned(make_encoder(gates=gates, linear_units=64), 0, 0.5, 0.0)
    masks = choose(encoder, "params", 0.3).masks
    values = torch.cat([m[m != 0] for m in masks.values()])
    assert ((values > 0) & (values < 1)).any()
    for name, gate in gates_of(encoder).items():
        kept = masks[name] != 0
        assert torch.equal(masks[name][kept], gate.open_value()[kept])


def test_masks_are_detached_from_the_gates(make_encoder):
    encoder = learned(make_encoder(gates={}, linear_units=64), 0, 1.0)
    masks = choose(encoder, "params", 0.5).masks
    assert not any(m.requires_grad for m in masks.values())


@pytest.mark.parametrize("kind", ["params", "macs"])
def test_unreachable_target_is_an_input_error(make_encoder, kind):
    encoder = learned(make_encoder(gates={}), 0, 1.0)
    with pytest.raises(InputError, match="lower target"):
        choose(encoder, kind, 0.9999)


def test_large_change_is_a_warning_and_a_small_one_is_not(make_encoder, caplog):
    encoder = learned(make_encoder(gates={}, linear_units=64), 0, 0.0, 3.0)
    with caplog.at_level(logging.INFO):
        choose(encoder, "params", 0.5)
    assert [r.levelname for r in caplog.records] == ["WARNING"] * 2
    caplog.clear()
    with caplog.at_level(logging.INFO):
        choose(encoder, "params", 0.02)
    assert [r.levelname for r in caplog.records] == ["INFO"] * 2


def test_flipped_gates_are_counted(make_encoder):
    encoder = learned(make_encoder(gates={}, linear_units=64), 0, 2.0)
    with torch.no_grad():  # then nothing is under a closed gate
        for name, gate in gates_of(encoder).items():
            if name.endswith(("module_gate", "head_gate")):
                gate.log_alpha.fill_(2.0)
    projection = choose(encoder, "params", 0.1)
    gates = gates_of(encoder)
    flips = [(projection.masks[n] != 0) != g.is_open() for n, g in gates.items()]
    share = torch.cat(flips).float().mean().item()
    assert projection.flipped == pytest.approx(share) and share > 0


def test_what_is_under_a_closed_gate_is_not_counted_as_flipped(make_encoder):
    encoder = learned(make_encoder(gates={}, linear_units=64), 0, 0.01, 3.0)
    with torch.no_grad():
        block = encoder.encoders[0]
        block.self_attn.module_gate.log_alpha.fill_(-2.0)
        block.feed_forward.module_gate.log_alpha.fill_(-2.0)
        other = encoder.encoders[1].self_attn
        other.head_gate.log_alpha[0] = -2.0
    is_kept = {g: g.is_open() for g in gates_of(encoder).values()}
    target = make_budget(SparsityOptions(target=0.01), encoder, FRAMES).removed(
        encoder, lambda gate: is_kept[gate].double()
    )
    projection = choose(encoder, "params", float(target) - 1e-3)
    assert not any(
        mask.any() for n, mask in projection.masks.items() if "0.self_attn" in n
    )
    assert projection.flipped == 0


def test_each_head_keeps_its_own_best_dimensions(make_encoder):
    encoder = learned(make_encoder(gates={}, linear_units=64), 0, 1.0, 1.0)
    projection = choose(encoder, "params", 0.5)
    gates, cut = gates_of(encoder), 0
    for name, mask in projection.masks.items():
        if name.endswith(("qk_gate", "v_gate")):
            pairs = zip(gates[name].log_alpha.view(4, 4), mask.view(4, 4), strict=True)
            for scores, kept in pairs:
                if 0 < (kept != 0).sum() < 4:
                    assert scores[kept != 0].min() > scores[kept == 0].max(), name
                    cut += 1
    assert cut
