"""A small dense Conformer of the same cost, to be trained from scratch."""

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Any

import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder

from espnet_prune.base.errors import InputError
from espnet_prune.config.sections import GateOptions
from espnet_prune.families.espnet.conformer import describe
from espnet_prune.families.espnet.layers import encoder_clocks
from espnet_prune.pruning.budget import Constraint
from espnet_prune.pruning.cost import count_terms, evaluate

Cost = Callable[[int, int], dict[str, float]]  # blocks, units -> by kind


def small_encoder(
    encoder_conf: dict[str, Any],
    decoder_heads: int,
    features: int,
    frames: int,
    constraints: Iterable[Constraint],
) -> dict[str, Any]:
    """Find ``encoder_conf`` of the largest small Conformer that fits.

    Blocks, model dimension and linear units shrink in the same proportion as far as
    whole numbers allow: as deep as the dense one it would have to be so narrow that it
    learns little. Heads stay as many as they are.

    Args:
        encoder_conf: of the dense model.
        decoder_heads: of the dense model, whose decoder is as wide as its encoder.
        features: input features per frame.
        frames: feature frames of the utterance whose cost is counted.
        constraints: which it must not exceed; on the whole encoder's params and macs.

    Raises:
        InputError: not even the smallest fits.
    """
    heads = encoder_conf.get("attention_heads", 4)
    units = encoder_conf.get("linear_units", 2048)
    most_blocks = encoder_conf.get("num_blocks", 6)
    full = encoder_conf.get("output_size", 256)
    limits = [(c.kind, c.limit) for c in constraints]
    step = math.lcm(heads, decoder_heads, 2)  # positions need an even dimension
    costs = {
        size: cost_by_sizes(encoder_conf | {"output_size": size}, features, frames)
        for size in range(step, full + 1, step)
    }

    def fits(blocks: int, size: int, units: int) -> bool:
        found = costs[size](blocks, units)
        return all(found[kind] <= limit for kind, limit in limits)

    best, misfit = None, math.inf
    for blocks, size in itertools.product(range(1, most_blocks + 1), costs):
        shrink = full / size
        most = bisect_left(
            range(1, units + 1),
            True,
            key=lambda u, b=blocks, s=size: not fits(b, s, u),
        )
        shrinks = (units / (most or 1e-9), most_blocks / blocks)
        off = math.hypot(*(math.log(other / shrink) for other in shrinks))
        if off < misfit:
            best, misfit = (blocks, size, most), off
    if best is None or not best[2]:
        raise InputError(
            "sparsity target",
            "no dense Conformer is that small",
            "choose a lower target, or another method",
        )
    names = ("num_blocks", "output_size", "linear_units")
    return encoder_conf | dict(zip(names, best, strict=True))


def cost_by_sizes(encoder_conf: dict[str, Any], features: int, frames: int) -> Cost:
    """Express what a dense Conformer costs by its blocks and linear units.

    Args:
        encoder_conf: its other options.
        features, frames: as for :func:`small_encoder`.
    """
    with torch.device("meta"):
        one = ConformerEncoder(features, **encoder_conf | {"num_blocks": 1})
    about = describe(one, GateOptions(), gated=False)
    layout = about.layout(one)
    names = [name for name, _ in one.named_parameters()]
    terms = count_terms(
        layout, names, about.work(encoder_clocks(one, frames, features))
    )
    whole = layout.sums(layout.whole())
    ffn = [i for i, s in enumerate(layout.structures) if s.thing == "ffn.unit"]
    inside = [
        i for i, s in enumerate(layout.structures) if s.key[:1] != ("subsampling",)
    ]
    empty, thin = whole.clone(), whole.clone()
    empty[inside], thin[ffn] = 0, 0
    points = {
        kind: [float(evaluate(of, sums)) for sums in (empty, thin, whole)]
        for kind, of in terms.items()
    }
    units = float(whole[ffn[0]])

    def cost(blocks: int, number: int) -> dict[str, float]:
        return {
            kind: base + blocks * (bare - base + (full - bare) * number / units)
            for kind, (base, bare, full) in points.items()
        }

    return cost


def small_training(
    teacher: dict[str, Any],
    recipe: dict[str, Any],
    taught: bool,
    rate: float | None = None,
) -> dict[str, Any]:
    """Set how a small Conformer is trained, at the same cost as what is pruned.

    Under a dense model it takes the pruning's epochs; where it needs none, that one's
    epochs, too. Batches are the recipe's, and the learning rate's schedule is that of
    every student.

    Args:
        teacher: config of the dense model.
        recipe: ``conf/prune*.yaml``.
        taught: whether the dense model is at its side.
        rate: peak learning rate; by default the dense model's, for one that suits
            pruning need not suit a training from scratch.
    """
    epochs = recipe.get("max_epoch", 0)
    if not taught:
        epochs += teacher.get("max_epoch", 40)
    rate = rate or (teacher.get("optim_conf") or {}).get("lr", 0.001)
    chosen = {
        key: teacher[key]
        for key in ("best_model_criterion", "keep_nbest_models")
        if key in teacher
    }
    return recipe | chosen | {"max_epoch": epochs, "optim_conf": {"lr": rate}}
