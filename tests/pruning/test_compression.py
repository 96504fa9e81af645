"""Without a training: what layers hear says which units and which ranks can go."""

import pytest
import torch
from torch import nn

from espnet_prune.base.errors import InputError
from espnet_prune.families.espnet.compact import architecture_of
from espnet_prune.families.espnet.layers import encoder_clocks
from espnet_prune.pruning import moments as collected
from espnet_prune.pruning import refit
from espnet_prune.pruning.compression import Choice, readers
from espnet_prune.pruning.heads import turn
from espnet_prune.pruning.low_rank import LowRank, factorised, spectrum, truncated
from espnet_prune.pruning.moments import Moments, collecting, is_dense, matrix
from espnet_prune.pruning.refit import refitted, removal
from espnet_prune.pruning.slicing import sliced
from tests.fixtures.encoders import FEATURES
from tests.fixtures.gated import CASES, assert_same, outputs

FRAMES = 200
NAMES = ["conformer", "transformer", "e_branchformer", "branchformer"]
TARGET = {"kind": "params+macs", "target": 0.6}


def sampled(samples=300, inputs=12, outputs=7):
    """A layer's matrix, what it heard (sample, input + 1), its gradients, moments."""
    weight = torch.randn(outputs, inputs + 1).double()
    mixed = torch.randn(samples, inputs) @ torch.randn(inputs, inputs) + 1
    x = nn.functional.pad(mixed.double(), (0, 1), value=1.0)
    gradients = torch.randn(9, outputs).double() * torch.rand(outputs)
    return weight, x, Moments(x.T @ x / samples, gradients.T @ gradients)


