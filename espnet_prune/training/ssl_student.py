"""A self-supervised encoder that is pruned, or distilled, beside its dense teacher.

The hidden states of student and teacher are compared (Peng et al. 2023, DPHuBERT, arXiv
2305.17651; Wang et al. 2023, arXiv 2306.01385); a fine-tuned model may have its own CTC
loss beside that.
"""

from collections.abc import Sequence
from typing import Any

import torch
from espnet2.train.abs_espnet_model import AbsESPnetModel
from torch import Tensor, nn

from espnet_prune.config.methods import REFERENCE
from espnet_prune.config.options import make_options
from espnet_prune.config.sections import DistillOptions, GateOptions
from espnet_prune.families.ssl.audio import prepared
from espnet_prune.families.ssl.describe import clocks
from espnet_prune.families.ssl.model import (
    layer_states,
    prepare,
    read,
    read_head,
)
from espnet_prune.pruning.budget import Budget, Constraint
from espnet_prune.pruning.gates import Gates
from espnet_prune.training.distill import length_mask, state_loss
from espnet_prune.training.fake_int8 import FakeInt8
from espnet_prune.training.gated import GatedStudent

MODEL = "model."  # of the names of the encoder's tensors in a student


class PruneSpeechModel(GatedStudent, AbsESPnetModel):
    """A student for ESPnet's trainer; with gates it prunes, without it is distilled.

    Args:
        dense: directory of the dense model, which is the teacher, too.
        compact: directory of a compact model to go on with; None prunes the dense one.
        normalize: whether audio is brought to mean 0 and variance 1, as the model's
            ``preprocessor_config.json`` says.
        gates, sparsity: keyword arguments of :class:`GateOptions`,
            :class:`SparsityOptions`.
        budget: ``samples`` at which MACs are counted, ``constraints``, and the prices
            of ``latency`` where that is one.
        distill: keyword arguments of :class:`DistillOptions`; ``task_weight`` counts
            where there are labels.
        method: of ``METHODS``; not used here.
        labels: whether the dense model's CTC head and transcripts are used, too.
    """

    def __init__(
        self,
        dense: str,
        compact: str | None = None,
        normalize: bool = False,
        gates: dict[str, Any] | None = None,
        sparsity: dict[str, Any] | None = None,
        budget: dict[str, Any] | None = None,
        distill: dict[str, Any] | None = None,
        method: str = REFERENCE,
        labels: bool = False,
    ):
        super().__init__()
        self.set_teacher(read(dense))
        self.normalize = normalize
        self.gates = self.sparsity = self.sizes = None
        self.distill = make_options(DistillOptions, "distill", distill)
        self.model = read(compact or dense)
        self.head = read_head(dense).requires_grad_(False) if labels else None
        if self.distill.precision == "int8":
            self.fake_int8 = FakeInt8(self.model, MODEL)
        if gates is not None:
            options = make_options(GateOptions, "gates", gates)
            described = prepare(self.model, options, MODEL)
            self.gates = Gates(described.layout, options)
            times = clocks(self.teacher, budget["samples"])
            terms = described.terms(times, budget.get("latency"))
            limits = tuple(map(Constraint.from_dict, budget["constraints"]))
            self.control(sparsity, Budget(described.layout, terms, limits))

    def losses(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        text: Tensor | None = None,
        text_lengths: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The method compares student and teacher; without labels on as much audio as
        the shortest crop of the batch has, for norms over time would see the padding.

        Args:
            speech: (batch, sample) in [-1, 1].
            speech_lengths: (batch,).
            text: (batch, token) of the dense model's vocabulary, or no labels.
            text_lengths: (batch,).
        """
        options, frames = {}, None
        if self.head is None:
            audio = prepared(speech[:, : int(speech_lengths.min())], self.normalize)
        else:
            audio = prepared(speech, self.normalize, speech_lengths)
            options["attention_mask"] = length_mask(speech_lengths, audio.shape[1])
            frames = self.model._get_feat_extract_output_lengths(speech_lengths)
        own = layer_states(self.model, audio, **options)
        with torch.no_grad():
            theirs = layer_states(self.teacher, audio, **options)
        total = self.layers(own, theirs, frames)
        loss, stats = self.distill.layer_weight * total, {"loss_layer": total.detach()}
        if self.head is not None:
            task = self.task_loss(own[-1], frames, text, text_lengths)
            loss = loss + self.distill.task_weight * task
            stats["loss_ctc"] = task.detach()
        return loss, stats, torch.tensor(len(speech), device=speech.device)

    def layers(
        self, own: Sequence[Tensor], theirs: Sequence[Tensor], frames: Tensor | None
    ) -> Tensor:
        """Sum the differences of compared states, also of what goes into the blocks.

        Args:
            own, theirs: (batch, time, channel) of each layer.
            frames: (batch,) that are real; None: all.
        """
        mask = torch.ones(own[0].shape[:2], dtype=torch.bool, device=own[0].device)
        if frames is not None:
            mask = length_mask(frames, own[0].shape[1])
        return state_loss(self.distill, own, theirs, mask)

    def task_loss(
        self, states: Tensor, frames: Tensor, text: Tensor, text_lengths: Tensor
    ) -> Tensor:
        """Compute the CTC loss of the dense model's own, fixed head, per utterance."""
        log_probs = self.head(states).float().log_softmax(-1).transpose(0, 1)
        loss = nn.functional.ctc_loss(
            log_probs,
            text.clamp(min=0),
            frames,
            text_lengths,
            blank=self.model.config.pad_token_id,
            reduction="sum",
            zero_infinity=True,
        )
        return loss / len(text)

    def collect_feats(self, **batch: Tensor) -> dict[str, Tensor]:
        """The method collects nothing: this training needs no statistics."""
        return {}
