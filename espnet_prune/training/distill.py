"""Distillation from the dense teacher: block by block, and on the outputs.

Peng et al. 2023, DPHuBERT (arXiv 2305.17651), eq. 6 for the layer term (L1 and cosine
distance); Hinton et al. 2015 (arXiv 1503.02531) for the output term.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.nn.functional as F
from espnet2.asr.espnet_model import ESPnetASRModel
from torch import Tensor, nn

from espnet_prune.families.espnet.encoder import content

MATCHES = ("fixed", "min_distance", "random")
LAYER_LOSSES = ("l1_cos", "mse")


@dataclass(frozen=True)
class DistillOptions:
    """Loss terms and their weights.

    Args:
        task_weight: of ESPnet's CTC/attention loss.
        layer_weight: of the layer term, summed over the layers.
        output_weight: of the output term.
        output_ctc_weight: share of CTC in the output term, the rest is the decoder's;
            None for the shares of the task loss.
        temperature: of the output distributions.
        layers: number of blocks compared, evenly spaced and ending with the last; all
            of them where the student has fewer.
        match: which teacher block stands against which student block: ``fixed``, the
            one at the same depth; ``min_distance``, the assignment of student blocks
            that are left to the evenly spaced teacher blocks that keeps their order
            and has the smallest loss (CoFi, arXiv 2204.00408); ``random``, as many
            blocks drawn anew at every step (RAIL-KD, arXiv 2109.10164).
        layer_loss: ``l1_cos``, mean |s - t| + 1 - cos(s, t); or ``mse``.
        projection: compare a learned linear image of the student's blocks, which
            starts as the identity, instead of the blocks themselves.

    Raises:
        ValueError: an option outside its range, by name.
    """

    task_weight: float = 1.0
    layer_weight: float = 4.0
    output_weight: float = 0.0
    output_ctc_weight: float | None = None
    temperature: float = 1.0
    layers: int = 4
    match: str = "fixed"
    layer_loss: str = "l1_cos"
    projection: bool = False

    def __post_init__(self):
        if min(self.task_weight, self.layer_weight, self.output_weight) < 0:
            raise ValueError("distill: weights must not be negative")
        if not 0 <= (self.output_ctc_weight or 0) <= 1:
            raise ValueError("distill: output_ctc_weight must be in [0, 1]")
        if self.layers < 1 or self.temperature <= 0:
            raise ValueError("distill: layers must be >= 1 and temperature > 0")
        for name, known in (("match", MATCHES), ("layer_loss", LAYER_LOSSES)):
            if getattr(self, name) not in known:
                raise ValueError(f"distill: {name} must be one of {known}")

    @property
    def asks_teacher(self) -> bool:
        """Whether any term compares with the teacher."""
        return self.layer_weight > 0 or self.output_weight > 0

    def block_indices(self, num_blocks: int) -> list[int]:
        """0-based indices of evenly spaced blocks, ending with the last."""
        n = min(self.layers, num_blocks)
        return [round((i + 1) * num_blocks / n) - 1 for i in range(n)]


@dataclass
class Record:
    """What one forward pass of a model went through."""

    features: tuple[Tensor, Tensor] | None = None  # (batch, frame, feature), lengths
    hidden: dict[int, Tensor] = field(default_factory=dict)  # (batch, time, channel)
    encoded: tuple[Tensor, Tensor] | None = None  # (batch, time, channel), lengths
    decoder_input: tuple[Tensor, Tensor] | None = None  # (batch, token), lengths
    decoder_logits: Tensor | None = None  # (batch, token, vocabulary)


@contextmanager
def record(model: ESPnetASRModel) -> Iterator[Record]:
    """Record what passes through encoder and decoder while the context is open.

    ESPnet's model keeps these tensors to itself; hooks get at them without a copy of
    its forward.
    """
    rec = Record()
    # Blocks of a narrow encoder: to where their channels were. ESPnet's are never so.
    spread = getattr(model.encoder, "spread", nn.Identity())

    def on_encoder(_module, args, output):
        rec.features, rec.encoded = args[:2], output[:2]

    def on_decoder(_module, args, output):
        rec.decoder_input, rec.decoder_logits = args[2:4], output[0]

    def on_block(index):
        def hook(_module, _args, output):
            rec.hidden[index] = spread(content(output[0]))

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
    teacher: ESPnetASRModel, student: Record, decoder: bool = True
) -> Record:
    """Run the teacher once on the very features (augmented) that the student saw.

    Args:
        decoder: whether its decoder is needed, too.
    """
    (encoded, hidden), lengths, _ = teacher.encoder(
        *student.features, return_all_hs=True
    )
    rec = Record(hidden=dict(enumerate(hidden)), encoded=(encoded, lengths))
    if decoder and student.decoder_input is not None:
        rec.decoder_logits, _ = teacher.decoder(
            encoded, lengths, *student.decoder_input
        )
    return rec


def layer_loss(
    options: DistillOptions,
    student: Record,
    teacher: Record,
    projection: nn.Module | None,
    training: bool,
    left: Sequence[int] | None = None,
) -> Tensor:
    """Sum over the matched blocks of their difference, over real frames only.

    Args:
        projection: applied to the student's blocks, (..., channel) -> (..., channel).
        training: blocks are drawn at random (if they are) in training only.
        left: student blocks to choose from by distance; None for all.
    """
    mask = length_mask(student.encoded[1], student.encoded[0].shape[1])

    @cache
    def ours(block: int) -> Tensor:
        hidden = student.hidden[block][mask]
        return (projection(hidden) if projection else hidden).float()

    @cache
    def theirs(block: int) -> Tensor:
        return teacher.hidden[block][mask].float()

    def loss(pair: tuple[int, int]) -> Tensor:
        return difference(options.layer_loss, ours(pair[0]), theirs(pair[1]))

    total = student.encoded[0].new_zeros((), dtype=torch.float32)
    sizes = len(student.hidden), len(teacher.hidden)
    return total + sum(map(loss, matches(options, *sizes, training, loss, left)))


def difference(kind: str, student: Tensor, teacher: Tensor) -> Tensor:
    """Of two blocks' outputs, both (frame, channel)."""
    if kind == "mse":
        return F.mse_loss(student, teacher)
    cosine = F.cosine_similarity(student, teacher, dim=-1)
    return F.l1_loss(student, teacher) + (1 - cosine).mean()


