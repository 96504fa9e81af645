"""Projected positions: shared by calls and by threads, kept up to a length."""

import pytest
import torch

from espnet_prune.serving.fast import encoder as fast_encoders
from espnet_prune.serving.fast.attention import FastAttention
from espnet_prune.serving.fast.encoder import SHORTEST_TABLE
from espnet_prune.serving.load import InferenceEncoder


@pytest.fixture
def encode(make_encoder):
    """An encoder that has prepared no table yet; all have the same weights."""
    layers = make_encoder(num_blocks=3).eval()

    def make():
        encoder = InferenceEncoder(layers, "fp32")
        return lambda x, lengths: encoder(x, lengths)[0], encoder.fast

    return make


@pytest.mark.parametrize("amid", range(1, 4), ids="before block {}".format)
def test_a_call_amid_the_preparation_of_another_is_right(
    encode, batch, monkeypatch, amid
):
    """As of two threads, but in the order that went wrong."""
    one, other = batch((4 * SHORTEST_TABLE + 90,)), batch((4 * SHORTEST_TABLE + 40,))
    expected = encode()[0](*one), encode()[0](*other)
    (call, _), table, calls, found = encode(), FastAttention.table, [], []

    def interrupted(layer, positions):
        calls.append(layer)
        if len(calls) == amid:
            found.append(call(*other))
        return table(layer, positions)

    monkeypatch.setattr(FastAttention, "table", interrupted)
    found.insert(0, call(*one))
    for actual, right in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, right, rtol=0, atol=1e-5)


def test_tables_of_long_audio_are_let_go(encode, batch, monkeypatch):
    inputs = [batch((4 * frames + 3,)) for frames in (300, 700, 300)]
    expected = [encode()[0](*one) for one in inputs]
    monkeypatch.setattr(fast_encoders, "LONGEST_TABLE", 512)
    call, fast = encode()
    for one, right in zip(inputs, expected, strict=True):
        torch.testing.assert_close(call(*one), right, rtol=0, atol=1e-5)
        assert fast.kept[0] == 512


def test_the_layers_keep_their_own_positions(make_encoder, batch):
    layers = make_encoder(max_pos_emb_len=10).eval()
    before = layers.embed.out[1].pe
    InferenceEncoder(layers, "fp32")(*batch())
    assert layers.embed.out[1].pe is before
