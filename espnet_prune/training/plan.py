"""Plan a student's training: its config from a recipe and a command line.

Whatever does not fit, a target that cannot be met among it, is refused here, before a
training starts. ``args`` are those of ``espnet_prune.cli.prune_train``.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.tasks.asr import encoder_choices
from torch import nn

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import read_yaml
from espnet_prune.config.methods import METHODS
from espnet_prune.config.options import make_options
from espnet_prune.config.rungs import PRUNED
from espnet_prune.config.sections import (
    BESIDE,
    DistillOptions,
    GateOptions,
    SparsityOptions,
)
from espnet_prune.families.espnet.checkpoint import (
    encoder_features,
    load_model,
    sampling_rate,
)
from espnet_prune.families.espnet.compact import architecture_of
from espnet_prune.families.espnet.model import DescribedASR, Lengths, describe
from espnet_prune.families.espnet.prunable import check_student
from espnet_prune.families.espnet.small import small_encoder
from espnet_prune.families.registry import Kind
from espnet_prune.measuring.cost import rest_cost
from espnet_prune.measuring.latency import table_of_run
from espnet_prune.pruning.budget import Budget, make_constraints
from espnet_prune.pruning.controller import Schedule
from espnet_prune.pruning.cost import evaluate
from espnet_prune.pruning.projection import check_reachable
from espnet_prune.training.choices import (
    check_model,
    pruned_beside,
    refusing,
    require_all,
    source_of,
)
from espnet_prune.training.configs import (
    finetuning_config,
    frames_of,
    pruning_config,
    small_config,
)
from espnet_prune.training.recipe import (
    read_recipe,
    settle_method,
    settle_options,
    told_of,
)
from espnet_prune.training.resume import reached
from espnet_prune.training.sizes_plan import slimmable_config
from espnet_prune.training.student import budget_data, projects

# Files of a compact directory: its model as exported, and fine-tuned; and what pruning
# compared the blocks through, if it did.
CONFIG = "config.yaml"
PROJECTION = "projection.pth"


def student_config(args: argparse.Namespace) -> dict[str, Any]:
    """Make the training config of stage 12 or 14.

    Raises:
        InputError: model, recipe, method and target do not go together.
    """
    settle_method(args)
    recipe = read_recipe(args)
    if args.sizes:
        return slimmable_config(args, recipe)
    if args.compact is not None:
        return _finetuning(args, recipe)
    source, config = args.teacher_config, read_yaml(args.teacher_config)
    start = None if args.previous is None else reached(args.previous)
    options = settle_options(args, recipe, start)
    gates = make_options(GateOptions, "gates", recipe["gates"])
    beside = pruned_beside(recipe)
    kind = check_model(config, source, args, recipe)
    model, model_args = load_model(source, args.teacher_model)
    if "decoder" in beside and model.decoder is None:
        raise InputError(source, "has no decoder", "leave out prune_decoder")
    lengths = lengths_of(model, model_args, options)
    rest, prices = {}, None
    if options.denominator == "model":
        rest = rest_cost(model, lengths)
    if "latency" in options.kinds:
        from espnet_prune.measuring.drawn_encoders import ASREncoders

        where = args.output_dir, args.latency_table
        subject = ASREncoders(
            model.encoder, kind, lengths, options.precision, gates.model_dim
        )
        prices = table_of_run(*where, subject)["prices"]
    described = describe(model, kind, gates, beside)
    with refusing(source_of(args)):
        budget = make_budget(options, described, lengths, rest, prices)
        Schedule(options, budget)
    if not METHODS[args.method].gated:
        return _small(args, config, recipe, options, budget, lengths)
    check_reachable(budget)
    data = budget_data(budget, lengths, prices)
    student = pruning_config(config, source, recipe, data)
    student["model_conf"]["plan"] = {"method": args.method}
    return student


def check_target(
    config: dict[str, Any],
    source: str | Path,
    kind: Kind,
    args: argparse.Namespace,
    recipe: dict[str, Any],
    options: SparsityOptions,
) -> None:
    """Refuse a target that no masks meet, before the dense model is trained.

    The encoder is built without weights. Latency, a target of the whole model, and a
    layer as wide as there are tokens wait for the model itself.

    Args:
        config, source: of the dense model, or of its training to come.
        kind: of its encoder.
        args, recipe, options: as :func:`espnet_prune.training.recipe.settle_options`
            has completed them.

    Raises:
        InputError: targets contradict each other, or cannot be met; or ESPnet has no
            encoder of such options.
    """
    plain = config.get("frontend") in (None, "default")
    plain &= config.get("preencoder") is None
    stock = config["encoder"] == kind.name and plain
    whole_encoder = options.denominator == "encoder" and "latency" not in options.kinds
    encoder_conf = config.get("encoder_conf") or {}
    stock &= not encoder_conf.get("interctc_use_conditioning")
    if not (stock and whole_encoder and METHODS[args.method].gated):
        return
    model, conf = nn.Module(), config.get("frontend_conf") or {}
    try:
        model.frontend, model.preencoder = DefaultFrontend(**conf), None
        told = argparse.Namespace(frontend_conf=conf)
        lengths = lengths_of(model, told, options)
        with torch.device("meta"):
            encoder = encoder_choices.get_class(kind.name)
            model.encoder = encoder(lengths.features, **encoder_conf)
    except InputError:
        raise
    except Exception as e:  # ESPnet's, for a value that it does not know
        reason = ": ".join([type(e).__name__, *str(e).splitlines()[:1]])
        part = "encoder" if hasattr(model, "frontend") else "frontend"
        what = f"ESPnet makes no {part} of its {part}_conf ({reason})"
        raise InputError(source, what, "correct it") from e
    gates = make_options(GateOptions, "gates", recipe["gates"])
    with refusing(source_of(args)):
        budget = make_budget(options, describe(model, kind, gates), lengths)
        Schedule(options, budget)
    check_reachable(budget)


def lengths_of(
    model: nn.Module, args: argparse.Namespace, options: SparsityOptions
) -> Lengths:
    """Make the utterance in which targets count.

    Args:
        model: with a ``frontend`` and perhaps a ``preencoder``.
        args: of its training.
        options: how long the utterance is.
    """
    samples = round(sampling_rate(args) * options.macs_seconds)
    features = encoder_features(model)
    return Lengths(frames_of(model, samples), features, options.macs_tokens, samples)


def make_budget(
    options: SparsityOptions,
    described: DescribedASR,
    lengths: Lengths,
    rest: Mapping[str, float] | None = None,
    prices: Mapping[str, float] | None = None,
) -> Budget:
    """Make the budget of a described model.

    Args:
        options: what to remove.
        described: the model.
        lengths: at which it is counted.
        rest: kind -> cost of the model beyond its encoder, for the denominator
            ``model``.
        prices: seconds of each thing, for the kind ``latency``.

    Raises:
        ValueError: targets of groups that contradict each other.
    """
    layout, terms = described.layout, described.terms(lengths, prices)
    beyond = {}
    if options.denominator == "model":
        full = layout.sums(layout.whole())
        for kind in options.kinds:
            inside = [term for term in terms[kind] if term.group in BESIDE]
            beyond[kind] = rest[kind] - float(evaluate(inside, full))
    constraints = make_constraints(options, layout, terms, beyond)
    return Budget(layout, terms, constraints).thinned(options)


def _finetuning(args: argparse.Namespace, recipe: dict[str, Any]) -> dict[str, Any]:
    """Make the config of stage 14 from the compact model and the projection."""
    source, weights = args.compact / CONFIG, args.compact / PRUNED
    model, _ = load_model(source, weights)
    if model.decoder is None:  # no accuracy to choose the best epochs by
        recipe["best_model_criterion"] = [["valid", "loss", "min"]]
    size = None if METHODS[args.method].gated else teacher_size(args)
    config = read_yaml(source)
    require_all(check_student(config, source), args, recipe)
    beside = {part for part in BESIDE if part in told_of(args.compact)}
    student = finetuning_config(config, source, recipe, beside, size)
    start, learned = [weights], args.compact / PROJECTION
    distill = make_options(DistillOptions, "distill", recipe.get("distill"))
    if learned.exists() and projects(distill, model.encoder, size):
        start.append(learned)
    return student | {"init_param": [str(path) for path in start]}


def _small(
    args: argparse.Namespace,
    config: dict[str, Any],
    recipe: dict[str, Any],
    options: SparsityOptions,
    budget: Budget,
    lengths: Lengths,
) -> dict[str, Any]:
    """Make the config of stage 12 for a small Conformer, trained from scratch."""
    heads = (config.get("decoder_conf") or {}).get("attention_heads", 4)
    encoder_conf = small_encoder(
        config.get("encoder_conf") or {},
        heads,
        lengths.features,
        lengths.frames,
        budget.constraints,
    )
    whole = budget.layout.sums(budget.layout.whole())
    plan = {
        "method": args.method,
        "teacher": str(args.teacher_model),
        "target": {
            "kind": options.kind,
            "value": options.target,
            "denominator": options.denominator,
        },
        "macs_seconds": options.macs_seconds,
        "macs_frames": lengths.frames,
        "features": lengths.features,
        "dense_cost": {
            kind: float(evaluate(budget.terms[kind], whole))
            for kind in ("params", "macs")
        },
        "dense_architecture": architecture_of(budget.layout, budget.layout.whole()),
    }
    rate = args.optim_conf.get("lr")
    return small_config(config, args.teacher_config, recipe, encoder_conf, plan, rate)


def teacher_size(args: argparse.Namespace) -> int:
    """Read the model dimension of the teacher."""
    conf = read_yaml(args.teacher_config).get("encoder_conf") or {}
    return conf.get("output_size", 256)
