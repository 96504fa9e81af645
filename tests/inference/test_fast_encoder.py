"""The forward without gradients: the same outputs."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from espnet_prune.serving.fast import attention
from espnet_prune.serving.fast import encoder as fast_encoders
from espnet_prune.serving.fast.attention import BLOCK_BYTES
from espnet_prune.serving.fast.encoder import SHORTEST_TABLE


def assert_close(actual, expected):
    scale = float(expected.abs().max())
    torch.testing.assert_close(actual, expected, atol=1e-5 * scale, rtol=0)


@torch.no_grad()
def fast(encoder, x, lengths):
    if encoder.training:  # eval() by itself would start anew
        encoder.eval()
    out, _, _ = encoder(x, lengths)
    assert encoder._derived is not None
    return out


def plain(encoder, x, lengths):
    """Outputs of the layers' own forwards, which gradients ask for."""
    assert not encoder.training
    return encoder(x, lengths)[0].detach()


@given(
    data=st.data(),
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=3),
    features=st.integers(7, 30),
    queries=st.integers(1, 40),
    shortest=st.integers(1, 40),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=30)
def test_it_is_espnets_encoder_at_any_size(
    make_stock,
    make_encoder,
    batch,
    drawn_sizes,
    data,
    lengths,
    features,
    queries,
    shortest,
    seed,
):
    """In blocks of so many queries, with tables of many sizes, kept or not."""
    sizes = data.draw(drawn_sizes)
    torch.manual_seed(seed)
    stock = make_stock(features, **sizes).eval()
    ours = make_encoder(features, **sizes)
    ours.load_state_dict(stock.state_dict())
    x, lengths = batch([*lengths, 7][: len(lengths) + (max(lengths) < 7)], features)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "BLOCK_BYTES", 4 * queries)
        patch.setattr(fast_encoders, "SHORTEST_TABLE", shortest)
        patch.setattr(fast_encoders, "LONGEST_TABLE", 32)
        actual = [fast(ours, x, lengths) for _ in ("tables made", "tables kept")]
    for out in actual:
        assert_close(out, stock(x, lengths)[0].detach())


@given(seed=st.integers(0, 10_000), rate=st.floats(0.05, 1.0))
@settings(deadline=None, max_examples=30)
def test_it_is_the_compact_encoder_of_any_masks(
    make_encoder, compact_of, random_masks, batch, seed, rate
):
    gated = make_encoder(gates={}).eval()
    gated.set_masks(random_masks(gated, seed=seed, unit_rate=rate))
    x, lengths = batch()
    assert_close(fast(compact_of(gated), x, lengths), plain(gated, x, lengths))


