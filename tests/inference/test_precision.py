"""bf16 and int8: close to fp32, refused where the hardware cannot, unchanged layers."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_prune.base.errors import InputError
from espnet_prune.serving.fast import conv2d as convolutions
from espnet_prune.serving.fast import linear as linears
from espnet_prune.serving.fast import precision as precisions
from espnet_prune.serving.fast.linear import Int8Linear
from espnet_prune.serving.fast.precision import PRECISIONS, check_precision
from espnet_prune.serving.load import InferenceEncoder

# Relative error of the whole encoder's output: 8 bits of mantissa, and 8 bits in all.
BOUNDS = {"fp32": 1e-5, "bf16": 0.03, "int8": 0.08}


def runnable(precision):
    try:
        check_precision(precision, torch.device("cpu"))
    except InputError as e:
        pytest.skip(str(e))


def error(actual, expected):
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("lengths", [(61,), (200, 61, 9), (1300, 900)])
def test_outputs_are_near_those_of_fp32(make_encoder, batch, precision, lengths):
    runnable(precision)
    encoder = make_encoder(output_size=32, num_blocks=3).eval()
    x, lengths = batch(lengths)
    with torch.no_grad():
        expected, olens, _ = encoder(x, lengths)
        actual, own, _ = InferenceEncoder(encoder, precision)(x, lengths)
    assert torch.equal(own, olens) and actual.dtype == torch.float32
    assert error(actual, expected) < BOUNDS[precision]
    assert precision == "fp32" or error(actual, expected) > 1e-4


@given(
    heads=st.integers(1, 4),
    half=st.integers(4, 8),  # of a head's dimension; norms of few channels amplify
    units=st.integers(1, 60),
    kernel=st.integers(0, 8),
    lengths=st.lists(st.integers(7, 300), min_size=1, max_size=4),
    features=st.integers(7, 40),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=25)
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_encoders_of_any_size_are_near_fp32(
    make_encoder, compact_of, random_masks, precision, heads, half, units, kernel,
    lengths, features, seed,
):  # fmt: skip
    runnable(precision)
    torch.manual_seed(seed)
    sizes = {"output_size": 2 * half * heads, "attention_heads": heads}
    sizes |= {"linear_units": units, "cnn_module_kernel": 2 * kernel + 1}
    gated = make_encoder(features, **sizes, gates={}).eval()
    gated.set_masks(random_masks(gated, seed=seed))
    encoder = compact_of(gated).eval()
    x = torch.randn(len(lengths), max(lengths), features)
    lengths = torch.tensor(lengths)
    with torch.no_grad():
        expected, _, _ = encoder(x, lengths)
        actual, _, _ = InferenceEncoder(encoder, precision)(x, lengths)
    assert error(actual, expected) < BOUNDS[precision]


@pytest.mark.parametrize("features", range(7, 13))
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_few_bands_are_no_noise(make_encoder, precision, features):
    """Kernels for AMX fail where the convolutions leave one, and enough frames."""
    runnable(precision)
    encoder = make_encoder(features).eval()
    x, lengths = torch.randn(2, 200, features), torch.tensor([200, 150])
    with torch.no_grad():
        expected, _, _ = encoder(x, lengths)
        actual, _, _ = InferenceEncoder(encoder, precision)(x, lengths)
    assert error(actual, expected) < BOUNDS[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_stays_none_and_alone(make_encoder, precision, value):
    runnable(precision)
    encoder, x = make_encoder().eval(), torch.randn(2, 90, 20)
    lengths = torch.tensor([90, 90])
    whole = InferenceEncoder(encoder, precision)(x, lengths)[0]
    x[1, 40, 13] = value
    expected = encoder(x, lengths)[0].detach()
    fast = InferenceEncoder(encoder, precision)
    (actual, blocks), *_ = fast(x, lengths, return_all_hs=True)
    assert torch.equal(actual.isnan(), expected.isnan()) and actual[1].isnan().all()
    assert all(block[1].isnan().all() for block in blocks)
    # A scale of int8 is that of the whole batch.
    assert precision == "int8" or error(actual[0], whole[0]) < 1e-5


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_empty_batch_stays_empty(make_encoder, precision):
    runnable(precision)
    encoder = make_encoder().eval()
    inputs = torch.randn(0, 61, 20), torch.zeros(0, dtype=torch.long)
    expected, olens, _ = encoder(*inputs)  # with gradients: the layers' own forward
    actual, own, _ = InferenceEncoder(encoder, precision)(*inputs)
    assert actual.shape == expected.shape and torch.equal(own, olens)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_compact_models_of_unequal_widths_run(
    make_encoder, compact_of, random_masks, batch, precision
):
    runnable(precision)
    gated = make_encoder(gates={}).eval()
    gated.set_masks(random_masks(gated, seed=3))
    compact, (x, lengths) = compact_of(gated).eval(), batch()
    with torch.no_grad():
        expected, _, _ = compact(x, lengths)
        actual, _, _ = InferenceEncoder(compact, precision)(x, lengths)
    assert error(actual, expected) < BOUNDS[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("activation", ["swish", "relu", "tanh", "selu", "hardtanh"])
@pytest.mark.parametrize("arranged", [True, False])
def test_every_activation_follows_its_product(
    make_encoder, batch, monkeypatch, precision, activation, arranged
):
    """Fused by oneDNN where that can, and where weights can be arranged for it."""
    runnable(precision)
    if not arranged:
        for module in (linears, convolutions):
            monkeypatch.setattr(module, "packs", lambda *_: False)
    encoder = make_encoder(activation_type=activation).eval()
    x, lengths = batch()
    expected, _, _ = encoder(x, lengths)  # with gradients: the layers' own forward
    actual, _, _ = InferenceEncoder(encoder, precision)(x, lengths)
    assert error(actual, expected.detach()) < BOUNDS[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copies_compute_the_same(make_encoder, batch, precision, way):
    runnable(precision)
    encoder = InferenceEncoder(make_encoder().eval(), precision)
    x, lengths = batch()
    assert torch.equal(way(encoder)(x, lengths)[0], encoder(x, lengths)[0])


def test_emulated_bf16_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(precisions.platform, "machine", lambda: "x86_64")
    with pytest.raises(InputError, match="bf16 has no fast products"):
        check_precision("bf16", torch.device("cpu"))


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


def test_dropout_and_autocast_leave_the_positions_alone(make_encoder, batch):
    encoder = make_encoder(positional_dropout_rate=0.5).eval()
    x, lengths = batch()
    expected = InferenceEncoder(encoder, "fp32")(x, lengths)[0]
    late = InferenceEncoder(encoder.train(), "fp32").eval()
    with torch.autocast("cpu", torch.bfloat16):
        late(x, lengths)
    torch.testing.assert_close(late(x, lengths)[0], expected, atol=1e-6, rtol=0)


def test_int8_layer_keeps_eight_bits_and_leaves_the_engine_alone():
    engine = torch.backends.quantized.engine
    weight, bias, x = torch.randn(24, 32), torch.randn(24), torch.randn(5, 7, 32)
    layer = Int8Linear(weight, bias)
    assert torch.backends.quantized.engine == engine
    assert error(layer(x), x @ weight.t() + bias) < 0.03  # 7 bits without VNNI


def test_rows_of_zeros_stay_zero_in_int8():
    weight = torch.randn(4, 8)
    weight[2] = 0
    out = Int8Linear(weight, torch.zeros(4))(torch.randn(3, 8))
    assert out.isfinite().all() and not out[:, 2].any()


def test_no_second_copy_of_the_weights_is_kept(make_encoder):
    assert not list(InferenceEncoder(make_encoder(), "int8").parameters())


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
