"""Run ``espnet2.bin.asr_inference`` with the prunable encoder registered (stage 15).

ESPnet would decode with random weights where a checkpoint misses some: those of our
models are checked. Others are ESPnet's, which reads more kinds of files than we do.
There are two options more than ESPnet's: ``--precision`` of the encoder (fp32, bf16,
int8), and ``--ctc_greedy``, which leaves the search out.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from espnet_prune.base.quiet import hand_logging_to_espnet  # before anything of ESPnet

# isort: split

from espnet2.bin import asr_inference as espnet

from espnet_prune.base.errors import run_main
from espnet_prune.base.files import read_yaml
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.serving.greedy import GreedySpeech2Text
from espnet_prune.serving.load import refuse_gates, set_precision
from espnet_prune.training.registration import names_ours


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--asr_train_config", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--asr_model_file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument(
        "--precision", default="fp32", help="of the encoder: fp32, int8, bf16"
    )
    parser.add_argument("--ctc_greedy", action="store_true", help="without the search")
    args, rest = parser.parse_known_args()
    if {"-h", "--help"} & {*rest}:  # ESPnet's follow
        sys.stdout.write(parser.format_help())
    if args.asr_train_config:
        config = read_yaml(args.asr_train_config)
        refuse_gates(config, args.asr_train_config)
        if args.asr_model_file and names_ours(config):
            load_model(args.asr_train_config, args.asr_model_file)
    if args.ctc_greedy:
        espnet.Speech2Text = GreedySpeech2Text
    if args.precision != "fp32":
        espnet.Speech2Text = in_precision(
            args.precision, args.asr_train_config, espnet.Speech2Text
        )
    options = {"--asr_train_config": args.asr_train_config}
    options["--asr_model_file"] = args.asr_model_file
    files = [str(x) for pair in options.items() if pair[1] for x in pair]
    hand_logging_to_espnet()
    espnet.main([*files, *rest])


def in_precision(precision: str, config: Path, decoder: type) -> type:
    """Subclass ESPnet's decoder, which its program builds by name, for a precision."""

    class InPrecision(decoder):
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            set_precision(self, precision, config)

    return InPrecision


if __name__ == "__main__":
    run_main(main)
