"""What the plug-in encoders share: three lives, gates, cost, slicing."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from torch import Tensor, nn

from espnet_prune.config.options import make_options
from espnet_prune.families.espnet.architecture import Architecture, Block, Fixed, prices
from espnet_prune.families.espnet.layers.cost import Cost, Prices, cost, split_prices
from espnet_prune.families.espnet.layers.open_norm import gated_norm
from espnet_prune.families.espnet.layers.padding import real_frames
from espnet_prune.families.espnet.layers.residual import (
    layer_norm,
    narrowed,
    sliced_norm,
)
from espnet_prune.families.espnet.layers.spread import Spread
from espnet_prune.families.espnet.layers.structures import gated_counts, set_masks
from espnet_prune.families.espnet.layers.subsampling import Subsampling
from espnet_prune.families.espnet.strict import StrictLoading
from espnet_prune.pruning.gates import Gate, GateOptions


@dataclass(frozen=True)
class Rules:
    """Which options of ESPnet's encoder the prunable layers can take.

    Args:
        required: option -> the one value that it must have here, and why.
        inert: options without any effect on the encoder's function.
        left_out: options of ESPnet's training that have no effect here.
        defaults: those of ESPnet's constructor where they differ from ``required``: a
            config that does not mention the option means these.
    """

    required: dict[str, tuple[Any, str]]
    inert: set[str]
    left_out: set[str] = field(default_factory=set)
    defaults: dict[str, Any] = field(default_factory=dict)

    def check(self, options: dict[str, Any]) -> None:
        """Refuse by name what the prunable layers do not compute.

        Raises:
            ValueError: an option of another value, or an unknown one.
        """
        for name, (value, why) in self.required.items():
            given = options.get(name, self.defaults.get(name, value))
            if given != value and (given or value):  # None is no list either
                raise ValueError(
                    f"encoder_conf: {name}={given!r} is not supported ({why}); "
                    f"it must be {value!r}"
                )
        known = self.required.keys() | self.inert | self.left_out
        unknown = options.keys() - known
        if unknown:
            raise ValueError(f"encoder_conf: unknown option(s) {sorted(unknown)}")
        for name in self.left_out:
            if options.get(name):
                logging.warning(f"{name} is ignored by the prunable encoder")


# What the prunable layers need of every encoder, for Rules.required.
COMMON: dict[str, tuple[Any, str]] = {
    "input_layer": ("conv2d", "only the 4-fold convolutional subsampling is prunable"),
    "positionwise_layer_type": ("linear", "convolutional FFNs are not prunable"),
    "interctc_layer_idx": ([], "intermediate CTC is not supported"),
    "interctc_use_conditioning": (False, "intermediate CTC is not supported"),
}


class PrunableEncoder(StrictLoading, AbsEncoder):
    """An encoder of subsampling, prunable blocks and a last norm.

    Unlike ESPnet's models it refuses a checkpoint that misses or adds a key even when
    the caller loads with ``strict=False``.

    Args:
        fixed: what pruning does not change.
        dense: sizes of the dense model.
        architecture: sizes of a compact model (:meth:`Architecture.to_dict`); None for
            those of the dense model.
        gates: keyword arguments of :class:`GateOptions` for the gated life.
        positions: positional encoding, the end of the subsampling.
        make_block: makes a block of these sizes, with gates or without.

    Raises:
        ValueError: sizes or gates that make no sense, by name.
    """

    def __init__(
        self,
        fixed: Fixed,
        dense: Architecture,
        architecture: dict[str, Any] | None,
        gates: dict[str, Any] | None,
        positions: nn.Module,
        make_block: Callable[[Block, GateOptions | None], nn.Module],
    ):
        super().__init__()
        self.architecture = dense
        if architecture is not None:
            self.architecture = Architecture.from_dict(architecture)
            if self.architecture.kind != dense.kind:
                raise ValueError(
                    f"encoder_conf.architecture: its kind is "
                    f"{self.architecture.kind!r}, not {dense.kind!r}"
                )
        if gates is not None and architecture is not None:
            raise ValueError(
                "encoder_conf: gates start from the dense sizes; "
                "a compact architecture cannot be gated"
            )
        self.fixed = fixed
        options = self.dim_gate = None
        if gates is not None:
            options = make_options(GateOptions, "gates", gates)
            self.dim_gate = options.build_dims(fixed.size)
        if self.dim_gate is not None and dense.kind != "conformer":
            raise ValueError(
                f"gates: model_dim is not possible for an encoder {dense.kind}, "
                f"only for conformer"
            )
        self.embed = Subsampling(
            fixed.features,
            self.size,
            self.architecture.subsampling,
            positions,
            options,
        )
        self.encoders = nn.ModuleList(
            make_block(sizes, options) for sizes in self.architecture.blocks
        )
        self.after_norm = layer_norm(self.size)
        self.spread = Spread(self.architecture.dims, fixed.size)

    @property
    def size(self) -> int:
        """Model dimension: channels between its layers."""
        return self.architecture.size or self.fixed.size

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
        mask = real_frames(xs_pad, ilens, masks)
        x = self.embed(xs_pad)
        # Drawn once: what one layer writes the others must read.
        dims = None if self.dim_gate is None else self.dim_gate()
        hidden, more = [], () if dims is None else (dims,)
        for block in self.encoders:
            x, _ = block(x, mask, *more)
            hidden.append(self.spread(content(x)))
        out = self.spread(gated_norm(self.after_norm, content(x), dims))
        olens = mask.squeeze(1).sum(1)
        return ((out, hidden) if return_all_hs else out), olens, None

    def prices(self, frames: int) -> Prices:
        """What each thing in it costs; ``frames`` are feature frames."""
        table = partial(prices, self.fixed, frames, self.architecture.kind)
        return table() if self.dim_gate is None else split_prices(table)

    def gated_cost(
        self, frames: int, openness: Callable[[Gate], Tensor] = Gate.openness
    ) -> Cost:
        """Expected cost of the encoder under its gates, differentiable.

        Args:
            frames: feature frames of the utterance whose MACs are counted.
            openness: what a gate contributes: its probability of being open, or
                (``Gate.is_open``) whether it counts as kept.
        """
        counts = gated_counts(self, openness)
        if self.dim_gate is None:
            counts |= self.architecture.norm_counts()
        return cost(counts, self.prices(frames))

    def set_masks(self, masks: dict[str, Tensor] | None) -> None:
        """Fix all gates to final values (by gate name), or set them free again."""
        set_masks(self, masks)

    def kept(self) -> Architecture:
        """The architecture that the masks leave."""
        blocks = tuple(block.kept() for block in self.encoders)
        dims = None
        if self.dim_gate is not None and not self.dim_gate.mask.all():
            dims = tuple(self.dim_gate.mask.nonzero().squeeze(1).tolist())
        return Architecture(self.embed.kept(), blocks, self.architecture.kind, dims)

    @torch.no_grad()
    def sliced_state(self) -> dict[str, Tensor]:
        """State dict of the compact encoder of architecture :meth:`kept`."""
        dims = None if self.dim_gate is None else self.dim_gate()
        state = {f"embed.{k}": v for k, v in narrowed(self.embed, dims).items()}
        for i, block in enumerate(self.encoders):
            for key, value in block.sliced_state(dims).items():
                state[f"encoders.{i}.{key}"] = value
        for key, value in sliced_norm(self.after_norm, dims).items():
            state[f"after_norm.{key}"] = value
        return {k: v.detach().clone().contiguous() for k, v in state.items()}


def content(x: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """What a block gives on, without the positions that travel beside it."""
    return x[0] if isinstance(x, tuple) else x


def head_dim(size: int, heads: int) -> int:
    """Dimensions of a head of the dense model.

    Raises:
        ValueError: the heads do not share the channels evenly.
    """
    if size % heads:
        raise ValueError(
            f"encoder_conf: output_size {size} is no multiple of "
            f"attention_heads {heads}"
        )
    return size // heads
