"""Tell whether a run can be gone on from, or exported, by its checkpoint."""

from pathlib import Path

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import read_yaml
from espnet_prune.config.sections import MODEL_DIM
from espnet_prune.families.espnet.checkpoint import read_checkpoint
from espnet_prune.pruning.budget import Constraint

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
            "run the pruning again: it resumes",
        )


def reached(previous: Path) -> dict[str, float]:
    """The function returns what a pruning run that another goes on from has removed.

    Args:
        previous: directory of the run.

    Returns:
        targets by ``Constraint.key``, and that of the model dimension if it has gates.

    Raises:
        InputError: it is no pruning run, or is not finished.
    """
    config = previous / "config.yaml"
    check_finished(config)
    budget = (read_yaml(config).get("model_conf") or {}).get("budget")
    if budget is None:
        raise InputError(previous, "is no pruning run", "give the directory of one")
    constraints = map(Constraint.from_dict, budget["constraints"])
    gone = {constraint.key: constraint.target for constraint in constraints}
    dim = budget.get("dim_target")
    return gone if dim is None else gone | {MODEL_DIM: dim}
