"""Limit what may be kept: parameters, MACs or latency, of everything or of parts.

For each kind of cost there is one *constraint* on the whole, unless groups
(subsampling, attention, ffn, convolution) are given targets of their own: then each of
them is one, and the others share what is left.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from espnet_prune.base.errors import OptionError
from espnet_prune.config.sections import MODEL_DIM, SparsityOptions
from espnet_prune.pruning.cost import REST, Polynomial, Terms, evaluate
from espnet_prune.pruning.layout import Layout

# Prices in seconds are those of sizes that runtimes have kernels for: onnxruntime takes
# half as long again for 99 channels as for 96.
TIMED_MULTIPLE = 8


@dataclass(frozen=True)
class Constraint:
    """A limit on what some groups cost.

    Args:
        name: the denominator, or the group, that is limited.
        kind: ``params``, ``macs`` (of one utterance) or ``latency`` (seconds for it).
        groups: what is counted.
        fixed: cost of what is in the denominator, too, and cannot go.
        beyond: the part of ``fixed`` that is beyond the described model.
        dense: cost of all of it in the dense model, ``fixed`` included.
        limit: what may be kept of it, ``fixed`` included.
    """

    name: str
    kind: str
    groups: tuple[str, ...]
    fixed: float
    beyond: float
    dense: float
    limit: float

    @property
    def target(self) -> float:
        """Return the fraction of ``dense`` to remove."""
        return 1 - self.limit / self.dense

    @property
    def share(self) -> float:
        """Return the fraction that may stay of what can go."""
        return (self.limit - self.fixed) / (self.dense - self.fixed)

    @property
    def key(self) -> str:
        """Name the constraint as a config does: ``encoder/params``."""
        return f"{self.name}/{self.kind}"

    def to_dict(self) -> dict[str, Any]:
        """Return the constraint as plain data, for YAML."""
        return asdict(self) | {"groups": list(self.groups)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Constraint":
        """Read what :meth:`to_dict` wrote."""
        return cls(**data | {"groups": tuple(data["groups"])})


@dataclass(frozen=True)
class Budget:
    """All constraints on a model of one layout, with what its units cost.

    Args:
        layout: of the model.
        terms: kind -> what the model costs in it.
        constraints: those of one kind do not overlap.
        dim_target: fraction to remove of the model dimension, where it has gates. Not
            a constraint: a projection may choose otherwise to meet those.
    """

    layout: Layout
    terms: Mapping[str, Terms]
    constraints: tuple[Constraint, ...]
    dim_target: float | None = None

    @cached_property
    def _polynomial(self) -> tuple[Polynomial, Tensor, Tensor]:
        """Join the terms of all kinds of cost.

        Beside them stand (term, constraint), what counts where, and (constraint,), what
        is beyond the layout.
        """
        kinds = dict.fromkeys(c.kind for c in self.constraints)
        together = [(kind, term) for kind in kinds for term in self.terms[kind]]
        counted = [
            [float(kind == c.kind and term.group in c.groups) for c in self.constraints]
            for kind, term in together
        ]
        polynomial = Polynomial(
            [term for _, term in together], len(self.layout.structures)
        )
        beyond = [c.beyond for c in self.constraints]
        return polynomial, torch.tensor(counted).double(), torch.tensor(beyond).double()

    def cost(self, own: Tensor) -> Tensor:
        """Compute what is left of each constraint's part, ``beyond`` included.

        Args:
            own: (unit,) openness of the units, derived ones included.

        Returns:
            (constraint,), in double precision, differentiable.
        """
        polynomial, counted, beyond = self._polynomial
        values = polynomial(self.layout.sums(own.double()))
        return values @ counted.to(own.device) + beyond.to(own.device)

    def removed(self, own: Tensor) -> Tensor:
        """Compute the gone fraction of each constraint's dense cost, (constraint,)."""
        dense = own.new_tensor([c.dense for c in self.constraints], dtype=torch.double)
        return 1 - self.cost(own) / dense

    def rounded(self, multiple: int) -> int:
        """Return what sizes are multiples of, where the user asks for ``multiple``."""
        timed = any(c.kind == "latency" for c in self.constraints)
        return math.lcm(multiple, TIMED_MULTIPLE if timed else 1)

    def share(self, group: str) -> float:
        """Return the fraction of a group that its tightest constraint lets stay.

        The fraction is of what can go; of ``model_dim``, of its channels.
        """
        if group == MODEL_DIM:
            return 1 - (self.dim_target or 0.0)
        return min(c.share for c in self.constraints if group in c.groups)

    def at(self, targets: Sequence[float], dim_target: float | None = None) -> "Budget":
        """Return the budget with other targets, one for each constraint."""
        pairs = zip(self.constraints, targets, strict=True)
        limits = (replace(c, limit=c.dense * (1 - t)) for c, t in pairs)
        return replace(self, constraints=tuple(limits), dim_target=dim_target)

    def thinned(self, options: SparsityOptions) -> "Budget":
        """Return the budget with the fraction of the model dimension to remove.

        The fraction is None where the layout has no structure of that name.

        Raises:
            OptionError: what is asked for would leave a group less than it may keep.
        """
        names = [structure.name for structure in self.layout.structures]
        if MODEL_DIM not in names:
            return self
        channels = names.index(MODEL_DIM)
        terms = [term for kind in self.terms.values() for term in kind]
        felt = {term.group for term in terms if channels in term.factors}
        # All of a group in fewer channels than that would not use its budget.
        share = max(c.share for c in self.constraints if felt & {*c.groups})
        if options.model_dim is None:
            return replace(self, dim_target=1 - share**0.5)
        if options.model_dim > 1 - share:
            raise OptionError(
                f"sparsity: model_dim {options.model_dim:g} removes more than the "
                f"targets ask for: at most {1 - share:.3f}"
            )
        return replace(self, dim_target=options.model_dim)

    @property
    def shares(self) -> list[float]:
        """Weigh each constraint in a mean over all by its share of the dense cost."""
        dense = {c.kind: 0.0 for c in self.constraints}
        for constraint in self.constraints:
            dense[constraint.kind] += constraint.dense
        return [c.dense / dense[c.kind] / len(dense) for c in self.constraints]


