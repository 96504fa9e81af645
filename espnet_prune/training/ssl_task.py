"""ESPnet's training loop for self-supervised encoders: audio alone, no tokens."""

import argparse
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from espnet2.tasks.abs_task import AbsTask
from espnet2.train.collate_fn import CommonCollateFn
from espnet2.utils.nested_dict_action import NestedDictAction
from torch.optim import Optimizer

from espnet_prune.config.options import optimizer_options
from espnet_prune.training.ssl_student import PruneSpeechModel
from espnet_prune.training.trainer import PruneTrainer, as_optimizers, parameter_groups


class PruneSpeechTask(AbsTask):
    """Pruning, and distillation of what is left, beside the dense model."""

    num_optimizers = 1
    class_choices_list: list[Any] = []
    trainer = PruneTrainer

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.set_defaults(init=None)
        parser.add_argument("--model_conf", action=NestedDictAction, default={})

    @classmethod
    def build_collate_fn(cls, args: argparse.Namespace, train: bool) -> Callable:
        return CommonCollateFn(float_pad_value=0.0, int_pad_value=-1)

    @classmethod
    def build_preprocess_fn(
        cls, args: argparse.Namespace, train: bool
    ) -> Callable[[str, dict[str, np.ndarray]], dict[str, np.ndarray]] | None:
        return None

    @classmethod
    def required_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> Collection[str]:
        return ("speech",)

    @classmethod
    def optional_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> Collection[str]:
        return ()

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> PruneSpeechModel:
        return PruneSpeechModel(**args.model_conf)

    @classmethod
    def build_optimizers(
        cls, args: argparse.Namespace, model: PruneSpeechModel
    ) -> list[Optimizer]:
        options = optimizer_options(args.optim_conf)
        return as_optimizers(parameter_groups(model, **options))
