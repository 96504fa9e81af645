"""Write a checkpoint of several sizes, and what each of them is alone."""

from pathlib import Path
from typing import Any

import torch

from espnet_prune.base.files import atomic_path, read_yaml, write_json, write_yaml
from espnet_prune.config.rungs import SIZES
from espnet_prune.export.compact_dir import (
    Compact,
    compact_model_config,
    copy_resources,
    model_state,
    place_weights,
)
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.pruning.slicing import sliced
from espnet_prune.training.recipe import told_of

# Of the smallest size's pruning.json, what holds for the largest, too.
_KEPT = (
    "method", "teacher", "target", "macs_frames", "macs_seconds", "dense_architecture",
)  # fmt: skip


def write_sizes(training: Path, averaged: Path) -> None:
    """Write the model of a training for several sizes beside the training.

    ``config.yaml`` and the weights are those of the largest, which ESPnet loads as
    they are; a file beside them holds what the others keep, and the statistics of
    their batch norms. What the weights of each are alone goes to its compact directory.

    Args:
        training: directory of the training.
        averaged: its weights.
    """
    source = training / "config.yaml"
    model, _ = load_model(source, averaged)
    config, sizes = read_yaml(source), model.sizes
    shared, layout = model_state(model.state_dict()), sizes.layout
    told = {}
    for number, name in enumerate(sizes.names):
        values, statistics = sizes.values[number].double(), sizes.statistics(number)
        own = shared | statistics
        if number == 0:
            whole = own
            continue
        kept = {s.name: values[layout.span(s.name)] for s in layout.structures}
        told[name] = {"kept": kept, "statistics": statistics}
        compact = Path(config["model_conf"]["sizes"][name]).parent
        place_weights(sliced(layout, own, values), compact)
    out = training.parent
    stock = compact_model_config(config, Compact(whole, config["encoder"]))
    write_yaml(out / "config.yaml", copy_resources(stock, out, out))
    place_weights(whole, out)
    with atomic_path(out / SIZES) as temporary:
        torch.save(told, temporary)
    write_json(out / "pruning.json", _summary(told_of(compact)))


def _summary(smallest: dict[str, Any]) -> dict[str, Any]:
    """Summarise the largest size, of which nothing is gone, for ``pruning.json``.

    Args:
        smallest: that of the smallest size.
    """
    dim = smallest["model_dim"][1]
    told = {key: smallest[key] for key in _KEPT}
    return told | {
        "target": smallest["target"] | {"value": 0.0},
        "removed": dict.fromkeys(smallest["removed"], 0.0),
        "realised": 0.0,
        "architecture": smallest["dense_architecture"],
        "model_dim": [dim, dim],
    }
