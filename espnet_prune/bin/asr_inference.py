"""``espnet2.bin.asr_inference`` with the prunable encoder registered (stage 15).

ESPnet would decode with random weights where a checkpoint misses some: it is checked.
"""

import argparse
from pathlib import Path

from espnet_prune.quiet import hand_logging_to_espnet  # before anything of ESPnet

# isort: split

from espnet2.bin.asr_inference import main as espnet_main

from espnet_prune.checkpoint import load_model
from espnet_prune.errors import run_main


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--asr_train_config", type=Path)
    parser.add_argument("--asr_model_file", type=Path)
    args, _ = parser.parse_known_args()
    if args.asr_train_config and args.asr_model_file:
        load_model(args.asr_train_config, args.asr_model_file)
    hand_logging_to_espnet()
    espnet_main()


if __name__ == "__main__":
    run_main(main)
