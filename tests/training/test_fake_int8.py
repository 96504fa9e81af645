"""Fake quantization: what is trained is what onnxruntime computes in int8."""

import copy

import pytest
import torch
from torch.func import functional_call

from espnet_prune.families.ssl.model import layer_states
from espnet_prune.serving.inference import RuntimeEncoder
from espnet_prune.serving.speech_onnx import write_speech_int8, write_speech_onnx
from espnet_prune.training.fake_int8 import FakeInt8, rounded_input, rounded_weight
from tests.families.test_speech_encoders import CASES as SPEECH
from tests.fixtures.gated import CASES


def rounding(model):
    """``call(*inputs)``: what a copy of the model gives under fake quantization."""
    model = copy.deepcopy(model)
    weights = FakeInt8(model, "").rounded(dict(model.named_parameters()))
    return lambda *inputs: functional_call(model, weights, inputs)


def mean_error(actual, expected):
    return float((actual - expected).abs().mean())


@pytest.mark.parametrize("name", ["conformer", "e_branchformer"])
@torch.no_grad()
def test_rounded_encoder_computes_what_onnxruntime_does_in_int8(name):
    """The two differ where a value lies between two steps, and rounding decides."""
    sizes = {"output_size": 64, "linear_units": 128, "num_blocks": 1}
    sizes["dtype"] = torch.float32
    encoder = CASES[name].make(1, **sizes).stock.eval()
    x, lengths = torch.randn(1, 70, 20), torch.tensor([70])
    plain = encoder(x, lengths)[0]
    int8 = RuntimeEncoder(encoder, 20, "int8")(x, lengths)[0]
    fake = rounding(encoder)(x, lengths)[0]
    assert mean_error(plain, int8) > 1e-3
    assert mean_error(fake, int8) < 0.02 * mean_error(plain, int8)


@torch.no_grad()
def test_rounded_speech_encoder_computes_what_onnxruntime_does_in_int8(tmp_path):
    torch.manual_seed(0)
    model, audio = SPEECH["hubert_base"]().eval(), torch.randn(1, 4000)
    write_speech_onnx(model, tmp_path / "fp32.onnx")
    paths = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    int8 = torch.from_numpy(write_speech_int8(model, *paths)(audio)[-1])
    plain, copied = layer_states(model, audio)[-1], copy.deepcopy(model)
    rounded = FakeInt8(copied, "").rounded(dict(copied.named_parameters()))
    for parameter, weight in rounded.items():
        copied.get_parameter(parameter).copy_(weight)
    fake = layer_states(copied, audio)[-1]
    assert mean_error(plain, int8) > 1e-4
    assert mean_error(fake, int8) < 0.02 * mean_error(plain, int8)


def test_gradients_pass_the_rounding_by():
    weight = torch.randn(3, 4, requires_grad=True)
    x = torch.randn(2, 5, 4, requires_grad=True)
    (rounded_input(x) @ rounded_weight(weight).T).sum().backward()
    seen = rounded_input(x).detach().sum((0, 1))
    torch.testing.assert_close(weight.grad, seen.expand(3, 4))
    torch.testing.assert_close(
        x.grad, rounded_weight(weight).detach().sum(0).expand_as(x)
    )
    assert not torch.equal(rounded_weight(weight), weight)
    levels = (rounded_weight(weight) / weight.abs().amax(1, keepdim=True) * 64).round()
    assert levels.abs().max() == 64
    for utterance in rounded_input(x):  # each has steps of its own
        assert len(utterance.unique()) > 15


def test_an_utterance_is_rounded_by_itself():
    quiet, loud = torch.randn(1, 6, 4), 100 * torch.randn(1, 6, 4)
    both = rounded_input(torch.cat([quiet, loud]))
    torch.testing.assert_close(both[:1], rounded_input(quiet))
    assert torch.equal(rounded_input(torch.zeros(1, 2)), torch.zeros(1, 2))


def test_student_is_rounded_and_its_teacher_is_not(make_model, speech_batch):
    losses = {}
    for precision in ("fp32", "int8"):
        conf = {"distill": {"precision": precision}}
        student, teacher = make_model(model="prune", model_conf=conf), make_model()
        teacher.load_state_dict(student.state_dict(), strict=True)
        student.set_teacher(teacher)
        loss, stats, _ = student.eval()(**speech_batch())
        loss.backward()
        losses[precision] = float(stats["loss_layer"])
        assert student.encoder.encoders[0].feed_forward.w_1.weight.grad.abs().sum() > 0
        assert [*student.state_dict()] == [*teacher.state_dict()]
    assert losses["fp32"] < 1e-5 and losses["int8"] > 1e-3
