"""Steer the gates to a budget: target schedule and Lagrange multipliers.

Wang et al. 2020, "Structured Pruning of Large Language Models" (arXiv 1910.04732),
section 3.2: minimise over weights and gates, maximise over the multipliers,

    loss + lambda1 * (s - t) + lambda2 * (s - t)^2

where s is the fraction of the cost that is removed and t the target of the moment; one
such term, with multipliers of its own, for every constraint of the budget.
"""

import torch
from torch import Tensor, nn

from espnet_prune.base.errors import OptionError
from espnet_prune.config.sections import MODEL_DIM, SparsityOptions
from espnet_prune.pruning.budget import Budget
from espnet_prune.pruning.gates import Gates

# log_alpha has to travel this far, in units of the learning rate, within a run: Adam
# moves a parameter by about its learning rate per step. Measured on runs of a few
# hundred steps; long runs end at the papers' values.
GATE_TRAVEL = 100.0
GATE_LR_RANGE = (0.02, 0.3)
MULTIPLIER_LR_FACTOR = 1.5


def learning_rates(options: SparsityOptions, total_steps: int) -> tuple[float, float]:
    """Choose learning rates of gates and multipliers for a run of that many steps."""
    low, high = GATE_LR_RANGE
    gates = options.gate_lr or min(max(GATE_TRAVEL / total_steps, low), high)
    return gates, options.multiplier_lr or MULTIPLIER_LR_FACTOR * gates


class Schedule(nn.Module):
    """The schedule says how far the target has risen; its state is in the checkpoint.

    Args:
        options: what to remove.
        budget: the same in absolute numbers.

    Raises:
        OptionError: a target would have to fall.
    """

    def __init__(self, options: SparsityOptions, budget: Budget):
        super().__init__()
        ends = {c.key: c.target for c in budget.constraints}
        if budget.dim_target is not None:
            ends[MODEL_DIM] = budget.dim_target
        for name, end in ends.items():
            if (start := options.start.get(name, 0.0)) > end + 1e-9:
                raise OptionError(
                    f"sparsity: start, {start:.3f} of {name}, is beyond the "
                    f"target {end:.3f}"
                )
        self.options, self.budget, self.feedback = options, budget, False
        self.total_steps: int | None = None  # known when the trainer starts
        # The trainer tells the model no step, so it counts its own.
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def ramp(self) -> float:
        """Return how far the targets have risen at this step, from 0 to 1."""
        return min(1.0, self.progress())

    def progress(self) -> float:
        """Return the steps taken, in those that the targets rise."""
        if self.total_steps is None:
            raise RuntimeError("the trainer must set total_steps first")
        return self.step.item() / max(1.0, self.options.warmup * self.total_steps)

    def targets(self) -> list[float]:
        """Return the fraction of each constraint to remove at this step."""
        ramp, starts = self.ramp(), self.options.start
        pairs = ((starts.get(c.key, 0.0), c.target) for c in self.budget.constraints)
        return [start + (end - start) * ramp for start, end in pairs]

    def dim_target(self) -> float | None:
        """Return the fraction of the model dimension to remove now, if it has gates."""
        if (end := self.budget.dim_target) is None:
            return None
        start = self.options.start.get(MODEL_DIM, 0.0)
        return start + (end - start) * self.ramp()

    def stats(self, expected: Tensor, realised: Tensor) -> dict[str, Tensor]:
        """Average over the constraints what is gone, to log."""
        shares = expected.new_tensor(self.budget.shares)
        named = {
            "sparsity_expected": expected.detach(),
            "sparsity_realised": realised.detach(),
            "sparsity_target": expected.new_tensor(self.targets()),
        }
        return {name: (value * shares).sum() for name, value in named.items()}


class SparsityController(Schedule):
    """The schedule with its multipliers."""

    def __init__(self, options: SparsityOptions, budget: Budget):
        super().__init__(options, budget)
        number = len(budget.constraints) + (budget.dim_target is not None)
        self.lambda1 = nn.Parameter(torch.zeros(number))
        self.lambda2 = nn.Parameter(torch.zeros(number))

    def forward(
        self, gates: Gates, tensors: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the Lagrangian term of a step, and what to log.

        In training mode it also counts the step and keeps gates and multipliers in
        their range.

        Args:
            gates: of the student.
            tensors: its parameters; not looked at.
        """
        # The budget is a matter of integers up to 1e11: never in half precision.
        with torch.autocast(self.lambda1.device.type, enabled=False):
            if self.training:
                self.step += 1
                self._clamp(gates)
            soft = gates.spread(gates.openness())
            with torch.no_grad():
                hard = gates.spread(gates.is_open().float())
                realised = self.budget.removed(hard)
            expected = self.budget.removed(soft)
            stats = self.stats(expected, realised)
            targets = expected.new_tensor(self.targets())
            if (dim_target := self.dim_target()) is not None:
                dims = gates.layout.span(MODEL_DIM)
                expected = torch.cat([expected, 1 - soft[dims].double().mean()[None]])
                realised = torch.cat([realised, 1 - hard[dims].double().mean()[None]])
                targets = torch.cat([targets, targets.new_tensor([dim_target])])
            # The budget that counts is the realised one, whose steps have no
            # gradient: its value with the gradient of the expected one.
            gap = (expected + (realised - expected).detach() - targets).float()
            loss = (self.lambda1 * gap + self.lambda2 * gap.square()).sum()
        multipliers = {
            "lambda1": self.lambda1.detach().mean(),
            "lambda2": self.lambda2.detach().mean(),
        }
        stats = {name: value.float() for name, value in stats.items()}
        return loss, stats | multipliers | {"loss_sparsity": loss.detach()}

    @torch.no_grad()
    def _clamp(self, gates: Gates) -> None:
        bound = self.options.max_multiplier
        self.lambda1.clamp_(-bound, bound)
        self.lambda2.clamp_(0, bound)
        gates.clamp_()
