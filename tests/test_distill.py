import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_prune.training import distill
from espnet_prune.training.distill import (
    DistillOptions,
    Record,
    divergence,
    length_mask,
    output_loss,
    record,
    run_teacher,
)

LENGTHS = torch.tensor([5, 3])


def records(seed: int = 0) -> Record:
    torch.manual_seed(seed)
    hidden = {i: torch.randn(2, 5, 4) for i in (0, 1)}
    return Record(hidden=hidden, encoded=(torch.randn(2, 5, 4), LENGTHS))


def layer_loss(student, teacher, projection=None, training=False, **options):
    options = {"layers": 2} | options
    left = options.pop("left", None)
    return distill.layer_loss(
        DistillOptions(**options), student, teacher, projection, training, left
    )


def test_identical_hidden_states_cost_nothing():
    assert layer_loss(records(), records()).item() == pytest.approx(0, abs=1e-6)
    assert layer_loss(records(), records(1)).item() > 1


@pytest.mark.parametrize("filler", [7.0, float("nan")])
def test_padding_frames_do_not_matter(filler):
    student, teacher = records(), records(1)
    before = layer_loss(student, teacher).item()
    for hidden in student.hidden.values():
        hidden[1, 3:] = filler
    assert layer_loss(student, teacher).item() == pytest.approx(before)


def test_layer_loss_is_l1_and_cosine_distance():
    student, teacher = records(), records(1)
    expected = 0.0
    for i, s in student.hidden.items():
        t = teacher.hidden[i]
        frames = [(s[b, k], t[b, k]) for b in range(2) for k in range(LENGTHS[b])]
        expected += sum((a - b).abs().mean() for a, b in frames) / len(frames)
        expected += sum(1 - a @ b / (a.norm() * b.norm()) for a, b in frames) / len(
            frames
        )
    assert layer_loss(student, teacher).item() == pytest.approx(expected.item())


def test_divergence_is_kl_from_the_teacher_per_utterance():
    s, t = torch.randn(2, 5, 6), torch.randn(2, 5, 6)
    mask = length_mask(LENGTHS, 5)
    p, q = (torch.softmax(x / 2.0, -1) for x in (t, s))
    kl = (p * (p / q).log()).sum(-1)[mask].sum() * 2.0**2 / 2
    assert divergence(s, t, mask, 2.0).item() == pytest.approx(kl.item(), rel=1e-4)
    assert divergence(s, s, mask, 2.0).item() == pytest.approx(0, abs=1e-5)


def test_divergence_ignores_padding():
    s, t = torch.randn(2, 5, 6), torch.randn(2, 5, 6)
    mask = length_mask(LENGTHS, 5)
    before = divergence(s, t, mask, 1.0).item()
    s[1, 3:] = 99.0
    assert divergence(s, t, mask, 1.0).item() == pytest.approx(before)


@pytest.mark.parametrize(
    ("layers", "blocks", "expected"),
    [(4, 8, [1, 3, 5, 7]), (3, 12, [3, 7, 11]), (4, 2, [0, 1]), (1, 5, [4])],
)
def test_compared_blocks_are_spread_and_end_with_the_last(layers, blocks, expected):
    assert DistillOptions(layers=layers).block_indices(blocks) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"layer_weight": -1.0},
        {"layers": 0},
        {"temperature": 0.0},
        {"match": "dynamic"},
        {"layer_loss": "l2"},
        {"output_ctc_weight": 1.5},
    ],
)
def test_wrong_option_is_refused(options):
    with pytest.raises(ValueError, match="distill"):
        DistillOptions(**options)


def hooks_of(model) -> int:
    return sum(len(m._forward_hooks) for m in model.modules())


@pytest.fixture
def models(make_model, shake):
    return shake(make_model()).eval(), shake(make_model()).eval()


def test_hooks_are_gone_after_the_forward_and_after_an_error(models, speech_batch):
    model, _ = models
    with record(model) as seen:
        assert hooks_of(model) == 4
        model(**speech_batch())
    assert hooks_of(model) == 0
    assert set(seen.hidden) == {0, 1}
    with pytest.raises(KeyError), record(model):
        raise KeyError
    assert hooks_of(model) == 0


