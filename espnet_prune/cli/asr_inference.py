"""Run ``espnet2.bin.asr_inference`` with the prunable encoder registered (stage 15).

ESPnet would decode with random weights where a checkpoint misses some: those of our
models are checked. Others are ESPnet's, which reads more kinds of files than we do.
There is one option more than ESPnet's, ``--precision`` of the encoder (fp32, bf16,
int8); and ``--config`` may ask for a decoder of the project's (``ctc_greedy``,
``ctc_beam``).
"""

import argparse
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from espnet_prune.base.quiet import hand_logging_to_espnet  # before anything of ESPnet

# isort: split

from espnet2.bin import asr_inference as espnet

from espnet_prune.base.errors import run_main
from espnet_prune.base.files import read_yaml
from espnet_prune.families.espnet.checkpoint import load_model, plain_file
from espnet_prune.serving.decoders import OWN, decoder_for, read_search
from espnet_prune.serving.load import refuse_gates, set_precision
from espnet_prune.training.registration import names_ours


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--asr_train_config", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--asr_model_file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument(
        "--precision", default="fp32", help="of the encoder: fp32, int8, bf16"
    )
    parser.add_argument("--config", type=Path, help="ctc_greedy, ctc_beam, or ESPnet's")
    args, rest = parser.parse_known_args()
    if {"-h", "--help"} & {*rest}:  # ESPnet's follow
        sys.stdout.write(parser.format_help())
        espnet.get_parser = partial(with_whole_help, espnet.get_parser)
    if args.asr_train_config:
        config = read_yaml(args.asr_train_config)
        refuse_gates(config, args.asr_train_config)
        if args.asr_model_file and names_ours(config):
            load_model(args.asr_train_config, args.asr_model_file)
    if args.asr_model_file is None:
        return infer(args, rest, None)
    with plain_file(args.asr_model_file, lenient=True) as file:
        infer(args, rest, file)


def infer(args: argparse.Namespace, rest: list[str], model: str | None) -> None:
    """Run ESPnet's program.

    Args:
        args, rest: the command line, without and with ESPnet's own options.
        model: the file of weights.
    """
    options: dict[str, Any] = {"--asr_train_config": args.asr_train_config}
    options["--asr_model_file"] = model
    search = {} if args.config is None else read_search(args.config)
    if search.keys() & OWN.keys():
        espnet.Speech2Text = with_options(decoder_for(search), search)
    else:
        options["--config"] = args.config
    if args.precision != "fp32":
        espnet.Speech2Text = in_precision(
            args.precision, args.asr_train_config, espnet.Speech2Text
        )
    files = [str(x) for pair in options.items() if pair[1] for x in pair]
    hand_logging_to_espnet()
    espnet.main([*files, *rest])


def with_whole_help(
    make: Callable[[], argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Make ESPnet's parser, whose help a bare percent sign ends in 202611."""
    parser = make()
    for action in parser._actions:
        action.help = re.sub(r"%%|%(?!\()", "%%", action.help or "")
    return parser


def with_options(decoder: type, own: dict[str, Any]) -> type:
    """Subclass a decoder of the project's, which ESPnet's program gives its options."""

    class WithOptions(decoder):
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options, **own)

    return WithOptions


def in_precision(precision: str, config: Path, decoder: type) -> type:
    """Subclass ESPnet's decoder, which its program builds by name, for a precision."""

    class InPrecision(decoder):
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            set_precision(self, precision, config)

    return InPrecision


if __name__ == "__main__":
    run_main(main)
