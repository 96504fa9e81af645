"""ESPnet's Transformer encoder in its dense, its gated or its compact life."""

from typing import Any

from espnet.nets.pytorch_backend.transformer.embedding import PositionalEncoding
from torch import nn

from espnet_prune.families.espnet.architecture import Architecture, Fixed
from espnet_prune.families.espnet.encoder import (
    COMMON,
    PrunableEncoder,
    Rules,
    head_dim,
)
from espnet_prune.families.espnet.layers.block import TransformerBlock

RULES = Rules(
    # Options of ESPnet's TransformerEncoder that must have one value here, and why.
    required=COMMON
    | {
        "pos_enc_layer_type": ("abs_pos", "only absolute positions are prunable"),
        "normalize_before": (True, "post-norm blocks are not prunable"),
        "concat_after": (False, "the concatenating attention output is not prunable"),
        "qk_norm": (False, "norms of queries and keys are not prunable"),
    },
    inert={
        "positionwise_conv_kernel_size",
        "padding_idx",
        "layer_drop_rate",  # inert in ESPnet's encoder, too
        "use_flash_attn",  # another way to the same outputs
    },
)


class PrunableTransformerEncoder(PrunableEncoder):
    """Transformer encoder, registered with ESPnet as ``prunable_transformer``.

    Loads every checkpoint of ESPnet's ``transformer`` with absolute positions: same
    parameter names, same outputs.

    Args:
        input_size: features per frame.
        output_size: model dimension.
        attention_heads, linear_units, num_blocks: sizes of the dense model.
        dropout_rate, positional_dropout_rate, attention_dropout_rate: as in ESPnet.
        architecture: sizes of a compact model (:meth:`Architecture.to_dict`); None
            for those of the dense model.
        gates: keyword arguments of :class:`GateOptions` for the gated life.
        options: further options of ESPnet's ``TransformerEncoder``.

    Raises:
        ValueError: an option that is not supported, by name.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int = 256,
        attention_heads: int = 4,
        linear_units: int = 2048,
        num_blocks: int = 6,
        dropout_rate: float = 0.1,
        positional_dropout_rate: float = 0.1,
        attention_dropout_rate: float = 0.0,
        architecture: dict[str, Any] | None = None,
        gates: dict[str, Any] | None = None,
        **options: Any,
    ):
        RULES.check(options)
        fixed = Fixed(input_size, output_size, head_dim(output_size, attention_heads))
        # ESPnet's subsampling takes its own default here, whatever the config says.
        positions = PositionalEncoding(output_size, dropout_rate)
        super().__init__(
            fixed,
            Architecture.dense(
                output_size, attention_heads, linear_units, num_blocks, "transformer"
            ),
            architecture,
            gates,
            positions,
            lambda sizes, gate_options: TransformerBlock(
                sizes,
                fixed,
                (dropout_rate, attention_dropout_rate),
                nn.ReLU,
                gate_options,
            ),
        )
