"""Refuse what this machine lacks, before stages that take hours.

GPUs for training (``--ngpu``) and decoding (``--decode_ngpu``), and the hardware that
the number formats of ``--precisions`` need.
"""

import argparse

import torch

from espnet_prune.errors import run_main
from espnet_prune.inference.precision import check_precision
from espnet_prune.origin import refuse_missing_gpus


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ngpu", type=int, default=0)
    parser.add_argument("--decode_ngpu", type=int, default=0)
    parser.add_argument("--precisions", default="")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    refuse_missing_gpus(args.ngpu)
    refuse_missing_gpus(args.decode_ngpu)
    device = torch.device("cuda" if args.decode_ngpu else "cpu")
    for precision in args.precisions.split():
        check_precision(precision, device)


if __name__ == "__main__":
    run_main(main)
