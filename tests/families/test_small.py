"""The small dense Conformer that is trained from scratch."""

import pytest
import torch

from espnet_prune.base.errors import InputError
from espnet_prune.families.espnet.small import small_encoder, small_training
from espnet_prune.measuring.cost import encoder_cost
from tests.fixtures.encoders import FEATURES
from tests.fixtures.gated import CASES

FRAMES = 200
CONF = CASES["conformer"].conf | {"output_size": 64, "linear_units": 256}


def small(target, kind="params+macs", blocks=8, decoder_heads=4):
    conf = CONF | {"num_blocks": blocks}
    gated = CASES["conformer"].make(dtype=torch.float32, **conf)
    budget = gated.budget(FRAMES, kind=kind, target=target)
    found = small_encoder(conf, decoder_heads, FEATURES, FRAMES, budget.constraints)
    return found, budget


@pytest.mark.parametrize("target", [0.5, 0.9])
@pytest.mark.parametrize("kind", ["params+macs", "macs"])
def test_it_is_the_largest_that_fits(target, kind):
    found, budget = small(target, kind)
    assert found["attention_heads"] == CONF["attention_heads"]

    def beyond(units):
        conf = found | {"linear_units": units}
        built = CASES["conformer"].make(dtype=torch.float32, **conf).stock
        cost = encoder_cost(built, FRAMES, FEATURES)
        return max(cost[c.kind] - c.limit for c in budget.constraints)

    assert beyond(found["linear_units"]) <= 0 < beyond(found["linear_units"] + 1)


@pytest.mark.parametrize(
    ("target", "kind", "sizes"),
    [(0.5, "params", (6, 52, 202)), (0.8, "params+macs", (4, 36, 149))],
)
def test_sizes_are_those_that_results_were_measured_with(target, kind, sizes):
    found, _ = small(target, kind)
    names = ("num_blocks", "output_size", "linear_units")
    assert tuple(found[name] for name in names) == sizes


def test_it_is_as_deep_as_it_is_wide():
    """In the proportions of the dense one, which has 8 channels a block."""
    found = [small(target)[0] for target in (0.2, 0.5, 0.8)]
    depths = [conf["num_blocks"] for conf in found]
    assert depths == sorted(depths, reverse=True) and 1 < depths[-1] < depths[0]
    for conf in found:
        assert 4 <= conf["output_size"] / conf["num_blocks"] <= 16


def test_it_suits_the_heads_of_its_decoder():
    assert small(0.5, blocks=2, decoder_heads=12)[0]["output_size"] % 12 == 0


def test_budget_below_every_conformer_is_refused():
    with pytest.raises(
        InputError, match="no dense Conformer is that small -> choose a"
    ):
        small(0.999, blocks=2)


@pytest.mark.parametrize(("taught", "epochs"), [(True, 8), (False, 38)])
def test_it_costs_as_much_as_what_is_pruned_at_the_rate_of_the_dense_one(
    taught, epochs
):
    teacher = {"max_epoch": 30, "optim_conf": {"lr": 0.002}, "keep_nbest_models": 5}
    recipe = {"max_epoch": 8, "optim_conf": {"lr": 0.1}, "batch_bins": 7}
    assert small_training(teacher, recipe, taught) == {
        "max_epoch": epochs,
        "optim_conf": {"lr": 0.002},
        "keep_nbest_models": 5,
        "batch_bins": 7,
    }
    assert small_training({}, {}, taught)["optim_conf"] == {"lr": 0.001}
