"""The losses that compare a student with its teacher."""

from types import SimpleNamespace

import pytest
import torch

from espnet_prune.config.sections import DistillOptions
from espnet_prune.training import distill
from espnet_prune.training.distill import divergence, length_mask, output_loss
from espnet_prune.training.recording import Record, record, run_teacher
from tests.fixtures.encoders import NEEDED, NO_DROPOUT, SIZES

LENGTHS = torch.tensor([5, 3])


def records(seed: int = 0, blocks: int = 2, channels: int = 4) -> Record:
    torch.manual_seed(seed)
    hidden = {i: torch.randn(2, 5, channels) for i in range(blocks)}
    return Record(hidden=hidden, encoded=(torch.randn(2, 5, channels), LENGTHS))


def layer_loss(student, teacher, projection=None, layers=2):
    return distill.layer_loss(
        DistillOptions(layers=layers), student, teacher, projection
    )


def test_layer_loss_is_l1_and_cosine_distance_of_real_frames():
    student, teacher = records(), records(1)
    expected = 0.0
    for i, s in student.hidden.items():
        t = teacher.hidden[i]
        frames = [(s[b, k], t[b, k]) for b in range(2) for k in range(LENGTHS[b])]
        pairs = [
            (a - b).abs().mean() + 1 - a @ b / (a.norm() * b.norm()) for a, b in frames
        ]
        expected += sum(pairs) / len(frames)
    assert layer_loss(student, teacher).item() == pytest.approx(expected.item())
    assert layer_loss(student, student).item() == pytest.approx(0, abs=1e-6)
    for filler in (7.0, float("nan")):
        for hidden in student.hidden.values():
            hidden[1, 3:] = filler
        assert layer_loss(student, teacher).item() == pytest.approx(expected.item())


def test_divergence_is_kl_from_the_teacher_per_utterance():
    s, t = torch.randn(2, 5, 6), torch.randn(2, 5, 6)
    mask = length_mask(LENGTHS, 5)
    p, q = (torch.softmax(x, -1) for x in (t, s))
    kl = (p * (p / q).log()).sum(-1)[mask].sum() / 2
    assert divergence(s, t, mask).item() == pytest.approx(kl.item(), rel=1e-4)
    assert divergence(s, s, mask).item() == pytest.approx(0, abs=1e-5)
    s[1, 3:] = 99.0  # padding
    assert divergence(s, t, mask).item() == pytest.approx(kl.item(), rel=1e-4)


def test_what_stands_before_the_start_is_not_learned_from_the_teacher():
    """OWSM's decoder is given the text before, and is not trained to predict it."""
    ids = torch.tensor([[9, 1, 2, 8, 3, 4], [8, 3, 4, 8, 8, 8]])  # <sop> ... <sos> ...
    lengths, (s, t) = torch.tensor([6, 3]), torch.randn(2, 2, 6, 10).unbind()
    of_student, of_teacher = (
        Record(records().hidden, encoded=records().encoded, decoder_logits=x)
        for x in (s, t)
    )
    of_student.decoder_input = ids, lengths
    student = SimpleNamespace(ctc=None, ctc_weight=0.0, sos=8)

    def loss():
        given = student, None, of_student, of_teacher, None
        return output_loss(*given).item()

    mask = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0]]).bool()
    assert loss() == pytest.approx(divergence(s, t, mask).item(), rel=1e-5)
    s[0, :3] = 99.0
    assert loss() == pytest.approx(divergence(s, t, mask).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("layers", "students", "teachers", "pairs"),
    [
        (4, 8, 8, [(1, 1), (3, 3), (5, 5), (7, 7)]),
        (3, 12, 12, [(3, 3), (7, 7), (11, 11)]),
        (4, 2, 2, [(0, 0), (1, 1)]),
        (1, 5, 5, [(4, 4)]),
        (3, 2, 6, [(0, 1), (0, 3), (1, 5)]),  # a shallow one: at the same depth
    ],
)
def test_compared_blocks_are_spread_and_end_with_the_last(
    layers, students, teachers, pairs
):
    options = DistillOptions(layers=layers)
    assert distill.matches(options, students, teachers) == pairs


def test_projection_starts_as_the_identity_bridges_sizes_and_learns():
    student, teacher = records(), records(1)
    projection = distill.identity_projection(4, 4)
    loss = layer_loss(student, teacher, projection)
    assert loss.item() == pytest.approx(layer_loss(student, teacher).item())
    loss.backward()
    assert projection.weight.grad.any()
    wider = distill.identity_projection(4, 6)
    assert layer_loss(student, records(1, channels=6), wider).item() > 0


@pytest.fixture
def models(make_model, shake):
    return shake(make_model()).eval(), shake(make_model()).eval()


def taught(student, teacher, batch) -> tuple[Record, Record]:
    """What passes through both on a batch."""
    with record(student) as seen:
        student(**batch)

    return seen, run_teacher(teacher, teacher.decoder, seen)


def test_hooks_are_gone_after_the_forward_and_after_an_error(models, speech_batch):
    def hooks() -> int:
        return sum(len(m._forward_hooks) for m in models[0].modules())

    with record(models[0]) as seen:
        assert hooks() == 4
        models[0](**speech_batch())
    assert hooks() == 0 and set(seen.hidden) == {0, 1}
    with pytest.raises(KeyError), record(models[0]):
        raise KeyError
    assert hooks() == 0


