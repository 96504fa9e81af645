"""The block of an E-Branchformer: two branches side by side, and what merges them.

Kim et al. 2022, "E-Branchformer: Branchformer with enhanced merging for speech
recognition" (arXiv 2210.00077), in the form of ESPnet's ``EBranchformerEncoderLayer``.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_prune.families.espnet.architecture import BranchBlock as Sizes
from espnet_prune.families.espnet.architecture import Fixed
from espnet_prune.families.espnet.layers.attention import RelPositionAttention
from espnet_prune.families.espnet.layers.cgmlp import ConvolutionalGatingMLP
from espnet_prune.families.espnet.layers.feed_forward import FeedForward
from espnet_prune.families.espnet.layers.outputs import kept_channels
from espnet_prune.families.espnet.layers.residual import PrunableBlock, layer_norm
from espnet_prune.pruning.gates import GateOptions


class Constant(nn.Module):
    """What is left of a linear layer without inputs: its bias.

    No ``nn.Linear``: quantized by torch, one without inputs computes garbage.
    """

    def __init__(self, size: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, like: Tensor) -> Tensor:
        """A tensor (..., channel) -> one of its shape."""
        return self.bias.expand_as(like)


class EBranchformerBlock(PrunableBlock):
    """FFN, self-attention beside a convolutional gating MLP, FFN, final norm.

    The outputs of both branches are put side by side, a depthwise convolution of them
    is added, and a linear layer brings the sum back to the model dimension. An output
    channel that is gone leaves what merges zeros: the bias of the convolution, which
    export adds to that of the linear layer.

    Args:
        sizes: units of each submodule.
        fixed: what pruning does not change (model dimension, kernels, ...).
        dropout: rates (residual and hidden, attention).
        activation: makes the nonlinearity of an FFN.
        gating: makes that of the gating MLP.
        ffn_scale: weight of an FFN; a half where the dense model has two.
        gates: None for the dense and the compact life.
    """

    NORMS = {
        "feed_forward_macaron": "norm_ff_macaron",
        "attn": "norm_mha",
        "cgmlp": "norm_mlp",
        "feed_forward": "norm_ff",
    }

    def __init__(
        self,
        sizes: Sizes,
        fixed: Fixed,
        dropout: tuple[float, float],
        activation: Callable[[], nn.Module],
        gating: Callable[[], nn.Module],
        ffn_scale: float,
        gates: GateOptions | None = None,
    ):
        super().__init__()
        size, rate = fixed.size, dropout[0]
        self.ffn_scale = ffn_scale
        self.dropout = nn.Dropout(rate)

        def feed_forward(units: int) -> FeedForward | None:
            if not units:
                return None
            return FeedForward(size, units, rate, activation(), gates)

        layers = dict.fromkeys(self.NORMS)
        layers["feed_forward_macaron"] = feed_forward(sizes.ffn1)
        layers["feed_forward"] = feed_forward(sizes.ffn2)
        if sizes.heads:
            layers["attn"] = RelPositionAttention(
                size,
                heads=sizes.heads,
                qk_dim=sizes.qk_dim,
                v_dim=sizes.v_dim,
                out_channels=sizes.attn_out,
                scale_dim=fixed.head_dim,
                dropout_rate=dropout[1],
                gates=gates,
            )
        if sizes.cgmlp:
            layers["cgmlp"] = ConvolutionalGatingMLP(
                size,
                sizes.cgmlp,
                sizes.cgmlp_out,
                fixed.kernel_size,
                rate,
                gating(),
                gates,
            )
        self.add_submodules(size, layers)
        merged, width = sizes.attn_out + sizes.cgmlp_out, fixed.merge_kernel
        self.depthwise_conv_fusion = None
        if merged:
            self.depthwise_conv_fusion = nn.Conv1d(
                merged, merged, width, padding=(width - 1) // 2, groups=merged
            )
        self.merge_proj = nn.Linear(merged, size) if merged else Constant(size)
        self.norm_final = layer_norm(size)

    def forward(
        self, x_input: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
        """((batch, time, channel), pos_emb), (batch, 1, time) -> the same."""
        x, pos_emb = x_input
        if self.feed_forward_macaron is not None:
            branch = self.feed_forward_macaron(self.norm_ff_macaron(x))
            x = x + self.ffn_scale * self.dropout(branch)
        branches = []
        if self.attn is not None:
            branch = self.attn(self.norm_mha(x), pos_emb, mask)
            branches.append(self.dropout(branch))
        if self.cgmlp is not None:
            branches.append(self.dropout(self.cgmlp(self.norm_mlp(x))))
        x = x + self.dropout(self._merge(branches, x))
        if self.feed_forward is not None:
            branch = self.feed_forward(self.norm_ff(x))
            x = x + self.ffn_scale * self.dropout(branch)
        return (self.norm_final(x), pos_emb), mask

    def _merge(self, branches: list[Tensor], like: Tensor) -> Tensor:
        """(batch, time, channel out) of each branch -> (batch, time, channel)."""
        if not branches:
            return self.merge_proj(like)
        merged = torch.cat(branches, -1)
        near = self.depthwise_conv_fusion(merged.transpose(1, 2)).transpose(1, 2)
        return self.merge_proj(merged + near)

    def kept(self) -> Sizes:
        """Sizes left by the masks."""
        left = {name: module.kept() for name, module in self.submodules().items()}
        qk_dim, v_dim = self.attn.kept_widths()
        return Sizes(
            ffn1=left.get("feed_forward_macaron", 0),
            heads=left["attn"],
            qk_dim=qk_dim,
            v_dim=v_dim,
            attn_out=len(kept_channels(self.attn)),
            cgmlp=left["cgmlp"],
            cgmlp_out=len(kept_channels(self.cgmlp)),
            ffn2=left.get("feed_forward", 0),
        )

    def sliced_state(self, dims: Tensor | None = None) -> dict[str, Tensor]:
        conv, linear = self.depthwise_conv_fusion, self.merge_proj
        first = kept_channels(self.attn)
        second = kept_channels(self.cgmlp) + len(self.attn.out_gate)
        keep = torch.cat([first, second])
        gone = conv.bias.clone()
        gone[keep] = 0
        constant = F.linear(gone, linear.weight)
        state = {"merge_proj.bias": linear.bias + constant}
        if len(keep):
            state["merge_proj.weight"] = linear.weight[:, keep]
            state["depthwise_conv_fusion.weight"] = conv.weight[keep]
            state["depthwise_conv_fusion.bias"] = conv.bias[keep]
        for name, value in self.norm_final.state_dict().items():
            state[f"norm_final.{name}"] = value
        return state | super().sliced_state(dims)
