"""What holds for one layer, whatever stands around it."""

import pytest
import torch
from espnet.nets.pytorch_backend.transformer.attention import (
    RelPositionMultiHeadedAttention,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_prune.families.espnet.layers.attention import (
    RelPositionAttention,
    rel_shift,
)
from espnet_prune.families.espnet.layers.convolution import Convolution
from espnet_prune.families.espnet.layers.feed_forward import FeedForward
from espnet_prune.families.espnet.layers.subsampling import halved
from espnet_prune.pruning.gates import GateOptions

SIZE = 8
GATES = GateOptions()
MAKERS = {
    "feed_forward": lambda: FeedForward(SIZE, 6, 0.0, torch.nn.SiLU(), GATES),
    "convolution": lambda: Convolution(SIZE, 6, 3, torch.nn.SiLU(), GATES),
    "attention": lambda: attention(GATES),
    "coarse_attention": lambda: attention(GateOptions(fine_heads=False)),
}


def attention(gates):
    sizes = {"heads": 3, "qk_dim": 2, "v_dim": 2, "scale_dim": 2}
    return RelPositionAttention(SIZE, **sizes, dropout_rate=0.0, gates=gates)


@pytest.fixture(params=MAKERS)
def layer(request, shake):
    return shake(MAKERS[request.param]())


def units_of(layer):
    """The layer's units; all other gates inside its submodule are opened."""
    for name, gate in layer.named_children():
        if name in ("qk_gate", "v_gate") and gate is not None:
            gate.mask = torch.ones(len(gate))
    return getattr(layer, "unit_gate", None) or layer.head_gate


def run(layer, x):
    if isinstance(layer, RelPositionAttention):
        return layer(x, torch.zeros(1, 2 * x.shape[1] - 1, SIZE), None)
    return layer(x)


@given(st.integers(1, 12))
@settings(deadline=None, max_examples=12)
def test_rel_shift_turns_offsets_into_positions(time):
    # Offset index o stands for the relative position time - 1 - o.
    offsets = torch.arange(2 * time - 1).expand(2, 3, time, -1)
    query, key = torch.arange(time)[:, None], torch.arange(time)
    assert torch.equal(
        rel_shift(offsets.float())[0, 0], (time - 1 - query + key).float()
    )


def test_rel_shift_is_espnets():
    x = torch.randn(2, 4, 5, 9)
    stock = RelPositionMultiHeadedAttention(4, 16, 0.0)
    assert torch.equal(rel_shift(x), stock.rel_shift(x))


def test_utterance_without_a_real_frame_stays_finite():
    layer = MAKERS["attention"]().eval()
    x, positions = torch.randn(2, 5, SIZE), torch.randn(1, 9, SIZE)
    mask = torch.ones(2, 1, 5, dtype=torch.bool)
    mask[1] = False
    out = layer(x, positions, mask)
    torch.testing.assert_close(out[1], layer._gated_output()[1].expand(5, -1))
    out.sum().backward()
    assert layer.linear_q.weight.grad.isfinite().all()


def test_padding_keys_do_not_matter():
    layer = MAKERS["attention"]().eval()
    x, positions = torch.randn(1, 5, SIZE), torch.randn(1, 9, SIZE)
    mask = torch.tensor([[[True, True, True, False, False]]])
    changed = x.clone()
    changed[:, 3:] = 9.0
    first, second = (layer(v, positions, mask)[:, :3] for v in (x, changed))
    torch.testing.assert_close(first, second)


def test_closed_module_gate_silences_the_bias_too(layer):
    units_of(layer).mask = torch.ones(len(units_of(layer)))
    layer.module_gate.mask = torch.zeros(1)
    assert not run(layer, torch.randn(2, 5, SIZE)).any()
    assert layer.kept() == 0


def test_closed_unit_is_silent_in_training_mode(layer):
    # The BatchNorm shift must not revive a closed channel.
    units_of(layer).mask = torch.zeros(len(units_of(layer)))
    layer.module_gate.mask = torch.ones(1)
    out = run(layer.train(), torch.randn(2, 5, SIZE))
    torch.testing.assert_close(out, out[:1, :1].expand_as(out))  # its bias is left


def test_soft_gates_count_as_kept(layer):
    units = units_of(layer)
    units.mask = torch.zeros(len(units))
    units.mask[1] = 0.01
    layer.module_gate.mask = torch.tensor([0.02])
    assert layer.kept() == 1
    assert all(len(v) for v in layer.sliced_state().values() if v.dim())


def test_layer_without_units_counts_as_gone(layer):
    units_of(layer).mask = torch.zeros(len(units_of(layer)))
    layer.module_gate.mask = torch.ones(1)
    assert layer.kept() == 0


def test_glu_halves_are_sliced_as_pairs():
    layer = MAKERS["convolution"]()
    layer.unit_gate.mask = torch.tensor([0.0, 1, 0, 0, 1, 0])
    layer.module_gate.mask = torch.ones(1)
    weight = layer.pointwise_conv1.weight
    sliced = layer.sliced_state()["pointwise_conv1.weight"]
    assert torch.equal(sliced, weight[[1, 4, 7, 10]])


@given(st.integers(7, 10**6))
@settings(deadline=None, max_examples=50)
def test_subsampled_length_is_that_of_the_convolutions(length):
    assert halved(length) == (length - 3) // 2 + 1