def test_teacher_sees_the_features_of_the_student_and_no_gradient_reaches_it(
    models, speech_batch
):
    student, teacher = models
    with record(student) as seen:
        student(**speech_batch())
    given = []
    teacher.encoder.register_forward_hook(lambda _, args, __: given.extend(args))
    told = run_teacher(teacher, seen)
    assert all(torch.equal(*pair) for pair in zip(given, seen.features, strict=True))
    loss = layer_loss(seen, told) + output_loss(
        student, teacher, seen, told, DistillOptions(temperature=2.0)
    )
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    for part in (student.encoder, student.decoder, student.ctc):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())


def test_identical_student_and_teacher_have_no_loss(models, speech_batch):
    student, teacher = models
    teacher.load_state_dict(student.state_dict())
    with record(student) as seen:
        student(**speech_batch())
    told = run_teacher(teacher, seen)
    assert layer_loss(seen, told).item() == pytest.approx(0, abs=1e-4)
    output = output_loss(student, teacher, seen, told, DistillOptions(temperature=1.0))
    assert output.item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("ctc_weight", [0.0, 1.0])
def test_models_without_ctc_or_decoder_distil_what_they_have(
    make_model, shake, speech_batch, ctc_weight
):
    conf = {"ctc_weight": ctc_weight, "report_cer": False, "report_wer": False}
    student, teacher = (shake(make_model(model_conf=conf)).eval() for _ in range(2))
    with record(student) as seen:
        student(**speech_batch())
    told = run_teacher(teacher, seen)
    assert (
        output_loss(
            student, teacher, seen, told, DistillOptions(temperature=1.0)
        ).item()
        > 0
    )


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_share_of_ctc_in_the_output_term_can_be_chosen(models, speech_batch, share):
    student, teacher = models
    with record(student) as seen:
        student(**speech_batch())
    told = run_teacher(teacher, seen)

    def term(share):
        options = DistillOptions(output_ctc_weight=share)
        return output_loss(student, teacher, seen, told, options).item()

    mixed = share * term(1.0) + (1 - share) * term(0.0)
    assert term(share) == pytest.approx(mixed, rel=1e-4) and term(share) > 0


def deep(num_blocks: int, seed: int = 0) -> Record:
    torch.manual_seed(seed)
    hidden = {i: torch.randn(2, 5, 4) for i in range(num_blocks)}
    return Record(hidden=hidden, encoded=(torch.randn(2, 5, 4), LENGTHS))


def test_mse_is_the_mean_squared_difference():
    student, teacher = records(), records(1)
    mask = length_mask(LENGTHS, 5)
    expected = sum(
        (s[mask] - teacher.hidden[i][mask]).square().mean()
        for i, s in student.hidden.items()
    )
    loss = layer_loss(student, teacher, layer_loss="mse")
    assert loss.item() == pytest.approx(expected.item())


def test_projection_starts_as_the_identity_and_learns():
    student, teacher = records(), records(1)
    projection = distill.identity_projection(4, 4)
    loss = layer_loss(student, teacher, projection)
    assert loss.item() == pytest.approx(layer_loss(student, teacher).item())
    loss.backward()
    assert projection.weight.grad.any()


def test_projection_bridges_model_dimensions():
    student, teacher = records(), records(1)
    wide = {i: torch.randn(2, 5, 6) for i in teacher.hidden}
    loss = layer_loss(
        student, Record(hidden=wide), distill.identity_projection(4, 6), layers=1
    )
    assert loss.item() > 0


@given(rows=st.integers(1, 4), more=st.integers(0, 3), seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=60)
def test_ordered_assignment_is_the_best_of_all(rows, more, seed):
    draw = torch.Generator().manual_seed(seed)
    distances = torch.rand(rows, rows + more, generator=draw).tolist()

    def total(columns):
        return sum(distances[r][c] for r, c in enumerate(columns))

    best = min(itertools.combinations(range(rows + more), rows), key=total)
    assert total(distill.ordered_assignment(distances)) == pytest.approx(total(best))
    chosen = distill.ordered_assignment(distances)
    assert all(a < b for a, b in itertools.pairwise(chosen))


