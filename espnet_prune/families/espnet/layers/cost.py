"""What a layer costs: counts of the things in it, and a price for each.

Parameters, MACs and latency are all linear in the same few counts (hidden units, heads,
query/key dimensions, ...). So a layer only counts itself, once for a given size and
once, with a gradient, under its gates; what is counted *for* is a matter of prices.

A count is called ``group.thing``; the group is what can be given a target of its own.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import Tensor

Number = int | float | Tensor
Counts = dict[str, Number]


class Cost(NamedTuple):
    """Parameters and MACs (of one utterance); of a thing, or of all of them."""

    params: Number
    macs: Number

    def __add__(self, other: "Cost") -> "Cost":  # type: ignore[override]
        return Cost(self.params + other.params, self.macs + other.macs)


Prices = dict[str, Cost]


def add(parts: Iterable[Counts]) -> Counts:
    """The counts of several layers together."""
    total: Counts = {}
    for counts in parts:
        for name, number in counts.items():
            total[name] = total[name] + number if name in total else number
    return total


def total(counts: Counts, prices: dict[str, float]) -> Number:
    """What all that is counted costs."""
    return sum(prices[name] * number for name, number in counts.items())


def cost(counts: Counts, prices: Prices) -> Cost:
    """The same for parameters and MACs."""
    return Cost(
        *(
            total(counts, {name: getattr(p, kind) for name, p in prices.items()})
            for kind in Cost._fields
        )
    )


def per_dim(name: str) -> str:
    """The name of a thing times the model dimension."""
    return f"{name} x dim"


def split_prices(prices: Callable[[int], Prices]) -> Prices:
    """Prices of things, and of things times the model dimension, where that has gates.

    Args:
        prices: by model dimension, in which they are linear.
    """
    table: Prices = {}
    for (name, offset), other in zip(
        prices(0).items(), prices(1).values(), strict=True
    ):
        slope = Cost(*(b - a for a, b in zip(offset, other, strict=True)))
        table |= {name: offset, per_dim(name): slope}
    return table


def times_dim(counts: Counts, dim: Number) -> Counts:
    """With the counts that go with prices of :func:`split_prices`."""
    return counts | {per_dim(name): number * dim for name, number in counts.items()}


def prices_at(prices: dict[str, float], dim: int) -> dict[str, float]:
    """Prices of things for a known model dimension, from those that are split."""
    return {
        name: price + dim * prices[per_dim(name)]
        for name, price in prices.items()
        if per_dim(name) in prices
    }


def group_of(name: str) -> str:
    """``attention`` of ``attention.head``."""
    return name.split(".")[0]
