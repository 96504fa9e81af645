"""Refuse what this machine or the model lacks, before stages that take hours.

GPUs for training (``--ngpu``) and decoding (``--decode_ngpu``), the hardware that the
number formats of ``--precisions`` need, what is for Conformers only, and whether the
model that ``--config`` and ``--asr_args`` describe can be pruned as ``--prune_config``
asks.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espnet_prune.baselines import SCRATCH
from espnet_prune.errors import InputError, run_main
from espnet_prune.files import read_yaml
from espnet_prune.prunable import ENCODERS, check_gates, check_student, encoder_options

FEATURES = 80  # any number does: the frontend is not looked at


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ngpu", type=int, default=0)
    parser.add_argument("--decode_ngpu", type=int, default=0)
    parser.add_argument("--precisions", default="")
    parser.add_argument("--methods", default="")
    parser.add_argument("--target_kind", default="")
    parser.add_argument("--prune_config", type=Path)
    parser.add_argument("--inference_config", type=Path)
    parser.add_argument("--config", type=Path, help="of the dense model")
    parser.add_argument("--asr_args", default="", help="options beside that config")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    if args.ngpu or args.decode_ngpu or args.precisions:
        check_hardware(args)
    if args.inference_config is not None:
        from espnet_prune.bin.decode import check_lm_files  # takes seconds, as below

        check_lm_files(read_yaml(args.inference_config), args.inference_config)
    if args.config is None:
        return
    config = with_options(read_yaml(args.config), args.asr_args.split())
    if config.get("encoder") not in ("conformer", "prunable_conformer"):
        refuse_for_others(f"{args.config}: encoder {config.get('encoder')}", args)
    if args.prune_config is not None:
        recipe = read_yaml(args.prune_config)
        check_sections(recipe, args.prune_config)
        check_prunable(config, args.config, bool(recipe.get("prune_decoder")))


def with_options(config: dict[str, Any], options: Sequence[str]) -> dict[str, Any]:
    """A training config as options of ESPnet's command line change its model."""
    from espnet2.utils.nested_dict_action import NestedDictAction

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("model", "preencoder", "encoder", "postencoder", "decoder"):
        parser.add_argument(f"--{name}", default=config.get(name))
    conf = config.get("encoder_conf") or {}
    parser.add_argument("--encoder_conf", action=NestedDictAction, default=conf)
    return config | vars(parser.parse_known_args(options)[0])


def check_hardware(args: argparse.Namespace) -> None:
    """Refuse GPUs that are not there, and formats that would be slow here."""
    import torch  # takes seconds, and most runs ask for nothing of this

    from espnet_prune.inference.precision import check_precision
    from espnet_prune.origin import refuse_missing_gpus

    refuse_missing_gpus(args.ngpu)
    refuse_missing_gpus(args.decode_ngpu)
    device = torch.device("cuda" if args.decode_ngpu else "cpu")
    for precision in args.precisions.split():
        check_precision(precision, device)


def refuse_for_others(where: str, args: argparse.Namespace) -> None:
    """Refuse what an encoder that is no Conformer cannot have."""
    if precisions := args.precisions.strip():
        raise InputError(where, "runs in fp32 only", f"leave out {precisions}")
    for method in set(SCRATCH) & set(args.methods.split()):
        raise InputError(where, f"--method {method} is for Conformers", "leave it out")
    if "latency" in args.target_kind:
        raise InputError(
            where, "its latency cannot be measured yet", "--target_kind params or macs"
        )


def check_sections(recipe: dict[str, Any], source: Path) -> None:
    """Refuse options of the recipe that there are not, or of wrong values."""
    from espnet_prune.distill import DistillOptions
    from espnet_prune.gates import GateOptions
    from espnet_prune.options import make_options
    from espnet_prune.sparsity import SparsityOptions

    kinds = {
        "gates": GateOptions,
        "sparsity": SparsityOptions,
        "distill": DistillOptions,
    }
    for section, kind in kinds.items():
        try:
            make_options(kind, section, recipe.get(section))
        except (TypeError, ValueError) as e:
            raise InputError(source, str(e)) from e


def check_prunable(config: dict[str, Any], source: Path, decoder: bool) -> None:
    """Refuse a model that stage 12 would refuse once it is trained."""
    check_student(config, source)
    check_gates(config, source, decoder)

    # Imported here, because it takes seconds.
    from espnet_prune.registration import encoders

    try:
        make = encoders()[ENCODERS[config["encoder"]]]
        make(FEATURES, **encoder_options(config))
    except (TypeError, ValueError) as e:
        raise InputError(source, str(e)) from e


if __name__ == "__main__":
    run_main(main)
