"""Distil from the dense teacher: block by block, and on the outputs.

Peng et al. 2023, DPHuBERT (arXiv 2305.17651), eq. 6 for the layer term (L1 and cosine
distance); Hinton et al. 2015 (arXiv 1503.02531) for the output term.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from espnet2.train.abs_espnet_model import AbsESPnetModel
from torch import Tensor, nn

from espnet_prune.config.sections import DistillOptions
from espnet_prune.families.espnet.chunks import in_time
from espnet_prune.families.espnet.conditioning import lent
from espnet_prune.families.espnet.layers import content


@dataclass
class Record:
    """The record of what passes through a model in one forward pass."""

    features: tuple[Tensor, Tensor] | None = None  # (batch, frame, feature), lengths
    hidden: dict[int, Tensor] = field(default_factory=dict)  # (batch, time, channel)
    encoded: tuple[Tensor, Tensor] | None = None  # (batch, time, channel), lengths
    decoder_input: tuple[Tensor, Tensor] | None = None  # (batch, token), lengths
    decoder_logits: Tensor | None = None  # (batch, token, vocabulary)


@contextmanager
def record(model: AbsESPnetModel) -> Iterator[Record]:
    """Record what passes through encoder and decoder while the context is open.

    ESPnet's model keeps these tensors to itself; hooks get at them without a copy of
    its forward.
    """
    rec = Record()
    # Blocks of a narrow encoder: to where their channels were. ESPnet's are never so.
    spread = getattr(model.encoder, "spread", nn.Identity())

    def on_encoder(_module, args, output):
        rec.features, rec.encoded = args[:2], (content(output[0]), output[1])

    def on_decoder(_module, args, output):
        rec.decoder_input, rec.decoder_logits = args[2:4], output[0]

    def on_block(index):
        def hook(_module, _args, output):
            rec.hidden[index] = spread(in_time(model.encoder, content(output[0])))

        return hook

    with ExitStack() as stack:
        pairs = [(model.encoder, on_encoder)]
        pairs += [(b, on_block(i)) for i, b in enumerate(model.encoder.encoders)]
        if model.decoder is not None:
            pairs.append((model.decoder, on_decoder))
        for module, hook in pairs:
            stack.callback(module.register_forward_hook(hook).remove)
        yield rec


@torch.no_grad()
def run_teacher(
    teacher: AbsESPnetModel, decoder: nn.Module | None, student: Record
) -> Record:
    """Run the teacher once on the very features (augmented) that the student saw.

    Args:
        teacher: the model.
        decoder: the teacher's, if its outputs are needed, too.
        student: what passed through the student.
    """
    with record(teacher) as rec:
        teacher.encoder(*student.features, **lent(teacher))
    if decoder is not None and student.decoder_input is not None:
        rec.decoder_logits, _ = decoder(*rec.encoded, *student.decoder_input)
    return rec


def layer_loss(
    options: DistillOptions,
    student: Record,
    teacher: Record,
    projection: nn.Module | None,
) -> Tensor:
    """Sum the differences of the compared blocks, over real frames only.

    Args:
        options: which blocks are compared.
        student, teacher: what passed through both.
        projection: applied to the student's blocks, (..., channel) -> (..., channel).
    """
    mask = length_mask(student.encoded[1], student.hidden[0].shape[1])
    total = student.encoded[0].new_zeros((), dtype=torch.float32)
    for own, other in groups(options, len(student.hidden), len(teacher.hidden)):
        hidden = mean_of(student.hidden, own)[mask]
        hidden = (projection(hidden) if projection else hidden).float()
        wanted = mean_of(teacher.hidden, other)[mask].float()
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
