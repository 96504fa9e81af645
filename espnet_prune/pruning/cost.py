"""Count what a model costs, from its structures alone.

The parameters of a tensor are the product, over its dimensions, of what is kept of
each; its MACs are that times how often it is applied to an utterance. What attention
multiplies without a tensor is declared beside it. So every cost is a polynomial in the
numbers of units, linear in each: exact for sizes, differentiable in the openness of
gates, and its value under closed gates is the cost of what is kept. Prices measured in
seconds are a polynomial of the same kind.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from espnet_prune.config.sections import MODEL_DIM
from espnet_prune.pruning.layout import Layout

REST = "rest"  # the group of what no group's structure takes away
# After a thing: what each channel of the model dimension adds to the price of one.
PER_CHANNEL = " per channel"


@dataclass(frozen=True)
class Work:
    """The work of a model's tensors: how often they are applied to one utterance.

    Args:
        times: parameter -> multiplications of each of its elements.
        extra: structure -> MACs of each of its units that no parameter is part of.
    """

    times: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, float] = field(default_factory=dict)

    def __or__(self, other: "Work") -> "Work":
        return Work({**self.times, **other.times}, {**self.extra, **other.extra})


@dataclass(frozen=True)
class Term:
    """A summand of a cost: its price for each combination of the units of these
    structures, all of one group."""

    factors: tuple[int, ...]
    group: str
    price: float


Terms = list[Term]


def count_terms(
    layout: Layout, parameters: Iterable[str], work: Work
) -> dict[str, Terms]:
    """List the terms of a model's parameters and of its MACs.

    Args:
        layout: of the model.
        parameters: names of all its parameters; buffers cost nothing.
        work: how often each is applied; those not named are never multiplied (biases).

    Returns:
        ``params`` and ``macs``.
    """
    cuts: dict[str, dict[int, list[tuple[int, int]]]] = {}
    for number, structure in enumerate(layout.structures):
        for slot in structure.cut:
            width = layout.entries(structure, slot).shape[1]
            dims = cuts.setdefault(slot.tensor, {})
            dims.setdefault(slot.dim, []).append((number, width))
    sums: dict[str, dict[tuple[tuple[int, ...], str], float]] = {
        "params": {},
        "macs": {},
    }

    def add(kind: str, numbers: Iterable[int], price: float) -> None:
        factors = _with_singles(layout, numbers)
        at = factors, _group(layout, factors)
        sums[kind][at] = sums[kind].get(at, 0.0) + price

    for name in parameters:
        shape = layout.shapes[name]
        owners = [i for i, s in enumerate(layout.structures) if _owns(s.owns, name)]
        for choice in itertools.product(*_segments(shape, cuts.get(name, {}))):
            numbers = [number for number, _ in choice if number is not None]
            elements = math.prod(width for _, width in choice)
            add("params", owners + numbers, elements)
            if times := work.times.get(name):
                add("macs", owners + numbers, elements * times)
    for name, macs in work.extra.items():
        add("macs", [layout.index[name]], macs)
    return {
        kind: [Term(*at, price) for at, price in found.items()]
        for kind, found in sums.items()
    }


def price_terms(
    layout: Layout,
    prices: Mapping[str, float],
    products: Mapping[str, tuple[str, str]] | None = None,
    staying: Mapping[str, str] | None = None,
) -> Terms:
    """Make terms from measured prices.

    Args:
        layout: of the model.
        prices: thing -> cost of one; structures whose thing has none cost nothing. A
            thing with :data:`PER_CHANNEL` behind it costs that for each channel between
            the layers.
        products: thing -> the two structures whose every pair of units is one of it.
        staying: thing of which one never goes -> its group.
    """
    things = [(s.thing, [i], None) for i, s in enumerate(layout.structures) if s.thing]
    for thing, names in (products or {}).items():
        things.append((thing, [layout.index[name] for name in names], None))
    things += [(thing, [], group) for thing, group in (staying or {}).items()]
    found = []
    for thing, numbers, group in things:
        if thing in prices:
            factors = _with_singles(layout, numbers)
            group = group or _group(layout, factors)
            found.append(Term(factors, group, prices[thing]))
        if thing + PER_CHANNEL in prices:
            factors = _with_singles(layout, [*numbers, layout.index[MODEL_DIM]])
            group = group or _group(layout, factors)
            found.append(Term(factors, group, prices[thing + PER_CHANNEL]))
    return found


def things_of(layout: Layout, others: Iterable[str]) -> list[str]:
    """List the things with a price in a model: those of structures, and others."""
    own = [s.thing for s in layout.structures if s.thing]
    found = [*dict.fromkeys([*own, *others])]
    if MODEL_DIM in layout:
        found += [thing + PER_CHANNEL for thing in found]
    return found


def evaluate(terms: Terms, sums: Tensor) -> Tensor:
    """Evaluate a cost for (structure,) numbers of units, differentiable."""
    return Polynomial(terms, len(sums))(sums).sum()


class Polynomial:
    """Terms ready to be evaluated many times.

    Args:
        terms: summands.
        structures: how many structures there are.
    """

    def __init__(self, terms: Terms, structures: int):
        most = max((len(term.factors) for term in terms), default=0)
        factors = torch.full((most, len(terms)), structures)
        for i, term in enumerate(terms):
            factors[: len(term.factors), i] = torch.tensor(term.factors)
        self.factors = factors
        self.prices = torch.tensor([term.price for term in terms], dtype=torch.double)

    def __call__(self, sums: Tensor) -> Tensor:
        """Evaluate (structure,) numbers of units as (term,), in double precision."""
        if self.factors.device != sums.device:
            self.factors = self.factors.to(sums.device)
            self.prices = self.prices.to(sums.device)
        extended = torch.cat([sums.double(), sums.new_ones(1, dtype=torch.double)])
        value = self.prices
        for level in self.factors:
            value = value * extended[level]
        return value


def _owns(owned: Iterable[str], tensor: str) -> bool:
    return any(tensor == name or tensor.startswith(f"{name}.") for name in owned)


def _segments(
    shape: tuple[int, ...], cuts: Mapping[int, list[tuple[int, int]]]
) -> list[list[tuple[int | None, int]]]:
    """List for each dimension what it is the sum of: structures, entries of a unit."""
    if -1 in cuts:  # all elements are shared out
        return [cuts[-1]]
    found = []
    for dim, length in enumerate(shape):
        found.append(cuts.get(dim) or [(None, length)])
    return found


def _with_singles(layout: Layout, numbers: Iterable[int]) -> tuple[int, ...]:
    """Join these structures and the single units that they depend on, each once."""
    found = set(numbers)
    for number in list(found):
        for name in layout.ancestors(layout.structures[number].name):
            if layout[name].size == 1:
                found.add(layout.index[name])
    return tuple(sorted(found))


def _group(layout: Layout, factors: Iterable[int]) -> str:
    groups = (layout.structures[number].group for number in factors)
    return next((group for group in groups if group is not None), REST)
