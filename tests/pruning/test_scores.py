"""Which units go by other ways than learning it: magnitude, chance, whole blocks."""

import pytest
import torch

from espnet_prune.config.methods import METHODS
from espnet_prune.config.sections import MODEL_DIM, SparsityOptions
from espnet_prune.pruning.iterative import UPDATES, MagnitudeController
from espnet_prune.pruning.projection import choose, project
from espnet_prune.pruning.scores import magnitude, scores_of, settle, unit_weights
from tests.fixtures.gated import CASES, assert_same, outputs

FRAMES = 200
SIZES = {"output_size": 32, "linear_units": 96, "num_blocks": 4}
ONE_SHOT = [m.name for m in METHODS.values() if m.gated and not (m.trained or m.heard)]
by_fine = pytest.mark.parametrize("fine", [True, False])


def made(name="conformer", fine=True, **conf):
    return CASES[name].make(gates={"fine_heads": fine}, **SIZES | conf)


def settled(gated, method="magnitude", seed=1, **sparsity):
    """What a one-shot method leaves open, (unit,), and its gates."""
    gates, budget = gated.gates(), gated.budget(FRAMES, **sparsity)
    settle(gates, budget, scores_of(method, budget, gated.tensors(), seed))
    return gates.spread(gates.is_open().float()), gates


def of(gated, own, name):
    return own[gated.layout.span(name)]


def every(gated, own, ending):
    """Of the structures whose names end so, (structure, unit)."""
    names = [s.name for s in gated.layout.structures if s.name.endswith(ending)]
    return torch.stack([of(gated, own, name) for name in names])


WAYS = [*((method, True, 0.3) for method in ONE_SHOT), ("magnitude", False, 0.75)]


# Each encoder in two ways, each way on half of the encoders.
@pytest.mark.parametrize(
    ("name", "method", "fine", "target"),
    [
        (name, *WAYS[(number + more) % len(WAYS)])
        for number, name in enumerate(CASES)
        for more in (0, 1)
    ],
)
def test_one_shot_methods_meet_the_budget_and_are_projected_as_they_are(
    name, method, target, fine
):
    gated = made(name, fine)
    if name == "decoder" and method == "blocks":
        return  # a decoder is pruned with its encoder, whose blocks these are
    sparsity = {"target": target, "kind": "params+macs"}
    own, gates = settled(gated, method, **sparsity)
    budget = gated.budget(FRAMES, **sparsity)
    keep = choose(gates, budget).choose()
    assert torch.equal(gates.gather(keep), gates.is_open())
    found = project(gates, budget)
    assert found.flipped == 0 and target - 1e-9 <= min(found.removed) < target + 0.05
    whole = 4 - len(gone_blocks(gated, found.values))
    assert whole == 4 if method != "blocks" else whole < 4
    x, values = gated.inputs(50, 31), found.values.double()
    assert_same(outputs(gated.compact(values), x), gated(values, x), 1e-12)


def gone_blocks(gated, own):
    blocks = [s.name for s in gated.layout.structures if s.any_of]
    return [i for i, name in enumerate(blocks) if not of(gated, own, name)]


def silent(gated, own, matrices):
    """Which entries of matrices nothing depends on, for values (unit,)."""
    torch.manual_seed(0)
    out = gated(gated.layout.settled(own), gated.inputs(60, 60, 60))[0]
    loss = (out * torch.randn_like(out)).sum()
    slopes = torch.autograd.grad(loss, [*matrices], allow_unused=True)
    return torch.cat([
        (torch.zeros_like(p) if slope is None else slope).flatten() == 0
        for p, slope in zip(matrices, slopes, strict=True)
    ])  # fmt: skip


@by_fine
@pytest.mark.parametrize("name", CASES)
def test_weights_of_a_unit_are_those_that_nothing_depends_on_without_it(name, fine):
    gated = made(name, fine, num_blocks=1, output_size=16)
    tensors, layout = gated.tensors(), gated.layout
    matrices = [p for n, p in tensors.items() if p.dim() > 1 and "pos_bias" not in n]
    whole = torch.cat([p.flatten() for p in matrices])
    for module in gated.module.modules():
        if isinstance(module, torch.nn.ReLU):  # which may be silent for good
            module.forward = torch.nn.functional.silu
    scored = magnitude(layout, tensors, lambda group: 1.0)
    idle = silent(gated, gated.open(), matrices)  # a token that does not come by
    for structure in layout.structures:
        if structure.size == 1 or not structure.learned:
            continue
        own = gated.open()
        own[layout.span(structure.name).start + 1] = 0
        expected = whole[silent(gated, own, matrices) & ~idle]
        weights = unit_weights(layout, tensors, structure)
        assert torch.equal(weights[1].sort()[0], expected.sort()[0]), structure.name
        if structure.name != MODEL_DIM:  # the smaller they are, the sooner it goes
            scores = of(gated, scored, structure.name)
            assert weights.square().mean(1).argsort().equal(scores.argsort())


def test_every_layer_loses_the_same_share_by_magnitude():
    """However its weights are scaled, and however far they are spread."""
    gated = made()
    with torch.no_grad():
        for i, block in enumerate(gated.module.encoders):
            for layer in (block.feed_forward, block.feed_forward_macaron):
                spread = torch.logspace(0, i, layer.w_1.weight.shape[0])
                layer.w_1.weight *= 10.0**-i * spread[:, None]
    kept = every(gated, settled(gated)[0], "feed_forward.unit").mean(1)
    assert kept.max() - kept.min() < 0.05


