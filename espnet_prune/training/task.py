"""ESPnet tasks: training the dense teacher, and training a student beside it.

Both are importable classes, because ESPnet spawns its distributed workers: importing
them there imports the package, which registers; what a parent registered is lost.
"""

import argparse

import torch
import torch.distributed as dist
from espnet2.tasks.abs_task import AbsTask
from espnet2.tasks.asr import ASRTask
from espnet2.tasks.s2t import S2TTask
from espnet2.utils.types import str_or_none

from espnet_prune.config.options import optimizer_options
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.training.student import RecognizerStudent
from espnet_prune.training.three_stages import completed
from espnet_prune.training.trainer import (
    PruneTrainer,
    SafeTrainer,
    as_optimizers,
    parameter_groups,
)

# Samples and tokens, of which ESPnet's recipes make a folded batch smaller.
FOLD_LENGTHS = 80000, 150


class SafeTask(AbsTask):
    """A task of ESPnet; its processes leave their group before they end."""

    @classmethod
    def main_worker(cls, args: argparse.Namespace) -> None:
        cls.complete(args)
        super().main_worker(args)
        # A group that is still open when the interpreter ends may abort the process,
        # which then counts as failed. Not after an error: NCCL could wait for ever.
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()

    @classmethod
    def complete(cls, args: argparse.Namespace) -> None:
        """Give a training what its config leaves to us."""
        if "folded" in (args.batch_type, args.valid_batch_type):
            # ESPnet's default batches; one length for each shape file, audio first.
            folds = list(FOLD_LENGTHS[: len(args.train_shape_file)])
            args.fold_length = args.fold_length or folds


class DenseASRTask(SafeTask, ASRTask):
    """ESPnet's ASR task; a killed run resumes, and knows how long it is."""

    trainer = SafeTrainer

    @classmethod
    def complete(cls, args: argparse.Namespace) -> None:
        super().complete(args)
        args.scheduler_conf = completed(args)


class PruneTask(SafeTask):
    """Pruning (gated encoder) and fine-tuning (compact encoder) with a teacher."""

    trainer = PruneTrainer

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        super().add_task_arguments(parser)
        group = parser.add_argument_group(description="Teacher related")
        group.add_argument("--teacher_config", type=str_or_none, default=None)
        group.add_argument("--teacher_model", type=str_or_none, default=None)

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> RecognizerStudent:
        model = super().build_model(args)
        # Statistics and inference build the model, too, and need no teacher.
        if args.teacher_config is not None and not args.collect_stats:
            model.set_teacher(load_model(args.teacher_config, args.teacher_model)[0])
        return model

    @classmethod
    def build_optimizers(
        cls, args: argparse.Namespace, model: torch.nn.Module
    ) -> list[torch.optim.Optimizer]:
        # ESPnet's own clipping sees all parameters at once; --grad_clip is inf here
        # (see student.py), which leaves its check for non-finite gradients.
        return as_optimizers(
            parameter_groups(model, **optimizer_options(args.optim_conf))
        )


class PruneASRTask(PruneTask, ASRTask):
    """Pruning and fine-tuning of ESPnet's ASR models."""


class PruneS2TTask(PruneTask, S2TTask):
    """Pruning and fine-tuning of ESPnet's S2T models, as OWSM."""


PRUNE_TASKS = {"asr": PruneASRTask, "s2t": PruneS2TTask}
