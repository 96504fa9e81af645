"""Refuse what this machine or the model lacks, before stages that take hours.

GPUs for training (``--ngpu``) and decoding (``--decode_ngpu``), the hardware that the
number formats of ``--precisions`` need, and what is for Conformers only.
"""

import argparse
from pathlib import Path

from espnet_prune.baselines import SCRATCH
from espnet_prune.errors import InputError, run_main
from espnet_prune.files import read_yaml


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ngpu", type=int, default=0)
    parser.add_argument("--decode_ngpu", type=int, default=0)
    parser.add_argument("--precisions", default="")
    parser.add_argument("--methods", default="")
    parser.add_argument("--config", type=Path, help="of the dense model")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    if args.ngpu or args.decode_ngpu or args.precisions:
        check_hardware(args)
    if args.config is not None:
        encoder = read_yaml(args.config).get("encoder")
        if encoder not in ("conformer", "prunable_conformer"):
            refuse_for_others(f"{args.config}: encoder {encoder}", args)


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


if __name__ == "__main__":
    run_main(main)
