"""Pruned HuBERT, wav2vec 2.0 and WavLM: models of transformers, cut to sizes.

This file travels with each compact model (``trust_remote_code=True``): it needs torch
and transformers alone. The sizes stand in the config as ``architecture``:

    convolution: channels of each convolution
    positions: groups of the positional convolution that are left, by index
    taps: first of its taps that are left, and the one after the last
    blocks: for each block heads, qk_dim, v_dim (of each head) and units of the FFN; 0
        heads or units: the submodule is gone; of WavLM head_index, too: which heads
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForCTC,
    HubertConfig,
    HubertForCTC,
    HubertForSequenceClassification,
    HubertModel,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMForCTC,
    WavLMForSequenceClassification,
    WavLMModel,
)
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

if int(transformers.__version__.split(".")[0]) < 5:
    raise ImportError(
        "pruned speech models need transformers 5 or later, not "
        f"{transformers.__version__}"
    )


class SizedAttention(nn.Module):
    """Self-attention whose queries and values have widths of their own.

    The softmax scale is that of the dense model's heads.

    Args:
        of: attention of transformers.
        heads, qk_dim, v_dim: heads, and query/key and value dimensions of each.
    """

    def __init__(self, of: nn.Module, heads: int, qk_dim: int, v_dim: int):
        super().__init__()
        self.heads, self.scaling, self.dropout = heads, of.scaling, of.dropout
        size = of.embed_dim
        self.q_proj = nn.Linear(size, heads * qk_dim)
        self.k_proj = nn.Linear(size, heads * qk_dim)
        self.v_proj = nn.Linear(size, heads * v_dim)
        self.out_proj = nn.Linear(heads * v_dim, size)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> tuple[Tensor, None]:
        """Attend: (batch, time, channel) -> the same, and no weights."""
        q, k, v = (
            layer(hidden_states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = nn.functional.scaled_dot_product_attention(
            q, k, v, attention_mask, self.dropout if self.training else 0.0,
            scale=self.scaling,
        )  # fmt: skip
        return self.out_proj(out.transpose(1, 2).flatten(2)), None


class BiasedAttention(SizedAttention):
    """WavLM's attention in other sizes, with its gated relative position bias.

    The first block computes the bias of all heads of the dense model, for all blocks;
    the gate of a head reads that head's share of the block's input, whatever has become
    of its query. It may have no heads, and pass the bias on alone.

    Args:
        of: WavLM's attention.
        index: which of its heads are left, rising.
        qk_dim, v_dim: as for :class:`SizedAttention`.
    """

    def __init__(self, of: nn.Module, index: list[int], qk_dim: int, v_dim: int):
        if index:
            super().__init__(of, len(index), qk_dim, v_dim)
            self.gru_rel_pos_const = nn.Parameter(torch.ones(1, len(index), 1, 1))
            self.gru_rel_pos_linear = of.gru_rel_pos_linear
        else:
            nn.Module.__init__(self)
        self.index, self.dense_heads = index, of.num_heads
        self.num_buckets, self.max_distance = of.num_buckets, of.max_distance
        if hasattr(of, "rel_attn_embed"):
            self.rel_attn_embed = of.rel_attn_embed

    compute_bias = WavLMAttention.compute_bias
    _relative_positions_bucket = WavLMAttention._relative_positions_bucket

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None, Tensor]:
        """Attend: (batch, time, channel) -> the same, no weights, and the bias.

        The bias, (head, time, time), is that of all heads of the dense model.
        """
        batch, time, _ = hidden_states.shape
        if position_bias is None:
            position_bias = self.compute_bias(time, time)
        if not self.index:
            return hidden_states.new_zeros(()), None, position_bias
        index = torch.tensor(self.index, device=hidden_states.device)
        shares = hidden_states.unflatten(-1, (self.dense_heads, -1))[:, :, index]
        gates = self.gru_rel_pos_linear(shares.transpose(1, 2))
        gates = torch.sigmoid(gates.unflatten(-1, (2, 4)).sum(-1))
        first, second = gates.chunk(2, dim=-1)
        gate = first * (second * self.gru_rel_pos_const - 1.0) + 2.0
        mask = gate * position_bias[index]
        if attention_mask is not None:  # (batch, time), True where real
            hidden = attention_mask.ne(1)[:, None, None]
            mask = mask.masked_fill(hidden, -torch.inf)
        return *super().forward(hidden_states, mask), position_bias


class Absent(nn.Module):
    """The module stands for a submodule that is gone: it adds nothing.

    Args:
        attention: whether it stands for attention, which returns weights, too.
    """

    def __init__(self, attention: bool = False):
        super().__init__()
        self.attention = attention

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        """Return a zero for whatever comes."""
        nothing = hidden_states.new_zeros(())
        return (nothing, None) if self.attention else nothing


class SomePositions(nn.Module):
    """The positional convolution with some of its groups and taps.

    Args:
        of: that of transformers, whose weight is a plain one.
        groups: indices of those that are left, rising; the others add nothing.
        taps: first of those that are left, and the one after the last.
    """

    def __init__(self, of: nn.Module, groups: list[int], taps: list[int]):
        super().__init__()
        conv = of.conv
        width = conv.out_channels // conv.groups
        # No buffer: transformers leaves those that are in no file unset.
        self.kept = [g * width + i for g in groups for i in range(width)]
        first, end = taps
        self.conv = nn.Conv1d(
            len(self.kept), len(self.kept), end - first, groups=max(1, len(groups))
        )
        # An even kernel makes a frame too many, which of.padding cuts off.
        (whole,), (around,) = conv.kernel_size, conv.padding
        self.around = around - first, around - (whole - end)
        self.padding, self.activation = of.padding, of.activation

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Convolve (batch, time, channel) over time, by the groups that are left."""
        kept = torch.tensor(self.kept, device=hidden_states.device)
        x = nn.functional.pad(hidden_states[..., kept].transpose(1, 2), self.around)
        x = self.activation(self.padding(self.conv(x))).transpose(1, 2)
        x = x.to(hidden_states.dtype)
        return torch.zeros_like(hidden_states).index_copy(-1, kept, x)


