"""Equality 3: cost by formula is cost by counting. And the YAML round trip."""

import copy

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from espnet_prune.families.espnet.architecture import Architecture
from espnet_prune.pruning.budget import is_kept
from espnet_prune.pruning.gates import Gate, gates_of
from espnet_prune.pruning.sparsity import SparsityOptions, make_budget

UNITS = st.integers(0, 9)
BLOCKS = st.fixed_dictionaries(
    {"ffn1": UNITS, "heads": st.integers(0, 3), "conv": UNITS, "ffn2": UNITS}
    | {"qk_dim": st.integers(1, 5), "v_dim": st.integers(1, 5)}
)
ARCHITECTURES = st.fixed_dictionaries(
    {
        "subsampling": st.lists(st.integers(1, 9), min_size=2, max_size=2),
        "blocks": st.lists(BLOCKS, max_size=3),
    }
)


def counted(encoder, frames: int, features: int) -> tuple[int, int]:
    """Parameters and MACs of one utterance, by counting."""
    with FlopCounterMode(display=False) as flops:
        encoder.eval()(torch.randn(1, frames, features), torch.tensor([frames]))
    return sum(p.numel() for p in encoder.parameters()), flops.get_total_flops() // 2


@given(
    frames=st.integers(7, 80),
    features=st.integers(7, 40),
    size=st.sampled_from([8, 12, 20]),
    heads=st.sampled_from([1, 2, 4]),
    units=st.integers(1, 30),
    kernel=st.sampled_from([1, 3, 15]),
)
@settings(deadline=None, max_examples=15)
def test_dense_cost_is_what_is_counted(
    make_encoder, frames, features, size, heads, units, kernel
):
    encoder = make_encoder(
        features,
        output_size=size,
        attention_heads=heads,
        linear_units=units,
        cnn_module_kernel=kernel,
    )
    cost = encoder.architecture.cost(encoder.fixed, frames)["encoder"]
    assert tuple(cost) == counted(encoder, frames, features)


@given(architecture=ARCHITECTURES, frames=st.integers(7, 80))
@settings(deadline=None, max_examples=30)
def test_compact_cost_is_what_is_counted(make_encoder, architecture, frames):
    encoder = make_encoder(architecture=architecture)
    cost = encoder.architecture.cost(encoder.fixed, frames)
    assert tuple(cost["encoder"]) == counted(encoder, frames, 20)
    front = sum(p.numel() for p in encoder.embed.parameters())
    assert cost["subsampling"].params == front
    assert cost["subsampling"] + cost["blocks"] == cost["encoder"]


@given(
    seed=st.integers(0, 999),
    frames=st.integers(7, 200),
    widths=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
@settings(deadline=None, max_examples=20)
def test_cost_under_saturated_gates_is_the_cost_of_what_is_kept(
    make_encoder, random_masks, seed, frames, widths
):
    encoder = make_encoder(gates={})
    masks = random_masks(encoder, seed, soft=False)
    for name, mask in masks.items():  # heads of equal widths, as a projection leaves
        for kind, width in zip(("qk_gate", "v_gate"), widths, strict=True):
            if name.endswith(kind):
                dims = mask.view(4, 4)
                dims[:] = torch.eye(4).flip(1)[:width].sum(0)
    encoder.set_masks(masks)
    masks = {name: gate.mask for name, gate in gates_of(encoder).items()}
    with torch.no_grad():
        for name, gate in gates_of(encoder).items():
            gate.log_alpha.copy_(masks[name] * 60 - 30)
    expected = encoder.kept().cost(encoder.fixed, frames)["encoder"]
    assert encoder.gated_cost(frames).params.item() == pytest.approx(expected.params)
    assert encoder.gated_cost(frames).macs.item() == pytest.approx(expected.macs)
    dense = encoder.architecture.cost(encoder.fixed, frames)["encoder"]
    for kind in ("params", "macs"):
        removed = 1 - getattr(expected, kind) / getattr(dense, kind)
        budget = make_budget(SparsityOptions(kind), encoder, frames)
        for openness in (is_kept, Gate.openness):
            (fraction,) = budget.removed(encoder, openness)
            assert fraction.item() == pytest.approx(removed, abs=1e-5)


@pytest.mark.parametrize("kind", ["params", "macs"])
def test_expected_cost_has_a_gradient_for_every_gate(make_encoder, kind):
    encoder = make_encoder(gates={})
    getattr(encoder.gated_cost(100), kind).backward()
    for name, gate in gates_of(encoder).items():
        assert (gate.log_alpha.grad > 0).all(), name


@given(ARCHITECTURES)
@settings(deadline=None, max_examples=20)
def test_architecture_survives_yaml(data):
    architecture = Architecture.from_dict(data)
    text = yaml.safe_dump(architecture.to_dict())
    assert Architecture.from_dict(yaml.safe_load(text)) == architecture


def test_compact_encoder_is_rebuilt_from_its_yaml(
    make_encoder, random_masks, compact_of
):
    gated = make_encoder(gates={})
    gated.set_masks(random_masks(gated))
    text = yaml.safe_dump(gated.kept().to_dict())
    rebuilt = make_encoder(architecture=yaml.safe_load(text))
    rebuilt.load_state_dict(compact_of(gated).state_dict(), strict=True)


DENSE = Architecture.dense(8, 2, 6, 1).to_dict()


@pytest.mark.parametrize(
    "path_and_value",
    [
        (("subsampling", 0), 0),
        (("subsampling", 1), -1),
        (("subsampling", 1), 2.0),
        (("blocks", 0, "ffn1"), -1),
        (("blocks", 0, "heads"), "2"),
        (("blocks", 0, "ffn3"), 4),
        (("blocks",), None),
    ],
    ids=str,
)
def test_wrong_architecture_is_refused(path_and_value):
    (*path, last), value = path_and_value
    data = copy.deepcopy(DENSE)
    place = data
    for key in path:
        place = place[key]
    place[last] = value
    with pytest.raises(ValueError, match="encoder_conf.architecture"):
        Architecture.from_dict(data)
