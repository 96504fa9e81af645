"""``espnet2.bin.asr_train`` with the prunable encoder registered (stages 10, 11)."""

from espnet_prune.task import DenseASRTask


def main() -> None:
    DenseASRTask.main()


if __name__ == "__main__":
    main()
