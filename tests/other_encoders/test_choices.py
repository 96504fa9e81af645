"""The other encoders: what a projection and the baselines choose."""

import pytest
import torch
from kinds import FEATURES, assert_same

from espnet_prune.pruning.gates import gates_of


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("target", [0.3, 0.7, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_projection_meets_the_budget_and_uses_it(
    gated, target, multiple, seed, monkeypatch
):
    from espnet_prune.pruning.projection import project
    from espnet_prune.pruning.sparsity import SparsityOptions, make_budget
    from espnet_prune.pruning.unit_prices import UnitPrices

    torch.manual_seed(seed)
    encoder = gated()
    with torch.no_grad():
        for gate in gates_of(encoder).values():
            gate.log_alpha.normal_(0.3, 2.0)
    options = SparsityOptions(kind="params+macs", target=target)
    budget = make_budget(options, encoder, 87)
    measured = []

    def of(prices, unit, keep, real=UnitPrices.of):
        measured.append(real(prices, unit, keep))
        assert measured[-1] == pytest.approx(prices._measured(unit, keep))
        return measured[-1]

    monkeypatch.setattr(UnitPrices, "of", of)
    found = project(encoder, budget, multiple)
    assert measured
    encoder.set_masks(found.masks)
    kept = encoder.kept().cost(encoder.fixed, 87)["encoder"]
    dense = encoder.architecture.cost(encoder.fixed, 87)["encoder"]
    gone = [1 - k / d for k, d in zip(kept, dense, strict=True)]
    assert gone == pytest.approx(found.removed, abs=1e-6)
    assert min(gone) >= target - 1e-9
    rest = [g - target - s for g, s in zip(gone, found.slack, strict=True)]
    assert multiple > 1 or min(rest) <= 1e-6, (gone, found.slack)
    for block in encoder.kept().to_dict()["blocks"]:
        sizes = {unit: n for unit, n in block.items() if unit != "heads"}
        assert not any(n % multiple for n in sizes.values()), sizes


@pytest.mark.parametrize("method", ["magnitude", "random", "blocks"])
def test_one_shot_baselines_leave_the_budget(gated, compact_of, method):
    from espnet_prune.pruning.one_shot import scores_of, settle
    from espnet_prune.pruning.projection import project
    from espnet_prune.pruning.sparsity import SparsityOptions, make_budget

    encoder = gated(num_blocks=4)
    options = SparsityOptions(kind="params+macs", target=0.6)
    budget = make_budget(options, encoder, 87)
    settle(encoder, budget, scores_of(method, encoder, budget, seed=1))
    found = project(encoder, budget)
    assert found.flipped == 0 and min(found.removed) >= 0.6
    encoder.set_masks(found.masks)
    whole = [block == encoder.architecture.blocks[0] for block in encoder.kept().blocks]
    assert any(whole) == (method == "blocks")
    x = torch.randn(2, 40, FEATURES), torch.tensor([40, 9])
    assert_same(encoder, compact_of(encoder, num_blocks=4), *x)


def test_weak_units_of_every_kind_go_first(gated):
    from espnet_prune.families.espnet.layers.structures import structures
    from espnet_prune.pruning.scores import magnitude, unit_weights

    encoder, weak = gated(), 3
    rows = {"unit_gate": ("w_1",), "qk_gate": ("linear_q", "linear_k", "linear_pos")}
    rows |= {"v_gate": ("linear_v",), "out_gate": ("linear_out", "channel_proj2")}
    columns = {"unit_gate": ("w_2", "channel_proj2"), "v_gate": ("linear_out",)}
    for layer in structures(encoder.encoders[0]):
        for name, gate in layer.named_children():
            if name not in rows:
                continue
            before = {key: w.clone() for key, w in layer.state_dict().items()}
            with torch.no_grad():
                for linear in rows[name]:
                    if hasattr(layer, linear):
                        getattr(layer, linear).weight[weak] = 0
                for linear in columns.get(name, ()):
                    if hasattr(layer, linear):
                        getattr(layer, linear).weight[:, weak] = 0
                if name == "unit_gate" and hasattr(layer, "csgu"):
                    pair = layer.channel_proj1[0].weight
                    pair[[weak, weak + len(gate)]] = 0
                    layer.csgu.conv.weight[weak] = 0
            assert not unit_weights(layer)[gate][weak].any()
            scores = magnitude(encoder, lambda group: 0.5)
            assert int(scores[gate].argmin()) == weak, name
            layer.load_state_dict(before)
