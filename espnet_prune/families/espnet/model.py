"""Describe an ESPnet ASR model as a whole, and what it costs."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from espnet_prune.config.sections import GateOptions
from espnet_prune.families.described import Described
from espnet_prune.families.espnet import decoder as decoders
from espnet_prune.families.espnet.layers import (
    decoder_clocks,
    encoder_clocks,
    halved,
)
from espnet_prune.families.registry import Kind
from espnet_prune.pruning.cost import REST, Terms, price_terms

ENCODER, DECODER = "encoder.", "decoder."
# Things with a price in seconds of which an encoder always has one, and their groups:
# what its subsampling takes however narrow it is, and the norm of its output.
STAYING = {"subsampling.module": "subsampling", "norm.module": REST}


@dataclass(frozen=True)
class Lengths:
    """The utterance whose MACs or latency are counted.

    Args:
        frames: feature frames.
        features: of each frame.
        tokens: of its transcript, where the decoder counts.
    """

    frames: int
    features: int
    tokens: int = 0

    def clocks(self) -> dict[str, float]:
        """Count how often tensors are applied, by clock."""
        memory = halved(halved(self.frames))
        encoder = encoder_clocks(self.frames, self.features)
        return encoder | decoder_clocks(memory, self.tokens)


class DescribedASR(Described):
    """An ASR model that has been prepared for gates."""

    @property
    def things(self) -> tuple[str, ...]:
        """Name the things with a price of which no structure is made."""
        return "subsampling.filter", *STAYING

    def terms(
        self, lengths: Lengths, prices: Mapping[str, float] | None = None
    ) -> dict[str, Terms]:
        """Give the cost in parameters, in MACs and, with prices, in seconds."""
        found = self.counts(lengths.clocks())
        if prices is not None:
            first, second = f"{ENCODER}embed.conv.0", f"{ENCODER}embed.conv.2"
            products = {"subsampling.filter": (first, second)}
            found["latency"] = price_terms(self.layout, prices, products, STAYING)
        return found


def describe(
    model: nn.Module, kind: Kind, options: GateOptions, decoder: bool = False
) -> DescribedASR:
    """Describe a model, and prepare it for gates: its function stays the same.

    Args:
        model: with a dense ``encoder`` and, if it is to be pruned, ``decoder``.
        kind: of its encoder.
        options: what has gates, and how they are made.
        decoder: whether the decoder is pruned, too.
    """
    about = kind.describe(model.encoder, options, prefix=ENCODER)
    prefixes = [ENCODER]
    if decoder:
        more = decoders.describe(model.decoder, options, prefix=DECODER)
        about.structures += more.structures
        about.times |= more.times
        about.extra |= more.extra
        prefixes.append(DECODER)
    about.prepare(model)
    parameters = [
        name for name, _ in model.named_parameters() if name.startswith(tuple(prefixes))
    ]
    if decoder:  # embeddings, output layer and last norm are beyond what is pruned
        inside = f"{DECODER}decoders."
        parameters = [n for n in parameters if n.startswith((ENCODER, inside))]
    return DescribedASR(about, about.layout(model), tuple(parameters))
