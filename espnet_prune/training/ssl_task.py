"""ESPnet's training loop for self-supervised encoders: audio, and perhaps labels."""

import argparse
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from espnet2.tasks.abs_task import AbsTask
from espnet2.train.collate_fn import CommonCollateFn
from espnet2.utils.nested_dict_action import NestedDictAction
from torch.optim import Optimizer
from transformers import Wav2Vec2CTCTokenizer

from espnet_prune.base.errors import InputError
from espnet_prune.base.table import read_table
from espnet_prune.config.options import optimizer_options
from espnet_prune.training.ssl_student import PruneSpeechModel
from espnet_prune.training.trainer import PruneTrainer, as_optimizers, parameter_groups


class Spelling:
    """The spelling turns transcripts into tokens of a fine-tuned model.

    Args:
        dense: its directory.
    """

    def __init__(self, dense: str | Path):
        if not Path(dense, "vocab.json").is_file():
            mend = "copy it from where the model was fine-tuned"
            raise InputError(dense, "has no vocab.json, which labels need", mend)
        self.tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(dense)

    def __call__(self, uid: str, data: dict[str, Any]) -> dict[str, np.ndarray]:
        """Turn ``text`` into (token,); leave the rest as it is."""
        tokens = self.tokenizer(data["text"]).input_ids
        return data | {"text": np.array(tokens, dtype=np.int64)}

    def check(self, text: Path) -> None:
        """Refuse transcripts of other characters than the model has.

        Raises:
            InputError: names the line's utterance.
        """
        for key, words in read_table(text).items():
            tokens = self.tokenizer(words).input_ids
            if not tokens or self.tokenizer.unk_token_id in tokens:
                known = "".join(
                    sorted(t for t in self.tokenizer.get_vocab() if len(t) == 1)
                )
                what = f"the transcript of {key} has characters that the model has not"
                raise InputError(text, what, f"write it with {known}")


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
    ) -> Callable[[str, dict[str, Any]], dict[str, np.ndarray]] | None:
        conf = args.model_conf
        return Spelling(conf["dense"]) if conf.get("labels") else None

    @classmethod
    def required_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> Collection[str]:
        return ("speech",)

    @classmethod
    def optional_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> Collection[str]:
        return ("text",)

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> PruneSpeechModel:
        return PruneSpeechModel(**args.model_conf)

    @classmethod
    def build_optimizers(
        cls, args: argparse.Namespace, model: PruneSpeechModel
    ) -> list[Optimizer]:
        options = optimizer_options(args.optim_conf)
        return as_optimizers(parameter_groups(model, **options))
