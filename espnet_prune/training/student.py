"""The ESPnet models that are trained while pruning: student, teacher, losses."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.s2t.espnet_model import ESPnetS2TModel
from torch import Tensor, nn

from espnet_prune.base.errors import InputError
from espnet_prune.config.options import make_options
from espnet_prune.config.sections import DistillOptions, GateOptions
from espnet_prune.families.espnet.checkpoint import read_state
from espnet_prune.families.espnet.model import (
    ENCODER,
    DescribedASR,
    Lengths,
    describe,
)
from espnet_prune.families.registry import find_kind
from espnet_prune.pruning.budget import Budget, Constraint
from espnet_prune.pruning.gates import Gates
from espnet_prune.serving.inference import PRUNING_RUN
from espnet_prune.training.distill import (
    identity_projection,
    layer_loss,
    output_loss,
)
from espnet_prune.training.fake_int8 import FakeInt8
from espnet_prune.training.gated import GatedStudent
from espnet_prune.training.recording import Record, record, run_teacher
from espnet_prune.training.sizes import Sizes


class RecognizerStudent(GatedStudent):
    """A student with a teacher at its side, registered with ESPnet as ``prune``.

    It stands before ESPnet's model of a task among the bases of that task's student.

    With gates it prunes; without, of a compact model, it fine-tunes. Without a teacher
    (validation of a config, inference) it is the plain ESPnet model. Gates live beside
    encoder and decoder, which stay as ESPnet made them: in a forward pass their tensors
    are replaced by gated ones.

    Args:
        args, kwargs: those of ESPnet's model.
        encoder_kind: ESPnet's name of the encoder.
        gates: keyword arguments of :class:`GateOptions`; None: there are none.
        sparsity: keyword arguments of :class:`SparsityOptions`; they need gates.
        budget: what it means for this model (:func:`budget_data`).
        sizes: size -> file of what is kept of the model in it; instead of ``sparsity``
            and ``budget``, one set of weights learns for all of them.
        prune_decoder: whether the decoder has gates, too.
        prune_frontend: whether the frontend has gates, too, or of a compact model had
            them. It learns then, and the teacher hears by its own.
        distill: keyword arguments of :class:`DistillOptions`.
        teacher_size: the teacher's model dimension, if it is another.
        plan: what the export must know of how the model was made; not used here.
    """

    def __init__(
        self,
        *args: Any,
        encoder_kind: str = "conformer",
        gates: dict[str, Any] | None = None,
        sparsity: dict[str, Any] | None = None,
        budget: dict[str, Any] | None = None,
        sizes: dict[str, str] | None = None,
        prune_decoder: bool = False,
        prune_frontend: bool = False,
        distill: dict[str, Any] | None = None,
        teacher_size: int | None = None,
        plan: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        steered = sparsity is not None and budget is not None
        if (gates is not None) != (steered or sizes is not None):
            raise ValueError(
                "model_conf: gates, sparsity and budget belong together: give all of "
                "them (pruning) or none (fine-tuning); with sizes, gates alone"
            )
        self.distill = make_options(DistillOptions, "distill", distill)
        self.prune_frontend = prune_frontend
        self.gates = self.sparsity = self.sizes = self.projection = None
        if gates is not None:
            options = make_options(GateOptions, "gates", gates)
            kind = find_kind(encoder_kind)
            asked = {"decoder": prune_decoder, "frontend": prune_frontend}
            described = describe(self, kind, options, [*filter(asked.get, asked)])
            if sizes is not None:
                kept = {name: read_state(file) for name, file in sizes.items()}
                self.sizes = Sizes(described.layout, self.tensors(), kept)
            else:
                self.gates = Gates(described.layout, options)
                self.control(sparsity, read_budget(budget, described))
        size = self.encoder.output_size()
        if projects(self.distill, self.encoder, teacher_size, gates):
            self.projection = identity_projection(size, teacher_size or size)
        self.set_teacher(None)
        if self.distill.precision == "int8":
            self.fake_int8 = FakeInt8(self.encoder, ENCODER)
        self.inside = False  # a forward pass, where gates are at work
        self.example: list[Record] | None = None  # the teacher's, for several sizes

    def encode(self, *speech: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        """Encode as ESPnet's model does, within :meth:`forward` only.

        Raises:
            InputError: the model has gates, and ESPnet decodes as if it had none.
        """
        gated = self.gates is not None or self.sizes is not None
        if gated and not self.inside:
            raise InputError("the model", *PRUNING_RUN)
        return super().encode(*speech, **options)

    def losses(
        self, *batch: Tensor, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Compute task loss and distillation with the tensors as they are."""
        self.inside = True
        try:
            with record(self, self.prune_frontend) as student:
                # ESPnet's own forward: GatedStudent's calls this.
                forward = super(GatedStudent, self).forward
                task, stats, weight = forward(*batch, **kwargs)
        finally:
            self.inside = False
        loss = self.distill.task_weight * task
        stats["loss_task"] = task.detach()
        if self.teacher is not None and self.distill.asks_teacher:
            outputs = self.distill.output_weight > 0
            teacher = self._teach(student, outputs)
            if self.distill.layer_weight > 0:
                layer = layer_loss(self.distill, student, teacher, self.projection)
                loss = loss + self.distill.layer_weight * layer
                stats["loss_layer"] = layer.detach()
            if outputs:
                output = output_loss(self, self.teacher, student, teacher, self.distill)
                loss = loss + self.distill.output_weight * output
                stats["loss_output"] = output.detach()
        return loss, stats, weight

    def _teach(self, student: Record, outputs: bool) -> Record:
        """Ask the teacher about what the student heard, for several sizes once."""
        if self.example:
            return self.example[0]
        decoder = self.teacher.decoder if outputs else None
        teacher = run_teacher(self.teacher, decoder, student)
        if self.example is not None:
            self.example.append(teacher)
        return teacher

    @contextmanager
    def same_for_all(self) -> Iterator[None]:
        """Let all forward passes see one augmentation, and ask the teacher once."""
        features: list[tuple[Tensor, ...]] = []

        def the_first(_module, _args, output):
            features.append(output)
            # Copies: ESPnet's normalization may work in place.
            return tuple(tensor.clone() for tensor in features[0])

        self.example = []
        hooks = [self.specaug.register_forward_hook(the_first)] if self.specaug else []
        try:
            yield
        finally:
            self.example = None
            for hook in hooks:
                hook.remove()


