"""The directory of a compact model: written whole, and verified, or not at all."""

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from espnet2.train.abs_espnet_model import AbsESPnetModel
from torch import Tensor, nn
from torch.func import functional_call

from espnet_prune.base.files import atomic_path, write_yaml
from espnet_prune.config.rungs import FINETUNED, KEPT, PRUNED, SOUP
from espnet_prune.export.agreement import check_agreement
from espnet_prune.export.place import place
from espnet_prune.families.espnet.checkpoint import (
    encoder_features,
    load_model,
    read_state,
    rename_resource,
    resources,
)
from espnet_prune.families.espnet.conditioning import lent
from espnet_prune.families.espnet.frontend import PREFIX, self_contained
from espnet_prune.families.espnet.layers import content
from espnet_prune.families.espnet.tasks import task_of
from espnet_prune.training.configs import model_defaults
from espnet_prune.training.plan import CONFIG, PROJECTION
from espnet_prune.training.student import OWN_OPTIONS

Summarise = Callable[[AbsESPnetModel], dict[str, Any]]


@dataclass(frozen=True)
class Compact:
    """The tensors and sizes that are left of a student.

    Args:
        tensors: of the model, by name; a student's own among them are left out.
        encoder: ESPnet's name of what holds the encoder's.
        architecture: sizes of the encoder; None where nothing was cut.
        decoder, frontend: sizes of these; None where nothing was cut of one.
        kept: structure -> (unit,) final values; None where nothing was cut.
    """

    tensors: dict[str, Tensor]
    encoder: str
    architecture: dict[str, Any] | None = None
    decoder: list[dict[str, int]] | None = None
    frontend: dict[str, Any] | None = None
    kept: dict[str, Tensor] | None = None


def write_compact(
    out: Path,
    model: AbsESPnetModel,
    config: dict[str, Any],
    compact: Compact,
    summarise: Summarise,
) -> dict[str, Any]:
    """Write the directory of a compact model, verified; return the summary.

    Args:
        out: the directory.
        model: a student, with its final masks if it has gates.
        config: of the student.
        compact: what is left of it.
        summarise: what ``pruning.json`` shall hold of the compact model.
    """
    state = model_state(compact.tensors)
    compact_config = compact_model_config(config, compact)
    told = self_contained(config.get("frontend_conf") or {}, model, compact.frontend)
    compact_config["frontend_conf"] = told

    def write(folder: Path) -> dict[str, Any]:
        config_file, weights = folder / "config.yaml", folder / PRUNED
        torch.save(state, weights)
        if compact.kept is not None:
            torch.save(compact.kept, folder / KEPT)
        if model.projection is not None:  # the fine-tuning goes on with it
            learned = model.projection.state_dict()
            torch.save(
                {f"projection.{k}": v for k, v in learned.items()}, folder / PROJECTION
            )
        # The strict reload sees the files that will stay, where they are now.
        write_yaml(config_file, copy_resources(compact_config, folder, folder))
        reloaded, _ = load_model(config_file, weights)
        summary = summarise(reloaded)
        summary["max_relative_error"] = verify(model, reloaded)
        write_yaml(config_file, copy_resources(compact_config, folder, out))
        return summary

    return place(out, PRUNED, state, lambda folder: read_state(folder / PRUNED), write)


def place_weights(state: dict[str, Tensor], folder: Path) -> None:
    """Give trained weights their place beside a config, once they load strictly.

    Args:
        state: of the model.
        folder: that holds its ``config.yaml``.
    """
    (folder / SOUP).unlink(missing_ok=True)  # it tells of those before
    with atomic_path(folder / FINETUNED) as temporary:
        # To a file object, as atomic_torch_save() does, but checked before it is there.
        with temporary.open("wb") as file:
            torch.save(state, file)
        load_model(folder / CONFIG, temporary)


def copy_resources(config: dict[str, Any], folder: Path, final: Path) -> dict[str, Any]:
    """Copy the files that a config names, and name the copies in ``final``."""
    config = copy.deepcopy(config)
    for option, path in resources(config).items():
        shutil.copy(path, folder / Path(path).name)
        rename_resource(config, option, str(final / Path(path).name))
    return config


def compact_model_config(config: dict[str, Any], compact: Compact) -> dict[str, Any]:
    """Make the compact model's self-contained config, ESPnet's but for what is pruned.

    Args:
        config: of the student.
        compact: what is left of it.
    """
    defaults = model_defaults(task_of(config))
    found = {k: config.get(k, v) for k, v in defaults.items()}
    if compact.architecture is not None:
        sizes = {"architecture": compact.architecture}
        found["encoder"] = compact.encoder
        found["encoder_conf"] = found["encoder_conf"] | sizes
    if compact.decoder is not None:
        found["decoder"] = "prunable_transformer"
        sizes = {"architecture": compact.decoder}
        found["decoder_conf"] = (found["decoder_conf"] or {}) | sizes
    found["model"] = "espnet"
    found["model_conf"] = {
        k: v for k, v in config["model_conf"].items() if k not in OWN_OPTIONS
    }
    return found


def model_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Select what of a student's state dict is the model's own."""
    extra = ("gates.", "sparsity.", "projection.", "sizes.")
    return {key: v for key, v in state.items() if not key.startswith(extra)}


@torch.no_grad()
def verify(student: AbsESPnetModel, compact: AbsESPnetModel) -> float:
    """Compare student and compact model on a padded batch of several lengths, by
    :func:`check_agreement`."""
    generator = torch.Generator().manual_seed(0)
    features = encoder_features(compact)
    x = torch.randn(4, 400, features, generator=generator, dtype=torch.double)
    lengths = torch.tensor([400, 301, 57, 8])
    pairs = [_outputs(student, compact, "encoder", x, lengths)]
    cut = student.gates.layout.structures if student.gates else ()
    if any(s.name.startswith(PREFIX) for s in cut):
        audio = torch.randn(4, 16000, generator=generator, dtype=torch.double)
        long = torch.tensor([16000, 9001, 4000, 1600])
        pairs.append(_outputs(student, compact, "frontend", audio, long))
    if any(s.name.startswith("decoder.") for s in cut):
        frames, tokens = torch.tensor([90, 40, 8, 3]), torch.tensor([9, 5, 2, 1])
        size, words = compact.encoder.output_size(), len(student.token_list)
        memory = torch.randn(4, 90, size, generator=generator, dtype=torch.double)
        ids = torch.randint(words, (4, 9), generator=generator)
        inputs = memory, frames, ids, tokens
        pairs.append(_outputs(student, compact, "decoder", *inputs))
    return check_agreement(pairs)


def _outputs(
    student: AbsESPnetModel, compact: AbsESPnetModel, part: str, *inputs: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute what a part of both models makes of the same input."""

    def in_double(model: AbsESPnetModel) -> tuple[nn.Module, dict[str, nn.Module]]:
        beside = lent(model) if part == "encoder" else {}
        given = {name: copy.deepcopy(m).double() for name, m in beside.items()}
        return copy.deepcopy(getattr(model, part)).double().eval(), given

    own, beside = in_double(student)
    replaced: dict[str, Tensor] = {}
    if student.gates is not None:
        tensors = {k: v.double() for k, v in student.tensors().items()}
        gated = student.gates.layout.gated(tensors, student.gates().double())
        inside = (k for k in gated if k.startswith(f"{part}."))
        replaced = {k.removeprefix(f"{part}."): gated[k] for k in inside}
    expected = functional_call(own, replaced, inputs, beside)[0]
    small, beside = in_double(compact)
    return content(expected), content(small(*inputs, **beside)[0])
