"""Distillation from the dense teacher: block by block, and on the outputs.

Peng et al. 2023, DPHuBERT (arXiv 2305.17651), eq. 6 for the layer term (L1 and cosine
distance); Hinton et al. 2015 (arXiv 1503.02531) for the output term.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from espnet2.asr.espnet_model import ESPnetASRModel
from torch import Tensor


@dataclass(frozen=True)
class DistillOptions:
    """Weights of the loss terms.

    Args:
        task_weight: of ESPnet's CTC/attention loss.
        layer_weight: of the layer term, summed over the layers.
        output_weight: of the output term.
        layers: number of blocks compared, evenly spaced and ending with the last.
        temperature: of the output distributions.

    Raises:
        ValueError: a negative weight, or nothing to compare.
    """

    task_weight: float = 1.0
    layer_weight: float = 1.0
    output_weight: float = 1.0
    layers: int = 4
    temperature: float = 1.0

    def __post_init__(self):
        if min(self.task_weight, self.layer_weight, self.output_weight) < 0:
            raise ValueError("distill: weights must not be negative")
        if self.layers < 1 or self.temperature <= 0:
            raise ValueError("distill: layers must be >= 1 and temperature > 0")

    def block_indices(self, num_blocks: int) -> list[int]:
        """0-based indices of the blocks to compare."""
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
def record(model: ESPnetASRModel, blocks: list[int]) -> Iterator[Record]:
    """Record what passes through encoder and decoder while the context is open.

    ESPnet's model keeps these tensors to itself; hooks get at them without a copy of
    its forward.
    """
    rec = Record()

    def on_encoder(_module, args, output):
        rec.features, rec.encoded = args[:2], output[:2]

    def on_decoder(_module, args, output):
        rec.decoder_input, rec.decoder_logits = args[2:4], output[0]

    def on_block(index):
        def hook(_module, _args, output):
            rec.hidden[index] = output[0][0]

        return hook

    with ExitStack() as stack:
        pairs = [(model.encoder, on_encoder)]
        pairs += [(model.encoder.encoders[i], on_block(i)) for i in blocks]
        if model.decoder is not None:
            pairs.append((model.decoder, on_decoder))
        for module, hook in pairs:
            stack.callback(module.register_forward_hook(hook).remove)
        yield rec


@torch.no_grad()
def run_teacher(teacher: ESPnetASRModel, student: Record, blocks: list[int]) -> Record:
    """Run the teacher once on the very features (augmented) that the student saw."""
    with record(teacher, blocks) as rec:
        encoded, lengths, _ = teacher.encoder(*student.features)
        if student.decoder_input is not None:
            teacher.decoder(encoded, lengths, *student.decoder_input)
    return rec


def layer_loss(student: Record, teacher: Record) -> Tensor:
    """Sum over layers of mean |s - t| + (1 - cos(s, t)), over real frames only."""
    mask = length_mask(student.encoded[1], student.encoded[0].shape[1])
    total = student.encoded[0].new_zeros((), dtype=torch.float32)
    for index, hidden in student.hidden.items():
        s, t = hidden[mask].float(), teacher.hidden[index][mask].float()
        total = total + F.l1_loss(s, t) + (1 - F.cosine_similarity(s, t, dim=-1)).mean()
    return total


def output_loss(
    student: ESPnetASRModel,
    teacher: ESPnetASRModel,
    student_record: Record,
    teacher_record: Record,
    temperature: float,
) -> Tensor:
    """KL(teacher || student) of CTC and decoder, weighted as the task loss is.

    Summed over frames or tokens and divided by the batch, like ESPnet's losses.
    """
    total = student_record.encoded[0].new_zeros((), dtype=torch.float32)
    if student.ctc is not None:
        mask = length_mask(student_record.encoded[1], student_record.encoded[0].size(1))
        s = student.ctc.ctc_lo(student_record.encoded[0])
        with torch.no_grad():
            t = teacher.ctc.ctc_lo(teacher_record.encoded[0])
        total = total + student.ctc_weight * divergence(s, t, mask, temperature)
    if student_record.decoder_logits is not None:
        s, t = student_record.decoder_logits, teacher_record.decoder_logits
        mask = length_mask(student_record.decoder_input[1], s.shape[1])
        weight = 1 - student.ctc_weight
        total = total + weight * divergence(s, t, mask, temperature)
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
