"""Write a self-supervised encoder as an ONNX file: from audio to all layers' states."""

from pathlib import Path

import torch
from torch import Tensor, nn

from espnet_prune.families.ssl.audio import RATE
from espnet_prune.families.ssl.model import layer_states
from espnet_prune.serving.int8 import write_int8
from espnet_prune.serving.onnx import Runner, difference, write_onnx

# How far outputs may be off, relative to the largest.
TOLERANCES = {"fp32": 1e-4, "int8": 0.3}
SHORTEST = RATE // 20  # samples
SECONDS = (0.3, 1.0, 3.7)  # lengths at which the outputs are compared


class InexactError(RuntimeError):
    """A file does not compute what the model does."""


class Layers(nn.Module):
    """An encoder whose outputs are a tuple.

    Args:
        model: of transformers, dense or compact.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, audio: Tensor) -> tuple[Tensor, ...]:
        """Encode (batch, sample) as (batch, time, channel) of each layer.

        The audio is as the preprocessor gives it, without padding; the last layer is
        what the model gives.
        """
        return tuple(layer_states(self.model, audio))


def write_speech_onnx(model: nn.Module, path: Path) -> Runner:
    """Write a model, once onnxruntime computes from noise what torch does.

    Args:
        model: of transformers, dense or compact, in evaluation mode.
        path: the file.

    Returns:
        what runs the file.

    Raises:
        InexactError: the outputs differ.
    """
    names = [f"layer_{i}" for i in range(len(model.encoder.layers) + 1)]
    example, graph = torch.randn(2, RATE), Layers(model).eval()
    write_onnx(graph, example, path, ("audio", "samples"), names, SHORTEST)
    return _checked(Runner(path), model, "fp32")


def write_speech_int8(model: nn.Module, source: Path, path: Path) -> Runner:
    """Write a model with the weights of products in int8.

    Args:
        model, path: as for :func:`write_speech_onnx`.
        source: what that wrote.
    """
    write_int8(source, path)
    return _checked(Runner(path), model, "int8")


def _checked(run: Runner, model: nn.Module, precision: str) -> Runner:
    """Check that a file computes what the model does, and return what runs it."""
    graph = Layers(model).eval()
    for seconds in SECONDS:
        for batch in (1, 2):
            audio = torch.randn(batch, round(seconds * RATE))
            with torch.no_grad():
                wanted = graph(audio)
            off = max(
                difference(*pair) for pair in zip(run(audio), wanted, strict=True)
            )
            if not off < TOLERANCES[precision]:
                raise InexactError(f"outputs in {precision} differ by {off:.2g}")
    return run
