"""Stage 14's end: give the averaged fine-tuned weights their place, once verified."""

import argparse
import logging
import shutil
from pathlib import Path

import espnet_prune.quiet  # noqa: F401  (before anything of ESPnet)
from espnet_prune.checkpoint import load_model
from espnet_prune.errors import run_main
from espnet_prune.files import atomic_path


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compact", type=Path, required=True, help="compact directory")
    parser.add_argument("--model", default="valid.acc.ave.pth", help="in finetune/")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    final = args.compact / "finetuned.pth"
    with atomic_path(final) as temporary:
        shutil.copyfile(args.compact / "finetune" / args.model, temporary)
        load_model(args.compact / "config.yaml", temporary)
    logging.info(f"{final}: verified")


if __name__ == "__main__":
    run_main(main)
