"""The sizes that a recipe is asked for, method by method, each rung after the last."""

from collections.abc import Sequence
from dataclasses import dataclass

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


def make_rungs(
    methods: Sequence[str], targets: Sequence[float], kind: str, round_to: int = 1
) -> list[Rung]:
    """List the rungs in the order they are climbed.

    L0 is first, for the baselines are compared with it.
    """
    rungs = []
    for method in sorted(methods, key=lambda name: name != REFERENCE):
        previous = None
        for target in targets:
            rungs.append(Rung(method, target, kind, round_to, previous))
            previous = rungs[-1] if METHODS[method].laddered else None
    return rungs
