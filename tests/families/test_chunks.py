"""Streaming encoders: an utterance in parts is the utterance as a whole."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_prune.families.espnet.chunks import chunks_of
from tests.fixtures.gated import CASES, drawn_sizes, drawn_values

NAMES = [name for name in CASES if name.startswith("contextual_block")]
PARTS = st.lists(st.integers(1, 60), min_size=1, max_size=6).map(
    lambda some: [*some, 25]
)


def streamed(encoder, x, parts):
    """What an encoder gives for features (1, frame, feature) that come in parts."""
    states, found, at = None, [], 0
    for n in parts:
        part, at = x[:, at : at + n], at + n
        given = part, torch.tensor([n]), states
        y, _, states = encoder(*given, is_final=at == x.shape[1], infer_mode=True)
        found.append(y)
    return torch.cat(found, 1)


@pytest.mark.parametrize("name", NAMES)
@given(
    data=st.data(), parts=PARTS, seed=st.integers(0, 10**6), units=st.floats(0, 1),
    modules=st.floats(0, 1),
)  # fmt: skip
@settings(max_examples=40)
@torch.no_grad()
def test_what_comes_in_parts_is_encoded_as_the_whole(
    name, data, parts, seed, units, modules
):
    """By ESPnet's encoder, and by what is left of it, blocks that are gone included."""
    gated = CASES[name].make(seed, **data.draw(drawn_sizes(name)))
    gated.module.eval()
    x, lengths = gated.inputs(sum(parts))
    compact = gated.compact(drawn_values(gated.layout, seed, units, modules))
    for encoder in (gated.stock.eval(), compact):
        whole, times, _ = encoder(x, lengths)
        torch.testing.assert_close(streamed(encoder, x, parts), whole)
        assert times == whole.shape[1]


@pytest.mark.parametrize("name", NAMES)
def test_chunks_are_as_many_and_as_long_as_espnets(name):
    gated, seen = CASES[name].make(), []
    gated.stock.eval()
    gated.stock.encoders[0].register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    for frames in range(gated.least, 90):
        out, *_ = gated.stock(*gated.inputs(frames))
        one_chunk = seen[-1].ndim == 3
        found = (1, seen[-1].shape[1]) if one_chunk else (*seen[-1].shape[1:3],)
        assert found == chunks_of(gated.stock, out.shape[1])
    assert {x.ndim for x in seen} == {3, 4}
