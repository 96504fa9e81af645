"""Distil from the dense teacher: block by block, and on the outputs.

Peng et al. 2023, DPHuBERT (arXiv 2305.17651), eq. 6 for the layer term (L1 and cosine
distance); Hinton et al. 2015 (arXiv 1503.02531) for the output term.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from espnet2.train.abs_espnet_model import AbsESPnetModel
from torch import Tensor, nn

from espnet_prune.config.sections import DistillOptions
from espnet_prune.training.recording import Record


def layer_loss(
    options: DistillOptions,
    student: Record,
    teacher: Record,
    projection: nn.Module | None,
) -> Tensor:
    """Sum the differences of the compared blocks, over real frames only.

    Blocks of a frontend that learns count as those of the encoder do.

    Args:
        options: which blocks are compared.
        student, teacher: what passed through both.
        projection: applied to the student's blocks, (..., channel) -> (..., channel).
    """
    mask = length_mask(student.encoded[1], student.hidden[0].shape[1])
    total = block_loss(options, student.hidden, teacher.hidden, mask, projection)
    if student.states:
        mask = length_mask(student.state_lengths, student.states[0].shape[1])
        # s3prl counts a frame more than there is, of zeros: it has no direction.
        mask = mask & teacher.states[0].any(-1)
        total = total + state_loss(options, student.states, teacher.states, mask)
    return total


def state_loss(
    options: DistillOptions,
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    mask: Tensor,
) -> Tensor:
    """Sum the differences of a self-supervised encoder's compared states.

    Args:
        options: which blocks are compared, beside what goes into the first.
        student, teacher: states (batch, time, channel), that before the blocks first.
        mask: (batch, time), True where the frame is real.
    """
    first = difference(student[0][mask].float(), teacher[0][mask].float())
    return first + block_loss(options, student[1:], teacher[1:], mask)


def block_loss(
    options: DistillOptions,
    student: Mapping[int, Tensor] | Sequence[Tensor],
    teacher: Mapping[int, Tensor] | Sequence[Tensor],
    mask: Tensor,
    projection: nn.Module | None = None,
) -> Tensor:
    """Sum the differences of the compared blocks.

    Args:
        options: which blocks are compared.
        student, teacher: outputs of the blocks, (batch, time, channel).
        mask: (batch, time), True where the frame is real.
        projection: as for :func:`layer_loss`.
    """
    total = student[0].new_zeros((), dtype=torch.float32)
    for own, other in groups(options, len(student), len(teacher)):
        hidden = mean_of(student, own)[mask]
        hidden = (projection(hidden) if projection else hidden).float()
        wanted = mean_of(teacher, other)[mask].float()
        total = total + difference(hidden, wanted)
    return total


def mean_of(hidden: Mapping[int, Tensor] | Sequence[Tensor], blocks: range) -> Tensor:
    """Average some blocks' outputs, (batch, time, channel)."""
    first, *rest = (hidden[i] for i in blocks)
    return sum(rest, first) / len(blocks) if rest else first


def difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute mean |s - t| + 1 - cos(s, t) of two blocks' outputs, (frame, channel)."""
    cosine = F.cosine_similarity(student, teacher, dim=-1)
    return F.l1_loss(student, teacher) + (1 - cosine).mean()


def matches(
    options: DistillOptions, num_student: int, num_teacher: int
) -> list[tuple[int, int]]:
    """Pair (student block, teacher block) at the same depth, 0-based."""
    return [
        (max(1, round((t + 1) * num_student / num_teacher)) - 1, t)
        for t in options.block_indices(num_teacher)
    ]


def groups(
    options: DistillOptions, num_student: int, num_teacher: int
) -> list[tuple[range, range]]:
    """Group the blocks of student and teacher whose means are compared.

    A group is one block each, or with ``means`` all since the pair before.
    """
    found, start = [], (0, 0)
    for pair in matches(options, num_student, num_teacher):
        first = start if options.means else pair
        spans = zip(first, pair, strict=True)
        found.append(tuple(range(min(a, b), b + 1) for a, b in spans))
        start = tuple(i + 1 for i in pair)
    return found


def identity_projection(student_size: int, teacher_size: int) -> nn.Linear:
    """Make a linear layer that starts as the identity (as far as the sizes allow)."""
    layer = nn.Linear(student_size, teacher_size)
    with torch.no_grad():
        nn.init.eye_(layer.weight)
        layer.bias.zero_()
    return layer


def output_loss(
    student: AbsESPnetModel,
    teacher: AbsESPnetModel,
    student_record: Record,
    teacher_record: Record,
    options: DistillOptions,
) -> Tensor:
    """Compute KL(teacher || student) of CTC and decoder, in the task loss's shares.

    It is summed over frames or tokens and divided by the batch, like ESPnet's losses.
    """
    total = student_record.encoded[0].new_zeros((), dtype=torch.float32)
    ctc_weight = student.ctc_weight
    if student.ctc is not None:
        mask = length_mask(student_record.encoded[1], student_record.encoded[0].size(1))
        s = student.ctc.ctc_lo(student_record.encoded[0])
        with torch.no_grad():
            t = teacher.ctc.ctc_lo(teacher_record.encoded[0])
        total = total + ctc_weight * divergence(s, t, mask)
    if student_record.decoder_logits is not None:
        s, t = student_record.decoder_logits, teacher_record.decoder_logits
        ids, lengths = student_record.decoder_input
        mask = length_mask(lengths, s.shape[1])
        # What stands before the start (OWSM's text_prev) nobody learns to predict.
        mask = mask & ((ids == student.sos).cumsum(1) > 0)
        total = total + (1 - ctc_weight) * divergence(s, t, mask)
    return total


def divergence(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Compute KL(teacher || student) per utterance of logits (batch, time, vocabulary).

    Args:
        mask: (batch, time), True where the position counts.
    """
    s = F.log_softmax(student[mask].float(), dim=-1)
    t = F.log_softmax(teacher[mask].float(), dim=-1)
    total = F.kl_div(s, t, reduction="sum", log_target=True)
    return total / student.shape[0]


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """Turn (batch,) lengths into (batch, size), True within the length."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]
