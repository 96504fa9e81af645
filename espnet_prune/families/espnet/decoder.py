"""The plug-in decoder: a Transformer in its dense, its gated or its compact life."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from espnet2.asr.decoder.transformer_decoder import BaseTransformerDecoder
from torch import Tensor, nn

from espnet_prune.config.options import make_options
from espnet_prune.families.espnet.layers import heads
from espnet_prune.families.espnet.layers.cost import Counts, Prices, add
from espnet_prune.families.espnet.layers.feed_forward import FeedForward
from espnet_prune.families.espnet.layers.plain_attention import PlainAttention
from espnet_prune.families.espnet.layers.residual import PrunableBlock
from espnet_prune.families.espnet.layers.structures import set_masks
from espnet_prune.families.espnet.strict import StrictLoading
from espnet_prune.pruning.gates import GateOptions

SELF, SOURCE, FFN = "decoder.self", "decoder.source", "decoder.ffn"
# Options of ESPnet's TransformerDecoder that must have one value here.
REQUIRED = {
    "input_layer": "embed",
    "use_output_layer": True,
    "normalize_before": True,
    "concat_after": False,
    "qk_norm": False,
}
# Options without any effect on this decoder's function: accepted and ignored.
INERT = {"layer_drop_rate", "use_flash_attn", "gradient_checkpoint_layers"}


@dataclass(frozen=True)
class DecoderSizes:
    """Units of one decoder layer; a submodule of 0 heads or units does not exist."""

    self_heads: int
    self_qk_dim: int
    self_v_dim: int
    source_heads: int
    source_qk_dim: int
    source_v_dim: int
    ffn: int

    @classmethod
    def from_dict(cls, data: Any) -> "DecoderSizes":
        """Read what ``asdict`` wrote (also after a YAML round trip).

        Raises:
            ValueError: a field is missing, unknown, or no non-negative integer.
        """
        names = {field.name for field in fields(cls)}
        if (
            not isinstance(data, dict)
            or data.keys() != names
            or any(not isinstance(n, int) or n < 0 for n in data.values())
            or any(
                data[f"{part}_heads"] and not data[f"{part}_{dim}"]
                for part in ("self", "source")
                for dim in ("qk_dim", "v_dim")
            )
        ):
            raise ValueError(
                "decoder_conf.architecture: a layer needs integers >= 0 for "
                f"{sorted(names)}, and its heads need dimensions"
            )
        return cls(**data)

    def counts(self) -> Counts:
        """What there is of everything that can go."""

        def attention(group: str, number: int, qk: int, v: int) -> Counts:
            present = int(number > 0)
            return heads.counts(number, number * qk, number * v, present, group)

        return add(
            [
                attention(SELF, self.self_heads, self.self_qk_dim, self.self_v_dim),
                attention(
                    SOURCE, self.source_heads, self.source_qk_dim, self.source_v_dim
                ),
                FeedForward.counts(self.ffn, int(self.ffn > 0), FFN),
            ]
        )


class DecoderLayer(PrunableBlock):
    """Self-attention, attention to the encoder, feed-forward; each may be gone."""

    NORMS = {"self_attn": "norm1", "src_attn": "norm2", "feed_forward": "norm3"}

    def __init__(
        self,
        size: int,
        sizes: DecoderSizes,
        scale_dim: int,
        dropout: tuple[float, float, float],
        gates: GateOptions | None,
    ):
        super().__init__()
        rate, self_rate, source_rate = dropout

        def attention(group: str, number: int, qk: int, v: int, rate: float):
            if not number:
                return None
            return PlainAttention(
                size, heads=number, qk_dim=qk, v_dim=v, scale_dim=scale_dim,
                dropout_rate=rate, gates=gates, group=group,
            )  # fmt: skip

        self.size = size
        feed_forward = None
        if sizes.ffn:
            feed_forward = FeedForward(size, sizes.ffn, rate, nn.ReLU(), gates, FFN)
        own = sizes.self_heads, sizes.self_qk_dim, sizes.self_v_dim
        source = sizes.source_heads, sizes.source_qk_dim, sizes.source_v_dim
        layers = {
            "self_attn": attention(SELF, *own, self_rate),
            "src_attn": attention(SOURCE, *source, source_rate),
            "feed_forward": feed_forward,
        }
        self.add_submodules(size, layers)
        self.dropout = nn.Dropout(rate)

    def forward(
        self,
        tgt: Tensor,
        tgt_mask: Tensor,
        memory: Tensor,
        memory_mask: Tensor | None,
        cache: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """One layer, as ESPnet calls it.

        Args:
            tgt: (batch, token, channel).
            tgt_mask: (batch, token, token), True where it may be looked at.
            memory: (batch, time, channel).
            memory_mask: (batch, 1, time).
            cache: this layer's output for all tokens but the last, which alone is
                computed then.

        Returns:
            the output for all tokens, and the other arguments as they came.
        """
        x, mask = tgt, tgt_mask
        if cache is not None:
            x, mask = tgt[:, -1:], None if tgt_mask is None else tgt_mask[:, -1:]
        if self.self_attn is not None:
            keys = self.norm1(tgt)
            queries = keys[:, -x.shape[1] :]
            x = x + self.dropout(self.self_attn(queries, keys, mask))
        if self.src_attn is not None:
            x = x + self.dropout(self.src_attn(self.norm2(x), memory, memory_mask))
        if self.feed_forward is not None:
            x = x + self.dropout(self.feed_forward(self.norm3(x)))
        if cache is not None:
            x = torch.cat([cache, x], dim=1)
        return x, tgt_mask, memory, memory_mask

    def kept(self) -> DecoderSizes:
        """Sizes left by the masks."""
        return DecoderSizes(
            self.self_attn.kept(),
            *self.self_attn.kept_widths(),
            self.src_attn.kept(),
            *self.src_attn.kept_widths(),
            self.feed_forward.kept(),
        )


class PrunableTransformerDecoder(StrictLoading, BaseTransformerDecoder):
    """Transformer decoder, registered with ESPnet as ``prunable_transformer``.

    Loads every checkpoint of ESPnet's ``transformer`` decoder: same parameter names,
    same outputs, same scoring interface of the search.

    Args:
        vocab_size, encoder_output_size: as in ESPnet.
        attention_heads, linear_units, num_blocks: sizes of the dense model.
        dropout_rate, positional_dropout_rate: as in ESPnet.
        self_attention_dropout_rate, src_attention_dropout_rate: as in ESPnet.
        architecture: sizes of a compact decoder, a list of :class:`DecoderSizes` as
            dictionaries; None for those of the dense model.
        gates: keyword arguments of :class:`GateOptions` for the gated life.
        options: further options of ESPnet's ``TransformerDecoder``.

    Raises:
        ValueError: an option that is not supported, by name.
    """

    def __init__(
        self,
        vocab_size: int,
        encoder_output_size: int,
        attention_heads: int = 4,
        linear_units: int = 2048,
        num_blocks: int = 6,
        dropout_rate: float = 0.1,
        positional_dropout_rate: float = 0.1,
        self_attention_dropout_rate: float = 0.0,
        src_attention_dropout_rate: float = 0.0,
        architecture: list[dict[str, int]] | None = None,
        gates: dict[str, Any] | None = None,
        **options: Any,
    ):
        for name, value in REQUIRED.items():
            if options.get(name, value) != value:
                raise ValueError(
                    f"decoder_conf: {name}={options[name]!r} is not supported by the "
                    f"prunable decoder; it must be {value!r}"
                )
        if unknown := options.keys() - REQUIRED.keys() - INERT:
            raise ValueError(f"decoder_conf: unknown option(s) {sorted(unknown)}")
        if gates is not None and architecture is not None:
            raise ValueError(
                "decoder_conf: gates start from the dense sizes; "
                "a compact architecture cannot be gated"
            )
        if encoder_output_size % attention_heads:
            raise ValueError(
                f"decoder_conf: the encoder's output size {encoder_output_size} is no "
                f"multiple of attention_heads {attention_heads}"
            )
        super().__init__(
            vocab_size,
            encoder_output_size,
            dropout_rate,
            positional_dropout_rate,
        )
        size, dim = encoder_output_size, encoder_output_size // attention_heads
        one = DecoderSizes(*((attention_heads, dim, dim) * 2), linear_units)
        self.architecture = [one] * num_blocks
        if architecture is not None:
            self.architecture = [DecoderSizes.from_dict(d) for d in architecture]
        rates = dropout_rate, self_attention_dropout_rate, src_attention_dropout_rate
        gate_options = (
            make_options(GateOptions, "gates", gates) if gates is not None else None
        )
        self.decoders = nn.ModuleList(
            DecoderLayer(size, sizes, dim, rates, gate_options)
            for sizes in self.architecture
        )

    def prices(self, tokens: int, memory: int) -> Prices:
        """What each thing in it costs, for so many tokens and encoder frames."""
        size = self._output_size_bf_softmax
        return {
            **PlainAttention.prices(size, tokens, tokens, SELF),
            **PlainAttention.prices(size, tokens, memory, SOURCE),
            **FeedForward.prices(size, tokens, FFN),
        }

    def set_masks(self, masks: dict[str, Tensor] | None) -> None:
        """Fix all gates to final values (by gate name), or set them free again."""
        set_masks(self, masks)

    def kept(self) -> list[DecoderSizes]:
        """The architecture that the masks leave."""
        return [layer.kept() for layer in self.decoders]

    @torch.no_grad()
    def sliced_state(self) -> dict[str, Tensor]:
        """State dict of the compact decoder of architecture :meth:`kept`."""
        state = {
            key: value
            for key, value in self.state_dict().items()
            if not key.startswith("decoders.")
        }
        for i, layer in enumerate(self.decoders):
            for key, value in layer.sliced_state().items():
                state[f"decoders.{i}.{key}"] = value
        return {k: v.detach().clone().contiguous() for k, v in state.items()}


def decoder_counts(sizes: list[DecoderSizes]) -> Counts:
    """What there is in a decoder of that size."""
    return add(layer.counts() for layer in sizes)


def to_dicts(sizes: list[DecoderSizes]) -> list[dict[str, int]]:
    """For YAML and JSON."""
    return [asdict(layer) for layer in sizes]
