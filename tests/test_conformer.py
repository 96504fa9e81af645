"""Equality 1: the dense life is ESPnet's own encoder. And what it refuses."""

import logging

import pytest
import torch
from espnet.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_prune.families.espnet.conformer import RULES, PrunableConformerEncoder

CONFS = [
    {},
    {"output_size": 12, "attention_heads": 3, "linear_units": 7, "num_blocks": 1},
    {"output_size": 8, "attention_heads": 1, "activation_type": "relu"},
    {"cnn_module_kernel": 15, "num_blocks": 3, "max_pos_emb_len": 4},
]


@pytest.fixture(params=CONFS, ids=lambda conf: "-".join(map(str, conf.values())))
def pair(request, make_stock, make_encoder):
    """A stock encoder, and ours with its weights."""
    stock, ours = make_stock(**request.param), make_encoder(**request.param)
    ours.load_state_dict(stock.state_dict(), strict=True)
    return stock, ours


def test_parameter_names_are_espnets(pair):
    stock, ours = ({k: v.shape for k, v in e.state_dict().items()} for e in pair)
    assert stock == ours


@pytest.mark.parametrize("training", [False, True])
def test_dense_outputs_are_espnets(pair, batch, training):
    x, lengths = batch()
    (expected, olens, _), (actual, own_olens, _) = (
        e.train(training)(x, lengths) for e in pair
    )
    assert torch.equal(olens, own_olens)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("training", [False, True])
def test_dense_hidden_states_are_espnets(pair, batch, training):
    x, lengths = batch()
    ((_, expected), _, _), ((_, actual), _, _) = (
        e.train(training)(x, lengths, return_all_hs=True) for e in pair
    )
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, atol=1e-5, rtol=0)


def test_gradients_and_batch_statistics_are_espnets(pair, batch):
    x, lengths = batch((61, 40, 12))
    for encoder in pair:
        out, olens, _ = encoder.train()(x, lengths)
        (out[0] ** 3).mean().backward()
    stock, ours = pair
    expected, actual = dict(stock.named_parameters()), dict(ours.named_parameters())
    for name, parameter in expected.items():
        scale = parameter.grad.abs().max().clamp(min=1e-3)
        error = (actual[name].grad - parameter.grad).abs().max() / scale
        assert float(error) < 1e-3, name
    for name, buffer in stock.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], buffer)


def test_given_masks_override_the_lengths_as_in_espnet(pair, batch):
    x, lengths = batch((50, 50))
    masks = torch.zeros(2, 50, dtype=torch.bool)
    masks[1, 20:] = True
    (expected, olens, _), (actual, own, _) = (
        e.eval()(x, lengths, masks=masks) for e in pair
    )
    assert torch.equal(olens, own)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@given(
    data=st.data(),
    frames=st.integers(7, 90),
    features=st.integers(7, 30),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=20)
def test_dense_equals_espnet_at_any_size(
    make_stock, make_encoder, batch, drawn_sizes, data, frames, features, seed
):
    sizes = data.draw(drawn_sizes)
    torch.manual_seed(seed)
    stock = make_stock(features, **sizes).eval()
    ours = make_encoder(features, **sizes).eval()
    ours.load_state_dict(stock.state_dict(), strict=True)
    x, lengths = batch((frames, max(1, frames // 2)), features)
    torch.testing.assert_close(
        ours(x, lengths)[0], stock(x, lengths)[0], atol=1e-5, rtol=0
    )


def test_too_short_audio_is_refused_as_in_espnet(pair, batch):
    for encoder in pair:
        with pytest.raises(TooShortUttError):
            encoder.eval()(*batch((6,)))
        encoder(*batch((7,)))


@pytest.mark.parametrize("name", RULES.required)
def test_unsupported_option_is_refused_by_name(make_encoder, name):
    value = RULES.required[name][0]
    if isinstance(value, list):
        other = [1]
    else:
        other = not value if isinstance(value, bool) else "other"
    with pytest.raises(ValueError, match=name):
        make_encoder(**{name: other})


@pytest.mark.parametrize("name", ["rel_pos_type", "macaron_style"])
def test_espnets_default_counts_where_the_config_is_silent(name):
    given = {"rel_pos_type": "latest", "macaron_style": True}
    del given[name]
    with pytest.raises(ValueError, match=name):
        PrunableConformerEncoder(20, output_size=8, **given)


def test_unknown_option_is_refused_by_name(make_encoder):
    with pytest.raises(ValueError, match="linear_unit_count"):
        make_encoder(linear_unit_count=4)


@pytest.mark.parametrize("rate", [0.3, [0.1, 0.2]])
def test_stochastic_depth_is_ignored_with_a_warning(make_encoder, caplog, rate):
    with caplog.at_level(logging.WARNING):
        make_encoder(stochastic_depth_rate=rate)
    assert "stochastic_depth_rate" in caplog.text


def test_inert_options_are_accepted(make_encoder):
    make_encoder(layer_drop_rate=0.5, use_flash_attn=True, padding_idx=-1)


def test_indivisible_heads_are_refused(make_encoder):
    with pytest.raises(ValueError, match="attention_heads"):
        make_encoder(output_size=10, attention_heads=4)


def test_compact_architecture_cannot_be_gated(make_encoder):
    architecture = make_encoder().architecture.to_dict()
    with pytest.raises(ValueError, match="gates"):
        make_encoder(architecture=architecture, gates={})


@pytest.mark.parametrize("change", ["missing", "extra"])
@pytest.mark.parametrize("strict", [True, False])
def test_wrong_checkpoint_is_refused_however_it_is_loaded(make_encoder, change, strict):
    # ESPnet loads with strict=False and drops the result.
    encoder = make_encoder()
    state = encoder.state_dict()
    if change == "missing":
        del state["encoders.1.feed_forward.w_1.bias"]
    else:
        state["encoders.2.feed_forward.w_1.bias"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match="feed_forward.w_1.bias"):
        encoder.load_state_dict(state, strict=strict)
    module = torch.nn.ModuleDict({"encoder": encoder})
    with pytest.raises(RuntimeError, match="feed_forward.w_1.bias"):
        module.load_state_dict(
            {f"encoder.{k}": v for k, v in state.items()}, strict=strict
        )


def test_parameters_are_trained_in_the_gated_life_too(make_encoder, batch):
    # A parameter without gradient would stop DDP.
    encoder = make_encoder(gates={}).train()
    encoder(*batch())[0].square().sum().backward()
    missing = [n for n, p in encoder.named_parameters() if p.grad is None]
    assert not missing