def matches(
    options: DistillOptions,
    num_student: int,
    num_teacher: int,
    training: bool,
    loss: Callable[[tuple[int, int]], Tensor],
    left: Sequence[int] | None = None,
) -> list[tuple[int, int]]:
    """Pairs (student block, teacher block) to compare, 0-based.

    Args:
        loss: of a pair; asked for only where the pairs depend on it.
        left: student blocks to choose from by distance; None for all. If they are
            fewer than the teacher's, they stand against the last of those.
    """
    chosen = options.block_indices(num_teacher)
    if options.match == "random" and training:
        chosen = sorted(torch.randperm(num_teacher)[: len(chosen)].tolist())
    if options.match == "min_distance":
        found = list(left or range(num_student))
        last = chosen[-len(found) :]
        distances = [[float(loss((s, t)).detach()) for s in found] for t in last]
        # A batch that overflowed has no distances; ESPnet's trainer will skip it.
        if all(map(math.isfinite, itertools.chain(*distances))):
            columns = ordered_assignment(distances)
            return [(found[c], t) for c, t in zip(columns, last, strict=True)]
    # At the same depth: the same block, if there are as many.
    return [(max(1, round((t + 1) * num_student / num_teacher)) - 1, t) for t in chosen]


def ordered_assignment(distances: Sequence[Sequence[float]]) -> list[int]:
    """The column of each row such that columns ascend and their sum is smallest.

    Args:
        distances: (row, column), not more rows than columns.
    """
    rows, columns = len(distances), len(distances[0])
    best = [[0.0] * (columns + 1)]  # best[r][c]: of the first r rows in c columns
    for r in range(rows):
        line = [float("inf")] * (columns + 1)
        for c in range(r, columns):
            line[c + 1] = min(line[c], best[r][c] + float(distances[r][c]))
        best.append(line)
    chosen, c = [], columns
    for r in range(rows, 0, -1):
        while best[r][c] == best[r][c - 1]:
            c -= 1
        chosen.append(c - 1)
        c -= 1
    return chosen[::-1]


def identity_projection(student_size: int, teacher_size: int) -> nn.Linear:
    """A linear layer that starts as the identity (as far as the sizes allow)."""
    layer = nn.Linear(student_size, teacher_size)
    with torch.no_grad():
        nn.init.eye_(layer.weight)
        layer.bias.zero_()
    return layer


def output_loss(
    student: ESPnetASRModel,
    teacher: ESPnetASRModel,
    student_record: Record,
    teacher_record: Record,
    options: DistillOptions,
) -> Tensor:
    """KL(teacher || student) of CTC and decoder, weighted as the options say.

    Summed over frames or tokens and divided by the batch, like ESPnet's losses.
    """
    total = student_record.encoded[0].new_zeros((), dtype=torch.float32)
    temperature, ctc_weight = options.temperature, options.output_ctc_weight
    if ctc_weight is None:
        ctc_weight = student.ctc_weight
    if student.ctc is not None:
        mask = length_mask(student_record.encoded[1], student_record.encoded[0].size(1))
        s = student.ctc.ctc_lo(student_record.encoded[0])
        with torch.no_grad():
            t = teacher.ctc.ctc_lo(teacher_record.encoded[0])
        total = total + ctc_weight * divergence(s, t, mask, temperature)
    if student_record.decoder_logits is not None:
        s, t = student_record.decoder_logits, teacher_record.decoder_logits
        mask = length_mask(student_record.decoder_input[1], s.shape[1])
        total = total + (1 - ctc_weight) * divergence(s, t, mask, temperature)
    return total


def divergence(
    student: Tensor, teacher: Tensor, mask: Tensor, temperature: float
) -> Tensor:
    """KL(teacher || student) * T^2 of logits (batch, time, vocabulary), per utterance.

    Args:
        mask: (batch, time), True where the position counts.
    """
    s = F.log_softmax(student[mask].float() / temperature, dim=-1)
    t = F.log_softmax(teacher[mask].float() / temperature, dim=-1)
    total = F.kl_div(s, t, reduction="sum", log_target=True)
    return total * temperature**2 / student.shape[0]


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """(batch,) lengths -> (batch, size), True within the length."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]
