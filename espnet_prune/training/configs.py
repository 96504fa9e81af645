"""Derive the training configs of the student from the teacher's own config."""

import argparse
import logging
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet_prune.base.errors import InputError
from espnet_prune.config.methods import METHODS
from espnet_prune.config.sections import BESIDE
from espnet_prune.families.espnet.prunable import check_gates, check_student
from espnet_prune.families.espnet.rules import DECODER
from espnet_prune.families.espnet.small import small_training
from espnet_prune.families.espnet.tasks import Task, task_of
from espnet_prune.training.choices import pruned_beside
from espnet_prune.training.recipe import OWN_KEYS


def model_defaults(task: Task) -> dict[str, Any]:
    """List ESPnet's options that make a model (and its text processing), with defaults.

    Everything else in a ``config.yaml`` is about how the model was trained.
    """
    parser = argparse.ArgumentParser()
    parser.set_defaults(required=[])
    task.training.add_task_arguments(parser)
    defaults = vars(parser.parse_args([]))
    del defaults["required"]
    return defaults


def model_config(
    teacher: dict[str, Any], source: str | Path, beside: Collection[str] = ()
) -> dict[str, Any]:
    """Take the part of an ESPnet config that defines the model, ready to be trained on.

    Args:
        teacher: the config.
        source: where it was read, for messages.
        beside: those of :data:`BESIDE` that are pruned, or were.

    Raises:
        InputError: the model is of a kind that cannot be pruned, by name.
    """
    defaults = model_defaults(task_of(teacher))
    config = {k: teacher.get(k, v) for k, v in defaults.items()}
    kind = check_student(config, source)
    if not isinstance(config.get("token_list"), list):
        raise InputError(
            source,
            "has no token list in it",
            "give the config.yaml of a trained experiment, not a training config",
        )
    config["encoder_conf"] = kind.rules.student(config.get("encoder_conf") or {})
    config["model_conf"] = dict(config.get("model_conf") or {})
    for name in ("noise_scp", "rir_scp"):  # of its own training, and often elsewhere
        if config.get(name) and not Path(config[name]).exists():
            logging.info(f"{source}: {name} {config[name]} is not here: left out")
            config[name] = None
    config["init"] = None  # the weights are the teacher's; gates have their own start
    # The teacher's encoder sees what they make.
    if parts := before_encoder(config, beside):
        config["freeze_param"] = parts
    return config


def before_encoder(config: dict[str, Any], beside: Collection[str] = ()) -> list[str]:
    """List the parts before the encoder of a model that have weights, and keep them.

    Args:
        config: of the model.
        beside: those of :data:`BESIDE` that are pruned, and learn. Of a single layer
            the frontend's weights of layers are used by nothing.
    """
    weighs = (config.get("frontend_conf") or {}).get("multilayer_feature", False)
    parts = {"frontend": "frontend", "preencoder": "preencoder"}
    if "frontend" in beside:
        parts["frontend"] = None if weighs else "frontend.featurizer"
    there = (parts[part] for part in parts if config.get(part) not in (None, "default"))
    return [*filter(None, there)]


def frames_of(model: AbsESPnetModel, samples: int) -> int:
    """Count the feature frames that the model's frontend makes of that much audio."""
    with torch.no_grad():
        speech = torch.zeros(1, samples)
        _, lengths = model.frontend(speech, torch.tensor([samples]))
    return int(lengths[0])


def pruning_config(
    teacher: dict[str, Any],
    source: str | Path,
    recipe: dict[str, Any],
    budget: dict[str, Any],
) -> dict[str, Any]:
    """Configure stage 12: the teacher's model with gates, trained by the recipe.

    Args:
        teacher: the teacher's ``config.yaml``.
        source: where it was read, for messages.
        recipe: ``conf/prune*.yaml``.
        budget: what its target means for this model.
    """
    beside = pruned_beside(recipe)
    config = model_config(teacher, source, beside)
    check_gates(config, source, beside)
    if "decoder" in beside:
        config["decoder_conf"] = DECODER.student(config.get("decoder_conf") or {})
    config["model"] = "prune"
    config["model_conf"] |= {
        "encoder_kind": config["encoder"],
        "gates": recipe.get("gates") or {},
        "sparsity": recipe.get("sparsity") or {},
        "budget": budget,
        **{f"prune_{part}": part in beside for part in BESIDE},
        "distill": recipe.get("distill") or {},
    }
    return config | training_part(recipe)


def small_config(
    teacher: dict[str, Any],
    source: str | Path,
    recipe: dict[str, Any],
    encoder_conf: dict[str, Any],
    plan: dict[str, Any],
    rate: float | None = None,
) -> dict[str, Any]:
    """Configure a small dense Conformer that costs what a pruned one would.

    Args:
        teacher, source, recipe: as for :func:`pruning_config`.
        encoder_conf: of the small one.
        plan: what its export must know, its method among it.
        rate: as for :func:`small_training`.
    """
    config = model_config(teacher, source)
    size = config["encoder_conf"].get("output_size", 256)
    config |= {"encoder_conf": encoder_conf, "init": teacher.get("init")}
    config["model"] = "prune"
    config["model_conf"] |= {
        "distill": recipe.get("distill") or {},
        "teacher_size": size,
        "plan": plan,
    }
    taught = METHODS[plan["method"]].taught
    return config | training_part(small_training(teacher, recipe, taught, rate))


def finetuning_config(
    compact: dict[str, Any],
    source: str | Path,
    recipe: dict[str, Any],
    beside: Collection[str] = (),
    teacher_size: int | None = None,
) -> dict[str, Any]:
    """Configure stage 14: the compact model beside its teacher.

    Args:
        compact, source: of the compact model, as for :func:`model_config`.
        recipe: ``conf/finetune*.yaml``.
        beside: those of :data:`BESIDE` that were pruned, too.
        teacher_size: the teacher's model dimension, if it is another.
    """
    config = model_config(compact, source, beside)
    config["model"] = "prune"
    config["model_conf"]["distill"] = recipe.get("distill") or {}
    config["model_conf"]["prune_frontend"] = "frontend" in beside
    if teacher_size is not None:
        config["model_conf"]["teacher_size"] = teacher_size
    return config | training_part(recipe)


def training_part(recipe: dict[str, Any]) -> dict[str, Any]:
    """Take from a recipe what ESPnet's training is told."""
    part = {k: v for k, v in recipe.items() if k not in OWN_KEYS}
    # The optimizer clips each group of parameters apart (trainer.GroupClippedAdamW).
    return part | {"grad_clip": math.inf}
