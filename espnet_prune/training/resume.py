"""Whether a run can be gone on from, or exported: what its checkpoint says of it."""

from pathlib import Path

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import read_yaml
from espnet_prune.families.espnet.checkpoint import read_checkpoint

# Of a pruning run, what the next rung of a ladder counts anew.
COUNTERS = "sparsity.step,sparsity.updates"


def check_finished(pruned: Path) -> None:
    """Refuse a run whose target was still rising: its gates mean nothing yet.

    Args:
        pruned: ``config.yaml`` of a pruning run.

    Raises:
        InputError: it stopped before its last epoch.
    """
    config = read_yaml(pruned)
    checkpoint = pruned.parent / "checkpoint.pth"
    if not checkpoint.exists():
        return
    epoch = read_checkpoint(checkpoint)["reporter"]["epoch"]
    if epoch < config["max_epoch"]:
        raise InputError(
            checkpoint,
            f"pruning stopped after epoch {epoch} of {config['max_epoch']}",
            "run stage 12 again: it resumes",
        )
