"""Tell which options of ESPnet's encoders and decoder can be pruned."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from espnet_prune.base.errors import OptionError


@dataclass(frozen=True)
class Rules:
    """The options of one kind of encoder or decoder that the descriptions hold for.

    Args:
        section: of ESPnet's config, for messages: ``encoder_conf``.
        required: option -> the value that it must have here, or a tuple of them, the
            usual one first; and why.
        free: options that may have any value.
        left_out: options of ESPnet's training that a student does without:
            regularisers, and a kernel that ESPnet 202511 has not.
    """

    section: str
    required: dict[str, tuple[Any, str]]
    free: frozenset[str]
    left_out: frozenset[str] = frozenset()

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse by name what cannot be pruned as it is described.

        Raises:
            OptionError: an option of another value, or an unknown one.
        """
        for name, (value, why) in self.required.items():
            values = value if isinstance(value, tuple) else (value,)
            given = options.get(name, values[0])
            if given not in values and (given or values[0]):  # None is no list either
                raise OptionError(
                    f"{self.section}: {name}={given!r} is not supported ({why}); "
                    f"it must be {' or '.join(map(repr, values))}"
                )
        size = options.get("output_size", 256)
        heads = options.get("attention_heads", 4)
        if self.section == "encoder_conf" and size % heads:
            raise OptionError(
                f"{self.section}: output_size {size} is no multiple of "
                f"attention_heads {heads}"
            )
        known = self.required.keys() | self.free | self.left_out | {"architecture"}
        if unknown := options.keys() - known:
            raise OptionError(f"{self.section}: unknown option(s) {sorted(unknown)}")
        for name in SIZES & options.keys():
            if type(value := options[name]) is not int:
                raise OptionError(
                    f"{self.section}: {name} must be of type int, not {value!r}"
                )

    def student(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return a student's options, without those that are left out."""
        for name in self.left_out:
            if options.get(name):
                logging.warning(f"{name} of the teacher's training is left out")
        return {k: v for k, v in options.items() if k not in self.left_out}


SIZES = {"output_size", "attention_heads", "linear_units", "num_blocks"}
POSITIONS = {"rel_pos_type", "max_pos_emb_len"}  # free options of relative ones
RATES = {"dropout_rate", "positional_dropout_rate", "attention_dropout_rate"}
Required = dict[str, tuple[Any, str]]


def subsampling(*more: str) -> Required:
    """Name the subsampling layers of ESPnet that an encoder may have."""
    layers = ("conv2d", "conv2d1", "conv2d2", "conv2d6", "conv2d8", *more)
    return {"input_layer": (layers, "only convolutions are prunable")}


# What is needed of every encoder.
COMMON: Required = {
    "qk_norm": (False, "norms of queries and keys are not prunable"),
}
FFN = {
    "positionwise_layer_type": ("linear", "convolutional FFNs are not prunable"),
}
BEFORE = {
    "normalize_before": (True, "post-norm blocks are not prunable"),
    "concat_after": (False, "the concatenating attention output is not prunable"),
}
ATTENTION = (
    ("rel_selfattn", "legacy_rel_selfattn", "selfattn"),
    "attention of other types is not prunable",
)
RELATIVE = {
    "pos_enc_layer_type": (
        ("rel_pos", "legacy_rel_pos", "abs_pos"),
        "positions of other types are not supported",
    ),
    "zero_triu": (False, "masked relative positions are not prunable"),
}
BRANCHES = {
    "attention_layer_type": ATTENTION,
    "use_linear_after_conv": (False, "a linear layer inside of it is not prunable"),
}
OF_BRANCHES = {"cgmlp_linear_units", "cgmlp_conv_kernel", "gate_activation"}
INTERMEDIATE = {"interctc_layer_idx", "interctc_use_conditioning"}
OF_ALL = SIZES | RATES | {"padding_idx", "use_flash_attn"}
CONFORMER = Rules(
    "encoder_conf",
    COMMON
    | subsampling()
    | FFN
    | BEFORE
    | RELATIVE
    | {
        "selfattention_layer_type": ATTENTION,
        "use_cnn_module": (True, "a block needs its convolution module"),
        "ctc_trim": (False, "trimming by CTC is not supported"),
    },
    frozenset(
        OF_ALL
        | POSITIONS
        | {"activation_type", "cnn_module_kernel", "positionwise_conv_kernel_size"}
        | {"macaron_style"}
        | INTERMEDIATE
    ),
    left_out=frozenset({"stochastic_depth_rate", "layer_drop_rate", "use_sdpa"}),
)
TRANSFORMER = Rules(
    "encoder_conf",
    COMMON
    | subsampling("conv1d2")
    | FFN
    | BEFORE
    | {"pos_enc_layer_type": ("abs_pos", "only absolute positions are prunable")},
    frozenset(OF_ALL | {"positionwise_conv_kernel_size"} | INTERMEDIATE),
    left_out=frozenset({"layer_drop_rate", "use_sdpa"}),
)
E_BRANCHFORMER = Rules(
    "encoder_conf",
    COMMON | subsampling("conv1d1", "conv1d2", "conv1d3") | FFN | RELATIVE | BRANCHES,
    frozenset(
        OF_ALL
        | POSITIONS
        | OF_BRANCHES
        | {"use_ffn", "macaron_ffn", "ffn_activation_type", "merge_conv_kernel"}
        | INTERMEDIATE
    ),
    left_out=frozenset({"layer_drop_rate", "gradient_checkpoint_layers", "use_sdpa"}),
)
BRANCHFORMER = Rules(
    "encoder_conf",
    COMMON
    | subsampling()
    | RELATIVE
    | BRANCHES
    | {
        "use_attn": (True, "a block needs both branches"),
        "use_cgmlp": (True, "a block needs both branches"),
        "merge_method": ("concat", "only branches side by side are prunable"),
    },
    frozenset(
        OF_ALL - {"linear_units"}
        | {"rel_pos_type", "cgmlp_weight", "attn_branch_drop_rate"}
        | OF_BRANCHES
    ),
    left_out=frozenset({"stochastic_depth_rate", "use_sdpa"}),
)
# Of a streaming encoder.
STREAMING: Required = {
    "input_layer": (("conv2d", "conv2d6", "conv2d8"), "only convolutions are prunable"),
    **FFN,
    "init_average": (True, "ESPnet cannot compute the largest values"),
}
OF_STREAMING = OF_ALL - {"use_flash_attn"} | {
    "positionwise_conv_kernel_size", "block_size", "hop_size", "look_ahead",
    "ctx_pos_enc",
}  # fmt: skip
CONTEXTUAL_BLOCK_CONFORMER = Rules(
    "encoder_conf",
    BEFORE | STREAMING | {"use_cnn_module": CONFORMER.required["use_cnn_module"]},
    frozenset(
        OF_STREAMING
        | {"activation_type", "cnn_module_kernel", "macaron_style"}
        | {"selfattention_layer_type"}  # which changes nothing
    ),
)
CONTEXTUAL_BLOCK_TRANSFORMER = Rules(
    "encoder_conf", BEFORE | STREAMING, frozenset(OF_STREAMING)
)
DECODER = Rules(
    "decoder_conf",
    BEFORE
    | {
        "input_layer": ("embed", "only token embeddings are prunable"),
        "use_output_layer": (True, "it must give scores"),
        "qk_norm": (False, "norms of queries and keys are not prunable"),
    },
    frozenset(
        {
            "attention_heads",
            "linear_units",
            "num_blocks",
            "dropout_rate",
            "positional_dropout_rate",
            "self_attention_dropout_rate",
            "src_attention_dropout_rate",
            "use_flash_attn",
            "use_sdpa",
        }
    ),
    left_out=frozenset({"layer_drop_rate", "gradient_checkpoint_layers"}),
)
# Of s3prl, with the upstream of this package.
FRONTEND = Rules(
    "frontend_conf",
    {"layer": (-1, "blocks above it would be of no use")},
    frozenset({"fs", "frontend_conf", "download_dir", "multilayer_feature"}),
)
