"""bf16 and int8: close to fp32, refused where the hardware cannot."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_prune.base.errors import InputError
from espnet_prune.serving.fast import conv2d as convolutions
from espnet_prune.serving.fast import linear as linears
from espnet_prune.serving.fast import precision as precisions
from espnet_prune.serving.fast.precision import PRECISIONS, check_precision
from espnet_prune.serving.inference import InferenceEncoder
from tests.fixtures.gated import CASES, drawn_values

# Relative error of the whole encoder's output: 8 bits of mantissa, and 8 bits in all.
BOUNDS = {"fp32": 1e-5, "bf16": 0.03, "int8": 0.08}
every_precision = pytest.mark.parametrize("precision", PRECISIONS)


def error(actual, expected):
    return float((actual - expected).norm() / expected.norm())


def check(encoder, precision, x, lengths):
    """Outputs are near those of the encoder; returns how near."""
    with torch.no_grad():
        expected, olens, _ = encoder.eval()(x, lengths)
    fast = InferenceEncoder(encoder, x.shape[2], precision)
    actual, own, _ = fast(x, lengths)
    assert torch.equal(own, olens) and actual.dtype == torch.float32
    assert actual.shape == expected.shape
    off = error(actual, expected)
    assert off < BOUNDS[precision]
    return off


@every_precision
@pytest.mark.parametrize("lengths", [(61,), (200, 61, 9), (1300, 900)])
def test_outputs_are_near_those_of_fp32(
    make_stock, batch, runnable, precision, lengths
):
    runnable(precision)
    encoder = make_stock(output_size=32, num_blocks=3)
    off = check(encoder, precision, *batch(lengths))
    assert precision == "fp32" or off > 1e-4


@given(
    heads=st.integers(1, 4),
    half=st.integers(4, 8),  # of a head's dimension; norms of few channels amplify
    units=st.integers(1, 60),
    kernel=st.integers(0, 8),
    lengths=st.lists(st.integers(7, 300), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
@settings(max_examples=25)
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_compact_encoders_of_any_size_are_near_fp32(
    runnable, precision, heads, half, units, kernel, lengths, seed
):
    runnable(precision)
    sizes = {"output_size": 2 * half * heads, "attention_heads": heads}
    sizes |= {"linear_units": units, "cnn_module_kernel": 2 * kernel + 1}
    gated = CASES["conformer"].make(seed, torch.float, **sizes)
    own = drawn_values(gated.layout, seed, 0.5, 0.7)
    check(gated.compact(own.float()), precision, *gated.inputs(*lengths))


@every_precision
def test_compact_encoders_of_fewer_channels_and_blocks_run(runnable, precision):
    runnable(precision)
    gated = CASES["conformer_dim"].make(0, torch.float, output_size=64, num_blocks=3)
    own = drawn_values(gated.layout, 1, 0.7, 0.8)
    for name in gated.layout.index:
        if name.startswith("encoders.1"):
            own[gated.layout.span(name)] = 0
    compact = gated.compact(gated.layout.settled(own).float())
    check(compact, precision, *gated.inputs(61, 40, 7))


@pytest.mark.parametrize("features", range(7, 13))
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_few_bands_are_no_noise(make_stock, batch, runnable, precision, features):
    """Kernels for AMX fail where the convolutions leave one, and enough frames."""
    runnable(precision)
    check(make_stock(features), precision, *batch((200, 150), features))


@every_precision
def test_an_empty_batch_stays_empty(make_stock, batch, runnable, precision):
    """ESPnet's own mask of padding does not take one."""
    runnable(precision)
    x, lengths = batch((61,))
    fast = InferenceEncoder(make_stock().eval(), x.shape[2], precision)
    (out, olens, _), (full, *_) = fast(x[:0], lengths[:0]), fast(x, lengths)
    assert out.shape == full[:0].shape and not len(olens)


@every_precision
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_stays_none_and_alone(
    make_stock, batch, runnable, precision, value
):
    runnable(precision)
    encoder, (x, lengths) = make_stock().eval(), batch((90, 90))
    fast = InferenceEncoder(encoder, x.shape[2], precision)
    whole = fast(x, lengths)[0]
    x[1, 40, 13] = value
    expected = encoder(x, lengths)[0].detach()
    (actual, blocks), *_ = fast(x, lengths, return_all_hs=True)
    assert torch.equal(actual.isnan(), expected.isnan()) and actual[1].isnan().all()
    assert all(block[1].isnan().all() for block in blocks)
    # A scale of int8 is that of the whole batch.
    assert precision == "int8" or error(actual[0], whole[0]) < 1e-5


@every_precision
@pytest.mark.parametrize("activation", ["swish", "relu", "tanh", "selu", "hardtanh"])
@pytest.mark.parametrize("arranged", [True, False])
def test_every_activation_follows_its_product(
    make_stock, batch, runnable, monkeypatch, precision, activation, arranged
):
    """Fused by oneDNN where that can, and where weights can be arranged for it."""
    runnable(precision)
    if not arranged:
        for module in (linears, convolutions):
            monkeypatch.setattr(module, "packs", lambda *_: False)
    check(make_stock(activation_type=activation), precision, *batch())


def test_emulated_bf16_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(precisions.platform, "machine", lambda: "x86_64")
    with pytest.raises(InputError, match="bf16 has no fast products"):
        check_precision("bf16", torch.device("cpu"))


@pytest.mark.parametrize(
    "precision, device, missing, told",
    [
        ("fp16", "cpu", None, "none of"),
        ("bf16", "cpu", "_has_bf16", "no fast products"),
        ("int8", "cuda", None, "for CPUs"),
        ("int8", "cpu", "quantized_engine", "no int8"),
    ],
)
def test_unsupported_hardware_gets_a_clear_message(
    monkeypatch, precision, device, missing, told
):
    if missing:
        monkeypatch.setattr(precisions, missing, lambda *_: None)
    with pytest.raises(InputError, match=told):
        check_precision(precision, torch.device(device))


@pytest.mark.parametrize(
    "vnni, engine, told",
    [(True, "onednn", None), (False, "fbgemm", "VNNI"), (True, "qnnpack", "QNNPACK")],
)
def test_slow_int8_is_warned_of_once(monkeypatch, caplog, vnni, engine, told):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    monkeypatch.setattr(precisions.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(precisions, "quantized_engine", lambda: engine)
    precisions._warn_of_slow_int8.cache_clear()
    for _ in range(2):
        check_precision("int8", torch.device("cpu"))
    assert [told in r.message for r in caplog.records] == [True] * bool(told)
