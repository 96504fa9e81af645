"""ESPnet's E-Branchformer encoder in its dense, its gated or its compact life."""

from typing import Any

from espnet.nets.pytorch_backend.nets_utils import get_activation
from espnet.nets.pytorch_backend.transformer.embedding import RelPositionalEncoding
from torch import nn

from espnet_prune.families.espnet.architecture import Architecture, BranchBlock, Fixed
from espnet_prune.families.espnet.encoder import (
    COMMON,
    PrunableEncoder,
    Rules,
    head_dim,
)
from espnet_prune.families.espnet.layers.branch_block import EBranchformerBlock

KIND = "e_branchformer"
RULES = Rules(
    # Options of ESPnet's EBranchformerEncoder that must have one value here, and why.
    required=COMMON
    | {
        "attention_layer_type": ("rel_selfattn", "only relative attention is prunable"),
        "pos_enc_layer_type": ("rel_pos", "only relative positions are prunable"),
        "rel_pos_type": ("latest", "legacy relative positions compute other outputs"),
        "use_linear_after_conv": (False, "a linear layer inside of it is not prunable"),
        "zero_triu": (False, "masked relative positions are not prunable"),
    },
    inert={
        "padding_idx",
        "qk_norm",  # these two belong to attention_layer_type "selfattn"
        "use_flash_attn",
    },
    left_out={"layer_drop_rate", "gradient_checkpoint_layers"},
)


class PrunableEBranchformerEncoder(PrunableEncoder):
    """E-Branchformer encoder, registered with ESPnet as ``prunable_e_branchformer``.

    Loads every checkpoint of ESPnet's ``e_branchformer`` with relative positions: same
    parameter names, same outputs.

    Args:
        input_size: features per frame.
        output_size: model dimension.
        attention_heads, linear_units, num_blocks: sizes of the dense model.
        cgmlp_linear_units: both halves of the gating MLP together, in the dense model.
        cgmlp_conv_kernel, merge_conv_kernel: odd widths of the depthwise convolutions.
        gate_activation, ffn_activation_type: as in ESPnet.
        use_ffn, macaron_ffn: whether a block has FFNs, and whether two of them.
        dropout_rate, positional_dropout_rate, attention_dropout_rate: as in ESPnet.
        max_pos_emb_len: length for which positions are prepared beforehand.
        architecture: sizes of a compact model (:meth:`Architecture.to_dict`); None
            for those of the dense model.
        gates: keyword arguments of :class:`GateOptions` for the gated life.
        options: further options of ESPnet's ``EBranchformerEncoder``.

    Raises:
        ValueError: an option that is not supported, by name.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int = 256,
        attention_heads: int = 4,
        cgmlp_linear_units: int = 2048,
        cgmlp_conv_kernel: int = 31,
        gate_activation: str = "identity",
        num_blocks: int = 12,
        dropout_rate: float = 0.1,
        positional_dropout_rate: float = 0.1,
        attention_dropout_rate: float = 0.0,
        max_pos_emb_len: int = 5000,
        use_ffn: bool = False,
        macaron_ffn: bool = False,
        ffn_activation_type: str = "swish",
        linear_units: int = 2048,
        merge_conv_kernel: int = 3,
        architecture: dict[str, Any] | None = None,
        gates: dict[str, Any] | None = None,
        **options: Any,
    ):
        RULES.check(options)
        dim = head_dim(output_size, attention_heads)
        if cgmlp_linear_units < 2 or cgmlp_linear_units % 2:
            raise ValueError(
                f"encoder_conf: cgmlp_linear_units {cgmlp_linear_units} are no pairs"
            )
        for width in (cgmlp_conv_kernel, merge_conv_kernel):
            if width % 2 == 0:
                raise ValueError(
                    "encoder_conf: cgmlp_conv_kernel and merge_conv_kernel must be "
                    f"odd, not {width}"
                )
        two = use_ffn and macaron_ffn
        block = BranchBlock(
            ffn1=linear_units if two else 0,
            heads=attention_heads,
            qk_dim=dim,
            v_dim=dim,
            attn_out=output_size,
            cgmlp=cgmlp_linear_units // 2,
            cgmlp_out=output_size,
            ffn2=linear_units if use_ffn else 0,
        )
        fixed = Fixed(
            input_size, output_size, dim, cgmlp_conv_kernel, merge_conv_kernel
        )

        def gating() -> nn.Module:
            if gate_activation == "identity":
                return nn.Identity()
            return get_activation(gate_activation)

        super().__init__(
            fixed,
            Architecture((output_size, output_size), (block,) * num_blocks, KIND),
            architecture,
            gates,
            RelPositionalEncoding(
                output_size, positional_dropout_rate, max_pos_emb_len
            ),
            lambda sizes, gate_options: EBranchformerBlock(
                sizes,
                fixed,
                (dropout_rate, attention_dropout_rate),
                lambda: get_activation(ffn_activation_type),
                gating,
                0.5 if two else 1.0,
                gate_options,
            ),
        )
