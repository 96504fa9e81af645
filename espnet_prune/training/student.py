"""The ESPnet model that is trained while pruning: student, teacher, losses."""

from typing import Any

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.torch_utils.device_funcs import force_gatherable
from torch import Tensor, nn

from espnet_prune.config.options import make_options
from espnet_prune.families.espnet.encoder import PrunableEncoder
from espnet_prune.pruning.gates import gates_of
from espnet_prune.pruning.iterative import MagnitudeController
from espnet_prune.pruning.sparsity import (
    Schedule,
    SparsityController,
    SparsityOptions,
    make_budget,
)
from espnet_prune.training.distill import (
    DistillOptions,
    identity_projection,
    layer_loss,
    output_loss,
    record,
    run_teacher,
)

# Options of PruneASRModel that ESPnet's own model does not have.
OWN_OPTIONS = (
    "distill", "sparsity", "macs_frames", "rest", "latency", "teacher_size", "plan",
)  # fmt: skip


class PruneASRModel(ESPnetASRModel):
    """A student with a teacher at its side, registered with ESPnet as ``prune``.

    With a gated encoder it prunes; with a compact one it fine-tunes. Without a teacher
    (validation of a config, inference) it is the plain ESPnet model.

    Args:
        args, kwargs: those of ESPnet's model.
        distill: keyword arguments of :class:`DistillOptions`.
        sparsity: keyword arguments of :class:`SparsityOptions`; needs gates.
        macs_frames: feature frames of ``sparsity.macs_seconds`` of audio.
        rest: kind -> cost of the model beyond its encoder.
        latency: seconds that each thing in the encoder takes.
        teacher_size: the teacher's model dimension, if it is another.
        plan: what the export must know of how the model was made; not used here.
    """

    def __init__(
        self,
        *args: Any,
        distill: dict[str, Any] | None = None,
        sparsity: dict[str, Any] | None = None,
        macs_frames: int = 1000,
        rest: dict[str, float] | None = None,
        latency: dict[str, float] | None = None,
        teacher_size: int | None = None,
        plan: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        gated = getattr(self.encoder, "gated", False)
        if gated != (sparsity is not None):
            raise ValueError(
                "model_conf.sparsity and encoder_conf.gates belong together: "
                "give both (pruning) or none (fine-tuning)"
            )
        self.distill = make_options(DistillOptions, "distill", distill)
        if projects(self.distill, self.encoder, teacher_size):
            size = self.encoder.output_size()
            self.projection = identity_projection(size, teacher_size or size)
        else:
            self.projection = None
        self.sparsity = (
            self._controller(
                make_options(SparsityOptions, "sparsity", sparsity),
                macs_frames,
                rest,
                latency,
            )
            if sparsity is not None
            else None
        )
        self.macs_frames = macs_frames
        self.set_teacher(None)

    def _controller(
        self,
        options: SparsityOptions,
        frames: int,
        rest: dict[str, float] | None,
        latency: dict[str, float] | None,
    ) -> Schedule:
        decoder = self.decoder if gates_of(self.decoder or nn.Module()) else None
        budget = make_budget(options, self.encoder, frames, rest, latency, decoder)
        if options.by == "magnitude":
            for gate in gates_of(self).values():
                gate.requires_grad_(False)
            return MagnitudeController(options, budget)
        return SparsityController(options, budget)

    def set_teacher(self, teacher: ESPnetASRModel | None) -> None:
        """Give the student its teacher, frozen and in evaluation mode for good.

        It stays outside the module registry: not trained, not flipped to training
        mode, not saved, not wrapped by DDP, not drawn by the attention plots.
        """
        if teacher is not None:
            teacher.requires_grad_(False).eval()
        self.__dict__["teacher"] = teacher

    def _apply(self, fn, *args, **kwargs):
        # .to() and .cuda() must reach the teacher, too.
        if self.teacher is not None:
            self.teacher._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    def forward(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Task loss, distillation and Lagrangian of a batch.

        Args:
            speech: (batch, sample).
            speech_lengths: (batch,).
            text: (batch, token).
            text_lengths: (batch,).

        Returns:
            loss, stats to log, weight (batch size).
        """
        sparsity = None
        if self.sparsity is not None:  # first, since it may set the masks
            sparsity = self.sparsity(self)
        with record(self) as student:
            task, stats, weight = super().forward(
                speech, speech_lengths, text, text_lengths, **kwargs
            )
        loss = self.distill.task_weight * task
        stats["loss_task"] = task.detach()
        if self.teacher is not None and self.distill.asks_teacher:
            outputs = self.distill.output_weight > 0
            teacher = run_teacher(self.teacher, student, decoder=outputs)
            if self.distill.layer_weight > 0:
                left = None
                if self.distill.match == "min_distance":
                    blocks = enumerate(self.encoder.encoders)
                    left = [i for i, block in blocks if block.is_left()]
                layer = layer_loss(
                    self.distill, student, teacher, self.projection, self.training, left
                )
                loss = loss + self.distill.layer_weight * layer
                stats["loss_layer"] = layer.detach()
            if outputs:
                output = output_loss(self, self.teacher, student, teacher, self.distill)
                loss = loss + self.distill.output_weight * output
                stats["loss_output"] = output.detach()
        if sparsity is not None:
            loss = loss + sparsity[0]
            stats.update(sparsity[1])
        stats["loss"] = loss.detach()
        return force_gatherable((loss, stats, len(speech)), loss.device)


def projects(
    distill: DistillOptions, encoder: PrunableEncoder, teacher_size: int | None
) -> bool:
    """Whether a student's blocks are compared through a learned projection.

    Args:
        distill: how they are compared.
        encoder: the student's.
        teacher_size: the teacher's model dimension, if it is another.
    """
    size = encoder.output_size()
    other = teacher_size not in (None, size)
    # What is gone of a block's output must be found in the rest of it.
    other |= size != encoder.size or encoder.dim_gate is not None
    # Without a layer term it would have no gradient, which DDP does not take.
    return distill.layer_weight > 0 and (distill.projection or other)
