"""L0 gates: the hard-concrete distribution and its straight-through variant.

Louizos et al. 2018, "Learning Sparse Neural Networks through L0 Regularization"
(arXiv 1712.01312), eqs. 10-12. A gate is a random number in [0, 1] that is exactly
0 or 1 with probability > 0; ``log_alpha`` is learned, and the probability of being
open, :meth:`Gate.openness`, is a differentiable stand-in for the L0 norm.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

BETA = 2 / 3  # temperature; closer to 0 the gates get almost no gradient
LOW, HIGH = -0.1, 1.1  # stretch, so that clipping gives exact zeros and ones
EPS = 1e-6  # keeps log(u) finite; must be sampled in fp32 (1 - 1e-6 is 1 in fp16)
CLAMP = math.log(100)  # beyond it a gate would be too far gone to come back
DIM_DROP_RATE = 0.01  # at the start, at most, of the channels between the layers
MODES = ("hard_concrete", "straight_through")


@dataclass(frozen=True)
class GateOptions:
    """How the gates of an encoder are made.

    Args:
        mode: ``hard_concrete`` (values in [0, 1]) or ``straight_through`` (the
            forward sees exactly 0 or 1, the gradient is the hard concrete's; the
            idea of Wang et al. 2023, arXiv 2306.01385).
        drop_rate_init: probability that a gate's underlying coin says "drop" at the
            start; small, since the student starts as the teacher.
        fine_heads: also gate the dimensions inside each attention head.
        model_dim: also gate the channels between the layers (CoFi's hidden dimensions,
            Xia et al. 2022, arXiv 2204.00408); one gate closes a channel in all blocks.

    Raises:
        ValueError: unknown mode, or a rate outside (0, 1).
    """

    mode: str = "straight_through"
    drop_rate_init: float = 0.05
    fine_heads: bool = True
    model_dim: bool = False

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"gates: mode must be one of {MODES}, not {self.mode!r}")
        if not 0 < self.drop_rate_init < 1:
            raise ValueError(
                f"gates: drop_rate_init must be in (0, 1), not {self.drop_rate_init}"
            )

    def build(self, size: int) -> "Gate":
        return Gate(size, self)

    def build_dims(self, size: int) -> "Gate | None":
        """Gates of the model dimension, if it has any. They start wider open than the
        others: each of them closes something in every layer."""
        if not self.model_dim:
            return None
        rate = min(self.drop_rate_init, DIM_DROP_RATE)
        return Gate(size, replace(self, drop_rate_init=rate))


class Gate(nn.Module):
    """``size`` independent gates.

    In training every forward draws one sample for the whole batch; in evaluation the
    gates are deterministic; once :attr:`mask` is set (the projection does), both give
    the mask. The mask is an attribute and never a cache, so that loading a state dict
    cannot leave a stale one behind.
    """

    def __init__(self, size: int, options: GateOptions):
        super().__init__()
        self.straight_through = options.mode == "straight_through"
        p = options.drop_rate_init
        # The tiny noise breaks ties between gates that see the same gradient.
        self.log_alpha = nn.Parameter(math.log((1 - p) / p) + 0.01 * torch.randn(size))
        self.mask: Tensor | None = None

    def __len__(self) -> int:
        return self.log_alpha.numel()

    def forward(self) -> Tensor:
        """The gate values, shape (size,), in fp32."""
        if self.mask is not None:
            return self.mask.to(self.log_alpha.device)
        return self._sample() if self.training else self.value()

    def openness(self) -> Tensor:
        """Probability that a sampled gate is not 0, shape (size,), differentiable."""
        if self.straight_through:
            return torch.sigmoid(self.log_alpha.float())
        return torch.sigmoid(self.log_alpha.float() - BETA * math.log(-LOW / HIGH))

    def is_open(self) -> Tensor:
        """Whether the gate counts as kept: open more often than not. Bool (size,)."""
        return self.openness() > 0.5

    def value(self) -> Tensor:
        """Deterministic gate values, shape (size,): 0 where closed.

        Open hard-concrete gates keep clip(sigmoid(log_alpha) * 1.2 - 0.1), the value
        that the authors of L0 evaluate with: it is not binary, and export folds it
        into the weights.
        """
        return self.open_value() * self.is_open()

    def open_value(self) -> Tensor:
        """The value each gate has when it is kept, shape (size,), above 0."""
        if self.straight_through:
            return torch.ones_like(self.log_alpha)
        return self._stretch(torch.sigmoid(self.log_alpha.float())).clamp(min=1e-2)

    @staticmethod
    def _stretch(s: Tensor) -> Tensor:
        return (s * (HIGH - LOW) + LOW).clamp(0, 1)

    def _sample(self) -> Tensor:
        u = torch.empty_like(self.log_alpha, dtype=torch.float32).uniform_(EPS, 1 - EPS)
        logits = torch.log(u) - torch.log1p(-u) + self.log_alpha.float()
        soft = self._stretch(torch.sigmoid(logits / BETA))
        if self.straight_through:
            return soft + ((soft > 0.5).float() - soft).detach()
        return soft

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep log_alpha within reach (called at every training step)."""
        self.log_alpha.clamp_(-CLAMP, CLAMP)


def gates_of(module: nn.Module) -> dict[str, Gate]:
    """All gates below ``module`` by their dotted names."""
    return {n: m for n, m in module.named_modules() if isinstance(m, Gate)}
