"""Iterative magnitude pruning: the weakest units go bit by bit while training goes on.

Zhu & Gupta 2017, "To prune, or not to prune" (arXiv 1710.01878), with structures for
single weights, and the linear schedule of the gates instead of their cubic one. With
feedback (Lin et al. 2020, arXiv 2006.07253) the gradients at what is left go to all
weights, and the masks are chosen anew from these until the end: units come back.
"""

import torch
from torch import Tensor

from espnet_prune.config.sections import SparsityOptions
from espnet_prune.pruning.budget import Budget
from espnet_prune.pruning.controller import Schedule
from espnet_prune.pruning.gates import Gates
from espnet_prune.pruning.scores import magnitude, settle

UPDATES = 20  # of the masks while the target rises; with feedback they go on


class MagnitudeController(Schedule):
    """The controller stands where the Lagrangian's does, and adds nothing to the loss.

    The masks follow from the gates' log_alpha, which hold the scores of the last
    update: a run that resumes has the masks that it had.
    """

    def __init__(self, options: SparsityOptions, budget: Budget):
        super().__init__(options, budget)
        self.feedback = options.by == "feedback"
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def forward(
        self, gates: Gates, tensors: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Set the masks; return a loss of zero, and what to log.

        In training mode the controller also counts the step.

        Args:
            gates: of the student; their mask is set.
            tensors: its parameters and buffers, by name.
        """
        if self.training:
            self.step += 1
        due = int((self.progress() if self.feedback else self.ramp()) * UPDATES)
        if self.training and due > self.updates:
            budget = self.budget.at(self.targets(), self.dim_target())
            settle(gates, budget, magnitude(budget.layout, tensors, budget.share))
            self.updates.fill_(due)
        # Never drawn at random, not before the first update either.
        gates.mask = gates.spread(gates.is_open().float())
        removed = self.budget.removed(gates.mask).float()
        return removed.new_zeros(()), self.stats(removed, removed)
