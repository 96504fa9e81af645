"""What a layer costs: the pair (parameters, multiply-accumulates)."""

from typing import NamedTuple

from torch import Tensor

Number = int | float | Tensor


class Cost(NamedTuple):
    """Parameters and MACs (of one utterance).

    The entries are plain numbers for a given architecture, and tensors with a
    gradient when they are expectations under gates: the formulas are the same.
    """

    params: Number
    macs: Number

    def __add__(self, other: "Cost") -> "Cost":  # type: ignore[override]
        return Cost(self.params + other.params, self.macs + other.macs)

    def __radd__(self, other) -> "Cost":
        return self if other == 0 else NotImplemented
