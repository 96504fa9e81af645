"""Units that go from the end only: the taps of a filter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_prune.config.sections import GateOptions, SparsityOptions
from espnet_prune.pruning.budget import Budget, make_constraints
from espnet_prune.pruning.cost import Work, count_terms
from espnet_prune.pruning.gates import Gates
from espnet_prune.pruning.layout import Layout
from espnet_prune.pruning.projection import project
from espnet_prune.pruning.scores import scores_of, settle
from espnet_prune.pruning.slicing import sliced
from espnet_prune.pruning.structure import Slot, Structure

SHAPES = {"conv": (40, 3, 20)}  # (channel, input, tap): 8 at each end, 4 that stay
CONV = Structure("conv", 40, "c", gated=(Slot("conv"),), cut=(Slot("conv"),))
PAST, FUTURE = (
    Structure(name, 4, "c", gated=slots, cut=slots, nested=nested)
    for name, start, nested in (("past", 0, -1), ("future", 12, 1))
    for slots in [(Slot("conv", 2, start, 8),)]
)
CORE = Structure("core", 1, "c", cut=(Slot("conv", 2, 8, 4),), learned=False)
LAYOUT = Layout([CONV, PAST, FUTURE, CORE], SHAPES)


def ends(own):
    return (own[LAYOUT.span(name)].tolist() for name in ("past", "future"))


@pytest.mark.parametrize(
    ("past", "future", "left"),
    [
        ([1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1]),
        ([1, 1, 0, 1], [1, 0, 1, 1], [0, 0, 0, 1, 1, 0, 0, 0]),
        ([1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0]),
        ([0.9, 0.3, 0.5, 0.7], [0.4, 0.8, 0, 1], [0.3, 0.3, 0.5, 0.7, 0.4, 0.4, 0, 0]),
    ],
)
def test_a_tap_is_open_as_far_as_those_further_in(past, future, left):
    own = torch.tensor([*[1] * 40, *past, *future, 1], dtype=torch.double)
    found = LAYOUT.complete(own)
    assert [x for end in ends(found) for x in end] == left
    assert LAYOUT.complete(found).equal(found) and LAYOUT.settled(own).equal(found)


def test_the_gradient_reaches_the_tap_that_is_in_the_way():
    own = torch.tensor([*[1] * 40, *[0.9, 0.3, 0.5, 0.7], *[1] * 5], dtype=torch.double)
    own.requires_grad_()
    LAYOUT.complete(own)[LAYOUT.span("past")].sum().backward()
    assert own.grad[LAYOUT.span("past")].tolist() == [0, 2, 1, 1]


def budget_of(target, kind):
    terms = count_terms(LAYOUT, ["conv"], Work({"conv": 7.0}, {}))
    options = SparsityOptions(target=target, kind=kind)
    return Budget(LAYOUT, terms, make_constraints(options, LAYOUT, terms))


@given(
    seed=st.integers(0, 999), target=st.floats(0.05, 0.95), soft=st.booleans(),
    kind=st.sampled_from(["params", "macs", "params+macs"]),
    method=st.sampled_from(["l0", "magnitude", "random"]),
)  # fmt: skip
@settings(max_examples=60)
def test_what_is_kept_is_one_stretch_that_uses_the_budget(
    seed, target, soft, kind, method
):
    budget, draw = budget_of(target, kind), torch.Generator().manual_seed(seed)
    gates = Gates(LAYOUT, GateOptions("hard_concrete" if soft else "straight_through"))
    tensors = {"conv": torch.randn(*SHAPES["conv"], generator=draw)}
    if method == "l0":
        with torch.no_grad():
            gates.log_alpha.copy_(3 * torch.randn(len(gates), generator=draw))
    else:
        settle(gates, budget, scores_of(method, budget, tensors, seed))
    found = project(gates, budget)
    past, future = ends(found.values)
    assert past == sorted(past) and future == sorted(future, reverse=True)
    kept = sliced(LAYOUT, tensors, found.values)["conv"]
    width = 4 + 2 * sum(x > 0 for x in (*past, *future))
    channels = int((found.values[LAYOUT.span("conv")] > 0).sum())
    assert kept.shape == (channels, 3, width)
    first = 8 - 2 * sum(x > 0 for x in past)
    whole = LAYOUT.gated(tensors, found.values.float())["conv"]
    rest = whole[whole.flatten(1).any(1)][..., first : first + width]
    torch.testing.assert_close(kept, rest, rtol=0, atol=0)
    assert 1 - kept.numel() / 2400 == pytest.approx(found.removed[0])
    assert target - 1e-9 <= found.removed[0] <= target + found.slack[0] + 1e-9


def test_a_share_of_the_taps_goes_at_random_not_nearly_all():
    budget = budget_of(0.75, "params")
    for seed in range(20):
        gates = Gates(LAYOUT, GateOptions())
        settle(gates, budget, scores_of("random", budget, {}, seed))
        open_taps = project(gates, budget).values[40:48].sum()
        assert 2 <= open_taps <= 4  # half of 8, as of the 40 channels
