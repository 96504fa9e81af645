"""Stage 19: pack a compact model in one zip, with a model card."""

import argparse
import logging
from pathlib import Path

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.config.rungs import FINETUNED


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compact", type=Path, required=True, help="its directory")
    parser.add_argument("--model", default=FINETUNED, help="weights in it")
    parser.add_argument("--license", required=True, help="as cc-by-4.0, for the card")
    parser.add_argument("--out", type=Path, required=True, help="the zip")
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--dense", type=Path, required=True)
    parser.add_argument("--decode_tag", required=True, help="decode_<...> directory")
    parser.add_argument("--precisions", default="", help="further ones: bf16 int8")
    parser.add_argument("--test_sets", required=True, help="names, blanks between")
    parser.add_argument("--note", default="", help="a sentence for the card")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

    # isort: split
    from espnet_prune.export.pack import pack
    from espnet_prune.report.card import card
    from espnet_prune.report.collect import collect

    found = collect(
        args.corpus,
        args.dense,
        [args.compact],
        [],  # no curves on a card, nor of the dense model
        args.decode_tag,
        args.test_sets.split(),
        args.precisions.split(),
    )
    if str(args.compact) not in found.pruning:
        raise InputError(args.compact, "holds no compact model", "run stage 13 first")
    for name in found.missing:
        logging.warning(f"not on the card: {name}")
    text = card(args.compact, found.report, args.license, args.note)
    pack(args.compact / "config.yaml", args.compact / args.model, text, args.out)


if __name__ == "__main__":
    run_main(main)
