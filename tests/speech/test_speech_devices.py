"""A student that prunes, and one that is distilled, take a step off the CPU."""

import pytest
import torch

from espnet_prune.base.files import read_yaml
from espnet_prune.training.ssl_student import PruneSpeechModel
from tests.pruning.two_devices import THERE


@pytest.mark.parametrize("phase", ["prune", "distil"])
def test_a_step_of_training(phase, pruned, compact, elsewhere):
    conf = read_yaml(pruned / "config.yaml")["model_conf"]
    if phase == "distil":
        conf = {"dense": conf["dense"], "compact": str(compact), "normalize": True}
    student = PruneSpeechModel(**conf).train()
    if student.sparsity is not None:
        student.sparsity.total_steps = 10
    place = elsewhere(student)
    audio, lengths = torch.randn(2, 4000), torch.tensor([4000, 3100])
    loss, stats, weight = student(speech=place(audio), speech_lengths=place(lengths))
    assert {x.device.type for x in (loss, weight)} == {THERE.type}
    loss.backward()
    named = dict(student.named_parameters())
    assert all(p.grad is None or p.grad.isfinite().all() for p in named.values())
    assert named["model.encoder.layers.0.feed_forward.output_dense.weight"].grad.any()
