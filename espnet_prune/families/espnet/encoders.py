"""The compact encoders and decoder as ESPnet builds them: stock ones, cut to sizes.

Each loads every checkpoint of the ESPnet class that it is made of: without an
``architecture`` it is that class. It refuses a checkpoint that misses or adds a key,
even when the caller loads with ``strict=False``.
"""

from typing import Any

from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.contextual_block_conformer_encoder import (
    ContextualBlockConformerEncoder,
)
from espnet2.asr.encoder.contextual_block_transformer_encoder import (
    ContextualBlockTransformerEncoder,
)
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from torch import Tensor, nn

from espnet_prune.config.sections import GateOptions
from espnet_prune.families.espnet import decoder, rules
from espnet_prune.families.espnet.compact import Spread, check_dims, cut
from espnet_prune.families.espnet.layers import refuse_too_short_streams
from espnet_prune.families.espnet.names import read_either_name
from espnet_prune.families.espnet.strict import StrictLoading
from espnet_prune.families.registry import KINDS, Kind

read_either_name()
refuse_too_short_streams()


class _CompactEncoder(StrictLoading):
    """The base class of the compact encoders.

    Args:
        input_size: features per frame.
        architecture: sizes (:mod:`espnet_prune.families.espnet.compact`); None for
            those of the dense model.
        options: those of ESPnet's class.

    Raises:
        ValueError: an option is not supported, or the sizes make no sense, by name.
    """

    kind: Kind

    def __init__(
        self,
        input_size: int,
        architecture: dict[str, Any] | None = None,
        **options: Any,
    ):
        self.kind.rules.check(options)
        super().__init__(input_size=input_size, **options)
        self.architecture, self.spread = architecture, nn.Identity()
        if architecture is None:
            return
        if (kind := architecture.get("kind", self.kind.name)) != self.kind.name:
            raise ValueError(
                f"architecture: its kind is {kind!r}, not {self.kind.name!r}"
            )
        dims = architecture.get("dims")
        if dims is not None:
            check_dims(dims, self.output_size())
            self.spread = Spread(dims, self.output_size())
        options = GateOptions(model_dim=dims is not None)
        cut(self, self.kind.describe(self, options, gated=False), architecture)

    def forward(self, *args: Any, **options: Any) -> tuple[Any, Tensor, Any]:
        """Encode as the stock encoder does; channels that are gone are 0."""
        out, lengths, states = super().forward(*args, **options)
        if isinstance(out, tuple):  # with intermediate CTC: block, what it sees
            between = [(i, self.spread(x)) for i, x in out[1]]
            return (self.spread(out[0]), between), lengths, states
        return self.spread(out), lengths, states


class PrunableConformerEncoder(_CompactEncoder, ConformerEncoder):
    """Conformer, registered with ESPnet as ``prunable_conformer``."""

    kind = KINDS["conformer"]


class PrunableTransformerEncoder(_CompactEncoder, TransformerEncoder):
    """Transformer encoder, registered with ESPnet as ``prunable_transformer``."""

    kind = KINDS["transformer"]


class PrunableEBranchformerEncoder(_CompactEncoder, EBranchformerEncoder):
    """E-Branchformer, registered with ESPnet as ``prunable_e_branchformer``."""

    kind = KINDS["e_branchformer"]


class PrunableBranchformerEncoder(_CompactEncoder, BranchformerEncoder):
    """Branchformer, registered with ESPnet as ``prunable_branchformer``."""

    kind = KINDS["branchformer"]


class PrunableContextualBlockConformerEncoder(
    _CompactEncoder, ContextualBlockConformerEncoder
):
    """Streaming Conformer, known as ``prunable_contextual_block_conformer``."""

    kind = KINDS["contextual_block_conformer"]


class PrunableContextualBlockTransformerEncoder(
    _CompactEncoder, ContextualBlockTransformerEncoder
):
    """Streaming Transformer, known as ``prunable_contextual_block_transformer``."""

    kind = KINDS["contextual_block_transformer"]


ENCODERS = {
    encoder.kind.compact: encoder
    for encoder in (
        PrunableConformerEncoder,
        PrunableTransformerEncoder,
        PrunableEBranchformerEncoder,
        PrunableBranchformerEncoder,
        PrunableContextualBlockConformerEncoder,
        PrunableContextualBlockTransformerEncoder,
    )
}


class PrunableTransformerDecoder(StrictLoading, TransformerDecoder):
    """Transformer decoder, registered with ESPnet as ``prunable_transformer``.

    Args:
        vocab_size, encoder_output_size: as in ESPnet.
        architecture: sizes of each layer; None for those of the dense model.
        options: those of ESPnet's class.

    Raises:
        ValueError: an option is not supported, or the sizes make no sense, by name.
    """

    def __init__(
        self,
        vocab_size: int,
        encoder_output_size: int,
        architecture: list[dict[str, int]] | None = None,
        **options: Any,
    ):
        rules.DECODER.check(options)
        super().__init__(
            vocab_size=vocab_size, encoder_output_size=encoder_output_size, **options
        )
        self.architecture = architecture
        if architecture is not None:
            about = decoder.describe(self, GateOptions(), gated=False)
            cut(self, about, {"decoder": architecture})
