"""The other ways to the same budget: what they choose."""

import pytest
import torch

from espnet_prune.base.errors import InputError
from espnet_prune.config.methods import ONE_SHOT
from espnet_prune.families.espnet.architecture import Architecture
from espnet_prune.families.espnet.layers.structures import structures
from espnet_prune.families.espnet.small import small_encoder
from espnet_prune.pruning.gates import gates_of
from espnet_prune.pruning.iterative import UPDATES, MagnitudeController
from espnet_prune.pruning.one_shot import scores_of, settle
from espnet_prune.pruning.projection import choose
from espnet_prune.pruning.scores import unit_weights
from espnet_prune.pruning.sparsity import SparsityOptions, make_budget

FRAMES = 200
SIZES = {"output_size": 32, "linear_units": 96, "num_blocks": 4}
BINARY = {"mode": "straight_through"}


@pytest.fixture
def encoder(make_encoder):
    return make_encoder(gates=BINARY, **SIZES)


def budget_of(encoder, target, kind="params+macs"):
    return make_budget(SparsityOptions(kind, target), encoder, FRAMES)


@pytest.mark.parametrize("fine", [True, False])
@pytest.mark.parametrize("target", [0.3, 0.75])
@pytest.mark.parametrize("method", ONE_SHOT)
def test_one_shot_masks_meet_the_budget_and_are_projected_as_they_are(
    make_encoder, method, target, fine
):
    encoder = make_encoder(gates=BINARY | {"fine_heads": fine}, **SIZES)
    budget = budget_of(encoder, target)
    settle(encoder, budget, scores_of(method, encoder, budget, seed=1))
    keep = choose(encoder, budget)
    for name, gate in gates_of(encoder).items():
        assert torch.equal(keep[gate], gate.is_open()), name
        assert torch.equal(gate.open_value(), torch.ones(len(gate)))
    left = Architecture.counts
    encoder.set_masks({n: keep[g].float() for n, g in gates_of(encoder).items()})
    gone = [c.removed(left(encoder.kept())) for c in budget.constraints]
    assert min(gone) >= target - 1e-9 and min(gone) < target + 0.05


@pytest.mark.parametrize("fine", [True, False])
def test_weights_of_a_unit_are_those_that_a_closed_gate_takes_from_the_loss(
    make_encoder, fine
):
    """Of every kind: a unit that is closed leaves its weights without a gradient."""
    encoder = make_encoder(gates=BINARY | {"fine_heads": fine}).double().train()
    features = torch.randn(3, 60, 20, dtype=torch.double)
    lengths = torch.tensor([60, 60, 60])
    gates = gates_of(encoder)
    names = {gate: name for name, gate in gates.items()}
    for layer in [encoder.embed, *structures(encoder.encoders[0])]:
        own = [p for n, p in layer.named_parameters() if is_matrix(n, p)]
        for gate, weights in unit_weights(layer).items():
            masks = {n: torch.ones(len(g)) for n, g in gates.items()}
            masks[names[gate]][1] = 0
            encoder.set_masks(masks)
            out = encoder(features, lengths)[0]
            grads = torch.autograd.grad((out * torch.randn_like(out)).sum(), own)
            idle = [p[g == 0] for p, g in zip(own, grads, strict=True)]
            found, expected = torch.cat(idle).sort()[0], weights[1].sort()[0]
            assert torch.equal(found, expected), names[gate]


def is_matrix(name, parameter) -> bool:
    return parameter.dim() > 1 and "pos_bias" not in name


def test_weak_units_go_first(encoder):
    names = {}
    with torch.no_grad():
        for layer in structures(encoder):
            if hasattr(layer, "w_1"):
                layer.w_1.weight[::2] *= 1e-3
                layer.w_2.weight[:, ::2] *= 1e-3
                names[layer.unit_gate] = slice(0, None, 2)
            if hasattr(layer, "qk_gate"):
                for linear in (layer.linear_q, layer.linear_k, layer.linear_pos):
                    linear.weight[::2] *= 1e-3
                names[layer.qk_gate] = slice(0, None, 2)
    budget = budget_of(encoder, 0.6, "params")
    settle(encoder, budget, scores_of("magnitude", encoder, budget, 0))
    for gate, weak in names.items():
        kept = gate.is_open()
        # A cheap one may fill what is left of the budget.
        assert kept[weak].float().mean() < 0.05
        assert kept[1::2].float().mean() > 0.3