def lost(change, x, moments):
    """What a change of a layer's matrix does to its output, as gradients weigh it."""
    given = x @ change.T
    return float(((given @ moments.outputs) * given).sum() / len(x))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 5), (2, 9, 6)),
        (nn.Conv1d(6, 5, 1), (2, 6, 9)),
        (nn.Conv2d(3, 5, 3, 2), (2, 3, 9, 11)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_moments_are_of_what_a_layer_multiplies(layer, shape, monkeypatch):
    monkeypatch.setattr(collected, "THINNED", 1)
    model, sums = nn.Sequential(layer.double()), [0, 0, 0]
    with collecting(model, ["0"]) as found:
        for _ in range(2):
            x = torch.randn(shape).double()
            y = model(x)
            gradient = torch.randn_like(y)
            y.backward(gradient)
            dim = -1 if isinstance(layer, nn.Linear) else 1
            y, gradient = (t.movedim(dim, -1).flatten(0, -2) for t in (y, gradient))
            heard = nn.functional.pad(collected.heard(layer, x), (0, 1), value=1.0)
            torch.testing.assert_close(heard @ matrix(layer).T, y.detach())
            sums[0] += heard.T @ heard
            sums[1] += gradient.T @ gradient
            sums[2] += len(heard)
    torch.testing.assert_close(found["0"].inputs, sums[0] / sums[2])
    torch.testing.assert_close(found["0"].outputs, sums[1])
    assert not layer._forward_hooks


@pytest.mark.parametrize("bias", [True, False])
def test_a_lower_rank_loses_the_energy_of_the_directions_left_out(bias):
    weight, x, moments = sampled()
    if not bias:
        weight[:, -1] = 0
    losses, *_ = spectrum(weight, moments, bias)
    assert losses.equal(losses.sort(descending=True).values)
    for rank in range(1, 7):
        low = truncated(weight, moments, rank, bias)
        assert int(torch.linalg.matrix_rank(low[:, :-1])) == rank
        told = float(losses[rank:].sum())
        assert lost(low - weight, x, moments) == pytest.approx(told, rel=1e-4)
        assert bias or not low[:, -1].any()
        # No other matrix of that rank is nearer: that of least squares is not.
        left, values, right = torch.linalg.svd(weight[:, :-1])
        plain = weight.clone()
        plain[:, :-1] = (left[:, :rank] * values[:rank]) @ right[:rank]
        assert lost(plain - weight, x, moments) > told
    torch.testing.assert_close(truncated(weight, moments, 7, bias), weight)


def test_units_that_go_lose_what_is_told_and_the_least_goes_first(monkeypatch):
    monkeypatch.setattr(refit, "RIDGE", 0.0)
    weight, x, moments = sampled()
    columns = torch.arange(12).view(4, 3)  # as the bands of a channel

    def left(gone):
        kept = torch.ones(12, dtype=torch.bool)
        kept[columns[gone].flatten()] = False
        return refitted(weight, moments, kept)

    order, losses = removal(weight, moments, columns)
    assert sorted(order) == [0, 1, 2, 3]
    for number in range(1, 5):
        small = left(order[:number])
        assert not small[:, columns[order[:number]].flatten()].any()
        told = sum(losses[:number])
        assert lost(small - weight, x, moments) == pytest.approx(told, rel=1e-6)
    alone = [lost(left([unit]) - weight, x, moments) for unit in range(4)]
    assert order[0] == min(range(4), key=alone.__getitem__)
    # Without the others making up for them it would be more.
    plain = weight.clone()
    plain[:, columns[order[0]]] = 0
    assert lost(plain - weight, x, moments) > 1.01 * losses[0]
    assert refitted(weight, moments, torch.ones(12, dtype=torch.bool)).allclose(weight)


def heard_noise(encoder, layers):
    """Moments of layers of an encoder that heard noise, the same each time."""
    draw = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(shape, generator=draw, dtype=torch.double)

    with collecting(encoder, layers) as moments:
        for frames in (150, 61):
            y, *_ = encoder(noise(1, frames, FEATURES), torch.tensor([frames]))
            y.backward(noise(*y.shape))
    return moments


def in_heads(name):
    return any(f".{part}" in name for part in ("linear_q", "linear_k", "linear_v",
        "linear_pos", "pos_bias", "linear_out.weight"))  # fmt: skip


def choice_of(gated, **sparsity):
    """The choice for an encoder that heard noise, its layers, and its budget."""
    encoder = gated.stock.eval()
    times = gated.about.work(encoder_clocks(encoder, FRAMES, FEATURES)).times
    named = {n: m for n, m in encoder.named_modules() if f"{n}.weight" in times}
    layers = {name: layer for name, layer in named.items() if is_dense(layer)}
    moments = heard_noise(encoder, layers)
    budget = gated.budget(FRAMES, **TARGET | sparsity)
    inner = turn(gated.layout, dict(encoder.named_parameters()), moments)
    gated.module.load_state_dict(gated.module.state_dict() | encoder.state_dict())
    return Choice(budget, layers, moments, times, inner), budget


@pytest.mark.parametrize("fine", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_meets_the_budget_and_computes_what_was_chosen(name, fine):
    gated = CASES[name].make(gates={"fine_heads": fine}, linear_units=64)
    choice, budget = choice_of(gated)
    found = choice.best()
    assert (found.ranks or fine) and not found.own.all()
    heads = [s.name for s in gated.layout.structures if s.name.endswith(".head")]
    assert {*heads} <= choice.orders.keys()
    with torch.no_grad():
        for layer, weight in found.weights.items():
            module = gated.module.get_submodule(layer)
            module.weight.copy_(weight[:, :-1].view_as(module.weight))
            if module.bias is not None:
                module.bias.copy_(weight[:, -1])
    state = factorised(
        sliced(gated.layout, gated.module.state_dict(), found.own), found.ranks
    )
    small = gated.ours(
        architecture_of(gated.layout, found.own) | {"ranks": found.ranks}
    )
    small.double().load_state_dict(state, strict=True)
    inside = [n for n, m in small.named_modules() if isinstance(m, LowRank)]
    assert sorted(inside) == sorted(found.ranks)
    x = gated.inputs(50, 31)
    gated.module.eval()
    assert_same(outputs(small.eval(), x), gated(found.own, x), 1e-9)
    counted = gated.counted(small, FRAMES)
    for cost, c, own in zip(
        budget.cost(found.own), budget.constraints, counted, strict=True
    ):
        assert float(cost) - found.saved[c.kind] == pytest.approx(own)
        assert own <= c.limit
    # A little less is gone at the next lower rate: the budget is used.
    assert budget.constraints[0].limit - counted[0] < 0.2 * budget.constraints[0].dense


@pytest.mark.parametrize("name", NAMES)
def test_full_ranks_change_nothing(name):
    gated = CASES[name].make()
    layers = {n: m for n, m in gated.stock.named_modules() if collected.is_linear(m)}
    ranks = {n: min(m.weight.shape[:2]) for n, m in layers.items()}
    whole = architecture_of(gated.layout, gated.layout.whole())
    small = gated.ours(whole | {"ranks": ranks}).double()
    state = sliced(gated.layout, gated.module.state_dict(), gated.layout.whole())
    small.load_state_dict(factorised(state, ranks), strict=True)
    x = gated.inputs(50, 31)
    expected = outputs(gated.stock.eval(), x)
    assert_same(outputs(small.eval(), x), expected, 1e-12)
    # ESPnet's other version has another name for the layer behind the subsampling.
    here, there = "out.0", "out"
    if "embed.out" in layers:
        here, there = there, here
    elsewhere = {
        n.replace(f"embed.{here}", f"embed.{there}"): r for n, r in ranks.items()
    }
    other = gated.ours(whole | {"ranks": elsewhere}).double().eval()
    assert elsewhere.keys() != ranks.keys()
    state = factorised(state, ranks)
    other.load_state_dict(
        {n.replace(f"embed.{here}.", f"embed.{there}."): t for n, t in state.items()}
    )
    assert_same(outputs(other, x), expected, 1e-12)


def test_less_goes_at_a_lower_rate_and_a_unit_of_each_layer_stays():
    gated = CASES["conformer"].make()
    choice, budget = choice_of(gated)
    costs = []
    for rate in (0.0, 1e3, 1e5, 1e30):
        found = choice.at(rate)
        costs.append(float(budget.cost(found.own)[0]) - found.saved["params"])
    assert costs == sorted(costs, reverse=True) and costs[0] > costs[1] > costs[-1]
    assert costs[0] == budget.constraints[0].dense
    for structure in choice.orders:
        assert found.own[gated.layout.span(structure)].sum() == 1
    high = choice_of(gated, target=0.97)[0]
    with pytest.raises(InputError, match="target: cannot be met.*lower target"):
        high.best()


def test_one_layer_may_read_the_units_of_two_structures():
    gated = CASES["branchformer"].make()
    choice, _ = choice_of(gated)
    assert len({*choice.orders}) > len({*readers(gated.layout, choice.layers).values()})


@pytest.mark.parametrize(
    ("ranks", "told"),
    [
        ({"encoders.0.feed_forward.w_1": 0}, "w_1 must be an integer from 1 to 16"),
        ({"encoders.0.feed_forward.w_1": 17}, "from 1 to 16, not 17"),
        ({"encoders.0.feed_forward.w_1": "3"}, "not '3'"),
        ({"encoders.0.conv_module.depthwise_conv": 3}, "no linear layer .*depthwise"),
        ({"encoders.9.feed_forward.w_1": 3}, "no linear layer encoders.9"),
    ],
)
def test_ranks_that_make_no_sense_are_refused(ranks, told):
    gated = CASES["conformer"].make()
    whole = architecture_of(gated.layout, gated.layout.whole())
    with pytest.raises(ValueError, match=f"architecture: ranks: .*{told}"):
        gated.ours(whole | {"ranks": ranks})


@pytest.mark.parametrize(
    "name", [*NAMES, "conformer_legacy", "e_branchformer_selfattn"]
)
def test_turned_heads_compute_what_they_did_and_their_last_dimensions_lose_least(name):
    gated = CASES[name].make(output_size=24)
    x = gated.inputs(50, 31)
    expected = outputs(gated.stock.eval(), x)
    encoder, names = gated.stock, []
    for part in ("linear_q", "linear_k", "linear_v", "linear_out", "linear_pos"):
        names += [n for n, _ in encoder.named_modules() if n.endswith(part)]
    moments = heard_noise(encoder, names)
    before = {n: t.clone() for n, t in encoder.state_dict().items()}
    inner = turn(gated.layout, dict(encoder.named_parameters()), moments)
    assert_same(outputs(encoder, x), expected, 1e-10)
    changed = {n for n, t in encoder.state_dict().items() if not t.equal(before[n])}
    assert len(changed) == len([n for n in before if in_heads(n)])
    assert all(map(in_heads, changed))
    # What is turned one way is no larger than what is turned the other way.
    for name in (n for n in changed if n.endswith("linear_v.weight")):
        read = name.replace("linear_v", "linear_out")
        now = encoder.state_dict()
        one = now[name] @ before[name].pinverse()
        other = before[read].pinverse() @ now[read]
        torch.testing.assert_close(one.norm(dim=1), other.norm(dim=0))
    # The moments are those of the turned layers.
    for layer, anew in heard_noise(encoder, names).items():
        for kind in ("inputs", "outputs"):
            found, told = getattr(moments[layer], kind), getattr(anew, kind)
            torch.testing.assert_close(found, told, rtol=1e-6, atol=1e-8)
    assert len(inner) == 2 * len(encoder.encoders)
    for structure, losses in inner.items():
        assert losses.equal(losses.sort(descending=True).values)
        if structure.endswith(".v"):
            layer = structure.replace(".v", ".linear_out")
            weight = matrix(encoder.get_submodule(layer))
            size = weight.shape[1] // 4
            held = moments[layer].inputs
            mean = held[:-1, -1]
            square = held[:-1, :-1] - torch.outer(mean, mean)
            told = 0.0
            for last in range(size - 1, 4 * size, size):  # of each head alone
                gone = weight[:, last]
                matter = gone @ moments[layer].outputs @ gone
                told += float(matter * square[last, last])
            assert told == pytest.approx(float(losses[-1]), rel=1e-3)
