"""Project learned gates to final values that meet the budget."""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_prune.config.sections import MODEL_DIM
from espnet_prune.pruning.budget import Budget
from espnet_prune.pruning.gates import Gates
from espnet_prune.pruning.selection import Selection

LARGE_CHANGE = 0.05  # of a cost, or of all gates, by the projection


@dataclass(frozen=True)
class Projection:
    """The choice of a projection.

    Args:
        values: (unit,) 0 for removed, else the value that is folded into the weights.
            A submodule whose units are all gone is gone itself.
        removed: fraction of each constraint's dense cost that is gone.
        slack: by how much, in the same fractions, ``removed`` may be beyond the target:
            0.5 % of what may be kept or, where that is more, the cheapest unit that
            does not fit any more. Where kinds are combined, that holds for one of
            them, and the others may be beyond.
        flipped: share of the gates that end other than they were learned.
    """

    values: Tensor
    removed: list[float]
    slack: list[float]
    flipped: float


@torch.no_grad()
def check_reachable(budget: Budget) -> None:
    """Refuse a target that no masks can meet, before a training goes for it.

    Raises:
        InputError: what pruning must leave alone already costs more than the budget.
    """
    units = torch.ones(len(budget.layout))
    Selection(budget, units, units.bool())


@torch.no_grad()
def choose(gates: Gates, budget: Budget, multiple: int = 1) -> Selection:
    """Make the selection that starts from what the gates learned."""
    closed = torch.full((len(budget.layout),), -torch.inf)
    where = budget.layout.learned
    scores = closed.index_copy(0, where, gates.log_alpha.detach().float().cpu())
    scores = budget.layout.nested(scores)
    learned = torch.ones(len(budget.layout), dtype=torch.bool)
    learned = learned.index_copy(0, where, gates.is_open().cpu())
    # What a gate closes at once is worth no more than that.
    inside, over = budget.layout.at("closing", scores.device)
    scores[inside] = torch.minimum(scores[inside], scores[over])
    learned[inside] &= learned[over]
    return Selection(budget, scores, learned, multiple)


@torch.no_grad()
def project(gates: Gates, budget: Budget, multiple: int = 1) -> Projection:
    """Choose the final value of every unit.

    Args:
        gates: as they were learned.
        budget: what the model may cost.
        multiple: of what the numbers of units, channels and dimensions shall be.

    Raises:
        InputError: what pruning must leave alone already costs more than the budget.
    """
    layout = budget.layout
    selection = choose(gates, budget, multiple)
    keep = layout.settled(selection.choose().double())
    learned = gates.spread(gates.is_open().float()).cpu()
    before, after = budget.removed(learned).tolist(), budget.removed(keep).tolist()
    for constraint, old, new in zip(budget.constraints, before, after, strict=True):
        large = abs(new - old) > LARGE_CHANGE
        (logging.warning if large else logging.info)(
            f"projection: the open gates cost {1 - old:.2%} of the dense "
            f"{constraint.name}'s {constraint.kind}, the budget is "
            f"{1 - constraint.target:.2%}, {1 - new:.2%} is kept"
            + (" (a large change)" if large else "")
        )
    # Equal costs may hide it: heads are made equally wide, for one. What is under a
    # closed gate does not count, however it was learned.
    if MODEL_DIM in layout:
        kept, had = (x[layout.span(MODEL_DIM)].sum() for x in (keep, learned))
        logging.info(f"projection: model dimension {kept:.0f}, {had:.0f} were learned")
    where = layout.learned
    reached = layout.effective(learned)[where] != layout.effective(keep)[where]
    flipped = float(reached.float().mean())
    (logging.warning if flipped > LARGE_CHANGE else logging.info)(
        f"projection: {flipped:.1%} of the gates end other than they were learned"
    )
    values = gates.spread(gates.open_value(), values=True).cpu() * (keep != 0)
    slack = [
        max(selection.slack[i], selection.cheapest[i]) / c.dense
        for i, c in enumerate(budget.constraints)
    ]
    values = layout.complete(values.detach(), values=True)
    return Projection(values, after, slack, flipped)


@torch.no_grad()
def as_it_is(gates: Gates, budget: Budget) -> Projection:
    """Take gates that were chosen to meet the budget, by steps of other sizes."""
    keep = gates.spread(gates.is_open().double()).cpu()
    values = budget.layout.settled(keep)
    gone = budget.removed(values).tolist()
    return Projection(values, gone, [1.0] * len(gone), 0.0)
