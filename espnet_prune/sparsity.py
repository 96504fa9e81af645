"""Steering the gates to a budget: target schedule and Lagrange multipliers.

Wang et al. 2020, "Structured Pruning of Large Language Models" (arXiv 1910.04732),
section 3.2: minimise over weights and gates, maximise over the multipliers,

    loss + lambda1 * (s - t) + lambda2 * (s - t)^2

where s is the fraction of the cost that is removed and t the target of the moment.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from espnet_prune.encoder import PrunableConformerEncoder
from espnet_prune.gates import Gate, gates_of

KINDS = ("params", "macs")
# log_alpha has to travel this far, in units of the learning rate, within a run: Adam
# moves a parameter by about its learning rate per step. Measured on runs of a few
# hundred steps; long runs end at the papers' values.
GATE_TRAVEL = 100.0
GATE_LR_RANGE = (0.02, 0.3)
MULTIPLIER_LR_FACTOR = 1.5


@dataclass(frozen=True)
class SparsityOptions:
    """What to remove, and how fast.

    Args:
        kind: what the target counts: ``params`` or ``macs`` of the encoder.
        target: fraction of it to remove, in (0, 1).
        macs_seconds: length of the utterance whose MACs are counted, in seconds.
        warmup: fraction of the steps in which the target rises linearly from 0.
        gate_lr, multiplier_lr: learning rates; None derives them from the number of
            steps, so that the gates can close in short runs, too.
        max_multiplier: bound on the multipliers, against overshooting.

    Raises:
        ValueError: an option outside its range, by name.
    """

    kind: str = "params"
    target: float = 0.5
    macs_seconds: float = 10.0
    warmup: float = 0.5
    gate_lr: float | None = None
    multiplier_lr: float | None = None
    max_multiplier: float = 200.0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"sparsity: kind must be one of {KINDS}, not {self.kind}")
        if not 0 < self.target < 1:
            raise ValueError(
                f"sparsity: target is the fraction to remove, in (0, 1), not "
                f"{self.target}"
            )
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"sparsity: warmup must be in [0, 1], not {self.warmup}")

    def learning_rates(self, total_steps: int) -> tuple[float, float]:
        """Learning rates of gates and multipliers for a run of that many steps."""
        low, high = GATE_LR_RANGE
        gates = self.gate_lr or min(max(GATE_TRAVEL / total_steps, low), high)
        return gates, self.multiplier_lr or MULTIPLIER_LR_FACTOR * gates


class SparsityController(nn.Module):
    """Target schedule and multipliers; its state travels in the checkpoint.

    Args:
        options: what to remove.
        frames: feature frames of the utterance whose MACs are counted.
    """

    def __init__(self, options: SparsityOptions, frames: int):
        super().__init__()
        self.options, self.frames = options, frames
        self.total_steps: int | None = None  # known when the trainer starts
        self.lambda1 = nn.Parameter(torch.zeros(()))
        self.lambda2 = nn.Parameter(torch.zeros(()))
        # The trainer tells the model no step, so it counts its own.
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def target(self) -> float:
        """The target of this step."""
        if self.total_steps is None:
            raise RuntimeError("the trainer must set total_steps first")
        ramp = max(1.0, self.options.warmup * self.total_steps)
        return self.options.target * min(1.0, self.step.item() / ramp)

    def forward(
        self, encoder: PrunableConformerEncoder
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The Lagrangian term of a step, and what to log.

        In training mode it also counts the step and keeps gates and multipliers in
        their range.
        """
        # The budget is a matter of integers up to 1e11: never in half precision.
        with torch.autocast(self.lambda1.device.type, enabled=False):
            if self.training:
                self.step += 1
                self._clamp(encoder)
            expected = removed_fraction(encoder, self.options.kind, self.frames)
            with torch.no_grad():
                realised = removed_fraction(
                    encoder, self.options.kind, self.frames, realised=True
                )
            target = self.target()
            # The budget that counts is the realised one, whose steps have no
            # gradient: its value with the gradient of the expected one.
            gap = expected + (realised - expected).detach() - target
            loss = self.lambda1 * gap + self.lambda2 * gap.square()
        stats = {
            "loss_sparsity": loss.detach(),
            "sparsity_expected": expected.detach(),
            "sparsity_realised": realised,
            "sparsity_target": torch.tensor(target),
            "lambda1": self.lambda1.detach().clone(),
            "lambda2": self.lambda2.detach().clone(),
        }
        return loss, stats

    @torch.no_grad()
    def _clamp(self, encoder: PrunableConformerEncoder) -> None:
        bound = self.options.max_multiplier
        self.lambda1.clamp_(-bound, bound)
        self.lambda2.clamp_(0, bound)
        for gate in gates_of(encoder).values():
            gate.clamp_()


def removed_fraction(
    encoder: PrunableConformerEncoder, kind: str, frames: int, realised: bool = False
) -> Tensor:
    """Fraction of the encoder's cost that its gates remove.

    Args:
        encoder: in its gated life.
        kind: ``params`` or ``macs``.
        frames: feature frames of the utterance whose MACs are counted.
        realised: count the gates that are open now, instead of their probabilities.

    Returns:
        scalar; differentiable unless ``realised``.
    """
    openness = _kept if realised else Gate.openness
    dense = encoder.architecture.cost(encoder.fixed, frames)["encoder"]
    left = getattr(encoder.gated_cost(frames, openness), kind)
    return 1 - left / getattr(dense, kind)


def _kept(gate: Gate) -> Tensor:
    return gate.is_open().float()