@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_heads_thin_out_with_their_dimensions_and_their_group(method):
    gated = made()
    own, _ = settled(gated, method, target=0.75, kind="params+macs")
    # sqrt(0.25) of the 16 heads; a layer whose heads all go keeps its best.
    assert 8 <= every(gated, gated.layout.settled(own), "head").sum() <= 10
    groups = {"subsampling": 0.95, "attention": 0.2}
    budget = gated.budget(FRAMES, groups=groups)
    scores = scores_of(method, budget, gated.tensors(), 0)
    assert (every(gated, scores, "head") > 0).sum() == round(0.8**0.5 * 16)


@pytest.mark.parametrize("method", ONE_SHOT)
def test_model_dimension_is_chosen_at_once(method):
    gated = made("conformer_dim", output_size=64)
    with torch.no_grad():  # every second one is written and read weakly
        for block in gated.module.encoders:
            for layer in (block.feed_forward, block.feed_forward_macaron):
                layer.w_1.weight[:, ::2] *= 1e-3
                layer.w_2.weight[::2] *= 1e-3
    own, _ = settled(gated, method, target=0.75, kind="params+macs")
    kept = of(gated, own, MODEL_DIM)
    # sqrt(0.25) of 64, but blocks go as wholes.
    assert kept.sum() == (64 if method == "blocks" else pytest.approx(32, abs=2))
    assert method != "magnitude" or kept[::2].sum() <= 2


def test_random_depends_on_the_seed_only():
    gated = made()
    first, again, other = (settled(gated, "random", seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("name", ["conformer", "transformer", "e_branchformer"])
@pytest.mark.parametrize(("target", "least"), [(0.4, 4), (0.7, 2), (0.97, 0)])
def test_blocks_that_stay_are_spread_and_channels_are_the_strong_ones(
    name, target, least
):
    gated = made(name, num_blocks=8)
    strong = torch.arange(32) % 2 == 1
    with torch.no_grad():
        gated.module.embed.conv[0].weight[~strong] *= 1e-3
        gated.module.embed.conv[2].weight[:, ~strong] *= 1e-3
    own, _ = settled(gated, "blocks", target=target, kind="params+macs")
    layout, gone = gated.layout, gone_blocks(gated, gated.layout.settled(own))
    inside = [
        torch.cat([of(gated, own, s.name) for s in layout.structures if at in s.name])
        for at in (f"ers.{i}." for i in range(8))
    ]
    whole = [i for i, units in enumerate(inside) if units.all()]
    assert len(whole) >= least and len(whole) + len(gone) >= 7
    if whole:
        gaps = [b - a for a, b in zip(whole, whole[1:], strict=False)]
        assert max(gaps) - min(gaps) <= 1 and whole[0] <= gaps[0]
        assert 8 - whole[-1] <= gaps[0] + 1
    kept = of(gated, own, "embed.conv.0") > 0
    assert not kept.all() and (strong[kept].all() or kept[strong].all())
    # The subsampling is left its share of the budget, but for a channel, at least.
    budget, own = gated.budget(groups={"subsampling": 0.0}, target=0.1), gated.open()
    for conv in ("embed.conv.0", "embed.conv.2"):
        own[layout.span(conv)][int(kept.sum()) + 1 :] = 0
    assert 1 - budget.removed(own)[0] > 1 - target


def iterative(gated, gates, target=0.7, by="magnitude"):
    options = SparsityOptions(target=target, by=by, warmup=0.5)
    controller = MagnitudeController(options, gated.budget(FRAMES, target=target))
    controller.total_steps = 4 * UPDATES
    return controller.train(), gated.tensors()


def test_iterative_rises_to_the_target_and_costs_no_loss():
    gated = made("conformer_dim")
    gates, gone = gated.gates(centre=3.0), []
    controller, tensors = iterative(gated, gates)
    for _ in range(controller.total_steps):
        loss, stats = controller(gates.train(), tensors)
        # Magnitude decides, never chance, not before the first update either.
        assert torch.equal(gates(), gates.spread(gates.is_open().float()))
        assert loss == 0 and not loss.requires_grad
        gone.append(stats["sparsity_realised"].item())
    assert gone[0] < 0.1 and gone == sorted(gone)
    assert gone[2 * UPDATES] == gone[-1] == pytest.approx(0.7, abs=0.02)
    assert len(set(gone)) > UPDATES / 2


@pytest.mark.parametrize("by", ["magnitude", "feedback"])
def test_with_feedback_units_come_back_until_the_end(by):
    gated = made()
    gates = gated.gates(centre=3.0)
    controller, tensors = iterative(gated, gates, by=by)
    layout = gates.layout
    units = layout.span("encoders.0.feed_forward.unit")
    while controller.step < 3 * UPDATES:
        controller(gates, tensors)
    before = gates.mask[units].clone()
    assert 0 < before.sum() < len(before)
    # What closed units have learnt meanwhile: they are the strongest now.
    for name in ("w_1.weight", "w_2.weight"):
        weight = tensors[f"encoders.0.feed_forward.{name}"]
        rows = weight if name == "w_1.weight" else weight.T
        rows.data[before == 0] *= 100
    while controller.step < 4 * UPDATES:
        controller(gates, tensors)
    back = gates.mask[units][before == 0]
    assert back.any() == (by == "feedback")
    gone = controller.budget.removed(gates.mask.double())
    assert gone[0] == pytest.approx(0.7, abs=0.02)


def test_iterative_masks_survive_a_resume():
    gated = made()
    gates, resumed = gated.gates(centre=3.0), gated.gates(seed=7)
    controller, tensors = iterative(gated, gates)
    for _ in range(UPDATES):
        controller(gates, tensors)
    resumed.load_state_dict(gates.state_dict())
    other, _ = iterative(gated, resumed)
    other.load_state_dict(controller.state_dict())
    other.eval()(resumed, tensors)
    assert torch.equal(gates.mask, resumed.mask) and not gates.mask.all()
    assert other.step == controller.step == UPDATES
