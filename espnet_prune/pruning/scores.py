"""Which units to keep without having learned it: scores in place of log_alpha."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from espnet_prune.families.espnet.architecture import Architecture
from espnet_prune.families.espnet.encoder import PrunableEncoder
from espnet_prune.families.espnet.layers.attention import RelPositionAttention
from espnet_prune.families.espnet.layers.cgmlp import ConvolutionalGatingMLP
from espnet_prune.families.espnet.layers.convolution import Convolution
from espnet_prune.families.espnet.layers.cost import group_of
from espnet_prune.families.espnet.layers.feed_forward import FeedForward
from espnet_prune.families.espnet.layers.heads import PrunableHeads
from espnet_prune.families.espnet.layers.structures import (
    dim_gate_of,
    encoder_of,
    structures,
)
from espnet_prune.families.espnet.layers.subsampling import Subsampling
from espnet_prune.pruning.budget import MODEL_DIM, Budget
from espnet_prune.pruning.gates import Gate, gates_of

ALWAYS, NEVER = 100.0, -100.0
Scores = dict[Gate, Tensor]
Share = Callable[[str], float]  # group -> fraction


def unit_weights(layer: nn.Module) -> dict[Gate, Tensor]:
    """The layer's weights that go with each of its units: gate -> (unit, weight)."""
    if isinstance(layer, FeedForward):
        both = [layer.w_1.weight, layer.w_2.weight.t()]
        return {layer.unit_gate: torch.cat(both, 1)}
    if isinstance(layer, Convolution):
        first, second = layer.pointwise_conv1.weight, layer.pointwise_conv2.weight
        depthwise = layer.depthwise_conv.weight
        parts = [*first.chunk(2), depthwise, second.transpose(0, 1)]
        return {layer.unit_gate: torch.cat([p.flatten(1) for p in parts], 1)}
    if isinstance(layer, Subsampling):
        first, second = layer.conv[0].weight, layer.conv[2].weight
        linear = layer.out[0].weight.unflatten(1, (len(layer.gate2), -1))
        consumers = second.transpose(0, 1), linear.transpose(0, 1)
        return {
            layer.gate1: torch.cat([first.flatten(1), consumers[0].flatten(1)], 1),
            layer.gate2: torch.cat([second.flatten(1), consumers[1].flatten(1)], 1),
        }
    if isinstance(layer, ConvolutionalGatingMLP):
        first, last = layer.channel_proj1[0].weight, layer.channel_proj2.weight
        parts = [*first.chunk(2), layer.csgu.conv.weight.flatten(1), last.t()]
        return {layer.unit_gate: torch.cat(parts, 1), layer.out_gate: last}
    assert isinstance(layer, PrunableHeads)
    linears = [layer.linear_q, layer.linear_k]
    if isinstance(layer, RelPositionAttention):
        linears.append(layer.linear_pos)
    qk = torch.cat([linear.weight for linear in linears], 1)
    v = torch.cat([layer.linear_v.weight, layer.linear_out.weight.t()], 1)
    by_head = [x.unflatten(0, (layer.heads, -1)).flatten(1) for x in (qk, v)]
    weights = {layer.head_gate: torch.cat(by_head, 1)}
    if layer.qk_gate is not None:
        weights |= {layer.qk_gate: qk, layer.v_gate: v}
    if layer.out_gate is not None:
        weights[layer.out_gate] = layer.linear_out.weight
    return weights


@torch.no_grad()
def magnitude(model: nn.Module, share: Share) -> Scores:
    """Where a unit stands, by its weights' norm, among those of its kind in its layer.

    Ranks, from 0 to 1, so that every layer loses the same share: what stands around a
    layer scales its weights, and compared over layers (by norms, or relative to their
    mean) some lose nearly everything, and units drawn at random do better. Submodules
    are never closed.

    Args:
        share: what may be kept of a group of structures, for :func:`close_heads`.
    """
    scores: Scores = {}
    for layer in structures(model):
        for gate, weights in unit_weights(layer).items():
            norm = weights.double().square().mean(1)
            rank = norm.argsort().argsort()
            scores[gate] = (rank + 0.5).float() / len(norm)
        if hasattr(layer, "module_gate"):
            scores[layer.module_gate] = torch.full((1,), ALWAYS)
    close_heads(model, scores, share)
    if (dims := dim_gate_of(model)) is not None:
        norm = channel_weights(model).double().square().mean(1)
        scores[dims] = kept_share(norm, share(MODEL_DIM))
    return scores


def channel_weights(model: nn.Module) -> Tensor:
    """Weights that read or write a channel between the layers, (channel, weight)."""
    found = []
    for layer in structures(encoder_of(model)):
        state = layer.state_dict()
        found += [state[name].transpose(0, 1) for name in layer.READS]
        found += [state[name] for name in layer.WRITES if name.endswith("weight")]
    return torch.cat([weights.flatten(1) for weights in found], 1)


