"""HuBERT, wav2vec 2.0 and WavLM of transformers: under gates, and cut."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from espnet_prune.config.sections import GateOptions
from espnet_prune.families.ssl.describe import clocks
from espnet_prune.families.ssl.model import architecture_of, build, prepare, settle
from espnet_prune.pruning.cost import evaluate
from espnet_prune.pruning.slicing import sliced
from tests.fixtures.encoders import shaken
from tests.fixtures.gated import drawn_values

TINY = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 24, "conv_dim": [6, 8, 10], "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 4, 2], "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4, "num_feat_extract_layers": 3,
    "hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
}  # fmt: skip
BASE = {"feat_extract_norm": "group", "do_stable_layer_norm": False}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
CASES = {
    "hubert_base": lambda: HubertModel(HubertConfig(**TINY, **BASE)),
    "hubert_large": lambda: HubertModel(HubertConfig(**TINY, **LARGE)),
    "wav2vec2_base": lambda: Wav2Vec2Model(Wav2Vec2Config(**TINY, **BASE)),
    "wav2vec2_large": lambda: Wav2Vec2Model(Wav2Vec2Config(**TINY, **LARGE)),
    "wavlm_base": lambda: WavLMModel(WavLMConfig(**TINY, **BASE)),
    "wavlm_large": lambda: WavLMModel(WavLMConfig(**TINY, **LARGE)),
    "no_norm": lambda: HubertModel(
        HubertConfig(**TINY, **BASE, feat_proj_layer_norm=False)
    ),
}


def dense(case, seed=0, **sizes):
    torch.manual_seed(seed)
    model = CASES[case]()
    if sizes:
        model = type(model)(type(model.config)(**model.config.to_dict() | sizes))
    settle(model)
    return shaken(model).double().eval()


def states(model, audio, replaced=None, mask=None):
    """Outputs of all blocks, and of the model."""
    options = {"output_hidden_states": True, "attention_mask": mask}
    found = functional_call(model, replaced or {}, (audio,), options)
    return [*found.hidden_states, found.last_hidden_state]


def tensors(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@pytest.mark.parametrize("case", CASES)
@given(
    seed=st.integers(0, 99),
    gone=st.sampled_from([(0.3, 0.2), (0.6, 0.5), (0.9, 0.9), (0.0, 1.0)]),
    train=st.booleans(),
    padded=st.booleans(),
    fine=st.booleans(),
    heads=st.sampled_from([1, 2, 4]),
    blocks=st.integers(1, 3),
    units=st.integers(1, 30),
    taps=st.sampled_from([1, 3, 8, 19, 34]),
)
@settings(max_examples=16)
def test_gated_with_final_values_is_compact(
    case, seed, gone, train, padded, fine, heads, blocks, units, taps
):
    stock = dense(
        case, seed, num_attention_heads=heads, num_hidden_layers=blocks,
        intermediate_size=units, num_conv_pos_embeddings=taps,
    )  # fmt: skip
    model = copy.deepcopy(stock).train(train)
    layout = prepare(model, GateOptions(fine_heads=fine)).layout
    audio, mask = torch.randn(2, 900, dtype=torch.double), None
    if padded:
        mask = torch.arange(900) < torch.tensor([[900], [611]])
        audio = audio * mask
    opened = layout.gated(tensors(model), layout.whole())
    for expected, actual in zip(
        states(stock.train(train), audio, mask=mask),
        states(model, audio, opened, mask),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    own = drawn_values(layout, seed, *gone)
    compact = build(stock, architecture_of(layout, own)).double().train(train)
    compact.load_state_dict(sliced(layout, model.state_dict(), own), strict=True)
    gated = states(model, audio, layout.gated(tensors(model), own), mask)
    for expected, actual in zip(gated, states(compact, audio, mask=mask), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_the_first_block_without_attention_still_gives_wavlm_its_position_bias():
    stock = dense("wavlm_base")
    model = copy.deepcopy(stock)
    layout = prepare(model, GateOptions()).layout
    own = layout.whole()
    own[layout.span("encoder.layers.0.attention")] = 0
    own = layout.settled(own)
    compact = build(stock, architecture_of(layout, own)).double().eval()
    compact.load_state_dict(sliced(layout, model.state_dict(), own), strict=True)
    audio = torch.randn(2, 900, dtype=torch.double)
    gated = states(model, audio, layout.gated(tensors(model), own))
    for expected, actual in zip(gated, states(compact, audio), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    with torch.no_grad():  # it is heard
        compact.encoder.layers[0].attention.rel_attn_embed.weight.zero_()
    off = (states(compact, audio)[-1] - gated[-1]).abs().max()
    assert off > 1e-3


@pytest.mark.parametrize("case", CASES)
@given(seed=st.integers(0, 99), taps=st.sampled_from([3, 8, 19, 34]))
@settings(max_examples=6)
def test_cost_by_declaration_is_cost_by_counting(case, seed, taps):
    stock = dense(case, seed, num_conv_pos_embeddings=taps)
    model = copy.deepcopy(stock)
    described = prepare(model, GateOptions())
    layout, samples = described.layout, 900
    terms = described.counts(clocks(stock, samples))
    for own in (layout.whole(), drawn_values(layout, seed, 0.6, 0.6, even=True)):
        compact = build(stock, architecture_of(layout, own)).eval()
        counter = FlopCounterMode(display=False)
        with counter as flops, sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            compact(torch.randn(1, samples, requires_grad=True))
        named = compact.named_parameters()
        params = sum(p.numel() for n, p in named if n != "masked_spec_embed")
        sums = layout.sums((own != 0).double())
        assert float(evaluate(terms["params"], sums)) == params
        assert float(evaluate(terms["macs"], sums)) == flops.get_total_flops() / 2