@pytest.mark.parametrize(("target", "least"), [(0.4, 4), (0.7, 2)])
def test_blocks_that_stay_are_spread_and_channels_are_the_strong_ones(
    make_encoder, target, least
):
    encoder = make_encoder(gates=BINARY, **SIZES | {"num_blocks": 8})
    strong = torch.arange(len(encoder.embed.gate1)) % 2 == 1
    with torch.no_grad():
        encoder.embed.conv[0].weight[~strong] *= 1e-3
        encoder.embed.conv[2].weight[:, ~strong] *= 1e-3
    budget = budget_of(encoder, target)
    settle(encoder, budget, scores_of("blocks", encoder, budget, 0))
    whole = [
        i
        for i, block in enumerate(encoder.encoders)
        if all(gate.is_open().all() for gate in gates_of(block).values())
    ]
    assert len(whole) >= least
    gaps = [b - a for a, b in zip(whole, whole[1:], strict=False)]
    assert max(gaps) - min(gaps) <= 1 and whole[0] <= gaps[0]
    assert 8 - whole[-1] <= gaps[0] + 1
    kept = encoder.embed.gate1.is_open()
    assert not kept.all() and (strong[kept].all() or kept[strong].all())
    # The subsampling is left its share of the budget, but for a channel, at least.
    (limit, *_) = budget.constraints
    own, whole = (
        limit.cost(Architecture((channels,) * 2, ()).counts())
        for channels in (int(kept.sum()) + 1, len(kept))
    )
    assert own / whole > limit.limit / limit.dense


def test_every_layer_loses_the_same_share_by_magnitude(encoder):
    """However its weights are scaled, and however far they are spread."""
    with torch.no_grad():
        for i, block in enumerate(encoder.encoders):
            for layer in (block.feed_forward, block.feed_forward_macaron):
                spread = torch.logspace(0, i, layer.w_1.weight.shape[0])
                layer.w_1.weight *= 10.0**-i * spread[:, None]
    budget = budget_of(encoder, 0.5)
    settle(encoder, budget, scores_of("magnitude", encoder, budget, 0))
    kept = [b.feed_forward.unit_gate.is_open().float().mean() for b in encoder.encoders]
    assert max(kept) - min(kept) < 0.05


def test_heads_thin_out_with_their_dimensions(encoder):
    budget = budget_of(encoder, 0.75)
    for method in ("magnitude", "random"):
        settle(encoder, budget, scores_of(method, encoder, budget, 0))
        masks = {n: g.is_open().float() for n, g in gates_of(encoder).items()}
        encoder.set_masks(masks)
        heads = [block.heads for block in encoder.kept().blocks]
        encoder.set_masks(None)
        # sqrt(0.25) of the 16 heads; a layer whose heads all go keeps its best.
        assert 8 <= sum(heads) <= 10, method


def test_heads_thin_out_with_their_own_group(encoder):
    groups = {"subsampling": 0.95, "attention": 0.2}
    options = SparsityOptions("params", 0.5, groups=groups)
    budget = make_budget(options, encoder, FRAMES)
    assert budget.share("attention") == pytest.approx(0.8)
    assert budget.share("subsampling") == pytest.approx(0.05)
    for method in ("magnitude", "random"):
        scores = scores_of(method, encoder, budget, 0)
        heads = [scores[block.self_attn.head_gate] for block in encoder.encoders]
        assert (torch.cat(heads) > 0).sum() == round(0.8**0.5 * 16), method


def test_what_cannot_go_is_no_share(encoder):
    """A decoder that is not pruned counts, and leaves less of the encoder."""
    dense = encoder.architecture.cost(encoder.fixed, FRAMES)["encoder"].params
    options = SparsityOptions("params", 0.4, denominator="model")
    budget = make_budget(options, encoder, FRAMES, rest={"params": float(dense)})
    (constraint,) = budget.constraints
    left = 1.2 * dense - constraint.fixed  # 60 % of both, without the other's
    assert budget.share("ffn") == pytest.approx(left / (2 * dense - constraint.fixed))
    assert budget.share("ffn") < 0.25


def test_random_depends_on_the_seed_only(encoder):
    budget = budget_of(encoder, 0.5)
    drawn = [scores_of("random", encoder, budget, seed) for seed in (1, 1, 2)]
    gate = encoder.encoders[0].feed_forward.unit_gate
    assert torch.equal(drawn[0][gate], drawn[1][gate])
    assert not torch.equal(drawn[0][gate], drawn[2][gate])