def kept_share(order: Tensor, share: float) -> Tensor:
    """Scores that keep a share of the channels between the layers.

    Args:
        order: the higher, the sooner a channel is kept.
        share: from 0 to 1.
    """
    kept = max(1, round(share * len(order)))
    scores = torch.full((len(order),), NEVER)
    scores[order.topk(kept).indices] = ALWAYS
    return scores


def close_heads(model: nn.Module, scores: Scores, share: Share) -> None:
    """Close the heads of the lowest scores, where their dimensions have gates, too.

    Heads and the dimensions inside them thin out alike: sqrt(share) of the heads of a
    group stay, and the budget leaves about as much of their dimensions.
    """
    fine = [m for m in structures(model) if getattr(m, "qk_gate", None) is not None]
    by_group: dict[str, list[Gate]] = {}
    for layer in fine:
        by_group.setdefault(layer.group, []).append(layer.head_gate)
    for group, gates in by_group.items():
        values = torch.cat([scores[gate] for gate in gates])
        kept = max(1, round(math.sqrt(share(group_of(group))) * len(values)))
        push = torch.full_like(values, NEVER)
        push[values.topk(kept).indices] = ALWAYS
        for gate, own in zip(gates, push.split([len(g) for g in gates]), strict=True):
            scores[gate] = scores[gate] + own


def random(model: nn.Module, seed: int, share: Share) -> Scores:
    """Units at random; every submodule keeps its share of them.

    Args:
        share: what may be kept of a group of structures, for :func:`close_heads`.
    """
    draw = torch.Generator().manual_seed(seed)
    scores: Scores = {}
    for name, gate in sorted(gates_of(model).items()):
        if name.endswith("module_gate"):
            scores[gate] = torch.full((len(gate),), ALWAYS)
        else:
            scores[gate] = torch.rand(len(gate), generator=draw)
    close_heads(model, scores, share)
    if (dims := dim_gate_of(model)) is not None:
        scores[dims] = kept_share(scores[dims], share(MODEL_DIM))
    return scores


def blocks(encoder: PrunableEncoder, budget: Budget) -> Scores:
    """As many whole blocks as fit, evenly spaced, then the strongest units of one more.

    The subsampling, which is no block, loses its weakest channels down to its share of
    the budget.
    """
    if encoder.dim_gate is not None:  # blocks go whole, and nothing of the others
        norms = encoder.architecture.norm_counts()
        budget = budget.of_dim(len(encoder.dim_gate), norms)
    scores, total = magnitude(encoder, lambda group: 1.0), len(encoder.encoders)
    channels = _affordable_channels(encoder, budget)
    for gate in (encoder.embed.gate1, encoder.embed.gate2):
        strongest = scores[gate].topk(min(channels, len(gate))).indices
        scores[gate][strongest] += ALWAYS
    kept = _affordable_blocks(encoder, budget, channels)
    chosen = {round((i + 0.5) * total / kept - 0.5) for i in range(kept)}
    rest = [i for i in range(total) if i not in chosen]
    # The one that is kept in part: where the gap is widest, the later of equals.
    gaps = {i: min((abs(i - c) for c in chosen), default=total) for i in rest}
    partial = max(rest, key=lambda i: (gaps[i], i), default=None)
    for index, block in enumerate(encoder.encoders):
        for gate in gates_of(block).values():
            if index in chosen:
                scores[gate] = scores[gate] + ALWAYS
            elif index != partial:
                scores[gate] = scores[gate] + NEVER - ALWAYS
    return scores


def _fits(architecture: Architecture, budget: Budget) -> bool:
    counts = architecture.counts()
    return all(c.fixed + c.cost(counts) <= c.limit for c in budget.constraints)


def _affordable_blocks(encoder: PrunableEncoder, budget: Budget, channels: int) -> int:
    dense = encoder.architecture
    for number in range(len(dense.blocks), 0, -1):
        if _fits(Architecture((channels,) * 2, dense.blocks[:number]), budget):
            return number
    return 0


def _affordable_channels(encoder: PrunableEncoder, budget: Budget) -> int:
    """Channels that leave the subsampling no larger a share than it had."""
    dense = encoder.architecture
    whole = Architecture(dense.subsampling, ()).counts()
    for channels in range(min(dense.subsampling), 1, -1):
        counts = Architecture((channels,) * 2, ()).counts()
        shares = [
            c.cost(counts) / c.cost(whole) * c.dense / c.limit
            for c in budget.constraints
            if c.limit and c.cost(whole)
        ]
        if all(share <= 1 or math.isclose(share, 1) for share in shares):
            return channels
    return 1
