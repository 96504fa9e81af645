"""Plan the training of a self-supervised encoder, by recipe and options.

Whatever does not fit, a target that cannot be met among it, is refused here, before a
training starts.
"""

import argparse
import math
from pathlib import Path
from typing import Any

from espnet_prune.base.errors import InputError
from espnet_prune.config.methods import METHODS
from espnet_prune.config.options import make_options
from espnet_prune.config.sections import (
    SECTIONS,
    DistillOptions,
    GateOptions,
)
from espnet_prune.families.registry import SPEECH
from espnet_prune.families.ssl.audio import RATE, normalizes
from espnet_prune.families.ssl.configs import PRUNED
from espnet_prune.families.ssl.describe import clocks
from espnet_prune.families.ssl.model import prepare, read, read_head
from espnet_prune.measuring.drawn_encoders import SpeechEncoders
from espnet_prune.measuring.latency import table_of_run
from espnet_prune.pruning.budget import Budget, check_groups, make_constraints
from espnet_prune.pruning.controller import Schedule
from espnet_prune.pruning.projection import check_reachable
from espnet_prune.training.choices import refusing, require_all, source_of
from espnet_prune.training.recipe import read_recipe, settle_options
from espnet_prune.training.resume import reached
from espnet_prune.training.ssl_task import Spelling


def training_config(args: argparse.Namespace) -> dict[str, Any]:
    """Make the training config of pruning or distillation.

    Raises:
        InputError: model, recipe, method, target and transcripts do not go together.
    """
    recipe, student = check_options(args, args.dense)
    if args.compact is not None:
        read(args.compact)
        student = {"compact": str(args.compact)}
        if not METHODS[args.method].gated:  # it has had no training before
            recipe["max_epoch"] = 2 * recipe["max_epoch"]
    training = {k: v for k, v in recipe.items() if k not in SECTIONS}
    texts = [f / "text" for f in (args.train, args.valid) if (f / "text").is_file()]
    for text in texts:
        read_head(args.dense)
        Spelling(args.dense).check(text)
    training["model_conf"] = student | {
        "labels": bool(texts),
        "dense": str(args.dense),
        "normalize": normalizes(args.dense),
        "distill": recipe.get("distill") or {},
        "method": args.method,
    }
    # The optimizer clips each group of parameters apart.
    return training | {"grad_clip": math.inf}


def check_options(
    args: argparse.Namespace, dense: str | Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the recipe as the command line changes it, and what makes a gated student.

    Args:
        args: of :func:`espnet_prune.training.recipe.add_options`.
        dense: directory of the dense model.

    Raises:
        InputError: model, recipe, method and target do not go together.
    """
    recipe = read_recipe(args)
    distill = make_options(DistillOptions, "distill", recipe.get("distill"))
    require_all(SPEECH, args, recipe)
    if not distill.layer_weight:
        raise InputError(source_of(args), "distill: layer_weight must be above 0 here")
    return recipe, {} if args.compact is not None else pruning(args, recipe, dense)


def pruning(
    args: argparse.Namespace, recipe: dict[str, Any], dense: str | Path
) -> dict[str, Any]:
    """Return what makes the student with gates; arguments as for :func:`check_options`.

    Latency is measured where ``args`` have an ``output_dir``, and else not looked at.
    """
    start = None if args.previous is None else reached(args.previous)
    options = settle_options(args, recipe, start)
    gates = make_options(GateOptions, "gates", recipe["gates"])
    with refusing(source_of(args)):
        check_groups(options.groups, SPEECH.groups)
    model = read(dense)
    if model.config.model_type.startswith(PRUNED):
        raise InputError(dense, "is pruned already", "give the dense model")
    samples = round(RATE * options.macs_seconds)
    described = prepare(model, gates)
    prices = None
    if "latency" in options.kinds:
        if not hasattr(args, "output_dir"):
            return {}
        where = args.output_dir, args.latency_table
        subject = SpeechEncoders(model, samples, options.precision)
        prices = table_of_run(*where, subject)["prices"]
    terms = described.terms(clocks(model, samples), prices)
    with refusing(source_of(args)):
        constraints = make_constraints(options, described.layout, terms)
        budget = Budget(described.layout, terms, constraints)
        Schedule(options, budget)
    check_reachable(budget)
    return {
        "gates": recipe["gates"],
        "sparsity": recipe["sparsity"],
        "budget": {
            "samples": samples,
            "latency": prices,
            "constraints": [constraint.to_dict() for constraint in constraints],
        },
    }
