"""Write the training config of a student (stages 12 and 14)."""

import argparse
from pathlib import Path

import yaml

import espnet_prune.quiet  # noqa: F401  (before anything of ESPnet)
from espnet_prune.checkpoint import load_model
from espnet_prune.errors import InputError, run_main
from espnet_prune.files import write_text
from espnet_prune.sparsity import SparsityOptions
from espnet_prune.student import (
    finetuning_config,
    frames_of,
    pruning_config,
    read_yaml,
)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phase", choices=["prune", "finetune"])
    parser.add_argument("--recipe", type=Path, required=True, help="conf/prune*.yaml")
    parser.add_argument("--model_config", type=Path, required=True, help="to train")
    parser.add_argument("--model_file", type=Path, required=True, help="its weights")
    parser.add_argument("--kind", help="overrides sparsity.kind of the recipe")
    parser.add_argument("--target", type=float, help="overrides sparsity.target")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def main() -> None:
    args = get_parser().parse_args()
    config, recipe = read_yaml(args.model_config), read_yaml(args.recipe)
    # A checkpoint that does not fit is refused here, before a training starts.
    model, model_args = load_model(args.model_config, args.model_file)
    if args.phase == "prune":
        given = {"kind": args.kind, "target": args.target}
        sparsity = recipe.get("sparsity") or {}
        sparsity |= {k: v for k, v in given.items() if v is not None}
        try:
            options = SparsityOptions(**sparsity)
        except (TypeError, ValueError) as e:
            raise InputError(args.recipe, str(e)) from e
        recipe["sparsity"] = sparsity
        frames = frames_of(model, model_args, options.macs_seconds)
        result = pruning_config(config, args.model_config, recipe, frames)
    else:
        result = finetuning_config(config, args.model_config, recipe)
    write_text(args.out, yaml.safe_dump(result, sort_keys=False, allow_unicode=True))


if __name__ == "__main__":
    run_main(main)
