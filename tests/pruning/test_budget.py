"""Limits: of all or of groups, of the encoder or the model, in several kinds."""

import pytest
import torch

from espnet_prune.config.sections import MODEL_DIM
from espnet_prune.pruning.budget import Constraint
from tests.fixtures.gated import CASES

GROUPS = ("subsampling", "attention", "ffn", "convolution")


@pytest.fixture(scope="module")
def gated():
    sizes = {"output_size": 64, "linear_units": 256}
    return CASES["conformer"].make(dtype=torch.float32, **sizes)


@pytest.fixture(scope="module")
def narrow():
    sizes = {"output_size": 64, "linear_units": 256}
    return CASES["conformer_dim"].make(dtype=torch.float32, **sizes)


def dense(gated, kind="params"):
    return gated.counted(gated.stock, 200)[kind == "macs"]


@pytest.mark.parametrize("kind", ["params", "macs", "params+macs", "latency"])
def test_each_kind_is_a_constraint_of_its_own(gated, kind):
    budget = gated.budget(kind=kind, target=0.6)
    assert [c.key for c in budget.constraints] == [
        f"encoder/{k}" for k in kind.split("+")
    ]
    for constraint in budget.constraints:
        assert constraint.target == pytest.approx(0.6)
        if constraint.kind != "latency":
            assert constraint.dense == dense(gated, constraint.kind)
        assert Constraint.from_dict(constraint.to_dict()) == constraint
    assert budget.shares == [1 / len(budget.constraints)] * len(budget.constraints)
    assert budget.removed(gated.open()).tolist() == pytest.approx(
        [0] * len(budget.shares)
    )


def test_groups_have_their_own_targets_and_the_others_what_is_left(gated):
    budget = gated.budget(target=0.5, groups={"ffn": 0.6, "attention": 0.0})
    ffn, attention, others = budget.constraints
    assert (ffn.name, attention.name, others.name) == ("ffn", "attention", "others")
    assert ffn.target == pytest.approx(0.6) and attention.target == 0
    assert sum(c.dense for c in budget.constraints) == dense(gated)
    assert sum(c.limit for c in budget.constraints) == pytest.approx(dense(gated) / 2)
    assert budget.share("ffn") == pytest.approx(0.4) and budget.share("attention") == 1
    other = budget.at([0.1, 0.2, 0.3], dim_target=0.4)
    assert [c.target for c in other.constraints] == pytest.approx([0.1, 0.2, 0.3])
    assert other.share(MODEL_DIM) == pytest.approx(0.6)
    every = gated.budget(target=0.39, groups=dict.fromkeys(GROUPS, 0.4))
    assert {c.name for c in every.constraints} == set(GROUPS)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"groups": {"fnn": 0.5}}, r"groups \['fnn'\] are not among \['attention', "),
        (
            {"groups": {"ffn": 0.01, "attention": 0.01}},
            r"\['convolution', 'subsampling'",
        ),
        ({"groups": dict.fromkeys(GROUPS[1:], 0.99)}, "must go to remove 60.0% of the"),
        (
            {"kind": "macs", "groups": dict.fromkeys(GROUPS, 0.4)},
            "all groups remove 40.0% of the macs .*, less than the target of 60.0%",
        ),
    ],
)
def test_impossible_targets_of_groups_are_refused(gated, options, told):
    with pytest.raises(ValueError, match=f"sparsity: .*{told}"):
        gated.budget(target=0.6, **options)


def test_what_cannot_go_is_no_share(gated):
    """What is beyond the encoder counts in a model, and leaves less of the encoder."""
    whole, beyond = dense(gated), {"params": float(dense(gated))}
    budget = gated.budget(target=0.4, denominator="model", beyond=beyond)
    (constraint,) = budget.constraints
    assert constraint.name == "model" and constraint.dense == 2 * whole
    left = 1.2 * whole - constraint.fixed  # 60 % of both, without the other's
    assert budget.share("ffn") == pytest.approx(left / (2 * whole - constraint.fixed))
    assert budget.share("ffn") < 0.25
    half = torch.ones(len(gated.layout))
    half[gated.layout.span("encoders.0.feed_forward")] = 0
    gone = 2 * 64 * 256 + 256 + 64 + 2 * 64  # both layers, and the norm
    assert float(budget.removed(half)) == pytest.approx(gone / (2 * whole))


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"target": 0.75}, 0.5),
        ({"target": 0.5, "groups": {"ffn": 0.19}}, 0.9),
        ({"target": 0.5, "groups": {"subsampling": 0.0}}, 1.0),
        ({"target": 0.9, "model_dim": 0.6}, 0.4),
    ],
)
def test_model_dimension_leaves_each_group_its_budget(narrow, options, left):
    budget = narrow.budget(**options)
    assert 1 - budget.dim_target == pytest.approx(left, abs=1e-3)
    assert budget.share(MODEL_DIM) == 1 - budget.dim_target


def test_model_dimension_is_refused_to_remove_more_than_the_targets(narrow):
    with pytest.raises(ValueError, match="model_dim 0.6 removes more than the targets"):
        narrow.budget(target=0.5, model_dim=0.6)
