"""Run ``espnet2.bin.asr_train`` with our encoders registered (stages 10, 11)."""

import argparse
import sys
from pathlib import Path

from espnet_prune.base.quiet import hand_logging_to_espnet  # before anything of ESPnet

# isort: split

from espnet_prune.base.errors import run_main
from espnet_prune.running.nodes import Node
from espnet_prune.training.origin import (
    refuse_another_run,
    refuse_missing_gpus,
    refuse_wrong_rate,
)
from espnet_prune.training.task import DenseASRTask


def main() -> None:
    options = DenseASRTask.get_parser().parse_args()
    if not options.collect_stats:
        node = Node(sys.argv[1:], Path(options.output_dir))
        node.first(lambda: check(options))
    hand_logging_to_espnet()
    DenseASRTask.main()


def check(options: argparse.Namespace) -> None:
    refuse_missing_gpus(options.ngpu)
    refuse_wrong_rate(options)
    refuse_another_run(options)


if __name__ == "__main__":
    run_main(main)
