"""The directory of a compact model: written whole, and verified, or not at all."""

import copy
import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_prune.base.files import atomic_dir, retire, write_json
from espnet_prune.families.espnet.architecture import Architecture
from espnet_prune.families.espnet.checkpoint import (
    load_model,
    read_state,
    rename_resource,
    resources,
)
from espnet_prune.families.espnet.decoder import DecoderSizes
from espnet_prune.families.espnet.encoder import PrunableEncoder
from espnet_prune.pruning.gates import gates_of
from espnet_prune.training.configs import model_defaults
from espnet_prune.training.student import OWN_OPTIONS

MAX_RELATIVE_ERROR = 1e-4  # between gated and compact outputs, fp32
PROJECTION = "projection.pth"  # what pruning compared the blocks through, if it did


def write_compact(
    out: Path,
    model: ESPnetASRModel,
    config: dict[str, Any],
    summary: dict[str, Any],
    architecture: Architecture | None,
) -> dict[str, Any]:
    """Write the directory of a compact model, verified; returns the summary.

    Args:
        model: a student, with its final masks if it has gates.
        config: of the student.
        summary: for ``pruning.json``.
        architecture: what the masks leave; None if there are no gates.
    """
    if architecture is None:
        state = model_state(model.state_dict())
    else:
        state = compact_state(model)
    compact_config = compact_model_config(config, architecture, summary.get("decoder"))
    if holds(out, state):
        logging.info(f"{out} holds this very model: kept")
        return json.loads((out / "pruning.json").read_text(encoding="utf-8"))
    with atomic_dir(out) as folder:
        torch.save(state, folder / "pruned.pth")
        if model.projection is not None:  # the fine-tuning goes on with it
            torch.save(
                {
                    f"projection.{k}": v
                    for k, v in model.projection.state_dict().items()
                },
                folder / PROJECTION,
            )
        # The strict reload sees the files that will stay, where they are now.
        write_config(folder, copy_resources(compact_config, folder, folder))
        reloaded, _ = load_model(folder / "config.yaml", folder / "pruned.pth")
        summary["max_relative_error"] = verify(model, reloaded)
        write_json(folder / "pruning.json", summary)
        write_config(folder, copy_resources(compact_config, folder, out))
        if out.exists():
            logging.warning(f"{out} held another model: moved to {retire(out)}")
    return summary


def holds(out: Path, state: dict[str, torch.Tensor]) -> bool:
    """Whether ``out`` is a finished export of these very weights."""
    if not all((out / n).exists() for n in ("pruned.pth", "pruning.json")):
        return False
    old = read_state(out / "pruned.pth")
    return old.keys() == state.keys() and all(
        torch.equal(old[key], state[key]) for key in state
    )


def write_config(folder: Path, config: dict[str, Any]) -> None:
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    (folder / "config.yaml").write_text(text, encoding="utf-8")


def copy_resources(config: dict[str, Any], folder: Path, final: Path) -> dict[str, Any]:
    """Copy the files that a config names, and name the copies in ``final``."""
    config = copy.deepcopy(config)
    for option, path in resources(config).items():
        shutil.copy(path, folder / Path(path).name)
        rename_resource(config, option, str(final / Path(path).name))
    return config


def compact_model_config(
    config: dict[str, Any],
    architecture: Architecture | None,
    decoder: list[dict[str, int]] | None = None,
) -> dict[str, Any]:
    """The self-contained config of the compact model: ESPnet's but for what is pruned.

    Args:
        config: of the student.
        architecture, decoder: what is left of the encoder, and of the decoder if it was
            pruned, too.
    """
    compact = {k: config.get(k, v) for k, v in model_defaults().items()}
    encoder_conf = {k: v for k, v in config["encoder_conf"].items() if k != "gates"}
    if architecture is not None:
        encoder_conf["architecture"] = architecture.to_dict()
    compact["encoder_conf"] = encoder_conf
    if decoder is not None:
        rest = {k: v for k, v in config["decoder_conf"].items() if k != "gates"}
        compact["decoder_conf"] = rest | {"architecture": decoder}
    compact["model"] = "espnet"
    compact["model_conf"] = {
        k: v for k, v in config["model_conf"].items() if k not in OWN_OPTIONS
    }
    return compact


def model_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What of a student's state dict is the model's own."""
    extra = ("sparsity.", "projection.")
    return {key: v for key, v in state.items() if not key.startswith(extra)}


def compact_state(model: ESPnetASRModel) -> dict[str, torch.Tensor]:
    """State dict of the whole compact model; masks must be set."""
    state = model_state(model.state_dict())
    parts = ["encoder"] if kept_decoder(model) is None else ["encoder", "decoder"]
    for part in parts:
        state = {k: v for k, v in state.items() if not k.startswith(f"{part}.")}
        for key, value in getattr(model, part).sliced_state().items():
            state[f"{part}.{key}"] = value
    return state


def kept_decoder(model: ESPnetASRModel) -> list[DecoderSizes] | None:
    """Sizes that the masks leave of a decoder with gates; None if it has none."""
    has_gates = model.decoder is not None and gates_of(model.decoder)
    return model.decoder.kept() if has_gates else None


@torch.no_grad()
def verify(gated: ESPnetASRModel, compact: ESPnetASRModel) -> float:
    """Compare gated and compact model on a padded batch of several lengths.

    In double precision: few units that hardly differ, under a norm, make much of the
    rounding of fp32, and that is no fault of the slicing.

    Returns:
        the largest difference relative to the largest output.

    Raises:
        RuntimeError: it is above 1e-4, or not finite.
    """
    encoder: PrunableEncoder = gated.encoder
    generator = torch.Generator().manual_seed(0)
    features = encoder.fixed.features
    x = torch.randn(4, 400, features, generator=generator, dtype=torch.double)
    lengths = torch.tensor([400, 301, 57, 8])
    expected, actual = (
        copy.deepcopy(part).double().eval()(x, lengths)[0]
        for part in (encoder, compact.encoder)
    )
    error = float((expected - actual).abs().max() / expected.abs().max())
    if kept_decoder(gated) is not None:
        frames, tokens = torch.tensor([90, 40, 8, 3]), torch.tensor([9, 5, 2, 1])
        size, words = encoder.output_size(), len(gated.token_list)
        memory = torch.randn(4, 90, size, generator=generator, dtype=torch.double)
        ids = torch.randint(words, (4, 9), generator=generator)
        expected, actual = (
            copy.deepcopy(model.decoder).double().eval()(memory, frames, ids, tokens)[0]
            for model in (gated, compact)
        )
        off = float((expected - actual).abs().max() / expected.abs().max())
        error = max(error, off) if math.isfinite(off) else off
    if not (math.isfinite(error) and error <= MAX_RELATIVE_ERROR):
        raise RuntimeError(
            f"the compact model differs from the gated one by {error:.2e} (relative)"
        )
    logging.info(f"gated and compact outputs agree within {error:.1e} (relative)")
    return error
