"""The forward without gradients: the same outputs, of dense and of compact encoders."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_prune.families.espnet.compact import Absent, Skip
from espnet_prune.serving.fast import attention, subsampling
from espnet_prune.serving.fast import encoder as fast_encoders
from espnet_prune.serving.fast.attention import BLOCK_BYTES, FastAttention
from espnet_prune.serving.fast.encoder import SHORTEST_TABLE, FastEncoder
from espnet_prune.serving.inference import InferenceEncoder
from tests.fixtures.encoders import FEATURES
from tests.fixtures.gated import CASES, drawn_values

AMPLIFIED = 1e-3  # a norm of few channels makes much of rounding


def assert_close(actual, expected, limit=1e-5):
    torch.testing.assert_close(
        actual, expected, atol=limit * float(expected.abs().max()), rtol=0
    )


@torch.no_grad()
def check(fast, encoder, x, lengths, limit=1e-5, **options):
    """Outputs, lengths and outputs of the blocks are the encoder's own."""
    options["return_all_hs"] = True
    (out, blocks), olens, _ = fast(x, lengths, **options)
    (expected, own), right, _ = encoder(x, lengths, **options)
    assert torch.equal(olens, right) and len(blocks) == len(own)
    for a, b in zip([out, *blocks], [expected, *own], strict=True):
        assert_close(a, b, limit)


def fast_of(encoder):
    return FastEncoder(encoder.eval(), FEATURES)


@given(
    data=st.data(),
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=3),
    features=st.integers(7, 30),
    queries=st.integers(1, 40),
    shortest=st.integers(1, 40),
    piece=st.sampled_from([1, 10_000, subsampling.PIECE]),
    seed=st.integers(0, 99),
)
@settings(max_examples=30)
def test_it_is_espnets_encoder_at_any_size(
    make_stock, batch, drawn_sizes, data, lengths, features, queries, shortest, piece,
    seed,
):  # fmt: skip
    """In blocks of queries and in pieces, with tables of any size, kept or not."""
    sizes = data.draw(drawn_sizes)
    few = sizes["output_size"] < 8
    torch.manual_seed(seed)
    stock = make_stock(features, **sizes).eval()
    x, lengths = batch([*lengths, 7][: len(lengths) + (max(lengths) < 7)], features)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "BLOCK_BYTES", 4 * queries)
        patch.setattr(subsampling, "PIECE", piece)
        patch.setattr(fast_encoders, "SHORTEST_TABLE", shortest)
        patch.setattr(fast_encoders, "LONGEST_TABLE", 32)
        fast = FastEncoder(stock, features)
        for _ in ("tables made", "tables kept"):
            check(fast, stock, x, lengths, AMPLIFIED if few else 1e-5)


@given(
    seed=st.integers(0, 10_000),
    units=st.floats(0.1, 1.0),
    modules=st.floats(0.1, 1.0),
    case=st.sampled_from(["conformer", "conformer_dim"]),
    dtype=st.sampled_from([torch.float, torch.double]),
    lengths=st.sampled_from([(61,), (61, 40, 7)]),
)
@settings(max_examples=40)
def test_it_is_the_compact_encoder_whatever_is_left(
    seed, units, modules, case, dtype, lengths
):
    """Absent submodules and blocks, unequal widths, fewer channels between layers."""
    gated = CASES[case].make(seed, dtype, num_blocks=3)
    own = drawn_values(gated.layout, seed, units, modules).to(dtype)
    compact = gated.compact(own).eval()
    limit = 1e-5 if case == "conformer" else AMPLIFIED
    limit = 1e-10 if dtype is torch.double else limit
    check(fast_of(compact), compact, *gated.inputs(*lengths), limit)


def test_it_is_the_compact_encoder_without_a_block_and_a_submodule():
    gated = CASES["conformer_dim"].make(num_blocks=3)
    own, layout = gated.open(), gated.layout
    own[layout.span("model_dim")][[0, 3, 15]] = 0
    for name in layout.index:
        if name.startswith(("encoders.1", "encoders.0.self_attn")):
            own[layout.span(name)] = 0
    compact = gated.compact(layout.settled(own)).eval()
    assert isinstance(compact.encoders[1], Skip)
    assert isinstance(compact.encoders[0].self_attn, Absent)
    check(fast_of(compact), compact, *gated.inputs(61, 40, 7), 1e-10)


@pytest.mark.parametrize("rest", [(), (0.5, 7)])
def test_long_audio_after_short_and_short_after_long(make_stock, batch, rest):
    """In blocks, of the lengths that are usual; utterances of a batch beside it."""
    encoder = make_stock()
    fast = fast_of(encoder)
    for frames in (7, BLOCK_BYTES, BLOCK_BYTES + 40, 4 * SHORTEST_TABLE + 50, 40):
        more = [int(n * frames) if n < 1 else n for n in rest]
        check(fast, encoder, *batch((frames, *more)))


