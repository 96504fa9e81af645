"""Tell which options of ESPnet's encoders and decoder can be pruned."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
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
        defaults: those of ESPnet's constructor where they differ from ``required``: a
            config that does not mention the option means these.
    """

    section: str
    required: dict[str, tuple[Any, str]]
    free: frozenset[str]
    left_out: frozenset[str] = frozenset()
    defaults: dict[str, Any] = field(default_factory=dict)

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse by name what cannot be pruned as it is described.

        Raises:
            OptionError: an option of another value, or an unknown one.
        """
        for name, (value, why) in self.required.items():
            values = value if isinstance(value, tuple) else (value,)
            given = options.get(name, self.defaults.get(name, values[0]))
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
# Free options of relative positions; what qk_norm and flash attention do belongs to
# attention of other types.
POSITIONS = {"rel_pos_type", "max_pos_emb_len", "qk_norm", "use_flash_attn"}
RATES = {"dropout_rate", "positional_dropout_rate", "attention_dropout_rate"}
# What is needed of every encoder.
COMMON: dict[str, tuple[Any, str]] = {
    "input_layer": ("conv2d", "only the 4-fold convolutional subsampling is prunable"),
    "positionwise_layer_type": ("linear", "convolutional FFNs are not prunable"),
    "interctc_layer_idx": ([], "intermediate CTC is not supported"),
    "interctc_use_conditioning": (False, "intermediate CTC is not supported"),
}
BEFORE = {
    "normalize_before": (True, "post-norm blocks are not prunable"),
    "concat_after": (False, "the concatenating attention output is not prunable"),
}
ATTENTION = ("rel_selfattn", "legacy_rel_selfattn")
RELATIVE = {
    "pos_enc_layer_type": (
        ("rel_pos", "legacy_rel_pos"),
        "only relative positions are prunable",
    ),
    "zero_triu": (False, "masked relative positions are not prunable"),
}
CONFORMER = Rules(
    "encoder_conf",
    COMMON
    | BEFORE
    | RELATIVE
    | {
        "macaron_style": (True, "a block needs both half FFNs"),
        "selfattention_layer_type": (ATTENTION, "only relative attention is prunable"),
        "use_cnn_module": (True, "a block needs its convolution module"),
        "ctc_trim": (False, "trimming by CTC is not supported"),
    },
    frozenset(
        SIZES
        | RATES
        | {
            "activation_type",
            "cnn_module_kernel",
            "positionwise_conv_kernel_size",
            "padding_idx",
        }
        | POSITIONS
    ),
    left_out=frozenset({"stochastic_depth_rate", "layer_drop_rate", "use_sdpa"}),
    defaults={"macaron_style": False},
)
TRANSFORMER = Rules(
    "encoder_conf",
    COMMON
    | BEFORE
    | {
        "pos_enc_layer_type": ("abs_pos", "only absolute positions are prunable"),
        "qk_norm": (False, "norms of queries and keys are not prunable"),
    },
    frozenset(
        SIZES
        | RATES
        | {"positionwise_conv_kernel_size", "padding_idx", "use_flash_attn"}
    ),
    left_out=frozenset({"layer_drop_rate", "use_sdpa"}),
)
E_BRANCHFORMER = Rules(
    "encoder_conf",
    COMMON
    | RELATIVE
    | {
        "attention_layer_type": (ATTENTION, "only relative attention is prunable"),
        "use_linear_after_conv": (False, "a linear layer inside of it is not prunable"),
    },
    frozenset(
        SIZES
        | RATES
        | {
            "cgmlp_linear_units",
            "cgmlp_conv_kernel",
            "gate_activation",
            "use_ffn",
            "macaron_ffn",
            "ffn_activation_type",
            "merge_conv_kernel",
            "padding_idx",
        }
        | POSITIONS
    ),
    left_out=frozenset({"layer_drop_rate", "gradient_checkpoint_layers", "use_sdpa"}),
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
