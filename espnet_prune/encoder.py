"""The plug-in encoder: a Conformer in its dense, its gated or its compact life."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from espnet.nets.pytorch_backend.nets_utils import get_activation
from espnet.nets.pytorch_backend.transformer.embedding import RelPositionalEncoding
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from torch import Tensor, nn

from espnet_prune.architecture import Architecture, Fixed, norm_counts, prices
from espnet_prune.gates import Gate, GateOptions
from espnet_prune.inference.encoder import FastEncoder
from espnet_prune.layers.block import ConformerBlock, layer_norm
from espnet_prune.layers.cost import Cost, Prices, add, cost
from espnet_prune.layers.padding import real_frames
from espnet_prune.layers.structures import gated_counts, set_masks
from espnet_prune.layers.subsampling import Subsampling
from espnet_prune.options import make_options
from espnet_prune.strict import StrictLoading

# Options of ESPnet's ConformerEncoder that must have one value here, and why.
REQUIRED = {
    "input_layer": ("conv2d", "only the 4-fold convolutional subsampling is prunable"),
    "normalize_before": (True, "post-norm blocks are not prunable"),
    "concat_after": (False, "the concatenating attention output is not prunable"),
    "positionwise_layer_type": ("linear", "convolutional FFNs are not prunable"),
    "macaron_style": (True, "a block needs both half FFNs"),
    "rel_pos_type": ("latest", "legacy relative positions compute other outputs"),
    "pos_enc_layer_type": ("rel_pos", "only relative positions are prunable"),
    "selfattention_layer_type": ("rel_selfattn", "only relative attention is prunable"),
    "use_cnn_module": (True, "a block needs its convolution module"),
    "zero_triu": (False, "masked relative positions are not prunable"),
    "interctc_layer_idx": ([], "intermediate CTC is not supported"),
    "interctc_use_conditioning": (False, "intermediate CTC is not supported"),
    "ctc_trim": (False, "trimming by CTC is not supported"),
}
# Options without any effect on this encoder's function: accepted and ignored.
INERT = {
    "positionwise_conv_kernel_size",
    "padding_idx",
    "stochastic_depth_rate",  # regularises the training of the teacher
    "layer_drop_rate",  # inert in ESPnet's encoder, too
    "qk_norm",  # these two belong to selfattention_layer_type "selfattn"
    "use_flash_attn",
}
# The defaults of ESPnet's constructor where they differ from REQUIRED: a config that
# does not mention the option means these.
STOCK_DEFAULTS = {"macaron_style": False, "rel_pos_type": "legacy"}


class PrunableConformerEncoder(StrictLoading, AbsEncoder):
    """Conformer encoder, registered with ESPnet as ``prunable_conformer``.

    Loads every checkpoint of ESPnet's ``conformer`` with relative positions: same
    parameter names, same outputs. Unlike ESPnet's models it refuses a checkpoint that
    misses or adds a key even when the caller loads with ``strict=False``.

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
        super().__init__()
        check_options(options)
        if output_size % attention_heads:
            raise ValueError(
                f"encoder_conf: output_size {output_size} is no multiple of "
                f"attention_heads {attention_heads}"
            )
        self.architecture = (
            Architecture.from_dict(architecture)
            if architecture is not None
            else Architecture.dense(
                output_size, attention_heads, linear_units, num_blocks
            )
        )
        if gates is not None and architecture is not None:
            raise ValueError(
                "encoder_conf: gates start from the dense sizes; "
                "a compact architecture cannot be gated"
            )
        self.fixed = Fixed(
            input_size, output_size, output_size // attention_heads, cnn_module_kernel
        )
        gate_options = (
            make_options(GateOptions, "gates", gates) if gates is not None else None
        )
        self.embed = Subsampling(
            input_size,
            output_size,
            self.architecture.subsampling,
            RelPositionalEncoding(
                output_size, positional_dropout_rate, max_pos_emb_len
            ),
            gate_options,
        )
        self.encoders = nn.ModuleList(
            ConformerBlock(
                sizes,
                self.fixed,
                (dropout_rate, attention_dropout_rate),
                lambda: get_activation(activation_type),
                gate_options,
            )
            for sizes in self.architecture.blocks
        )
        self.after_norm = layer_norm(output_size)
        self._fast: FastEncoder | None = None
        self._fast_of: list[Tensor] = []  # the weights it was made of
        self._fingerprint = 0
        self._hooks: list[dict[int, Callable[..., Any]]] = []

    def output_size(self) -> int:
        return self.fixed.size

    @property
    def gated(self) -> bool:
        return self.embed.gate1 is not None

    def forward(
        self,
        xs_pad: Tensor,
        ilens: Tensor,
        prev_states: None = None,
        masks: Tensor | None = None,
        ctc: nn.Module | None = None,
        return_all_hs: bool = False,
    ) -> tuple[Any, Tensor, None]:
        """Encode features.

        Args:
            xs_pad: (batch, frame, feature), padded.
            ilens: (batch,) frames of each utterance.
            prev_states: unused, as in ESPnet.
            masks: (batch, frame) True where padded; overrides ``ilens``.
            ctc: unused (intermediate CTC is not supported).
            return_all_hs: also return the output of every block.

        Returns:
            (batch, time, channel), or a pair of it and the list of block outputs; the
            lengths (batch,); None.

        Raises:
            TooShortUttError: fewer frames than the subsampling needs.
        """
        fast = self._fast_forward()
        if fast is not None:
            return fast(xs_pad, ilens, masks, return_all_hs)
        mask = real_frames(xs_pad, ilens, masks)
        x = self.embed(xs_pad)
        hidden = []
        for block in self.encoders:
            x, _ = block(x, mask)
            hidden.append(x[0])
        out, olens = self.after_norm(x[0]), mask.squeeze(1).sum(1)
        return ((out, hidden) if return_all_hs else out), olens, None

    def _fast_forward(self) -> FastEncoder | None:
        """The forward for when only outputs are asked for, of the weights as they are.

        None if gradients are, if a graph is traced, if hooks listen to the layers, or
        if these are not as they were built (gates, others put there by quantization).
        """
        if self.training or self.gated or torch.is_grad_enabled():
            return None
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return None
        if self._fast is None or fingerprint(self._fast_of) != self._fingerprint:
            if any(type(m).__module__.startswith("torch.ao") for m in self.modules()):
                return None
            self._fast_of = [*self.parameters(), *self.buffers()]
            inner = [m for part in self.children() for m in part.modules()]
            self._hooks = [m._forward_hooks for m in inner]
            self._hooks += [m._forward_pre_hooks for m in inner]
            self._fingerprint = fingerprint(self._fast_of)
            self._fast = FastEncoder(self.embed, self.encoders, self.after_norm)
        return None if any(self._hooks) else self._fast

    def train(self, mode: bool = True) -> "PrunableConformerEncoder":
        self._fast = None
        return super().train(mode)

    def _apply(self, *args: Any, **options: Any) -> "PrunableConformerEncoder":
        self._fast = None  # moved to another device or data type
        return super()._apply(*args, **options)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._fast = None  # assign=True replaces parameters
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_fast": None, "_fast_of": []}

    def prices(self, frames: int) -> Prices:
        """What each thing in it costs; ``frames`` are feature frames."""
        return prices(self.fixed, frames)

    def gated_cost(
        self, frames: int, openness: Callable[[Gate], Tensor] = Gate.openness
    ) -> Cost:
        """Expected cost of the encoder under its gates, differentiable.

        Args:
            frames: feature frames of the utterance whose MACs are counted.
            openness: what a gate contributes: its probability of being open, or
                (``Gate.is_open``) whether it counts as kept.
        """
        counts = [gated_counts(self, openness), norm_counts(len(self.encoders))]
        return cost(add(counts), self.prices(frames))

    def set_masks(self, masks: dict[str, Tensor] | None) -> None:
        """Fix all gates to final values (by gate name), or set them free again."""
        set_masks(self, masks)

    def kept(self) -> Architecture:
        """The architecture that the masks leave."""
        blocks = tuple(block.kept() for block in self.encoders)
        return Architecture(self.embed.kept(), blocks)

    @torch.no_grad()
    def sliced_state(self) -> dict[str, Tensor]:
        """State dict of the compact encoder of architecture :meth:`kept`."""
        state = {f"embed.{k}": v for k, v in self.embed.sliced_state().items()}
        for i, block in enumerate(self.encoders):
            for key, value in block.sliced_state().items():
                state[f"encoders.{i}.{key}"] = value
        for key, value in self.after_norm.state_dict().items():
            state[f"after_norm.{key}"] = value
        return {k: v.detach().clone().contiguous() for k, v in state.items()}


def fingerprint(tensors: list[Tensor]) -> int:
    """Changes when one is written to (other than through ``.data``) or replaced."""
    # Tensors made in inference mode count no versions, and cannot be written to.
    return hash(
        tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)
    )


def check_options(options: dict[str, Any]) -> None:
    """Refuse by name what the prunable layers do not compute."""
    for name, (value, why) in REQUIRED.items():
        given = options.get(name, STOCK_DEFAULTS.get(name, value))
        if given != value:
            raise ValueError(
                f"encoder_conf: {name}={given!r} is not supported ({why}); "
                f"it must be {value!r}"
            )
    unknown = options.keys() - REQUIRED.keys() - INERT
    if unknown:
        raise ValueError(f"encoder_conf: unknown option(s) {sorted(unknown)}")
    if options.get("stochastic_depth_rate"):
        logging.warning("stochastic_depth_rate is ignored by the prunable encoder")
