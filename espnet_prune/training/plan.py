"""What a student's training is to be: its config from a recipe and a command line.

Whatever does not fit, a target that cannot be met among it, is refused here, before a
training starts. ``args`` are those of ``espnet_prune.cli.prune_train``.
"""

import argparse
from pathlib import Path
from typing import Any

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks.asr import encoder_choices
from torch import nn

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import read_yaml
from espnet_prune.config.methods import SCRATCH
from espnet_prune.config.options import make_options
from espnet_prune.export.compact_dir import PROJECTION
from espnet_prune.export.export import check_finished
from espnet_prune.families.espnet.checkpoint import load_model, sampling_rate
from espnet_prune.families.espnet.decoder import PrunableTransformerDecoder
from espnet_prune.families.espnet.encoder import PrunableEncoder
from espnet_prune.measuring.cost import rest_cost
from espnet_prune.measuring.latency import table_of_run
from espnet_prune.measuring.latency_layers import Beyond
from espnet_prune.pruning.budget import MODEL_DIM
from espnet_prune.pruning.projection import check_reachable
from espnet_prune.pruning.sparsity import Schedule, SparsityOptions, make_budget
from espnet_prune.training.configs import (
    finetuning_config,
    frames_of,
    pruning_config,
    small_config,
)
from espnet_prune.training.distill import DistillOptions
from espnet_prune.training.recipe import (
    read_recipe,
    refusing,
    settle_options,
    source_of,
)
from espnet_prune.training.student import projects


def student_config(args: argparse.Namespace) -> dict[str, Any]:
    """The training config of stage 12 or 14.

    Raises:
        InputError: model, recipe, method and target do not go together.
    """
    config, recipe = read_yaml(args.model_config), read_recipe(args)
    model, model_args = load_model(args.model_config, args.model_file)
    if args.phase == "finetune":
        return _finetuning(args, config, recipe, model)
    start = None if args.previous is None else reached(args.previous)
    options = settle_options(args, recipe, start)
    frames = frames_of(model, model_args, options.macs_seconds)
    student = pruning_config(config, args.model_config, recipe, frames)
    encoder, decoder = _gated(args, recipe, student, model)
    rate = sampling_rate(model_args)
    prices = _prices(args, options, model, rate, encoder, decoder, frames)
    with refusing(source_of(args)):
        budget = make_budget(options, encoder, frames, **prices, decoder=decoder)
        Schedule(options, budget)
    plan: dict[str, Any] = {"method": args.method}
    if args.method in SCRATCH:
        source = args.model_config
        student = small_config(config, source, recipe, encoder, frames, budget)
        target = {"kind": options.kind, "value": options.target}
        plan |= student["model_conf"]["plan"]
        plan |= {
            "teacher": str(args.model_file),
            "target": target | {"denominator": options.denominator},
            "macs_seconds": options.macs_seconds,
        }
    else:
        parts = {"encoder": encoder, "decoder": decoder}
        gated = nn.ModuleDict({n: p for n, p in parts.items() if p is not None})
        check_reachable(gated, budget)
        student["model_conf"] |= prices
    student["model_conf"]["plan"] = plan
    return student


def _finetuning(
    args: argparse.Namespace,
    config: dict[str, Any],
    recipe: dict[str, Any],
    model: ESPnetASRModel,
) -> dict[str, Any]:
    """Of stage 14: the compact ``model``, and the projection that pruning learned."""
    if model.decoder is None:  # no accuracy to choose the best epochs by
        recipe["best_model_criterion"] = [["valid", "loss", "min"]]
    size = teacher_size(args) if args.method in SCRATCH else None
    student = finetuning_config(config, args.model_config, recipe, size)
    start, learned = [args.model_file], args.model_file.with_name(PROJECTION)
    distill = make_options(DistillOptions, "distill", recipe.get("distill"))
    if learned.exists() and projects(distill, model.encoder, size):
        start.append(learned)
    return student | {"init_param": [str(path) for path in start]}


def _gated(
    args: argparse.Namespace,
    recipe: dict[str, Any],
    student: dict[str, Any],
    model: ESPnetASRModel,
) -> tuple[PrunableEncoder, PrunableTransformerDecoder | None]:
    """Encoder and, if it is pruned, too, decoder of ``student``: costs are theirs."""
    with refusing(args.model_config):
        made, conf = encoder_choices.get_class(student["encoder"]), "encoder_conf"
        features = model.frontend.output_size()
        encoder = make_options(made, conf, student[conf], features)
    kind = encoder.architecture.kind
    if args.method in SCRATCH and kind != "conformer":
        raise InputError(
            f"--method {args.method}",
            f"makes a small Conformer, the dense encoder is {kind!r}",
            "choose another method",
        )
    if not recipe.get("prune_decoder"):
        return encoder, None
    if model.decoder is None:
        raise InputError(args.model_config, "has no decoder", "leave out prune_decoder")
    with refusing(args.model_config):
        made, conf = PrunableTransformerDecoder, "decoder_conf"
        sizes = len(student["token_list"]), encoder.fixed.size
        return encoder, make_options(made, conf, student[conf], *sizes)


def _prices(
    args: argparse.Namespace,
    options: SparsityOptions,
    model: ESPnetASRModel,
    rate: int,
    encoder: PrunableEncoder,
    decoder: PrunableTransformerDecoder | None,
    frames: int,
) -> dict[str, Any]:
    """Of the budget, what counting the gated parts does not tell: the measured
    ``latency`` of their units, and the ``rest`` of the model if it counts, too."""
    prices: dict[str, Any] = {}
    whole = options.denominator == "model"
    if whole:
        prices["rest"] = rest_cost(model, frames, options.macs_tokens)
    if "latency" not in options.kinds:
        return prices
    if encoder.architecture.kind != "conformer":
        raise InputError(
            source_of(args),
            f"the latency of an encoder {encoder.architecture.kind!r} cannot be "
            "measured yet",
            "choose a target in params or macs",
        )
    beyond = None
    if whole:
        samples = round(rate * options.macs_seconds)
        beyond = Beyond(model, samples, options.macs_tokens, decoder)
    shared = args.latency_table
    table = table_of_run(args.output_dir, shared, encoder, frames, beyond)
    prices["latency"] = table["prices"]
    if beyond is not None:
        prices["rest"]["latency"] = table["beyond"]
    return prices


def reached(previous: Path) -> dict[str, float]:
    """What the pruning run that goes on has removed, by constraint.

    Raises:
        InputError: it is none, or is not finished.
    """
    config = previous / "config.yaml"
    check_finished(config)
    try:
        model, _ = load_model(config, previous / "latest.pth")
        gone = {c.key: c.target for c in model.sparsity.budget.constraints}
        dim = model.sparsity.budget.dim_target
        return gone if dim is None else gone | {MODEL_DIM: dim}
    except AttributeError as e:
        raise InputError(previous, "is no pruning run", "run stage 12 of it") from e


def teacher_size(args: argparse.Namespace) -> int:
    """Model dimension of the teacher."""
    if args.teacher_config is None:
        needs = f"--method {args.method} needs it to be fine-tuned"
        raise InputError("--teacher_config", f"is missing: {needs}")
    conf = read_yaml(args.teacher_config).get("encoder_conf") or {}
    return conf.get("output_size", 256)
