"""The sizes that a recipe is asked for, method by method, each rung after the last."""

from collections.abc import Sequence
from dataclasses import dataclass

from espnet_prune.base.errors import InputError
from espnet_prune.config.methods import METHODS, REFERENCE

# Weights in the compact directory of an ESPnet model: as exported, and fine-tuned.
PRUNED, FINETUNED = "pruned.pth", "finetuned.pth"


@dataclass(frozen=True)
class Rung:
    """One size by one method.

    Args:
        method: of ``METHODS``.
        target: fraction to remove.
        kind: what it counts, as ``params+macs``.
        round_to: multiple of units that export keeps.
        previous: the rung whose gates it goes on from, if there is one.
    """

    method: str
    target: float
    kind: str
    round_to: int = 1
    previous: "Rung | None" = None

    @property
    def pruned(self) -> str:
        """Name the pruning run."""
        method = "" if self.method == REFERENCE else f"{self.method}_"
        return f"{method}{self.kind.replace('+', '_')}{100 * self.target:g}"

    @property
    def compact(self) -> str:
        """Name what is exported: one pruning run may have several exports."""
        return self.pruned + (f"_r{self.round_to}" if self.round_to > 1 else "")


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
    return rungs
