"""Cut the masked parts out of a pruned model."""

import argparse
import logging
from pathlib import Path

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import read_yaml

SAID = (("encoder", "params"), ("encoder", "macs"))  # of every model


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pruned", type=Path, required=True, help="a pruning run")
    parser.add_argument("--out", type=Path, required=True, help="compact directory")
    parser.add_argument(
        "--round_to", type=int, default=1,
        help="keep multiples of so many units, channels, dimensions",
    )  # fmt: skip
    parser.add_argument("--method", help="told of the model; default: as it was pruned")
    return parser


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line of an export, of either family.

    Raises:
        InputError: an option of a wrong value.
    """
    args = get_parser().parse_args(argv)
    if args.round_to < 1:
        raise InputError("--round_to", f"{args.round_to}: give a number from 1 on")
    return args


def checkpoint_name(config: Path) -> str:
    """Name the last epoch of a gated run, which is at its target; else the average."""
    from espnet_prune.training.origin import averaged_name

    options = read_yaml(config)
    if (options.get("model_conf") or {}).get("gates") is not None:
        return "latest.pth"
    return averaged_name(options["best_model_criterion"])


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

    # isort: split
    from espnet_prune.export.export import export

    config = args.pruned / "config.yaml"
    weights = args.pruned / checkpoint_name(config)
    summary = export(config, weights, args.out, args.round_to, args.method)
    removed = summary["removed"]
    logging.info(
        f"{args.out}/pruned.pth: {removed['params']:.1%} of the encoder's parameters "
        f"and {removed['macs']:.1%} of its MACs are gone"
    )
    for constraint in summary.get("constraints", []):  # a model without gates has none
        if (constraint["of"], constraint["kind"]) not in SAID:
            logging.info(
                f"{constraint['of']}: {constraint['realised']:.1%} of the "
                f"{constraint['kind']} gone, the target is {constraint['target']:.1%}"
            )


if __name__ == "__main__":
    run_main(main)