def plain_positions(model: nn.Module) -> None:
    """Give the positional convolution a plain weight for its normed one, in place."""
    conv = getattr(model.encoder.pos_conv_embed, "conv", None)  # it may be gone
    if conv is not None and nn.utils.parametrize.is_parametrized(conv, "weight"):
        nn.utils.parametrize.remove_parametrizations(conv, "weight")


def resize(model: nn.Module, architecture: dict[str, Any]) -> None:
    """Give a stock model modules of these sizes, in place; weights are to be loaded.

    Args:
        model: of transformers, with the channels of its convolutions already right.
        architecture: see above.
    """
    plain_positions(model)
    encoder, groups = model.encoder, architecture["positions"]
    if not groups:
        encoder.pos_conv_embed = Absent()
    else:
        conv = encoder.pos_conv_embed.conv
        whole = [0, *conv.kernel_size]
        taps = architecture.get("taps", whole)
        if len(groups) < conv.groups or taps != whole:
            positions = SomePositions(encoder.pos_conv_embed, groups, taps)
            encoder.pos_conv_embed = positions
    norm_first = model.config.do_stable_layer_norm
    for layer, sizes in zip(encoder.layers, architecture["blocks"], strict=True):
        attention, ffn = layer.attention, layer.feed_forward
        if "head_index" in sizes:
            layer.attention = BiasedAttention(
                attention, sizes["head_index"], sizes["qk_dim"], sizes["v_dim"]
            )
        elif not sizes["heads"]:
            layer.attention = Absent(attention=True)
        else:
            layer.attention = SizedAttention(
                attention, sizes["heads"], sizes["qk_dim"], sizes["v_dim"]
            )
        # A norm in front goes with its submodule, those behind with the whole block.
        whole = not sizes["heads"] and not sizes["ffn"]
        if whole or (norm_first and not sizes["heads"]):
            layer.layer_norm = nn.Identity()
        if whole or (norm_first and not sizes["ffn"]):
            layer.final_layer_norm = nn.Identity()
        if not sizes["ffn"]:
            layer.feed_forward = Absent()
        else:
            size = ffn.intermediate_dense.in_features
            ffn.intermediate_dense = nn.Linear(size, sizes["ffn"])
            ffn.output_dense = nn.Linear(sizes["ffn"], size)


class _Pruned(PreTrainedModel):
    """The base class of the pruned models without heads."""

    def __init__(self, config: Any):
        sized = copy.deepcopy(config)
        sized.conv_dim = list(config.architecture["convolution"])
        super().__init__(sized)
        self.config = config
        resize(self, config.architecture)


