"""A small dense Conformer of the same cost, to be trained from scratch."""

import itertools
import math
from bisect import bisect_left
from dataclasses import replace
from typing import Any

from espnet_prune.base.errors import InputError
from espnet_prune.families.espnet.architecture import Architecture, Fixed
from espnet_prune.pruning.budget import Budget


def small_encoder(
    fixed: Fixed,
    encoder_conf: dict[str, Any],
    decoder_heads: int,
    frames: int,
    budget: Budget,
) -> dict[str, Any]:
    """``encoder_conf`` of the largest small Conformer that fits.

    Blocks, model dimension and linear units shrink in the same proportion as far as
    whole numbers allow: as deep as the dense one it would have to be so narrow that it
    learns little. Heads stay as many as they are.

    Args:
        fixed, encoder_conf: of the dense model.
        decoder_heads: of the dense model, whose decoder is as wide as its encoder.
        frames: feature frames of the utterance whose cost is counted.
        budget: which it must not exceed; of the whole encoder, in params and macs.

    Raises:
        InputError: not even the smallest fits.
    """
    heads = encoder_conf.get("attention_heads", 4)
    units = encoder_conf.get("linear_units", 2048)
    most_blocks = encoder_conf.get("num_blocks", 6)

    def fits(blocks: int, size: int, units: int) -> bool:
        small = replace(fixed, size=size, head_dim=size // heads)
        cost = Architecture.dense(size, heads, units, blocks).cost(small, frames)
        limits = budget.constraints
        return all(getattr(cost["encoder"], c.kind) <= c.limit for c in limits)

    best, misfit = None, math.inf
    step = math.lcm(heads, decoder_heads, 2)  # positions need an even dimension
    sizes = range(step, fixed.size + 1, step)
    for blocks, size in itertools.product(range(1, most_blocks + 1), sizes):
        shrink = fixed.size / size
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


def small_training(teacher: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """How it is trained: for the dense model's epochs and the pruning's, at its rate.

    A rate that suits pruning need not suit a training from scratch. Batches are the
    recipe's, and the learning rate's schedule is that of every student.
    """
    epochs = teacher.get("max_epoch", 40) + recipe.get("max_epoch", 0)
    rate = (teacher.get("optim_conf") or {}).get("lr", 0.001)
    chosen = {
        key: teacher[key]
        for key in ("best_model_criterion", "keep_nbest_models")
        if key in teacher
    }
    return recipe | chosen | {"max_epoch": epochs, "optim_conf": {"lr": rate}}