@pytest.mark.parametrize("lengths", [(61, 2), (40,), (40, 40, 30)])
def test_what_is_beyond_an_utterance_is_padding(make_stock, batch, lengths):
    """Of an utterance without a frame, too."""
    encoder = make_stock()
    x, lengths = batch(lengths)
    longer = torch.cat([x, torch.zeros(len(x), 21, FEATURES)], 1)
    fast = fast_of(encoder)
    check(fast, encoder, x, lengths)
    # ESPnet's own masks are as long as the longest utterance.
    masks = torch.arange(longer.shape[1]) >= lengths[:, None]
    check(fast, encoder, longer, lengths, masks=masks)
    with torch.no_grad():
        out, olens, _ = fast(longer, lengths)
        by_masks, same, _ = fast(longer, lengths, masks)
    assert torch.equal(out, by_masks) and torch.equal(olens, same)
    assert olens.max() < out.shape[1]


@pytest.mark.parametrize("apart", [False, True, "masks"])
@pytest.mark.parametrize(
    "lengths", [(61,), (131,), (134,), (132, 133), (61, 40, 9), (7, 7), (700, 3)]
)
@torch.no_grad()
def test_lengths_in_buckets_change_nothing(make_stock, batch, lengths, apart):
    fast = fast_of(make_stock())
    x, lens = batch(lengths)
    options = {"apart": apart is True, "return_all_hs": True}
    if apart == "masks":
        options["masks"] = torch.arange(x.shape[1]) >= (lens * 4 // 5)[:, None]
    found = []
    for fast.in_buckets in (False, True):
        found.append(fast(x, lens, **options))
    ((one, hidden), olens, _), ((other, others), same, _) = found
    assert torch.equal(olens, same) and one.shape == other.shape
    real = [slice(0, max(1, int(n))) if apart is True else slice(None) for n in olens]
    for first, second in ((one, other), *zip(hidden, others, strict=True)):
        for u, frames in enumerate(real):
            torch.testing.assert_close(
                first[u, frames], second[u, frames], rtol=1e-4, atol=1e-5
            )


@torch.no_grad()
def test_utterances_in_buckets_are_encoded_in_lengths_they_share(make_stock, batch):
    fast, seen = fast_of(make_stock()), set()
    fast.in_buckets, first = True, fast.blocks[0]

    def spy(x, *more):
        seen.add(x.shape[1])
        return first(x, *more)

    fast.blocks[0] = spy
    fast.blocks[0].attention = first.attention
    for length in range(700, 900, 7):
        fast(*batch((length,)))
    assert seen == {192, 224}


@pytest.mark.parametrize("amid", range(1, 4), ids="before block {}".format)
def test_a_call_amid_the_making_of_tables_for_another_is_right(
    make_stock, batch, monkeypatch, amid
):
    """As of two threads, but in the order that went wrong."""
    encoder, table, calls = make_stock(num_blocks=3), FastAttention.table, []
    fast = fast_of(encoder)
    one, other = batch((4 * SHORTEST_TABLE + 90,)), batch((4 * SHORTEST_TABLE + 40,))

    def interrupted(layer, positions):
        calls.append(layer)
        if len(calls) == amid:
            check(fast, encoder, *other)
        return table(layer, positions)

    monkeypatch.setattr(FastAttention, "table", interrupted)
    check(fast, encoder, *one)
    assert len(calls) > amid


def test_tables_of_long_audio_are_let_go(make_stock, batch, monkeypatch):
    monkeypatch.setattr(fast_encoders, "LONGEST_TABLE", 512)
    encoder = make_stock(max_pos_emb_len=10)
    positions, fast = encoder.embed.out[1].pe, fast_of(encoder)
    for frames in (300, 700, 300):
        inputs = batch((4 * frames + 3,))
        with torch.no_grad():
            fast(*inputs)
        assert fast.kept[0] == 512
        assert encoder.embed.out[1].pe is positions  # the layers keep their own
    check(fast, encoder, *inputs)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copies_compute_the_same(make_stock, batch, runnable, precision, way):
    runnable(precision)
    encoder = InferenceEncoder(make_stock().eval(), FEATURES, precision)
    x, lengths = batch()
    assert torch.equal(way(encoder)(x, lengths)[0], encoder(x, lengths)[0])
    assert not list(encoder.parameters()) and not encoder.state_dict()


def test_autocast_and_dropout_leave_later_calls_alone(make_stock, batch):
    encoder = make_stock(positional_dropout_rate=0.5).train()
    x, lengths = batch()
    inference = InferenceEncoder(encoder, FEATURES, "fp32")
    with torch.autocast("cpu", torch.bfloat16):
        rough = inference(x, lengths)[0]
    exact = encoder.eval()(x, lengths)[0].detach()
    assert_close(inference(x, lengths)[0], exact)
    assert 1e-4 < (rough - exact).norm() / exact.norm() < 0.03
