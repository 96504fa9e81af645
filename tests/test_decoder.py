"""The three equalities of the prunable decoder, and its place in the search."""

import pytest
import torch
from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from espnet_prune.families.espnet.decoder import (
    DecoderSizes,
    PrunableTransformerDecoder,
    decoder_counts,
    to_dicts,
)
from espnet_prune.families.espnet.layers.cost import cost
from espnet_prune.families.espnet.layers.structures import gated_counts
from espnet_prune.pruning.budget import is_kept
from espnet_prune.pruning.gates import gates_of

VOCABULARY, SIZE = 9, 16
CONF = {"attention_heads": 4, "linear_units": 24, "num_blocks": 2}
DROPOUT = ("dropout", "positional_dropout", "self_attention_dropout")
CONF |= {f"{name}_rate": 0.0 for name in (*DROPOUT, "src_attention_dropout")}


@pytest.fixture
def make(shake):
    def build(kind=PrunableTransformerDecoder, **conf):
        return shake(kind(VOCABULARY, SIZE, **CONF | conf)).eval()

    return build


@pytest.fixture
def batch():
    """Memory (batch, time, channel), its lengths, tokens (batch, token), theirs."""
    draw = torch.Generator().manual_seed(3)
    memory = torch.randn(3, 11, SIZE, generator=draw)
    tokens = torch.randint(1, VOCABULARY, (3, 6), generator=draw)
    return memory, torch.tensor([11, 7, 2]), tokens, torch.tensor([6, 4, 1])


def compact_of(gated):
    compact = PrunableTransformerDecoder(
        VOCABULARY, SIZE, **CONF | {"architecture": to_dicts(gated.kept())}
    )
    compact.load_state_dict(gated.sliced_state(), strict=True)
    return compact.eval()


@pytest.mark.parametrize("training", [False, True])
def test_dense_is_the_stock_decoder(make, batch, training):
    stock = make(TransformerDecoder).train(training)
    own = make().train(training)
    own.load_state_dict(stock.state_dict(), strict=True)
    expected, lengths = stock(*batch)
    actual, own_lengths = own(*batch)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(lengths, own_lengths)


def test_search_steps_are_those_of_the_stock_decoder(make, batch):
    stock, own = make(TransformerDecoder), make()
    own.load_state_dict(stock.state_dict())
    memory, tokens = batch[0][:1].expand(3, -1, -1), batch[2]
    states = [[None] * 3, [None] * 3]
    for length in range(1, 4):
        scores = []
        for i, decoder in enumerate((stock, own)):
            with torch.no_grad():
                score, states[i] = decoder.batch_score(
                    tokens[:, :length], states[i], memory
                )
            scores.append(score)
        torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-5)


def random_masks(gated, seed, rate, soft):
    draw = torch.Generator().manual_seed(seed)
    masks = {}
    for name, gate in gates_of(gated).items():
        kept = torch.rand(len(gate), generator=draw) < rate
        value = 0.1 + 0.9 * torch.rand(len(gate), generator=draw) if soft else 1.0
        masks[name] = kept * value
    return masks


@given(seed=st.integers(0, 10**6), rate=st.floats(0, 1), soft=st.booleans())
@settings(deadline=None, max_examples=40)
def test_any_masks_are_sliced_exactly(seed, rate, soft):
    torch.manual_seed(seed)
    gated = PrunableTransformerDecoder(VOCABULARY, SIZE, **CONF, gates={}).eval()
    gated.set_masks(random_masks(gated, seed, rate, soft))
    compact = compact_of(gated)
    memory, tokens = torch.randn(2, 7, SIZE), torch.randint(1, VOCABULARY, (2, 5))
    inputs = memory, torch.tensor([7, 4]), tokens, torch.tensor([5, 2])
    expected, actual = gated(*inputs)[0], compact(*inputs)[0]
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(actual, expected, atol=1e-5 * scale, rtol=0)