class PruneASRModel(RecognizerStudent, ESPnetASRModel):
    """A student of ESPnet's task ``asr``."""


class PruneS2TModel(RecognizerStudent, ESPnetS2TModel):
    """A student of ESPnet's task ``s2t``."""


STUDENTS = {"asr": PruneASRModel, "s2t": PruneS2TModel}  # by task

# Options of a student that ESPnet's own models do not have.
OWN_OPTIONS = tuple(
    name
    for name, option in inspect.signature(RecognizerStudent.__init__).parameters.items()
    if option.kind is option.KEYWORD_ONLY
)


def projects(
    distill: DistillOptions,
    encoder: nn.Module,
    teacher_size: int | None,
    gates: Mapping[str, Any] | None = None,
) -> bool:
    """Tell whether a student's blocks are compared through a learned projection.

    Args:
        distill: how they are compared.
        encoder: the student's.
        teacher_size: the teacher's model dimension, if it is another.
        gates: keyword arguments of :class:`GateOptions`, if it has any.
    """
    other = teacher_size not in (None, encoder.output_size())
    # What is gone of a block's output must be found in the rest of it.
    architecture = getattr(encoder, "architecture", None) or {}
    other |= "dims" in architecture or bool((gates or {}).get("model_dim"))
    # Without a layer term it would have no gradient, which DDP does not take.
    return distill.layer_weight > 0 and other


def budget_data(budget: Budget, lengths: Lengths, prices: Mapping[str, float] | None):
    """Turn a budget into plain data, computed once for all who need it.

    Args:
        budget: of the model.
        lengths: at which it was counted.
        prices: seconds of each thing, for the kind ``latency``.
    """
    return {
        **asdict(lengths),
        "constraints": [constraint.to_dict() for constraint in budget.constraints],
        "dim_target": budget.dim_target,
        "latency": None if prices is None else dict(prices),
    }


def lengths_in(data: Mapping[str, Any]) -> Lengths:
    """Read the utterance in which the budget of :func:`budget_data` was counted."""
    names = (part.name for part in fields(Lengths))
    return Lengths(**{name: data[name] for name in names if name in data})


def read_budget(data: Mapping[str, Any], described: DescribedASR) -> Budget:
    """Read the budget that :func:`budget_data` wrote, of a described model."""
    lengths = lengths_in(data)
    constraints = tuple(map(Constraint.from_dict, data["constraints"]))
    terms = described.terms(lengths, data["latency"])
    return Budget(described.layout, terms, constraints, data["dim_target"])
