"""Targets of every kind: alone, combined, by group, of the encoder or the model."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_prune.base.errors import InputError
from espnet_prune.export.export import check_budget
from espnet_prune.pruning.gates import gates_of
from espnet_prune.pruning.projection import TOLERANCE, check_reachable, project
from espnet_prune.pruning.sparsity import SparsityOptions, make_budget

FRAMES = 400
SIZES = {"output_size": 64, "linear_units": 256, "num_blocks": 2}
GROUPS = ("subsampling", "attention", "ffn", "convolution")
SMALL = ("subsampling", "attention", "convolution")  # ffn takes the rest


@pytest.fixture
def encoder(make_encoder):
    """Large enough that a unit is less than the tolerance."""
    return make_encoder(gates={}, **SIZES)


def randomise(encoder, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for gate in gates_of(encoder).values():
            gate.log_alpha.copy_(1 + 2 * torch.randn(len(gate), generator=draw))


def removed(encoder, options, **conditions) -> dict[tuple[str, str], float]:
    """What a projection removes of each constraint, by what the encoder then costs."""
    budget = make_budget(options, encoder, FRAMES, **conditions)
    encoder.set_masks(project(encoder, budget).masks)
    counts = encoder.kept().counts()
    encoder.set_masks(None)
    return {(c.name, c.kind): c.removed(counts) for c in budget.constraints}


@given(seed=st.integers(0, 999), target=st.floats(0.2, 0.85))
@settings(deadline=None, max_examples=10)
def test_both_kinds_lose_the_target_and_one_just_that(make_encoder, seed, target):
    encoder = make_encoder(gates={}, **SIZES)
    randomise(encoder, seed)
    gone = removed(encoder, SparsityOptions("params+macs", target))
    assert set(gone) == {("encoder", "params"), ("encoder", "macs")}
    assert min(gone.values()) >= target - 1e-9
    assert min(gone.values()) <= target + TOLERANCE * (1 - target)


@given(
    seed=st.integers(0, 999),
    groups=st.dictionaries(st.sampled_from(SMALL), st.floats(0.35, 0.5), max_size=3),
)
@settings(deadline=None, max_examples=10)
def test_groups_meet_their_own_targets(make_encoder, seed, groups):
    encoder = make_encoder(gates={}, **SIZES)
    randomise(encoder, seed)
    gone = removed(encoder, SparsityOptions("params", 0.5, groups=groups))
    for (name, _), fraction in gone.items():
        target = groups.get(name)
        if target is not None:  # one channel or slice of a group is a percent of it
            assert 0 <= fraction - target + 1e-9 <= 0.03, name
    kept, whole = encoder.architecture.cost(encoder.fixed, FRAMES)["encoder"], 0
    encoder.set_masks(
        project(
            encoder,
            make_budget(SparsityOptions("params", 0.5, groups=groups), encoder, FRAMES),
        ).masks
    )
    whole = encoder.kept().cost(encoder.fixed, FRAMES)["encoder"]
    assert whole.params <= 0.5 * kept.params + 1e-6


def test_all_groups_may_have_targets(encoder):
    randomise(encoder, 0)
    groups = dict.fromkeys(GROUPS, 0.4)
    with pytest.raises(ValueError, match=r"all groups remove 40.0% .* target of 50.0%"):
        removed(encoder, SparsityOptions("macs", 0.5, groups=groups))
    gone = removed(encoder, SparsityOptions("macs", 0.39, groups=groups))
    assert {name for name, _ in gone} == set(GROUPS)
    assert all(0.4 - 1e-9 <= fraction <= 0.43 for fraction in gone.values())


def test_export_holds_every_group_against_its_own_target(encoder):
    randomise(encoder, 0)
    options = SparsityOptions("macs", 0.5, groups={"ffn": 0.3})
    budget = make_budget(options, encoder, FRAMES)
    projection = project(encoder, budget)
    encoder.set_masks(projection.masks)
    check_budget(budget, encoder.kept().counts(), projection.slack)
    # Half of the feed-forward units gone, where 30 % were to go; the others as asked.
    counts = dict(encoder.kept().counts())
    counts["ffn.unit"] = counts["ffn.unit"] / 2
    with pytest.raises(RuntimeError, match="more of the ffn is gone"):
        check_budget(budget, counts, projection.slack)
    counts["ffn.unit"] = encoder.kept().counts()["ffn.unit"] * 1.01
    with pytest.raises(RuntimeError, match="of the ffn's macs is gone, the target"):
        check_budget(budget, counts, projection.slack)


def test_group_with_target_0_is_left_alone(encoder):
    randomise(encoder, 0)
    gone = removed(encoder, SparsityOptions("macs", 0.4, groups={"subsampling": 0.0}))
    assert gone["subsampling", "macs"] == 0
    with pytest.raises(ValueError, match="subsampling is the fraction"):
        SparsityOptions("macs", 0.4, groups={"subsampling": -0.1})


def test_what_stays_in_a_model_is_named(encoder):
    options = SparsityOptions("params", 0.9, denominator="model")
    budget = make_budget(options, encoder, FRAMES, rest={"params": 1e6})
    with pytest.raises(InputError, match="all beyond the encoder.*prune_decoder"):
        check_reachable(encoder, budget)


def test_denominator_model_counts_what_lies_beyond_the_encoder(encoder):
    randomise(encoder, 1)
    dense = encoder.architecture.cost(encoder.fixed, FRAMES)["encoder"].params
    options = SparsityOptions("params", 0.3, denominator="model")
    budget = make_budget(options, encoder, FRAMES, rest={"params": 0.5 * dense})
    (constraint,) = budget.constraints
    assert constraint.name == "model"
    encoder.set_masks(project(encoder, budget).masks)
    kept = encoder.kept().cost(encoder.fixed, FRAMES)["encoder"].params
    gone = (dense - kept) / (1.5 * dense)
    assert 0.3 <= gone <= 0.3 + TOLERANCE * 0.7


def test_latency_is_met_by_its_own_prices(encoder):
    randomise(encoder, 2)
    prices = {name: 1e-6 for name in encoder.prices(FRAMES)}
    gone = removed(encoder, SparsityOptions("latency", 0.6), latency=prices)
    assert 0.6 <= gone["encoder", "latency"] <= 0.6 + TOLERANCE * 0.4 + 1e-3


@pytest.mark.parametrize(
    ("groups", "named"),
    [
        ({"fnn": 0.5}, "fnn"),
        ({"ffn": 0.01, "attention": 0.01}, "must go"),
        ({"ffn": 0.99, "attention": 0.99, "convolution": 0.99}, "must go"),
    ],
)
def test_impossible_targets_of_groups_are_refused(encoder, groups, named):
    with pytest.raises(ValueError, match=named):
        make_budget(SparsityOptions("params", 0.6, groups=groups), encoder, FRAMES)
