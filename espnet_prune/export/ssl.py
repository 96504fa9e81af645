"""Export a pruned self-supervised encoder as a Hugging Face directory."""

import copy
import inspect
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import atomic_dir, read_yaml, write_json
from espnet_prune.config.methods import METHODS
from espnet_prune.export.agreement import check_agreement
from espnet_prune.export.export import check_budget
from espnet_prune.export.place import place
from espnet_prune.families.espnet.checkpoint import read_state
from espnet_prune.families.ssl import pruned_speech
from espnet_prune.families.ssl.audio import RATE
from espnet_prune.families.ssl.directory import name_of
from espnet_prune.families.ssl.model import architecture_of, build, read
from espnet_prune.measuring.ssl import count, count_macs
from espnet_prune.pruning.projection import project
from espnet_prune.pruning.slicing import sliced
from espnet_prune.training.resume import check_finished
from espnet_prune.training.ssl_student import MODEL, PruneSpeechModel

WEIGHTS = "model.safetensors"
# Files of a dense model that its compact one needs, too.
BESIDE = (
    "preprocessor_config.json", "processor_config.json", "vocab.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json",
)  # fmt: skip


def export_ssl(pruned: Path, out: Path, round_to: int = 1) -> dict[str, Any]:
    """Write the compact model of a pruning run.

    Args:
        pruned: directory of the run.
        out: the directory to write; an older one is moved aside.
        round_to: of what the numbers of units, channels and dimensions shall be
            multiples.

    Returns:
        what ``pruning.json`` holds.

    Raises:
        InputError: the run is not finished.
        RuntimeError: the compact model does not compute what the gated one does, or
            does not cost what the budget says.
    """
    config = pruned / "config.yaml"
    if not config.is_file():
        raise InputError(pruned, "holds no pruning run", "run stage 2 first")
    conf = read_yaml(config)["model_conf"]
    check_finished(config)
    student = PruneSpeechModel(**conf).eval()
    student.load_state_dict(read_state(pruned / "latest.pth"), strict=True)
    budget = student.sparsity.budget
    projection = project(student.gates, budget, round_to)
    student.gates.mask = projection.values
    kept = architecture_of(budget.layout, projection.values)
    from_scratch = not METHODS[conf["method"]].gated
    if from_scratch:
        torch.manual_seed(read_yaml(config)["seed"])
        state = build(student.teacher, kept).state_dict()
    else:
        gated = student.state_dict()
        state = model_state(sliced(budget.layout, gated, projection.values))

    def write(folder: Path) -> dict[str, Any]:
        compact = build(student.teacher, kept)
        compact.load_state_dict(state, strict=True)
        save(compact, folder, Path(conf["dense"]))
        reloaded = read(folder)
        seconds = conf["budget"]["samples"] / RATE
        counted = {"params": count(reloaded), "macs": count_macs(reloaded, seconds)}
        check_budget(budget, projection, counted)
        removed = zip(budget.constraints, projection.removed, strict=True)
        summary = {
            "kind": student.teacher.config.model_type,
            "method": conf["method"],
            "dense": name_of(conf["dense"]),
            "target": {
                "kind": student.sparsity.options.kind,
                "value": student.sparsity.options.target,
            },
            "removed": {constraint.kind: gone for constraint, gone in removed},
            "params": counted["params"],
            "dense_params": count(student.teacher),
            "architecture": kept,
        }
        if not from_scratch:
            summary["max_relative_error"] = verify(student, reloaded)
        return summary

    beside = [out.with_name(f"{out.name}_{made}") for made in ("distil", "distilled")]
    return place(
        out, WEIGHTS, state, lambda folder: read(folder).state_dict(), write, beside
    )


def model_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The function returns those tensors of a student that are the encoder's."""
    return {
        name.removeprefix(MODEL): tensor
        for name, tensor in state.items()
        if name.startswith(MODEL)
    }


