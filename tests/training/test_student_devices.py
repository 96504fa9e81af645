"""A student of ESPnet's that prunes, and a compact one, take a step off the CPU."""

import pytest

from tests.pruning.two_devices import THERE


@pytest.mark.parametrize("phase", ["prune", "finetune"])
def test_a_step_of_training(
    phase, make_model, student_options, speech_batch, shake, elsewhere
):
    options = student_options(gated=phase == "prune")
    student = shake(make_model(**options)).train()
    student.set_teacher(make_model())
    if student.sparsity is not None:
        student.sparsity.total_steps = 10
    place = elsewhere(student)
    batch = {name: place(x) for name, x in speech_batch().items()}
    loss, stats, weight = student(**batch)
    assert {x.device.type for x in (loss, weight)} == {THERE.type}
    loss.backward()
    named = dict(student.named_parameters())
    assert all(p.grad is None or p.grad.isfinite().all() for p in named.values())
    assert named["encoder.encoders.0.feed_forward.w_1.weight"].grad.any()
    assert {"loss_layer", "loss_output"} <= stats.keys()
