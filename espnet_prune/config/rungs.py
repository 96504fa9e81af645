"""The sizes that a recipe is asked for, method by method, each rung after the last."""

from collections.abc import Sequence
from dataclasses import dataclass

from espnet_prune.base.errors import InputError
from espnet_prune.config.methods import METHODS, REFERENCE, SLIMMABLE

# Weights in the compact directory of an ESPnet model: as exported, and fine-tuned; what
# is kept of the dense model; and what several sizes keep, beside weights for all.
PRUNED, FINETUNED, KEPT = "pruned.pth", "finetuned.pth", "kept.pth"
SIZES = "sizes.pth"
SOUP = "soup.json"  # beside weights that are the average of several fine-tunings
WHOLE = "0"  # the size of which nothing is gone


@dataclass(frozen=True)
class Rung:
    """One size by one method.

    Args:
        method: of ``METHODS``.
        target: fraction to remove; 0: the whole model, of the weights for all sizes.
        kind: what it counts, as ``params+macs``.
        round_to: multiple of units that export keeps.
        previous: the rung whose gates it goes on from, if there is one; of the whole
            model, the last of its sizes.
    """

    method: str
    target: float
    kind: str
    round_to: int = 1
    previous: "Rung | None" = None

    @property
    def pruned(self) -> str:
        """Name the pruning run; the whole model is made of the last one before it."""
        if not self.target:
            return self.previous.pruned
        return self._named(METHODS[self.method].prunes_as or self.method)

    @property
    def compact(self) -> str:
        """Name what is exported: one pruning run may have several exports."""
        rounded = f"_r{self.round_to}" if self.round_to > 1 else ""
        return self._named(self.method) + rounded

    @property
    def before(self) -> "list[Rung]":
        """List the rungs before it, the first one first."""
        return [*self.previous.before, self.previous] if self.previous else []

    def _named(self, method: str) -> str:
        prefix = "" if method == REFERENCE else f"{method}_"
        name = f"{prefix}{self.kind.replace('+', '_')}{100 * self.target:g}"
        if self.target:
            return name
        # Of the whole model, with the sizes that its weights are for.
        return "_".join([name, *(f"{100 * size.target:g}" for size in self.before)])


def refuse_rounding(method: str, round_to: int) -> None:
    """Refuse multiples of units where these were chosen with the ranks of matrices.

    Raises:
        InputError: they were, and it is more than 1.
    """
    if round_to > 1 and METHODS[method].heard:
        what = f"{method} chooses ranks, and units with them"
        raise InputError(f"--round_to {round_to}", what, "leave it out")


def make_rungs(
    methods: Sequence[str], targets: Sequence[float], kind: str, round_to: int = 1
) -> list[Rung]:
    """List the rungs in the order they are climbed.

    L0 is first, for the baselines are compared with it.

    Raises:
        InputError: a method does not round.
    """
    rungs = []
    for method in sorted(methods, key=lambda name: name != REFERENCE):
        refuse_rounding(method, round_to)
        previous = None
        for target in targets:
            rungs.append(Rung(method, target, kind, round_to, previous))
            previous = rungs[-1] if METHODS[method].laddered else None
        if method == SLIMMABLE:
            rungs.append(Rung(method, 0.0, kind, round_to, previous))
    return rungs
