"""What may be kept: limits on parameters, MACs or latency, of everything or of parts.

For each kind of cost there is one *constraint* on the whole, unless groups
(subsampling, attention, ffn, convolution) are given targets of their own: then each of
them is one, and the others share what is left.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from espnet_prune.families.espnet.layers.cost import (
    Counts,
    group_of,
    per_dim,
    prices_at,
    total,
)
from espnet_prune.families.espnet.layers.structures import gated_counts
from espnet_prune.pruning.gates import Gate

KINDS = ("params", "macs", "latency")
# Group of what goes with the model dimension only; it can have no target of its own.
NORMS = "norm"
MODEL_DIM = "model_dim"
DENOMINATORS = ("encoder", "model")


@dataclass(frozen=True, eq=False)
class Constraint:
    """A limit on what some groups cost.

    Args:
        name: of the denominator, or of the group.
        kind: what the prices are in: ``params``, ``macs`` (of one utterance) or
            ``latency`` (seconds for it).
        prices: of each thing that is counted.
        groups: what is counted.
        fixed: cost of what is in the denominator, too, and cannot go.
        dense: cost of all of it in the dense model, ``fixed`` included.
        limit: what may be kept of it, ``fixed`` included.
    """

    name: str
    kind: str
    prices: dict[str, float]
    groups: frozenset[str]
    fixed: float
    dense: float
    limit: float

    @property
    def target(self) -> float:
        """Fraction of ``dense`` to remove."""
        return 1 - self.limit / self.dense

    @property
    def share(self) -> float:
        """Fraction that may stay of what can go."""
        return (self.limit - self.fixed) / (self.dense - self.fixed)

    @property
    def key(self) -> str:
        """What it is called in a config: ``encoder/params``."""
        return f"{self.name}/{self.kind}"

    def cost(self, counts: Counts) -> float | Tensor:
        """Of its part of the counts, without ``fixed``."""
        own = {n: c for n, c in counts.items() if group_of(n) in self.groups}
        return total(own, self.prices)

    def removed(self, counts: Counts) -> float | Tensor:
        """Fraction of ``dense`` that is gone when this is what is left."""
        return 1 - (self.fixed + self.cost(counts)) / self.dense

    def of_dim(self, dim: int, norms: Counts) -> "Constraint":
        """The limit on what is left to choose once the model dimension is chosen.

        Args:
            dim: channels that are kept.
            norms: what they cost wherever nothing else is.
        """
        table = prices_at(self.prices, dim)
        fixed = self.fixed
        if NORMS in self.groups:
            fixed += total(norms, table)
        others = self.prices.keys() - {*table, *map(per_dim, table)}
        table |= {name: self.prices[name] for name in others}  # of the decoder
        return replace(self, prices=table, fixed=fixed, groups=self.groups - {NORMS})


@dataclass(frozen=True)
class Budget:
    """All constraints, and what they leave of the model dimension.

    Args:
        constraints: those of one kind do not overlap.
        dim_target: fraction to remove of the model dimension, where it has gates. Not
            a constraint: a projection may choose otherwise to meet those.
    """

    constraints: tuple[Constraint, ...]
    dim_target: float | None = None

    def removed(
        self, model: nn.Module, openness: Callable[[Gate], Tensor] = Gate.openness
    ) -> Tensor:
        """Fraction of each constraint's dense cost that the gates remove.

        Args:
            model: with gates.
            openness: what a gate contributes: its probability of being open
                (differentiable), or :func:`is_kept`.

        Returns:
            (constraint,).
        """
        counts = gated_counts(model, openness)
        return torch.stack([c.removed(counts) for c in self.constraints])

    def of_dim(self, dim: int, norms: Counts) -> "Budget":
        """What is left to choose of it (:meth:`Constraint.of_dim`)."""
        return Budget(tuple(c.of_dim(dim, norms) for c in self.constraints))

    def share(self, group: str) -> float:
        """Fraction of what can go of a group that its tightest constraint lets stay;
        of ``model_dim``, of its channels."""
        if group == MODEL_DIM:
            return 1 - (self.dim_target or 0.0)
        return min(c.share for c in self.constraints if group in c.groups)

    def at(self, targets: list[float], dim_target: float | None = None) -> "Budget":
        """The budget with other targets, one for each constraint."""
        pairs = zip(self.constraints, targets, strict=True)
        limits = (replace(c, limit=c.dense * (1 - t)) for c, t in pairs)
        return Budget(tuple(limits), dim_target)

    @property
    def shares(self) -> list[float]:
        """Weight of each constraint in a mean over all: its share of the dense cost."""
        dense = {c.kind: 0.0 for c in self.constraints}
        for constraint in self.constraints:
            dense[constraint.kind] += constraint.dense
        return [c.dense / dense[c.kind] / len(dense) for c in self.constraints]


def plan(
    kind: str,
    prices: dict[str, float],
    dense: Counts,
    fixed: float,
    target: float,
    denominator: str = "encoder",
    groups: dict[str, float] | None = None,
) -> list[Constraint]:
    """The constraints that meet ``target`` as a whole and ``groups`` one by one.

    Args:
        kind, prices: of :class:`Constraint`.
        dense: what there is in the dense model.
        fixed: cost in the denominator of what cannot go.
        target: fraction of the denominator to remove, at least.
        denominator: its name.
        groups: group -> fraction of it to remove.

    Raises:
        ValueError: an unknown group, or targets that contradict each other.
    """
    cost = dict.fromkeys(map(group_of, dense), 0.0)
    for name, number in dense.items():
        cost[group_of(name)] += float(prices[name] * number)
    groups = dict(groups or {})
    check_groups(groups, dense)
    named = [
        Constraint(g, kind, prices, frozenset([g]), 0.0, cost[g], (1 - t) * cost[g])
        for g, t in groups.items()
    ]
    others = frozenset(cost.keys() - groups.keys())
    whole = sum(cost.values()) + fixed
    if not others - {NORMS}:
        gone = sum(c.dense - c.limit for c in named) / whole
        if gone < target:
            raise ValueError(
                f"sparsity: the targets of all groups remove {gone:.1%} of the {kind} "
                f"of the {denominator}, less than the target of {target:.1%}"
            )
        return named
    rest = Constraint(
        "others" if named else denominator,
        kind,
        prices,
        others,
        fixed,
        whole - sum(c.dense for c in named),
        (1 - target) * whole - sum(c.limit for c in named),
    )
    if not 0 <= rest.target < 1:
        raise ValueError(
            f"sparsity: with these targets of groups, {rest.target:.1%} of the {kind} "
            f"of {sorted(others)} must go to remove {target:.1%} of the {denominator}'s"
        )
    return [*named, rest]


def check_groups(groups: Iterable[str], names: Iterable[str]) -> None:
    """Raises ValueError for a group that none of the things with these names is in."""
    parts = {*map(group_of, names)} - {NORMS}
    if unknown := {*groups} - parts:
        needs = " (decoder: with prune_decoder: true)" if "decoder" in unknown else ""
        raise ValueError(
            f"sparsity: groups {sorted(unknown)} are not among {sorted(parts)}{needs}"
        )


def is_kept(gate: Gate) -> Tensor:
    """Whether each gate counts as open now: 0 or 1."""
    return gate.is_open().float()


def dense_counts(model: nn.Module) -> Counts:
    """What there is in the model when no gate is closed."""
    counts = gated_counts(model, lambda gate: torch.ones(len(gate)))
    return {name: float(number) for name, number in counts.items()}