def make_constraints(
    options: SparsityOptions,
    layout: Layout,
    terms: Mapping[str, Terms],
    beyond: Mapping[str, float] | None = None,
) -> tuple[Constraint, ...]:
    """Make the constraints for the target as a whole and for those of single groups.

    Args:
        options: what to remove.
        layout, terms: of the model, by kind of cost.
        beyond: kind -> cost of what is in the denominator and not in the layout.

    Raises:
        OptionError: an unknown group, or targets that contradict each other.
    """
    check_groups(options.groups, {s.group for s in layout.structures} - {None})
    found: list[Constraint] = []
    for kind in options.kinds:
        found += _plan(
            options, kind, layout, terms[kind], (beyond or {}).get(kind, 0.0)
        )
    return tuple(found)


def check_groups(groups: Iterable[str], parts: Collection[str]) -> None:
    """Raise OptionError for a group that is none of a model's."""
    if unknown := {*groups} - parts:
        raise OptionError(
            f"sparsity: groups {sorted(unknown)} are not among {sorted(parts)}"
        )


def _plan(
    options: SparsityOptions, kind: str, layout: Layout, terms: Terms, beyond: float
) -> list[Constraint]:
    """Make the constraints of one kind of cost."""
    full = layout.sums(layout.whole())

    def cost(groups: set[str], fixed: bool = False) -> float:
        part = [t for t in terms if t.group in groups and not (fixed and t.factors)]
        return float(evaluate(part, full))

    named = [
        Constraint(g, kind, (g,), 0.0, 0.0, cost({g}), (1 - t) * cost({g}))
        for g, t in options.groups.items()
    ]
    others = ({t.group for t in terms} | {REST}) - options.groups.keys()
    whole = cost({t.group for t in terms}) + beyond
    target, denominator = options.target, options.denominator
    if not others - {REST}:
        gone = sum(c.dense - c.limit for c in named) / whole
        if gone < target:
            raise OptionError(
                f"sparsity: the targets of all groups remove {gone:.1%} of the {kind} "
                f"of the {denominator}, less than the target of {target:.1%}"
            )
        return named
    rest = Constraint(
        "others" if named else denominator,
        kind,
        tuple(sorted(others)),
        cost(others, fixed=True) + beyond,
        beyond,
        whole - sum(c.dense for c in named),
        (1 - target) * whole - sum(c.limit for c in named),
    )
    if not 0 <= rest.target < 1:
        raise OptionError(
            f"sparsity: with these targets of groups, {rest.target:.1%} of the {kind} "
            f"of {sorted(others - {REST})} must go to remove {target:.1%} of the "
            f"{denominator}'s"
        )
    return [*named, rest]
