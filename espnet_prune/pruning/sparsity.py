"""Steering the gates to a budget: target schedule and Lagrange multipliers.

Wang et al. 2020, "Structured Pruning of Large Language Models" (arXiv 1910.04732),
section 3.2: minimise over weights and gates, maximise over the multipliers,

    loss + lambda1 * (s - t) + lambda2 * (s - t)^2

where s is the fraction of the cost that is removed and t the target of the moment; one
such term, with multipliers of its own, for every constraint of the budget.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from espnet_prune.families.espnet.decoder import PrunableTransformerDecoder
from espnet_prune.families.espnet.encoder import PrunableEncoder
from espnet_prune.families.espnet.layers.cost import group_of, total
from espnet_prune.families.espnet.layers.structures import dim_gate_of
from espnet_prune.families.espnet.layers.subsampling import halved
from espnet_prune.pruning.budget import (
    DENOMINATORS,
    KINDS,
    MODEL_DIM,
    Budget,
    Constraint,
    dense_counts,
    is_kept,
    plan,
)
from espnet_prune.pruning.gates import gates_of

# log_alpha has to travel this far, in units of the learning rate, within a run: Adam
# moves a parameter by about its learning rate per step. Measured on runs of a few
# hundred steps; long runs end at the papers' values.
GATE_TRAVEL = 100.0
GATE_LR_RANGE = (0.02, 0.3)
MULTIPLIER_LR_FACTOR = 1.5
STEERING = ("lagrangian", "magnitude")


@dataclass(frozen=True)
class SparsityOptions:
    """What to remove, and how fast.

    Args:
        kind: what the target counts: ``params``, ``macs`` or ``latency``; several,
            as ``params+macs``: that fraction of each at least.
        target: fraction of it to remove, in (0, 1).
        denominator: of what: ``encoder``, or ``model`` with its CTC and decoder (MACs
            and latency: for one hypothesis; latency: with its frontend, too).
        groups: targets of their own for some of ``subsampling``, ``attention``,
            ``ffn``, ``convolution``, ``decoder``, each a fraction of the group, which
            may be 0; the others share what ``target`` leaves.
        model_dim: fraction of the model dimension to remove, where it has gates; None
            thins it out as much as the units in it: 1 - sqrt(1 - target), of the group
            that loses least. Without a target of its own it would stay whole, for
            every layer feels it.
        start: where the rise of the targets begins, by ``Constraint.key``: what is
            removed already, on the second rung of a ladder.
        macs_seconds: length of the utterance whose MACs or latency are counted, in
            seconds.
        macs_tokens: length of its transcript, where the model's decoder counts, too.
        warmup: fraction of the steps in which the target rises linearly.
        gate_lr, multiplier_lr: learning rates; None derives them from the number of
            steps, so that the gates can close in short runs, too.
        max_multiplier: bound on the multipliers, against overshooting.
        by: what closes the gates: the ``lagrangian``, or the ``magnitude`` of their
            weights (a baseline).

    Raises:
        ValueError: an option outside its range, by name.
    """

    kind: str = "params"
    target: float = 0.5
    denominator: str = "encoder"
    groups: dict[str, float] = field(default_factory=dict)
    model_dim: float | None = None
    start: dict[str, float] = field(default_factory=dict)
    macs_seconds: float = 10.0
    macs_tokens: int = 30
    warmup: float = 0.5
    gate_lr: float | None = None
    multiplier_lr: float | None = None
    max_multiplier: float = 200.0
    by: str = "lagrangian"

    def __post_init__(self):
        unknown = set(self.kinds) - set(KINDS)
        if unknown or len(set(self.kinds)) != len(self.kinds):
            raise ValueError(
                f"sparsity: kind must be one of {KINDS}, or several as params+macs, "
                f"not {self.kind}"
            )
        if self.by not in STEERING:
            raise ValueError(f"sparsity: by must be one of {STEERING}, not {self.by}")
        if self.denominator not in DENOMINATORS:
            raise ValueError(
                f"sparsity: denominator must be one of {DENOMINATORS}, not "
                f"{self.denominator}"
            )
        if not 0 < self.target < 1:
            raise ValueError(
                f"sparsity: target is the fraction to remove, in (0, 1), not "
                f"{self.target}"
            )
        parts = self.groups | {MODEL_DIM: self.model_dim or 0}
        for name, target in parts.items():
            if not 0 <= target < 1:
                raise ValueError(
                    f"sparsity: {name} is the fraction to remove, in [0, 1), not "
                    f"{target}"
                )
        lengths = ("macs_seconds", "macs_tokens")
        for name in (*lengths, "gate_lr", "multiplier_lr", "max_multiplier"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"sparsity: {name} must be above 0, not {value}")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"sparsity: warmup must be in [0, 1], not {self.warmup}")

    @property
    def kinds(self) -> list[str]:
        return str(self.kind).split("+")

    def learning_rates(self, total_steps: int) -> tuple[float, float]:
        """Learning rates of gates and multipliers for a run of that many steps."""
        low, high = GATE_LR_RANGE
        gates = self.gate_lr or min(max(GATE_TRAVEL / total_steps, low), high)
        return gates, self.multiplier_lr or MULTIPLIER_LR_FACTOR * gates


def check_choices(options: SparsityOptions, model_dim: bool, decoder: bool) -> None:
    """Refuse what contradicts each other, whatever the sizes of the model.

    Args:
        options: what to remove.
        model_dim, decoder: whether these have gates.

    Raises:
        ValueError: names the option to change.
    """
    if "latency" in options.kinds and model_dim:
        raise ValueError(
            "sparsity: the latency of a layer is not measured by model dimension; "
            "set model_dim: false in gates"
        )
    if options.model_dim is not None and not model_dim:
        raise ValueError("sparsity: model_dim needs model_dim: true in gates")
    if decoder and options.denominator != "model":
        raise ValueError(
            "sparsity: with prune_decoder the denominator must be model: the decoder "
            "is no part of the encoder"
        )


def make_budget(
    options: SparsityOptions,
    encoder: PrunableEncoder,
    frames: int,
    rest: dict[str, float] | None = None,
    latency: dict[str, float] | None = None,
    decoder: PrunableTransformerDecoder | None = None,
) -> Budget:
    """The budget of a model with gates.

    Args:
        options: what to remove.
        encoder: with gates.
        frames: feature frames of ``macs_seconds`` of audio.
        rest: kind -> cost of the model beyond its encoder, for the denominator
            ``model``.
        latency: prices in seconds, for the kind ``latency``.
        decoder: the model's, if it has gates, too.

    Raises:
        ValueError: targets of groups that contradict each other, a decoder that is
            pruned without counting, or the latency of a model dimension with gates.
    """
    has_dims = dim_gate_of(encoder) is not None
    check_choices(options, has_dims, decoder is not None)
    prices, dense = encoder.prices(frames), dense_counts(encoder)
    if decoder is not None:
        prices |= decoder.prices(options.macs_tokens, halved(halved(frames)))
        dense |= dense_counts(decoder)
    constraints: list[Constraint] = []
    for kind in options.kinds:
        if kind == "latency":
            table = latency or {}
        else:
            table = {name: getattr(price, kind) for name, price in prices.items()}
        fixed = 0.0  # norms can go with the model dimension, and with nothing else
        if not has_dims:
            fixed = total(encoder.architecture.norm_counts(), table)
        if options.denominator == "model":
            in_decoder = {n: c for n, c in dense.items() if group_of(n) == "decoder"}
            # Exact but for latency, whose parts and whole are measured each by itself.
            fixed += max(0.0, rest[kind] - total(in_decoder, table))
        constraints += plan(
            kind,
            table,
            dense,
            fixed,
            options.target,
            options.denominator,
            options.groups,
        )
    dim_target = plan_dim(options, constraints) if has_dims else None
    return Budget(tuple(constraints), dim_target)


def plan_dim(options: SparsityOptions, constraints: list[Constraint]) -> float:
    """Fraction of the model dimension to remove.

    Raises:
        ValueError: what is asked for would leave a group less than it may keep.
    """
    # All of a group in fewer channels than that would not use its budget.
    share = max(c.share for c in constraints if c.groups - {"decoder"})
    if options.model_dim is None:
        return 1 - math.sqrt(share)
    if options.model_dim > 1 - share:
        raise ValueError(
            f"sparsity: model_dim {options.model_dim:g} removes more than the targets "
            f"ask for: at most {1 - share:.3f}"
        )
    return options.model_dim


class Schedule(nn.Module):
    """How far the target has risen; its state travels in the checkpoint.

    Args:
        options: what to remove.
        budget: the same in absolute numbers.

    Raises:
        ValueError: a target that would have to fall.
    """

    def __init__(self, options: SparsityOptions, budget: Budget):
        super().__init__()
        ends = {c.key: c.target for c in budget.constraints}
        if budget.dim_target is not None:
            ends[MODEL_DIM] = budget.dim_target
        for name, end in ends.items():
            if (start := options.start.get(name, 0.0)) > end + 1e-9:
                raise ValueError(
                    f"sparsity: start, {start:.3f} of {name}, is beyond the "
                    f"target {end:.3f}"
                )
        self.options, self.budget = options, budget
        self.total_steps: int | None = None  # known when the trainer starts
        # The trainer tells the model no step, so it counts its own.
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def ramp(self) -> float:
        """How far the targets have risen at this step, from 0 to 1."""
        if self.total_steps is None:
            raise RuntimeError("the trainer must set total_steps first")
        steps = max(1.0, self.options.warmup * self.total_steps)
        return min(1.0, self.step.item() / steps)

    def targets(self, like: Tensor) -> Tensor:
        """Fraction of each constraint to remove at this step, (constraint,)."""
        ramp, targets = self.ramp(), []
        for constraint in self.budget.constraints:
            start = self.options.start.get(constraint.key, 0.0)
            targets.append(start + (constraint.target - start) * ramp)
        return like.new_tensor(targets)

    def dim_target(self) -> float | None:
        """Fraction of the model dimension to remove at this step, if it has gates."""
        if (end := self.budget.dim_target) is None:
            return None
        start = self.options.start.get(MODEL_DIM, 0.0)
        return start + (end - start) * self.ramp()

    def stats(self, expected: Tensor, realised: Tensor) -> dict[str, Tensor]:
        """Mean over the constraints of what is gone, to log."""
        shares = expected.new_tensor(self.budget.shares)
        named = {
            "sparsity_expected": expected.detach(),
            "sparsity_realised": realised.detach(),
            "sparsity_target": self.targets(expected),
        }
        return {name: (value * shares).sum() for name, value in named.items()}


class SparsityController(Schedule):
    """The schedule with its multipliers."""

    def __init__(self, options: SparsityOptions, budget: Budget):
        super().__init__(options, budget)
        number = len(budget.constraints) + (budget.dim_target is not None)
        self.lambda1 = nn.Parameter(torch.zeros(number))
        self.lambda2 = nn.Parameter(torch.zeros(number))

    def forward(self, model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
        """The Lagrangian term of a step, and what to log.

        In training mode it also counts the step and keeps gates and multipliers in
        their range.
        """
        # The budget is a matter of integers up to 1e11: never in half precision.
        with torch.autocast(self.lambda1.device.type, enabled=False):
            if self.training:
                self.step += 1
                self._clamp(model)
            expected = self.budget.removed(model)
            with torch.no_grad():
                realised = self.budget.removed(model, is_kept)
            stats = self.stats(expected, realised)
            targets = self.targets(expected)
            if (dim_target := self.dim_target()) is not None:
                gate = dim_gate_of(model)
                expected = torch.cat([expected, 1 - gate.openness().mean()[None]])
                realised = torch.cat([realised, 1 - is_kept(gate).mean()[None]])
                targets = torch.cat([targets, targets.new_tensor([dim_target])])
            # The budget that counts is the realised one, whose steps have no
            # gradient: its value with the gradient of the expected one.
            gap = expected + (realised - expected).detach() - targets
            loss = (self.lambda1 * gap + self.lambda2 * gap.square()).sum()
        multipliers = {
            "lambda1": self.lambda1.detach().mean(),
            "lambda2": self.lambda2.detach().mean(),
        }
        return loss, stats | multipliers | {"loss_sparsity": loss.detach()}

    @torch.no_grad()
    def _clamp(self, model: nn.Module) -> None:
        bound = self.options.max_multiplier
        self.lambda1.clamp_(-bound, bound)
        self.lambda2.clamp_(0, bound)
        for gate in gates_of(model).values():
            gate.clamp_()
