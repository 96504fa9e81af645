"""The model that is trained: a student, with gates or compact, beside its teacher."""

import copy

import pytest
import torch

from espnet_prune.export.compact_dir import model_state


def with_teacher(student, teacher):
    """A student beside a teacher of the same weights."""
    teacher.load_state_dict(model_state(student.state_dict()), strict=True)
    student.set_teacher(teacher)
    return student


@pytest.fixture
def student(make_model, student_options, shake):
    """A gated student with a teacher of its own weights."""
    student = with_teacher(shake(make_model(**student_options())), make_model())
    student.sparsity.total_steps = 10
    return student


def test_teacher_is_outside_the_module_registry(student):
    assert not [name for name in student.state_dict() if "teacher" in name]
    assert student.teacher not in set(student.modules())
    assert not {*student.teacher.parameters()} & {*student.parameters()}


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


def test_teacher_follows_the_student_to_another_type(student, speech_batch):
    batch = speech_batch()
    student.eval().gates.mask = torch.ones(len(student.gates.layout))
    assert student(**batch)[1]["loss_layer"] > 1e-8  # rounding errors
    batch["speech"] = batch["speech"].double()
    stats = student.double()(**batch)[1]
    assert stats["loss_layer"] < 1e-8


@pytest.mark.parametrize("by", ["magnitude", "feedback"])
def test_with_feedback_what_is_closed_goes_on_learning(
    make_model, student_options, speech_batch, by
):
    student = make_model(**student_options(by=by)).train()
    student.sparsity.total_steps = 10
    student.sparsity.step.fill_(9)
    student(**speech_batch())[0].backward()
    layout, mask = student.gates.layout, student.gates.mask
    closed = 0
    for structure in layout.structures:
        if structure.name.endswith("feed_forward.unit"):
            grad = student.get_parameter(structure.gated[0].tensor).grad
            units = mask[layout.span(structure.name)] == 0
            closed += int(units.sum())
            assert bool(grad[:, units].any()) == (by == "feedback" and units.any())
    assert closed


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
    "weights", [(0.5, 4.0, 0.25), (1.0, 4.0, 0.0), (1.0, 0.0, 2.0), (1.0, 0.0, 0.0)]
)
def test_loss_is_the_weighted_sum_of_the_terms_that_count(
    make_model, student_options, speech_batch, weights
):
    names = "task", "layer", "output"
    distill = {f"{n}_weight": w for n, w in zip(names, weights, strict=True)}
    options = student_options(gated=False)
    options["model_conf"]["distill"] = distill
    student = with_teacher(make_model(**options), make_model()).eval()
    calls = []
    student.teacher.decoder.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():  # else there is nothing to distil
        student.encoder.encoders[1].norm_final.bias[0] += 1.0
    loss, stats, _ = student(**speech_batch())
    total = sum(
        w * stats.get(f"loss_{n}", 0) for n, w in zip(names, weights, strict=True)
    )
    assert loss.item() == pytest.approx(float(total), rel=1e-5)
    counted = [n for n, w in zip(names, weights, strict=True) if w]
    assert [n for n in names if f"loss_{n}" in stats] == counted
    assert all(stats[f"loss_{n}"] > 0 for n in counted)
    # Its teacher does no more than is compared.
    assert bool(calls) == (weights[2] > 0)


def test_every_parameter_gets_a_gradient(student, speech_batch):
    # DDP would stop at a parameter without one.
    student.train()(**speech_batch())[0].backward()
    assert not [n for n, p in student.named_parameters() if p.grad is None]
    assert student.gates.log_alpha.grad.any()


def test_student_whose_gates_are_open_computes_what_its_teacher_does(
    student, speech_batch
):
    batch = speech_batch()
    student.eval().gates.mask = torch.ones(len(student.gates.layout))
    stats = student(**batch)[1]
    assert stats["loss_layer"].item() == pytest.approx(0, abs=1e-4)
    assert stats["loss_output"].item() == pytest.approx(0, abs=1e-4)
    expected = student.teacher(**batch)[0]
    torch.testing.assert_close(stats["loss_task"], expected)
    # And what a closed gate takes away is gone from it.
    span = student.gates.layout.span("encoder.encoders.0.feed_forward.unit")
    student.gates.mask[span] = 0
    assert student(**batch)[1]["loss_layer"] > 0.01


