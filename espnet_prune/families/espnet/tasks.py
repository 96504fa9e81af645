"""Which task of ESPnet a model belongs to: ``asr``, or ``s2t``, of which OWSM is.

Modules, options and attributes of ESPnet carry the name of their task.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from espnet_prune.base.errors import InputError
from espnet_prune.data.text import MORE_TEXTS

if TYPE_CHECKING:
    import argparse

    from espnet2.train.abs_espnet_model import AbsESPnetModel


@dataclass(frozen=True)
class Task:
    """A task of ESPnet whose models can be pruned.

    Args:
        name: as in ``espnet2.tasks.NAME``.
        texts: files of a data directory that a training learns from; to ESPnet
            ``text.prev`` is ``text_prev``.
    """

    name: str
    texts: tuple[str, ...] = ("text",)

    @property
    def module(self) -> str:
        """Name the module that holds ESPnet's class of the task and its choices."""
        return f"espnet2.tasks.{self.name}"

    @property
    def training(self) -> type:
        """Import ESPnet's class of the task, which takes seconds."""
        module = importlib.import_module(self.module)
        return getattr(module, f"{self.name.upper()}Task")

    @property
    def inference(self) -> ModuleType:
        """Import ESPnet's program that decodes, which takes seconds."""
        return importlib.import_module(f"espnet2.bin.{self.name}_inference")

    @property
    def config_option(self) -> str:
        """Name what ESPnet's programs call a model's ``config.yaml``."""
        return f"{self.name}_train_config"

    @property
    def weights_option(self) -> str:
        """Name what ESPnet's programs call a model's weights."""
        return f"{self.name}_model_file"


ASR = Task("asr")
S2T = Task("s2t", ("text", *MORE_TEXTS))
TASKS = ASR, S2T


def task_of(config: Mapping[str, Any]) -> Task:
    """Tell the task of a model from its ``config.yaml``.

    ESPnet writes the preprocessor into it, and each task has its own.
    """
    return S2T if config.get("preprocessor") == S2T.name else ASR


def decoded_with(decoder: Any) -> tuple["AbsESPnetModel", "argparse.Namespace"]:
    """Return the model that ESPnet's ``Speech2Text`` decodes with, and its config."""
    (task,) = (task for task in TASKS if hasattr(decoder, f"{task.name}_model"))
    names = f"{task.name}_model", f"{task.name}_train_args"
    model, args = (getattr(decoder, name) for name in names)
    return model, args


def require_asr(task: Task, where: object, mend: str) -> None:
    """Refuse a model of another task than ESPnet's ``asr``.

    Args:
        task: of the model.
        where: the file or option to name.
        mend: what to do instead.

    Raises:
        InputError: it is of another.
    """
    if task is not ASR:
        what = f"a model of ESPnet's task {task.name} cannot be used so"
        raise InputError(where, what, mend)
