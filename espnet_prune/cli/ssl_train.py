"""Prune a self-supervised encoder beside its dense teacher, or distil a compact one.

    python -m espnet_prune.cli.ssl_train --dense DIR --recipe conf/ssl/prune.yaml \
        --target 0.5 --train dump/train --valid dump/valid --output_dir exp/pruned

Further options are those of ESPnet's trainer.
"""

import argparse
import math
from pathlib import Path
from typing import Any

from espnet_prune.base.quiet import hand_logging_to_espnet  # before anything of ESPnet

# isort: split

import torch

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import atomic_path, read_yaml, write_yaml
from espnet_prune.config.methods import METHODS
from espnet_prune.config.options import make_options, optimizer_options
from espnet_prune.config.sections import (
    SECTIONS,
    DistillOptions,
    GateOptions,
    SparsityOptions,
)
from espnet_prune.data.kaldi_dir import audio_type
from espnet_prune.export.ssl import finish
from espnet_prune.families.ssl.audio import RATE, normalizes
from espnet_prune.families.ssl.describe import clocks
from espnet_prune.families.ssl.model import prepare, read
from espnet_prune.pruning.budget import Budget, make_constraints
from espnet_prune.pruning.controller import Schedule
from espnet_prune.pruning.projection import check_reachable
from espnet_prune.pruning.scores import scores_of, settle
from espnet_prune.training.origin import (
    averaged_name,
    refuse_another_run,
    refuse_missing_gpus,
)
from espnet_prune.training.recipe import refusing
from espnet_prune.training.ssl_task import PruneSpeechTask


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--dense", type=Path, required=True, help="of the dense model")
    parser.add_argument("--compact", type=Path, help="compact directory to distil")
    parser.add_argument("--recipe", type=Path, required=True, help="conf/ssl/*.yaml")
    parser.add_argument("--method", choices=METHODS, default="l0", help="or a baseline")
    parser.add_argument("--kind", default="params", help="params, macs or params+macs")
    parser.add_argument("--target", type=float, default=0.5)
    parser.add_argument("--train", type=Path, required=True, help="crops to train on")
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    return parser


def main(argv: list[str] | None = None) -> None:
    args, more = get_parser().parse_known_args(argv)
    recipe = read_yaml(args.recipe)
    config = args.output_dir / "student.yaml"
    candidate = args.output_dir / "student.new.yaml"
    conf = distillation(args, recipe) if args.compact else pruning(args, recipe)
    training = {k: v for k, v in recipe.items() if k not in SECTIONS}
    # The optimizer clips each group of parameters apart.
    training |= {"model_conf": conf, "grad_clip": math.inf}
    command = ["--output_dir", str(args.output_dir), "--resume", "true"]
    for name in ("train", "valid"):
        folder = getattr(args, name)
        audio = f"{folder}/wav.scp,speech,{audio_type(folder)}"
        command += [f"--{name}_data_path_and_name_and_type", audio]
        command += [f"--{name}_shape_file", str(folder / "utt2num_samples")]
    command += more
    write_yaml(candidate, training)
    try:  # what is refused must leave the directory as it was
        parser = PruneSpeechTask.get_parser()
        options = parser.parse_args(["--config", str(candidate), *command])
        refuse_missing_gpus(options.ngpu)
        refuse_another_run(options)
        candidate.replace(config)
    finally:
        candidate.unlink(missing_ok=True)
    command += ["--config", str(config)]
    if args.compact is None and not METHODS[args.method].trained:
        prune_at_once(args, conf, options.seed)
        return
    hand_logging_to_espnet()
    PruneSpeechTask.main(cmd=command)
    if args.compact is not None:
        finish(args.output_dir / averaged_name(options.best_model_criterion), args)


def pruning(args: argparse.Namespace, recipe: dict[str, Any]) -> dict[str, Any]:
    """The student with gates: ``model_conf`` of the training.

    Raises:
        InputError: model, recipe, method and target do not go together.
    """
    if not METHODS[args.method].gated or args.method == "blocks":
        raise InputError(f"--method {args.method}", "is for ESPnet's models so far")
    if args.method == "iterative":
        recipe["sparsity"] = (recipe.get("sparsity") or {}) | {"by": "magnitude"}
    asked = {"kind": args.kind, "target": args.target}
    with refusing(args.recipe):
        sparsity = (recipe.get("sparsity") or {}) | asked
        options = make_options(SparsityOptions, "sparsity", sparsity)
        gates = make_options(GateOptions, "gates", recipe.get("gates"))
        distill = make_options(DistillOptions, "distill", recipe.get("distill"))
        optimizer_options(recipe.get("optim_conf") or {})
        if (
            "latency" in options.kinds
            or gates.model_dim
            or options.groups.get("decoder")
        ):
            raise ValueError("latency and model_dim are for ESPnet's models so far")
    if not distill.layer_weight:
        raise InputError(args.recipe, "distill: layer_weight must be above 0 here")
    model = read(args.dense)
    samples = round(RATE * options.macs_seconds)
    work = clocks(model, samples)
    described = prepare(model, gates)
    terms = described.counts(work)
    with refusing(args.recipe):
        constraints = make_constraints(options, described.layout, terms)
        budget = Budget(described.layout, terms, constraints)
        Schedule(options, budget)
    check_reachable(budget)
    return {
        "dense": str(args.dense),
        "normalize": normalizes(args.dense),
        "gates": recipe.get("gates") or {},
        "sparsity": sparsity,
        "budget": {
            "samples": samples,
            "constraints": [constraint.to_dict() for constraint in constraints],
        },
        "distill": recipe.get("distill") or {},
        "method": args.method,
    }


def distillation(args: argparse.Namespace, recipe: dict[str, Any]) -> dict[str, Any]:
    """The compact student: ``model_conf`` of the training."""
    with refusing(args.recipe):
        make_options(DistillOptions, "distill", recipe.get("distill"))
        optimizer_options(recipe.get("optim_conf") or {})
    read(args.compact)
    return {
        "dense": str(args.dense),
        "compact": str(args.compact),
        "normalize": normalizes(args.dense),
        "distill": recipe.get("distill") or {},
    }


def prune_at_once(args: argparse.Namespace, conf: dict[str, Any], seed: int) -> None:
    """Write what a pruning run leaves, from scores instead of a training."""
    model = PruneSpeechTask.build_model(argparse.Namespace(model_conf=conf))
    budget = model.sparsity.budget
    settle(model.gates, budget, scores_of(args.method, budget, model.tensors(), seed))
    write_yaml(args.output_dir / "config.yaml", {"model_conf": conf})
    with atomic_path(args.output_dir / "latest.pth") as temporary:
        torch.save(model.state_dict(), temporary)


if __name__ == "__main__":
    run_main(main)
