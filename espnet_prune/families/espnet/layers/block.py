"""Blocks made of the prunable layers: of a Conformer, of a Transformer encoder."""

from collections.abc import Callable

from torch import Tensor, nn

from espnet_prune.families.espnet.architecture import Block as Sizes
from espnet_prune.families.espnet.architecture import Fixed
from espnet_prune.families.espnet.layers.attention import GROUP, RelPositionAttention
from espnet_prune.families.espnet.layers.convolution import Convolution
from espnet_prune.families.espnet.layers.feed_forward import FeedForward
from espnet_prune.families.espnet.layers.open_norm import gated_norm
from espnet_prune.families.espnet.layers.plain_attention import PlainAttention
from espnet_prune.families.espnet.layers.residual import (
    PrunableBlock,
    layer_norm,
    sliced_norm,
)
from espnet_prune.pruning.gates import GateOptions

# submodule -> the field of the sizes that counts its units
UNITS = {
    "feed_forward_macaron": "ffn1",
    "self_attn": "heads",
    "conv_module": "conv",
    "feed_forward": "ffn2",
}


class EncoderBlock(PrunableBlock):
    """What both kinds have in common.

    Args:
        sizes: units of each submodule.
        fixed: what pruning does not change (model dimension, kernel, ...).
        dropout: rates (residual and hidden, attention).
        activation: makes the nonlinearity module.
        gates: None for the dense and the compact life.
        size: model dimension; None for that of the dense model.
    """

    def __init__(
        self,
        sizes: Sizes,
        fixed: Fixed,
        dropout: tuple[float, float],
        activation: Callable[[], nn.Module],
        gates: GateOptions | None = None,
        size: int | None = None,
    ):
        super().__init__()
        size = size or fixed.size
        self.dropout = nn.Dropout(dropout[0])

        def feed_forward(units: int) -> FeedForward:
            return FeedForward(size, units, dropout[0], activation(), gates)

        attention = {
            "heads": sizes.heads,
            "qk_dim": sizes.qk_dim,
            "v_dim": sizes.v_dim,
            "scale_dim": fixed.head_dim,
            "dropout_rate": dropout[1],
            "gates": gates,
        }
        make = {
            "feed_forward_macaron": lambda: feed_forward(sizes.ffn1),
            "self_attn": lambda: self.attention(size, fixed.size, **attention),
            "conv_module": lambda: Convolution(
                size, sizes.conv, fixed.kernel_size, activation(), gates
            ),
            "feed_forward": lambda: feed_forward(sizes.ffn2),
        }
        self.add_submodules(
            size,
            {
                name: make[name]() if getattr(sizes, UNITS[name]) > 0 else None
                for name in self.NORMS
            },
        )

    @staticmethod
    def attention(size: int, positions: int, **options) -> nn.Module:
        """The self-attention of this kind."""
        raise NotImplementedError

    def kept(self) -> Sizes:
        """Sizes left by the masks."""
        counts = dict.fromkeys(UNITS.values(), 0)
        for name, module in self.submodules().items():
            counts[UNITS[name]] = module.kept()
        qk_dim, v_dim = self.self_attn.kept_widths()
        return Sizes(**counts, qk_dim=qk_dim, v_dim=v_dim)


class ConformerBlock(EncoderBlock):
    """Macaron half FFN, self-attention, convolution, half FFN, final norm.

    A submodule of size 0 is gone, and its norm with it; the halves stay halves and
    the final norm stays, unlike in ESPnet's block, where they depend on what exists.
    """

    NORMS = {
        "feed_forward_macaron": "norm_ff_macaron",
        "self_attn": "norm_mha",
        "conv_module": "norm_conv",
        "feed_forward": "norm_ff",
    }

    def __init__(
        self,
        sizes: Sizes,
        fixed: Fixed,
        dropout: tuple[float, float],
        activation: Callable[[], nn.Module],
        gates: GateOptions | None = None,
        size: int | None = None,
    ):
        super().__init__(sizes, fixed, dropout, activation, gates, size)
        self.norm_final = layer_norm(size or fixed.size)

    @staticmethod
    def attention(size: int, positions: int, **options) -> nn.Module:
        return RelPositionAttention(size, positions, **options)

    def forward(
        self,
        x_input: tuple[Tensor, Tensor],
        mask: Tensor | None,
        dims: Tensor | None = None,
    ) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
        """((batch, time, channel), pos_emb), (batch, 1, time) -> the same.

        Args:
            x_input: content, positions.
            mask: True for real frames.
            dims: (channel,) values of the gates of the model dimension, if it has any.
        """
        x, pos_emb = x_input
        if self.feed_forward_macaron is not None:
            normed = gated_norm(self.norm_ff_macaron, x, dims)
            x = x + 0.5 * self.dropout(self.feed_forward_macaron(normed))
        if self.self_attn is not None:
            normed = gated_norm(self.norm_mha, x, dims)
            x = x + self.dropout(self.self_attn(normed, pos_emb, mask))
        if self.conv_module is not None:
            normed = gated_norm(self.norm_conv, x, dims)
            x = x + self.dropout(self.conv_module(normed))
        if self.feed_forward is not None:
            normed = gated_norm(self.norm_ff, x, dims)
            x = x + 0.5 * self.dropout(self.feed_forward(normed))
        return (gated_norm(self.norm_final, x, dims), pos_emb), mask

    def sliced_state(self, dims: Tensor | None = None) -> dict[str, Tensor]:
        norm = sliced_norm(self.norm_final, dims)
        own = {f"norm_final.{k}": v for k, v in norm.items()}
        return own | super().sliced_state(dims)


class TransformerBlock(EncoderBlock):
    """Self-attention without positions, FFN; a submodule of size 0 is gone."""

    NORMS = {"self_attn": "norm1", "feed_forward": "norm2"}

    @staticmethod
    def attention(size: int, positions: int, **options) -> nn.Module:
        return PlainAttention(size, **options, group=GROUP)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(batch, time, channel), (batch, 1, time) -> the same."""
        if self.self_attn is not None:
            normed = self.norm1(x)
            x = x + self.dropout(self.self_attn(normed, normed, mask))
        if self.feed_forward is not None:
            x = x + self.dropout(self.feed_forward(self.norm2(x)))
        return x, mask