def test_forward_leaves_no_hooks_and_no_gated_weights(student, speech_batch):
    weight = student.encoder.encoders[0].feed_forward.w_2.weight
    student.train()(**speech_batch())
    assert student.encoder.encoders[0].feed_forward.w_2.weight is weight
    for model in (student, student.teacher):
        assert not any(m._forward_hooks for m in model.modules())


def test_only_training_forwards_count_as_steps_and_draw(student, speech_batch):
    student.eval()(**speech_batch())
    assert student.sparsity.step.item() == student.gates.draws.item() == 0
    student.train()(**speech_batch())
    assert student.sparsity.step.item() == student.gates.draws.item() == 1


@pytest.mark.parametrize("missing", ["gates", "sparsity", "budget"])
def test_gates_and_their_budget_belong_together(make_model, student_options, missing):
    options = student_options()
    del options["model_conf"][missing]
    with pytest.raises(ValueError, match="belong together"):
        make_model(**options)


def test_student_without_gates_or_teacher_is_espnets_model(
    make_model, student_options, speech_batch
):
    student = make_model(**student_options(gated=False)).eval()
    plain = make_model().eval()
    plain.load_state_dict(student.state_dict(), strict=True)
    batch = speech_batch()
    torch.testing.assert_close(student(**batch)[0], plain(**batch)[0])


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
    # Step 6 of a ramp of 5: at the target.
    assert stats["sparsity_target"].item() == pytest.approx(0.5)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in student.parameters())


@pytest.mark.parametrize(
    ("layer_weight", "gates", "teacher_size", "built"),
    [
        (1.0, {}, None, False),
        (1.0, {"model_dim": True}, None, True),  # channels of its blocks will be gone
        (1.0, None, 24, True),
        (0.0, None, 24, False),  # without a gradient, which DDP does not take
    ],
)
def test_blocks_are_compared_through_a_projection_where_channels_differ(
    make_model, student_options, layer_weight, gates, teacher_size, built
):
    from tests.fixtures.models import gated_conf

    options = student_options(gated=False)
    conf = options["model_conf"] | {"teacher_size": teacher_size}
    conf["distill"] = {"layer_weight": layer_weight}
    if gates is not None:
        dense = make_model(encoder_conf=options["encoder_conf"])
        conf |= gated_conf(dense, {}, **gates)
    projection = make_model(**options | {"model_conf": conf}).projection
    assert (projection is not None) == built
    if built:  # it starts as the identity, as far as there is one
        torch.testing.assert_close(
            projection.weight, torch.eye(*projection.weight.shape)
        )


@pytest.mark.parametrize("conditioning", [False, True])
def test_intermediate_ctc_goes_on_in_a_student(
    make_model, student_options, speech_batch, shake, conditioning
):
    options = student_options()
    conf = {"interctc_layer_idx": [1], "interctc_use_conditioning": conditioning}
    options["encoder_conf"] = options["encoder_conf"] | conf
    options["model_conf"]["interctc_weight"] = 0.3
    student = shake(make_model(**options))
    student = with_teacher(student, make_model(encoder_conf=options["encoder_conf"]))
    student.sparsity.total_steps = 10
    student.eval().gates.mask = torch.ones(len(student.gates.layout))
    stats = student(**speech_batch())[1]
    assert stats["loss_layer"] < 1e-5 and stats["loss_interctc_layer1"] > 0
    if conditioning:  # what CTC says is heard in the block behind
        with torch.no_grad():
            student.ctc.ctc_lo.bias[1] += 5
        assert student(**speech_batch())[1]["loss_layer"] > 1e-3
        student.train()(**speech_batch())[0].backward()
        assert not [n for n, p in student.named_parameters() if p.grad is None]
