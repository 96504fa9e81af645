"""Equality 2: the gated encoder with final masks is the compact encoder."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

UNITS = {
    "ffn1": "encoders.1.feed_forward_macaron.unit_gate",
    "heads": "encoders.1.self_attn.head_gate",
    "qk": "encoders.1.self_attn.qk_gate",
    "v": "encoders.1.self_attn.v_gate",
    "conv": "encoders.1.conv_module.unit_gate",
    "ffn2": "encoders.1.feed_forward.unit_gate",
    "sub1": "embed.gate1",
    "sub2": "embed.gate2",
}
MODULES = ("feed_forward_macaron", "self_attn", "conv_module", "feed_forward")


def assert_same(gated, compact, x, lengths, tolerance=1e-5):
    (expected, olens, _) = gated.eval()(x, lengths)
    (actual, own, _) = compact.eval()(x, lengths)
    assert torch.equal(olens, own)
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(actual, expected, atol=tolerance * scale, rtol=0)


@pytest.fixture
def gated(make_encoder):
    return make_encoder(gates={})


@pytest.mark.parametrize("value", [0.0, 0.37])
@pytest.mark.parametrize("unit", UNITS)
def test_each_unit_kind_is_sliced_exactly(
    gated, open_masks, compact_of, batch, unit, value
):
    masks = open_masks(gated)
    masks[UNITS[unit]][1::2] = value
    gated.set_masks(masks)
    compact = compact_of(gated)
    smaller = sum(p.numel() for p in compact.parameters()) < sum(
        p.numel() for n, p in gated.named_parameters() if "log_alpha" not in n
    )
    assert smaller == (value == 0)
    assert_same(gated, compact, *batch())


@pytest.mark.parametrize("value", [0.0, 0.37])
@pytest.mark.parametrize("module", MODULES)
def test_each_submodule_goes_or_is_folded_with_its_bias(
    gated, open_masks, compact_of, batch, module, value
):
    masks = open_masks(gated)
    masks[f"encoders.0.{module}.module_gate"][:] = value
    gated.set_masks(masks)
    compact = compact_of(gated)
    assert (getattr(compact.encoders[0], module) is None) == (value == 0)
    assert_same(gated, compact, *batch())


def test_all_heads_of_a_layer_can_go(gated, open_masks, compact_of, batch):
    masks = open_masks(gated)
    masks["encoders.0.self_attn.head_gate"][:] = 0
    masks["encoders.0.self_attn.module_gate"][:] = 0
    gated.set_masks(masks)
    assert gated.kept().blocks[0].heads == 0
    assert_same(gated, compact_of(gated), *batch())


@pytest.fixture
def attention_masks(gated, open_masks):
    """Masks that remove nothing, and the dimensions of one layer by head, to edit."""
    masks = open_masks(gated)
    name = "encoders.0.self_attn"
    dims = {kind: masks[f"{name}.{kind}_gate"].view(4, 4) for kind in ("qk", "v")}
    return masks, dims


@pytest.mark.parametrize("soft", [1.0, 0.4])
def test_heads_of_unequal_widths_are_padded_exactly(
    gated, attention_masks, compact_of, batch, soft
):
    masks, dims = attention_masks
    dims["qk"][:] = soft * torch.tensor(
        [[1, 0, 0, 0], [0, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1]]
    )
    dims["v"][:] = soft * torch.tensor(
        [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1]]
    )
    gated.set_masks(masks)
    block = gated.kept().blocks[0]
    assert (block.heads, block.qk_dim, block.v_dim) == (4, 3, 2)
    assert_same(gated, compact_of(gated), *batch())


def test_head_without_values_is_gone(gated, attention_masks, compact_of, batch):
    masks, dims = attention_masks
    dims["v"][2] = 0
    dims["qk"][[0, 1, 3], 1:] = 0  # the head that is gone is the widest
    gated.set_masks(masks)
    block = gated.kept().blocks[0]
    assert (block.heads, block.qk_dim) == (3, 1)
    assert_same(gated, compact_of(gated), *batch())


@pytest.mark.parametrize("heads", [[2], [0, 1, 2, 3]])
def test_head_without_queries_is_a_mean(
    gated, attention_masks, compact_of, batch, heads
):
    masks, dims = attention_masks
    dims["qk"][heads] = 0
    gated.set_masks(masks)
    block = gated.kept().blocks[0]
    assert (block.heads, block.qk_dim) == (4, 4 if len(heads) == 1 else 1)
    assert_same(gated, compact_of(gated), *batch())


@pytest.mark.parametrize("gate", ["head_gate", "v_gate", "module_gate"])
def test_attention_without_any_head_is_gone_with_its_bias(
    gated, attention_masks, compact_of, batch, gate
):
    masks, _ = attention_masks
    masks[f"encoders.0.self_attn.{gate}"][:] = 0
    gated.set_masks(masks)
    compact = compact_of(gated)
    assert compact.encoders[0].self_attn is None
    assert_same(gated, compact, *batch())


def test_every_submodule_of_every_block_can_go(gated, open_masks, compact_of, batch):
    masks = open_masks(gated)
    for name, mask in masks.items():
        if name.startswith("encoders"):
            mask[:] = 0
    gated.set_masks(masks)
    compact = compact_of(gated)
    names = {n.split(".")[2] for n, _ in compact.encoders.named_parameters("encoders")}
    assert names == {"norm_final"}
    assert_same(gated, compact, *batch())


@given(
    data=st.data(),
    seed=st.integers(0, 2**31),
    unit_rate=st.floats(0, 1),
    module_rate=st.floats(0, 1),
    soft=st.booleans(),
    lengths=st.lists(st.integers(7, 60), min_size=1, max_size=4),
)
@settings(deadline=None, max_examples=40)
def test_any_masks_are_sliced_exactly(
    make_encoder,
    random_masks,
    compact_of,
    batch,
    drawn_sizes,
    data,
    seed,
    unit_rate,
    module_rate,
    soft,
    lengths,
):
    torch.manual_seed(seed)
    gated = make_encoder(gates={}, **data.draw(drawn_sizes))
    gated.set_masks(random_masks(gated, seed, unit_rate, module_rate, soft))
    assert_same(gated, compact_of(gated), *batch(lengths))


def test_masked_channels_do_not_pollute_the_batch_statistics(
    gated, random_masks, compact_of, batch
):
    # Both train a step: the compact model's statistics are the kept ones of the gated.
    gated.set_masks(random_masks(gated, seed=3, module_rate=1.0))
    compact = compact_of(gated)
    x, lengths = batch()
    gated.train()(x, lengths), compact.train()(x, lengths)
    assert_same(gated, compact_of(gated), x, lengths)
    kept = gated.encoders[0].conv_module.unit_gate.mask != 0
    torch.testing.assert_close(
        gated.encoders[0].conv_module.norm.running_var[kept],
        compact.encoders[0].conv_module.norm.running_var,
    )


def test_softmax_scale_and_half_steps_stay_those_of_the_dense_model(
    gated, open_masks, compact_of
):
    masks = open_masks(gated)
    masks["encoders.0.self_attn.head_gate"][1:] = 0
    masks["encoders.0.feed_forward_macaron.module_gate"][:] = 0
    gated.set_masks(masks)
    compact = compact_of(gated)
    dense_scale = (gated.fixed.size // 4) ** -0.5
    assert compact.encoders[0].self_attn.scale == dense_scale
    assert compact.encoders[0].norm_final is not None


def test_slicing_needs_no_gate_and_leaves_none(gated, random_masks, compact_of):
    gated.set_masks(random_masks(gated))
    compact = compact_of(gated)
    assert not compact.gated
    assert not [name for name in compact.state_dict() if "log_alpha" in name]


def test_compact_encoder_shares_no_memory_with_the_gated(gated, random_masks):
    gated.set_masks(random_masks(gated))
    own = {p.untyped_storage().data_ptr() for p in gated.state_dict().values()}
    state = gated.sliced_state()
    assert not own & {p.untyped_storage().data_ptr() for p in state.values()}
    assert all(p.is_contiguous() for p in state.values())


def test_masks_can_be_lifted_again(gated, random_masks, open_masks, batch):
    x, lengths = batch()
    before = gated.eval()(x, lengths)[0]
    gated.set_masks(random_masks(gated))
    assert not torch.allclose(gated(x, lengths)[0], before)
    gated.set_masks(None)
    assert torch.equal(gated(x, lengths)[0], before)


def test_gates_that_are_all_one_give_the_dense_model(
    gated, open_masks, make_encoder, batch
):
    gated.set_masks(open_masks(gated))
    dense = make_encoder()
    state = {k: v for k, v in gated.state_dict().items() if "log_alpha" not in k}
    dense.load_state_dict(state, strict=True)
    assert_same(gated, dense, *batch())
