"""Cut the masked parts out of a pruned self-supervised encoder."""

import argparse
import logging
from pathlib import Path

import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)
from espnet_prune.base.errors import run_main
from espnet_prune.base.files import write_text
from espnet_prune.export.ssl import export_ssl
from espnet_prune.families.ssl.audio import normalizes
from espnet_prune.report.ssl_card import card


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pruned", type=Path, required=True, help="a pruning run")
    parser.add_argument("--out", type=Path, required=True, help="compact directory")
    parser.add_argument(
        "--round_to", type=int, default=1,
        help="keep multiples of so many units, channels, dimensions",
    )  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    summary = export_ssl(args.pruned, args.out, args.round_to)
    page = card(args.out.name, summary, normalizes(args.out))
    write_text(args.out / "README.md", page)
    gone = ", ".join(f"{gone:.1%} of the {k}" for k, gone in summary["removed"].items())
    logging.info(f"{args.out}: {gone} gone; {summary['params'] / 1e6:.2f} M left")


if __name__ == "__main__":
    run_main(main)
