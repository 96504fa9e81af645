"""ESPnet's Conformer encoder in its dense, its gated or its compact life."""

from dataclasses import dataclass
from typing import Any

import torch
from espnet.nets.pytorch_backend.nets_utils import get_activation
from espnet.nets.pytorch_backend.transformer.embedding import RelPositionalEncoding
from torch import Tensor, nn

from espnet_prune.families.espnet.architecture import Architecture, Fixed
from espnet_prune.families.espnet.encoder import (
    COMMON,
    PrunableEncoder,
    Rules,
    head_dim,
)
from espnet_prune.families.espnet.layers.block import ConformerBlock
from espnet_prune.serving.fast.encoder import FastEncoder
from espnet_prune.serving.fast.source import Source

RULES = Rules(
    required=COMMON
    | {
        "normalize_before": (True, "post-norm blocks are not prunable"),
        "concat_after": (False, "the concatenating attention output is not prunable"),
        "macaron_style": (True, "a block needs both half FFNs"),
        "rel_pos_type": ("latest", "legacy relative positions compute other outputs"),
        "pos_enc_layer_type": ("rel_pos", "only relative positions are prunable"),
        "selfattention_layer_type": (
            "rel_selfattn",
            "only relative attention is prunable",
        ),
        "use_cnn_module": (True, "a block needs its convolution module"),
        "zero_triu": (False, "masked relative positions are not prunable"),
        "ctc_trim": (False, "trimming by CTC is not supported"),
    },
    inert={
        "positionwise_conv_kernel_size",
        "padding_idx",
        "layer_drop_rate",  # inert in ESPnet's encoder, too
        "qk_norm",  # these two belong to selfattention_layer_type "selfattn"
        "use_flash_attn",
    },
    left_out={"stochastic_depth_rate"},
    defaults={"macaron_style": False, "rel_pos_type": "legacy"},
)


@dataclass(frozen=True)
class Derived:
    """A fast encoder and what tells whether it still is that of its layers.

    Args:
        encoder: made of the layers.
        marks, held: of their :class:`Source`.
    """

    encoder: FastEncoder
    marks: list[int]
    held: list[object]


class PrunableConformerEncoder(PrunableEncoder):
    """Conformer encoder, registered with ESPnet as ``prunable_conformer``.

    Loads every checkpoint of ESPnet's ``conformer`` with relative positions: same
    parameter names, same outputs.

    It takes a faster forward in ``eval()`` where no gradient can be asked for: under
    ``torch.no_grad()``, or if neither the input nor a weight requires one. What that
    derives from the weights is made anew when they change; writes through ``.data``
    (``weight.data.mul_(2)``) cannot be seen: write under ``torch.no_grad()`` instead.
    Layers with hooks, in train mode or of another type than they were built with are
    computed by their own forward.

    Args:
        input_size: features per frame.
        output_size: model dimension.
        attention_heads, linear_units, num_blocks: sizes of the dense model.
        dropout_rate, positional_dropout_rate, attention_dropout_rate: as in ESPnet.
        activation_type: as in ESPnet.
        cnn_module_kernel: odd width of the depthwise convolution.
        max_pos_emb_len: length for which positions are prepared beforehand.
        architecture: sizes of a compact model (:meth:`Architecture.to_dict`); None
            for those of the dense model.
        gates: keyword arguments of :class:`GateOptions` for the gated life.
        options: further options of ESPnet's ``ConformerEncoder``.

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
        activation_type: str = "swish",
        cnn_module_kernel: int = 31,
        max_pos_emb_len: int = 5000,
        architecture: dict[str, Any] | None = None,
        gates: dict[str, Any] | None = None,
        **options: Any,
    ):
        RULES.check(options)
        dim = head_dim(output_size, attention_heads)
        fixed = Fixed(input_size, output_size, dim, cnn_module_kernel)
        rates = dropout_rate, attention_dropout_rate
        super().__init__(
            fixed,
            Architecture.dense(output_size, attention_heads, linear_units, num_blocks),
            architecture,
            gates,
            RelPositionalEncoding(
                output_size, positional_dropout_rate, max_pos_emb_len
            ),
            lambda sizes, options: ConformerBlock(
                sizes,
                fixed,
                rates,
                lambda: get_activation(activation_type),
                options,
                self.size,
            ),
        )
        self._derived: Derived | None = None

    def forward(
        self,
        xs_pad: Tensor,
        ilens: Tensor,
        prev_states: None = None,
        masks: Tensor | None = None,
        ctc: nn.Module | None = None,
        return_all_hs: bool = False,
    ) -> tuple[Any, Tensor, None]:
        """As that of :class:`PrunableEncoder`."""
        fast = self._fast_forward(xs_pad)
        if fast is not None:
            return fast(xs_pad, ilens, masks, return_all_hs)
        return super().forward(xs_pad, ilens, prev_states, masks, ctc, return_all_hs)

    @property
    def layers(self) -> tuple[nn.Module, nn.ModuleList, nn.Module, nn.Module]:
        """What a :class:`FastEncoder` is made of."""
        return self.embed, self.encoders, self.after_norm, self.spread

    def _fast_forward(self, x: Tensor) -> FastEncoder | None:
        """The forward for when only outputs are asked for, of the weights as they are.

        None if gradients are, if a graph is traced, or if the layers compute anything
        else than they were built for.
        """
        if self.training or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return None
        source = Source(*self.layers)
        if source.is_in_training() or source.is_differentiated(x):
            return None
        if not source.is_known():
            return None
        # Read once and set once: several threads may be here.
        derived, marks = self._derived, source.marks()
        if derived is None or derived.marks != marks:
            derived = Derived(FastEncoder(*self.layers), marks, source.hold())
            self._derived = derived
        return derived.encoder

    def train(self, mode: bool = True) -> "PrunableConformerEncoder":
        self._derived = None  # no copies of the weights while they are trained
        return super().train(mode)

    def _apply(self, *args: Any, **options: Any) -> "PrunableConformerEncoder":
        self._derived = None  # none on the device that is left
        return super()._apply(*args, **options)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_derived": None}