class _Sized:
    """The base class of the configs of pruned models.

    Args:
        architecture: sizes; see above.
        options: those of the dense model's config.
    """

    def __init__(self, architecture: dict[str, Any] | None = None, **options: Any):
        super().__init__(**options)
        self.architecture = architecture


class PrunedHubertConfig(_Sized, HubertConfig):
    """HuBERT's config with ``architecture``."""

    model_type = "pruned_hubert"


class PrunedHubertModel(_Pruned, HubertModel):
    """HuBERT in other sizes."""

    config_class = PrunedHubertConfig


class PrunedWav2Vec2Config(_Sized, Wav2Vec2Config):
    """wav2vec 2.0's config with ``architecture``."""

    model_type = "pruned_wav2vec2"


class PrunedWav2Vec2Model(_Pruned, Wav2Vec2Model):
    """wav2vec 2.0 in other sizes."""

    config_class = PrunedWav2Vec2Config


class PrunedWavLMConfig(_Sized, WavLMConfig):
    """WavLM's config with ``architecture``."""

    model_type = "pruned_wavlm"


class PrunedWavLMModel(_Pruned, WavLMModel):
    """WavLM in other sizes."""

    config_class = PrunedWavLMConfig


def with_head(
    stock: type, base: str, make: type, config: type
) -> Callable[[type], type]:
    """Decorate transformers' class with a head, to put it over a pruned base model."""

    def decorate(cls: type) -> type:
        def __init__(self: Any, options: Any, *args: Any, **more: Any) -> None:
            stock.__init__(self, options, *args, **more)
            setattr(self, base, make(options))

        cls.__init__, cls.config_class = __init__, config
        return cls

    return decorate


@with_head(HubertForCTC, "hubert", PrunedHubertModel, PrunedHubertConfig)
class PrunedHubertForCTC(HubertForCTC):
    """A head for CTC over a pruned HuBERT."""


@with_head(
    HubertForSequenceClassification, "hubert", PrunedHubertModel, PrunedHubertConfig
)
class PrunedHubertForSequenceClassification(HubertForSequenceClassification):
    """A head for classes over a pruned HuBERT."""


@with_head(Wav2Vec2ForCTC, "wav2vec2", PrunedWav2Vec2Model, PrunedWav2Vec2Config)
class PrunedWav2Vec2ForCTC(Wav2Vec2ForCTC):
    """A head for CTC over a pruned wav2vec 2.0."""


@with_head(
    Wav2Vec2ForSequenceClassification,
    "wav2vec2",
    PrunedWav2Vec2Model,
    PrunedWav2Vec2Config,
)
class PrunedWav2Vec2ForSequenceClassification(Wav2Vec2ForSequenceClassification):
    """A head for classes over a pruned wav2vec 2.0."""


@with_head(WavLMForCTC, "wavlm", PrunedWavLMModel, PrunedWavLMConfig)
class PrunedWavLMForCTC(WavLMForCTC):
    """A head for CTC over a pruned WavLM."""


@with_head(WavLMForSequenceClassification, "wavlm", PrunedWavLMModel, PrunedWavLMConfig)
class PrunedWavLMForSequenceClassification(WavLMForSequenceClassification):
    """A head for classes over a pruned WavLM."""


CLASSES = {
    PrunedHubertConfig: {
        AutoModel: PrunedHubertModel,
        AutoModelForCTC: PrunedHubertForCTC,
        AutoModelForAudioClassification: PrunedHubertForSequenceClassification,
    },
    PrunedWav2Vec2Config: {
        AutoModel: PrunedWav2Vec2Model,
        AutoModelForCTC: PrunedWav2Vec2ForCTC,
        AutoModelForAudioClassification: PrunedWav2Vec2ForSequenceClassification,
    },
    PrunedWavLMConfig: {
        AutoModel: PrunedWavLMModel,
        AutoModelForCTC: PrunedWavLMForCTC,
        AutoModelForAudioClassification: PrunedWavLMForSequenceClassification,
    },
}


def register() -> None:
    """Let transformers' ``Auto`` classes know the pruned models."""
    for config, classes in CLASSES.items():
        AutoConfig.register(config.model_type, config, exist_ok=True)
        for auto, cls in classes.items():
            auto.register(config, cls, exist_ok=True)
