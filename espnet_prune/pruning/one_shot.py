"""Masks from scores, at once and without training."""

import torch
from torch import nn

from espnet_prune.families.espnet.layers.structures import encoder_of
from espnet_prune.pruning.budget import Budget
from espnet_prune.pruning.gates import gates_of
from espnet_prune.pruning.projection import choose
from espnet_prune.pruning.scores import Scores, blocks, magnitude, random


def scores_of(method: str, model: nn.Module, budget: Budget, seed: int) -> Scores:
    """The scores of one of the methods ``ONE_SHOT``."""
    if method == "magnitude":
        return magnitude(model, budget.share)
    if method == "random":
        return random(model, seed, budget.share)
    return blocks(encoder_of(model), budget)


@torch.no_grad()
def settle(model: nn.Module, budget: Budget, scores: Scores) -> None:
    """Close the gates that the scores and the budget leave out, and open the others.

    Projecting the gates again, as the export does, chooses the same (unless it rounds).
    """
    for gate, score in scores.items():
        gate.log_alpha.copy_(score)
    keep = choose(model, budget)
    gates = list(gates_of(model).values())
    flat = torch.cat([gate.log_alpha for gate in gates])
    order = flat.argsort(descending=True, stable=True).argsort()
    worth = 1 - order / len(flat)  # in (0, 1], the order of the scores
    for gate, own in zip(gates, worth.split([len(g) for g in gates]), strict=True):
        kept = keep[gate].to(own.device)
        gate.log_alpha.copy_(torch.where(kept, 1 + own, own - 2))
