import copy

import pytest
import torch

from espnet_prune.pruning.gates import gates_of
from espnet_prune.training.distill import DistillOptions


@pytest.fixture
def student(make_model, student_options, shake):
    """A gated student with a teacher of its own weights."""
    student = shake(make_model(**student_options()))
    teacher = make_model()
    state = {
        k: v
        for k, v in student.state_dict().items()
        if "log_alpha" not in k and not k.startswith("sparsity")
    }
    teacher.load_state_dict(state, strict=True)
    student.set_teacher(teacher)
    student.sparsity.total_steps = 10
    return student


def test_teacher_is_outside_the_module_registry(student, make_model, student_options):
    alone = make_model(**student_options())
    assert set(student.state_dict()) == set(alone.state_dict())
    assert len(list(student.parameters())) == len(list(alone.parameters()))
    assert student.teacher not in set(student.modules())
    assert not [n for n, _ in student.named_modules() if "teacher" in n]


def test_teacher_stays_frozen_and_in_evaluation_mode(student, speech_batch):
    student.train()
    # (ESPnet shares some stateless modules between models as default arguments.)
    random = (torch.nn.Dropout, torch.nn.modules.batchnorm._BatchNorm)
    parts = [m for m in student.teacher.modules() if isinstance(m, random)]
    assert parts and not any(m.training for m in parts)
    assert not any(p.requires_grad for p in student.teacher.parameters())
    before = copy.deepcopy(student.teacher.state_dict())
    student(**speech_batch())[0].backward()
    for name, value in student.teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_teacher_follows_the_student_to_another_type(student):
    student.double()
    assert next(student.teacher.parameters()).dtype == torch.float64


def test_every_loss_is_in_the_stats(student, speech_batch):
    loss, stats, weight = student.train()(**speech_batch())
    names = {"loss_task", "loss_layer", "loss_output", "loss_sparsity", "acc"}
    names |= {"sparsity_expected", "sparsity_realised", "sparsity_target"}
    assert names | {"lambda1", "lambda2", "loss"} <= set(stats)
    total = sum(stats[f"loss_{n}"] for n in ("task", "layer", "output", "sparsity"))
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    assert not any(v.requires_grad for v in stats.values() if v is not None)
    assert int(weight) == 3


@pytest.mark.parametrize(
    "weights", [(0.5, 4.0, 0.25), (1.0, 4.0, 0.0), (1.0, 0.0, 2.0)]
)
def test_loss_is_the_weighted_sum_of_the_terms_that_count(
    student, speech_batch, weights
):
    names = "task", "layer", "output"
    options = {f"{n}_weight": w for n, w in zip(names, weights, strict=True)}
    student.distill = DistillOptions(**options)
    calls = []
    student.teacher.decoder.register_forward_hook(lambda *_: calls.append(1))
    loss, stats, _ = student.train()(**speech_batch())
    total = stats["loss_sparsity"]
    for name, weight in zip(names, weights, strict=True):
        assert (f"loss_{name}" in stats) == (weight > 0)
        if weight > 0:
            total = total + weight * stats[f"loss_{name}"]
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    # Its teacher does no more than is compared.
    assert bool(calls) == (weights[2] > 0)


def test_blocks_are_drawn_while_the_student_is_trained_only(
    student, speech_batch, monkeypatch
):
    drawn = []

    def matches(options, num_student, num_teacher, training, *others):
        drawn.append(training)
        return [(0, 0)]

    monkeypatch.setattr("espnet_prune.training.distill.matches", matches)
    student.train()(**speech_batch())
    student.eval()(**speech_batch())
    assert drawn == [True, False]


def test_every_parameter_gets_a_gradient(student, speech_batch):
    # DDP would stop at a parameter without one.
    student.train()(**speech_batch())[0].backward()
    missing = [n for n, p in student.named_parameters() if p.grad is None]
    assert not missing


def test_open_student_with_its_own_teacher_has_no_distillation_loss(
    student, speech_batch
):
    student.eval().encoder.set_masks(
        {n: torch.ones(len(g)) for n, g in gates_of(student.encoder).items()}
    )
    stats = student(**speech_batch())[1]
    assert stats["loss_layer"].item() == pytest.approx(0, abs=1e-4)
    assert stats["loss_output"].item() == pytest.approx(0, abs=1e-4)


def test_forward_leaves_no_hooks(student, speech_batch):
    student(**speech_batch())
    for model in (student, student.teacher):
        assert not any(m._forward_hooks for m in model.modules())


def test_only_training_forwards_count_as_steps(student, speech_batch):
    student.eval()(**speech_batch())
    assert student.sparsity.step.item() == 0
    student.train()(**speech_batch())
    assert student.sparsity.step.item() == 1


@pytest.mark.parametrize("missing", ["gates", "sparsity"])
def test_gates_and_sparsity_belong_together(make_model, student_options, missing):
    options = copy.deepcopy(student_options())
    for part in ("encoder_conf", "model_conf"):
        options[part].pop(missing, None)
    with pytest.raises(ValueError, match="belong together"):
        make_model(**options)


def test_student_without_gates_or_teacher_is_espnets_model(
    make_model, student_options, speech_batch
):
    student = make_model(**student_options(gated=False)).eval()
    plain = make_model().eval()
    plain.load_state_dict(student.state_dict(), strict=True)
    batch = speech_batch()
    expected, actual = plain(**batch), student(**batch)
    torch.testing.assert_close(actual[0], expected[0])


def test_mixed_precision_forward_keeps_the_budget_in_fp32(student, speech_batch):
    student.train()
    student.sparsity.step.fill_(5)
    with torch.no_grad():
        student.sparsity.lambda1.fill_(1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, stats, _ = student(**speech_batch())
    assert loss.isfinite().all()
    for name in ("loss_sparsity", "sparsity_expected", "sparsity_realised"):
        assert stats[name].dtype == torch.float32
    target = 0.5 * 6 / 5  # step 6 of a ramp of 5: at the target
    assert stats["sparsity_target"].item() == pytest.approx(min(0.5, target))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in student.parameters())


def test_no_projection_without_a_layer_term(make_model, student_options):
    """DDP does not take parameters without a gradient."""
    options = student_options(gated=False)
    conf = options["model_conf"]
    conf["teacher_size"] = 24
    for weight, built in ((1.0, True), (0.0, False)):
        conf["distill"] = {"layer_weight": weight, "output_weight": 0.0}
        model = make_model(**options)
        assert (model.projection is not None) == built


@pytest.mark.parametrize("match", ["fixed", "min_distance"])
def test_only_blocks_that_are_left_are_matched_by_distance(
    student, speech_batch, monkeypatch, match
):
    student.distill = DistillOptions(match=match, layers=1)
    block, asked = student.encoder.encoders[0], []
    with torch.no_grad():
        for layer in block.submodules().values():
            layer.module_gate.log_alpha.fill_(-1.0)
    others = list(range(1, len(student.encoder.encoders)))

    def spy(*args):
        asked.append(args[-1])
        return torch.zeros(())

    monkeypatch.setattr("espnet_prune.training.student.layer_loss", spy)
    student.train()(**speech_batch())
    assert asked == [others if match == "min_distance" else None]
