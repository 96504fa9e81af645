"""A self-supervised encoder that is pruned, or distilled, beside its dense teacher.

No labels: the hidden states of student and teacher are compared (Peng et al. 2023,
DPHuBERT, arXiv 2305.17651; Wang et al. 2023, arXiv 2306.01385).
"""

from typing import Any

import torch
from espnet2.train.abs_espnet_model import AbsESPnetModel
from torch import Tensor

from espnet_prune.config.options import make_options
from espnet_prune.config.sections import DistillOptions, GateOptions
from espnet_prune.families.ssl.audio import prepared
from espnet_prune.families.ssl.describe import clocks
from espnet_prune.families.ssl.model import prepare, read
from espnet_prune.pruning.budget import Budget, Constraint
from espnet_prune.pruning.gates import Gates
from espnet_prune.training.distill import difference, groups, mean_of
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
        distill: keyword arguments of :class:`DistillOptions`; ``layer_weight`` and
            ``layers`` count, there is no task.
        method: of ``METHODS``; not used here.
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
        method: str = "l0",
    ):
        super().__init__()
        self.set_teacher(read(dense))
        self.normalize, self.gates, self.sparsity = normalize, None, None
        self.distill = make_options(DistillOptions, "distill", distill)
        self.model = read(compact or dense)
        if gates is not None:
            options = make_options(GateOptions, "gates", gates)
            described = prepare(self.model, options, MODEL)
            self.gates = Gates(described.layout, options)
            times = clocks(self.teacher, budget["samples"])
            terms = described.terms(times, budget.get("latency"))
            limits = tuple(map(Constraint.from_dict, budget["constraints"]))
            self.control(sparsity, Budget(described.layout, terms, limits))

    def losses(
        self, speech: Tensor, speech_lengths: Tensor, **_: Any
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The method compares student and teacher on as much audio as the shortest crop
        of the batch has: norms over time would see the padding.

        Args:
            speech: (batch, sample) in [-1, 1].
            speech_lengths: (batch,).
        """
        audio = prepared(speech[:, : int(speech_lengths.min())], self.normalize)
        own = self.model(audio, output_hidden_states=True).hidden_states
        with torch.no_grad():
            theirs = self.teacher(audio, output_hidden_states=True).hidden_states
        # The first is what goes into the blocks.
        total = difference(*(h[0].flatten(0, 1).float() for h in (own, theirs)))
        for spans in groups(self.distill, len(own) - 1, len(theirs) - 1):
            pairs = zip((own[1:], theirs[1:]), spans, strict=True)
            states = (mean_of(*pair).flatten(0, 1).float() for pair in pairs)
            total = total + difference(*states)
        loss = self.distill.layer_weight * total
        weight = torch.tensor(len(speech), device=speech.device)
        return loss, {"loss_layer": total.detach()}, weight

    def collect_feats(self, **batch: Tensor) -> dict[str, Tensor]:
        """The method collects nothing: this training needs no statistics."""
        return {}
