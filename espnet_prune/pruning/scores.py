"""Score which units to keep without learning it; scores stand in for log_alpha.

A score vector is (unit,); submodules are closed by none of them but ``blocks``.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from espnet_prune.config.sections import MODEL_DIM
from espnet_prune.pruning.budget import Budget
from espnet_prune.pruning.cost import evaluate
from espnet_prune.pruning.gates import Gates
from espnet_prune.pruning.layout import Layout
from espnet_prune.pruning.projection import choose
from espnet_prune.pruning.structure import FLAT, Structure

ALWAYS, NEVER = 100.0, -100.0
Share = Callable[[str], float]  # group -> fraction


def scores_of(
    method: str, budget: Budget, tensors: Mapping[str, Tensor], seed: int
) -> Tensor:
    """Compute the scores of a one-shot method: ``magnitude``, ``random``, ``blocks``.

    Args:
        method: its name.
        budget: what is to be met.
        tensors: the model's parameters and buffers, by name.
        seed: for those drawn at random.
    """
    layout, share = budget.layout, budget.share
    score: dict[str, Callable[[], Tensor]] = {
        "magnitude": lambda: magnitude(layout, tensors, share),
        "random": lambda: random(layout, seed, share),
        "blocks": lambda: blocks(budget, tensors),
    }
    return score[method]()


@torch.no_grad()
def settle(gates: Gates, budget: Budget, scores: Tensor) -> None:
    """Close the gates that the scores and the budget leave out, and open the others.

    Projecting the gates again, as the export does, chooses the same (unless it rounds).
    """
    layout, device = budget.layout, gates.log_alpha.device
    gates.log_alpha.copy_(scores.to(device)[layout.at("learned", device)])
    keep = choose(gates, budget).choose()[layout.learned]
    order = gates.log_alpha.cpu().argsort(descending=True, stable=True).argsort()
    worth = 1 - order / len(order)  # in (0, 1], the order of the scores
    gates.log_alpha.copy_(torch.where(keep, 1 + worth, worth - 2))


def unit_weights(
    layout: Layout, tensors: Mapping[str, Tensor], structure: Structure
) -> Tensor | None:
    """Collect the weights that go with each unit, and with what depends on it.

    Returns:
        (unit, weight), biases and norms left out; None if there are none.
    """
    children = layout.children(structure.name)
    found = []
    for child in children:
        own = unit_weights(layout, tensors, child)
        if own is not None:
            found.append(own.unflatten(0, (structure.size, -1)).flatten(1))
    slots = {(s.tensor, s.dim): s for s in (*structure.gated, *structure.cut)}
    for slot in slots.values() if not children else ():
        weight = tensors[slot.tensor]
        if slot.dim == FLAT or weight.dim() < 2:
            continue
        entries = layout.entries(structure, slot).to(weight.device)
        found.append(weight.movedim(slot.dim, 0)[entries].flatten(1))
    return torch.cat(found, 1) if found else None


@torch.no_grad()
def magnitude(layout: Layout, tensors: Mapping[str, Tensor], share: Share) -> Tensor:
    """Rank units by their weights' norm among those of their structure.

    The ranks go from 0 to 1, so that every layer loses the same share: what stands
    around a layer scales its weights, and compared over layers (by norms, or relative
    to their mean) some lose nearly everything, and units drawn at random do better.
    Submodules are never closed.

    Args:
        layout: of the model.
        tensors: its parameters and buffers, by name.
        share: what may be kept of a group of structures, for heads and channels.
    """
    norms = {}
    for structure in layout.structures:
        weights = unit_weights(layout, tensors, structure)
        if weights is not None:
            norms[structure.name] = weights.double().square().mean(1).cpu()
    return _from_orders(layout, norms, share)


def random(layout: Layout, seed: int, share: Share) -> Tensor:
    """Score units at random; every submodule keeps its share of them.

    Args:
        layout: of the model.
        seed: of the draw.
        share: what may be kept of a group of structures, for heads and channels.
    """
    draw = torch.Generator().manual_seed(seed)
    drawn = {s.name: torch.rand(s.size, generator=draw) for s in layout.structures}
    return _from_orders(layout, drawn, share)


def _from_orders(layout: Layout, orders: dict[str, Tensor], share: Share) -> Tensor:
    """Make scores from what orders the units of each structure."""
    scores = torch.full((len(layout),), ALWAYS)
    for structure in layout.structures:
        if structure.name in orders and structure.size > 1:
            rank = orders[structure.name].argsort(stable=True).argsort()
            if structure.nested:  # only how many stay is open
                rank = rank.sort(descending=structure.nested > 0).values
            ranks = (rank + 0.5).float() / structure.size
            scores[layout.span(structure.name)] = ranks
    _close_parents(layout, scores, share)
    if MODEL_DIM in layout:
        span = layout.span(MODEL_DIM)
        kept = max(1, round(share(MODEL_DIM) * (span.stop - span.start)))
        best = scores[span].topk(kept).indices
        scores[span] = NEVER
        scores[best + span.start] = ALWAYS
    return scores


def _close_parents(layout: Layout, scores: Tensor, share: Share) -> None:
    """Close the heads of the lowest scores, where their dimensions have gates, too.

    Heads and the dimensions inside them thin out alike: sqrt(share) of the heads of a
    group stay, and the budget leaves about as much of their dimensions.
    """
    by_group: dict[str, list[slice]] = {}
    for structure in layout.structures:
        fine = any(child.learned for child in layout.children(structure.name))
        if fine and structure.size > 1:
            at = by_group.setdefault(structure.thing, [])
            at.append(layout.span(structure.name))
    for thing, spans in by_group.items():
        group = next(s.group for s in layout.structures if s.thing == thing)
        units = torch.cat([torch.arange(span.start, span.stop) for span in spans])
        kept = max(1, round(math.sqrt(share(group)) * len(units)))
        best = units[scores[units].topk(kept).indices]
        scores[units] += NEVER
        scores[best] += ALWAYS - NEVER


@torch.no_grad()
def blocks(budget: Budget, tensors: Mapping[str, Tensor]) -> Tensor:
    """Keep as many whole blocks as fit, evenly spaced, then the best units of one more.

    What is in no block, as the subsampling, loses its weakest channels down to its
    share of the budget; the model dimension stays whole.

    Args:
        budget: what is to be met, with structures that are derived from the submodules
            of a block each.
        tensors: the model's parameters and buffers, by name.
    """
    layout = budget.layout
    scores = magnitude(layout, tensors, lambda group: 1.0)
    inside = [
        [s.name, *(n for p in s.any_of for n in (p, *layout.descendants(p)))]
        for s in layout.structures
        if s.any_of
    ]
    free = [s for s in layout.roots() if s.least and s.name != MODEL_DIM]
    channels = _affordable_units(budget, free, scores)
    for structure in free:
        span = layout.span(structure.name)
        best = scores[span].topk(min(channels, structure.size)).indices
        scores[best + span.start] += ALWAYS

    def fits(number: int) -> bool:
        own = torch.zeros(len(layout), dtype=torch.double)
        if MODEL_DIM in layout:
            own[layout.span(MODEL_DIM)] = 1
        for structure in free:
            span = layout.span(structure.name)
            own[
                scores[span].topk(min(channels, structure.size)).indices + span.start
            ] = 1
        for names in inside[:number]:
            for name in names:
                own[layout.span(name)] = 1
        costs = budget.cost(layout.complete(own)).tolist()
        return all(x <= c.limit for x, c in zip(costs, budget.constraints, strict=True))

    total = len(inside)
    kept = next((n for n in range(total, 0, -1) if fits(n)), 0)
    chosen = {round((i + 0.5) * total / kept - 0.5) for i in range(kept)}
    rest = [i for i in range(total) if i not in chosen]
    # The one that is kept in part: where the gap is widest, the later of equals.
    gaps = {i: min((abs(i - c) for c in chosen), default=total) for i in rest}
    partial = max(rest, key=lambda i: (gaps[i], i), default=None)
    for index, names in enumerate(inside):
        for span in map(layout.span, names):
            if index in chosen:
                scores[span] += ALWAYS
            elif index != partial:
                scores[span] += NEVER - ALWAYS
    return scores


def _affordable_units(budget: Budget, free: list[Structure], scores: Tensor) -> int:
    """Count the units that the structures in no block may keep.

    With so many, these have no larger a share than they had.
    """
    layout = budget.layout
    if not free:
        return 0
    groups = {s.group for s in free}
    own = [c for c in budget.constraints if groups & set(c.groups)]
    pairs = [(c, [t for t in budget.terms[c.kind] if t.group in groups]) for c in own]

    def costs(number: int) -> list[float]:
        units = layout.whole()
        for structure in free:
            span = layout.span(structure.name)
            units[span] = 0
            units[span.start : span.start + min(number, structure.size)] = 1
        sums = layout.sums(layout.complete(units))
        return [float(evaluate(terms, sums)) for _, terms in pairs]

    most = min(s.size for s in free)
    whole = costs(max(s.size for s in free))
    for number in range(most, 1, -1):
        shares = [
            some / all_of_it * c.dense / c.limit
            for some, all_of_it, (c, _) in zip(costs(number), whole, pairs, strict=True)
            if c.limit and all_of_it
        ]
        if all(share <= 1 or math.isclose(share, 1) for share in shares):
            return number
    return 1
