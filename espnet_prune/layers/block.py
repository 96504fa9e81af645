"""One Conformer block made of the prunable layers."""

from collections.abc import Callable

from torch import Tensor, nn

from espnet_prune.architecture import Block as Sizes
from espnet_prune.architecture import Fixed
from espnet_prune.gates import GateOptions
from espnet_prune.layers.attention import RelPositionAttention
from espnet_prune.layers.convolution import Convolution
from espnet_prune.layers.feed_forward import FeedForward

# submodule -> (its LayerNorm, the field of the sizes that counts its units)
SUBMODULES = {
    "feed_forward_macaron": ("norm_ff_macaron", "ffn1"),
    "self_attn": ("norm_mha", "heads"),
    "conv_module": ("norm_conv", "conv"),
    "feed_forward": ("norm_ff", "ffn2"),
}


def layer_norm(size: int) -> nn.LayerNorm:
    """ESPnet's layer norm: its epsilon is not torch's."""
    return nn.LayerNorm(size, eps=1e-12)


class ConformerBlock(nn.Module):
    """Macaron half FFN, self-attention, convolution, half FFN, final norm.

    A submodule of size 0 is gone, and its norm with it; the halves stay halves and
    the final norm stays, unlike in ESPnet's block, where they depend on what exists.

    Args:
        sizes: units of each submodule.
        fixed: what pruning does not change (model dimension, kernel, ...).
        dropout: rates (residual and hidden, attention).
        activation: makes the nonlinearity module.
        gates: None for the dense and the compact life.
    """

    def __init__(
        self,
        sizes: Sizes,
        fixed: Fixed,
        dropout: tuple[float, float],
        activation: Callable[[], nn.Module],
        gates: GateOptions | None = None,
    ):
        super().__init__()
        size, rate = fixed.size, dropout[0]
        layers = {
            "feed_forward_macaron": lambda: FeedForward(
                size, sizes.ffn1, rate, activation(), gates
            ),
            "self_attn": lambda: RelPositionAttention(
                size,
                heads=sizes.heads,
                qk_dim=sizes.qk_dim,
                v_dim=sizes.v_dim,
                scale_dim=fixed.head_dim,
                dropout_rate=dropout[1],
                gates=gates,
            ),
            "conv_module": lambda: Convolution(
                size, sizes.conv, fixed.kernel_size, activation(), gates
            ),
            "feed_forward": lambda: FeedForward(
                size, sizes.ffn2, rate, activation(), gates
            ),
        }
        for name, (norm, field) in SUBMODULES.items():
            exists = getattr(sizes, field) > 0
            self.add_module(name, layers[name]() if exists else None)
            self.add_module(norm, layer_norm(size) if exists else None)
        self.norm_final = layer_norm(size)
        self.dropout = nn.Dropout(rate)

    def forward(
        self, x_input: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
        """((batch, time, channel), pos_emb), (batch, 1, time) -> the same."""
        x, pos_emb = x_input
        if self.feed_forward_macaron is not None:
            branch = self.feed_forward_macaron(self.norm_ff_macaron(x))
            x = x + 0.5 * self.dropout(branch)
        if self.self_attn is not None:
            branch = self.self_attn(self.norm_mha(x), pos_emb, mask)
            x = x + self.dropout(branch)
        if self.conv_module is not None:
            x = x + self.dropout(self.conv_module(self.norm_conv(x)))
        if self.feed_forward is not None:
            x = x + 0.5 * self.dropout(self.feed_forward(self.norm_ff(x)))
        return (self.norm_final(x), pos_emb), mask

    def submodules(self) -> dict[str, nn.Module]:
        """The submodules that exist, by name."""
        named = {name: getattr(self, name) for name in SUBMODULES}
        return {name: module for name, module in named.items() if module is not None}

    def kept(self) -> Sizes:
        """Sizes left by the masks."""
        counts = {
            SUBMODULES[name][1]: module.kept()
            for name, module in self.submodules().items()
        }
        qk_dim, v_dim = self.self_attn.kept_widths()
        return Sizes(**counts, qk_dim=qk_dim, v_dim=v_dim)

    def sliced_state(self) -> dict[str, Tensor]:
        """State dict of the compact block."""
        state = {f"norm_final.{k}": v for k, v in self.norm_final.state_dict().items()}
        for name, module in self.submodules().items():
            if module.kept() == 0:
                continue
            norm = SUBMODULES[name][0]
            for key, value in getattr(self, norm).state_dict().items():
                state[f"{norm}.{key}"] = value
            for key, value in module.sliced_state().items():
                state[f"{name}.{key}"] = value
        return state
