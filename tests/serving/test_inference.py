"""Encoders for inference: near torch's in every precision, whatever the batch."""

import platform
from functools import partial

import pytest
import torch
from torch import nn

from espnet_prune.base.errors import InputError
from espnet_prune.measuring.memory import peak_bytes
from espnet_prune.serving import inference
from espnet_prune.serving.inference import (
    AutocastEncoder,
    RuntimeEncoder,
    check_graph,
    check_precision,
    graph_file,
)
from espnet_prune.serving.onnx import Runner
from tests.fixtures.gated import CASES, CONDITIONED, RUN, drawn_values, outputs

CPU = torch.device("cpu")
# Relative error of the whole encoder's output.
BOUNDS = {"fp32": 1e-5, "int8": 0.08}
every_precision = pytest.mark.parametrize("precision", BOUNDS)


def error(actual, expected):
    return float((actual - expected).norm() / expected.norm())


def check(encoder, precision, x, lengths):
    """Outputs are near those of each utterance alone; returns how near."""
    run = RuntimeEncoder(encoder.eval(), x.shape[2], precision)
    actual, times, _ = run(x, lengths)
    assert run.output_size() == encoder.output_size() == actual.shape[2]
    found = []
    for own, time, utterance, frames in zip(actual, times, x, lengths, strict=True):
        with torch.no_grad():
            expected, *_ = encoder(utterance[None, :frames], frames[None])
        assert expected.shape[1] == time
        found.append(error(own[:time], expected[0]))
    assert max(found) < BOUNDS[precision]
    return max(found)


def compact_of(kind):
    """An encoder under gates, and what is left of it: one file, whichever test asks."""
    sizes = {"output_size": 64, "attention_heads": 4, "num_blocks": 1}
    gated = CASES[kind].make(1, torch.float, **sizes)
    own = drawn_values(gated.layout, 2, 0.6, 0.8)
    return gated, gated.compact(own.float()).eval()


@pytest.mark.parametrize("kind", RUN)
def test_compact_encoders_of_every_kind_are_near_torchs(kind):
    gated, compact = compact_of(kind)
    # Several blocks of queries in attention, one and a row of the next, a part of one.
    inputs = gated.inputs(2100, 1031, 61, gated.least)
    check(compact, "fp32", *inputs)
    assert check(compact, "int8", *inputs) > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("kind", ["transformer", "e_branchformer", *CONDITIONED])
def test_in_bf16_ctc_sees_between_the_blocks_what_it_did(kind):
    gated = CASES[kind].make(1, torch.float, interctc_layer_idx=[1])
    encoder, inputs = gated.stock.eval(), gated.inputs(90, 61)
    (whole, between), times, _ = AutocastEncoder(encoder)(*inputs)
    expected, *_, expected_between = outputs(encoder, inputs)
    assert whole.dtype == torch.float32 and times.equal(encoder(*inputs)[1])
    assert 1e-4 < error(whole, expected) < 0.02
    ((block, x),) = between
    assert block == 1 and x.dtype == torch.float32
    assert 1e-4 < error(x, expected_between) < 0.02


@every_precision
def test_blocks_and_submodules_may_be_gone(precision):
    gated = CASES["conformer"].make(0, torch.float, num_blocks=3, output_size=32)
    own = drawn_values(gated.layout, 1, 0.7, 0.8)
    for name in gated.layout.index:
        if name.startswith(("encoders.1", "encoders.0.self_attn")):
            own[gated.layout.span(name)] = 0
    compact = gated.compact(gated.layout.settled(own).float())
    check(compact, precision, *gated.inputs(200, 40))


@pytest.mark.parametrize("kind", ["conformer", "transformer"])
def test_memory_grows_as_the_length_does_not_as_its_square(kind):
    graph = graph_file(compact_of(kind)[1], 20, "fp32")
    peaks = []
    for frames in (6000, 12000):
        run = partial(Runner(graph), torch.randn(1, frames, 20))
        peaks.append(peak_bytes(run, CPU))
    assert peaks[1] < 3 * peaks[0]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_stays_none_and_alone(make_stock, batch, value):
    encoder, (x, lengths) = make_stock(num_blocks=1).eval(), batch((90, 90))
    for precision in BOUNDS:
        run = RuntimeEncoder(encoder, x.shape[2], precision)
        whole, spoilt = run(x, lengths)[0], x.clone()
        spoilt[1, 40, 13] = value
        actual = run(spoilt, lengths)[0]
        assert actual[1].isnan().all() and torch.equal(actual[0], whole[0])


