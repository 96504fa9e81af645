"""Read training statistics by epoch from ESPnet's checkpoints."""

from numbers import Real
from pathlib import Path

Curves = dict[str, dict[str, list[tuple[int, float]]]]  # train/valid -> key -> points


def read_curves(checkpoint: Path) -> Curves:
    """Read ESPnet's reporter statistics: ``train``/``valid`` -> key -> (epoch, value).

    Only finite numbers are kept: no times, which versions of ESPnet write in ways of
    their own, and no NaN, which stands for an epoch without any.

    Raises:
        InputError: the file is damaged.
    """
    from espnet_prune.families.espnet.checkpoint import read_checkpoint  # imports torch

    # mmap: weights and optimizer states are in the file too, and are not wanted.
    state = read_checkpoint(checkpoint, mmap=True)
    curves: Curves = {"train": {}, "valid": {}}
    for epoch, phases in sorted(state["reporter"]["stats"].items()):
        for phase in curves:
            for key, value in phases.get(phase, {}).items():
                if isinstance(value, Real) and abs(value) < 1e30:
                    curves[phase].setdefault(key, []).append((epoch, float(value)))
    return curves
