"""Describe an ESPnet ASR model as a whole, and what it costs."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import nn

from espnet_prune.config.sections import GateOptions
from espnet_prune.families.described import Described
from espnet_prune.families.espnet import decoder as decoders
from espnet_prune.families.espnet import frontend as frontends
from espnet_prune.families.espnet.layers import (
    convolutions,
    decoder_clocks,
    encoder_clocks,
)
from espnet_prune.families.registry import Kind
from espnet_prune.families.ssl.describe import PRETRAINING
from espnet_prune.pruning.cost import REST, Terms, price_terms

ENCODER, DECODER = "encoder.", "decoder."
# Things with a price in seconds of which an encoder always has one, and their groups:
# what its subsampling takes however narrow it is, and the norm of its output.
FILTERS = ("subsampling.filter", "subsampling.second_filter")
STAYING = {"subsampling.module": "subsampling", "norm.module": REST}


@dataclass(frozen=True)
class Lengths:
    """The utterance whose MACs or latency are counted.

    Args:
        frames: feature frames.
        features: of each frame.
        tokens: of its transcript, where the decoder counts.
        samples: of its audio, where the frontend counts.
    """

    frames: int
    features: int
    tokens: int = 0
    samples: int = 0

    def clocks(
        self, encoder: nn.Module, heard_by: nn.Module | None = None
    ) -> dict[str, float]:
        """Count how often tensors are applied, by clock.

        Args:
            encoder: ESPnet's.
            heard_by: the self-supervised encoder in front of it, if that counts.
        """
        clocks = encoder_clocks(encoder, self.frames, self.features)
        clocks |= decoder_clocks(clocks["subsampled"], self.tokens)
        if heard_by is not None:
            clocks |= frontends.clocks(heard_by, self.samples)
        return clocks


@dataclass(frozen=True)
class DescribedASR(Described):
    """An ASR model that has been prepared for gates.

    Args:
        encoder: its encoder.
        heard_by: the self-supervised encoder in its frontend, if that has gates.
    """

    encoder: nn.Module
    heard_by: nn.Module | None = None

    @property
    def products(self) -> dict[str, tuple[str, str]]:
        """Pair the convolutions of which one reads the other, by thing with a price."""
        layers = convolutions(self.encoder.embed)
        names = [f"{ENCODER}embed.{name}" for name, _ in layers]
        pairs = zip(names, names[1:], strict=False)
        return dict(zip(FILTERS, pairs, strict=False))

    @property
    def things(self) -> tuple[str, ...]:
        """Name the things with a price of which no structure is made."""
        return *self.products, *STAYING

    def terms(
        self, lengths: Lengths, prices: Mapping[str, float] | None = None
    ) -> dict[str, Terms]:
        """Give the cost in parameters, in MACs and, with prices, in seconds."""
        found = self.counts(lengths.clocks(self.encoder, self.heard_by))
        if prices is not None:
            staying = self.products, STAYING
            found["latency"] = price_terms(self.layout, prices, *staying)
        return found


def describe(
    model: nn.Module, kind: Kind, options: GateOptions, beside: Collection[str] = ()
) -> DescribedASR:
    """Describe a model, and prepare it for gates: its function stays the same.

    Args:
        model: with a dense ``encoder`` and what of :data:`BESIDE` is to be pruned.
        kind: of its encoder.
        options: what has gates, and how they are made.
        beside: those of :data:`BESIDE` that have gates, too.
    """
    about = kind.describe(model.encoder, options, prefix=ENCODER)
    more, prefixes, heard_by = [], [ENCODER], None
    if "decoder" in beside:
        more.append(decoders.describe(model.decoder, options, prefix=DECODER))
        # Embeddings, output layer and last norm are beyond what is pruned.
        prefixes.append(f"{DECODER}decoders.")
    if "frontend" in beside:
        heard_by = frontends.encoder_of(model)
        more.append(frontends.describe(heard_by, options))
        prefixes.append(frontends.INSIDE)
    for other in more:
        about.structures += other.structures
        about.times |= other.times
        about.extra |= other.extra
        about.open_norms |= other.open_norms
    about.prepare(model)
    parameters = tuple(
        name
        for name, _ in model.named_parameters()
        if name.startswith(tuple(prefixes)) and not name.endswith(PRETRAINING)
    )
    layout = about.layout(model)
    return DescribedASR(about, layout, parameters, model.encoder, heard_by)
