"""Train a student beside its teacher: pruning (stage 12), fine-tuning (stage 14)."""

from espnet_prune.task import PruneASRTask


def main() -> None:
    PruneASRTask.main()


if __name__ == "__main__":
    main()