@pytest.mark.parametrize(
    "frames", [7, BLOCK_BYTES, BLOCK_BYTES + 40, 4 * SHORTEST_TABLE + 50]
)
def test_long_audio_is_attended_in_blocks(make_encoder, batch, frames):
    encoder = make_encoder()
    for lengths in ((frames,), (frames, frames // 2, 7)):
        x, lengths = batch(lengths)
        assert_close(fast(encoder, x, lengths), plain(encoder, x, lengths))


def test_subsampling_goes_piece_by_piece(make_encoder, batch, monkeypatch):
    monkeypatch.setattr("espnet_prune.serving.fast.subsampling.PIECE", 10_000)
    encoder = make_encoder()
    x, lengths = batch((161, 40))
    assert_close(fast(encoder, x, lengths), plain(encoder, x, lengths))


def test_short_audio_after_long_and_long_after_short(make_encoder, batch):
    encoder = make_encoder()
    for frames in (40, 4 * SHORTEST_TABLE + 50, 40):
        x, lengths = batch((frames,))
        assert_close(fast(encoder, x, lengths), plain(encoder, x, lengths))


def test_an_utterance_without_a_frame_is_not_nan(make_encoder, make_stock, batch):
    encoder, stock = make_encoder(), make_stock().eval()
    encoder.load_state_dict(stock.state_dict())
    x, lengths = batch((61, 2))
    assert_close(fast(encoder, x, lengths), stock(x, lengths)[0].detach())


@pytest.mark.parametrize("lengths", [(40,), (40, 40, 30)])
def test_audio_beyond_the_lengths_is_padding(make_encoder, batch, lengths):
    encoder = make_encoder().eval()
    x, lengths = batch(lengths)
    longer = torch.cat([x, torch.zeros(len(x), 21, x.shape[2])], 1)
    assert_close(fast(encoder, longer, lengths), plain(encoder, longer, lengths))
    with torch.no_grad():
        out, olens, _ = encoder(longer, lengths)
    assert olens.max() < out.shape[1]


def test_masks_of_a_single_utterance_are_respected(make_encoder, batch):
    encoder = make_encoder().eval()
    x, lengths = batch((50,))
    masks = torch.arange(50)[None] >= 30
    expected = encoder(x, lengths, masks=masks)[0].detach()
    with torch.no_grad():
        assert_close(encoder(x, lengths, masks=masks)[0], expected)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(
    "lengths", [(61,), (131,), (134,), (132, 133), (61, 40, 9), (7, 7), (700, 3)]
)
def test_lengths_in_buckets_change_nothing(make_encoder, batch, lengths, apart):
    encoder = make_encoder().eval()
    x, lens = batch(lengths)
    with torch.no_grad():
        encoder(x, lens)
        fast, found = encoder._derived.encoder, []
        for fast.in_buckets in (False, True):
            found.append(fast(x, lens, return_all_hs=True, apart=apart))
    ((one, hidden), olens, _), ((other, others), same, _) = found
    assert torch.equal(olens, same) and one.shape == other.shape
    real = [slice(0, max(1, int(n))) if apart else slice(None) for n in olens]
    for first, second in ((one, other), *zip(hidden, others, strict=True)):
        for u, frames in enumerate(real):
            torch.testing.assert_close(
                first[u, frames], second[u, frames], rtol=1e-4, atol=1e-5
            )


def test_utterances_in_buckets_are_encoded_in_lengths_they_share(make_encoder, batch):
    encoder, seen = make_encoder().eval(), set()
    with torch.no_grad():
        encoder(*batch((61,)))
        fast = encoder._derived.encoder
        fast.in_buckets, first = True, fast.blocks[0]

        def spy(x, *more):
            seen.add(x.shape[1])
            return first(x, *more)

        fast.blocks[0] = spy
        for length in range(700, 900, 7):
            fast(*batch((length,)))
    assert seen == {192, 224}


def test_masks_in_buckets_change_nothing(make_encoder, batch):
    encoder = make_encoder().eval()
    x, lens = batch((61, 61))
    masks = torch.zeros(2, 61, dtype=torch.bool)
    masks[:, 50:] = True
    with torch.no_grad():
        encoder(x, lens)
        fast = encoder._derived.encoder
        expected, olens, _ = fast(x, lens, masks)
        fast.in_buckets = True
        actual, same, _ = fast(x, lens, masks)
    assert torch.equal(olens, same)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_hidden_states_are_kept_apart(make_encoder, batch):
    encoder = make_encoder().eval()
    x, lengths = batch()
    (_, expected), _, _ = encoder(x, lengths, return_all_hs=True)
    with torch.no_grad():
        (_, actual), _, _ = encoder(x, lengths, return_all_hs=True)
    assert len(actual) == len(expected) == 2
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e.detach())


def test_a_copy_follows_its_own_weights(make_encoder, batch):
    encoder = make_encoder()
    x, lengths = batch()
    before = fast(encoder, x, lengths)
    other = copy.deepcopy(encoder)
    with torch.no_grad():
        other.after_norm.weight.mul_(2)
    assert not torch.allclose(fast(other, x, lengths), before)
    assert_close(fast(encoder, x, lengths), before)


def test_it_leaves_no_trace_in_the_checkpoint(make_encoder, batch):
    encoder = make_encoder()
    before = encoder.state_dict()
    fast(encoder, *batch())
    after = encoder.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], before[k]) for k in before)


def test_folding_survives_saving_and_loading(make_encoder, batch, tmp_path):
    encoder, other = make_encoder(), make_encoder()
    x, lengths = batch()
    expected = fast(encoder, x, lengths)
    fast(other, x, lengths)
    torch.save(encoder.state_dict(), tmp_path / "encoder.pth")
    other.load_state_dict(torch.load(tmp_path / "encoder.pth", weights_only=True))
    assert torch.equal(fast(other, x, lengths), expected)


def test_weights_made_in_inference_mode_will_do(make_encoder, batch):
    with torch.inference_mode():
        encoder = make_encoder()
        x, lengths = batch()
        out, _, _ = encoder.eval()(x, lengths)
        assert encoder._derived is not None and out.isfinite().all()


def test_autocast_computes_in_lower_precision(make_encoder, batch):
    encoder = make_encoder()
    x, lengths = batch()
    expected = fast(encoder, x, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        actual = fast(encoder, x, lengths)
    error = (actual - expected).norm() / expected.norm()
    assert 1e-4 < error < 0.03


def test_training_gradients_and_gates_take_the_layers_own_forward(make_encoder, batch):
    encoder, gated = make_encoder(), make_encoder(gates={})
    x, lengths = batch()
    encoder.eval()(x, lengths)[0].sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    with torch.no_grad():
        encoder.train()(x, lengths)
        gated.eval()(x, lengths)
    assert encoder._derived is None and gated._derived is None


def test_hooks_on_the_layers_are_called(make_encoder, batch):
    encoder, heard = make_encoder(), []
    x, lengths = batch()
    before = fast(encoder, x, lengths)
    norm = encoder.encoders[1].norm_ff
    handle = norm.register_forward_hook(lambda *_: heard.append(1))
    with torch.no_grad():
        assert_close(encoder(x, lengths)[0], before)
        handle.remove()
        encoder(x, lengths)
    assert heard == [1]


@pytest.mark.filterwarnings("ignore:.*quantiz")
def test_layers_quantized_by_torch_are_used(make_encoder, batch):
    encoder = make_encoder().eval()
    x, lengths = batch()
    expected = fast(encoder, x, lengths)
    int8 = torch.ao.quantization.quantize_dynamic(encoder, {nn.Linear})
    with torch.no_grad():
        actual, _, _ = int8(x, lengths)
    assert int8._derived is None
    error = (actual - expected).abs().max() / expected.abs().max()
    assert 1e-4 < error < 0.2
