"""Write a module as an ONNX file, and run it by onnxruntime."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from espnet_prune.base.errors import InputError

# A fusion that makes onnxruntime 1.31 slower: by a tenth of an encoder's time.
SLOW = ["SkipLayerNormFusion"]
LONGEST = 1 << 24  # of a dynamic axis; torch wants a bound


def runtime() -> object:
    """Import the module ``onnxruntime``.

    Raises:
        InputError: it, or what writes its files, is not installed.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as e:
        raise InputError(
            "ONNX", f"{e.name} is not installed", "pip install -r requirements.txt"
        ) from e
    return onnxruntime


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let nothing but errors reach the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


@torch.no_grad()
def write_onnx(
    module: nn.Module,
    example: Tensor,
    path: Path,
    names: tuple[str, str],
    outputs: list[str],
    shortest: int,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write a module of one input, (batch, length, ...), any number of any length.

    Args:
        module: in evaluation mode.
        example: an input of more than one (torch fixes a size of 1).
        path: the file.
        names: of the input and of its second axis.
        outputs: names of what the module returns.
        shortest: smallest length it takes.
        metadata: what the file says about itself.
    """
    runtime()
    from espnet_prune.serving.blocks import TRANSLATIONS  # needs onnxscript

    given, axis = names
    dynamic = {
        0: torch.export.Dim("batch", min=1, max=LONGEST),
        1: torch.export.Dim(axis, min=shortest, max=LONGEST),
    }
    # The exporter tells its steps, and warns of what is its own affair.
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (example,),
            input_names=[given],
            output_names=outputs,
            dynamic_shapes=(dynamic,),
            dynamo=True,
            verbose=False,
            custom_translation_table=TRANSLATIONS,
        )
    program.model.metadata_props.update(metadata or {})
    program.save(path)


class Runner:
    """The runner runs an ONNX file of one input, with as many threads as torch has.

    Several threads may call it at once.

    Args:
        path: the file.
        arena: whether it keeps the memory of a call for the next.
    """

    def __init__(self, path: Path, arena: bool = True):
        self.path, self.arena = path, arena
        self.sessions: dict[int, Any] = {}
        self.open()

    def open(self) -> "Runner":
        """Read the file for as many threads as torch has, unless it was read so."""
        threads = torch.get_num_threads()
        if threads not in self.sessions:
            onnxruntime = runtime()
            options = onnxruntime.SessionOptions()
            options.enable_cpu_mem_arena = self.arena
            # Between calls they do not spin, where others may run.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            self.sessions[threads] = onnxruntime.InferenceSession(
                str(self.path),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=SLOW,
            )
        return self

    def __call__(self, x: Tensor) -> list[np.ndarray]:
        """Compute the outputs for an input."""
        session = self.open().sessions[torch.get_num_threads()]
        return session.run(None, {session.get_inputs()[0].name: x.numpy()})


def difference(actual: np.ndarray, expected: Tensor) -> float:
    """Find the largest difference of outputs, relative to the largest (at least 1)."""
    wanted = expected.numpy()
    if actual.shape != wanted.shape:
        return float("inf")
    scale = max(1.0, float(np.abs(wanted).max()))
    return float(np.abs(actual - wanted).max()) / scale
