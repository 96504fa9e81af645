"""The other encoders: dense is ESPnet's, open is dense, gated is compact."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kinds import FEATURES, KINDS, NO_DROPOUT, assert_same
from torch.utils.flop_counter import FlopCounterMode


@pytest.mark.parametrize("name", KINDS)
@given(
    heads=st.integers(1, 4), half=st.integers(1, 5), units=st.integers(1, 40),
    blocks=st.integers(1, 3), train=st.booleans(), data=st.data(),
)  # fmt: skip
def test_dense_is_espnets_encoder(name, heads, half, units, blocks, train, data):
    kind = KINDS[name]
    conf = {"output_size": 2 * half * heads, "attention_heads": heads}
    conf |= {"linear_units": units, "num_blocks": blocks} | NO_DROPOUT
    conf |= data.draw(kind.drawn)
    stock = kind.stock(FEATURES, **conf).train(train)
    ours = kind.ours(FEATURES, **conf).train(train)
    assert ours.state_dict().keys() == stock.state_dict().keys()
    ours.load_state_dict(stock.state_dict())
    # In fp64: a norm of two channels makes much of the rounding of fp32.
    x = torch.randn(3, 61, FEATURES, dtype=torch.double)
    assert_same(stock.double(), ours.double(), x, torch.tensor([61, 40, 7]))


def test_dropout_is_espnets(pair):
    rates = {"dropout_rate": 0.3, "attention_dropout_rate": 0.2}
    stock, ours = pair(**rates)
    x, lengths = torch.randn(2, 50, FEATURES), torch.tensor([50, 31])
    outputs = []
    for encoder in (stock, ours):
        for block in encoder.encoders:  # ESPnet draws numbers between them, too
            block.register_forward_pre_hook(lambda *_: torch.manual_seed(3) and None)
        torch.manual_seed(3)
        outputs.append(encoder.train()(x, lengths)[0])
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)


def test_gradients_are_espnets(pair):
    stock, ours = pair()
    x, lengths = torch.randn(2, 50, FEATURES), torch.tensor([50, 31])
    grads = []
    for encoder in (stock.train(), ours.train()):
        encoder(x, lengths)[0].square().sum().backward()
        grads.append({n: p.grad for n, p in encoder.named_parameters()})
    for name, grad in grads[0].items():
        scale = grad.abs().max()
        assert (grads[1][name] - grad).abs().max() <= 1e-4 * scale + 1e-6, name


def test_open_gates_change_nothing(kind, gated, open_masks):
    encoder = gated()
    encoder.set_masks(open_masks(encoder))
    dense = kind.ours(FEATURES, **kind.sizes | NO_DROPOUT)
    weights = {k: v for k, v in encoder.state_dict().items() if "log_alpha" not in k}
    dense.load_state_dict(weights)
    x = torch.randn(2, 50, FEATURES), torch.tensor([50, 31])
    for mode in (True, False):
        assert_same(encoder.train(mode), dense.train(mode), *x)


@pytest.mark.parametrize("seed", range(6))
def test_gated_with_masks_is_compact(gated, compact_of, random_masks, seed):
    torch.manual_seed(seed)
    encoder = gated()
    encoder.set_masks(random_masks(encoder, seed))
    x = torch.randn(3, 61, FEATURES), torch.tensor([61, 40, 7])
    assert_same(encoder, compact_of(encoder), *x)


@pytest.mark.parametrize("name", KINDS)
@given(
    seed=st.integers(0, 10**6), fine=st.booleans(), unit_rate=st.floats(0.05, 0.95),
    module_rate=st.floats(0.2, 1.0), soft=st.booleans(), train=st.booleans(),
    data=st.data(),
)  # fmt: skip
def test_drawn_gates_with_masks_are_compact(
    name, shake, random_masks, seed, fine, unit_rate, module_rate, soft, train, data
):
    kind = KINDS[name]
    torch.manual_seed(seed)
    conf = kind.sizes | NO_DROPOUT | data.draw(kind.drawn)
    gates = {"fine_heads": fine}
    encoder = shake(kind.ours(FEATURES, **conf, gates=gates)).double().train(train)
    masks = random_masks(encoder, seed, unit_rate, module_rate, soft)
    encoder.set_masks({n: mask.double() for n, mask in masks.items()})
    compact = kind.ours(FEATURES, **conf, architecture=encoder.kept().to_dict())
    compact = compact.double().train(train)
    compact.load_state_dict(encoder.sliced_state(), strict=True)
    x = torch.randn(3, 40, FEATURES, dtype=torch.double), torch.tensor([40, 31, 9])
    assert_same(encoder, compact, *x, limit=1e-6)


GONE = {
    "transformer": [
        "self_attn.module", "self_attn.head", "self_attn.v_", "feed_forward.module", "",
    ],
    "e_branchformer": [
        "attn.module", "attn.head", "attn.v_", "attn.out", "cgmlp.module", "cgmlp.unit",
        "cgmlp.out", "feed_forward.module", "feed_forward_macaron", "",
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind, closed", [(KINDS[k], c) for k in GONE for c in GONE[k]])
def test_gated_is_compact_where_a_kind_of_unit_is_gone(
    gated, compact_of, open_masks, closed
):
    encoder = gated()
    masks = open_masks(encoder)
    for name, mask in masks.items():
        if name.startswith("encoders.1") and closed in name:
            mask.zero_()
    encoder.set_masks(masks)
    x = torch.randn(2, 40, FEATURES), torch.tensor([40, 9])
    compact = compact_of(encoder)
    assert_same(encoder, compact, *x)
    assert_same(encoder.train(), compact.train(), *x)
    # DDP stops at a parameter that is not used.
    compact(*x)[0].square().sum().backward()
    unused = [n for n, p in compact.named_parameters() if p.grad is None]
    assert not unused
    int8 = torch.ao.quantization.quantize_dynamic(compact.eval(), {torch.nn.Linear})
    assert int8(*x)[0].isfinite().all()
    assert encoder.kept().blocks[1] != encoder.kept().blocks[0]


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_cost_by_formula_is_cost_by_counting(
    kind, gated, compact_of, random_masks, compact, seed
):
    encoder = gated()
    if compact:
        encoder.set_masks(random_masks(encoder, seed))
        encoder = compact_of(encoder)
    else:
        encoder = kind.ours(FEATURES, **kind.sizes).eval()
    frames = 87 + seed
    cost = encoder.architecture.cost(encoder.fixed, frames)["encoder"]
    assert cost.params == sum(p.numel() for p in encoder.parameters())
    with FlopCounterMode(display=False) as counter:
        encoder(torch.randn(1, frames, FEATURES), torch.tensor([frames]))
    assert cost.macs == counter.get_total_flops() / 2


def test_expected_cost_is_the_formula_of_what_the_masks_leave(gated, open_masks):
    encoder = gated()
    masks = open_masks(encoder)
    for name, mask in masks.items():  # whole heads: no padding of unequal ones
        if "qk_gate" not in name and "v_gate" not in name and len(mask) > 1:
            mask[: len(mask) // 3] = 0
    masks["encoders.1.feed_forward.module_gate"].zero_()
    encoder.set_masks(masks)
    kept = encoder.kept().cost(encoder.fixed, 87)["encoder"]
    found = encoder.gated_cost(87, lambda gate: (gate.mask != 0).float())
    assert (float(found.params), float(found.macs)) == (kept.params, kept.macs)


@pytest.mark.parametrize("mode", ["straight_through", "hard_concrete"])
def test_everything_gets_a_gradient_in_the_gated_life(gated, mode):
    encoder = gated(gates={"mode": mode}).train()
    out, *_ = encoder(torch.randn(2, 50, FEATURES), torch.tensor([50, 31]))
    cost = encoder.gated_cost(87)
    (out.square().sum() + cost.params + cost.macs).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