def test_teacher_sees_the_features_of_the_student_and_no_gradient_reaches_it(
    models, speech_batch
):
    student, teacher = models
    given = []
    teacher.encoder.register_forward_hook(lambda _, args, __: given.extend(args))
    seen, told = taught(student, teacher, speech_batch())
    assert all(torch.equal(*pair) for pair in zip(given, seen.features, strict=True))
    options = DistillOptions()
    outputs = output_loss(student, teacher, seen, told, options)
    (layer_loss(seen, told) + outputs).backward()
    assert all(p.grad is None for p in teacher.parameters())
    for part in (student.encoder, student.decoder, student.ctc):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())


def test_identical_student_and_teacher_have_no_loss(models, speech_batch):
    student, teacher = models
    teacher.load_state_dict(student.state_dict())
    seen, told = taught(student, teacher, speech_batch())
    assert layer_loss(seen, told).item() == pytest.approx(0, abs=1e-4)
    outputs = output_loss(student, teacher, seen, told, DistillOptions())
    assert outputs.item() == pytest.approx(0, abs=1e-4)


def test_output_term_has_the_shares_of_the_task(models, speech_batch):
    student, teacher = models
    seen, told = taught(student, teacher, speech_batch())
    logits = student.ctc.ctc_lo(seen.encoded[0]), teacher.ctc.ctc_lo(told.encoded[0])
    mask = length_mask(seen.encoded[1], seen.encoded[0].shape[1])
    of_ctc = divergence(*logits, mask)
    tokens = length_mask(seen.decoder_input[1], seen.decoder_logits.shape[1])
    logits = seen.decoder_logits, told.decoder_logits
    of_decoder = divergence(*logits, tokens)
    assert student.ctc_weight == 0.4
    expected = 0.4 * of_ctc + 0.6 * of_decoder
    options = DistillOptions()
    found = output_loss(student, teacher, seen, told, options)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("ctc_weight", [0.0, 1.0])
def test_models_without_ctc_or_decoder_distil_what_they_have(
    make_model, shake, speech_batch, ctc_weight
):
    conf = {"ctc_weight": ctc_weight, "report_cer": False, "report_wer": False}
    student, teacher = (shake(make_model(model_conf=conf)).eval() for _ in range(2))
    seen, told = taught(student, teacher, speech_batch())
    assert output_loss(student, teacher, seen, told, DistillOptions()).item() > 0


def test_blocks_of_a_narrow_encoder_are_compared_where_their_channels_were(
    make_model, shake, speech_batch
):
    """Their dimensions, 0 where one is gone, are those of the teacher's blocks."""
    sizes = {"heads": 4, "qk_dim": 4, "v_dim": 4, "ffn1": 32, "ffn2": 32, "conv": 16}
    dims = [0, 2, 3, 7]
    narrow = {"subsampling": [16, 16], "blocks": [sizes, None], "dims": dims}
    conf = SIZES | NEEDED | {"architecture": narrow}
    student = make_model(encoder="prunable_conformer", encoder_conf=conf)
    seen, told = taught(shake(student).eval(), make_model().eval(), speech_batch())
    first, second = seen.hidden.values()
    assert first.shape == told.hidden[0].shape
    torch.testing.assert_close(first, second)  # of the block that is gone: as it came
    gone = [i for i in range(16) if i not in dims]
    assert first[..., dims].all() and not first[..., gone].any()
    assert layer_loss(seen, told).isfinite()


@pytest.mark.parametrize("size", [4, 40])
def test_blocks_of_a_streaming_encoder_are_compared_frame_by_frame(
    make_model, shake, speech_batch, size
):
    """In several chunks, or in one: each real frame counts once, no context does."""
    conf = SIZES | NO_DROPOUT | {"block_size": size, "hop_size": 2, "look_ahead": 1}
    options = {"encoder": "contextual_block_conformer", "encoder_conf": conf}
    student, teacher = (shake(make_model(**options)).train() for _ in range(2))
    seen, told = taught(student, teacher.eval(), speech_batch())
    for model, rec in ((student, seen), (teacher, told)):
        encoded, lengths = rec.encoded
        assert lengths.tolist() in ([15, 12, 10], [15, 11, 9])  # ESPnet 202511, 202611
        for hidden in rec.hidden.values():
            assert hidden.shape[2] == 16 and 15 <= hidden.shape[1] < 17
        last = model.encoder.after_norm(rec.hidden[1])[:, :15]
        torch.testing.assert_close(last, encoded)
    loss = layer_loss(seen, told)
    loss.backward()
    for hidden in told.hidden.values():
        for utterance, frames in zip(hidden, lengths, strict=True):
            utterance[frames:] = torch.nan
    assert layer_loss(seen, told).item() == pytest.approx(loss.item())
    missing = [n for n, p in student.encoder.named_parameters() if p.grad is None]
    assert missing == ["after_norm.weight", "after_norm.bias"]


def test_means_are_of_all_blocks_since_the_last_compared():
    options = DistillOptions(layers=2, means=True)
    spans = [range(0, 3), range(3, 6)]
    assert distill.groups(options, 6, 6) == [(span, span) for span in spans]
    assert distill.groups(options, 3, 6) == [
        (range(0, 2), spans[0]),
        (range(2, 3), spans[1]),
    ]
    alone = distill.groups(DistillOptions(layers=2), 6, 6)
    assert alone == [(range(i, i + 1),) * 2 for i in (2, 5)]
    hidden = [torch.full((1, 2, 3), float(i)) for i in range(6)]
    assert torch.equal(distill.mean_of(hidden, spans[1]), hidden[4])