def test_minimum_distance_finds_blocks_that_moved():
    teacher = deep(6)
    student = deep(6, seed=1)
    options = {"match": "min_distance", "layers": 2}  # of blocks 2 and 5
    student.hidden[0], student.hidden[1] = teacher.hidden[2], teacher.hidden[5]
    assert layer_loss(student, teacher, **options).item() < 1e-5
    # The other way round they cannot both be matched in order.
    student.hidden[0], student.hidden[1] = teacher.hidden[5], teacher.hidden[2]
    assert layer_loss(student, teacher, **options).item() > 0.5


def test_minimum_distance_chooses_among_the_blocks_that_are_left():
    teacher = deep(6)
    student = deep(6, seed=1)
    student.hidden[0] = student.hidden[3] = teacher.hidden[2]
    student.hidden[1] = student.hidden[4] = teacher.hidden[5]
    options = DistillOptions(match="min_distance", layers=2)

    def pairs(left):
        def loss(pair):
            return (student.hidden[pair[0]] - teacher.hidden[pair[1]]).abs().mean()

        return distill.matches(options, 6, 6, True, loss, left)

    assert pairs([2, 3, 4, 5]) == [(3, 2), (4, 5)]
    assert pairs([0, 4]) == [(0, 2), (4, 5)]
    assert pairs([4]) == [(4, 5)]  # fewer than are compared: the last of the teacher's
    assert len(pairs([])) == 2  # nothing to choose from


def test_a_block_is_left_until_all_its_submodules_are_closed(make_encoder):
    dense, gated = make_encoder(), make_encoder(gates={})
    assert all(block.is_left() for block in (*dense.encoders, *gated.encoders))
    block = gated.encoders[1]
    gates = [layer.module_gate.log_alpha for layer in block.submodules().values()]
    with torch.no_grad():
        for log_alpha in gates:
            log_alpha.fill_(-1.0)
        assert not block.is_left() and gated.encoders[0].is_left()
        gates[2].fill_(1.0)
    assert block.is_left()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_batch_that_overflowed_does_not_end_the_training(value):
    student, teacher = deep(6), deep(6, seed=1)
    for hidden in student.hidden.values():
        hidden.fill_(value)
    loss = layer_loss(student, teacher, match="min_distance", layers=2)
    assert not loss.isfinite()


def test_random_blocks_are_drawn_in_training_only():
    student, teacher = deep(6), deep(6, seed=1)
    options = {"match": "random", "layers": 2}
    drawn = {
        layer_loss(student, teacher, training=True, **options).item() for _ in range(9)
    }
    assert len(drawn) > 2
    fixed = layer_loss(student, teacher, layers=2).item()
    assert layer_loss(student, teacher, **options).item() == fixed


def test_as_many_blocks_are_drawn_as_are_compared():
    options = DistillOptions(match="random", layers=3)
    pairs = distill.matches(options, 6, 6, training=True, loss=None)
    assert len(set(pairs)) == 3 and all(s == t for s, t in pairs)


def test_temperature_softens_the_outputs_of_ctc(models, speech_batch):
    student, teacher = models
    with record(student) as seen:
        student(**speech_batch())
    told = run_teacher(teacher, seen)
    options = DistillOptions(output_ctc_weight=1.0, temperature=4.0)
    logits = student.ctc.ctc_lo(seen.encoded[0]), teacher.ctc.ctc_lo(told.encoded[0])
    mask = distill.length_mask(seen.encoded[1], seen.encoded[0].shape[1])
    expected = divergence(*logits, mask, 4.0).item()
    assert output_loss(student, teacher, seen, told, options).item() == pytest.approx(
        expected
    )


def test_share_of_ctc_is_by_default_that_of_the_task(models, speech_batch):
    student, teacher = models
    with record(student) as seen:
        student(**speech_batch())
    told = run_teacher(teacher, seen)
    assert student.ctc_weight == 0.4
    first, second = (
        output_loss(student, teacher, seen, told, DistillOptions(**options)).item()
        for options in ({}, {"output_ctc_weight": 0.4})
    )
    assert first == second


def test_shallow_student_is_compared_at_the_same_depth():
    options = DistillOptions(layers=3)
    pairs = distill.matches(options, 2, 6, training=False, loss=None)
    assert pairs == [(0, 1), (0, 3), (1, 5)]
