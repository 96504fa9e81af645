"""The fine-tunings that a soup is made of (``--soup``), each of a seed of its own."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_prune.base.files import read_yaml


def ingredients(
    folder: Path, options: Sequence[str], number: int
) -> dict[Path, list[str]]:
    """List fine-tunings: the options of each, by its directory.

    Args:
        folder: of the first one; the others stand beside it.
        options: of a fine-tuning, ``--recipe`` among them.
        number: of fine-tunings; one by itself is no ingredient.
    """
    if number == 1:
        return {folder: [*options]}
    seed, found = seed_of(options), {}
    for n in range(number):
        run = folder.with_name(f"{folder.name}_{n + 1}") if n else folder
        found[run] = [*options, "--seed", str(seed + n), "--ingredient"]
    return found


def seed_of(options: Sequence[str]) -> int:
    """Tell the seed of a training: the last one given, or that of its recipe."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--recipe", type=Path)
    found, _ = parser.parse_known_args(options)
    if found.seed is not None:
        return found.seed
    return read_yaml(found.recipe).get("seed", 0)  # as ESPnet has it
