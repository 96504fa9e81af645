"""``espnet2.bin.asr_train`` with the prunable encoder registered (stages 10, 11)."""

from espnet_prune.quiet import hand_logging_to_espnet  # before anything of ESPnet

# isort: split

from espnet_prune.errors import run_main
from espnet_prune.origin import (
    refuse_another_run,
    refuse_missing_gpus,
    refuse_wrong_rate,
)
from espnet_prune.task import DenseASRTask


def main() -> None:
    options = DenseASRTask.get_parser().parse_args()
    if not options.collect_stats:
        refuse_missing_gpus(options.ngpu)
        refuse_wrong_rate(options)
        refuse_another_run(options)
    hand_logging_to_espnet()
    DenseASRTask.main()


if __name__ == "__main__":
    run_main(main)
