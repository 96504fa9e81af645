"""Cut the masked parts out of a pruned self-supervised encoder."""

import argparse
import logging
from pathlib import Path

import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)
from espnet_prune.base.errors import run_main
from espnet_prune.export.ssl import export_ssl


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pruned", type=Path, required=True, help="a pruning run")
    parser.add_argument("--out", type=Path, required=True, help="compact directory")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    summary = export_ssl(args.pruned, args.out)
    gone = ", ".join(f"{gone:.1%} of the {k}" for k, gone in summary["removed"].items())
    logging.info(f"{args.out}: {gone} gone; {summary['params'] / 1e6:.2f} M left")


if __name__ == "__main__":
    run_main(main)
