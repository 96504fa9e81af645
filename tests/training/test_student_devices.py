"""A student of ESPnet's that prunes, and a compact one, take a step off the CPU."""

import pytest
import torch

from tests.pruning.two_devices import THERE, TwoDevices, move, there


@pytest.fixture(params=["pretended", "real"])
def device(request):
    """``device(student)``: puts it and its teacher on a device that is not the CPU,
    and gives what puts tensors there."""
    if request.param == "real" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    if request.param == "real":
        yield lambda student: student.cuda() and torch.Tensor.cuda
    else:
        with TwoDevices():
            yield lambda student: move(student) and move(student.teacher) and there


@pytest.mark.parametrize("phase", ["prune", "finetune"])
def test_a_step_of_training(
    phase, make_model, student_options, speech_batch, shake, device
):
    options = student_options(gated=phase == "prune")
    student = shake(make_model(**options)).train()
    student.set_teacher(make_model())
    if student.sparsity is not None:
        student.sparsity.total_steps = 10
    place = device(student)
    batch = {name: place(x) for name, x in speech_batch().items()}
    loss, stats, weight = student(**batch)
    assert {x.device.type for x in (loss, weight)} == {THERE.type}
    loss.backward()
    named = dict(student.named_parameters())
    assert all(p.grad is None or p.grad.isfinite().all() for p in named.values())
    assert named["encoder.encoders.0.feed_forward.w_1.weight"].grad.any()
    assert {"loss_layer", "loss_output"} <= stats.keys()
