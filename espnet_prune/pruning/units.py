"""The smallest things that a projection keeps or removes, and in which order."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_prune.pruning.layout import Layout
from espnet_prune.pruning.structure import Structure


@dataclass(frozen=True)
class Unit:
    """Units of structures that are kept together.

    Args:
        score: of them; the higher, the sooner they are kept.
        family: structure that they are counted with.
        parts: structure -> indices in a vector (unit,).
        entry: whether they open their submodule; the others wait for that.
    """

    score: float
    family: int
    parts: dict[int, Tensor]
    entry: bool = False


def units_of(
    layout: Layout, root: Structure, scores: Tensor, is_open: Tensor, multiple: int = 1
) -> list[Unit]:
    """List the units below a structure that depends on no other, best first.

    Args:
        layout: of the model.
        root: the structure; a submodule, or units that are in none.
        scores: (unit,), -inf for what must stay closed.
        is_open: (unit,) which units with others below them are open; of a submodule
            that is closed there are no units.
        multiple: how many units go together; fewer of the last of a structure, which
            must not be kept without those before it.
    """
    families = [layout[name] for name in layout.descendants(root.name)]
    if not families:
        return _without_least(layout, root, scores, multiple)
    if not is_open[layout.span(root.name)].any():
        return []
    found: list[list[Unit]] = []
    for family in families:
        if not family.learned:
            continue
        if any(child.learned for child in layout.children(family.name)):
            found += _ranked(layout, family, scores, is_open, multiple)
        elif not family.even:
            # A head without gates inside brings all of its dimensions anyhow.
            own = 1 if layout.children(family.name) else multiple
            found.append(list(_bundles(layout, family, scores, own)))
    firsts = [bundles[0] for bundles in found]
    parts: dict[int, Tensor] = {}
    for unit in firsts:
        for number, indices in unit.parts.items():
            parts.setdefault(number, indices)
    if root.learned:
        number = layout.index[root.name]
        parts[number] = torch.tensor([layout.offsets[number]])
    # However many come with it, it is the best one that opens the submodule.
    score = max(float(scores[unit.parts[unit.family]].max()) for unit in firsts)
    entry = Unit(score, firsts[0].family, parts, entry=True)
    rest = [unit for bundles in found for unit in bundles[1:]]
    return [entry, *sorted(rest, key=lambda unit: -unit.score)]


def _bundles(
    layout: Layout, family: Structure, scores: Tensor, multiple: int
) -> Iterator[Unit]:
    number, own = layout.index[family.name], scores[layout.span(family.name)]
    # Of equals, those come first that others need.
    flips = [0] if family.nested < 0 else []
    own, order = own.flip(flips).sort(descending=True, stable=True)
    order = family.size - 1 - order if flips else order
    own = own.double()  # or rounding could put the mean of equals behind another's
    for ranks in _together(family.size, multiple):
        indices = order[ranks] + layout.offsets[number]
        yield Unit(float(own[ranks].mean()), number, {number: indices})


def _without_least(
    layout: Layout, root: Structure, scores: Tensor, multiple: int
) -> list[Unit]:
    """List the units without those that are kept in any case."""
    number = layout.index[root.name]
    kept = least_of(layout, root, scores)
    found = []
    for unit in _bundles(layout, root, scores, multiple):
        indices = unit.parts[number]
        if len(rest := indices[~torch.isin(indices, kept)]):
            found.append(Unit(unit.score, number, {number: rest}))
    return found


def least_of(layout: Layout, structure: Structure, scores: Tensor) -> Tensor:
    """Find the indices of the best units, as many as must stay."""
    span = layout.span(structure.name)
    best = scores[span].argsort(descending=True, stable=True)[: structure.least]
    return best + span.start


def _ranked(
    layout: Layout, family: Structure, scores: Tensor, is_open: Tensor, multiple: int
) -> list[list[Unit]]:
    """Bundle units over all kept units of a family: dimensions over heads.

    The heads of a layer are computed together, as wide as the widest: a dimension in
    one head alone would cost as much as one in each.
    """
    span, number = layout.span(family.name), layout.index[family.name]
    rows = is_open[span].nonzero().squeeze(1)
    if not len(rows):  # the submodule is open: its best head stands for it
        rows = scores[span].argmax()[None]
    found = []
    for child in layout.children(family.name):
        inside = layout.span(child.name)
        by_row = scores[inside].view(family.size, -1)
        values, order = by_row[rows].sort(dim=1, descending=True, stable=True)
        order = order + (rows * by_row.shape[1])[:, None] + inside.start
        own, values = layout.index[child.name], values.double().mean(0)
        bundles = []
        for ranks in _together(len(values), multiple):
            parts = {own: order[:, ranks].flatten()}
            if not bundles:
                parts[number] = rows + span.start
            bundles.append(Unit(float(values[ranks].mean()), own, parts))
        found.append(bundles)
    return found


def _together(size: int, multiple: int) -> list[slice]:
    """List the ranks that go together."""
    return [slice(i, min(i + multiple, size)) for i in range(0, size, multiple)]
