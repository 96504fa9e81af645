"""A student whose frontend learns, beside a teacher that hears by its own."""

import copy

import pytest
import torch

from espnet_prune.training.configs import before_encoder
from espnet_prune.training.recording import record, run_teacher
from tests.fixtures.frontends import SPECAUG
from tests.fixtures.models import gated_conf


@pytest.fixture
def pair(make_model, make_frontend):
    """A student that prunes its frontend, too, and its teacher, which is the same."""
    options = make_frontend("hubert_base")
    options |= {"specaug": "specaug", "specaug_conf": SPECAUG}
    decoder = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1}
    decoder |= dict.fromkeys(
        (f"{name}dropout_rate" for name in ("", "positional_", "src_attention_")), 0.0
    )
    options["decoder_conf"] = decoder
    teacher = make_model(**options)
    sparsity = {"denominator": "model"}
    conf = {"ctc_weight": 0.4, "report_cer": False, "report_wer": False}
    conf |= gated_conf(copy.deepcopy(teacher), sparsity, "frontend")
    conf["distill"] = {"layers": 2, "layer_weight": 1.0, "output_weight": 1.0}
    student = make_model(**options, model="prune", model_conf=conf)
    student.load_state_dict(teacher.state_dict(), strict=False)
    student.set_teacher(teacher)
    return student, teacher


def opened(student):
    """Nothing but the augmentation is as in training."""
    student.gates.mask = torch.ones(len(student.gates.layout))
    student.sparsity.total_steps = 10
    student.train()
    for part in student.children():
        part.eval()
    return student


def test_teacher_hears_what_the_student_heard_augmented_alike(pair, speech_batch):
    student, _ = pair
    batch = speech_batch()
    batch["speech"] = batch["speech"].double()
    _, stats, _ = opened(student.double())(**batch)
    assert stats["loss_layer"].item() == pytest.approx(0, abs=1e-6)
    assert stats["loss_output"].item() == pytest.approx(0, abs=1e-6)


def test_augmentation_of_the_teacher_leaves_later_draws_alone(pair, speech_batch):
    student, teacher = pair
    student.inside = True
    batch = speech_batch()
    with record(opened(student), frontend=True) as seen:
        student.encode(batch["speech"], batch["speech_lengths"])
    before = torch.get_rng_state()
    told = run_teacher(teacher, None, seen)
    assert torch.get_rng_state().equal(before)
    torch.testing.assert_close(told.features[0], seen.features[0], rtol=0, atol=1e-4)
    augmented = (
        seen.features[0]
        - teacher.preencoder(*teacher.normalize(*teacher.frontend(*seen.speech)))[0]
    )
    assert augmented.abs().max() > 0.1  # or nothing would have been drawn


def test_blocks_of_the_frontend_are_compared_too(pair, speech_batch):
    student, teacher = pair
    last = teacher.get_submodule("frontend.upstream.upstream.model.encoder.layers.1")
    with torch.no_grad():
        for model in pair:  # only what goes into the blocks gets to the encoder
            model.frontend.featurizer.weights.copy_(torch.tensor([90.0, 0.0, 0.0]))
        last.final_layer_norm.bias.add_(1.0)
    loss, stats, _ = opened(student)(**speech_batch())
    assert stats["loss_layer"].item() > 0.5
    assert stats["loss_output"].item() == pytest.approx(0, abs=1e-3)
    loss.backward()
    inside = dict(student.frontend.upstream.upstream.model.named_parameters())
    for name in (
        "feature_extractor.conv_layers.0.conv",
        "encoder.layers.1.attention.q_proj",
    ):
        assert inside[f"{name}.weight"].grad.abs().max() > 0
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("case", ["hubert_base", "hubert_large", "wavlm_large"])
@pytest.mark.parametrize("weighs", [True, False])
def test_all_that_is_not_kept_learns(
    case, weighs, make_model, make_frontend, speech_batch
):
    """Else several GPUs would refuse to train it."""
    options = make_frontend(case)
    options["frontend_conf"]["multilayer_feature"] = weighs
    model = make_model(**options)
    kept = before_encoder(options, ["frontend"])
    model(**speech_batch())[0].backward()
    for name, parameter in model.named_parameters():
        learns = parameter.requires_grad and not name.startswith(tuple(kept))
        assert not learns or parameter.grad is not None, name
    assert kept == [*["frontend.featurizer"] * (not weighs), "preencoder"]
    assert before_encoder(options) == ["frontend", "preencoder"]