class Adapted(nn.Linear):
    """As adapters are: a layer whose function is another."""

    def forward(self, x):
        return super().forward(x) + 1


def adapt(layer):
    layer.w_1.__class__ = Adapted


def hook(layer):
    layer.w_1.register_forward_hook(lambda _m, _x, out: out + 1)


def parametrize(layer):
    nn.utils.parametrizations.weight_norm(layer.w_1)


@pytest.mark.parametrize("change", [adapt, hook, parametrize])
def test_what_is_put_into_an_encoder_is_not_forgotten(make_stock, batch, change):
    encoder = make_stock(num_blocks=1)
    check(encoder, "fp32", *batch((61,)))
    change(encoder.encoders[0].feed_forward)
    check(encoder, "fp32", *batch((61,)))


def test_a_file_is_written_once_for_the_same_weights(make_stock, monkeypatch, tmp_path):
    monkeypatch.setattr(inference, "_cache", lambda: tmp_path)
    monkeypatch.setattr(inference, "check_graph", lambda file, *_: file.stat())
    encoder, written = make_stock(num_blocks=1).eval(), []

    def write(*args):
        written.append(args[-1].touch())

    monkeypatch.setattr(inference, "write_graph", write)
    first = graph_file(encoder, 20, "fp32")
    assert graph_file(encoder, 20, "fp32") == first and len(written) == 1
    next(encoder.parameters()).data.add_(1)
    assert graph_file(encoder, 20, "fp32") != first and len(written) == 2


def test_a_damaged_file_is_written_anew(make_stock):
    torch.manual_seed(9)  # no other test, in no other worker, has its file
    encoder = make_stock(num_blocks=1).eval()
    file = graph_file(encoder, 20, "int8")
    for damaged in (b"", file.read_bytes()[:1000]):
        file.write_bytes(damaged)
        assert graph_file(encoder, 20, "int8") == file
        check_graph(file, encoder, 20, "int8")


def test_where_nothing_can_be_kept_the_process_keeps_its_own(
    make_stock, batch, monkeypatch, caplog
):
    monkeypatch.setenv("TORCH_HOME", "/proc/none")
    inference._cache.cache_clear()
    check(make_stock(num_blocks=1), "fp32", *batch((61,)))
    assert "cannot be written (TORCH_HOME)" in caplog.text
    inference._cache.cache_clear()


def test_a_file_that_computes_something_else_is_refused(make_stock):
    first, second = (make_stock(num_blocks=1).eval() for _ in range(2))
    file = graph_file(first, 20, "fp32")
    check_graph(file, first, 20, "fp32")
    with pytest.raises(RuntimeError, match="fp32 differ from torch's by"):
        check_graph(file, second, 20, "fp32")


@pytest.mark.parametrize(
    "precision, device, told",
    [
        ("fp16", "cpu", "none of"),
        ("bf16", "cpu", "for GPUs.*use int8"),
        ("int8", "cuda", "for CPUs.*use bf16"),
    ],
)
def test_what_a_device_cannot_gets_a_clear_message(precision, device, told):
    with pytest.raises(InputError, match=told):
        check_precision(precision, torch.device(device))


def test_int8_without_its_runtime_is_named(monkeypatch):
    monkeypatch.setattr(inference, "has_runtime", lambda: False)
    with pytest.raises(InputError, match="int8 needs onnxruntime .* or use fp32"):
        check_precision("int8", CPU)
    check_precision("fp32", CPU)


@pytest.mark.parametrize("vnni", [True, False])
def test_slow_int8_is_warned_of_once(monkeypatch, caplog, vnni):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    inference._warn_of_slow_int8.cache_clear()
    for _ in range(2):
        check_precision("int8", CPU)
    assert ["VNNI" in r.message for r in caplog.records] == [True] * (not vnni)
