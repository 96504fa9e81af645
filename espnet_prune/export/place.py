"""A compact directory takes its place whole, and never that of the same model."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espnet_prune.base.files import atomic_dir, retire, write_json


def place(
    out: Path,
    weights: str,
    state: Mapping[str, Tensor],
    read: Callable[[Path], Mapping[str, Tensor]],
    write: Callable[[Path], dict[str, Any]],
    made_of_it: Sequence[Path] = (),
) -> dict[str, Any]:
    """The function writes a compact directory, unless it holds this very model.

    Another model's is moved aside as a whole: what was fine-tuned and decoded from that
    one does not belong to this.

    Args:
        out: the directory.
        weights: file of its weights.
        state: the weights.
        read: gives those of a directory.
        write: fills a new directory, holds it against the gated model, and returns what
            ``pruning.json`` shall hold.
        made_of_it: directories beside it that are moved aside with it.

    Returns:
        what ``pruning.json`` holds.
    """
    told = out / "pruning.json"
    if told.is_file() and (out / weights).is_file() and same(read(out), state):
        logging.info(f"{out} holds this very model: kept")
        return json.loads(told.read_text(encoding="utf-8"))
    with atomic_dir(out) as folder:
        summary = write(folder)
        write_json(folder / "pruning.json", summary)
        if out.exists():
            logging.warning(f"{out} held another model: moved to {retire(out)}")
            for path in made_of_it:
                if path.exists():
                    retire(path)
    return summary


def same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    """Tell whether both have the same tensors under the same names."""
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in two)