def save(model: PreTrainedModel, folder: Path, dense: Path) -> None:
    """Write a compact model as transformers loads it, with or without this package.

    Hidden states are as wide as before, so that the head of a fine-tuned model fits:
    it goes along.

    Args:
        model: the compact model.
        folder: where it is written.
        dense: directory of the dense model, whose preprocessor goes along.
    """
    source = Path(inspect.getfile(pruned_speech))
    classes = pruned_speech.CLASSES[type(model.config)]
    names = {
        auto.__name__: f"{source.stem}.{cls.__name__}" for auto, cls in classes.items()
    }
    config = f"{source.stem}.{type(model.config).__name__}"
    trained = AutoConfig.from_pretrained(dense)
    for option in ("layerdrop", "apply_spec_augment"):  # off while it was pruned
        setattr(model.config, option, getattr(trained, option))
    model.config.auto_map = {"AutoConfig": config} | names
    with_head(model, trained, dense).save_pretrained(folder)
    os.umask(mask := os.umask(0))
    for file in folder.glob("*.safetensors"):  # else its owner alone may read it
        file.chmod(0o666 & ~mask)
    for file in (source, *(dense / name for name in BESIDE)):
        if file.is_file():
            shutil.copy(file, folder)


def with_head(
    model: PreTrainedModel, trained: PreTrainedConfig, dense: Path
) -> PreTrainedModel:
    """Put a compact model under the head of the dense one, if that has one.

    Args:
        model: the compact model.
        trained: config of the dense model.
        dense: its directory.
    """
    name = (trained.architectures or [""])[0]
    for auto, cls in pruned_speech.CLASSES[type(model.config)].items():
        if name and cls.__name__ == f"Pruned{name}" and auto is not AutoModel:
            prefix = f"{model.base_model_prefix}."
            whole = auto.from_pretrained(dense).state_dict()
            head = {k: v for k, v in whole.items() if not k.startswith(prefix)}
            full = cls(model.config)
            own = {f"{prefix}{k}": v for k, v in model.state_dict().items()}
            full.load_state_dict(own | head, strict=True)
            return full
    if name and not name.endswith(("Model", "ForPreTraining")):
        logging.warning(f"{dense}: the head of {name} is left out")
    return model


@torch.no_grad()
def verify(student: PruneSpeechModel, compact: PreTrainedModel) -> float:
    """Compare the states of gated and compact model on noise, by
    :func:`check_agreement`."""
    draw = torch.Generator().manual_seed(0)
    audio = torch.randn(2, 8000, generator=draw, dtype=torch.double)
    own = copy.deepcopy(student.model).double().eval()
    tensors = {k: v.double() for k, v in student.tensors().items()}
    gated = student.gates.layout.gated(tensors, student.gates().double())
    gated = model_state(gated)
    options = {"output_hidden_states": True}
    expected = functional_call(own, gated, (audio,), options)
    actual = copy.deepcopy(compact).double().eval()(audio, **options)
    pairs = [*zip(expected.hidden_states, actual.hidden_states, strict=True)]
    pairs.append((expected.last_hidden_state, actual.last_hidden_state))
    return check_agreement(pairs)


def finish(averaged: Path, compact: Path, dense: Path) -> tuple[Path, dict[str, Any]]:
    """Give the distilled weights a directory beside the export.

    Args:
        averaged: weights that the training left.
        compact: directory of the export.
        dense: directory of the dense model.

    Returns:
        the directory, and its ``pruning.json``.
    """
    model = read(compact)
    model.load_state_dict(model_state(read_state(averaged)), strict=True)
    told = json.loads((compact / "pruning.json").read_text(encoding="utf-8"))
    told["distilled"] = True
    out = compact.with_name(f"{compact.name}_distilled")
    with atomic_dir(out) as folder:
        save(model, folder, dense)
        read(folder)
        write_json(folder / "pruning.json", told)
    return out, told
