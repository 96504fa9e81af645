"""Iterative magnitude pruning: the weakest units go bit by bit while training goes on.

Zhu & Gupta 2017, "To prune, or not to prune" (arXiv 1710.01878), with structures for
single weights, and the linear schedule of the gates instead of their cubic one.
"""

import torch
from torch import Tensor, nn

from espnet_prune.pruning.budget import Budget, is_kept
from espnet_prune.pruning.gates import gates_of
from espnet_prune.pruning.one_shot import settle
from espnet_prune.pruning.scores import magnitude
from espnet_prune.pruning.sparsity import Schedule, SparsityOptions

UPDATES = 20  # of the masks while the target rises


class MagnitudeController(Schedule):
    """Stands where the Lagrangian's controller does, and adds nothing to the loss.

    The masks follow from the gates' log_alpha, which hold the scores of the last
    update: a run that resumes has the masks that it had.
    """

    def __init__(self, options: SparsityOptions, budget: Budget):
        super().__init__(options, budget)
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def forward(self, model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
        """Zero, and what to log. In training mode it counts the step."""
        if self.training:
            self.step += 1
        due = int(self.ramp() * UPDATES)
        gates = list(gates_of(model).values())
        if self.training and due > self.updates:
            for gate in gates:
                gate.mask = None
            targets = self.targets(gates[0].log_alpha).tolist()
            budget = self.budget.at(targets, self.dim_target())
            settle(model, budget, magnitude(model, budget.share))
            self.updates.fill_(due)
        for gate in gates:  # never drawn at random, not before the first update either
            gate.mask = gate.is_open().float()
        removed = self.budget.removed(model, is_kept)
        stats = self.stats(removed, removed)
        return removed.new_zeros(()), stats
