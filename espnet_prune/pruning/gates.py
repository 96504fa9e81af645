"""L0 gates: the hard-concrete distribution and its straight-through variant.

Louizos et al. 2018, "Learning Sparse Neural Networks through L0 Regularization"
(arXiv 1712.01312), eqs. 10-12. A gate is a random number in [0, 1] that is exactly
0 or 1 with probability > 0; ``log_alpha`` is learned, and the probability of being
open, :meth:`Gates.openness`, is a differentiable stand-in for the L0 norm.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn

from espnet_prune.config.sections import GateOptions
from espnet_prune.pruning.layout import Layout

BETA = 2 / 3  # temperature; closer to 0 the gates get almost no gradient
LOW, HIGH = -0.1, 1.1  # stretch, so that clipping gives exact zeros and ones
EPS = 1e-6  # keeps log(u) finite; must be sampled in fp32 (1 - 1e-6 is 1 in fp16)
CLAMP = math.log(100)  # beyond it a gate would be too far gone to come back
SEEDS = 2**63 - 1


class Gates(nn.Module):
    """The gates of all learned units of a layout, in one vector.

    In training every forward draws one sample for the whole batch, each process of a
    distributed training its own; in evaluation the gates are deterministic; once
    :attr:`mask` is set (the projection does), both give the mask. The mask is an
    attribute and never a cache, so that loading a state dict cannot leave a stale one.

    Args:
        layout: of the model, which lives outside.
        options: how the gates are made.
    """

    def __init__(self, layout: Layout, options: GateOptions):
        super().__init__()
        self.layout = layout
        self.straight_through = options.mode == "straight_through"
        rates = torch.cat(
            [
                torch.full((s.size,), min(options.drop_rate_init, s.most_dropped))
                for s in layout.structures
            ]
        )[layout.learned]
        # The tiny noise breaks ties between gates that see the same gradient.
        start = torch.log((1 - rates) / rates)
        self.log_alpha = nn.Parameter(start + 0.01 * torch.randn(len(rates)))
        self.mask: Tensor | None = None
        self.seed = torch.initial_seed()
        self.register_buffer("draws", torch.zeros((), dtype=torch.long))

    def __len__(self) -> int:
        return self.log_alpha.numel()

    def forward(self) -> Tensor:
        """Give the values of all units, (unit,), in fp32; 1 where there is no gate."""
        if self.mask is not None:
            return self.mask.to(self.log_alpha.device)
        values = self._sample() if self.training else self.value()
        return self.spread(values, values=True)

    def spread(self, of_gates: Tensor, values: bool = False) -> Tensor:
        """Spread (gate,) to (unit,): 1 where there is no gate, derived units derived.

        Args:
            of_gates: probabilities, or values of the gates.
            values: which of the two they are (:meth:`Layout.complete`).
        """
        own = of_gates.new_ones(len(self.layout))
        where = self.layout.at("learned", of_gates.device)
        return self.layout.complete(own.index_copy(0, where, of_gates), values)

    def gather(self, units: Tensor) -> Tensor:
        """Gather (gate,) from (unit,): the units that have gates."""
        return units[self.layout.at("learned", units.device)]

    def openness(self) -> Tensor:
        """Give the probability that a drawn gate is not 0, (gate,), differentiable."""
        if self.straight_through:
            return torch.sigmoid(self.log_alpha.float())
        return torch.sigmoid(self.log_alpha.float() - BETA * math.log(-LOW / HIGH))

    def is_open(self) -> Tensor:
        """Tell whether a gate is kept: open more often than not. Bool (gate,)."""
        return self.openness() > 0.5

    def value(self) -> Tensor:
        """Give the deterministic gate values, (gate,): 0 where closed.

        Open hard-concrete gates keep clip(sigmoid(log_alpha) * 1.2 - 0.1), the value
        that the authors of L0 evaluate with: it is not binary, and export folds it
        into the weights.
        """
        return self.open_value() * self.is_open()

    def open_value(self) -> Tensor:
        """Give the value each gate has when it is kept, (gate,), above 0."""
        if self.straight_through:
            return torch.ones_like(self.log_alpha)
        return self._stretch(torch.sigmoid(self.log_alpha.float())).clamp(min=1e-2)

    @staticmethod
    def _stretch(s: Tensor) -> Tensor:
        return (s * (HIGH - LOW) + LOW).clamp(0, 1)

    def _sample(self) -> Tensor:
        u = self.noise(int(self.draws), _rank())
        self.draws += 1
        logits = torch.log(u) - torch.log1p(-u) + self.log_alpha.float()
        soft = self._stretch(torch.sigmoid(logits / BETA))
        if self.straight_through:
            return soft + ((soft > 0.5).float() - soft).detach()
        return soft

    def noise(self, draw: int, rank: int) -> Tensor:
        """Draw uniform random numbers, (gate,), for one draw of one process.

        They come from a generator of their own, seeded anew for each draw: a run that
        resumes draws what it would have drawn, and dropout in the model changes
        nothing. Processes differ, for their gradients are averaged: more samples make
        less noise.
        """
        device = self.log_alpha.device
        generator = torch.Generator(device)
        # No two draws of a run have one seed, whatever their number and process.
        generator.manual_seed((self.seed * 1000003 + draw * 8191 + rank) % SEEDS)
        u = torch.rand(len(self), generator=generator, device=device)
        return u.clamp(EPS, 1 - EPS)

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep log_alpha within reach (called at every training step)."""
        self.log_alpha.clamp_(-CLAMP, CLAMP)


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