@pytest.mark.parametrize("gone", ["self_attn", "src_attn", "feed_forward", "all"])
def test_search_works_without_a_submodule(make, batch, gone):
    gated = make(gates={})
    masks = {n: torch.ones(len(g)) for n, g in gates_of(gated).items()}
    for name, mask in masks.items():
        if name.endswith(f"{gone}.module_gate") or gone == "all":
            mask[:] = 0
    gated.set_masks(masks)
    compact = compact_of(gated)
    if gone != "all":
        assert getattr(compact.decoders[0], gone) is None
    memory, _, tokens, _ = batch
    states = {id(d): [None] * 3 for d in (gated, compact)}
    for length in (1, 2, 3):
        scores = []
        for decoder in (gated, compact):
            score, states[id(decoder)] = decoder.batch_score(
                tokens[:, :length], states[id(decoder)], memory
            )
            scores.append(score)
        torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-5)


SIZES = st.builds(
    DecoderSizes,
    *(
        (st.integers(0, 3), st.integers(1, 5), st.integers(1, 5)) * 2
        + (st.integers(0, 9),)
    ),
)


@given(
    sizes=st.lists(SIZES, min_size=1, max_size=3),
    tokens=st.integers(1, 9),
    frames=st.integers(1, 20),
)
@settings(deadline=None, max_examples=25)
def test_cost_by_formula_is_what_is_counted(sizes, tokens, frames):
    decoder = PrunableTransformerDecoder(
        VOCABULARY, SIZE, **CONF | {"architecture": to_dicts(sizes)}
    ).eval()
    formula = cost(decoder_counts(sizes), decoder.prices(tokens, frames))
    assert formula.params == sum(p.numel() for p in decoder.decoders.parameters())
    ids = torch.ones(1, tokens, dtype=torch.long)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        lengths = torch.tensor([frames]), torch.tensor([tokens])
        decoder(torch.randn(1, frames, SIZE), lengths[0], ids, lengths[1])
    output = tokens * SIZE * VOCABULARY
    assert formula.macs + output == flops.get_total_flops() // 2


def test_cost_under_gates_is_the_cost_of_what_is_kept(make):
    gated = make(gates={})
    with torch.no_grad():
        for name, gate in gates_of(gated).items():
            if name.endswith(("qk_gate", "v_gate")):  # two dimensions of each head
                gate.log_alpha.view(4, 4)[:, 2:] = -9.0
            elif name.endswith("unit_gate"):
                gate.log_alpha[5:] = -9.0
    gated.set_masks({n: is_kept(g) for n, g in gates_of(gated).items()})
    assert gated.kept()[0] == DecoderSizes(4, 2, 2, 4, 2, 2, 5)
    prices = gated.prices(5, 7)
    expected = cost(decoder_counts(gated.kept()), prices)
    actual = cost(gated_counts(gated, is_kept), prices)
    assert actual.params.item() == expected.params
    assert actual.macs.item() == expected.macs


def test_sizes_survive_yaml_and_wrong_ones_are_named(make):
    sizes = to_dicts(make().architecture)
    assert [DecoderSizes.from_dict(d) for d in sizes] == make().architecture
    for change in ({"ffn": -1}, {"ffn": "4"}, {"more": 1}, {"self_qk_dim": 0}):
        with pytest.raises(ValueError, match="decoder_conf.architecture"):
            make(architecture=[sizes[0] | change])


@pytest.mark.parametrize(
    "option", [{"concat_after": True}, {"input_layer": "linear"}, {"heads": 3}]
)
def test_unsupported_option_is_named(make, option):
    with pytest.raises(ValueError, match=next(iter(option))):
        make(**option)


def test_partial_checkpoint_is_refused_even_without_strict(make):
    state = make().state_dict()
    del state["decoders.0.self_attn.linear_q.weight"]
    with pytest.raises(RuntimeError, match="misses 1 key"):
        make().load_state_dict(state, strict=False)
