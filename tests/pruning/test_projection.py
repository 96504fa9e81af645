"""From what gates learned to final values that meet the budget, and use it."""

import logging
from itertools import groupby

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_prune.base.errors import InputError
from espnet_prune.config.sections import MODEL_DIM
from espnet_prune.pruning import selection
from espnet_prune.pruning.pricing import Pricing
from espnet_prune.pruning.projection import check_reachable, choose, project
from espnet_prune.pruning.slicing import kept_sizes
from espnet_prune.pruning.units import units_of
from tests.fixtures.gated import CASES

FRAMES = 200
INNER = ("unit", "channel", ".qk", ".v", "conv.0", "conv.2")  # in submodules and heads
SIZES = {"output_size": 32, "linear_units": 96}
# What is in the names of a group's parameters.
GROUPS = {
    "subsampling": ("embed.conv", "embed.out.0.weight", "embed.out.weight"),
    "attention": ("attn", "norm_mha", "norm1"),
    "ffn": ("feed_forward", "norm_ff", "norm2"),
    "convolution": ("conv_module", "norm_conv"),
}


def made(name="conformer", **conf):
    return CASES[name].make(dtype=torch.float32, **SIZES | conf)


def learned(gated, seed=0, spread=2.0, centre=0.0, **values):
    """Gates with random log_alpha, but for structures whose names end so: these have
    the values, over and over."""
    gates = gated.gates(spread, centre, seed)
    full = gates.spread(gates.log_alpha.detach())
    for structure in gated.layout.structures:
        for ending, pattern in values.items():
            if structure.name.endswith(ending):
                times = -(-structure.size // len(pattern))
                units = torch.tensor(pattern * times)[: structure.size]
                full[gated.layout.span(structure.name)] = units
    with torch.no_grad():
        gates.log_alpha.copy_(gates.gather(full))
    return gates


def of(gated, own, name):
    return own[gated.layout.span(name)]


def counted(gated, own, constraint):
    """What a constraint's part costs in the compact module, by counting."""
    compact = gated.compact(own.float())
    if constraint.name in GROUPS:
        named = compact.named_parameters()
        return sum(
            p.numel() for n, p in named if any(x in n for x in GROUPS[constraint.name])
        )
    return gated.counted(compact, FRAMES)[constraint.kind == "macs"]


@given(
    name=st.sampled_from([*CASES]), seed=st.integers(0, 999), spread=st.floats(0, 4),
    centre=st.floats(-4, 4), target=st.floats(0.05, 0.9), fine=st.booleans(),
    kind=st.sampled_from(["params", "macs", "params+macs"]),
    multiple=st.sampled_from([1, 1, 3, 8]), soft=st.booleans(), heads=st.integers(1, 4),
)  # fmt: skip
@settings(max_examples=40)
def test_budget_is_met_and_used(
    name, seed, spread, centre, target, fine, kind, multiple, soft, heads
):
    """By counting, within what the projection allows itself, in sizes that fit."""
    mode = "hard_concrete" if soft else "straight_through"
    options = {"fine_heads": fine, "mode": mode}
    sizes = {"output_size": 24 * heads // (1 + heads % 2), "attention_heads": heads}
    gated = made(name, gates=options, **sizes)
    gates, layout = learned(gated, seed, spread, centre), gated.layout
    budget = gated.budget(FRAMES, kind=kind, target=target)
    found = project(gates, budget, multiple)
    own = found.values
    assert layout.settled(own).equal(own) and not own.requires_grad
    gone = []
    for c, removed in zip(budget.constraints, found.removed, strict=True):
        gone.append(1 - counted(gated, own, c) / c.dense)
        assert gone[-1] == pytest.approx(removed, abs=1e-6)
    assert min(gone) >= target - 1e-9
    assert min(g - s for g, s in zip(gone, found.slack, strict=True)) <= target + 1e-9
    kept = gates.spread(gates.open_value(), values=True)[own != 0]
    assert own[own != 0].equal(kept.detach())  # soft values are not rounded
    for structure in layout.structures:
        if not structure.learned or layout.children(structure.name):
            continue
        rows = of(gated, own, structure.name).view(heads if structure.even else 1, -1)
        number, *others = {int(n) for n in (rows != 0).sum(1)} - {0} or {0}
        assert not others and number >= structure.least  # heads are equally wide
        assert number % multiple == 0 or number in (structure.least, rows.shape[1])


@given(
    seed=st.integers(0, 999), target=st.sampled_from([0.3, 0.5, 0.75, 0.85]),
    groups=st.dictionaries(
        st.sampled_from([*GROUPS]), st.sampled_from([0.0, 0.4, 0.6]), max_size=3
    ),
    name=st.sampled_from(
        ["conformer", "conformer_dim", "conformer_blocks", "transformer"]
    ),
    multiple=st.sampled_from([1, 8]),
)  # fmt: skip
@settings(max_examples=40)
def test_groups_meet_their_own_targets(name, seed, target, groups, multiple):
    gated = made(name)
    if name == "transformer":
        groups.pop("convolution", None)
    try:
        budget = gated.budget(FRAMES, target=target, groups=groups)
    except ValueError as refusal:  # the others would have to lose more than they have
        assert groups and ("must go" in str(refusal) or "all groups" in str(refusal))
        return
    try:
        found = project(learned(gated, seed, centre=1.0), budget, multiple)
    except InputError:  # or nearly all that they have
        assert max(c.target for c in budget.constraints) > 0.95
        return
    whole = gated.counted(gated.stock, FRAMES)[0]
    left = gated.counted(gated.compact(found.values.float()), FRAMES)[0]
    assert left <= (1 - target) * whole + 1e-6
    for c, removed, slack in zip(
        budget.constraints, found.removed, found.slack, strict=True
    ):
        if c.name in GROUPS:
            cost = counted(gated, found.values, c)
            assert removed == pytest.approx(1 - cost / c.dense, abs=1e-6)
        assert c.target - 1e-9 <= removed
        # A block's norm is one of the others: where nearly all of these go, blocks do.
        scarce = any(o.target > 0.95 for o in budget.constraints if o is not c)
        assert removed <= c.target + slack + 1e-9 or scarce


def test_real_sizes_meet_the_budget_within_half_a_percent():
    gated = made(output_size=96, linear_units=256, num_blocks=3)
    for kind, target in (("params", 0.5), ("macs", 0.9), ("latency", 0.6)):
        budget = gated.budget(FRAMES, kind=kind, target=target)
        found = project(learned(gated, 3), budget)
        most = selection.TOLERANCE * (1 - target) + (1e-3 if kind == "latency" else 0)
        assert 0 <= found.removed[0] - target <= most + 1e-9


@pytest.mark.parametrize("name", ["conformer", "conformer_dim", "e_branchformer"])
@pytest.mark.parametrize("kind", ["latency", "macs+latency"])
def test_where_time_is_limited_sizes_are_those_that_were_timed(name, kind):
    """onnxruntime takes longer for 99 channels than for 104."""
    gated = made(name, output_size=96, linear_units=256)
    own = project(learned(gated, 3), gated.budget(FRAMES, kind=kind)).values
    before, after = (kept_sizes(gated.layout, x) for x in (gated.layout.whole(), own))
    changed = [
        number
        for key, number in after.items()
        if key[-1] != "heads" and number < before[key]
    ]
    assert any(changed) and not any(number % 8 for number in changed)


def test_what_the_gates_chose_is_kept():
    gated, half = made(), dict.fromkeys(INNER, [-3.0, 3.0])
    gates = learned(gated, spread=0.1, centre=3.0, **half)
    kept = gated.layout.settled(gates.spread(gates.is_open().double()))
    removed = float(gated.budget(FRAMES).removed(kept))
    found = project(gates, gated.budget(FRAMES, target=removed - 1e-5))
    assert torch.equal(found.values != 0, kept != 0) and found.flipped == 0


def test_submodules_that_learned_to_close_go_first_with_what_is_in_them():
    gated, closed = made(), ("0.self_attn", "0.feed_forward")
    gates = learned(gated, 0, 0.01, 3.0, **dict.fromkeys(closed, [-2.0]))
    removed = gated.budget(FRAMES).removed(gates.spread(gates.is_open().float()))
    found = project(gates, gated.budget(FRAMES, target=float(removed) - 1e-3))
    for name in closed:
        assert not of(gated, found.values, f"encoders.{name}").any()
    assert found.flipped == 0  # what is under a closed gate counts no more
    assert not of(gated, found.values, "encoders.0.self_attn.qk").any()


@pytest.mark.parametrize("multiple", [8, 16])
@pytest.mark.parametrize("target", [0.5, 0.75])
def test_rounding_closes_no_submodule_that_learned_to_be_open(target, multiple):
    gated = made(output_size=96, linear_units=256, num_blocks=3)
    bimodal = 6.0 * (torch.rand(977) > target) - 3  # as training leaves them
    bimodal = (bimodal + 0.1 * torch.randn(977)).tolist()
    gates = learned(gated, 0, 0.1, 3.0, **dict.fromkeys(INNER, bimodal))
    own = project(gates, gated.budget(FRAMES, target=target), multiple).values
    for structure in gated.layout.structures:
        if structure.size == 1:
            assert of(gated, own, structure.name), structure.name


@pytest.mark.parametrize("name", ["feed_forward", "conv_module", "self_attn"])
def test_the_best_unit_opens_its_submodule_however_many_come_with_it(name):
    layout = made().layout
    root, scores = layout[f"encoders.0.{name}"], torch.full((len(layout),), -3.0)
    is_open = torch.zeros(len(layout), dtype=torch.bool)
    for structure in (root.name, *layout.descendants(root.name)):
        scores[layout.span(structure).start] = 3.0
        is_open[layout.span(structure).start] = True
    first, *rest = units_of(layout, root, scores, is_open, multiple=4)
    assert first.entry and first.score == 3.0
    assert not any(unit.entry or unit.score > first.score for unit in rest)


@pytest.mark.parametrize("kind", ["params", "macs"])
def test_unreachable_target_is_one_input_error(kind):
    gated = made()
    budget = gated.budget(FRAMES, kind=kind, target=0.998)
    for attempt in (check_reachable, lambda b: project(gated.gates(), b)):
        with pytest.raises(InputError, match=f"99.8%.* {kind} .*lower target$"):
            attempt(budget)
    model = {"denominator": "model", "beyond": {"params": 1e6}}
    budget = gated.budget(FRAMES, target=0.9, **model)
    with pytest.raises(
        InputError, match="no structure was declared of.*denominator: encoder"
    ):
        check_reachable(budget)


def test_changes_by_the_projection_are_told_and_counted(caplog):
    gated = made("conformer_dim", output_size=64)
    gates = learned(gated, spread=0.1, centre=3.0)
    for target, level in ((0.5, "WARNING"), (0.02, "INFO")):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            found = project(gates, gated.budget(FRAMES, target=target))
        levels = [r.levelname for r in caplog.records if "dimension" not in r.message]
        assert levels == [level] * 2 and f"{found.flipped:.1%} of" in caplog.text
        left = int((of(gated, found.values, MODEL_DIM) != 0).sum())
        assert f"model dimension {left}, 64 were learned" in caplog.text
    keep = choose(gates, gated.budget(FRAMES, target=0.5)).choose()
    is_open = gates.spread(gates.is_open().float())
    before, after = (gated.layout.effective(x.float()) for x in (is_open, keep))
    flips = (before != after)[gated.layout.learned].float().mean()
    found = project(gates, gated.budget(FRAMES, target=0.5))
    assert found.flipped == pytest.approx(float(flips)) and flips > 0.1


def test_each_head_keeps_its_own_best_dimensions():
    gated = made()
    gates = learned(gated, spread=1.0, centre=1.0)
    own = project(gates, gated.budget(FRAMES)).values
    scores, cut = gates.spread(gates.log_alpha.detach()), 0
    for structure in gated.layout.structures:
        if structure.even:
            rows = (
                of(gated, x, structure.name).view(4, -1) for x in (scores, own != 0)
            )
            for row, kept in zip(*rows, strict=True):
                if 0 < kept.sum() < len(kept):
                    assert row[kept].min() > row[~kept].max()
                    cut += 1
    assert cut > 5


class TestModelDimension:
    def dims(self, gated, gates, **sparsity):
        keep = choose(gates, gated.budget(FRAMES, **sparsity)).choose()
        return of(gated, keep, MODEL_DIM)

    @pytest.fixture
    def gated(self):
        return made("conformer_dim", output_size=64, linear_units=256)

    @pytest.fixture
    def half(self, gated):
        """Gates of which half of the channels have learned to go."""
        return learned(gated, spread=0.1, centre=3.0, **{MODEL_DIM: [-3.0, 3.0]})

    def test_it_is_the_one_that_was_learned(self, gated, half):
        kept = self.dims(gated, half, target=0.8)
        assert kept.tolist() == [i % 2 == 1 for i in range(64)]

    def test_it_is_as_narrow_as_what_must_stay_needs(self):
        """All of its channels would already cost more than the budget."""
        with pytest.raises(InputError, match="cannot be removed"):
            check_reachable(made(output_size=16).budget(FRAMES, target=0.994))
        gated = made("conformer_dim", output_size=16)
        budget = gated.budget(FRAMES, target=0.994)
        check_reachable(budget)
        assert project(learned(gated), budget).removed[0] > 0.985

    def test_it_is_as_wide_as_a_group_with_a_target_needs(self, gated, half):
        kept = self.dims(gated, half, target=0.6, groups={"ffn": 0.36})
        assert 32 < kept.sum() < 64  # of 32 channels 64 % could not be used

    @pytest.mark.parametrize("kind", ["params+macs", "macs+params"])
    def test_the_first_kind_that_is_met_is_enough(self, gated, half, kind):
        narrow = gated.open()
        narrow[gated.layout.span(MODEL_DIM)][::2] = 0
        gone = gated.budget(FRAMES, kind=kind).removed(narrow)
        assert gone[0] != gone[1]  # between them is a target
        kept = self.dims(gated, half, kind=kind, target=float(gone.mean()))
        assert kept.sum() == 32


def brute_force(budget, keep, unit):
    """What a unit costs, as the difference of all that is kept with it and without."""
    layout = budget.layout

    def cost(own):
        return budget.cost(layout.complete(own.double(), values=True))

    more = keep.clone()
    more[torch.cat(list(unit.parts.values()))] = True
    return (cost(more) - cost(keep)).tolist()


@pytest.mark.parametrize(("fine", "multiple"), [(True, 4), (False, 1)])
@pytest.mark.parametrize("name", CASES)
def test_prices_are_differences_of_costs(name, multiple, fine, monkeypatch):
    """Of every unit of a projection, whatever is kept when it is looked at."""
    gated, looked = made(name, gates={"fine_heads": fine}), []
    units = "cgmlp" if name == "branchformer" else "ffn"
    groups = {} if name == "decoder" else {units: 0.6}
    budget = gated.budget(FRAMES, kind="params+macs", target=0.5, groups=groups)
    kept = {}

    class Held(Pricing):
        def __init__(self, budget, keep):
            super().__init__(budget, keep)
            kept[self] = keep.clone()

        def of(self, unit):
            found = super().of(unit)
            expected = brute_force(budget, kept[self], unit)
            assert found == pytest.approx(expected, rel=1e-9, abs=1e-6)
            looked.append(unit)
            return found

        def keep(self, unit):
            super().keep(unit)
            kept[self][torch.cat(list(unit.parts.values()))] = True

    monkeypatch.setattr(selection, "Pricing", Held)
    project(learned(gated, 1, centre=0.5), budget, multiple)
    families = [family for family, _ in groupby(sorted(u.family for u in looked))]
    assert len(families) > 3
