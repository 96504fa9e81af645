"""``espnet2.bin.asr_train`` with the prunable encoder registered (stages 10, 11)."""

import espnet_prune.quiet  # noqa: F401  (before anything of ESPnet)
from espnet_prune.task import DenseASRTask


def main() -> None:
    DenseASRTask.main()


if __name__ == "__main__":
    main()
