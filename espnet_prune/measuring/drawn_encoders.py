"""Small encoders of drawn sizes, whose times tell what things in an encoder cost."""

import copy
import hashlib
import random
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from espnet_prune.config.sections import GateOptions
from espnet_prune.families.espnet.compact import architecture_of, cut
from espnet_prune.families.espnet.model import Lengths, describe
from espnet_prune.families.registry import Kind
from espnet_prune.families.ssl import model as speech
from espnet_prune.measuring.latency import Counts, Point
from espnet_prune.pruning.cost import Terms, evaluate, things_of
from espnet_prune.pruning.layout import Layout
from espnet_prune.serving.inference import write_graph
from espnet_prune.serving.int8 import write_int8
from espnet_prune.serving.onnx import Runner
from espnet_prune.serving.speech_onnx import write_speech_onnx

ENCODERS, BLOCKS = 32, 2
GONE = 0.15  # share of the submodules that a drawn encoder lacks


@dataclass(frozen=True)
class ASREncoders:
    """The subject of a latency table is an ESPnet encoder.

    Args:
        encoder: the dense one, for its sizes and options.
        kind: of encoder.
        lengths: of the utterance that is timed.
        precision: ``fp32`` or ``int8``, of the products.
        model_dim: whether channels between the layers can go, too.
    """

    encoder: nn.Module
    kind: Kind
    lengths: Lengths
    precision: str = "fp32"
    model_dim: bool = False

    def told(self) -> dict[str, Any]:
        """The method returns what tells a table of this encoder from others."""
        told = {"frames": self.lengths.frames, "encoder": digest(self.encoder)}
        return told | changed(self, precision="fp32", model_dim=False)

    def points(self) -> list[Point]:
        """The method returns, of each drawn encoder, its counts and what runs it."""
        lengths, options = self.lengths, GateOptions(model_dim=self.model_dim)
        short = copy.deepcopy(self.encoder).eval()
        short.encoders = type(short.encoders)(*list(short.encoders)[:BLOCKS])
        model = nn.Module()
        model.encoder = copy.deepcopy(short)
        described = describe(model, self.kind, options)
        noise = torch.randn(1, lengths.frames, lengths.features)

        def write(own: Tensor, file: Path) -> None:
            small, sizes = copy.deepcopy(short), architecture_of(described.layout, own)
            thinned = GateOptions(model_dim="dims" in sizes)
            cut(small, self.kind.describe(small, thinned, gated=False), sizes)
            write_graph(small, lengths.features, "fp32", file)

        def price(thing: str) -> Terms:
            return described.terms(lengths, {thing: 1.0})["latency"]

        things = things_of(described.layout, described.things)
        return drawn(described.layout, things, price, write, noise, self.precision)


@dataclass(frozen=True)
class SpeechEncoders:
    """The subject of a latency table is a self-supervised encoder.

    Args:
        model: the dense one, of transformers, for its config.
        samples: of the utterance that is timed.
        precision: ``fp32`` or ``int8``, of the products.
    """

    model: PreTrainedModel
    samples: int
    precision: str = "fp32"

    def told(self) -> dict[str, Any]:
        """The method returns what tells a table of this encoder from others."""
        told = {"samples": self.samples, "encoder": digest(self.model)}
        return told | changed(self, precision="fp32")

    def points(self) -> list[Point]:
        """The method returns, of each drawn encoder, its counts and what runs it."""
        short = speech.shortened(self.model, BLOCKS)
        described = speech.prepare(copy.deepcopy(short), GateOptions())
        noise = torch.randn(1, self.samples)

        def write(own: Tensor, file: Path) -> None:
            sizes = speech.architecture_of(described.layout, own)
            write_speech_onnx(speech.build(short, sizes).eval(), file)

        def price(thing: str) -> Terms:
            return described.priced({thing: 1.0})

        things = things_of(described.layout, described.things)
        return drawn(described.layout, things, price, write, noise, self.precision)


def changed(subject: object, **usual: Any) -> dict[str, Any]:
    """Return the options of a subject that are not the usual ones: older tables tell
    nothing of them."""
    found = {name: getattr(subject, name) for name in usual}
    return {name: value for name, value in found.items() if value != usual[name]}


def drawn(
    layout: Layout,
    things: Iterable[str],
    price: Callable[[str], Terms],
    write: Callable[[Tensor, Path], None],
    noise: Tensor,
    precision: str,
) -> list[Point]:
    """Count what is in encoders of drawn sizes, and prepare what runs each.

    Args:
        layout: of the dense one.
        things: with a price.
        price: the terms that count a thing.
        write: writes the encoder of (unit,) values to an ONNX file.
        noise: its input.
        precision: in which the file is timed.
    """
    by_thing = {thing: price(thing) for thing in things}
    draw, found = random.Random(0), []
    for _ in range(ENCODERS):
        own = drawn_units(layout, draw)
        sums = layout.sums(own.double())
        counts: Counts = {t: float(evaluate(x, sums)) for t, x in by_thing.items()}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "encoder.onnx")
            write(own, file)
            if precision == "int8":
                file, source = Path(folder, "int8.onnx"), file
                write_int8(source, file)
            found.append((counts, partial(Runner(file), noise)))
    return found


def drawn_units(layout: Layout, draw: random.Random) -> Tensor:
    """Draw (unit,) values: 1 for the first units of each structure, else 0."""
    own = torch.zeros(len(layout))
    for structure in layout.structures:
        rows = layout[structure.parent].size if structure.even else 1
        units = own[layout.span(structure.name)].view(rows, -1)
        size = units.shape[1]
        kept = round(size * draw.choice((0.125, 0.25, 0.5, 1)))
        if size == 1:
            kept = int(draw.random() > GONE)
        units[:, : max(kept, structure.least, size > 1)] = 1
    return layout.settled(own)


def digest(encoder: nn.Module) -> str:
    """The function returns a SHA-256 of an encoder's structure and sizes."""
    return hashlib.sha256(str(encoder).encode()).hexdigest()