def test_blocks_go_as_wholes_but_one(encoder):
    budget = budget_of(encoder, 0.6, "params")
    settle(encoder, budget, scores_of("blocks", encoder, budget, 0))
    encoder.set_masks({n: g.is_open().float() for n, g in gates_of(encoder).items()})
    dense = encoder.architecture.blocks[0]
    blocks = encoder.kept().blocks
    whole = [b == dense for b in blocks]
    gone = [b.ffn1 == b.heads == b.conv == b.ffn2 == 0 for b in blocks]
    assert sum(whole) == 1 and sum(whole) + sum(gone) >= len(blocks) - 1


def make_iterative(encoder, target=0.7):
    options = SparsityOptions("params", target, by="magnitude", warmup=0.5)
    controller = MagnitudeController(options, make_budget(options, encoder, FRAMES))
    controller.total_steps = 4 * UPDATES
    return controller.train()


def test_iterative_rises_to_the_target_and_costs_no_loss(encoder):
    controller, gone = make_iterative(encoder), []
    for _ in range(controller.total_steps):
        loss, stats = controller(encoder)
        # Magnitude decides, never chance, not before the first update either.
        for gate in gates_of(encoder).values():
            assert torch.equal(gate.mask, gate.is_open().float())
        assert loss.item() == 0
        gone.append(stats["sparsity_realised"].item())
    assert gone[0] < 0.1 and gone == sorted(gone)
    assert gone[2 * UPDATES] == gone[-1] == pytest.approx(0.7, abs=0.02)
    assert len(set(gone)) > UPDATES / 2


def test_iterative_masks_survive_a_resume(encoder, make_encoder):
    controller = make_iterative(encoder)
    for _ in range(UPDATES):
        controller(encoder)
    other = make_encoder(gates=BINARY, **SIZES)
    other.load_state_dict(encoder.state_dict())
    resumed = make_iterative(other)
    resumed.load_state_dict(controller.state_dict())
    resumed.eval()(other)
    for (name, a), b in zip(
        gates_of(encoder).items(), gates_of(other).values(), strict=True
    ):
        assert torch.equal(a.mask, b.mask), name


@pytest.mark.parametrize("target", [0.5, 0.9])
def test_small_conformer_is_the_largest_that_fits(make_encoder, target):
    sizes = {"output_size": 64, "linear_units": 256, "num_blocks": 2}
    encoder = make_encoder(gates={}, **sizes)
    budget = budget_of(encoder, target)
    conf = sizes | {"attention_heads": 4}
    small = small_encoder(encoder.fixed, conf, 4, FRAMES, budget)
    assert small["attention_heads"] == 4

    def costs(units):
        built = make_encoder(**(sizes | small | {"linear_units": units}))
        cost = built.architecture.cost(built.fixed, FRAMES)["encoder"]
        return [getattr(cost, c.kind) - c.limit for c in budget.constraints]

    assert max(costs(small["linear_units"])) <= 0
    assert max(costs(small["linear_units"] + 1)) > 0
    ratio = small["linear_units"] / small["output_size"]
    assert 2 <= ratio <= 10  # 4 in the dense model


def test_small_conformer_has_the_proportions_of_the_dense_one(make_encoder):
    sizes = {"output_size": 64, "linear_units": 256, "num_blocks": 8}
    encoder = make_encoder(gates={}, **sizes)
    conf = sizes | {"attention_heads": 4}
    found = {
        target: small_encoder(
            encoder.fixed, conf, 4, FRAMES, budget_of(encoder, target)
        )
        for target in (0.2, 0.5, 0.8)
    }
    depths = [small["num_blocks"] for small in found.values()]
    assert depths == sorted(depths, reverse=True) and 1 < depths[-1] < depths[0]
    for small in found.values():
        assert 4 <= small["output_size"] / small["num_blocks"] <= 16  # 8


def test_small_conformer_suits_the_heads_of_its_decoder(make_encoder):
    sizes = {"output_size": 64, "linear_units": 256, "num_blocks": 2}
    encoder = make_encoder(gates={}, **sizes)
    conf = sizes | {"attention_heads": 2}
    small = small_encoder(encoder.fixed, conf, 12, FRAMES, budget_of(encoder, 0.5))
    assert small["output_size"] % 12 == 0


def test_budget_below_every_small_conformer_is_refused(encoder):
    with pytest.raises(InputError, match="that small"):
        tiny = budget_of(encoder, 0.999)
        small_encoder(encoder.fixed, SIZES, 4, FRAMES, tiny)
