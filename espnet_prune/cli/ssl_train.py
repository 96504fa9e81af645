"""Prune a self-supervised encoder beside its dense teacher, or distil a compact one.

    python -m espnet_prune.cli.ssl_train --dense DIR --recipe conf/ssl/prune.yaml \
        --target 0.5 --train dump/train --valid dump/valid --output_dir exp/pruned

Further options are those of ESPnet's trainer.
"""

import argparse
import math
from functools import partial
from pathlib import Path
from typing import Any

from espnet_prune.base.quiet import hand_logging_to_espnet  # before anything of ESPnet

# isort: split

import torch

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import atomic_path, write_text, write_yaml
from espnet_prune.config.methods import METHODS
from espnet_prune.config.options import make_options
from espnet_prune.config.sections import (
    SECTIONS,
    DistillOptions,
    GateOptions,
    SparsityOptions,
)
from espnet_prune.data.kaldi_dir import audio_type
from espnet_prune.export.ssl import finish
from espnet_prune.families.ssl.audio import RATE, normalizes
from espnet_prune.families.ssl.describe import GROUPS, clocks
from espnet_prune.families.ssl.model import PRUNED, prepare, read, read_head
from espnet_prune.measuring.drawn_encoders import SpeechEncoders
from espnet_prune.measuring.latency import table_of_run
from espnet_prune.pruning.budget import Budget, check_groups, make_constraints
from espnet_prune.pruning.controller import Schedule
from espnet_prune.pruning.projection import check_reachable
from espnet_prune.pruning.scores import scores_of, settle
from espnet_prune.report.ssl_card import card
from espnet_prune.running.nodes import Node
from espnet_prune.training.origin import STUDENT, averaged_name, going_on, settled
from espnet_prune.training.recipe import (
    add_options,
    read_recipe,
    refusing,
    settle_method,
    settle_options,
    source_of,
)
from espnet_prune.training.resume import reached
from espnet_prune.training.ssl_task import PruneSpeechTask, Spelling


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], allow_abbrev=False
    )
    add_options(parser)
    parser.add_argument("--dense", type=Path, required=True, help="of the dense model")
    parser.add_argument("--train", type=Path, required=True, help="crops to train on")
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--latency_table", type=Path, help="shared with other runs; default: its own"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    args, more = get_parser().parse_known_args(argv)
    settle_method(args)
    command = ["--output_dir", str(args.output_dir), "--resume", "true"]
    for name in ("train", "valid"):
        folder = getattr(args, name)
        audio = f"{folder}/wav.scp,speech,{audio_type(folder)}"
        command += [f"--{name}_data_path_and_name_and_type", audio]
        command += [f"--{name}_shape_file", str(folder / "utt2num_samples")]
        if (folder / "text").is_file():
            text = f"{folder}/text,text,text"
            command += [f"--{name}_data_path_and_name_and_type", text]
    command += [*going_on(args.previous), *more]
    node, plan = Node(more, args.output_dir), partial(training_config, args)
    settle = partial(settled, PruneSpeechTask, args.output_dir, command, plan)
    options = node.first(settle)
    method = METHODS[args.method]
    if args.compact is None and not (method.trained and method.gated):
        node.first(lambda: prune_at_once(args, options))
        return
    hand_logging_to_espnet()
    PruneSpeechTask.main(cmd=[*command, "--config", str(args.output_dir / STUDENT)])
    if args.compact is not None and node.is_first:
        averaged = args.output_dir / averaged_name(options.best_model_criterion)
        out, told = finish(averaged, args.compact, args.dense)
        page = card(out.name, told, normalizes(out))
        write_text(out / "README.md", page)


def training_config(args: argparse.Namespace) -> dict[str, Any]:
    """The training config of pruning or distillation.

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
    """The recipe as the command line changes it, and what makes a student with gates.

    Args:
        args: of :func:`espnet_prune.training.recipe.add_options`.
        dense: directory of the dense model.

    Raises:
        InputError: model, recipe, method and target do not go together.
    """
    if args.method not in METHODS:
        raise InputError(
            f"--method {args.method}", "unknown", f"of {' '.join(METHODS)}"
        )
    recipe = read_recipe(args)
    if not METHODS[args.method].taught:
        what = "has no dense model to follow, which all training here does"
        raise InputError(f"--method {args.method}", what, "leave it out")
    distill = make_options(DistillOptions, "distill", recipe.get("distill"))
    sparsity = make_options(SparsityOptions, "sparsity", recipe.get("sparsity"))
    with refusing(source_of(args)):
        if not distill.layer_weight:
            raise ValueError("distill: layer_weight must be above 0 here")
        for asked, name in (
            (distill.output_weight, "distill: output_weight"),
            (sparsity.denominator != "encoder", "sparsity: denominator"),
            (
                sparsity.macs_tokens != SparsityOptions.macs_tokens,
                "sparsity: macs_tokens",
            ),
            ((recipe.get("gates") or {}).get("model_dim"), "gates: model_dim"),
            (recipe.get("prune_decoder"), "prune_decoder"),
        ):
            if asked:
                raise ValueError(f"{name} is for ESPnet's models; leave it out")
    return recipe, {} if args.compact is not None else pruning(args, recipe, dense)


def pruning(
    args: argparse.Namespace, recipe: dict[str, Any], dense: str | Path
) -> dict[str, Any]:
    """What makes the student with gates; arguments as for :func:`check_options`.

    Latency is measured where ``args`` have an ``output_dir``, and else not looked at.
    """
    start = None if args.previous is None else reached(args.previous)
    options = settle_options(args, recipe, start)
    gates = make_options(GateOptions, "gates", recipe["gates"])
    with refusing(source_of(args)):
        check_groups(options.groups, GROUPS)
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
        prices = table_of_run(*where, SpeechEncoders(model, samples))["prices"]
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


def prune_at_once(args: argparse.Namespace, options: argparse.Namespace) -> None:
    """Write what a pruning run leaves, from scores instead of a training.

    A small model that is trained from scratch has the sizes that ``magnitude`` leaves:
    even ones.
    """
    model = PruneSpeechTask.build_model(options)
    budget = model.sparsity.budget
    by = args.method if METHODS[args.method].gated else "magnitude"
    settle(model.gates, budget, scores_of(by, budget, model.tensors(), options.seed))
    conf = {"model_conf": options.model_conf, "seed": options.seed}
    write_yaml(args.output_dir / "config.yaml", conf)
    with atomic_path(args.output_dir / "latest.pth") as temporary:
        torch.save(model.state_dict(), temporary)


if __name__ == "__main__":
    run_main(main)
